//! Several sockets, reloads that nobody notices, and ends that wait only so long.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::provider::{PATIENCE, PLASMD, Provider, Tree, wait_until};

/// More than the buffers of two sockets hold.
const LARGE: usize = 64 << 20;

/// A client that asks for a large file, reads the beginning and then takes nothing.
fn stuck(provider: &Provider) -> TcpStream {
    let mut stream = provider.connect();
    stream
        .write_all(b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_exact(&mut [0; 1024]).unwrap();
    stream
}

#[test]
fn a_download_that_does_not_end_is_cut_at_the_bound() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &vec![7; LARGE])]);
    let mut provider = Provider::start(tree.root(), &["--drain-max", "1"]);
    let stream = stuck(&provider);
    let began = Instant::now();
    provider.signal(Signal::TERM);
    assert_eq!(provider.wait().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(
        took < Duration::from_secs(8),
        "far below the usual bound and what follows"
    );
    let log = provider.whole_log();
    assert!(log.contains("took too long were cut"), "{log}");
    drop(stream);
}

#[test]
fn no_drain_at_all() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &vec![7; LARGE])]);
    let mut provider = Provider::start(tree.root(), &["--drain-max", "0"]);
    let _stream = stuck(&provider);
    provider.signal(Signal::INT);
    assert_eq!(provider.wait().code(), Some(0));
    assert!(provider.whole_log().contains("were cut"));
}

#[test]
fn a_second_signal_does_not_wait() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &vec![7; LARGE])]);
    let mut provider = Provider::start(tree.root(), &["--drain-max", "3600"]);
    let _stream = stuck(&provider);
    provider.signal(Signal::TERM);
    provider.wait_for_log("stopping: running downloads may finish");
    provider.signal(Signal::TERM);
    assert_eq!(provider.wait().code(), Some(0));
    assert!(provider.whole_log().contains("stopping at once"));
}

#[test]
fn no_request_is_lost_while_it_reloads() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--tls-port",
        "0",
        "--state-dir",
        folder.path().to_str().unwrap(),
    ];
    let mut provider = Provider::start(tree.root(), &flags);
    let is_over = AtomicBool::new(false);
    let address = provider.address;
    let answered = std::thread::scope(|scope| {
        // New connections and one that is kept.
        let fresh = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream
                    .write_all(b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("kernel"), "{answer}");
                count += 1;
            }
            count
        });
        let kept = scope.spawn(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                stream
                    .write_all(b"GET /stable/x86_64/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")
                    .unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nkernel") {
                    let mut part = [0; 1024];
                    let size = stream.read(&mut part).unwrap();
                    assert!(size > 0, "closed after {count} answers");
                    answer.extend_from_slice(&part[..size]);
                }
                count += 1;
            }
            count
        });
        for _ in 0..20 {
            provider.forget_log();
            provider.signal(Signal::HUP);
            provider.wait_for_log(" reloaded ");
        }
        is_over.store(true, Ordering::Relaxed);
        [fresh.join().unwrap(), kept.join().unwrap()]
    });
    assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
    let metrics = provider.get("/metrics").text();
    assert!(metrics.contains("plasmd_reloads_total 20\n"), "{metrics}");
}

#[test]
fn several_addresses() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let mut command = Command::new(PLASMD);
    command.args(["serve", "--no-mdns", "-p", "0"]);
    // The last two are one address, written differently.
    for address in ["127.0.0.1", "127.0.0.2", "::ffff:127.0.0.2"] {
        command.args(["--bind", address]);
    }
    let mut provider = Provider::spawn(command.arg("-a").arg(tree.root()));
    let second = SocketAddr::from(([127, 0, 0, 2], provider.address.port()));
    provider.wait_for_log(&format!("serving here too url=\"http://{second}/\""));
    for address in [provider.address, second] {
        let url = format!("http://{address}/stable/x86_64/vmlinuz");
        let curl = Command::new("curl").args(["-sS", &url]).output().unwrap();
        assert_eq!(curl.stdout, b"kernel", "{curl:?}");
    }
    let listeners = provider.get("/status").json()["process"]["listeners"].clone();
    assert_eq!(listeners.as_array().unwrap().len(), 2, "{listeners}");
    provider.signal(Signal::TERM);
    wait_until("both ports to close", || {
        let is_closed = |address: &SocketAddr| TcpStream::connect(address).is_err();
        [provider.address, second]
            .iter()
            .all(is_closed)
            .then_some(())
    });
    assert_eq!(provider.wait().code(), Some(0));
}
