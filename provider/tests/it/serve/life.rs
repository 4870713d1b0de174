//! Starting, failing to start, being told about, and ending.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use boot_manifest::handoff::{self, Report};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::process::Signal;

use crate::provider::{PLASMD, Provider, Tree, plasmd, wait_until};

#[test]
fn sigterm_lets_a_running_download_finish() {
    let large: Vec<u8> = (0..48_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &large)]);
    let mut provider = Provider::start(tree.root(), &[]);
    let mut download = provider.connect();
    download
        .write_all(b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut body = vec![0; 1 << 20];
    download.read_exact(&mut body).unwrap();
    // Neither an idle connection nor one that never said anything may hold up the end.
    let silent = provider.connect();
    let mut idle = provider.connect();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    idle.read_exact(&mut [0; 15]).unwrap();

    provider.signal(Signal::TERM);
    provider.wait_for_log("stopping");
    wait_until("the port to close", || {
        TcpStream::connect(provider.address).is_err().then_some(())
    });
    download.read_to_end(&mut body).unwrap();
    let end = body
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    assert!(
        body[end..] == large[..],
        "the download is complete and right"
    );
    let status = provider.wait();
    assert_eq!(status.code(), Some(0));
    assert!(
        provider.whole_log().ends_with("INFO stopped"),
        "no connection was cut"
    );
    drop((silent, idle));
}

#[test]
fn sigint_ends_an_idle_provider() {
    let tree = Tree::new(&[]);
    let mut provider = Provider::start(tree.root(), &[]);
    provider.signal(Signal::INT);
    assert_eq!(provider.wait().code(), Some(0));
}

fn check_failure(arguments: &[&str], code: i32, said: &[&str]) {
    let output = plasmd(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for part in said {
        assert!(text.contains(part), "{arguments:?}: no {part:?} in {text}");
    }
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("error: "))
            .count(),
        1,
        "{text}"
    );
}

#[test]
fn what_keeps_it_from_starting_is_said_in_one_line() {
    let tree = Tree::new(&[("file", b"x"), ("bad.key", b"no key")]);
    let (root, file) = (tree.root().to_str().unwrap(), tree.path("file"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let owner = format!("the address is in use by process {} (", std::process::id());
    let serve = |flags: &[&str], code, said: &[&str]| {
        check_failure(&[&["serve", "-b", "127.0.0.1"], flags].concat(), code, said)
    };
    serve(
        &["-a", root, "-p", &port],
        3,
        &[&format!("127.0.0.1:{port}"), &owner, "hint: use --port"],
    );
    serve(
        &["-a", "/nowhere/at/all"],
        3,
        &[
            "/nowhere/at/all: not found",
            "hint: create it",
            "--artifacts",
        ],
    );
    serve(
        &["-a", file.to_str().unwrap()],
        3,
        &["artifacts directory", "hint: "],
    );
    serve(
        &["-a", root, "--key", "/nowhere.key"],
        3,
        &["/nowhere.key: ", "hint: make a key"],
    );
    let served = tree.path("bad.key");
    serve(
        &["-a", root, "--key", served.to_str().unwrap()],
        3,
        &["bad.key: lies in the artifacts directory", "hint: move it"],
    );
    serve(
        &["-a", root, "--access-log", served.to_str().unwrap()],
        3,
        &["--access-log ", "lies in the artifacts directory"],
    );
    serve(
        &["-a", root, "-p", "18080", "--tls-port", "18080"],
        2,
        &["port 18080 cannot speak both HTTP and HTTPS", "hint: "],
    );
    let outside = tempfile::tempdir().unwrap();
    let bad = outside.path().join("bad.key");
    fs::copy(served, &bad).unwrap();
    serve(
        &["-a", root, "--key", bad.to_str().unwrap()],
        3,
        &["bad.key: ", "hint: --key takes the private key"],
    );
    serve(
        &["-a", root, "--trust-root", bad.to_str().unwrap()],
        3,
        &["bad.key: ", "hint: give a trust root"],
    );
    check_failure(
        &["serve", "-a", root, "-b", "203.0.113.1", "-p", "0"],
        3,
        &["no address 203.0.113.1", "hint: --bind"],
    );
    serve(&["--channel", "../x"], 2, &["is no channel"]);
    serve(&["--arch", "pdp11"], 2, &["unknown architecture"]);
    serve(&["--port", "70000"], 2, &["70000"]);
    serve(&["--release", "1"], 2, &["--key"]);
}

#[test]
fn no_permission_is_said_in_one_line() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: no_permission_is_said_in_one_line: needs root to become another user");
        return;
    }
    let tree = Tree::new(&[("hidden/stable/x86_64/vmlinuz", b"x")]);
    fs::set_permissions(
        tree.path("hidden"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let output = Command::new(PLASMD)
        .args(["serve", "-p", "0", "-b", "127.0.0.1", "-a"])
        .arg(tree.path("hidden"))
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("hidden: permission denied") && text.contains("hint: run as a user"),
        "{text}"
    );
}

#[test]
fn dual_stack() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let mut command = Command::new(PLASMD);
    command
        .args([
            "serve",
            "--no-mdns",
            "--no-dht",
            "-b",
            "::",
            "-p",
            "0",
            "-a",
        ])
        .arg(tree.root());
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: dual_stack: this machine has no IPv6");
        return;
    }
    command
        .env_remove("RUST_LOG")
        .env_remove("JOURNAL_STREAM")
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    let port = line
        .split("[::]:")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    for host in ["127.0.0.1", "[::1]"] {
        let output = Command::new("curl")
            .args([
                "-s",
                "-g",
                &format!("http://{host}:{port}/stable/x86_64/vmlinuz"),
            ])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"kernel", "{host}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn init_is_told_what_happens() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::empty(),
        None,
    )
    .unwrap();
    let mut command = Command::new(PLASMD);
    command
        .args([
            "serve",
            "--appliance",
            "--no-mdns",
            "-b",
            "127.0.0.1",
            "-p",
            "0",
            "-a",
        ])
        .arg(tree.root())
        .env(handoff::ENV, theirs.as_raw_fd().to_string());
    let provider = Provider::spawn(&mut command);
    drop(theirs);
    assert_eq!(receive(&ours), Report::Ready {});
    let urls = vec![format!("http://{}/", provider.address)];
    assert_eq!(
        receive(&ours),
        Report::Serving {
            urls,
            artifacts: 1,
            advertised: false
        }
    );
    for _ in 0..20 {
        provider.get("/stable/x86_64/vmlinuz");
    }
    let Report::Request {
        client,
        line,
        status,
        bytes,
    } = receive(&ours)
    else {
        panic!("not a request")
    };
    assert_eq!(
        (client.as_str(), line.as_str(), status, bytes),
        ("127.0.0.1", "GET /stable/x86_64/vmlinuz", 200, 6)
    );
}

fn receive(socket: &OwnedFd) -> Report {
    let mut packet = [0; handoff::REPORT_SIZE_MAX];
    let (size, _) = recv(socket, &mut packet[..], RecvFlags::empty()).unwrap();
    Report::decode(&packet[..size]).unwrap()
}

#[test]
fn the_log_follows_its_environment() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let log = |variables: &[(&str, &str)]| {
        let mut command = Command::new(PLASMD);
        command
            .args(["serve", "--no-mdns", "-b", "127.0.0.1", "-p", "0", "-a"])
            .arg(tree.root());
        let mut child = command
            .env_remove("RUST_LOG")
            .env_remove("JOURNAL_STREAM")
            .envs(variables.iter().copied())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        // Its sockets are open once it handles signals; before, the signal ends it, and there is nothing to see.
        wait_until("signal handling", || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let caught = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:\t"))
                .unwrap();
            (u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0).then_some(())
        });
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let mut text = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        child.wait().unwrap();
        text
    };
    assert!(log(&[]).contains("INFO serving"));
    assert!(!log(&[("RUST_LOG", "error")]).contains("serving"));
    let journal = log(&[("JOURNAL_STREAM", "8:1234")]);
    assert!(
        journal.contains("<6>serving url=") && journal.contains("<4>"),
        "{journal}"
    );
}
