//! `phase-fetch` beside what people type instead: `curl` and a program that hashes, from the same servers to memory.
//!
//! Debian's sha256sum does not use the processor's instructions for it and openssl does, so both are shown.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::client;
use super::figure::{Board, Figure, Goal, Samples, Unit};
use super::files::Files;
use super::limits::{CLIENT_LIMIT, FETCH_BYTES_MAX, LOOK_PERIOD, SHAPED_BYTES, SHAPED_RATE};
use super::place::{Place, Via};
use super::process;
use super::server::{NOPUSH, Running};
use crate::facts;

/// Ours.
const FETCH: &str = "phase-fetch";

/// The others: name, and what a shell is told, with URL and file.
const RIVALS: [(&str, &str); 4] = [
    (
        "curl && sha256sum",
        "curl -sSf -o \"$2\" \"$1\" && sha256sum \"$2\"",
    ),
    ("curl | sha256sum", "curl -sSf \"$1\" | sha256sum"),
    (
        "curl && openssl",
        "curl -sSf -o \"$2\" \"$1\" && openssl dgst -sha256 \"$2\"",
    ),
    ("curl | openssl", "curl -sSf \"$1\" | openssl dgst -sha256"),
];

/// Memory `phase-fetch` may have, whatever the size of what it fetches.
const MEMORY: &str = "memory of phase-fetch, 1 GiB";

const RESUMED: &str = "sent for a fetch that was killed half way and resumed";
const ALONE: &str = "one shaped provider";
const TOGETHER: &str = "two shaped providers";

/// Measures.
///
/// # Errors
/// When a server or a client cannot be started or fails.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let place = Place::here();
    let files = Files::to_serve(&bench.programs.plasmd)?;
    let servers = [
        Running::plasmd(&bench.programs.plasmd, &files, &place, &[])?,
        Running::nginx(&bench.programs.nginx, &files, &place, NOPUSH[1], 1024)?,
    ];
    let manifest = servers[0].url(Via::Loopback, "/manifest.json");
    client::run(
        Command::new("curl")
            .args(["-sSf", "-o"])
            .arg(files.manifest())
            .arg(&manifest),
    )?;
    let mut board = Board::default();
    for round in 0..bench.rounds {
        bench.progress.note(
            "fetching",
            &format!("round {} of {}", round + 1, bench.rounds),
        );
        let contenders = RIVALS.len() + 1;
        for turn in 0..contenders * servers.len() {
            let turn = (turn + round * 3) % (contenders * servers.len());
            let one = One {
                bench,
                files: &files,
                server: &servers[turn % servers.len()],
            };
            match RIVALS.get(turn / servers.len()) {
                Some(rival) => one.theirs(*rival, &mut board)?,
                None => one.ours(&mut board)?,
            }
        }
    }
    let mut figures = figures(&board, &servers);
    drop(servers);
    drop(files);
    match Place::with_servers(2) {
        Ok(place) => figures.extend(shaped(bench, &place, notes)?),
        Err(reason) => notes.push(format!("shaped providers skipped: {reason:#}")),
    }
    Ok(figures)
}

fn row(server: &Running) -> String {
    format!("1 GiB from {}, verified", server.name)
}

fn figures(board: &Board, servers: &[Running]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for server in servers {
        let name = row(server);
        let rows = [
            (
                name.clone(),
                Some(Goal::RatioAtMost(0.7)),
                vec![RIVALS[0].0],
            ),
            (
                format!("{name}, against a pipe"),
                Some(Goal::RatioAtMost(1.0)),
                vec![RIVALS[1].0],
            ),
            (
                format!("{name}, against openssl"),
                None,
                vec![RIVALS[2].0, RIVALS[3].0],
            ),
        ];
        figures.extend(rows.into_iter().filter_map(|(shown, goal, rivals)| {
            board.named_figure(&shown, &name, Unit::Seconds, goal, FETCH, &rivals)
        }));
        let cpu = format!("  client's CPU, {name}");
        let rivals = RIVALS.map(|(name, _)| name);
        figures.extend(board.figure(&cpu, Unit::CpuSecondsPerGb, None, FETCH, &rivals));
    }
    let goal = Some(Goal::AtMost(FETCH_BYTES_MAX));
    figures.extend(board.figure(MEMORY, Unit::Bytes, goal, FETCH, &[]));
    figures
}

/// One server, fetched from.
struct One<'a> {
    bench: &'a Bench<'a>,
    files: &'a Files,
    server: &'a Running,
}

impl One<'_> {
    fn ours(&self, board: &mut Board) -> Result<()> {
        let to = self.files.folder().join("fetched");
        let mut fetch = Command::new(&self.bench.programs.plasmd);
        fetch.args(["fetch", "--quiet", "--artifact", "rootfs", "--key"]);
        fetch.arg(public_key(self.files)).arg("--output").arg(&to);
        fetch.arg(self.server.url(Via::Loopback, ""));
        let (started, cpu) = (Instant::now(), process::children_cpu_seconds());
        let (_, peak) = client::run_watched(&mut fetch)?;
        self.add(board, FETCH, started, cpu);
        board.add(MEMORY, FETCH, peak as f64);
        std::fs::remove_dir_all(to).context("phase-fetch left nothing")
    }

    fn theirs(&self, (name, script): (&str, &str), board: &mut Board) -> Result<()> {
        let to = self.files.folder().join("curled");
        let path = Files::path(facts::CHANNEL, "rootfs.squashfs");
        let mut shell = Command::new("bash");
        shell.args([
            "-o",
            "pipefail",
            "-c",
            script,
            "bench",
            &self.server.url(Via::Loopback, &path),
        ]);
        let (started, cpu) = (Instant::now(), process::children_cpu_seconds());
        client::run(shell.arg(&to))?;
        self.add(board, name, started, cpu);
        // Pipes make no file.
        let _ = std::fs::remove_file(to);
        Ok(())
    }

    fn add(&self, board: &mut Board, who: &str, started: Instant, cpu: f64) {
        let name = row(self.server);
        board.add(&name, who, started.elapsed().as_secs_f64());
        let cpu = process::children_cpu_seconds() - cpu;
        let bytes = super::limits::LARGE_BYTES as f64;
        board.add(&format!("  client's CPU, {name}"), who, cpu / bytes * 1e9);
    }
}

fn public_key(files: &Files) -> PathBuf {
    files.key().with_extension("key.pub")
}

/// Providers that send at the same bounded rate: two must be about twice as fast, and a resumed fetch must not ask again
/// for what is there.
fn shaped(bench: &Bench, place: &Place, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    place.shape(SHAPED_RATE)?;
    let plasmd = &bench.programs.plasmd;
    let files = Files::empty()?;
    files.make_key(plasmd)?;
    files.make(facts::CHANNEL, "vmlinuz", super::limits::SMALL_BYTES)?;
    files.make(facts::CHANNEL, "rootfs.squashfs", SHAPED_BYTES)?;
    let servers = [
        Running::nth_plasmd(plasmd, &files, place, 0)?,
        Running::nth_plasmd(plasmd, &files, place, 1)?,
    ];
    let mut board = Board::default();
    let name = format!("{} MiB at {SHAPED_RATE}", SHAPED_BYTES >> 20);
    let to = files.folder().join("fetched");
    for round in 0..bench.rounds {
        for turn in 0..2 {
            let count = (turn + round) % 2 + 1;
            let started = Instant::now();
            let fetched = client::run(&mut fetch(bench, place, &files, &servers[..count]));
            let took = started.elapsed().as_secs_f64();
            let _ = std::fs::remove_dir_all(&to);
            match fetched {
                Ok(_) => board.add(&name, [ALONE, TOGETHER][count - 1], took),
                Err(error) if count == 2 => notes.push(format!("{TOGETHER}: {error:#}")),
                Err(error) => return Err(error),
            }
        }
        let sent = resumed(bench, place, &files, &servers[..1])?;
        let _ = std::fs::remove_dir_all(&to);
        board.add(RESUMED, FETCH, sent);
    }
    notes.dedup();
    let two = board.figure(&name, Unit::Seconds, None, TOGETHER, &[ALONE]);
    let mut resumed = board.figure(RESUMED, Unit::Bytes, None, FETCH, &[]);
    if let Some(resumed) = &mut resumed {
        let values = vec![SHAPED_BYTES as f64; bench.rounds];
        let name = "the file".into();
        resumed.rivals = vec![Samples { name, values }];
    }
    Ok(two.into_iter().chain(resumed).collect())
}

fn fetch(bench: &Bench, place: &Place, files: &Files, servers: &[Running]) -> Command {
    let plasmd = bench.programs.plasmd.to_string_lossy();
    let mut fetch = place.client(Via::Veth, &plasmd);
    fetch.args(["fetch", "--quiet", "--artifact", "rootfs", "--key"]);
    fetch
        .arg(public_key(files))
        .arg("--output")
        .arg(files.folder().join("fetched"));
    for (number, server) in (0..).zip(servers) {
        fetch.arg(format!(
            "http://{}:{}",
            Place::nth_address(number),
            server.port()
        ));
    }
    fetch
}

/// Kills a fetch half way and lets another end it; the bytes the provider sent for both.
fn resumed(bench: &Bench, place: &Place, files: &Files, servers: &[Running]) -> Result<f64> {
    let before = place.sent_bytes(0)?;
    let mut first = fetch(bench, place, files, servers)
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + CLIENT_LIMIT;
    while place.sent_bytes(0)? - before < SHAPED_BYTES / 2 {
        ensure!(Instant::now() < deadline, "a fetch does not get half way");
        ensure!(
            first.try_wait()?.is_none(),
            "a fetch ended before it got half way"
        );
        std::thread::sleep(LOOK_PERIOD);
    }
    first.kill()?;
    first.wait()?;
    client::run(&mut fetch(bench, place, files, servers))?;
    Ok((place.sent_bytes(0)? - before) as f64)
}
