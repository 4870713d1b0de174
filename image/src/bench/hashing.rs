//! A cold manifest: how long hashing takes from the start of `plasmd serve`, beside `openssl dgst` on the same files.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::asker::Asker;
use super::figure::{Board, Figure, Goal, Unit};
use super::files::Files;
use super::limits::{HASHED_ASKERS, HASHED_BYTES, HASHED_FILES_MAX, LOOK_PERIOD, START_LIMIT};
use super::machines::free_port;
use super::place::Place;
use super::process;
use super::server::{self, Running};

/// Ours.
const PLASMD: &str = "plasmd";

/// The rival on every core.
const PARALLEL: &str = "openssl, a process for each file";

/// The rival on one.
const SEQUENTIAL: &str = "openssl, one after the other";

const TIME: &str = "cold manifests";
const CPU: &str = "  CPU";

/// Measures.
///
/// # Errors
/// When a program cannot be started or gives no digest.
pub fn measure(bench: &Bench, _: &mut Vec<String>) -> Result<Vec<Figure>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut board = Board::default();
    let mut names = Vec::new();
    for count in [1, cores.clamp(2, HASHED_FILES_MAX)] {
        let set = Set::make(&bench.programs.plasmd, count)?;
        for round in 0..bench.rounds {
            let state = format!("{count} files, round {} of {}", round + 1, bench.rounds);
            bench.progress.note("hashing", &state);
            for turn in 0..3 {
                match (turn + round) % 3 {
                    0 => set.ours(&mut board)?,
                    1 => set.parallel(&mut board)?,
                    _ => set.sequential(&mut board)?,
                }
            }
        }
        names.push(set.name(""));
    }
    let goal = Some(Goal::RatioAtLeast(0.95));
    let rows = names.iter().flat_map(|of| {
        [
            board.figure(
                &format!("{TIME}{of}"),
                Unit::BytesPerSecond,
                goal,
                PLASMD,
                &[PARALLEL, SEQUENTIAL],
            ),
            board.figure(
                &format!("{CPU}{of}"),
                Unit::CpuSecondsPerGb,
                None,
                PLASMD,
                &[PARALLEL, SEQUENTIAL],
            ),
        ]
    });
    Ok(rows.flatten().collect())
}

/// Files of equal size, each the kernel of a channel of its own.
struct Set<'a> {
    plasmd: &'a Path,
    files: Files,
    hashed: Vec<PathBuf>,
}

impl<'a> Set<'a> {
    fn make(plasmd: &'a Path, count: usize) -> Result<Self> {
        let files = Files::empty()?;
        files.make_key(plasmd)?;
        let hashed = (0..count).map(|number| files.make(&channel(number), "vmlinuz", HASHED_BYTES));
        let hashed = hashed.collect::<Result<_>>()?;
        Ok(Self {
            plasmd,
            files,
            hashed,
        })
    }

    fn name(&self, row: &str) -> String {
        format!("{row}, {} x {} MiB", self.hashed.len(), HASHED_BYTES >> 20)
    }

    fn add(&self, board: &mut Board, who: &str, seconds: f64, cpu: f64) {
        let bytes = (self.hashed.len() as u64 * HASHED_BYTES) as f64;
        board.add(&self.name(TIME), who, bytes / seconds);
        board.add(&self.name(CPU), who, cpu / bytes * 1e9);
    }

    /// From the start of `plasmd serve` to the last manifest, several asking for each.
    fn ours(&self, board: &mut Board) -> Result<()> {
        let (port, place) = (free_port()?, Place::here());
        let mut command = place.server(self.plasmd);
        server::serve(&mut command, &self.files, place.bind(), port);
        let started = Instant::now();
        let server = Running::start(PLASMD, command, port, &self.files)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let paths: Vec<String> = (0..self.hashed.len())
            .flat_map(|number| vec![Files::path(&channel(number), "manifest.json"); HASHED_ASKERS])
            .collect();
        let answers: Vec<Result<u64>> = std::thread::scope(|scope| {
            let askers: Vec<_> = paths
                .iter()
                .map(|path| scope.spawn(move || first_answer(address, path)))
                .collect();
            let joined = askers.into_iter().map(|asker| asker.join());
            joined
                .map(|answer| answer.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))))
                .collect()
        });
        let took = started.elapsed().as_secs_f64();
        for answer in answers {
            answer.with_context(|| server.said(&self.files))?;
        }
        self.add(board, PLASMD, took, server.cpu_seconds());
        Ok(())
    }

    fn parallel(&self, board: &mut Board) -> Result<()> {
        let (started, cpu) = (Instant::now(), process::children_cpu_seconds());
        let children = self
            .hashed
            .iter()
            .map(|path| digest(std::slice::from_ref(path)));
        let children = children.collect::<Result<Vec<Child>>>()?;
        for child in children {
            end(child)?;
        }
        let cpu = process::children_cpu_seconds() - cpu;
        self.add(board, PARALLEL, started.elapsed().as_secs_f64(), cpu);
        Ok(())
    }

    fn sequential(&self, board: &mut Board) -> Result<()> {
        let (started, cpu) = (Instant::now(), process::children_cpu_seconds());
        end(digest(&self.hashed)?)?;
        let cpu = process::children_cpu_seconds() - cpu;
        self.add(board, SEQUENTIAL, started.elapsed().as_secs_f64(), cpu);
        Ok(())
    }
}

fn channel(number: usize) -> String {
    format!("cold{number}")
}

fn digest(files: &[PathBuf]) -> Result<Child> {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["dgst", "-sha256"])
        .args(files)
        .stdout(Stdio::null());
    openssl.spawn().context("cannot run openssl")
}

fn end(mut child: Child) -> Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "openssl failed ({status})");
    Ok(())
}

/// Asks until there is an answer: the server may still be starting.
pub fn first_answer(address: SocketAddr, path: &str) -> Result<u64> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let answer = Asker::to(address).and_then(|mut asker| asker.get(path, None));
        if answer.is_ok() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(LOOK_PERIOD);
    }
}
