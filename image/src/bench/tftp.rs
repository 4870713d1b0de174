//! TFTP: plasmd beside dnsmasq, tftpd-hpa and atftpd, over a cable of our own, also with lost packets.
//!
//! dnsmasq and tftpd-hpa as Debian has them know no windows, and send one block at a time whatever is asked for; atftpd knows
//! them. Packets are lost by the client, both those it gets and those it would send, the same ones for every server: many
//! kernels have no netem, and one that has it would lose all at once what plasmd sends in one call.

pub mod getter;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::client;
use super::figure::{Board, Figure, Goal, Unit};
use super::files::Files;
use super::limits::{
    START_LIMIT, TFTP_BLOCK, TFTP_BYTES, TFTP_LOSSY_BYTES, TFTP_MANY, TFTP_MANY_BYTES,
};
use super::machines::free_port;
use super::place::{Place, Via};
use super::server::{self, Running};
use crate::packages;

/// The files.
const FILES: [(&str, u64); 3] = [
    ("phase.efi", TFTP_BYTES),
    ("lossy.efi", TFTP_LOSSY_BYTES),
    ("many.efi", TFTP_MANY_BYTES),
];

/// One row.
struct Row {
    name: &'static str,
    file: usize,
    window: u16,
    lost_percent: u8,
    count: usize,
    goal: Goal,
}

const fn row(name: &'static str, window: u16, lost_percent: u8, goal: f64) -> Row {
    Row {
        name,
        file: if lost_percent == 0 { 0 } else { 1 },
        window,
        lost_percent,
        count: 1,
        goal: Goal::RatioAtLeast(goal),
    }
}

/// The first is also how it is seen whether a server serves.
const ROWS: [Row; 8] = [
    row("one block at a time", 1, 0, 1.5),
    row("windows of 4", 4, 0, 1.0),
    row("windows of 16", 16, 0, 1.0),
    Row {
        file: 2,
        count: TFTP_MANY,
        ..row("64 at once, windows of 4", 4, 0, 1.0)
    },
    row("one block at a time, 1 % lost", 1, 1, 1.5),
    row("windows of 16, 1 % lost", 16, 1, 1.0),
    row("one block at a time, 5 % lost", 1, 5, 1.5),
    row("windows of 16, 5 % lost", 16, 5, 1.0),
];

const MEMORY: &str = "memory after 64 at once";

/// One server.
struct Contender {
    running: Running,
    address: SocketAddr,
    /// Before the name of a file.
    folder: &'static str,
}

/// Measures.
///
/// # Errors
/// When a server or a client cannot be started, or a file does not come whole.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let place = match Place::apart() {
        Ok(place) => place,
        Err(reason) => {
            notes.push(format!("skipped: {reason:#}"));
            return Ok(Vec::new());
        }
    };
    let files = Files::empty()?;
    files.make_key(&bench.programs.plasmd)?;
    for (name, bytes) in FILES {
        files.make(crate::facts::CHANNEL, name, bytes)?;
    }
    let contenders = contenders(bench, &files, &place, notes)?;
    let mut board = Board::default();
    for round in 0..bench.rounds {
        let text = format!("round {} of {}", round + 1, bench.rounds);
        bench.progress.note("tftp", &text);
        for row in &ROWS {
            for number in 0..contenders.len() {
                let contender = &contenders[(number + round) % contenders.len()];
                one(&place, contender, row, round, &mut board)
                    .with_context(|| format!("{}, {}", contender.running.name, row.name))?;
            }
        }
    }
    for contender in &contenders {
        let memory = contender.running.resident_bytes() as f64;
        board.add(MEMORY, &contender.running.name, memory);
    }
    Ok(figures(&board, &contenders))
}

fn one(
    place: &Place,
    contender: &Contender,
    row: &Row,
    round: usize,
    board: &mut Board,
) -> Result<()> {
    let (_, bytes) = FILES[row.file];
    let running = &contender.running;
    let took = get(place, contender, row, round)?;
    let total = bytes as f64 * row.count as f64;
    board.add(row.name, &running.name, total / took);
    Ok(())
}

/// The seconds that fetching a file takes.
fn get(place: &Place, contender: &Contender, row: &Row, round: usize) -> Result<f64> {
    let (name, bytes) = FILES[row.file];
    let own = std::env::current_exe()?;
    let own = own.to_str().context("this program has no plain name")?;
    let mut command = place.client(Via::Veth, own);
    command
        .arg("tftp-get")
        .args(["--server", &contender.address.to_string()])
        .args(["--name", &format!("{}{name}", contender.folder)])
        .args(["--size", &bytes.to_string()])
        .args(["--block", &TFTP_BLOCK.to_string()])
        .args(["--window", &row.window.to_string()])
        .args(["--count", &row.count.to_string()])
        .args(["--lost-percent", &row.lost_percent.to_string()])
        .args(["--seed", &(round + 1).to_string()]);
    let said = client::run(&mut command)?;
    said.trim()
        .parse()
        .with_context(|| format!("the client says {said:?}"))
}

fn contenders(
    bench: &Bench,
    files: &Files,
    place: &Place,
    notes: &mut Vec<String>,
) -> Result<Vec<Contender>> {
    let folder = files.artifacts();
    let folder = folder
        .join(crate::facts::CHANNEL)
        .join(crate::facts::ARCH.as_str());
    let root = folder.to_str().context("a folder without a plain name")?;
    let found = |program: &str, package: &str| -> Result<PathBuf> {
        packages::unpacked(program, package, &bench.paths.output(package))
    };
    let mut contenders = Vec::new();
    let mut add = |name: &str, command: Command, port: u16, folder: &'static str| -> Result<()> {
        let contender = Contender {
            running: Running::start(name, command, port, files)?,
            address: SocketAddr::new(Via::Veth.address().parse()?, port),
            folder,
        };
        wait_for(place, &contender, files)?;
        contenders.push(contender);
        Ok(())
    };
    let port = free_port()?;
    let mut command = place.server(&bench.programs.plasmd);
    let http = free_port()?;
    server::serve(&mut command, files, place.bind(), http);
    command.args(["--dhcp", "off", "--tftp-port", &port.to_string()]);
    add("plasmd", command, port, "")?;

    let mut command = place.server(&found("dnsmasq", "dnsmasq-base")?);
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"]);
    command.args(["--enable-tftp", "--user=root", "--log-facility=/dev/null"]);
    command.arg(format!("--tftp-root={root}"));
    command.arg(format!("--tftp-max={}", 2 * TFTP_MANY));
    add("dnsmasq", command, 69, "")?;

    let port = free_port()?;
    let mut command = place.server(&found("in.tftpd", "tftpd-hpa")?);
    command.args(["--foreground", "--user", "root", "--secure"]);
    command.args(["--address", &format!("0.0.0.0:{port}"), root]);
    add("tftpd-hpa", command, port, "")?;

    match found("atftpd", "atftpd") {
        Ok(program) => {
            let port = free_port()?;
            let mut command = place.server(&program);
            command.args([
                "--daemon",
                "--no-fork",
                "--user",
                "root.root",
                "--logfile",
                "/dev/null",
            ]);
            command.args(["--port", &port.to_string(), root]);
            add("atftpd", command, port, "")?;
        }
        Err(reason) => notes.push(format!("atftpd skipped: {reason:#}")),
    }
    Ok(contenders)
}

fn wait_for(place: &Place, contender: &Contender, files: &Files) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while let Err(error) = get(place, contender, &ROWS[0], 0) {
        let running = &contender.running;
        ensure!(
            Instant::now() < deadline,
            "{} serves nothing: {error:#}; {}",
            running.name,
            running.said(files)
        );
    }
    Ok(())
}

fn figures(board: &Board, contenders: &[Contender]) -> Vec<Figure> {
    let names: Vec<&str> = contenders
        .iter()
        .map(|contender| contender.running.name.as_str())
        .collect();
    let Some((ours, rivals)) = names.split_first() else {
        return Vec::new();
    };
    let rows = ROWS
        .iter()
        .map(|row| (row.name, Unit::BytesPerSecond, Some(row.goal)));
    let more = [(MEMORY, Unit::Bytes, None)];
    rows.chain(more)
        .filter_map(|(name, unit, goal)| board.figure(name, unit, goal, ours, rivals))
        .collect()
}
