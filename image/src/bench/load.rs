//! What a crowd costs: ten thousand idle connections, then a thousand slow readers, and how a normal client fares beside them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Bench;
use super::client::{CURL_FORMAT, Download};
use super::crowd::Kind;
use super::figure::{Board, Figure, Goal, Unit, median};
use super::files::Files;
use super::limits::{
    BESIDE_DOWNLOADS, BESIDE_REQUESTS, BESIDE_SECONDS, FILES_SPARE, IDLE_CROWD, MEDIUM_BYTES,
    SLOW_CROWD, SMALL_BYTES,
};
use super::place::{Place, Via};
use super::server::{NOPUSH, Running};
use crate::facts;

/// What plasmd may have resident with all the idle connections.
const CROWD_BYTES: f64 = 60e6;

/// A crowd and what it asks for.
const CROWDS: [(Kind, usize, &str); 2] = [
    (Kind::Idle, IDLE_CROWD, "vmlinuz"),
    (Kind::Slow, SLOW_CROWD, "rootfs.squashfs"),
];

/// Normal clients: the file, how it is called, its size, and how often it is fetched.
const CLIENTS: [(&str, &str, u64, usize); 2] = [
    ("vmlinuz", "4 KiB", SMALL_BYTES, BESIDE_REQUESTS),
    ("initramfs.img", "64 MiB", MEDIUM_BYTES, BESIDE_DOWNLOADS),
];

/// Measures.
///
/// # Errors
/// When a server, a client or the crowd cannot be started.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let limit = raise_files();
    let room = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(FILES_SPARE);
    if room < IDLE_CROWD {
        notes.push(format!(
            "the limit of {limit} open files allows {room} connections only"
        ));
    }
    let (place, programs) = (Place::here(), &bench.programs);
    let files = Files::to_serve(&programs.plasmd)?;
    let seats = u32::try_from(IDLE_CROWD * 2)?;
    let servers = [
        Running::plasmd(&programs.plasmd, &files, &place, &[])?,
        Running::nginx(&programs.nginx, &files, &place, NOPUSH[0], seats)?,
    ];
    let mut board = Board::default();
    for server in &servers {
        beside(&place, server, None, &mut board)?;
    }
    for round in 0..bench.rounds {
        bench
            .progress
            .note("load", &format!("round {} of {}", round + 1, bench.rounds));
        for crowd in CROWDS {
            for number in 0..servers.len() {
                let server = &servers[(number + round) % servers.len()];
                let crowd = (crowd.0, crowd.1.min(room), crowd.2);
                under(&place, server, crowd, &mut board, notes)?;
            }
        }
    }
    notes.dedup();
    Ok(figures(&board, &servers, room))
}

/// One crowd at one server.
fn under(
    place: &Place,
    server: &Running,
    (kind, count, file): (Kind, usize, &str),
    board: &mut Board,
    notes: &mut Vec<String>,
) -> Result<()> {
    let path = Files::path(facts::CHANNEL, file);
    let mut crowd = Crowd::gather(server, kind, count, &path)?;
    let name = name(kind);
    if !crowd.reason.is_empty() {
        let (held, reason) = (crowd.held, &crowd.reason);
        notes.push(format!("{} held {held} {name}: {reason}", server.name));
    }
    beside(place, server, Some(kind), board)?;
    let memory = server.resident_bytes() as f64;
    board.add(&format!("memory with {name}"), &server.name, memory);
    let left = crowd.end()?;
    board.add(&format!("connections of {name}"), &server.name, left as f64);
    Ok(())
}

/// How long a normal client waits meanwhile, and how often it gets nothing.
fn beside(place: &Place, server: &Running, crowd: Option<Kind>, board: &mut Board) -> Result<()> {
    let beside = crowd.map_or_else(
        || "alone".to_owned(),
        |kind| format!("beside {}", name(kind)),
    );
    for (file, size, bytes, count) in CLIENTS {
        let url = server.url(Via::Loopback, &Files::path(facts::CHANNEL, file));
        let mut curl = place.client(Via::Loopback, "curl");
        curl.args([
            "--silent",
            "--max-time",
            BESIDE_SECONDS,
            "--write-out",
            CURL_FORMAT,
        ]);
        if bytes == SMALL_BYTES {
            // A connection of its own for each.
            curl.args(["--header", "Connection: close"]);
        }
        for _ in 0..count {
            curl.args(["--output", "/dev/null", &url]);
        }
        let output = curl.output().context("cannot run curl")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let downloads = said
            .lines()
            .filter_map(|line| Download::parse_all(line).ok()?.pop());
        let whole: Vec<f64> = downloads
            .filter(|download| download.bytes == bytes)
            .map(|download| download.took.as_secs_f64())
            .collect();
        let failed = count - whole.len().min(count);
        board.add(
            &format!("  failed of {count}, {size} {beside}"),
            &server.name,
            failed as f64,
        );
        if !whole.is_empty() {
            board.add(&format!("{size} {beside}"), &server.name, median(&whole));
            let most = whole.iter().copied().fold(0.0, f64::max);
            board.add(
                &format!("  longest of {count}, {size} {beside}"),
                &server.name,
                most,
            );
        }
    }
    Ok(())
}

fn name(kind: Kind) -> String {
    match kind {
        Kind::Idle => format!("{IDLE_CROWD} idle"),
        Kind::Slow => format!("{SLOW_CROWD} slow readers"),
    }
}

fn figures(board: &Board, servers: &[Running], room: usize) -> Vec<Figure> {
    let mut rows = vec![
        ("4 KiB alone".to_owned(), Unit::Seconds, None),
        ("64 MiB alone".to_owned(), Unit::Seconds, None),
    ];
    for (kind, count, _) in CROWDS {
        let name = name(kind);
        let held = Some(Goal::AtLeast(count.min(room) as f64));
        let memory = (kind == Kind::Idle).then_some(Goal::AtMost(CROWD_BYTES));
        rows.push((format!("connections of {name}"), Unit::Count, held));
        rows.push((format!("memory with {name}"), Unit::Bytes, memory));
        for (_, size, _, count) in CLIENTS {
            rows.push((format!("{size} beside {name}"), Unit::Seconds, None));
            let of = format!("of {count}, {size} beside {name}");
            rows.push((format!("  longest {of}"), Unit::Seconds, None));
            rows.push((
                format!("  failed {of}"),
                Unit::Count,
                Some(Goal::AtMost(0.0)),
            ));
        }
    }
    let rivals: Vec<&str> = servers[1..]
        .iter()
        .map(|server| server.name.as_str())
        .collect();
    rows.into_iter()
        .filter_map(|(name, unit, goal)| board.figure(&name, unit, goal, &servers[0].name, &rivals))
        .collect()
}

/// Lets this process and what it starts open as many files as the system allows, and says how many.
fn raise_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it is refused the old limit holds.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The process that holds the connections; it ends with its input.
struct Crowd {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
    held: usize,
    reason: String,
}

impl Crowd {
    fn gather(server: &Running, kind: Kind, count: usize, path: &str) -> Result<Self> {
        let kind = kind.to_possible_value().context("every kind has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["crowd", "--server", &format!("127.0.0.1:{}", server.port())])
            .args([
                "--count",
                &count.to_string(),
                "--kind",
                kind.get_name(),
                "--path",
                path,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the crowd")?;
        let output = child.stdout.take().context("the crowd has no output")?;
        let mut crowd = Self {
            child,
            said: BufReader::new(output).lines(),
            held: 0,
            reason: String::new(),
        };
        let line = crowd.said.next().context("the crowd says nothing")??;
        let (held, reason) = parse("held", &line).with_context(|| format!("crowd: {line}"))?;
        (crowd.held, crowd.reason) = (held, reason.to_owned());
        Ok(crowd)
    }

    /// Asks how many are still served, and sends them home.
    fn end(&mut self) -> Result<usize> {
        let mut input = self.child.stdin.take().context("the crowd has no input")?;
        writeln!(input, "end")?;
        let line = self.said.next().context("the crowd does not end")??;
        let (left, _) = parse("left", &line).with_context(|| format!("crowd: {line}"))?;
        self.child.wait()?;
        Ok(left)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `held 10 reason` as the number and the reason.
fn parse<'a>(word: &str, line: &'a str) -> Option<(usize, &'a str)> {
    let rest = line.strip_prefix(word)?.strip_prefix(' ')?;
    let (number, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((number.parse().ok()?, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowds_lines_are_understood() {
        assert_eq!(parse("held", "held 10 "), Some((10, "")));
        assert_eq!(
            parse("held", "held 7 connect: refused"),
            Some((7, "connect: refused"))
        );
        assert_eq!(parse("left", "left 3"), Some((3, "")));
        assert_eq!(parse("left", "held 3"), None);
        assert_eq!(parse("left", "left many"), None);
    }

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_allowed() {
        let raised = raise_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(Some(raised), limit.current.or(Some(u64::MAX)));
        assert!(limit.maximum.is_none_or(|maximum| raised <= maximum));
    }
}
