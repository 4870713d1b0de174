//! The appliance of `cargo appliance run`, as avahi sees it on the same host: on its loopback interface, and nowhere else.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boot_manifest::{Arch, Digest};
use image::announce::{Announcement, BROWSE, Facts};

/// The D-Bus set-up for an avahi of our own: everybody may do everything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=BUS</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true"/><allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/></policy></busconfig>"#;

/// How long avahi may take to start, and to hear.
const LIMIT: Duration = Duration::from_secs(20);

/// A host in a network namespace, with loopback and a cable to somebody. Dropping it removes it.
struct Host {
    name: String,
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Host {
    fn new() -> Result<Self, String> {
        let host = Self {
            name: format!("phase-run-{}", std::process::id()),
            folder: tempfile::tempdir().unwrap(),
            children: Vec::new(),
        };
        let inside = ["-n", &host.name];
        let outside = ["netns", "add", &host.name].map(str::to_owned).to_vec();
        let orders = [
            "link set lo up",
            "link add eth0 type veth peer name far",
            "address add 10.78.0.1/24 dev eth0",
            "link set eth0 up",
            "link set far up",
        ];
        let orders = orders.map(|order| {
            let words = inside.iter().copied().chain(order.split(' '));
            words.map(str::to_owned).collect()
        });
        for words in std::iter::once(outside).chain(orders) {
            let output = Command::new("ip").args(&words).output();
            let output = output.map_err(|error| format!("ip (package iproute2): {error}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
        }
        Ok(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a program there whose output goes to a file of this name.
    fn start(&mut self, log: &str, words: &[&str]) {
        let output = File::create(self.path(log)).unwrap();
        let bus = format!("unix:path={}", self.path("bus").display());
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(words)
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn();
        self.children.push(child.unwrap());
    }

    fn start_avahi(&mut self) {
        let at = |name: &str| self.path(name).display().to_string();
        let (bus, conf) = (at("bus.conf"), at("avahi.conf"));
        fs::write(&bus, BUS.replace("BUS", &at("bus"))).unwrap();
        fs::write(&conf, "[server]\nuse-ipv4=yes\nuse-ipv6=yes\n").unwrap();
        let config = format!("--config-file={bus}");
        self.start("dbus", &["dbus-daemon", &config, "--nofork", "--nopidfile"]);
        let socket = self.path("bus");
        assert!(until(|| socket.exists()), "no D-Bus: {}", self.log("dbus"));
        // avahi insists on one pid file for the whole machine: give it a folder that only this namespace sees.
        let script = format!(
            "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && \
             exec avahi-daemon -f {conf} --no-drop-root --no-chroot --no-rlimits"
        );
        self.start("avahi", &["sh", "-c", &script]);
        let started = until(|| self.log("avahi").contains("Server startup complete"));
        assert!(started, "avahi did not start: {}", self.log("avahi"));
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Runs something in a thread that is there, and whose threads are.
    fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let place = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        let enter = || {
            let network = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(place.as_fd(), Some(network)).unwrap();
            inside()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ended = child.kill();
            let _status = child.wait();
        }
        // Nothing more can be done about one that stays.
        let _gone = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

fn until(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn avahi_shows_what_is_run_on_loopback_only_and_hears_its_goodbye() {
    let test = "avahi_shows_what_is_run";
    for (program, package) in [
        ("avahi-daemon", "avahi-daemon"),
        ("avahi-browse", "avahi-utils"),
        ("dbus-daemon", "dbus"),
    ] {
        let output = Command::new(program).arg("--version").output();
        if output.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            skip!(test, "{program} (package {package}) is not installed");
        }
    }
    if !rustix::process::geteuid().is_root() {
        skip!(test, "needs root for a network namespace");
    }
    let mut host = match Host::new() {
        Ok(host) => host,
        Err(reason) => skip!(test, "{reason}"),
    };
    host.start_avahi();
    let facts = Facts {
        port: 8088,
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        version: "1.2.3".to_owned(),
        manifest: Digest::of(b"manifest"),
    };
    let announced = host.within(|| Announcement::start(&facts)).unwrap();
    // The command that people are told, in a form for programs.
    let browse: Vec<&str> = BROWSE.split(' ').chain(["--parsable"]).collect();
    host.start("browse", &browse);
    let name = announced.instance().to_owned();
    let resolved = |host: &Host, interface: &str| {
        let start = format!("=;{interface};IPv4;{name};");
        let log = host.log("browse");
        log.lines()
            .find(|line| line.starts_with(&start))
            .map(str::to_owned)
    };
    let found = until(|| resolved(&host, "lo").is_some());
    assert!(found, "avahi shows nothing: {}", host.log("browse"));
    let line = resolved(&host, "lo").unwrap();
    assert!(line.contains(";127.0.0.1;8088;"), "{line}");
    for (key, value) in [
        ("channel", "stable"),
        ("arch", "x86_64"),
        ("version", "1.2.3"),
        ("http_port", "8088"),
        ("manifest", &Digest::of(b"manifest").to_string()),
    ] {
        assert!(
            line.contains(&format!("\"{key}={value}\"")),
            "{key}: {line}"
        );
    }
    drop(announced);
    let goodbye = format!("-;lo;IPv4;{name};");
    let gone = until(|| host.log("browse").contains(&goodbye));
    assert!(gone, "no goodbye: {}", host.log("browse"));
    // avahi hears what this host itself sends to the LAN, too.
    for interface in ["eth0", "far"] {
        assert!(!host.log("browse").contains(&format!("{interface};IPv")));
    }
}
