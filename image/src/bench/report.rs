//! What the bench says in the end: as tables, as JSON, and as the block of the README.

use std::process::Command;

use anyhow::Result;
use clap::ValueEnum as _;
use serde::{Serialize, Serializer};

use super::Measured;
use super::figure::{self, Figure, Ratio};
use crate::cli::{self, Part};
use crate::paths::Paths;
use crate::progress::size;
use crate::readme::Block;

/// Where the table stands in the README.
const BLOCK: Block = Block {
    begin: "<!-- bench -->",
    end: "<!-- /bench -->",
};

/// A load above this says that others used the machine too.
const IDLE_LOAD: f64 = 0.7;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Rounds of each part.
    pub rounds: usize,
    /// How long the bench took in seconds.
    pub took_s: f64,
    /// The parts, in the order they ran.
    pub parts: Vec<Measured>,
}

/// Where and when.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The day.
    pub date: String,
    /// The commit that was measured.
    pub commit: String,
    /// Its processor and how many cores of it.
    pub processor: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The kernel.
    pub kernel: String,
    /// The rivals.
    pub versions: Vec<String>,
    /// What ran on average in the minute before.
    pub load_before: f64,
    /// And in the last minute of the bench, which is part of it.
    pub load_after: f64,
}

impl Machine {
    /// This one.
    pub fn this(paths: &Paths) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let root = paths.root().display().to_string();
        let commit = ["-C", &root, "describe", "--always", "--dirty"];
        Self {
            date: said("date", &["--utc", "+%Y-%m-%d"], |line| line.to_owned()),
            commit: said("git", &commit, |line| line.to_owned()),
            processor: field(&cpu, "model name")
                .unwrap_or("an unknown processor")
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: field(&memory, "MemTotal")
                .and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions: vec![
                said("curl", &["--version"], |line| words(line, 2)),
                said("openssl", &["version"], |line| words(line, 2)),
                said("wrk", &["--version"], |line| words(line, 2)),
            ],
            load_before: load(),
            load_after: 0.0,
        }
    }

    fn show(&self) -> String {
        let busy = if self.load_before > IDLE_LOAD {
            "; others used the machine too"
        } else {
            ""
        };
        format!(
            "{}, {} cores, {}, Linux {}; {}; {}, commit {}; load before {:.2}{busy}",
            self.processor,
            self.cores,
            size(self.memory_bytes),
            self.kernel,
            self.versions.join(", "),
            self.date,
            self.commit,
            self.load_before,
        )
    }
}

impl Report {
    /// Whether every part was measured to its end.
    pub fn is_whole(&self) -> bool {
        self.parts.iter().all(|part| part.failed.is_none())
    }

    /// Prints it as the command line wants it.
    ///
    /// # Errors
    /// When the README has no place for the block.
    pub fn show(&self, paths: &Paths, arguments: &cli::Bench) -> Result<()> {
        if arguments.readme {
            BLOCK.write(paths, &self.markdown(&BLOCK.read(paths)?))?;
            for plot in self.parts.iter().flat_map(|part| &part.plots) {
                plot.write(paths.root())?;
            }
        }
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else if arguments.markdown {
            print!("{}", BLOCK.around(&self.markdown("")));
        } else {
            print!("{}", self.text());
        }
        Ok(())
    }

    /// Tables for people.
    fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            text.push_str(&figure::table(part.part.name(), &part.figures));
            for note in &part.notes {
                text.push_str(&format!("  note: {note}\n"));
            }
            if let Some(reason) = &part.failed {
                text.push_str(&format!("  FAILED: {reason}\n"));
            }
            text.push('\n');
        }
        let machine = self.machine.show();
        text.push_str(&format!(
            "{machine}; {} rounds, {:.0} s\n",
            self.rounds, self.took_s
        ));
        text.push_str(&self.verdict());
        text.push('\n');
        text
    }

    /// Every figure that has a goal, and whether it is reached.
    fn judged(&self) -> impl Iterator<Item = (&Figure, bool)> {
        self.parts
            .iter()
            .flat_map(|part| &part.figures)
            .filter_map(|figure| Some((figure, figure.reached()?)))
    }

    /// How many goals were reached.
    fn reached(&self) -> String {
        let reached = self.judged().filter(|(_, reached)| *reached).count();
        format!("{reached} of {} goals reached", self.judged().count())
    }

    /// How many goals were reached, and which were not.
    fn verdict(&self) -> String {
        let mut text = self.reached();
        let short = self.judged().filter(|(_, reached)| !reached);
        for (number, (figure, _)) in short.enumerate() {
            text.push_str(if number == 0 { "; short: " } else { "; " });
            text.push_str(figure.name.trim());
        }
        text
    }

    /// The lines of the README's block. Parts that were not measured this time stay as they stand there.
    fn markdown(&self, old: &str) -> String {
        let mut text = String::from(
            "Medians of the rounds, their spread in parentheses; figures without a goal stand in the command's own table.\n",
        );
        for part in Part::value_variants() {
            let marks = [
                format!("<!-- {} -->", part.name()),
                format!("<!-- /{} -->", part.name()),
            ];
            let measured = self.parts.iter().find(|measured| measured.part == *part);
            let section = match measured {
                Some(measured) if !measured.figures.is_empty() => Some(self.section(measured)),
                _ => between(old, &marks).map(str::to_owned),
            };
            if let Some(section) = section {
                let [begin, end] = marks;
                text.push_str(&format!(
                    "\n{begin}\n{}\n{end}\n",
                    section.trim_matches('\n')
                ));
            }
        }
        text
    }

    /// One part: its table, what a reader must know, its curves, and when and where it was measured.
    fn section(&self, part: &Measured) -> String {
        let mut text = format!(
            "| {} | ratio | goal | ours | best rival |\n| --- | --- | --- | --- | --- |\n",
            part.part.name()
        );
        text.push_str(&figure::markdown(&chosen(&part.figures)));
        for plot in &part.plots {
            text.push_str(&format!("\n![{}]({})\n", plot.title, plot.path()));
        }
        for note in &part.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        let rounds = match self.rounds {
            1 => "1 round".to_owned(),
            rounds => format!("{rounds} rounds"),
        };
        text.push_str(&format!("\n{rounds}; {}\n", self.machine.show()));
        text
    }
}

/// What stands between two marks.
fn between<'a>(text: &'a str, [begin, end]: &[String; 2]) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(inside, _)| inside)
}

/// What the README shows of a part: the figures with goals, or all where none has one.
fn chosen(figures: &[Figure]) -> Vec<Figure> {
    let judged = |figure: &&Figure| figure.reached().is_some();
    let with_goals: Vec<Figure> = figures.iter().filter(judged).cloned().collect();
    if with_goals.is_empty() {
        figures.to_vec()
    } else {
        with_goals
    }
}

/// Serializes figures with what follows from them: the ratio, and whether the goal is reached.
///
/// # Errors
/// Those of the serializer.
pub fn judged<S: Serializer>(figures: &[Figure], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Judged<'a> {
        #[serde(flatten)]
        figure: &'a Figure,
        ratio: Option<Ratio>,
        reached: Option<bool>,
    }
    serializer.collect_seq(figures.iter().map(|figure| Judged {
        figure,
        ratio: figure.ratio(),
        reached: figure.reached(),
    }))
}

/// The average number of running processes over the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}

/// The first line a program prints, shortened.
fn said(program: &str, arguments: &[&str], shorten: fn(&str) -> String) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| {
        let all = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&all).into_owned()
    });
    let line = text.ok().and_then(|text| text.lines().next().map(shorten));
    line.unwrap_or_else(|| format!("{program} unknown"))
}

fn words(line: &str, count: usize) -> String {
    line.split_whitespace()
        .take(count)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The value of the first `name : value` of one of the kernel's tables.
fn field<'a>(table: &'a str, name: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::{Goal, Samples, Unit};
    use crate::cli::Part;

    fn report(ours: f64) -> Report {
        let samples = |name: &str, value| Samples {
            name: name.into(),
            values: vec![value],
        };
        let figure = Figure {
            name: "4 KiB, loopback".into(),
            unit: Unit::RequestsPerSecond,
            ours: samples("plasmd", ours),
            rivals: vec![samples("nginx", 100.0)],
            goal: Some(Goal::RatioAtLeast(1.15)),
        };
        Report {
            machine: Machine {
                date: "2026-01-02".into(),
                commit: "abc".into(),
                processor: "A Processor".into(),
                cores: 2,
                memory_bytes: 1 << 30,
                kernel: "6.12".into(),
                versions: vec!["curl 1".into()],
                load_before: 0.1,
                load_after: 1.0,
            },
            rounds: 3,
            took_s: 60.0,
            parts: vec![Measured {
                part: Part::Serving,
                figures: vec![figure],
                notes: vec!["veth skipped: no root".into()],
                plots: Vec::new(),
                failed: None,
                took_s: 60.0,
            }],
        }
    }

    #[test]
    fn the_report_says_what_was_reached_where_and_when() {
        let text = report(120.0).text();
        for part in [
            "1.20x",
            ">= 1.15x",
            "ok",
            "A Processor",
            "2026-01-02",
            "1 of 1 goals reached",
            "veth skipped",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            report(100.0)
                .text()
                .contains("0 of 1 goals reached; short: 4 KiB, loopback")
        );
    }

    #[test]
    fn a_part_that_failed_is_shown_and_counts() {
        let mut report = report(120.0);
        report.parts[0].failed = Some("no wrk".into());
        assert!(!report.is_whole() && report.text().contains("FAILED: no wrk"));
    }

    #[test]
    fn programs_get_ratio_and_verdict_too() {
        let json = serde_json::to_value(report(120.0)).unwrap();
        let figure = &json["parts"][0]["figures"][0];
        assert_eq!(figure["ratio"]["middle"], 1.2);
        assert_eq!(figure["reached"], true);
        assert_eq!(figure["goal"]["ratio_at_least"], 1.15);
        assert_eq!(figure["ours"]["values"][0], 120.0);
    }

    #[test]
    fn the_readme_gets_every_judged_figure() {
        let block = report(120.0).markdown("");
        for part in [
            "| 4 KiB, loopback | **1.20x** (1.20..1.20) | >= 1.15x ok |",
            "3 rounds; A Processor",
        ] {
            assert!(block.contains(part), "{block}");
        }
    }

    #[test]
    fn parts_that_were_not_measured_stay_in_the_readme() {
        let old = "before\n<!-- serving -->\nold serving\n<!-- /serving -->\n\n<!-- load -->\nold load\n<!-- /load -->\n";
        let block = report(120.0).markdown(old);
        assert!(
            block.contains("<!-- load -->\nold load\n<!-- /load -->"),
            "{block}"
        );
        assert!(
            !block.contains("old serving") && block.contains("1.20x"),
            "{block}"
        );
        let mut failed = report(120.0);
        failed.parts[0].figures.clear();
        assert!(failed.markdown(old).contains("old serving"));
    }

    #[test]
    fn the_kernels_tables_are_understood() {
        let table = "processor\t: 0\nmodel name\t: A: B\nprocessor\t: 1\nmodel name\t: C\n";
        assert_eq!(field(table, "model name"), Some("A: B"));
        assert_eq!(field(table, "bogomips"), None);
    }
}
