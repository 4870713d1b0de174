//! Providers are found on a LAN: by `phase-discover`, and by avahi as somebody else's DNS-SD browser.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lan::{Lan, has_program, skip, until};

/// The URL that must be found.
pub(crate) const URL: &str = "http://10.78.0.1:8080/stable/x86_64/manifest.json";

/// The D-Bus set-up for an avahi of our own: everybody may do everything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=BUS</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true"/><allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/></policy></busconfig>"#;

/// A host that can serve, 10.78.0.1, and one that searches, 10.78.0.2.
pub(crate) struct Rig {
    pub(crate) lan: Lan,
    serve: u32,
}

impl Rig {
    /// The LAN without any program. `None`: skipped, and said so.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let lan = match Lan::new(&["provider", "other", "client"]) {
            Ok(lan) => lan,
            Err(reason) => {
                skip(test, &reason);
                return None;
            }
        };
        for host in ["provider", "other", "client"] {
            lan.ip(host, "link set eth0 up").unwrap();
        }
        lan.ip("client", "address add 10.78.0.2/24 dev eth0")
            .unwrap();
        let folder = lan.directory().join("artifacts/stable/x86_64");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vmlinuz"), b"a kernel").unwrap();
        for tool in ["phase-discover", "phase-fetch"] {
            symlink(env!("CARGO_BIN_EXE_plasmd"), lan.directory().join(tool)).unwrap();
        }
        Some(Self { lan, serve: 0 })
    }

    pub(crate) fn give_address(&self) {
        self.lan
            .ip("provider", "address add 10.78.0.1/24 dev eth0")
            .unwrap();
    }

    pub(crate) fn start_provider(&mut self) {
        self.serve = self.start_on("provider", "serve", &[]);
    }

    /// Starts a provider on a host, with more flags.
    pub(crate) fn start_on(&mut self, host: &str, log: &str, flags: &[&str]) -> u32 {
        let key = self.lan.directory().join(format!("key-of-{log}"));
        // One that is started again has it already.
        if !key.exists() {
            let made = Command::new(env!("CARGO_BIN_EXE_plasmd"))
                .args(["key", "generate", "--out"])
                .arg(&key)
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        let mut command = self.lan.command(host, env!("CARGO_BIN_EXE_plasmd"));
        command
            .args(["serve", "--arch", "x86_64", "--artifacts"])
            .arg(self.lan.directory().join("artifacts"))
            .arg("--state-dir")
            .arg(self.lan.directory().join(format!("state-of-{log}")))
            .arg("--key")
            .arg(&key)
            .args(flags);
        self.lan.start(log, command)
    }

    pub(crate) fn stop_provider(&mut self) {
        self.stop(self.serve);
    }

    /// The process of the provider.
    pub(crate) fn served_by(&self) -> u32 {
        self.serve
    }

    /// Ends a provider in order.
    pub(crate) fn stop(&mut self, provider: u32) {
        let pid = i32::try_from(provider).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::TERM).unwrap();
        let code = self.lan.wait(provider, Duration::from_secs(10));
        assert_eq!(code, Some(0));
    }

    /// Runs a tool on the client.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> Output {
        self.tool_on("client", name, arguments)
    }

    /// Runs a tool on a host.
    pub(crate) fn tool_on(&self, host: &str, name: &str, arguments: &[&str]) -> Output {
        let program = self.lan.directory().join(name).display().to_string();
        self.lan
            .command(host, &program)
            .args(arguments)
            .output()
            .unwrap()
    }

    pub(crate) fn discover(&self, arguments: &[&str]) -> Output {
        let wanted = ["--channel", "stable", "--arch", "x86_64"];
        self.tool("phase-discover", &[&wanted, arguments].concat())
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_provider_is_found_its_url_works_and_its_goodbye_is_heard() {
    let Some(mut rig) = Rig::new("a_provider_is_found") else {
        return;
    };
    rig.give_address();
    rig.start_provider();
    let found = rig.discover(&[]);
    assert_eq!(stdout(&found), format!("MANIFEST_URL={URL}\n"), "{found:?}");

    let key = rig
        .lan
        .directory()
        .join("key-of-serve.pub")
        .display()
        .to_string();
    let folder = rig.lan.directory().join("fetched").display().to_string();
    let fetched = rig.tool(
        "phase-fetch",
        &[URL, "-k", &key, "-a", "kernel", "-o", &folder],
    );
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(fs::read(format!("{folder}/vmlinuz")).unwrap(), b"a kernel");

    let found = rig.discover(&["--format", "json", "--quiet"]);
    assert_eq!(stderr(&found), "");
    let json: Value = serde_json::from_slice(&found.stdout).unwrap();
    let bare = rig.discover(&["--quiet", "--mode", "lan"]);
    assert_eq!(
        (stdout(&bare), stderr(&bare)),
        (format!("{URL}\n"), String::new())
    );
    let all = rig.discover(&["--all", "--timeout", "2", "--ephemeral"]);
    assert!(
        stdout(&all).starts_with(&format!("MANIFEST_URL={URL}  "))
            && stdout(&all).lines().count() == 1,
        "{all:?}"
    );
    assert_eq!(json["key"], "/phase/stable/x86_64/manifest");
    assert_eq!(json["manifest_url"], URL);
    assert_eq!(json["provider_count"], 1);
    assert_eq!(json["peer_id"], json["providers"][0]["id"]);

    rig.stop_provider();
    let nothing = rig.discover(&["--timeout", "2"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        stderr(&nothing).contains("discovery timeout after 2 s"),
        "{nothing:?}"
    );
    assert_eq!(stdout(&nothing), "");
}

#[test]
fn an_address_that_comes_later_is_announced() {
    let Some(mut rig) = Rig::new("an_address_that_comes_later") else {
        return;
    };
    rig.start_provider();
    let started = until(Duration::from_secs(10), || {
        rig.lan.log("serve").contains("serving")
    });
    assert!(started);
    rig.give_address();
    let found = rig.discover(&["--timeout", "20"]);
    assert_eq!(stdout(&found), format!("MANIFEST_URL={URL}\n"), "{found:?}");
}

#[test]
fn addresses_that_come_one_after_the_other_leave_the_name_alone() {
    let Some(mut rig) = Rig::new("addresses_that_come_one_after_the_other") else {
        return;
    };
    rig.give_address();
    rig.start_provider();
    // Into each step of an announcement that is under way: a router's, a person's, a privacy extension's.
    for last in 11..=18 {
        let address = format!("address add 10.78.0.{last}/24 dev eth0");
        rig.lan.ip("provider", &address).unwrap();
        std::thread::sleep(Duration::from_millis(350));
    }
    let found = || {
        let found = rig.discover(&["--format", "json", "--quiet", "--timeout", "20"]);
        let json: Value = serde_json::from_slice(&found.stdout).unwrap();
        json["peer_id"].as_str().unwrap_or_default().to_owned()
    };
    let name = found();
    assert!(name.starts_with("plasmd-") && !name.contains('('), "{name}");
    assert_eq!(found(), name, "it goes on taking other names");
}

#[test]
fn what_cannot_be_found_is_explained() {
    let Some(mut rig) = Rig::new("what_cannot_be_found") else {
        return;
    };
    rig.give_address();
    rig.start_provider();
    let other = rig.tool(
        "phase-discover",
        &["--channel", "testing", "--arch", "x86_64", "--timeout", "3"],
    );
    assert_eq!(other.status.code(), Some(1));
    assert!(
        stderr(&other).contains("providers of stable/x86_64 were found"),
        "{other:?}"
    );
}

#[test]
fn avahi_finds_a_provider_and_hears_its_goodbye() {
    let test = "avahi_finds_a_provider";
    if !has_avahi(test) {
        return;
    }
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    rig.give_address();
    rig.start_provider();
    let address = start_avahi(&mut rig.lan);
    let mut browse = rig.lan.command("client", "avahi-browse");
    browse
        .args(["--resolve", "--parsable", "_phase-image._tcp"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", &address);
    rig.lan.start("browse", browse);
    let resolved = |rig: &Rig| {
        let text = rig.lan.log("browse");
        text.lines()
            .find(|line| line.starts_with("=;eth0;IPv4;plasmd-"))
            .map(str::to_owned)
    };
    assert!(
        until(Duration::from_secs(20), || resolved(&rig).is_some()),
        "avahi found nothing"
    );
    let line = resolved(&rig).unwrap();
    assert!(line.contains(";10.78.0.1;8080;"), "{line}");
    for part in [
        "\"channel=stable\"",
        "\"arch=x86_64\"",
        "\"http_port=8080\"",
        "\"version=",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    rig.stop_provider();
    let gone = until(Duration::from_secs(10), || {
        rig.lan.log("browse").contains("-;eth0;IPv4;plasmd-")
    });
    assert!(gone, "avahi did not hear the goodbye");
}

/// Whether avahi is installed; skips the test if not.
pub(crate) fn has_avahi(test: &str) -> bool {
    for (program, package) in [
        ("avahi-daemon", "avahi-daemon"),
        ("avahi-browse", "avahi-utils"),
        ("dbus-daemon", "dbus"),
    ] {
        if !has_program(program) {
            skip(
                test,
                &format!("{program} (package {package}) is not installed"),
            );
            return false;
        }
    }
    true
}

/// A D-Bus and an avahi of their own on the client; gives the address of the bus.
pub(crate) fn start_avahi(lan: &mut Lan) -> String {
    let folder = lan.directory().to_owned();
    let bus = folder.join("bus").display().to_string();
    fs::write(folder.join("bus.conf"), BUS.replace("BUS", &bus)).unwrap();
    fs::write(
        folder.join("avahi.conf"),
        "[server]\nuse-ipv4=yes\nuse-ipv6=yes\n",
    )
    .unwrap();
    let mut command = Command::new("dbus-daemon");
    command
        .arg(format!(
            "--config-file={}",
            folder.join("bus.conf").display()
        ))
        .args(["--nofork", "--nopidfile"]);
    lan.start("dbus", command);
    assert!(
        until(Duration::from_secs(5), || folder.join("bus").exists()),
        "no D-Bus"
    );
    // avahi insists on one pid file for the whole machine: give it a folder that only this namespace sees.
    let script = format!(
        "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && \
         exec avahi-daemon -f {}/avahi.conf --no-drop-root --no-chroot --no-rlimits",
        folder.display()
    );
    let address = format!("unix:path={bus}");
    let mut command = lan.command("client", "sh");
    command
        .args(["-c", &script])
        .env("DBUS_SYSTEM_BUS_ADDRESS", &address);
    lan.start("avahi", command);
    assert!(
        until(Duration::from_secs(15), || lan
            .log("avahi")
            .contains("Server startup complete")),
        "avahi did not start"
    );
    address
}
