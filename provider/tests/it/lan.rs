//! A LAN of network namespaces: one hub with a bridge `br0`, and hosts with an `eth0` each. Removed when dropped.
//!
//! Needs root and iproute2; `Lan::new` says why when it cannot be had, and the test is then skipped.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The namespaces of one test.
pub(crate) struct Lan {
    id: String,
    hosts: Vec<String>,
    children: Vec<Child>,
    directory: tempfile::TempDir,
}

impl Lan {
    /// A hub and these hosts, links up on the hub's side only. `Err` is why this machine cannot do it.
    pub(crate) fn new(hosts: &[&str]) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("needs root for network namespaces".to_owned());
        }
        let id = format!(
            "ph{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut lan = Self {
            id,
            hosts: Vec::new(),
            children: Vec::new(),
            directory: tempfile::tempdir().map_err(|error| error.to_string())?,
        };
        lan.add("hub")?;
        lan.ip("hub", "link add br0 type bridge")?;
        lan.ip("hub", "link set br0 up")?;
        for host in hosts {
            lan.add(host)?;
            lan.connect(host, "eth0")?;
        }
        Ok(lan)
    }

    /// Gives a host one more interface; the hub's end is named HOST for `eth0` and HOST-NAME for others.
    pub(crate) fn connect(&self, host: &str, name: &str) -> Result<(), String> {
        let near = match name {
            "eth0" => host.to_owned(),
            name => format!("{host}-{name}"),
        };
        let far = self.name(host);
        self.ip(
            "hub",
            &format!("link add {near} type veth peer name {name} netns {far}"),
        )?;
        self.ip("hub", &format!("link set {near} master br0 up"))?;
        Ok(())
    }

    /// A cable between two hosts, beside the hub.
    pub(crate) fn join(
        &self,
        host: &str,
        name: &str,
        other: &str,
        other_name: &str,
    ) -> Result<(), String> {
        let far = self.name(other);
        let cable = format!("link add {name} type veth peer name {other_name} netns {far}");
        self.ip(host, &cable)?;
        Ok(())
    }

    fn add(&mut self, host: &str) -> Result<(), String> {
        run(Command::new("ip").args(["netns", "add", &self.name(host)]))?;
        self.hosts.push(host.to_owned());
        Ok(())
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.id)
    }

    /// A folder for logs and leases.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `ip ARGUMENTS` in a namespace; its output.
    pub(crate) fn ip(&self, host: &str, arguments: &str) -> Result<String, String> {
        run(Command::new("ip")
            .args(["-n", &self.name(host)])
            .args(arguments.split_whitespace()))
    }

    /// Runs something in a namespace, in a thread of its own: what it opens stays there.
    pub(crate) fn within<T: Send>(&self, host: &str, inside: impl FnOnce() -> T + Send) -> T {
        let place = fs::File::open(format!("/run/netns/{}", self.name(host)))
            .expect("the namespace is there");
        let enter = || {
            let network = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(place.as_fd(), Some(network))
                .expect("root may enter it");
            inside()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("it does not panic"))
    }

    /// A command to be run in a namespace. The process is the program itself, no wrapper.
    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(host), program])
            .stdin(Stdio::null());
        command
    }

    /// A real DHCP server on the hub, which has 10.77.0.1 at `br0`, before what a test adds.
    pub(crate) fn dnsmasq(&self) -> Command {
        let mut command = self.command("hub", "dnsmasq");
        let leases = self.directory().join("leases");
        command
            .args([
                "-k",
                "-C",
                "/dev/null",
                "--port=0",
                "--no-ping",
                "--log-dhcp",
            ])
            .args(["--pid-file=", "--user=root", "--dhcp-authoritative"])
            .args(["--interface=br0", "--bind-interfaces", "--log-facility=-"])
            .arg("--dhcp-range=10.77.0.60,10.77.0.69,2m")
            .arg(format!("--dhcp-leasefile={}", leases.display()));
        command
    }

    /// Starts a program that is killed with the LAN at the latest; its output goes to `NAME.log`.
    pub(crate) fn start(&mut self, name: &str, mut command: Command) -> u32 {
        let log = fs::File::create(self.log_path(name)).expect("a log file");
        let both = log.try_clone().expect("a second handle of the log");
        let child = command
            .stdout(log)
            .stderr(both)
            .spawn()
            .expect("the program starts");
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// Waits for a started program to end by itself; gives its exit code.
    pub(crate) fn wait(&mut self, pid: u32, limit: Duration) -> Option<i32> {
        let child = self.children.iter_mut().find(|child| child.id() == pid)?;
        let mut status = None;
        until(limit, || {
            status = child.try_wait().expect("our own child");
            status.is_some()
        });
        status?.code()
    }

    /// Ends a started program at once, as a power cut would.
    pub(crate) fn kill(&mut self, pid: u32) {
        if let Some(child) = self.children.iter_mut().find(|child| child.id() == pid) {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// What a program said so far.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    /// The file of a program's log.
    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.log"))
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ended = child.kill();
            let _status = child.wait();
        }
        if std::thread::panicking() {
            for entry in fs::read_dir(self.directory())
                .into_iter()
                .flatten()
                .flatten()
            {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                eprintln!("--- {}\n{text}", entry.path().display());
            }
            for host in &self.hosts {
                let addresses = self.ip(host, "-br address").unwrap_or_default();
                eprintln!("--- addresses of {host}\n{addresses}");
            }
        }
        for host in &self.hosts {
            // Nothing more can be done about one that stays.
            let _gone = run(Command::new("ip").args(["netns", "del", &self.name(host)]));
        }
    }
}

/// Waits until `condition` holds, looking every few milliseconds; gives whether it did within the limit.
pub(crate) fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a program can be started.
pub(crate) fn has_program(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

/// Prints the line that says why a test did nothing.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("SKIPPED: {test}: {reason}");
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
