//! A service manager as `plasmd serve` meets it: notifications, the watchdog, passed sockets, and the units that are shipped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::discover::Rig;
use crate::lan::until;
use crate::provider::{PATIENCE, PLASMD, Provider, Tree, wait_until};

/// The socket of a service manager.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { folder, socket }
    }

    fn command(&self, tree: &Tree) -> Command {
        let mut command = Command::new(PLASMD);
        command
            .args(["serve", "--no-mdns", "-b", "127.0.0.1", "-p", "0", "-a"])
            .arg(tree.root())
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let size = self.socket.recv(&mut message).unwrap();
        String::from_utf8(message[..size].to_vec()).unwrap()
    }
}

#[test]
fn the_service_manager_is_told() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let manager = Manager::new();
    let mut provider = Provider::spawn(&mut manager.command(&tree));
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving\n");
    assert_eq!(provider.get("/health").status, 200);
    provider.signal(Signal::HUP);
    let reloading = manager.next();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving\n");
    provider.signal(Signal::TERM);
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS="), "{stopping}");
    // The drain of 10 s, and some more.
    assert!(
        stopping.ends_with("\nEXTEND_TIMEOUT_USEC=20000000\n"),
        "{stopping}"
    );
    assert_eq!(provider.wait().code(), Some(0));
}

#[test]
fn the_watchdog_hears_of_answers_and_of_nothing_else() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let manager = Manager::new();
    let mut command = manager.command(&tree);
    let provider = Provider::spawn(command.env("WATCHDOG_USEC", "90000"));
    assert!(manager.next().starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    let status = provider.get("/status").json();
    let count = |name: &str| status["metrics"][name].as_u64().unwrap();
    assert!(
        count("connections_total") > 3,
        "each was an answer to a request"
    );
    // Which are nobody's business.
    assert_eq!(count("requests_total"), 1, "{status}");
    assert_eq!(status["clients"], serde_json::json!([]));
    // A process that does not run answers nothing.
    provider.signal(Signal::STOP);
    manager.socket.set_nonblocking(true).unwrap();
    wait_until("an end of the signs of life", || {
        manager.socket.recv(&mut [0; 64]).err()
    });
    manager.socket.set_nonblocking(false).unwrap();
    provider.signal(Signal::CONT);
    assert_eq!(manager.next(), "WATCHDOG=1\n");
}

#[test]
fn a_provider_without_places_is_busy_and_not_dead() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &vec![1; 32 << 20])]);
    let manager = Manager::new();
    let socket = manager.folder.path().join("control.sock");
    let mut command = manager.command(&tree);
    command
        .args(["--connections-max", "2", "--control-socket"])
        .arg(&socket)
        .env("WATCHDOG_USEC", "300000");
    let mut provider = Provider::spawn(&mut command);
    assert!(manager.next().starts_with("READY=1\n"));
    let _downloads = [(); 2].map(|()| {
        let mut stream = provider.connect();
        let request = b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).unwrap();
        stream.read_exact(&mut [0; 1_000]).unwrap();
        stream
    });
    // Both are served, and nobody else is.
    let open = || {
        let output = Command::new("curl")
            .args(["-s", "--max-time", "30", "http://x/status", "--unix-socket"])
            .arg(&socket)
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["metrics"]["connections_open"].as_u64()
    };
    wait_until("all places to be taken", || {
        (open() == Some(2)).then_some(())
    });
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 64]).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    assert_eq!(open(), Some(2), "all that time");
    provider.signal(Signal::KILL);
    let log = provider.whole_log();
    assert!(!log.contains("was not answered"), "{log}");
}

#[test]
fn a_watchdog_of_another_process_hears_nothing() {
    let tree = Tree::new(&[]);
    let manager = Manager::new();
    let mut command = manager.command(&tree);
    command
        .env("WATCHDOG_USEC", "20000")
        .env("WATCHDOG_PID", "1");
    let provider = Provider::spawn(&mut command);
    assert!(manager.next().starts_with("READY=1\n"));
    provider.signal(Signal::TERM);
    assert!(manager.next().starts_with("STOPPING=1\n"));
}

/// Starts a provider with sockets as a service manager passes them: the first as 3, the second as 4.
fn activated(
    tree: &Tree,
    names: &str,
    first: &TcpListener,
    second: &TcpListener,
    state: &Path,
) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=$0 exec \"$@\"",
            names,
            PLASMD,
        ])
        .args(["serve", "--no-mdns", "-p", "1", "-a"])
        .arg(tree.root())
        .arg("--state-dir")
        .arg(state)
        .stdin(OwnedFd::from(first.try_clone().unwrap()))
        .stdout(OwnedFd::from(second.try_clone().unwrap()));
    command
}

#[test]
fn passed_sockets_are_served_and_survive_a_restart() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let state = tempfile::tempdir().unwrap();
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (plain, encrypted) = (listen(), listen());
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let start = || {
        let mut command = activated(&tree, "web:https", &plain, &encrypted, state.path());
        Provider::spawn(&mut command)
    };
    let mut provider = start();
    assert_eq!(provider.address, address(&plain), "not --port 1");
    assert_eq!(provider.get("/stable/x86_64/vmlinuz").body, b"kernel");
    let url = format!("https://{}/stable/x86_64/vmlinuz", address(&encrypted));
    let curl = Command::new("curl").args(["-skS", &url]).output().unwrap();
    assert_eq!(curl.stdout, b"kernel", "{curl:?}");
    provider.signal(Signal::TERM);
    assert_eq!(provider.wait().code(), Some(0));
    // Nobody serves, and nobody is refused.
    let mut waiting = TcpStream::connect(address(&plain)).unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting
        .write_all(b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let _second = start();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("kernel"), "{answer}");
}

#[test]
fn what_is_passed_must_be_a_listening_socket() {
    let tree = Tree::new(&[]);
    let output = Command::new("sh")
        .args([
            "-c",
            "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"",
            "sh",
            PLASMD,
            "serve",
            "-a",
        ])
        .arg(tree.root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("the sockets of the service manager: 3"),
        "{said}"
    );
}

fn units() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

#[test]
fn systemd_starts_it_at_the_first_connection() {
    let activate = "systemd-socket-activate";
    if Command::new(activate).arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: systemd_starts_it_at_the_first_connection: no {activate} on this machine"
        );
        return;
    }
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    // A port that was free just now: the program says neither which one it took nor when it listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let mut child = Command::new(activate)
        .args(["--fdname=http", "-l", &address.to_string(), PLASMD])
        .args(["serve", "--no-mdns", "-a"])
        .arg(tree.root())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = format!("http://{address}/stable/x86_64/vmlinuz");
    wait_until("the first answer", || {
        let curl = Command::new("curl").args(["-sS", &url]).output().unwrap();
        (curl.stdout == b"kernel").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_units_are_valid_and_leave_little() {
    let analyze = |arguments: &[&str]| {
        Command::new("systemd-analyze")
            .args(arguments)
            .env("SYSTEMD_PAGER", "")
            .output()
    };
    if analyze(&["--version"]).is_err() {
        eprintln!(
            "SKIPPED: the_units_are_valid_and_leave_little: no systemd-analyze on this machine"
        );
        return;
    }
    // The program is not installed where the unit says.
    let folder = tempfile::tempdir().unwrap();
    let mut copies = Vec::new();
    for name in ["plasmd.service", "plasmd.socket", "plasmd-tls.socket"] {
        let unit = fs::read_to_string(units().join(name)).unwrap();
        let copy = folder.path().join(name);
        fs::write(&copy, unit.replace("/usr/bin/plasmd", "/bin/true")).unwrap();
        copies.push(copy.to_str().unwrap().to_owned());
    }
    let copies: Vec<&str> = copies.iter().map(String::as_str).collect();
    let output = analyze(&[&["verify", "--man=no"], &copies[..]].concat()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let about_us: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("plasmd"))
        .collect();
    assert!(about_us.is_empty(), "{said}");
    // Of ten points for a service without any protection.
    let output = analyze(&["security", "--offline=true", "--threshold=20", copies[0]]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// The system calls of the words of a `SystemCallFilter=`.
fn system_calls(words: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for word in words.split_whitespace() {
        if !word.starts_with('@') {
            calls.insert(word.to_owned());
            continue;
        }
        let output = Command::new("systemd-analyze")
            .args(["syscall-filter", "--no-pager", word])
            .output()
            .unwrap();
        assert!(output.status.success(), "{word}: {output:?}");
        let listing = String::from_utf8(output.stdout).unwrap();
        let members: Vec<&str> = listing
            .lines()
            .skip(1)
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        calls.extend(system_calls(&members.join(" ")));
    }
    calls
}

/// The system calls that the unit allows.
fn allowed_calls() -> BTreeSet<String> {
    let unit = fs::read_to_string(units().join("plasmd.service")).unwrap();
    let mut allowed = BTreeSet::new();
    for words in unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
    {
        match words.strip_prefix('~') {
            None => allowed.extend(system_calls(words)),
            Some(words) => {
                let forbidden = system_calls(words);
                allowed.retain(|call| !forbidden.contains(call));
            }
        }
    }
    allowed
}

/// Compares what was traced with what the unit allows.
fn check_trace(trace: &Path) {
    let trace = fs::read_to_string(trace).unwrap();
    let used: BTreeSet<&str> = trace
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.1.trim_start().split_once('(')?.0))
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .collect();
    assert!(used.contains("landlock_create_ruleset") && used.contains("openat2"));
    let allowed = allowed_calls();
    let denied: Vec<&&str> = used
        .iter()
        .filter(|call| !allowed.contains(**call))
        .collect();
    assert!(denied.is_empty(), "{denied:?}");
}

fn has_tracers(test: &str) -> bool {
    for program in ["strace", "systemd-analyze"] {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("SKIPPED: {test}: no {program} on this machine");
            return false;
        }
    }
    true
}

#[test]
fn the_unit_allows_every_system_call_of_serving() {
    if !has_tracers("the_unit_allows_every_system_call_of_serving") {
        return;
    }
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &[7; 1 << 20])]);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(PLASMD)
        .args(["serve", "-b", "127.0.0.1", "-p", "0", "--tls-port", "0"])
        .arg("--state-dir")
        .arg(folder.path())
        .arg("-a")
        .arg(tree.root());
    if rustix::process::geteuid().is_root() {
        // As the unit starts it, but for the one capability that it gives up; see the tests of booting.
        let mut owned = Command::new("chown");
        owned.arg("65534:65534").arg(folder.path());
        assert!(owned.status().unwrap().success());
        command.uid(65_534).gid(65_534);
    }
    let mut provider = Provider::spawn(command.env("WATCHDOG_USEC", "200000"));
    for path in [
        "/manifest.json",
        "/stable/x86_64/vmlinuz",
        "/health",
        "/metrics",
    ] {
        assert_eq!(provider.get(path).status, 200, "{path}");
    }
    let tracer = format!("/proc/{0}/task/{0}/children", provider.pid());
    let pid: i32 = fs::read_to_string(tracer).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    provider.wait_for_log(" reloaded ");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(provider.wait().code(), Some(0));
    check_trace(&trace);
}

/// And of its part in the DHT, where it connects to others and looks names up; the others take its entry.
#[test]
fn the_unit_allows_every_system_call_of_the_dht() {
    const TEST: &str = "the_unit_allows_every_system_call_of_the_dht";
    if !has_tracers(TEST) {
        return;
    }
    let Some(mut rig) = Rig::new(TEST) else {
        return;
    };
    rig.give_address();
    rig.lan.ip("client", "link set lo up").unwrap();
    rig.start_on("provider", "member", &["--no-mdns"]);
    let folder = rig.lan.directory().to_owned();
    let (trace, state) = (folder.join("trace"), folder.join("state"));
    fs::create_dir(&state).unwrap();
    // As the unit starts it, but for the one capability that it gives up.
    std::os::unix::fs::chown(&state, Some(65_534), Some(65_534)).unwrap();
    let reach = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&folder, reach).unwrap();
    let mut traced = rig.lan.command("client", "strace");
    traced
        .args(["-f", "-qq", "-o"])
        .args([&trace, Path::new("-u")])
        .args(["nobody", PLASMD, "serve", "--no-mdns", "--dhcp", "off"])
        .args(["--bootstrap", "10.78.0.1", "--bootstrap", "nobody.invalid"])
        .args(["--sandbox", "require", "--state-dir"])
        .args([&state, Path::new("--artifacts"), &folder.join("artifacts")]);
    let tracer = rig.lan.start("traced", traced);
    let children = format!("/proc/{tracer}/task/{tracer}/children");
    let stored = until(Duration::from_secs(60), || {
        let mut asked = rig.lan.command("client", PLASMD);
        asked.args([
            "provider",
            "status",
            "--json",
            "--addr",
            "http://10.78.0.2:8080",
        ]);
        let status: Value =
            serde_json::from_slice(&asked.output().unwrap().stdout).unwrap_or_default();
        !status["discovery"]["dht"]["last_published"].is_null()
    });
    assert!(stored, "{}", rig.lan.log("traced"));
    let pid: i32 = fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(rig.lan.wait(tracer, Duration::from_secs(30)), Some(0));
    check_trace(&trace);
    // The key is there for its owner alone, and so is the list of whom it met.
    let mode = |name: &str| {
        fs::metadata(state.join("dht-v1").join(name))
            .unwrap()
            .mode()
            & 0o777
    };
    assert_eq!((mode("peer.key"), mode("peers")), (0o600, 0o600));
}

#[test]
fn the_unit_waits_longer_than_the_provider_takes() {
    let unit = fs::read_to_string(units().join("plasmd.service")).unwrap();
    let value = |key: &str| {
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        line.trim_end_matches('s').parse::<u64>().unwrap()
    };
    let help = crate::provider::plasmd(&["serve", "--help"]).stdout;
    let help = String::from_utf8(help).unwrap();
    let drain = help.split("--drain-max").nth(1).unwrap();
    let drain = drain.split("[default: ").nth(1).unwrap();
    let drain: u64 = drain.split(']').next().unwrap().parse().unwrap();
    assert!(
        value("TimeoutStopSec=") > drain + 3,
        "the drain and the goodbye"
    );
    assert!(unit.contains("\nUser=plasm\n"));
}
