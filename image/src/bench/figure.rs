//! What was measured: samples of each contender, the ratio of ours to the best rival, and the goal beside it.
//!
//! Pure: takes numbers, gives text. Ratios come first, because seconds are of one machine at one moment.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes a second.
    BytesPerSecond,
    /// Requests a second.
    RequestsPerSecond,
    /// Seconds.
    Seconds,
    /// Processor seconds for 10^9 bytes.
    CpuSecondsPerGb,
    /// Bytes.
    Bytes,
    /// Instructions.
    Instructions,
    /// How often, how many.
    Count,
    /// A part of all, of 1.
    Share,
}

impl Unit {
    /// `value` with its unit, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::BytesPerSecond => format!("{:.2} GB/s", value / 1e9),
            Self::RequestsPerSecond => format!("{value:.0} req/s"),
            Self::Seconds if value < 0.001 => format!("{:.0} us", value * 1e6),
            Self::Seconds if value < 1.0 => format!("{:.2} ms", value * 1e3),
            Self::Seconds => format!("{value:.2} s"),
            Self::CpuSecondsPerGb => format!("{value:.3} s/GB"),
            Self::Bytes => format!("{:.1} MB", value / 1e6),
            Self::Instructions if value >= 1e6 => format!("{:.2} M", value / 1e6),
            Self::Instructions => format!("{value:.0}"),
            Self::Count => format!("{value:.0}"),
            Self::Share => format!("{:.1} %", value * 100.0),
        }
    }

    /// Whether more of it is better.
    fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::BytesPerSecond | Self::RequestsPerSecond | Self::Count
        )
    }
}

/// What a figure shall reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Ours over the best rival's, at least.
    RatioAtLeast(f64),
    /// Ours over the best rival's, at most.
    RatioAtMost(f64),
    /// Ours, at most.
    AtMost(f64),
    /// Ours, at least.
    AtLeast(f64),
}

/// One contender's numbers, one a round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Samples {
    /// Whose.
    pub name: String,
    /// In the order of the rounds.
    pub values: Vec<f64>,
}

impl Samples {
    /// The middle value.
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    fn show(&self, unit: Unit) -> String {
        unit.show(self.median())
    }
}

/// One row of the bench.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// What the numbers count.
    pub unit: Unit,
    /// Ours.
    pub ours: Samples,
    /// The others', none for a figure that has no rival.
    pub rivals: Vec<Samples>,
    /// What it shall reach, if anything.
    pub goal: Option<Goal>,
}

/// The middle of the ratio, and its least and greatest over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Median over median.
    pub middle: f64,
    /// Least of the rounds.
    pub least: f64,
    /// Greatest of the rounds.
    pub greatest: f64,
}

impl Figure {
    /// The rival with the best median.
    pub fn best_rival(&self) -> Option<&Samples> {
        self.rivals
            .iter()
            .filter(|rival| !rival.values.is_empty())
            .reduce(|best, rival| {
                let better = if self.unit.more_is_better() {
                    rival.median() > best.median()
                } else {
                    rival.median() < best.median()
                };
                if better { rival } else { best }
            })
    }

    /// Ours over the best rival's.
    pub fn ratio(&self) -> Option<Ratio> {
        let rival = self.best_rival()?;
        let of = |ours: f64, theirs: f64| (theirs > 0.0).then(|| ours / theirs);
        let rounds = self.ours.values.iter().zip(&rival.values);
        let rounds: Vec<f64> = rounds
            .filter_map(|(ours, rival)| of(*ours, *rival))
            .collect();
        let middle = of(self.ours.median(), rival.median())?;
        Some(Ratio {
            middle,
            least: rounds.iter().copied().fold(middle, f64::min),
            greatest: rounds.iter().copied().fold(middle, f64::max),
        })
    }

    /// Whether the goal is reached; nothing when there is none.
    pub fn reached(&self) -> Option<bool> {
        let ratio = self.ratio().map(|ratio| ratio.middle);
        let ours = self.ours.median();
        match self.goal? {
            Goal::RatioAtLeast(goal) => ratio.map(|ratio| ratio >= goal),
            Goal::RatioAtMost(goal) => ratio.map(|ratio| ratio <= goal),
            Goal::AtMost(goal) => Some(ours <= goal),
            Goal::AtLeast(goal) => Some(ours >= goal),
        }
    }

    /// The cells of the figure's row: name, ratio, its spread, goal, verdict, ours, the best rival's.
    pub fn cells(&self) -> [String; 7] {
        let ratio = self.ratio();
        let goal = match self.goal {
            None => String::new(),
            Some(Goal::RatioAtLeast(goal)) => format!(">= {goal:.2}x"),
            Some(Goal::RatioAtMost(goal)) => format!("<= {goal:.2}x"),
            Some(Goal::AtMost(goal)) => format!("<= {}", self.unit.show(goal)),
            Some(Goal::AtLeast(goal)) => format!(">= {}", self.unit.show(goal)),
        };
        let verdict = match self.reached() {
            None => "",
            Some(true) => "ok",
            Some(false) => "short",
        };
        [
            self.name.clone(),
            ratio.map_or_else(String::new, |ratio| format!("{:.2}x", ratio.middle)),
            ratio.map_or_else(String::new, |ratio| {
                format!("{:.2}..{:.2}", ratio.least, ratio.greatest)
            }),
            goal,
            verdict.into(),
            self.ours.show(self.unit),
            self.best_rival().map_or_else(String::new, |rival| {
                format!("{} ({})", rival.show(self.unit), rival.name)
            }),
        ]
    }
}

/// The headings of [`Figure::cells`].
const HEADINGS: [&str; 7] = ["", "ratio", "rounds", "goal", "", "ours", "best rival"];

/// Figures as a table for people.
pub fn table(title: &str, figures: &[Figure]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    title.clone_into(&mut rows[0][0]);
    rows.extend(figures.iter().map(Figure::cells));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::from(if number == 0 { "" } else { "  " });
        for (column, (width, cell)) in widths.iter().zip(row).enumerate() {
            let width = width + if column == 0 && number == 0 { 2 } else { 0 };
            match column {
                1 | 5 => line.push_str(&format!("{cell:>width$}  ")),
                _ => line.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Figures as rows of a Markdown table.
pub fn markdown(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        // Names of rivals may be pipes.
        let cells = figure.cells().map(|cell| cell.replace('|', "\\|"));
        let [name, ratio, rounds, goal, verdict, ours, rival] = cells;
        let ratio = if ratio.is_empty() {
            String::new()
        } else {
            format!("**{ratio}** ({rounds})")
        };
        let verdict = if goal.is_empty() {
            goal
        } else {
            format!("{goal} {verdict}")
        };
        text.push_str(&format!(
            "| {name} | {ratio} | {verdict} | {ours} | {rival} |\n"
        ));
    }
    text
}

/// Collects samples while the rounds run.
#[derive(Debug, Default)]
pub struct Board {
    samples: BTreeMap<(String, String), Vec<f64>>,
}

impl Board {
    /// Notes one sample of `contender`.
    pub fn add(&mut self, figure: &str, contender: &str, value: f64) {
        let key = (figure.to_owned(), contender.to_owned());
        self.samples.entry(key).or_default().push(value);
    }

    /// The samples of one contender; empty when there are none.
    pub fn samples(&self, figure: &str, contender: &str) -> Samples {
        let key = (figure.to_owned(), contender.to_owned());
        Samples {
            name: contender.to_owned(),
            values: self.samples.get(&key).cloned().unwrap_or_default(),
        }
    }

    /// A row; nothing when ours was not measured.
    pub fn figure(
        &self,
        name: &str,
        unit: Unit,
        goal: Option<Goal>,
        ours: &str,
        rivals: &[&str],
    ) -> Option<Figure> {
        self.named_figure(name, name, unit, goal, ours, rivals)
    }

    /// A row that is shown under another name than its samples were noted under.
    pub fn named_figure(
        &self,
        shown: &str,
        name: &str,
        unit: Unit,
        goal: Option<Goal>,
        ours: &str,
        rivals: &[&str],
    ) -> Option<Figure> {
        let figure = Figure {
            name: shown.to_owned(),
            unit,
            ours: self.samples(name, ours),
            rivals: rivals
                .iter()
                .map(|rival| self.samples(name, rival))
                .collect(),
            goal,
        };
        (!figure.ours.values.is_empty()).then_some(figure)
    }
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: Unit, goal: Goal, ours: &[f64], rivals: &[&[f64]]) -> Figure {
        let samples = |name: String, values: &[f64]| Samples {
            name,
            values: values.to_vec(),
        };
        Figure {
            name: "name".into(),
            unit,
            ours: samples("ours".into(), ours),
            rivals: rivals
                .iter()
                .enumerate()
                .map(|(number, values)| samples(format!("rival {number}"), values))
                .collect(),
            goal: Some(goal),
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_best_rival_counts() {
        let rates = figure(
            Unit::RequestsPerSecond,
            Goal::RatioAtLeast(1.2),
            &[120.0, 130.0, 110.0],
            &[&[50.0, 50.0, 50.0], &[100.0, 100.0, 110.0]],
        );
        assert_eq!(rates.best_rival().unwrap().name, "rival 1");
        let ratio = rates.ratio().unwrap();
        assert_eq!((ratio.middle, ratio.least, ratio.greatest), (1.2, 1.0, 1.3));
        assert_eq!(rates.reached(), Some(true));
        let times = figure(
            Unit::Seconds,
            Goal::RatioAtMost(0.7),
            &[1.0],
            &[&[2.0], &[1.25]],
        );
        assert_eq!(times.best_rival().unwrap().name, "rival 1");
        assert_eq!(times.reached(), Some(false));
    }

    #[test]
    fn goals_without_rivals_are_judged_and_goals_without_figures_are_not() {
        let memory = |bytes| figure(Unit::Bytes, Goal::AtMost(8e6), &[bytes], &[]).reached();
        assert_eq!(memory(8e6), Some(true));
        assert_eq!(memory(8.1e6), Some(false));
        let alone = figure(Unit::Seconds, Goal::RatioAtMost(1.0), &[1.0], &[&[]]);
        assert_eq!((alone.ratio(), alone.reached()), (None, None));
        let idle = figure(Unit::Seconds, Goal::RatioAtMost(1.0), &[1.0], &[&[0.0]]);
        assert_eq!(idle.ratio(), None);
    }

    #[test]
    fn tables_show_ratio_goal_and_verdict() {
        let figures = [figure(
            Unit::BytesPerSecond,
            Goal::RatioAtLeast(1.2),
            &[3e9, 3.1e9],
            &[&[1.5e9, 1.5e9]],
        )];
        let text = table("serving", &figures);
        let row = text.lines().nth(1).unwrap();
        for part in [
            "2.03x",
            "2.00..2.07",
            ">= 1.20x",
            "ok",
            "3.05 GB/s",
            "1.50 GB/s (rival 0)",
        ] {
            assert!(row.contains(part), "{part}: {text}");
        }
        let mut piped = figures.clone();
        piped[0].rivals[0].name = "curl | sum".into();
        assert!(markdown(&piped).ends_with("(curl \\| sum) |\n"));
        assert_eq!(
            markdown(&figures),
            "| name | **2.03x** (2.00..2.07) | >= 1.20x ok | 3.05 GB/s | 1.50 GB/s (rival 0) |\n"
        );
    }

    #[test]
    fn the_board_keeps_samples_apart() {
        let mut board = Board::default();
        board.add("a", "ours", 1.0);
        board.add("a", "ours", 3.0);
        board.add("a", "theirs", 4.0);
        let figure = board.figure("a", Unit::Seconds, None, "ours", &["theirs", "nobody"]);
        assert_eq!(figure.unwrap().ratio().unwrap().middle, 0.5);
        assert!(
            board
                .figure("b", Unit::Seconds, None, "ours", &[])
                .is_none()
        );
    }

    #[test]
    fn units_are_readable() {
        let check = |unit: Unit, value, expected: &str| assert_eq!(unit.show(value), expected);
        check(Unit::Seconds, 0.000_25, "250 us");
        check(Unit::Seconds, 0.025, "25.00 ms");
        check(Unit::Seconds, 2.5, "2.50 s");
        check(Unit::Bytes, 8_040_000.0, "8.0 MB");
        check(Unit::CpuSecondsPerGb, 0.2, "0.200 s/GB");
        check(Unit::Instructions, 12_345.0, "12345");
        check(Unit::Instructions, 12_345_678.0, "12.35 M");
        check(Unit::Share, 0.012_3, "1.2 %");
    }
}
