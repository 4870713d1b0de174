//! `plasmd serve` beside nginx: the same files, the same clients, turn by turn on this machine's loopback.
//!
//! nginx is measured with tcp_nopush on and off, because loopback halves it with one of them, and the better one counts.
//! Everything stays on 127.0.0.1.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::machines::free_port;
use super::median;
use crate::packages;
use crate::paths::Paths;
use crate::progress::{Progress, size};
use crate::{facts, http};

/// Rounds; each measures every server once, and the median of the rounds counts.
const ROUNDS: usize = 3;

/// Size of the large file.
const LARGE_BYTES: u64 = 1 << 30;

/// Size of the small file.
const SMALL_BYTES: usize = 4096;

/// How the folder of the files is called, before the number of the process.
const FOLDER: &str = "phase-bench-";

/// The servers, as the table names them.
const SERVERS: [&str; 3] = ["plasmd", "nginx, tcp_nopush on", "nginx, tcp_nopush off"];

/// What one server gave: medians of the rounds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Server {
    /// Name.
    pub name: &'static str,
    /// One download of 1 GiB, bytes a second.
    pub one_stream: f64,
    /// Sixteen at a time, bytes a second altogether.
    pub sixteen_streams: f64,
    /// Requests of 4 KiB a second over 64 connections.
    pub small_requests: f64,
    /// Resident memory of all its processes afterwards, in KiB.
    pub resident_kib: u64,
}

/// What the servers gave.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// One entry a server, ours first.
    pub servers: Vec<Server>,
    /// Ours over the better nginx: one stream, sixteen, small requests.
    pub ratios: [f64; 3],
}

/// Measures.
///
/// # Errors
/// When a server or a client cannot be started, or says something unexpected.
pub fn measure(paths: &Paths, plasmd: &Path, progress: &Progress) -> Result<Figures> {
    let started = Instant::now();
    progress.begin("serving");
    let nginx = packages::unpacked("nginx", "nginx", &paths.output("nginx"))?;
    let files = Files::make()?;
    let servers = [
        Running::plasmd(plasmd, &files)?,
        Running::nginx(&nginx, &files, "on")?,
        Running::nginx(&nginx, &files, "off")?,
    ];
    let mut measured = vec![Measured::default(); servers.len()];
    for round in 0..ROUNDS {
        // Another order each time, so that nobody always comes after the same neighbour.
        for turn in 0..servers.len() {
            let index = (turn + round) % servers.len();
            measured[index].add(&servers[index], &files)?;
        }
    }
    let servers: Vec<Server> = servers
        .iter()
        .zip(&measured)
        .zip(SERVERS)
        .map(|((running, measured), name)| Server {
            name,
            one_stream: median(&measured.one_stream),
            sixteen_streams: median(&measured.sixteen_streams),
            small_requests: median(&measured.small_requests),
            resident_kib: running.resident_kib(),
        })
        .collect();
    progress.end("serving", "done", started.elapsed());
    let ratio = |figure: fn(&Server) -> f64| {
        let nginx = servers[1..]
            .iter()
            .map(figure)
            .fold(f64::MIN_POSITIVE, f64::max);
        figure(&servers[0]) / nginx
    };
    let ratios = [
        ratio(|server| server.one_stream),
        ratio(|server| server.sixteen_streams),
        ratio(|server| server.small_requests),
    ];
    Ok(Figures { servers, ratios })
}

impl Figures {
    /// The figures as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<24} {:>12} {:>12} {:>12} {:>12}\n",
            "served on loopback", "1 x 1 GiB", "16 x 1 GiB", "4 KiB", "resident"
        );
        for server in &self.servers {
            text.push_str(&format!(
                "{:<24} {:>7.2} GB/s {:>7.2} GB/s {:>6.0} req/s {:>12}\n",
                server.name,
                server.one_stream / 1e9,
                server.sixteen_streams / 1e9,
                server.small_requests,
                size(server.resident_kib * 1024),
            ));
        }
        let [one, sixteen, small] = self.ratios;
        let name = "plasmd / better nginx";
        text.push_str(&format!(
            "{name:<24} {one:>11.2}x {sixteen:>11.2}x {small:>11.2}x\n"
        ));
        text
    }
}

/// The files that are served, in memory, removed at the end.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn make() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        remove_leftovers(memory, Path::new("/proc"));
        let folder = memory.join(format!("{FOLDER}{}", std::process::id()));
        // Never a folder that is there already: everybody may make one in this place, and nginx is configured in it.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("create {}", folder.display()))?;
        let files = Self { folder };
        let below = files.artifacts();
        std::fs::create_dir_all(&below).with_context(|| format!("create {}", below.display()))?;
        let mut large = File::create(below.join("rootfs.squashfs"))?;
        let block: Vec<u8> = (0..1 << 20)
            .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        for _ in 0..LARGE_BYTES / block.len() as u64 {
            large
                .write_all(&block)
                .context("1 GiB does not fit into /dev/shm")?;
        }
        std::fs::write(below.join("vmlinuz"), &block[..SMALL_BYTES])?;
        Ok(files)
    }

    fn artifacts(&self) -> PathBuf {
        self.folder.join(facts::CHANNEL).join(facts::ARCH.as_str())
    }

    fn url(port: u16, name: &str) -> String {
        format!(
            "http://127.0.0.1:{port}/{}/{}/{name}",
            facts::CHANNEL,
            facts::ARCH.as_str()
        )
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes what benches left that were killed: 1 GiB of memory each.
fn remove_leftovers(memory: &Path, processes: &Path) {
    for entry in std::fs::read_dir(memory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(FOLDER));
        if process.is_some_and(|process| !processes.join(process).exists()) {
            // What another user left is not ours to remove.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A server that is killed when it is dropped.
struct Running {
    child: Child,
    port: u16,
}

impl Running {
    fn plasmd(plasmd: &Path, files: &Files) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(plasmd);
        command
            .args([
                "serve",
                "--no-mdns",
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--artifacts",
            ])
            .arg(&files.folder)
            .env_remove("RUST_LOG");
        Self::start(command, port, files)
    }

    fn nginx(nginx: &Path, files: &Files, nopush: &str) -> Result<Self> {
        let port = free_port()?;
        let folder = files.folder.join(format!("nginx-{nopush}"));
        std::fs::create_dir_all(&folder)?;
        let shown = folder.display();
        // Workers of a server started by root would run as another user, who may not read the files.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let configuration = format!(
            "{user} daemon off; worker_processes 2; pid {shown}/pid; error_log stderr crit;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush {nopush}; keepalive_requests 1000000000;\n\
             client_body_temp_path {shown}/1; proxy_temp_path {shown}/2; fastcgi_temp_path {shown}/3;\n\
             uwsgi_temp_path {shown}/4; scgi_temp_path {shown}/5;\n\
             server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
            files.folder.display()
        );
        std::fs::write(folder.join("nginx.conf"), configuration)?;
        let mut command = Command::new(nginx);
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"));
        Self::start(command, port, files)
    }

    /// Starts a server and waits until it gives the small file whole.
    fn start(mut command: Command, port: u16, files: &Files) -> Result<Self> {
        const LIMIT: Duration = Duration::from_secs(30);
        let log = files.folder.join(format!("server-{port}.log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        let mut running = Self { child, port };
        let started = Instant::now();
        let path = format!("/{}/{}/vmlinuz", facts::CHANNEL, facts::ARCH.as_str());
        loop {
            if let Ok(answer) = http::get(port, &path, Duration::from_secs(2)) {
                ensure!(
                    answer.status == 200 && answer.body.len() == SMALL_BYTES,
                    "a server answers {} with {} bytes",
                    answer.status,
                    answer.body.len()
                );
                return Ok(running);
            }
            if running.child.try_wait()?.is_some() || started.elapsed() > LIMIT {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "{} does not serve: {}",
                    command.get_program().to_string_lossy(),
                    said.trim()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory of the process and its children.
    fn resident_kib(&self) -> u64 {
        let id = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|child| child.parse().ok());
        std::iter::once(id)
            .chain(children)
            .filter_map(resident_kib)
            .sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx ends its workers when it is asked to, and leaves them behind when it is killed.
        if let Ok(id) = i32::try_from(self.child.id())
            && let Some(id) = rustix::process::Pid::from_raw(id)
        {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resident_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The figures of one server, one entry a round.
#[derive(Debug, Clone, Default)]
struct Measured {
    one_stream: Vec<f64>,
    sixteen_streams: Vec<f64>,
    small_requests: Vec<f64>,
}

impl Measured {
    fn add(&mut self, server: &Running, files: &Files) -> Result<()> {
        let large = Files::url(server.port, "rootfs.squashfs");
        let small = Files::url(server.port, "vmlinuz");
        ensure!(files.artifacts().exists(), "the files have gone");
        let curl = client(
            "curl",
            &[
                "--silent",
                "--fail",
                "--output",
                "/dev/null",
                "--write-out",
                "%{size_download} %{speed_download}",
                &large,
            ],
        )?;
        let (bytes, speed) = curl
            .split_once(' ')
            .context("curl says something unexpected")?;
        ensure!(bytes.parse() == Ok(LARGE_BYTES), "curl got {bytes} bytes");
        self.one_stream.push(
            speed
                .trim()
                .parse()
                .context("curl says something unexpected")?,
        );
        let many = client(
            "wrk",
            &[
                "--threads",
                "2",
                "--connections",
                "16",
                "--duration",
                "3s",
                &large,
            ],
        )?;
        self.sixteen_streams
            .push(wrk_figure(&many, "Transfer/sec:").context("wrk says no transfer rate")?);
        let requests = client(
            "wrk",
            &[
                "--threads",
                "1",
                "--connections",
                "64",
                "--duration",
                "4s",
                &small,
            ],
        )?;
        ensure!(
            !requests.contains("Non-2xx"),
            "a server gave errors: {requests}"
        );
        self.small_requests
            .push(wrk_figure(&requests, "Requests/sec:").context("wrk says no request rate")?);
        Ok(())
    }
}

fn client(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        errors.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number behind `name` in wrk's report. Its units are powers of 1024.
fn wrk_figure(report: &str, name: &str) -> Option<f64> {
    let line = report
        .lines()
        .find_map(|line| line.trim().strip_prefix(name))?;
    let value = line.trim().trim_end_matches('B');
    let (number, factor) = match value.chars().last()? {
        'K' => (&value[..value.len() - 1], 1024.0),
        'M' => (&value[..value.len() - 1], 1024.0 * 1024.0),
        'G' => (&value[..value.len() - 1], 1024.0 * 1024.0 * 1024.0),
        _ => (value, 1.0),
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_bench_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, processes) = (folder.path().join("shm"), folder.path().join("proc"));
        for name in ["phase-bench-1", "phase-bench-2", "other-1"] {
            std::fs::create_dir_all(memory.join(name).join("deep")).unwrap();
        }
        std::fs::create_dir_all(processes.join("2")).unwrap();
        remove_leftovers(&memory, &processes);
        let exist = |name: &str| memory.join(name).exists();
        assert!(!exist("phase-bench-1") && exist("phase-bench-2") && exist("other-1"));
    }

    #[test]
    fn wrks_report_is_understood() {
        let report = "  4 requests in 3.00s, 6.70GB read\nRequests/sec:  71234.50\nTransfer/sec:      2.50GB\n";
        assert_eq!(wrk_figure(report, "Requests/sec:"), Some(71234.5));
        assert_eq!(
            wrk_figure(report, "Transfer/sec:"),
            Some(2.5 * 1024.0 * 1024.0 * 1024.0)
        );
        assert_eq!(
            wrk_figure("Transfer/sec:    500.00MB", "Transfer/sec:"),
            Some(500.0 * 1048576.0)
        );
        assert_eq!(
            wrk_figure("Transfer/sec:      0.00B", "Transfer/sec:"),
            Some(0.0)
        );
        assert_eq!(wrk_figure("nothing", "Requests/sec:"), None);
    }

    #[test]
    fn the_table_shows_the_ratio_to_the_better_nginx() {
        let server = |name, one_stream| Server {
            name,
            one_stream,
            ..Server::default()
        };
        let figures = Figures {
            servers: vec![server("plasmd", 3e9), server("nginx", 1.5e9)],
            ratios: [2.0, 1.0, 1.5],
        };
        let table = figures.table();
        assert!(
            table.contains("3.00 GB/s") && table.contains("2.00x"),
            "{table}"
        );
    }
}
