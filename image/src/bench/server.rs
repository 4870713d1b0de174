//! The servers that are measured: started with the same files, waited for, and ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::client::{self, CURL_FORMAT, Download};
use super::files::Files;
use super::lan::Lan;
use super::limits::{END_LIMIT, LAN_CONNECTIONS, LAN_PORT, LOOK_PERIOD, SMALL_BYTES, START_LIMIT};
use super::machines::free_port;
use super::place::{Place, Via};
use super::process;
use crate::facts;

/// nginx's tcp_nopush: it halves a single stream on loopback and makes small files faster, so both are measured.
pub const NOPUSH: [&str; 2] = ["on", "off"];

/// What keeps `plasmd serve` from telling anybody of itself.
const QUIET: [&str; 2] = ["--no-mdns", "--no-dht"];

/// nginx's worker processes: as many as plasmd has threads.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The programs that serve.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Ours.
    pub plasmd: PathBuf,
    /// The rival.
    pub nginx: PathBuf,
}

/// A server that is ended when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    port: u16,
    /// As the tables call it.
    pub name: String,
}

impl Running {
    /// `plasmd serve` with the key of `files`, and more arguments.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn plasmd(plasmd: &Path, files: &Files, place: &Place, more: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let mut command = place.server(plasmd);
        serve(&mut command, files, place.bind(), port).args(more);
        let mut running = Self::start("plasmd", command, port, files)?;
        let small = running.url(Via::Loopback, &small_file());
        running.wait_for(place, Via::Loopback, &small, files)?;
        Ok(running)
    }

    /// `plasmd serve` on one of several servers' machines; its manifest is ready.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn nth_plasmd(plasmd: &Path, files: &Files, place: &Place, number: u8) -> Result<Self> {
        let port = free_port()?;
        let mut command = place.nth_server(number, plasmd);
        serve(&mut command, files, place.bind(), port);
        let mut running = Self::start(&format!("plasmd {number}"), command, port, files)?;
        let base = format!("http://{}:{port}", Place::nth_address(number));
        for path in ["/manifest.json", &small_file()] {
            running.wait_for(place, Via::Veth, &format!("{base}{path}"), files)?;
        }
        Ok(running)
    }

    /// nginx with two workers, no access log, and room for so many connections.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn nginx(
        nginx: &Path,
        files: &Files,
        place: &Place,
        nopush: &str,
        connections: u32,
    ) -> Result<Self> {
        let port = free_port()?;
        let command = nginx_command(
            place.server(nginx),
            files,
            place.bind(),
            port,
            &configuration(nopush, connections),
        )?;
        let name = format!("nginx, tcp_nopush {nopush}");
        let mut running = Self::start(&name, command, port, files)?;
        let small = running.url(Via::Loopback, &small_file());
        running.wait_for(place, Via::Loopback, &small, files)?;
        Ok(running)
    }

    /// `plasmd serve`, and more arguments, on a host of a LAN; its manifest is ready.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn plasmd_on(
        plasmd: &Path,
        files: &Files,
        (lan, host): (&Lan, usize),
        more: &[&str],
    ) -> Result<Self> {
        let mut running = Self::member_on(plasmd, files, (lan, host), &QUIET, more)?;
        let url = format!(
            "http://{}:{}/manifest.json",
            Lan::address(host),
            running.port
        );
        running.wait_until(|| lan.command(host, Path::new("curl")), &url, files)?;
        Ok(running)
    }

    /// `plasmd serve` as [`Self::plasmd_on`], which is found except as `unfound` forbids; nobody waits for it.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn member_on(
        plasmd: &Path,
        files: &Files,
        (lan, host): (&Lan, usize),
        unfound: &[&str],
        more: &[&str],
    ) -> Result<Self> {
        let port = lan_port();
        let mut command = lan.command(host, plasmd);
        serve_found(&mut command, files, ("0.0.0.0", port), unfound).args(more);
        Self::start(&format!("plasmd on {host}"), command, port, files)
    }

    /// Ends it as a power cut does: it says goodbye to nobody.
    pub fn cut(mut self) {
        let _ = self.child.kill();
    }

    /// nginx on a host of a LAN.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn nginx_on(nginx: &Path, files: &Files, (lan, host): (&Lan, usize)) -> Result<Self> {
        let port = lan_port();
        let settings = configuration(NOPUSH[0], LAN_CONNECTIONS);
        let command = nginx_command(lan.command(host, nginx), files, "0.0.0.0", port, &settings)?;
        let mut running = Self::start("nginx", command, port, files)?;
        let url = format!("http://{}:{port}{}", Lan::address(host), small_file());
        running.wait_until(|| lan.command(host, Path::new("curl")), &url, files)?;
        Ok(running)
    }

    /// Starts a server without waiting for it.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(name: &str, mut command: Command, port: u16, files: &Files) -> Result<Self> {
        let log = log(files, port);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        Ok(Self {
            child,
            port,
            name: name.to_owned(),
        })
    }

    /// dnsmasq, started and waited for until it says `word`.
    ///
    /// # Errors
    /// When there is no such program, or it does not say that in time.
    pub fn start_dnsmasq(command: Command, word: &str, files: &Files) -> Result<Self> {
        // No port of its own that could be asked for; the log's name is all it is used for.
        let running = Self::start("dnsmasq", command, 0, files)?;
        let deadline = Instant::now() + START_LIMIT;
        while !running.said(files).contains(word) {
            if Instant::now() > deadline {
                bail!("dnsmasq does not serve: {}", running.said(files));
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(running)
    }

    /// Waits until it gives what is at `url`; the small file must come whole.
    ///
    /// # Errors
    /// When it ends, says something else, or nothing for long.
    pub fn wait_for(&mut self, place: &Place, via: Via, url: &str, files: &Files) -> Result<()> {
        self.wait_until(|| place.client(via, "curl"), url, files)
    }

    /// The same with a curl that runs elsewhere.
    fn wait_until(&mut self, curl: impl Fn() -> Command, url: &str, files: &Files) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let mut curl = curl();
            curl.args([
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                CURL_FORMAT,
                url,
            ]);
            if let Ok(said) = client::run(&mut curl) {
                let downloads = Download::parse_all(&said)?;
                ensure!(
                    !url.ends_with("/vmlinuz")
                        || downloads
                            .first()
                            .is_some_and(|one| one.bytes == SMALL_BYTES),
                    "{} gives something else than the file: {downloads:?}",
                    self.name
                );
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{} does not serve: {}", self.name, self.said(files));
            }
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    /// What it wrote to its standard error.
    pub fn said(&self, files: &Files) -> String {
        let said = std::fs::read_to_string(log(files, self.port)).unwrap_or_default();
        said.trim().to_owned()
    }

    /// The URL of a path of this server, for clients that come this way.
    pub fn url(&self, via: Via, path: &str) -> String {
        format!("http://{}:{}{path}", via.address(), self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of its first process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor seconds it has used.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.id())
    }

    /// Memory of all its processes.
    pub fn resident_bytes(&self) -> u64 {
        process::resident_bytes(self.id())
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
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the small file.
fn small_file() -> String {
    Files::path(facts::CHANNEL, "vmlinuz")
}

/// A port for a server on a LAN of the bench, where all are free. No two are the same: logs are named by them.
fn lan_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(LAN_PORT);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn log(files: &Files, port: u16) -> PathBuf {
    files.folder().join(format!("server-{port}.log"))
}

/// The arguments of `plasmd serve` that every measurement has. Without a key it serves the manifest among the files.
pub fn serve<'a>(
    command: &'a mut Command,
    files: &Files,
    address: &str,
    port: u16,
) -> &'a mut Command {
    serve_found(command, files, (address, port), &QUIET)
}

/// The same, found except as `unfound` forbids.
fn serve_found<'a>(
    command: &'a mut Command,
    files: &Files,
    (address, port): (&str, u16),
    unfound: &[&str],
) -> &'a mut Command {
    command
        .args([
            "serve",
            "--bind",
            address,
            "--port",
            &port.to_string(),
            "--control-socket",
            "off",
        ])
        .args(unfound)
        .arg("--artifacts")
        .arg(files.artifacts())
        .env_remove("RUST_LOG");
    if files.key().exists() {
        command.arg("--key").arg(files.key());
    }
    // Nothing but these arguments decides what is measured.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PLASMD_") {
            command.env_remove(name);
        }
    }
    command
}

/// What every nginx here is told besides its address.
fn configuration(nopush: &str, connections: u32) -> String {
    format!(
        "worker_processes {}; worker_rlimit_nofile {};\n\
         events {{ worker_connections {connections}; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush {nopush}; keepalive_requests 1000000000;\n",
        workers(),
        connections * 2
    )
}

/// nginx, as `command` starts it, in a folder of its own; `configuration` ends inside the `http` block.
///
/// # Errors
/// When its configuration cannot be written.
pub fn nginx_command(
    mut command: Command,
    files: &Files,
    address: &str,
    port: u16,
    configuration: &str,
) -> Result<Command> {
    let folder = files.folder().join(format!("nginx-{port}"));
    std::fs::create_dir_all(&folder)?;
    let shown = folder.display();
    // Workers of a server started by root would run as another user, who may not read the files.
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let text = format!(
        "{user} daemon off; pid {shown}/pid; error_log stderr crit;\n{configuration}\
         client_body_temp_path {shown}/1; proxy_temp_path {shown}/2; fastcgi_temp_path {shown}/3;\n\
         uwsgi_temp_path {shown}/4; scgi_temp_path {shown}/5;\n\
         server {{ listen {}:{port} backlog=4096; root {}; location = /manifest.json {{ alias {}; }} }} }}\n",
        address,
        files.artifacts().display(),
        files.manifest().display()
    );
    std::fs::write(folder.join("nginx.conf"), text)?;
    command
        .args(["-e", "stderr", "-p"])
        .arg(&folder)
        .arg("-c")
        .arg(folder.join("nginx.conf"));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_serve_says_what_it_wrote() {
        let files = Files::empty().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo reason >&2; exit 1"]);
        let mut running = Running::start("broken", command, 9, &files).unwrap();
        let url = "http://127.0.0.1:9/";
        let error = running
            .wait_for(&Place::here(), Via::Loopback, url, &files)
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("broken does not serve: reason"), "{text}");
    }

    #[test]
    fn nginx_is_told_what_to_measure_with() {
        let text = configuration("off", 1024);
        for part in [
            "tcp_nopush off;",
            "sendfile on;",
            "access_log off;",
            "worker_connections 1024;",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
