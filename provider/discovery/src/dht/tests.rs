//! Nodes that really talk, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use boot_manifest::{Arch, Digest};

use super::*;

/// Generous: a loaded machine takes its time, and only a hang takes this long.
const LIMIT: Duration = Duration::from_secs(60);

const LOOPBACK: &str = "127.0.0.1:0";

fn config(bootstrap: &[&Dht]) -> Config {
    Config {
        identity: Identity::generate(),
        listen: vec![LOOPBACK.parse().unwrap()],
        external: Vec::new(),
        bootstrap: bootstrap.iter().map(|node| place(node)).collect(),
        serving: Serving::WhenReachable,
        folder: None,
    }
}

fn client(bootstrap: &[&Dht]) -> Config {
    Config {
        listen: Vec::new(),
        ..config(bootstrap)
    }
}

fn address(node: &Dht) -> SocketAddr {
    node.state().listening[0]
}

fn place(node: &Dht) -> Bootstrap {
    address(node).to_string().parse().unwrap()
}

async fn start(config: Config) -> Dht {
    let listens = config.listen.len();
    let node = Dht::start(config).unwrap();
    until(&node, |state| state.listening.len() >= listens).await;
    node
}

/// Waits for something about a node.
async fn until(node: &Dht, is_so: impl Fn(&State) -> bool) {
    let waiting = async {
        while !is_so(&node.state()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waiting).await;
    assert!(waited.is_ok(), "{:#?}", node.state());
}

async fn published(node: &Dht, at_least: usize) {
    let is_out = |state: &State| state.announced.iter().any(|one| one.stored_at >= at_least);
    until(node, is_out).await;
}

fn record(last: u8) -> Record {
    Record {
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        version: "1.2".to_owned(),
        manifest: Some(Digest::of(b"manifest")),
        key_ids: Vec::new(),
        addresses: vec![SocketAddr::from(([10, 0, 0, last], 8080))],
    }
}

fn query() -> Query {
    Query {
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        count_max: 32,
        time_max: LIMIT,
    }
}

/// All that a search finds, sorted.
async fn find(node: &Dht, query: Query) -> Vec<SocketAddr> {
    let mut found = node.find(query);
    let mut addresses = Vec::new();
    while let Some(hint) = tokio::time::timeout(LIMIT, found.next()).await.unwrap() {
        addresses.extend(hint.addresses);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[tokio::test]
async fn providers_are_found_through_a_node_that_knows_them() {
    let hub = start(config(&[])).await;
    let providers = [start(config(&[&hub])).await, start(config(&[&hub])).await];
    for (provider, last) in providers.iter().zip(1..) {
        provider.announce(record(last));
        published(provider, 1).await;
    }
    let seeker = start(client(&[&hub])).await;
    let expected: Vec<_> = (1..=2).flat_map(|last| record(last).addresses).collect();
    assert_eq!(find(&seeker, query()).await, expected);
    assert_eq!(seeker.state().mode, Mode::Client);
    assert_eq!(hub.state().mode, Mode::Server);
}
