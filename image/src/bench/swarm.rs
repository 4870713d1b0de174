//! A rack is switched on: 1 to 32 machines fetch the same 64 MiB at the same moment, every link 100 Mbit/s in each direction.
//! `phase-fetch --share` from `plasmd serve`, beside as many `curl` from nginx.
//!
//! From one server alone the last of N is done after N times what one takes. Who serves what it has so far makes that nearly
//! flat, and the origin sends hardly more than one copy.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::figure::{Figure, Goal, Samples, Unit};
use super::files::Files;
use super::lan::Lan;
use super::limits::{
    SMALL_BYTES, SWARM_ALONE_MAX, SWARM_CLIENTS, SWARM_EGRESS_MAX, SWARM_JUDGED, SWARM_LIMIT,
    SWARM_MIB, SWARM_PORT, SWARM_RATE, SWARM_TIME_MAX,
};
use super::plot::{Curve, Plot};
use super::process::Busy;
use super::race::{self, Runner};
use super::server::Running;
use crate::facts;

const OURS: &str = "phase-fetch --share";
const THEIRS: &str = "curl from nginx";

/// The origin's host; the clients are those after it.
const ORIGIN: usize = 0;

/// Processors that work more than this are what a race waits for, not the links.
const BUSY_MAX: f64 = 0.9;

/// What one race gave.
#[derive(Debug, Clone, Copy)]
struct Race {
    clients: usize,
    /// Until the last had it, in seconds.
    last_s: f64,
    /// What the origin put on its cable.
    sent_bytes: u64,
    /// The part of this machine's processors that worked.
    busy: f64,
}

/// Measures.
///
/// # Errors
/// When there can be no namespaces, or a server or a client cannot be started or fails.
pub fn measure(
    bench: &Bench,
    notes: &mut Vec<String>,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Figure>> {
    let files = Files::empty()?;
    files.make(facts::CHANNEL, "vmlinuz", SMALL_BYTES)?;
    files.make(facts::CHANNEL, "rootfs.squashfs", SWARM_MIB << 20)?;
    files.make_key(&bench.programs.plasmd)?;
    let mut ours = Vec::new();
    for clients in SWARM_CLIENTS {
        bench
            .progress
            .note("swarm", &format!("{clients} that share"));
        ours.push(shared(bench, &files, clients).with_context(|| format!("{clients} clients"))?);
    }
    let longest = SWARM_CLIENTS.iter().max().unwrap_or(&1);
    bench
        .progress
        .note("swarm", &format!("1 to {longest} beside nginx"));
    let theirs = all_plain(bench, &files)?;
    notes.push(format!(
        "{SWARM_MIB} MiB, every link 100 Mbit/s in each direction; measured once, whatever the rounds; nginx's races ran \
         beside each other, each on a LAN of its own"
    ));
    let crowded = ours.iter().filter(|race| race.busy > BUSY_MAX);
    let crowded: Vec<String> = crowded.map(|race| race.clients.to_string()).collect();
    if !crowded.is_empty() {
        notes.push(format!(
            "this machine's processors were more than {:.0} % busy in the races of {} that share: there they were waited \
             for, not the links alone",
            BUSY_MAX * 100.0,
            crowded.join(", ")
        ));
    }
    plots.push(curve(&ours, &theirs)?);
    Ok(figures(&ours, &theirs))
}

/// Clients that share, from plasmd.
fn shared(bench: &Bench, files: &Files, clients: usize) -> Result<Race> {
    let lan = Lan::new(clients + 1, Some(SWARM_RATE))?;
    let plasmd = &bench.programs.plasmd;
    let origin = Running::plasmd_on(plasmd, files, (&lan, ORIGIN), &[])?;
    let url = format!("http://{}:{}", Lan::address(ORIGIN), origin.port());
    let folder = |client: usize| files.folder().join(format!("client-{client}"));
    let runners = (1..=clients).map(|client| {
        let mut fetch = lan.command(client, plasmd);
        fetch
            .args(["fetch", "--quiet", "--artifact", "rootfs"])
            .args(["--share", &SWARM_PORT.to_string()])
            .arg("--key")
            .arg(files.key().with_extension("key.pub"))
            .arg("--output")
            .arg(folder(client))
            .arg(&url);
        // It stays a while for those who still fetch, but then it has everything: the manifest comes last.
        Runner {
            command: fetch,
            done: Some(folder(client).join("manifest.json")),
        }
    });
    let race = run(&lan, clients, runners.collect());
    for client in 1..=clients {
        let path = folder(client);
        let fetched = std::fs::metadata(path.join("rootfs.squashfs"));
        let _ = std::fs::remove_dir_all(&path);
        if race.is_ok() {
            let bytes = fetched
                .context("a client that ended well has nothing")?
                .len();
            ensure!(
                bytes == SWARM_MIB << 20,
                "client {client} has {bytes} bytes"
            );
        }
    }
    race
}

/// Every number of clients at the same time, each with a server and a LAN of its own: together they move less than one
/// unshaped download, and one after the other they would take six minutes.
fn all_plain(bench: &Bench, files: &Files) -> Result<Vec<Race>> {
    thread::scope(|scope| {
        let races: Vec<_> = SWARM_CLIENTS
            .iter()
            .map(|clients| scope.spawn(|| plain(bench, files, *clients)))
            .collect();
        let ended = races.into_iter().map(|race| match race.join() {
            Ok(race) => race,
            Err(_) => bail!("a race beside nginx broke off"),
        });
        ended.collect()
    })
}

/// `curl` from nginx.
fn plain(bench: &Bench, files: &Files, clients: usize) -> Result<Race> {
    let lan = Lan::new(clients + 1, Some(SWARM_RATE))?;
    let origin = Running::nginx_on(&bench.programs.nginx, files, (&lan, ORIGIN))?;
    let path = Files::path(facts::CHANNEL, "rootfs.squashfs");
    let url = format!("http://{}:{}{path}", Lan::address(ORIGIN), origin.port());
    let runners = (1..=clients).map(|client| {
        let mut curl = lan.command(client, Path::new("curl"));
        curl.args(["-sSf", "-o", "/dev/null", &url]);
        Runner {
            command: curl,
            done: None,
        }
    });
    run(&lan, clients, runners.collect())
}

fn run(lan: &Lan, clients: usize, runners: Vec<Runner>) -> Result<Race> {
    let before = lan.sent_bytes(ORIGIN)?;
    let busy = Busy::start();
    let last_s = race::last(runners, SWARM_LIMIT)?.as_secs_f64();
    Ok(Race {
        clients,
        last_s,
        sent_bytes: lan.sent_bytes(ORIGIN)? - before,
        busy: busy.end(),
    })
}

fn figures(ours: &[Race], theirs: &[Race]) -> Vec<Figure> {
    let alone = ours.first().map_or(0.0, |race| race.last_s);
    let plain_alone = theirs.first().map_or(0.0, |race| race.last_s);
    let copy = (SWARM_MIB << 20) as f64;
    let mut figures = Vec::new();
    for race in ours {
        let rival = theirs.iter().find(|rival| rival.clients == race.clients);
        let row = |name: String, unit, goal, of: fn(&Race) -> f64| Figure {
            name,
            unit,
            ours: sample(OURS, of(race)),
            rivals: rival
                .map(|rival| sample(THEIRS, of(rival)))
                .into_iter()
                .collect(),
            goal,
        };
        let (name, most) = match race.clients {
            1 => ("1 client has it".into(), SWARM_ALONE_MAX * plain_alone),
            clients => (
                format!("the last of {clients} has it"),
                SWARM_TIME_MAX * alone,
            ),
        };
        figures.push(row(name, Unit::Seconds, Some(Goal::AtMost(most)), |race| {
            race.last_s
        }));
        let egress =
            (race.clients == SWARM_JUDGED).then_some(Goal::AtMost(SWARM_EGRESS_MAX * copy));
        figures.push(row(
            "  sent by the origin".into(),
            Unit::Bytes,
            egress,
            |race| race.sent_bytes as f64,
        ));
    }
    figures
}

fn sample(name: &str, value: f64) -> Samples {
    Samples {
        name: name.into(),
        values: vec![value],
    }
}

fn curve(ours: &[Race], theirs: &[Race]) -> Result<Plot> {
    let line = |name: &str, races: &[Race]| Curve {
        name: name.into(),
        points: races
            .iter()
            .map(|race| (race.clients as f64, race.last_s))
            .collect(),
        bound: false,
    };
    Plot::new(
        "swarm",
        &format!("Until the last of N clients has {SWARM_MIB} MiB, every link 100 Mbit/s"),
        ["clients", "seconds"],
        true,
        vec![line(THEIRS, theirs), line(OURS, ours)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(clients: usize, last_s: f64, copies: f64) -> Race {
        Race {
            clients,
            last_s,
            sent_bytes: (copies * (SWARM_MIB << 20) as f64) as u64,
            busy: 0.5,
        }
    }

    #[test]
    fn a_flat_curve_with_few_copies_reaches_every_goal_and_a_line_none() {
        let theirs = [race(1, 5.6, 1.0), race(16, 90.0, 16.0)];
        let flat = figures(&[race(1, 5.7, 1.0), race(16, 8.0, 1.5)], &theirs);
        assert!(
            flat.iter().all(|figure| figure.reached() != Some(false)),
            "{flat:?}"
        );
        let line = figures(&[race(1, 6.0, 1.0), race(16, 90.0, 16.0)], &theirs);
        let judged: Vec<bool> = line.iter().filter_map(Figure::reached).collect();
        assert_eq!(judged, [false, false, false]);
        assert_eq!(line[2].name, "the last of 16 has it");
    }

    #[test]
    fn the_curve_has_a_point_for_every_race() {
        let theirs = [race(1, 5.6, 1.0), race(16, 90.0, 16.0)];
        let plot = curve(&theirs, &theirs).unwrap();
        assert_eq!(plot.curves[0].points, [(1.0, 5.6), (16.0, 90.0)]);
    }
}
