//! `cargo appliance bench`: every figure the appliance promises, beside its rival, in one run of minutes.
//!
//! Contenders take turns in a changing order; the middle of the rounds counts and their spread is shown. Times are of this
//! machine at this moment: compare ratios, not seconds, with another machine's.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::build::{self, Images};
use crate::cli::{self, Part};
use crate::packages::{self, Purpose};
use crate::paths::Paths;
use crate::programs;
use crate::progress::Progress;

pub mod asker;
pub mod boots;
pub mod client;
pub mod crowd;
pub mod discovery;
pub mod fetching;
pub mod figure;
pub mod files;
pub mod hashing;
pub mod instructions;
pub mod lan;
pub mod limits;
pub mod load;
pub mod machines;
pub mod place;
pub mod plot;
pub mod process;
pub mod race;
pub mod rack;
pub mod report;
pub mod server;
pub mod serving;
pub mod simulate;
pub mod storm;
pub mod swarm;
pub mod tftp;
pub mod tftp_get;
pub mod upgrade;

use figure::Figure;
use plot::Plot;
use report::{Machine, Report};
use server::Programs;

/// What the parts share.
pub struct Bench<'a> {
    /// The checkout.
    pub paths: &'a Paths,
    /// The programs under measurement.
    pub programs: Programs,
    /// Rounds; each measures every contender once.
    pub rounds: usize,
    /// Tells how far it is.
    pub progress: &'a Progress,
}

/// What a part gave.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Which.
    pub part: Part,
    /// Its rows.
    #[serde(serialize_with = "report::judged")]
    pub figures: Vec<Figure>,
    /// What a reader must know: what was skipped, and why.
    pub notes: Vec<String>,
    /// Its curves.
    pub plots: Vec<Plot>,
    /// Why it ended early.
    pub failed: Option<String>,
    /// How long it took in seconds.
    pub took_s: f64,
}

/// Runs the command.
///
/// # Errors
/// When something does not build. A part that fails is reported, and the others run.
pub fn command(paths: &Paths, arguments: &cli::Bench, progress: &Progress) -> Result<ExitCode> {
    let parts = arguments.parts();
    let boots = [Part::Machines, Part::Rack, Part::Upgrade]
        .iter()
        .any(|part| parts.contains(part));
    packages::ensure_installed(&[Purpose::Bench], progress)?;
    let images = if boots {
        packages::ensure_installed(&[Purpose::Build, Purpose::Run], progress)?;
        Some(build::build(paths, &arguments.options, progress)?)
    } else {
        None
    };
    let plasmd = match (&arguments.plasmd, &images) {
        (Some(path), _) => std::path::absolute(path)?,
        (None, Some(images)) => images.path("plasmd").to_owned(),
        (None, None) => programs::build(paths, programs::PLASMD)?,
    };
    let bench = Bench {
        paths,
        programs: Programs {
            plasmd,
            nginx: packages::unpacked("nginx", "nginx", &paths.output("nginx"))?,
        },
        rounds: arguments.rounds,
        progress,
    };
    let started = Instant::now();
    let mut machine = Machine::this(paths);
    let measured = parts
        .into_iter()
        .map(|part| bench.part(part, images.as_ref(), arguments))
        .collect();
    machine.load_after = report::load();
    progress.end("bench", "complete", started.elapsed());
    let report = Report {
        machine,
        took_s: started.elapsed().as_secs_f64(),
        rounds: bench.rounds,
        parts: measured,
    };
    report.show(paths, arguments)?;
    Ok(if report.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Bench<'_> {
    /// Measures one part and says how it went.
    fn part(&self, part: Part, images: Option<&Images>, arguments: &cli::Bench) -> Measured {
        let (started, name) = (Instant::now(), part.name());
        self.progress.begin(name);
        let (mut notes, mut plots) = (Vec::new(), Vec::new());
        let figures = match part {
            Part::Serving => serving::measure(self, &mut notes),
            Part::Fetching => fetching::measure(self, &mut notes),
            Part::Hashing => hashing::measure(self, &mut notes),
            Part::Load => load::measure(self, &mut notes),
            Part::Storm => storm::measure(self, &mut notes),
            Part::Tftp => tftp::measure(self, &mut notes),
            Part::Swarm => swarm::measure(self, &mut notes, &mut plots),
            Part::Discovery => discovery::measure(self, &mut notes),
            Part::Simulate => simulate::measure(self, &mut notes, &mut plots),
            Part::Instructions => instructions::measure(self, &mut notes),
            Part::Machines => machines::measure(self, images, arguments.accel, &mut notes),
            Part::Rack => rack::measure(self, images, arguments.accel, &mut notes),
            Part::Upgrade => upgrade::measure(self, images, arguments.accel, &mut notes),
        };
        let took = started.elapsed();
        let (figures, failed) = match figures {
            Ok(figures) => (figures, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        let word = if failed.is_none() { "done" } else { "failed" };
        self.progress.end(name, word, took);
        Measured {
            part,
            figures,
            notes,
            plots,
            failed,
            took_s: took.as_secs_f64(),
        }
    }
}
