//! Clients that want to keep others from being served: silent ones, slow ones, and very many of them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::provider::{PLASMD, Provider, Tree, wait_until};

const KERNEL: &str = "GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n";
const CLOSING: &str = "GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn tree() -> Tree {
    Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")])
}

/// More than all buffers between two processes of this machine hold.
fn large() -> Vec<u8> {
    (0..48_u32 << 18).flat_map(u32::to_le_bytes).collect()
}

/// A provider that has no more than this many descriptors.
fn start_with_descriptors(tree: &Tree, count: u32) -> Provider {
    let mut command = Command::new("sh");
    let limit = format!("ulimit -n {count}; exec \"$@\"");
    command.args(["-c", &limit, "sh", PLASMD, "serve", "--no-mdns"]);
    command.args(["-b", "127.0.0.1", "-p", "0", "-a"]);
    Provider::spawn(command.arg(tree.root()))
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn resident_kb(provider: &Provider) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", provider.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
fn silent_connections_make_room_for_others() {
    let tree = tree();
    // 96 descriptors are reserved; four of five others are for connections.
    let mut provider = start_with_descriptors(&tree, 112);
    provider.wait_for_log("connections_max=12");
    let held: Vec<TcpStream> = (0..12).map(|_| provider.connect()).collect();
    assert!(provider.raw(CLOSING.as_bytes()).ends_with("kernel"));
    provider.wait_for_log("all places for connections are taken");
    wait_until("the silent ones to go", || {
        (!is_open(&held[0])).then_some(())
    });
}

#[test]
fn a_half_sent_request_is_no_better_than_silence() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--connections-max", "20"]);
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = provider.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
        held.push(stream);
    }
    for _ in 0..40 {
        assert!(provider.raw(CLOSING.as_bytes()).ends_with("kernel"));
    }
}

#[test]
fn whoever_is_served_keeps_the_place() {
    let large = large();
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &large)]);
    let mut provider = Provider::start(tree.root(), &["--connections-max", "4"]);
    let mut served: Vec<TcpStream> = (0..4).map(|_| provider.connect()).collect();
    for stream in &mut served {
        stream.write_all(KERNEL.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let mut fifth = provider.connect();
    fifth
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    provider.wait_for_log("all places for connections are taken");
    assert!(is_open(&fifth), "it waits");
    // A download that ends makes room; the others are whole.
    drop(served.pop());
    let mut answer = String::new();
    fifth.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut rest = vec![0; large.len()];
    served[0].read_exact(&mut rest).unwrap();
}

#[test]
fn one_address_has_its_share() {
    let tree = tree();
    let provider = Provider::start(
        tree.root(),
        &["--connections-per-address", "3", "--connections-max", "20"],
    );
    let mut held: Vec<TcpStream> = (0..3).map(|_| provider.connect()).collect();
    for stream in &mut held {
        // An answer shows that it has its place.
        stream.write_all(KERNEL.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 15]).unwrap();
    }
    assert!(provider.raw(CLOSING.as_bytes()).ends_with("kernel"));
    wait_until("one of the three to go", || {
        held.iter().any(|stream| !has_room(stream)).then_some(())
    });
}

/// Whether the other side has not closed, whatever is still to be read.
fn has_room(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut room = [0; 4096];
    let open = loop {
        match (&*stream).read(&mut room) {
            Ok(0) => break false,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    open
}

#[test]
fn readers_that_take_nothing_cost_nothing() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &large())]);
    let provider = Provider::start(tree.root(), &[]);
    provider.get("/health");
    // Plain requests, and some that hyper answers.
    let odd = KERNEL.replace("\r\n\r\n", "\r\nIf-Match: *\r\n\r\n");
    let mut held = Vec::new();
    let before = resident_kb(&provider);
    for request in [KERNEL, &odd].into_iter().cycle().take(200) {
        let mut stream = provider.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        held.push(stream);
    }
    let after = resident_kb(&provider);
    // A buffer for each would be 50 MiB.
    assert!(after < before + 8 * 1024, "{before} KiB, then {after} KiB");
    assert!(provider.get("/health").status == 200);
}

#[test]
fn no_descriptors_is_a_pause_and_no_end() {
    let tree = tree();
    let mut provider = start_with_descriptors(&tree, 112);
    provider.wait_for_log("connections_max=12");
    // Fewer than it has open: nothing more can be accepted.
    let pid = rustix::process::Pid::from_raw(i32::try_from(provider.pid()).unwrap());
    let limit = |current| {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(112),
        };
        rustix::process::prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    limit(4);
    let mut client = provider.connect();
    client.write_all(CLOSING.as_bytes()).unwrap();
    provider.wait_for_log("cannot accept connections for the moment");
    let spent = processor_ticks(&provider);
    std::thread::sleep(Duration::from_millis(500));
    // Ticks are 10 ms: a spinning thread uses about 50.
    assert!(processor_ticks(&provider) - spent < 20);
    limit(112);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("kernel"), "{answer}");
}

fn processor_ticks(provider: &Provider) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", provider.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<u64> = fields
        .split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // The first numbers are those from the parent's id on; user and system time are the 10th and 11th of them.
    fields[10] + fields[11]
}

/// Lets this process have all the descriptors it may have, and says how many.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

#[test]
fn ten_thousand_idle_connections_and_one_client() {
    const WANTED: usize = 10_000;
    let maximum = raise_descriptors();
    // This process holds one end of each, and so does the provider, with a quarter more for files.
    let possible = usize::try_from(maximum / 4 * 3)
        .unwrap_or(usize::MAX)
        .saturating_sub(500);
    let count = WANTED.min(possible);
    if count < WANTED {
        eprintln!(
            "SKIPPED: ten_thousand_idle_connections_and_one_client: {WANTED} connections need more than {maximum} descriptors; {count} are held"
        );
    }
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    let before = resident_kb(&provider);
    let mut held = Vec::with_capacity(count);
    // Each has had an answer, as keep-alive connections have.
    for number in 0..count {
        let mut stream = TcpStream::connect(provider.address).unwrap();
        stream.write_all(KERNEL.as_bytes()).unwrap();
        if number % 16 == 0 {
            stream.read_exact(&mut [0; 15]).unwrap();
        }
        held.push(stream);
    }
    for stream in &mut held {
        assert!(has_room(stream), "nobody was cut");
    }
    let each = (resident_kb(&provider) - before) * 1024 / count as u64;
    assert!(each < 4_000, "{each} bytes for each connection");
    assert!(provider.raw(CLOSING.as_bytes()).ends_with("kernel"));
    drop(held);
    wait_until("their ends to be seen", || {
        let text = provider.get("/status").json();
        (text["metrics"]["connections_open"].as_u64().unwrap() <= 1).then_some(())
    });
}

#[test]
fn half_heads_of_all_connections_have_one_budget() {
    assert!(raise_descriptors() > 2_500, "2000 connections are made");
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    provider.get("/health");
    let before = resident_kb(&provider);
    let begun = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(30 << 10));
    let mut held = Vec::new();
    for _ in 0..2_000 {
        let mut stream = provider.connect();
        stream.write_all(begun.as_bytes()).unwrap();
        held.push(stream);
    }
    let refusals = || {
        let metrics = provider.get("/metrics").text();
        let line = "plasmd_refusals_total{reason=\"head-memory\"} ";
        let count = metrics.lines().find_map(|found| found.strip_prefix(line));
        count.and_then(|count| count.parse().ok()).unwrap_or(0_u32)
    };
    // 16 MiB are some 570 of them.
    wait_until("the others to be refused", || {
        (refusals() > 1_300).then_some(())
    });
    let after = resident_kb(&provider);
    // All of them would be 60 MiB.
    assert!(after < before + 36 * 1024, "{before} KiB, then {after} KiB");
    let mut answer = [0; 12];
    held.last_mut().unwrap().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert!(is_open(&held[0]), "the first ones may go on");
    assert!(provider.raw(CLOSING.as_bytes()).ends_with("kernel"));
    drop(held);
    // What they held is there for others.
    wait_until("the memory to be back", || {
        let whole = begun.clone() + "\r\nConnection: close\r\n\r\n";
        let (first, rest) = whole.split_at(20 << 10);
        let mut stream = provider.connect();
        stream.write_all(first.as_bytes()).ok()?;
        stream.write_all(rest.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn dripping_heads_do_not_stop_others() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    let done = AtomicBool::new(false);
    let drip = |address: SocketAddr| {
        let mut streams: Vec<TcpStream> = (0..50)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let head = b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\nX: ".iter();
        for byte in head.chain(std::iter::repeat(&b'a')) {
            if done.load(Ordering::Relaxed) {
                return;
            }
            for stream in &mut streams {
                // It may be refused for its size.
                let _ = stream.write_all(&[*byte]);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| drip(provider.address));
        for _ in 0..200 {
            assert!(provider.raw(CLOSING.as_bytes()).ends_with("kernel"));
        }
        done.store(true, Ordering::Relaxed);
    });
}
