//! Ten thousand machines in racks fetch the same 64 MiB at the same moment, simulated with the very schedule that real ones run:
//! until half, 90 % and all of them have it, what the origin sends, what is sent in vain, beside the least that is possible.
//!
//! No link of this machine is used and no time of it is measured: the figures are the same everywhere.

use std::thread;

use anyhow::{Context, Result, bail};
use swarm::simulate::{Outcome, Setup};

use super::Bench;
use super::figure::{Figure, Goal, Samples, Unit};
use super::limits::{
    SIMULATED_CHURN, SIMULATED_EGRESS_MAX, SIMULATED_LIARS, SIMULATED_MACHINES, SIMULATED_MIB,
    SIMULATED_PEACEFUL, SIMULATED_RACK, SIMULATED_RATIO_MAX, SIMULATED_SIZES,
};
use super::plot::{Curve, Plot};

const OURS: &str = "the schedule";
const BOUND: &str = "the least possible";

/// One gigabit a second, in bytes.
const GIGABIT: u64 = 1_000_000_000 / 8;

/// A data centre.
#[derive(Debug, Clone, Copy)]
struct Hall {
    name: &'static str,
    /// Gigabits a second between a rack and everybody else, and of the origin.
    uplink: u64,
    /// Whether machines vanish and lie.
    hostile: bool,
}

const HALLS: [Hall; 4] = [
    Hall {
        name: "uplinks of 1 Gbit/s",
        uplink: 1,
        hostile: false,
    },
    Hall {
        name: "uplinks of 1 Gbit/s, 20 % vanish, 10 % lie",
        uplink: 1,
        hostile: true,
    },
    Hall {
        name: "uplinks of 10 Gbit/s",
        uplink: 10,
        hostile: false,
    },
    Hall {
        name: "uplinks of 10 Gbit/s, 20 % vanish, 10 % lie",
        uplink: 10,
        hostile: true,
    },
];

impl Hall {
    /// The numbers of machines that are simulated.
    fn sizes(self) -> impl Iterator<Item = usize> {
        let most = match self.hostile {
            true => SIMULATED_MACHINES,
            false => SIMULATED_PEACEFUL,
        };
        SIMULATED_SIZES
            .into_iter()
            .filter(move |size| *size <= most)
    }

    fn setup(self, machines: usize) -> Setup {
        let part = |part: f64| if self.hostile { part } else { 0.0 };
        Setup {
            machines,
            rack: SIMULATED_RACK,
            files: vec![SIMULATED_MIB << 20],
            link: GIGABIT,
            uplink: self.uplink * GIGABIT,
            origin: self.uplink * GIGABIT,
            churn: part(SIMULATED_CHURN),
            liars: part(SIMULATED_LIARS),
            ..Setup::default()
        }
    }
}

/// One of the runs: a hall, how many machines, and what came of it.
type Run = (Hall, usize, Outcome);

/// Simulates.
///
/// # Errors
/// When somebody never has everything.
pub fn measure(
    bench: &Bench,
    notes: &mut Vec<String>,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Figure>> {
    bench.progress.note(
        "simulate",
        &format!("{} halls of up to {SIMULATED_MACHINES}", HALLS.len()),
    );
    let runs = runs()?;
    let largest = runs
        .iter()
        .filter(|(hall, machines, _)| hall.sizes().max() == Some(*machines));
    let mut figures = Vec::new();
    for (hall, machines, outcome) in largest {
        figures.extend(rows(*hall, *machines, outcome)?);
    }
    notes.push(format!(
        "machines with links of 1 Gbit/s in racks of {SIMULATED_RACK}, {SIMULATED_MIB} MiB; the origin's \
         link is a rack's. The least possible is what the links carry, and then one piece's time for each doubling of those \
         who have the last one"
    ));
    plots.push(curves(&runs)?);
    Ok(figures)
}

/// Every hall with every number of machines; each hall on a processor of its own, as far as there are some.
fn runs() -> Result<Vec<Run>> {
    thread::scope(|scope| {
        let halls = HALLS.map(|hall| {
            scope.spawn(move || {
                let run = |machines| (hall, machines, hall.setup(machines).run());
                hall.sizes().map(run).collect::<Vec<Run>>()
            })
        });
        let mut runs = Vec::new();
        for hall in halls {
            match hall.join() {
                Ok(ended) => runs.extend(ended),
                Err(_) => bail!("a simulation broke off"),
            }
        }
        Ok(runs)
    })
}

fn rows(hall: Hall, machines: usize, outcome: &Outcome) -> Result<Vec<Figure>> {
    let row = |name: String, unit, goal, ours: f64, bound: Option<f64>| {
        let sample = |name: &str, value| Samples {
            name: name.into(),
            values: vec![value],
        };
        Figure {
            name,
            unit,
            ours: sample(OURS, ours),
            rivals: bound
                .map(|bound| sample(BOUND, bound))
                .into_iter()
                .collect(),
            goal,
        }
    };
    let time = |part: f64| {
        let time = outcome.time(part).map(|time| time.as_secs_f64());
        time.with_context(|| format!("{}: {:.0} % never have it", hall.name, part * 100.0))
    };
    let bound = Some(outcome.bound.as_secs_f64());
    let image = outcome.image as f64;
    Ok(vec![
        row(
            format!("{machines}, {}: all have it", hall.name),
            Unit::Seconds,
            Some(Goal::RatioAtMost(SIMULATED_RATIO_MAX)),
            time(1.0)?,
            bound,
        ),
        row(
            "  90 % have it".into(),
            Unit::Seconds,
            None,
            time(0.9)?,
            None,
        ),
        row(
            "  half have it".into(),
            Unit::Seconds,
            None,
            time(0.5)?,
            None,
        ),
        row(
            "  sent by the origin".into(),
            Unit::Bytes,
            Some(Goal::AtMost(SIMULATED_EGRESS_MAX * image)),
            outcome.origin_bytes as f64,
            Some(image),
        ),
        row(
            "  received in vain".into(),
            Unit::Share,
            None,
            outcome.overhead(),
            None,
        ),
    ])
}

fn curves(runs: &[Run]) -> Result<Plot> {
    let of = |hall: &Hall, value: &dyn Fn(&Run) -> Option<f64>| {
        let points = runs.iter().filter(|run| run.0.name == hall.name);
        let points = points.filter_map(|run| Some((run.1 as f64, value(run)?)));
        points.collect::<Vec<_>>()
    };
    let last = |run: &Run| run.2.time(1.0).map(|time| time.as_secs_f64());
    let bound = |run: &Run| Some(run.2.bound.as_secs_f64());
    // Everybody's bytes through the one link of the origin.
    let one = |run: &Run| Some(run.1 as f64 * run.2.alone.as_secs_f64());
    let [slow, .., fast, _] = &HALLS;
    let curve = |name: &str, points, bound| Curve {
        name: name.to_owned(),
        points,
        bound,
    };
    let mut all = vec![curve("one server, 1 Gbit/s", of(slow, &one), true)];
    all.extend(
        HALLS
            .iter()
            .map(|hall| curve(hall.name, of(hall, &last), false)),
    );
    all.push(curve("least possible, 1 Gbit/s", of(slow, &bound), true));
    all.push(curve("least possible, 10 Gbit/s", of(fast, &bound), true));
    Plot::new(
        "simulation",
        &format!(
            "Simulated: until the last of N machines in racks of {SIMULATED_RACK} has {SIMULATED_MIB} MiB"
        ),
        ["machines", "seconds"],
        true,
        all,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_hall_of_two_racks_everybody_gets_everything() {
        for hall in HALLS {
            let machines = 2 * SIMULATED_RACK;
            let outcome = hall.setup(machines).run();
            let rows = rows(hall, machines, &outcome).unwrap();
            assert_eq!(rows.len(), 5);
            // Times that do not rise with the part that has it, or fall below what is possible, are nonsense.
            let [all, most, half] = [0, 1, 2].map(|row: usize| rows[row].ours.median());
            assert!(half <= most && most <= all, "{rows:?}");
            assert!(rows[0].ratio().unwrap().middle >= 1.0, "{rows:?}");
        }
    }

    #[test]
    fn the_curves_have_a_point_for_every_run() {
        let runs: Vec<Run> = [10, 20]
            .map(|machines| (HALLS[0], machines, HALLS[0].setup(machines).run()))
            .into();
        let plot = curves(&runs).unwrap();
        assert_eq!(plot.curves[1].points.len(), 2);
        assert!(plot.svg().is_ok());
    }
}
