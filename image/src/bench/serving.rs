//! `plasmd serve` beside nginx: the same files, the same clients, turn by turn.
//!
//! The better of nginx's two settings counts, figure by figure. Clients come over loopback and, as root, over a cable between
//! two network namespaces.

use anyhow::{Result, ensure};

use super::Bench;
use super::client::{self, CURL_FORMAT, Download, Wrk};
use super::figure::{Board, Figure, Goal, Unit};
use super::files::{Files, RELEASE};
use super::limits::{
    LARGE_BYTES, MANY, ONE_STREAM_DOWNLOADS, RANGE_BYTES, RANGE_CONNECTIONS, SMALL_CONNECTIONS,
    WRK_SECONDS,
};
use super::place::{Place, Via};
use super::process::{self, Watch};
use super::server::{NOPUSH, Running};
use crate::facts;

/// Connections nginx has room for here.
const CONNECTIONS: u32 = 1024;

/// What plasmd may have resident while nobody asks.
const IDLE_BYTES: f64 = 8e6;

/// And while everybody does.
const BUSY_BYTES: f64 = 14e6;

/// The rows, and what each shall reach. `ours` has no rival in the row of that name.
const ROWS: &[(&str, Unit, Option<Goal>)] = &[
    (
        "1 GiB, one connection",
        Unit::BytesPerSecond,
        Some(Goal::RatioAtLeast(1.2)),
    ),
    (
        "  server's CPU",
        Unit::CpuSecondsPerGb,
        Some(Goal::RatioAtMost(1.0)),
    ),
    ("  server's and client's CPU", Unit::CpuSecondsPerGb, None),
    (
        "1 GiB, 16 connections",
        Unit::BytesPerSecond,
        Some(Goal::RatioAtLeast(1.5)),
    ),
    (
        "  server's CPU, 16 connections",
        Unit::CpuSecondsPerGb,
        Some(Goal::RatioAtMost(1.0)),
    ),
    (
        "4 KiB",
        Unit::RequestsPerSecond,
        Some(Goal::RatioAtLeast(1.15)),
    ),
    ("  median", Unit::Seconds, None),
    ("  99 of 100", Unit::Seconds, Some(Goal::RatioAtMost(1.0))),
    (
        "range of 1 MiB",
        Unit::BytesPerSecond,
        Some(Goal::RatioAtLeast(1.0)),
    ),
    (
        "manifest, against 4 KiB",
        Unit::RequestsPerSecond,
        Some(Goal::RatioAtLeast(1.0)),
    ),
];

const IDLE: &str = "memory, idle";
const BUSY: &str = "memory, under this load";

/// Measures.
///
/// # Errors
/// When a server or a client cannot be started, or says something unexpected.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let place = Place::apart().unwrap_or_else(|reason| {
        notes.push(format!("veth skipped: {reason:#}"));
        Place::here()
    });
    let files = Files::to_serve(&bench.programs.plasmd)?;
    let servers = [
        Running::plasmd(&bench.programs.plasmd, &files, &place, &[])?,
        Running::nginx(
            &bench.programs.nginx,
            &files,
            &place,
            NOPUSH[0],
            CONNECTIONS,
        )?,
        Running::nginx(
            &bench.programs.nginx,
            &files,
            &place,
            NOPUSH[1],
            CONNECTIONS,
        )?,
    ];
    let mut board = Board::default();
    // Hashing has ended when the manifests are there.
    for channel in [facts::CHANNEL, RELEASE] {
        let url = servers[0].url(Via::Loopback, &Files::path(channel, "manifest.json"));
        curl(&place, Via::Loopback, &[url])?;
    }
    for server in &servers {
        board.add(IDLE, &server.name, server.resident_bytes() as f64);
    }
    let watches: Vec<Watch> = servers
        .iter()
        .map(|server| Watch::start(server.id()))
        .collect();
    for round in 0..bench.rounds {
        bench.progress.note(
            "serving",
            &format!("round {} of {}", round + 1, bench.rounds),
        );
        for (turn, via) in place.ways().iter().enumerate() {
            // Another order each time, so that nobody always comes after the same neighbour.
            for number in 0..servers.len() {
                let server = &servers[(number + round + turn) % servers.len()];
                let mut one = One {
                    server,
                    place: &place,
                    files: &files,
                    via: *via,
                    board: &mut board,
                };
                one.bulk()?;
                one.requests()?;
            }
        }
    }
    for (server, watch) in servers.iter().zip(watches) {
        board.add(BUSY, &server.name, watch.end() as f64);
    }
    Ok(figures(&board, &place, &servers))
}

fn figures(board: &Board, place: &Place, servers: &[Running]) -> Vec<Figure> {
    let rivals: Vec<&str> = servers[1..]
        .iter()
        .map(|server| server.name.as_str())
        .collect();
    let ours = servers[0].name.as_str();
    let ways = place.ways().iter();
    let rows = ways.flat_map(|via| {
        ROWS.iter()
            .map(|(name, unit, goal)| (row(name, *via), *unit, *goal))
    });
    let memory = [
        (IDLE.to_owned(), Unit::Bytes, Some(Goal::AtMost(IDLE_BYTES))),
        (BUSY.to_owned(), Unit::Bytes, Some(Goal::AtMost(BUSY_BYTES))),
    ];
    rows.chain(memory)
        .filter_map(|(name, unit, goal)| board.figure(&name, unit, goal, ours, &rivals))
        .collect()
}

/// The name of a row of one way.
fn row(name: &str, via: Via) -> String {
    format!("{name}, {}", via.name())
}

/// One server, measured by clients that come one way.
struct One<'a> {
    server: &'a Running,
    place: &'a Place,
    files: &'a Files,
    via: Via,
    board: &'a mut Board,
}

impl One<'_> {
    fn add(&mut self, index: usize, value: f64) {
        let name = row(ROWS[index].0, self.via);
        self.board.add(&name, &self.server.name, value);
    }

    /// The large file, once at a time and many times at once.
    fn bulk(&mut self) -> Result<()> {
        let url = self
            .server
            .url(self.via, &Files::path(facts::CHANNEL, "rootfs.squashfs"));
        let (server, clients) = (self.server.cpu_seconds(), process::children_cpu_seconds());
        let urls = vec![url.clone(); ONE_STREAM_DOWNLOADS as usize];
        let downloads = curl(self.place, self.via, &urls)?;
        let server = self.server.cpu_seconds() - server;
        let clients = process::children_cpu_seconds() - clients;
        let bytes: u64 = downloads.iter().map(|download| download.bytes).sum();
        ensure!(
            bytes == ONE_STREAM_DOWNLOADS * LARGE_BYTES,
            "curl got {bytes} bytes of {}",
            self.server.name
        );
        let took: f64 = downloads
            .iter()
            .map(|download| download.took.as_secs_f64())
            .sum();
        let bytes = bytes as f64;
        self.add(0, bytes / took);
        self.add(1, server / bytes * 1e9);
        self.add(2, (server + clients) / bytes * 1e9);

        let server = self.server.cpu_seconds();
        let many = self.wrk(2, MANY, &url, false)?;
        let server = self.server.cpu_seconds() - server;
        self.add(3, many.bytes);
        self.add(4, server / (many.bytes * f64::from(WRK_SECONDS)) * 1e9);
        Ok(())
    }

    /// Small answers, ranges and manifests.
    fn requests(&mut self) -> Result<()> {
        let url = |path: String| self.server.url(self.via, &path);
        let small = url(Files::path(facts::CHANNEL, "vmlinuz"));
        let large = url(Files::path(facts::CHANNEL, "rootfs.squashfs"));
        let manifest = url(Files::path(RELEASE, "manifest.json"));
        let wrk = self.wrk(1, SMALL_CONNECTIONS, &small, false)?;
        self.add(5, wrk.requests);
        self.add(6, wrk.p50);
        self.add(7, wrk.p99);
        let ranges = self.wrk(2, RANGE_CONNECTIONS, &large, true)?;
        let bytes = ranges.bytes / ranges.requests;
        ensure!(
            (0.8..1.5).contains(&(bytes / RANGE_BYTES as f64)),
            "{} answers a range of {RANGE_BYTES} bytes with {bytes:.0}",
            self.server.name
        );
        self.add(8, ranges.bytes);
        // Only ours makes manifests; the rival's small file is what they are held against.
        let is_ours = self.server.name == "plasmd";
        let rate = if is_ours {
            self.wrk(1, SMALL_CONNECTIONS, &manifest, false)?.requests
        } else {
            wrk.requests
        };
        self.add(9, rate);
        Ok(())
    }

    fn wrk(&self, threads: u32, connections: u32, url: &str, ranges: bool) -> Result<Wrk> {
        let mut wrk = self.place.client(self.via, "wrk");
        wrk.arg("--latency")
            .args(["--threads", &threads.to_string()])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{WRK_SECONDS}s"), "--timeout", "30s"]);
        if ranges {
            wrk.arg("--script").arg(self.files.range_script());
        }
        Wrk::parse(&client::run(wrk.arg(url))?)
    }
}

/// Downloads one URL after the other over one connection.
pub fn curl(place: &Place, via: Via, urls: &[String]) -> Result<Vec<Download>> {
    let mut curl = place.client(via, "curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--write-out",
        CURL_FORMAT,
    ]);
    for url in urls {
        curl.args(["--output", "/dev/null", url]);
    }
    Download::parse_all(&client::run(&mut curl)?)
}
