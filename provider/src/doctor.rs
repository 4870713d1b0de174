//! `plasmd doctor`: looks at everything a provider on this machine depends on and says what to do about it.
//!
//! Each file below looks at one thing and gives findings: ok, warn or bad, and what to do. What is seen is judged by pure
//! functions, so that every check can be made to fail in a test. Changes nothing, and asks nobody but the provider here.
//! `--packets` looks at other machines instead: at how they boot, on the wire.

mod artifacts;
mod clock;
mod confinement;
mod finding;
mod limits;
mod manifests;
mod network;
mod packets;
mod ports;
mod room;
mod service;
mod settings;
mod sys;
mod upgrade;

use std::path::PathBuf;

use boot_manifest::{Timestamp, TrustRoot};
use serde_json::json;

use crate::exit::{CommandError, Exit};
use crate::out;
use crate::trust;
use artifacts::Release;
use clock::Witnesses;
use finding::{Finding, Level, Machine};

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The artifacts directory [default: the one of the provider's settings]
    #[arg(short, long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// The port that shall serve [default: the one of the provider's settings]
    #[arg(short, long)]
    port: Option<u16>,
    /// The configuration file of the provider [default: /etc/phase/plasmd.toml, when it is there]
    #[arg(short = 'C', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// URL of the provider to ask [default: http://localhost:PORT]
    #[arg(long, value_name = "URL")]
    addr: Option<String>,
    #[command(flatten)]
    trust: trust::Args,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print only what is not good
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    packets: packets::Args,
}

/// Looks at everything and prints it. Fails when something is bad.
pub(crate) fn run(args: &Args) -> Result<Exit, CommandError> {
    if args.packets.packets {
        return packets::run(&args.packets, args.json, args.quiet);
    }
    let root = match args.trust.is_configured() {
        true => Some(args.trust.load()?.root),
        false => None,
    };
    let findings = examine(args, root.as_ref());
    if args.json {
        out::line(format_args!("{:#}", object(&findings)));
    } else {
        print(&findings, args.quiet);
    }
    Ok(match worst(&findings) {
        Level::Ok | Level::Warn => Exit::Done,
        Level::Bad => Exit::Failed,
    })
}

fn examine(args: &Args, root: Option<&TrustRoot>) -> Vec<Finding> {
    let machine = Machine::this();
    let now = trust::now();
    let (settings, in_force) = settings::check(args.config.as_deref());
    let artifacts = args.artifacts.as_ref().unwrap_or(&in_force.artifacts);
    let port = args.port.unwrap_or(in_force.port);
    let local = format!("http://localhost:{port}");
    let addr = args.addr.as_deref().unwrap_or(&local);
    let (service, answers) = service::check(addr);
    let (on_disk, releases) = artifacts::check(&machine, artifacts);
    let (manifests, newest_manifest) = manifests::check(&releases, root, in_force.signs, now);
    let witnesses = Witnesses {
        file: newest_file(&releases),
        manifest: newest_manifest,
        is_synchronised: clock::is_synchronised(),
    };
    let mut findings = vec![settings, service];
    let is_ours = answers && args.addr.is_none();
    findings.extend(ports::check(&machine, (port, in_force.dht_port), is_ours));
    if answers {
        findings.extend(upgrade::check(addr));
    }
    findings.extend(on_disk);
    findings.extend(manifests);
    findings.extend(clock::check(&machine, now, &witnesses));
    findings.extend(room::check(&machine, artifacts));
    findings.extend(network::check(&machine, port, in_force.dht_port));
    findings.extend(confinement::check(&machine));
    findings
}

/// When the youngest of the artifacts was written.
fn newest_file(releases: &[Release]) -> Option<Timestamp> {
    use std::os::unix::fs::MetadataExt as _;

    let entries = releases
        .iter()
        .filter_map(|release| std::fs::read_dir(&release.folder).ok());
    let times = entries
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.mtime()));
    times.max().map(Timestamp::from_unix)
}

fn worst(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Ok)
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings
        .iter()
        .filter(|finding| finding.level == level)
        .count()
}

fn print(findings: &[Finding], quiet: bool) {
    let shown = findings
        .iter()
        .filter(|finding| !quiet || finding.level != Level::Ok);
    for finding in shown {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Bad => "bad",
        };
        let (check, message) = (finding.check, &finding.message);
        out::line(format_args!("{level:<5} {check:<12} {message}"));
        if let Some(advice) = &finding.advice {
            out::line(format_args!("{:>18} -> {advice}", ""));
        }
    }
    out::line(format_args!(
        "{} ok, {} to look at, {} bad",
        count(findings, Level::Ok),
        count(findings, Level::Warn),
        count(findings, Level::Bad)
    ));
}

fn object(findings: &[Finding]) -> serde_json::Value {
    json!({
        "status": worst(findings),
        "ok": count(findings, Level::Ok),
        "warn": count(findings, Level::Warn),
        "bad": count(findings, Level::Bad),
        "findings": findings,
    })
}
