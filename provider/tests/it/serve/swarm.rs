//! What a provider tells machines that fetch the same at once, and how much it sends them.

use std::process::Command;
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use serde_json::{Value, json};

use crate::provider::{Provider, Tree, wait_until};
use crate::serve::manifest::{artifact, now, signed};

const SIZE: usize = (9 << 20) + 5;

/// A signed image of 9 MiB and a few bytes, and the digest of its manifest.
fn image() -> (Tree, Digest) {
    let kernel: Vec<u8> = (0..SIZE).map(|at| (at / 9) as u8).collect();
    let initramfs = vec![7; 3_000];
    let manifest = signed(
        vec![
            artifact("initramfs", "initramfs.img", &initramfs),
            artifact("kernel", "vmlinuz", &kernel),
        ],
        now(),
    );
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", &kernel),
        ("stable/x86_64/initramfs.img", &initramfs),
        ("stable/x86_64/manifest.json", &manifest),
    ]);
    (tree, Digest::of(&manifest))
}

fn start(tree: &Tree, flags: &[&str]) -> Provider {
    Provider::start(tree.root(), &[&["--arch", "x86_64"], flags].concat())
}

#[test]
fn a_provider_has_everything_of_what_it_serves() {
    let (tree, digest) = image();
    let provider = start(&tree, &[]);
    // Nobody has fetched the manifest yet: it is known all the same.
    let answer = provider.get(&format!("/have?manifest={digest}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let map = answer.json();
    assert_eq!(map["manifest"], digest.to_string());
    assert_eq!(map["artifacts"][0]["have"], "80");
    assert_eq!(map["artifacts"][1]["chunks"], 10);
    assert_eq!(map["artifacts"][1]["have"], "ffc0");
    assert_eq!(provider.get("/have").json(), map, "the default one");
    let other = Digest::of(b"another");
    for (path, status) in [
        (format!("/have?manifest={other}"), 404),
        (format!("/peers?manifest={other}"), 404),
        ("/have?manifest=x".to_owned(), 400),
        (format!("/have?manifest={digest}&manifest={digest}"), 400),
    ] {
        assert_eq!(provider.get(&path).status, status, "{path}");
    }
    let refused = provider.get("/metrics").text();
    let line = "plasmd_refusals_total{reason=\"unknown-manifest\"} 2\n";
    assert!(refused.contains(line), "{refused}");
}

#[test]
fn machines_that_fetch_are_told_of_each_other() {
    let (tree, digest) = image();
    let provider = start(&tree, &["--bind", "127.0.0.2", "--hide-clients"]);
    let post = |from: &str, query: &str| {
        let path = format!("/peers?manifest={digest}{query}");
        provider.curl(&path, &["-X", "POST", "--interface", from])
    };
    let peers = |answer: Value| {
        let list = answer["peers"].as_array().unwrap().iter();
        let mut peers: Vec<Value> = list.cloned().collect();
        peers.sort_by_key(ToString::to_string);
        peers
    };
    let first = json!({ "address": "127.0.0.11:8080", "complete": false });
    let second = json!({ "address": "127.0.0.12:81", "complete": true });
    let answer = post("127.0.0.11", "&port=8080").json();
    assert_eq!(answer["manifest"], digest.to_string());
    assert!(answer["refresh_seconds"].as_u64() > Some(0));
    assert!(peers(answer).is_empty(), "nobody is told of itself");
    let answer = post("127.0.0.12", "&port=81&complete=true").json();
    assert_eq!(peers(answer), std::slice::from_ref(&first));
    // Again is not twice.
    let answer = post("127.0.0.11", "&port=8080").json();
    assert_eq!(peers(answer), std::slice::from_ref(&second));
    assert_eq!(peers(provider.get("/peers").json()), [first, second]);
    assert_eq!(post("127.0.0.11", "").status, 400, "a port is missing");
    assert_eq!(post("127.0.0.11", "&port=0").status, 400);
    let answer = provider.curl("/have", &["-X", "POST"]);
    assert_eq!(answer.status, 405, "nothing is registered there");

    let status = provider.get("/status").json();
    assert_eq!(status["peers"], json!({ "fetching": 1, "complete": 1 }));
    let metrics = provider.get("/metrics").text();
    for line in [
        "plasmd_peers{state=\"fetching\"} 1\n",
        "plasmd_peers{state=\"complete\"} 1\n",
        "plasmd_peer_registrations_total 3\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
}

/// As a machine does it that came from this provider, and runs now.
#[test]
fn a_machine_that_serves_is_listed_where_it_came_from() {
    let (tree, digest) = image();
    let provider = start(&tree, &["--bind", "127.0.0.2", "--hide-clients"]);
    let report = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_plasmd"))
            .args(["report", "--to", &provider.url("/"), "--stage", "serving=1"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let listed = || {
        let path = format!("/peers?manifest={digest}");
        let answer = provider.curl(&path, &["--interface", "127.0.0.12"]);
        answer.json()["peers"].clone()
    };
    // One that gives nothing only tells that it serves.
    let told = report(&[]);
    assert!(told.status.success(), "{told:?}");
    assert_eq!(listed(), json!([]));
    let manifest = digest.to_string();
    let told = report(&["--manifest", &manifest, "--port", "8081"]);
    assert!(told.status.success(), "{told:?}");
    let itself = json!({ "address": "127.0.0.1:8081", "complete": true });
    assert_eq!(listed(), json!([itself]));
    // What the provider does not serve is nobody's to list; it says so at once.
    let other = Digest::of(b"another").to_string();
    let refused = report(&["--manifest", &other, "--port", "8082"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("does not list this machine: it answers 404"),
        "{refused:?}"
    );
    assert_eq!(listed(), json!([itself]));
    assert!(!report(&["--manifest", &manifest]).status.success());
}

#[test]
fn one_address_cannot_fill_the_list() {
    let (tree, digest) = image();
    let provider = start(&tree, &[]);
    let register = |port: u16| {
        let path = format!("/peers?manifest={digest}&port={port}");
        provider.curl(&path, &["-X", "POST"])
    };
    assert!(
        (1..=40).all(|port| register(port).status == 200),
        "all are told of others"
    );
    let fetching = provider.get("/status").json()["peers"]["fetching"].as_u64();
    assert!(fetching < Some(40) && fetching > Some(0), "{fetching:?}");
    let metrics = provider.get("/metrics").text();
    let refused = 40 - fetching.unwrap();
    let line = format!("plasmd_refusals_total{{reason=\"peers-full\"}} {refused}\n");
    assert!(metrics.contains(&line), "{metrics}");
}

#[test]
fn a_rate_holds_for_all_clients_together() {
    let (tree, _) = image();
    let provider = start(&tree, &["--limit-rate", "20M"]);
    let started = Instant::now();
    let get = || provider.get("/stable/x86_64/vmlinuz").body.len();
    let sizes = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2).map(|_| scope.spawn(get)).collect();
        let sizes = clients.into_iter().map(|client| client.join().unwrap());
        sizes.collect::<Vec<usize>>()
    });
    assert_eq!(sizes, [SIZE, SIZE]);
    let least = 2.0 * SIZE as f64 / f64::from(20 << 20) - 0.05;
    let took = started.elapsed();
    assert!(took.as_secs_f64() > least, "{took:?}");
    assert_eq!(
        provider.get("/status").json()["sending"]["rate_max"],
        20 << 20
    );
}

#[test]
fn a_small_file_waits_for_its_turn() {
    let (tree, _) = image();
    let provider = start(&tree, &["--limit-rate", "2000"]);
    let started = Instant::now();
    for flags in [&[][..], &["-H", "If-None-Match: \"x\""], &[]] {
        let answer = provider.curl("/stable/x86_64/initramfs.img", flags);
        assert_eq!(answer.body.len(), 3_000);
    }
    // The first one goes at once; two more are 3 s.
    assert!(started.elapsed() > Duration::from_millis(2_900));
}

#[test]
fn without_memory_everything_but_artifacts_is_sent() {
    let (tree, digest) = image();
    let provider = start(&tree, &["--memory-reserve", "1073741824"]);
    for path in ["/stable/x86_64/vmlinuz", "/stable/x86_64/initramfs.img"] {
        let answer = provider.get(path);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.field("retry-after"), "1");
        assert_eq!(provider.curl(path, &["-I"]).status, 200);
    }
    assert_eq!(provider.get("/stable/x86_64/manifest.json").status, 200);
    assert_eq!(
        provider.get(&format!("/have?manifest={digest}")).status,
        200
    );
    wait_until("two refusals", || {
        let metrics = provider.get("/metrics").text();
        let line = "plasmd_refusals_total{reason=\"too-little-memory\"} 2\n";
        metrics.contains(line).then_some(())
    });
    assert_eq!(
        provider.get("/status").json()["sending"]["has_memory"],
        false
    );
}
