//! Nodes that really talk, on loopback.

mod hostile;

use std::net::SocketAddr;
use std::path::Path;
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

#[tokio::test]
async fn ipv6_serves_as_well() {
    let on_v6 = |bootstrap: &[&Dht]| Config {
        listen: vec!["[::1]:0".parse().unwrap()],
        ..config(bootstrap)
    };
    let hub = start(on_v6(&[])).await;
    let provider = start(on_v6(&[&hub])).await;
    let there = Record {
        addresses: vec!["[fd00::1]:8080".parse().unwrap()],
        ..record(1)
    };
    provider.announce(there.clone());
    published(&provider, 1).await;
    let seeker = start(client(&[&hub])).await;
    assert_eq!(find(&seeker, query()).await, there.addresses);
}

#[tokio::test]
async fn a_search_that_began_first_ends_when_somebody_comes() {
    let hub = start(config(&[])).await;
    let seeker = start(client(&[&hub])).await;
    let mut found = seeker.find(query());
    let provider = start(config(&[&hub])).await;
    provider.announce(record(1));
    let hint = tokio::time::timeout(LIMIT, found.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(hint.addresses, record(1).addresses);
    assert_eq!(hint.id, provider.state().peer_id);
    until(&seeker, |state| state.found == 1).await;
}

#[tokio::test]
async fn with_nobody_there_a_search_ends_with_its_time() {
    let hub = start(config(&[])).await;
    let seeker = start(client(&[&hub])).await;
    let short = Query {
        time_max: Duration::from_secs(1),
        ..query()
    };
    assert!(find(&seeker, short).await.is_empty());
    let alone = Dht::start(client(&[])).unwrap_err();
    assert!(matches!(alone, DhtError::Alone), "{alone}");
}

#[tokio::test]
async fn whoever_searches_asks_a_member_that_is_not_ready_again_and_again() {
    // It lets nobody in, as a member does that is full; a node that nobody waits for would come six times in a minute.
    let full = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let at = full.local_addr().unwrap().to_string();
    let misled = Config {
        bootstrap: vec![at.parse().unwrap()],
        ..client(&[])
    };
    let seeker = start(misled).await;
    let _found = seeker.find(Query {
        time_max: 2 * LIMIT,
        ..query()
    });
    let begun = tokio::time::Instant::now();
    let asked = async {
        for _ in 0..8 {
            drop(full.accept().await.unwrap());
        }
    };
    assert!(tokio::time::timeout_at(begun + LIMIT, asked).await.is_ok());
}

#[tokio::test]
async fn a_record_outlives_a_third_of_the_nodes() {
    let hub = start(config(&[])).await;
    let mut nodes = Vec::new();
    for _ in 0..11 {
        nodes.push(start(config(&[&hub])).await);
    }
    for node in &nodes {
        until(node, |state| state.peers >= 4).await;
    }
    let provider = start(config(&[&hub])).await;
    provider.announce(record(1));
    published(&provider, 8).await;
    // The provider, the node all began with, and three others vanish without a word.
    drop((provider, hub));
    let rest = nodes.split_off(3);
    drop(nodes);
    let seeker = start(client(&[&rest[0]])).await;
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
}

#[tokio::test]
async fn a_record_is_renewed_before_it_ends_and_ends_with_its_provider() {
    let hub = start(config(&[])).await;
    let quick = Timing {
        lifetime: Duration::from_secs(2),
        refresh: Duration::from_millis(500),
    };
    let provider = Dht::start_with(config(&[&hub]), quick).unwrap();
    provider.announce(record(1));
    // Four publications, a second or more between two of them: the first record would be over.
    until(&hub, |state| state.stored >= 4).await;
    let seeker = start(client(&[&hub])).await;
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
    drop(provider);
    until(&hub, |state| state.records == 0).await;
}

#[tokio::test]
async fn what_changes_is_known_soon_and_what_is_withdrawn_is_gone() {
    let hub = start(config(&[])).await;
    let provider = start(config(&[&hub])).await;
    let seeker = start(client(&[&hub])).await;
    provider.announce(record(1));
    published(&provider, 1).await;
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
    let before = hub.state().stored;
    provider.announce(record(2));
    until(&hub, |state| state.stored > before).await;
    assert_eq!(find(&seeker, query()).await, record(2).addresses);
    let before = hub.state().stored;
    provider.shutdown().await;
    until(&hub, |state| state.stored > before).await;
    let short = Query {
        time_max: Duration::from_secs(1),
        ..query()
    };
    assert!(find(&seeker, short).await.is_empty());
}

#[tokio::test]
async fn a_node_comes_back_without_its_bootstrap_peers() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |bootstrap: &[&Dht]| Config {
        identity: Identity::load_or_make(folder.path()).unwrap(),
        folder: Some(folder.path().to_owned()),
        ..client(bootstrap)
    };
    let hub = start(config(&[])).await;
    let first = start(kept(&[&hub])).await;
    until(&first, |state| state.peers == 1).await;
    let name = first.state().peer_id;
    first.shutdown().await;
    let again = start(kept(&[])).await;
    until(&again, |state| state.peers == 1).await;
    assert_eq!(again.state().peer_id, name);
    drop(again);
    std::fs::write(folder.path().join("peers"), "damaged").unwrap();
    let fresh = start(kept(&[&hub])).await;
    until(&fresh, |state| state.peers == 1).await;
}

#[tokio::test]
async fn whoever_does_not_serve_is_in_nobodys_table() {
    let hub = start(config(&[])).await;
    let never = Config {
        serving: Serving::Never,
        ..config(&[&hub])
    };
    let shy = start(never).await;
    let open = start(config(&[&hub])).await;
    until(&shy, |state| state.peers > 0).await;
    until(&open, |state| state.peers > 0).await;
    until(&hub, |state| state.peers > 0).await;
    assert_eq!(
        (shy.state().mode, open.state().mode),
        (Mode::Client, Mode::Server)
    );
    // It publishes all the same.
    shy.announce(record(3));
    published(&shy, 1).await;
    assert_eq!(find(&open, query()).await, record(3).addresses);
    assert_eq!(hub.state().peers, 1);
}

#[tokio::test]
async fn a_dropped_node_listens_no_more() {
    let node = start(config(&[])).await;
    let (address, watcher) = (address(&node), node.watcher());
    drop(node);
    let closed = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, closed).await.unwrap();
    assert_eq!(
        watcher.state().listening,
        [address],
        "the last state stays readable"
    );
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_an_error_that_names_it() {
    let elsewhere = Config {
        listen: vec!["192.0.2.1:4011".parse().unwrap()],
        ..config(&[])
    };
    let error = Dht::start(elsewhere).unwrap_err().to_string();
    assert!(error.contains("192.0.2.1:4011"), "{error}");
}

/// The addresses in a node's file of known peers.
fn saved_peers(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("peers")).unwrap_or_default()
}
