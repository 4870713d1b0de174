//! A power cut is over: a thousand machines ask for something to boot at the same moment. `plasmd serve` beside dnsmasq, each
//! as the boot server beside a LAN's own DHCP server; then some of the machines fetch it, all at once.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Bench;
use super::boots::Told;
use super::figure::{Board, Figure, Goal, Unit};
use super::files::Files;
use super::limits::{
    SMALL_BYTES, STORM_BOOT_BYTES, STORM_FETCHES, STORM_IMAGE_BYTES, STORM_MACHINES,
};
use super::place::{Place, Via};
use super::server::Running;
use crate::facts;

/// iPXE for a BIOS has this size.
const IPXE_BYTES: u64 = 74 << 10;

/// The address of the machines on their end of the cable, and the server's end of it.
const MACHINES: &str = "10.78.0.2";
const CABLE: &str = "cable";

/// What plasmd may have resident after all that.
const MEMORY_BYTES: f64 = 40e6;

/// How soon a machine must be answered: iPXE waits 2 s, but whoever else answers first is taken.
const OFFER_S: f64 = 0.05;

/// The rows, and what each shall reach.
const ROWS: &[(&str, Unit, Option<Goal>)] = &[
    (
        "1,000 machines: offers, 99 of 100 within",
        Unit::Seconds,
        Some(Goal::AtMost(OFFER_S)),
    ),
    ("  median", Unit::Seconds, None),
    ("  the last", Unit::Seconds, None),
    (
        "  answers at port 4011, 99 of 100 within",
        Unit::Seconds,
        Some(Goal::AtMost(OFFER_S)),
    ),
    ("  had to ask again", Unit::Count, Some(Goal::AtMost(0.0))),
    (
        "  were never told what to boot",
        Unit::Count,
        Some(Goal::AtMost(0.0)),
    ),
    (
        "  server's memory",
        Unit::Bytes,
        Some(Goal::AtMost(MEMORY_BYTES)),
    ),
    (
        "64 of them at once: 8 MiB or 74 KiB by TFTP",
        Unit::Seconds,
        Some(Goal::RatioAtMost(1.0)),
    ),
    ("  then 16 MiB each by HTTP", Unit::Seconds, None),
    ("  failed", Unit::Count, Some(Goal::AtMost(0.0))),
];

/// Measures.
///
/// # Errors
/// When there can be no namespaces, or a server or the machines cannot be started.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let files = boot_files(bench)?;
    let places = [place()?, place()?];
    let [ours, theirs] = &places;
    let state = files.folder().join("state");
    let state = state.to_string_lossy();
    let flags = [
        "--dhcp",
        "proxy",
        "--dhcp-interface",
        CABLE,
        "--state-dir",
        &state,
    ];
    let servers = [
        (
            ours,
            Running::plasmd(&bench.programs.plasmd, &files, ours, &flags)?,
        ),
        (theirs, dnsmasq(&files, theirs)?),
    ];
    let mut board = Board::default();
    for round in 0..bench.rounds {
        bench
            .progress
            .note("storm", &format!("round {} of {}", round + 1, bench.rounds));
        for number in 0..servers.len() {
            let (place, server) = &servers[(number + round) % servers.len()];
            let http = std::ptr::eq(*place, ours).then_some(server.port());
            let told = machines(place, &files, http)?;
            note(&mut board, server, &told);
            if !told.reason.is_empty() {
                notes.push(format!("{}: {}", server.name, told.reason));
            }
        }
    }
    notes.dedup();
    let [(_, ours), (_, theirs)] = &servers;
    let figures = ROWS.iter().filter_map(|(name, unit, goal)| {
        board.figure(name, *unit, *goal, &ours.name, &[&theirs.name])
    });
    Ok(figures.collect())
}

/// What firmware is given, and what comes after it.
fn boot_files(bench: &Bench) -> Result<Files> {
    let files = Files::empty()?;
    for (name, bytes) in [
        ("vmlinuz", SMALL_BYTES),
        ("initramfs.img", SMALL_BYTES),
        ("rootfs.squashfs", STORM_IMAGE_BYTES),
        ("phase.efi", STORM_BOOT_BYTES),
        ("undionly.kpxe", IPXE_BYTES),
    ] {
        files.make(facts::CHANNEL, name, bytes)?;
    }
    files.make_key(&bench.programs.plasmd)?;
    Ok(files)
}

/// A server's namespace and one for the machines, from where broadcasts go into the cable.
fn place() -> Result<Place> {
    let place = Place::apart()?;
    let mut route = place.client(Via::Veth, "ip");
    let status = route
        .args(["route", "add", "default", "dev", "cable0"])
        .status()?;
    if !status.success() {
        bail!("the machines have no way to their cable: {status}");
    }
    Ok(place)
}

/// dnsmasq as a boot server beside another DHCP server, with room for as many transfers as come.
fn dnsmasq(files: &Files, place: &Place) -> Result<Running> {
    let folder = folder();
    let mut command = place.server(std::path::Path::new("dnsmasq"));
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
        .args([
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--bind-interfaces",
        ])
        .args([
            &format!("--interface={CABLE}"),
            "--dhcp-range=10.78.0.0,proxy",
        ])
        .args([
            "--enable-tftp",
            &format!("--tftp-max={}", 2 * STORM_FETCHES),
        ])
        .arg(format!("--tftp-root={}", files.artifacts().display()))
        .arg(format!("--pxe-service=x86PC,boot,{folder}/undionly.kpxe"))
        .arg(format!("--pxe-service=X86-64_EFI,boot,{folder}/phase.efi"));
    Running::start_dnsmasq(command, "DHCP, proxy", files)
}

/// Where the files are, below the artifacts.
fn folder() -> String {
    format!("{}/{}", facts::CHANNEL, facts::ARCH.as_str())
}

/// One storm.
fn machines(place: &Place, files: &Files, http: Option<u16>) -> Result<Told> {
    let program = std::env::current_exe()?;
    let mut command: Command = place.client(Via::Veth, &program.to_string_lossy());
    command
        .args(["boots", "--address", MACHINES])
        .args(["--machines", &STORM_MACHINES.to_string()])
        .args(["--fetch", &STORM_FETCHES.to_string()])
        .arg("--files")
        .arg(files.artifacts().join(folder()));
    if let Some(port) = http {
        let server = format!("{}:{port}", Via::Veth.address());
        let path = Files::path(facts::CHANNEL, "rootfs.squashfs");
        command.args(["--http", &server, "--path", &path]);
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start the machines")?;
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(said.trim()).with_context(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        format!("the machines said {said:?} and {error:?}")
    })
}

fn note(board: &mut Board, server: &Running, told: &Told) {
    let quantile = |times: &[f64], part| Told::quantile(times, part);
    let values = [
        quantile(&told.offers, 0.99),
        quantile(&told.offers, 0.5),
        told.offers.last().copied(),
        quantile(&told.answers, 0.99),
        Some(told.unanswered as f64),
        Some(told.lost as f64),
        Some(server.resident_bytes() as f64),
        told.tftp,
        told.http,
        Some(told.failed as f64),
    ];
    for ((name, _, _), value) in ROWS.iter().zip(values) {
        if let Some(value) = value {
            board.add(name, &server.name, value);
        }
    }
}
