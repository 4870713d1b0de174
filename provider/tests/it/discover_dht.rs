//! `phase-discover` finds a provider by the DHT when the local network is silent, and does not ask it otherwise.

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc;

use boot_manifest::Arch;
use discovery::dht::{Config, Dht, Identity, Record, Serving};
use serde_json::Value;
use tokio::sync::watch;

use crate::discover::{Rig, URL, stderr, stdout};

/// The host `other`, where the first node of the DHT is.
const FIRST: &str = "10.78.0.3:4011";

/// A node on a host until `stop` is dropped; `ready` is told its id.
pub(crate) fn node(
    rig: &Rig,
    host: &str,
    announced: Option<SocketAddr>,
    ready: &mpsc::Sender<String>,
    mut stop: watch::Receiver<()>,
) {
    rig.lan.within(host, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let identity = Identity::generate();
            ready.send(identity.peer_id()).unwrap();
            let dht = Dht::start(Config {
                identity,
                listen: vec!["0.0.0.0:4011".parse().unwrap()],
                external: Vec::new(),
                bootstrap: vec![FIRST.parse().unwrap()],
                serving: Serving::WhenReachable,
                folder: None,
            })
            .unwrap();
            if let Some(address) = announced {
                dht.announce(Record {
                    channel: "stable".parse().unwrap(),
                    arch: Arch::X86_64,
                    version: "1".to_owned(),
                    manifest: None,
                    key_ids: Vec::new(),
                    addresses: vec![address],
                });
            }
            // Fails when the other end is dropped, which is what is waited for.
            let _dropped = stop.changed().await;
            dht.shutdown().await;
        });
    });
}

#[test]
fn a_provider_is_found_by_the_dht_when_the_local_network_is_silent() {
    let Some(mut rig) = Rig::new("a_provider_is_found_by_the_dht") else {
        return;
    };
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    rig.start_on("provider", "serve", &["--no-mdns"]);
    let nodes = rig.lan.directory().join("nodes");
    fs::write(&nodes, format!("# the first node\n{FIRST}\n")).unwrap();
    let file = format!("@{}", nodes.display());
    let rig = &rig;
    std::thread::scope(|scope| {
        let (ready, started) = mpsc::channel();
        let (hold, stop) = watch::channel(());
        let (first_ready, first_stop) = (ready.clone(), stop.clone());
        scope.spawn(move || node(rig, "other", None, &first_ready, first_stop));
        started.recv().unwrap();
        let http = "10.78.0.1:8080".parse().unwrap();
        scope.spawn(move || node(rig, "provider", Some(http), &ready, stop));
        let id = started.recv().unwrap();

        let found = rig.discover(&["--json", "--bootstrap", "10.78.0.3", "--mode", "wan"]);
        let json: Value = serde_json::from_slice(&found.stdout).unwrap();
        assert_eq!(json["manifest_url"], URL, "{found:?}");
        assert_eq!(
            (&json["peer_id"], json["provider_count"].as_u64()),
            (&Value::from(id), Some(1))
        );
        assert_eq!(json["providers"][0]["found_by"], serde_json::json!(["dht"]));

        let text = rig.discover(&["--bootstrap", &file]);
        assert_eq!(stdout(&text), format!("MANIFEST_URL={URL}\n"), "{text:?}");
        drop(hold);
    });
    let nobody = rig.discover(&["--bootstrap", "10.78.0.9", "--timeout", "3"]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = stderr(&nobody);
    assert!(
        said.contains("in the DHT") && said.contains("none answered"),
        "{said}"
    );
}

/// How often it is looked again.
const TRIES: usize = 10;

#[test]
fn the_local_network_comes_first() {
    let Some(mut rig) = Rig::new("the_local_network_comes_first") else {
        return;
    };
    rig.give_address();
    rig.start_provider();
    // On a busy machine an answer may be later than the local network's time: then the DHT is asked, and it is tried again.
    let is_first = (0..TRIES).any(|_| {
        let found = rig.discover(&["--bootstrap", "10.78.0.9"]);
        assert_eq!(stdout(&found), format!("MANIFEST_URL={URL}\n"), "{found:?}");
        !stderr(&found).contains("DHT")
    });
    assert!(is_first, "the DHT was asked each time");
    // Who wants to see everything has both searched.
    let all = rig.discover(&["--bootstrap", "10.78.0.9", "--all", "--timeout", "2"]);
    assert!(stderr(&all).contains("in the DHT as well"), "{all:?}");
    assert!(stdout(&all).contains(URL), "{all:?}");
}
