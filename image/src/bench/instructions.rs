//! How many instructions the hot paths take, counted by callgrind: a figure that noise does not change.
//!
//! Requests are counted as the difference between two batches, so that connecting and waking up do not count. Only what a
//! program itself executes is counted, not the kernel for it. valgrind knows no SHA instructions, so hashing is counted as it
//! is on processors without them.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::asker::Asker;
use super::client;
use super::figure::{Board, Figure, Unit};
use super::files::{Files, RELEASE};
use super::limits::{COUNTED_BATCHES, COUNTED_LARGE_BYTES, COUNTED_MIB, RANGE_BYTES};
use super::machines::free_port;
use super::place::{Place, Via};
use super::server::{self, Running};
use crate::facts;

/// Ours.
const PLASMD: &str = "plasmd";

/// The rival of the server.
const NGINX: &str = "nginx";

/// The rivals of hashing and fetching.
const OPENSSL: &str = "openssl";
const CURL: &str = "curl && sha256sum";

const REQUEST: &str = "request of 4 KiB";
const RANGE: &str = "request of a range of 1 MiB";
const MANIFEST: &str = "request of a manifest, against 4 KiB";
const HASHING: &str = "hashing for a manifest, per MiB";
const FETCHING: &str = "fetching and verifying, per MiB";

/// Counts.
///
/// # Errors
/// When valgrind cannot run a program, or counts nothing.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    notes.push(
        "counted once: user space only, and hashing without the processor's SHA instructions"
            .into(),
    );
    let place = Place::here();
    let files = Files::with_large(&bench.programs.plasmd, COUNTED_LARGE_BYTES)?;
    let mut board = Board::default();
    {
        let port = free_port()?;
        let mut command = callgrind(&files, &port.to_string(), false);
        command.arg(&bench.programs.plasmd);
        server::serve(&mut command, &files, place.bind(), port);
        let counted = Counted::start(PLASMD, command, port, &files, &place)?;
        for (row, path, range) in [
            (REQUEST, Files::path(facts::CHANNEL, "vmlinuz"), None),
            (
                RANGE,
                Files::path(facts::CHANNEL, "rootfs.squashfs"),
                Some(0..RANGE_BYTES),
            ),
            (MANIFEST, Files::path(RELEASE, "manifest.json"), None),
        ] {
            bench.progress.note("instructions", row);
            board.add(row, PLASMD, counted.per_request(&path, range)?);
        }
    }
    nginx(bench, &files, &place, &mut board)?;
    bench.progress.note("instructions", HASHING);
    hashing(bench, &mut board)?;
    bench.progress.note("instructions", FETCHING);
    fetching(bench, &place, &mut board)?;
    let rows = [
        (REQUEST, NGINX),
        (RANGE, NGINX),
        (MANIFEST, NGINX),
        (HASHING, OPENSSL),
        (FETCHING, CURL),
    ];
    let rows = rows.into_iter();
    Ok(rows
        .filter_map(|(row, rival)| board.figure(row, Unit::Instructions, None, PLASMD, &[rival]))
        .collect())
}

fn nginx(bench: &Bench, files: &Files, place: &Place, board: &mut Board) -> Result<()> {
    let port = free_port()?;
    let configuration = "master_process off; events {}\n\
        http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n";
    let plain = server::nginx_command(
        place.server(&bench.programs.nginx),
        files,
        place.bind(),
        port,
        configuration,
    )?;
    let mut command = callgrind(files, &port.to_string(), false);
    command.arg(plain.get_program()).args(plain.get_args());
    let counted = Counted::start(NGINX, command, port, files, place)?;
    for (row, path, range) in [
        (REQUEST, Files::path(facts::CHANNEL, "vmlinuz"), None),
        (
            RANGE,
            Files::path(facts::CHANNEL, "rootfs.squashfs"),
            Some(0..RANGE_BYTES),
        ),
    ] {
        let count = counted.per_request(&path, range)?;
        board.add(row, NGINX, count);
        if row == REQUEST {
            board.add(MANIFEST, NGINX, count);
        }
    }
    Ok(())
}

/// Two sizes of the same file; their difference is what bytes cost.
fn hashing(bench: &Bench, board: &mut Board) -> Result<()> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for mib in COUNTED_MIB {
        let files = Files::empty()?;
        files.make_key(&bench.programs.plasmd)?;
        let file = files.make(facts::CHANNEL, "vmlinuz", mib << 20)?;
        let (port, place) = (free_port()?, Place::here());
        let out = port.to_string();
        let mut command = callgrind(&files, &out, true);
        command.arg(&bench.programs.plasmd);
        server::serve(&mut command, &files, place.bind(), port);
        let mut server = Running::start(PLASMD, command, port, &files)?;
        let manifest = server.url(Via::Loopback, "/manifest.json");
        server.wait_for(&place, Via::Loopback, &manifest, &files)?;
        // Its counts are written when it ends.
        drop(server);
        ours.push(instructions(&dump(&files, &out))?);
        let mut openssl = callgrind(&files, "openssl", true);
        client::run(openssl.args(["openssl", "dgst", "-sha256"]).arg(&file))?;
        theirs.push(instructions(&dump(&files, "openssl"))?);
    }
    board.add(HASHING, PLASMD, per_mib(&ours)?);
    board.add(HASHING, OPENSSL, per_mib(&theirs)?);
    Ok(())
}

fn fetching(bench: &Bench, place: &Place, board: &mut Board) -> Result<()> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for mib in COUNTED_MIB {
        let files = Files::empty()?;
        files.make_key(&bench.programs.plasmd)?;
        files.make(facts::CHANNEL, "vmlinuz", mib << 20)?;
        let port = free_port()?;
        let mut command = place.server(&bench.programs.plasmd);
        server::serve(&mut command, &files, place.bind(), port);
        let mut server = Running::start(PLASMD, command, port, &files)?;
        let manifest = server.url(Via::Loopback, "/manifest.json");
        server.wait_for(place, Via::Loopback, &manifest, &files)?;
        let mut fetch = callgrind(&files, "fetch", true);
        fetch
            .arg(&bench.programs.plasmd)
            .args(["fetch", "--quiet", "--key"]);
        fetch
            .arg(files.key().with_extension("key.pub"))
            .arg("--output");
        client::run(
            fetch
                .arg(files.folder().join("fetched"))
                .arg(server.url(Via::Loopback, "")),
        )?;
        ours.push(instructions(&dump(&files, "fetch"))?);
        let (copy, url) = (
            files.folder().join("curled"),
            server.url(Via::Loopback, &Files::path(facts::CHANNEL, "vmlinuz")),
        );
        let mut curl = callgrind(&files, "curl", true);
        client::run(curl.args(["curl", "-sSf", "-o"]).arg(&copy).arg(url))?;
        let mut sum = callgrind(&files, "sum", true);
        client::run(sum.arg("sha256sum").arg(&copy))?;
        theirs.push(instructions(&dump(&files, "curl"))? + instructions(&dump(&files, "sum"))?);
    }
    board.add(FETCHING, PLASMD, per_mib(&ours)?);
    board.add(FETCHING, CURL, per_mib(&theirs)?);
    Ok(())
}

/// What one more MiB costs, from the counts of [`COUNTED_MIB`].
fn per_mib(counts: &[f64]) -> Result<f64> {
    let [small, large] = counts[..] else {
        anyhow::bail!("two sizes are counted");
    };
    ensure!(
        large > small,
        "more bytes took fewer instructions: {small} and {large}"
    );
    Ok((large - small) / (COUNTED_MIB[1] - COUNTED_MIB[0]) as f64)
}

/// valgrind, to be followed by a program and its arguments.
fn callgrind(files: &Files, out: &str, from_start: bool) -> Command {
    let begin = if from_start { "yes" } else { "no" };
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind", "--fair-sched=try"])
        .arg(format!("--instr-atstart={begin}"))
        .arg(format!(
            "--callgrind-out-file={}",
            dump(files, out).display()
        ));
    command
}

fn dump(files: &Files, out: &str) -> PathBuf {
    files.folder().join(format!("callgrind-{out}"))
}

/// A server that is counted.
struct Counted {
    server: Running,
    out: PathBuf,
    dumps: std::cell::Cell<u32>,
}

impl Counted {
    fn start(
        name: &str,
        command: Command,
        port: u16,
        files: &Files,
        place: &Place,
    ) -> Result<Self> {
        let mut server = Running::start(name, command, port, files)?;
        // Hashing has ended when the manifests are there.
        for (channel, file) in [
            (facts::CHANNEL, "vmlinuz"),
            (facts::CHANNEL, "manifest.json"),
            (RELEASE, "manifest.json"),
        ] {
            if name == PLASMD || file == "vmlinuz" {
                let url = server.url(Via::Loopback, &Files::path(channel, file));
                server.wait_for(place, Via::Loopback, &url, files)?;
            }
        }
        let counted = Self {
            out: dump(files, &port.to_string()),
            server,
            dumps: std::cell::Cell::new(0),
        };
        counted.control(&["-i", "on"])?;
        Ok(counted)
    }

    fn control(&self, arguments: &[&str]) -> Result<String> {
        let id = self.server.id().to_string();
        client::run(Command::new("callgrind_control").args(arguments).arg(id))
    }

    /// Instructions of one more request on a connection that is used already.
    fn per_request(&self, path: &str, range: Option<Range<u64>>) -> Result<f64> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.server.port()));
        let mut asker = Asker::to(address)?;
        let mut batch = |count: u32| -> Result<f64> {
            for _ in 0..count {
                asker.get(path, range.clone())?;
            }
            self.count()
        };
        // The first one is for warming up.
        batch(COUNTED_BATCHES[0])?;
        let (few, many) = (batch(COUNTED_BATCHES[0])?, batch(COUNTED_BATCHES[1])?);
        Ok((many - few) / f64::from(COUNTED_BATCHES[1] - COUNTED_BATCHES[0]))
    }

    /// Instructions since the last time.
    fn count(&self) -> Result<f64> {
        self.control(&["-d"])?;
        let number = self.dumps.get() + 1;
        self.dumps.set(number);
        let mut name = self.out.clone().into_os_string();
        name.push(format!(".{number}"));
        instructions(Path::new(&name))
    }
}

/// The instructions of a dump.
fn instructions(path: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("callgrind wrote no {}", path.display()))?;
    total(&text).with_context(|| format!("{} has no total", path.display()))
}

fn total(dump: &str) -> Option<f64> {
    let lines = dump.lines();
    // `summary` stands at the beginning of dumps in pieces, `totals` at the end of whole ones.
    let mut found = lines.filter_map(|line| {
        let value = line
            .strip_prefix("summary:")
            .or_else(|| line.strip_prefix("totals:"))?;
        value.trim().parse().ok()
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_totals_are_found() {
        let dump = "# callgrind format\nversion: 1\npid: 8\ndesc: Trigger: Client Request\n\npositions: line\n\
            events: Ir\nsummary: 58596\n\n\nob=(2) ???\nfn=(4164) 0x52b290\n0 4\ntotals: 58596\n";
        assert_eq!(total(dump), Some(58596.0));
        assert_eq!(total("events: Ir\n0 4\ntotals: 12\n"), Some(12.0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn the_difference_of_two_sizes_is_what_bytes_cost() {
        let mib = (COUNTED_MIB[1] - COUNTED_MIB[0]) as f64;
        assert_eq!(per_mib(&[100.0, 100.0 + 7.0 * mib]).unwrap(), 7.0);
        assert!(per_mib(&[100.0, 50.0]).is_err());
        assert!(per_mib(&[100.0]).is_err());
    }
}
