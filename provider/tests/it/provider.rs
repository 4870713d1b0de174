//! A running `plasmd serve` and the clients that ask it, for the tests beside it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub(crate) const PLASMD: &str = env!("CARGO_BIN_EXE_plasmd");

/// How long anything may take before a test says that it hangs. Builds may share the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An artifacts directory that other users can read.
pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        use std::os::unix::fs::PermissionsExt as _;

        let tree = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(tree.root(), fs::Permissions::from_mode(0o755)).unwrap();
        for (path, content) in files {
            tree.write(path, content);
        }
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Puts another file under the name, as a careful operator does.
    pub(crate) fn replace(&self, path: &str, content: &[u8]) {
        self.write(".new", content);
        fs::rename(self.path(".new"), self.path(path)).unwrap();
    }
}

/// A provider on a free port of 127.0.0.1. It is killed when dropped.
pub(crate) struct Provider {
    child: Child,
    /// In a lock only so that threads of a test can share the provider.
    log: Mutex<Receiver<String>>,
    lines: Vec<String>,
    pub(crate) address: SocketAddr,
}

/// An answer as curl saw it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head as it was on the wire.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Provider {
    /// Serves `root` with further flags.
    pub(crate) fn start(root: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(PLASMD);
        command.args([
            "serve",
            "--no-mdns",
            "--bind",
            "127.0.0.1",
            "--port",
            "0",
            "--artifacts",
        ]);
        command.arg(root).args(flags);
        Self::spawn(&mut command)
    }

    /// Serves as a user that owns nothing, when this one is root.
    pub(crate) fn start_unprivileged(root: &Path) -> Self {
        let mut command = Command::new(PLASMD);
        command.args([
            "serve",
            "--no-mdns",
            "--bind",
            "127.0.0.1",
            "--port",
            "0",
            "--artifacts",
        ]);
        command.arg(root);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        Self::spawn(&mut command)
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut provider = Self {
            child,
            log: Mutex::new(log),
            lines: Vec::new(),
            address,
        };
        let line = provider.wait_for_log("serving url=");
        let url = line
            .split("http://")
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        provider.address = url.parse().unwrap();
        provider
    }

    /// Forgets the lines seen so far, so that the next wait is for a new one.
    pub(crate) fn forget_log(&mut self) {
        self.lines.clear();
    }

    /// Waits for a line of the log; one that was seen before counts.
    pub(crate) fn wait_for_log(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match self
                .log
                .get_mut()
                .unwrap()
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.lines.push(line),
                Err(error) => panic!(
                    "no {part:?} in the log ({error}):\n{}",
                    self.lines.join("\n")
                ),
            }
        }
    }

    /// Everything logged, once the process has ended.
    pub(crate) fn whole_log(&mut self) -> String {
        loop {
            match self.log.get_mut().unwrap().recv_timeout(PATIENCE) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.lines.join("\n"),
                Err(RecvTimeoutError::Timeout) => panic!("the log does not end"),
            }
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// One request by curl, the path exactly as given.
    pub(crate) fn curl(&self, path: &str, flags: &[&str]) -> Answer {
        let answer = curl(&self.url(path), flags);
        answer.unwrap_or_else(|problem| panic!("curl {path} {flags:?}: {problem}"))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.curl(path, &[])
    }

    /// Sends bytes and reads until the provider closes the connection.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What the process has open.
    pub(crate) fn open_files(&self) -> Vec<String> {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|path| path.to_string_lossy().into_owned())
            .collect()
    }

    /// Memory that the process holds now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let pages = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        let resident: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
        resident * rustix::param::page_size() as u64
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "plasmd does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap()
            + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head,
            body: bytes[end..].to_vec(),
        }
    }

    /// The fields, their names in lower case.
    pub(crate) fn fields(&self) -> HashMap<String, String> {
        let pairs = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        pairs
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect()
    }

    pub(crate) fn field(&self, name: &str) -> String {
        self.fields().remove(name).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Runs a command of plasmd to its end.
pub(crate) fn plasmd(arguments: &[&str]) -> Output {
    Command::new(PLASMD)
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap()
}

/// What curl gets, or what it says.
pub(crate) fn curl(url: &str, flags: &[&str]) -> Result<Answer, String> {
    let output = Command::new("curl")
        .args(["-s", "-S", "-i", "--path-as-is", "--max-time", "30"])
        .args(flags)
        .arg(url)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(Answer::parse(&output.stdout)),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Calls `probe` until it gives something.
pub(crate) fn wait_until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}
