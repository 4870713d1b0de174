//! Nodes that lie, flood, or speak something else: plain libp2p, which does whatever it is told.

use std::time::Instant;

use libp2p::core::upgrade::Version;
use libp2p::futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore as _};
use libp2p::kad::{self, QueryResult, Quorum};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport as _, identify, noise, tcp, yamux,
};
use tokio::sync::mpsc;

use super::super::envelope::{Span, join};
use super::super::identity::Identity;
use super::super::limits::{FAULTS_MAX, INBOUND_MAX, LIFETIME};
use super::super::net::multiaddr;
use super::*;

const OURS: &str = "/phase/kad/1.0.0";
const KEY: &str = "/phase/stable/x86_64/manifest";

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

type Job = Box<dyn FnOnce(&mut Swarm<Behaviour>) + Send>;

/// A node that keeps no rule.
struct Rogue {
    identity: Identity,
    address: SocketAddr,
    jobs: mpsc::UnboundedSender<Job>,
    results: mpsc::UnboundedReceiver<QueryResult>,
    task: JoinHandle<()>,
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rogue {
    async fn start(protocol: &'static str) -> Self {
        let identity = Identity::generate();
        let mut swarm = swarm(&identity.keypair(), protocol);
        swarm
            .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break super::super::net::socket_address(&address).unwrap();
            }
        };
        let (jobs, mut received) = mpsc::unbounded_channel::<Job>();
        let (told, results) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    job = received.recv() => match job {
                        Some(job) => job(&mut swarm),
                        None => return,
                    },
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::Behaviour(BehaviourEvent::Kad(
                            kad::Event::OutboundQueryProgressed { result, .. },
                        )) = event {
                            let _nobody_listens = told.send(result);
                        }
                    }
                }
            }
        });
        Self {
            identity,
            address,
            jobs,
            results,
            task,
        }
    }

    fn run(&self, job: impl FnOnce(&mut Swarm<Behaviour>) + Send + 'static) {
        self.jobs.send(Box::new(job)).unwrap();
    }

    /// Knows a node, and so connects when it has something to say.
    fn knows(&self, node: &Dht) {
        let (peer, address) = peer_of(node);
        self.run(move |swarm| {
            swarm.behaviour_mut().kad.add_address(&peer, address);
        });
    }

    fn put(&self, node: &Dht, key: &str, value: Vec<u8>) {
        let (peer, _) = peer_of(node);
        let record = kad::Record::new(key.as_bytes().to_vec(), value);
        self.run(move |swarm| {
            let kad = &mut swarm.behaviour_mut().kad;
            kad.put_record_to(record, [peer].into_iter(), Quorum::One);
        });
    }

    fn sealed(&self, last: u8, created: Option<u64>) -> Envelope {
        seal(&self.identity, last, created)
    }

    fn place(&self) -> Bootstrap {
        self.address.to_string().parse().unwrap()
    }
}

fn seal(identity: &Identity, last: u8, created: Option<u64>) -> Envelope {
    let span = Span {
        sequence: u64::from(last),
        created,
        lifetime: LIFETIME,
    };
    Envelope::seal(identity, record(last), span)
}

fn value(envelopes: &[Envelope]) -> Vec<u8> {
    join(envelopes.iter().map(Envelope::bytes))
}

fn peer_of(node: &Dht) -> (PeerId, Multiaddr) {
    (
        node.state().peer_id.parse().unwrap(),
        multiaddr(address(node)),
    )
}

fn swarm(keypair: &Keypair, protocol: &'static str) -> Swarm<Behaviour> {
    let transport = tcp::tokio::Transport::new(tcp::Config::new())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let peer = keypair.public().to_peer_id();
    let mut config = kad::Config::new(StreamProtocol::new(protocol));
    config.set_max_packet_size(1 << 20);
    let store = MemoryStoreConfig {
        max_value_bytes: 1 << 20,
        ..MemoryStoreConfig::default()
    };
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, store), config);
    kad.set_mode(Some(kad::Mode::Server));
    let identify = identify::Config::new("/phase/1.0.0".to_owned(), keypair.public());
    let identify = identify::Behaviour::new(identify);
    let config = libp2p::swarm::Config::with_tokio_executor();
    Swarm::new(transport, Behaviour { identify, kad }, peer, config)
}

async fn refused(node: &Dht, refusal: Refusal) {
    until(node, |state| state.refused.contains_key(&refusal)).await;
}

/// A hub that knows an honest provider.
async fn hub_and_provider() -> (Dht, Dht) {
    let hub = start(config(&[])).await;
    let provider = start(config(&[&hub])).await;
    provider.announce(record(1));
    published(&provider, 1).await;
    (hub, provider)
}

#[tokio::test]
async fn what_is_no_record_is_never_kept() {
    let (hub, _provider) = hub_and_provider().await;
    let stranger = Identity::generate();
    let good = Rogue::start(OURS).await.sealed(9, None);
    let mut broken = good.bytes().to_vec();
    broken[100] ^= 1;
    let long_ago = Some(1_600_000_000);
    let far_off = Some(4_000_000_000);
    let kept = hub.state().records;
    for refusal in [
        Refusal::Malformed,
        Refusal::Oversized,
        Refusal::Signature,
        Refusal::TooMany,
        Refusal::NotTheSigner,
        Refusal::OtherKey,
        Refusal::Expired,
        Refusal::FromTheFuture,
    ] {
        // Each from another node: a few faults are enough to be blocked.
        let rogue = Rogue::start(OURS).await;
        rogue.knows(&hub);
        let (key, value) = match refusal {
            Refusal::Oversized => (KEY, [b"PHP1".to_vec(), vec![0; 17_000]].concat()),
            Refusal::Signature => (KEY, join([&broken[..]].into_iter())),
            Refusal::TooMany => (KEY, value(&[rogue.sealed(9, None), good.clone()])),
            Refusal::NotTheSigner => (KEY, value(&[seal(&stranger, 9, None)])),
            Refusal::OtherKey => (
                "/phase/beta/x86_64/manifest",
                value(&[rogue.sealed(9, None)]),
            ),
            Refusal::Expired => (KEY, value(&[rogue.sealed(9, long_ago)])),
            Refusal::FromTheFuture => (KEY, value(&[rogue.sealed(9, far_off)])),
            _ => (KEY, b"{\"manifest_url\":\"http://10.6.6.6/\"}".to_vec()),
        };
        rogue.put(&hub, key, value);
        refused(&hub, refusal).await;
    }
    assert_eq!(hub.state().records, kept);
    let seeker = start(client(&[&hub])).await;
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
}

#[tokio::test]
async fn whoever_sends_nothing_good_is_blocked_and_others_are_not_disturbed() {
    let (hub, _provider) = hub_and_provider().await;
    let seeker = start(client(&[&hub])).await;
    until(&seeker, |state| state.peers > 0).await;
    let rogue = Rogue::start(OURS).await;
    rogue.knows(&hub);
    for _ in 0..FAULTS_MAX {
        rogue.put(&hub, KEY, b"junk".to_vec());
    }
    until(&hub, |state| {
        state.refused.get(&Refusal::Malformed) == Some(&u64::from(FAULTS_MAX))
    })
    .await;
    // On loopback everybody has the same address, so now nobody gets in.
    let before = hub.state().connections_denied;
    let late = Rogue::start(OURS).await;
    late.knows(&hub);
    late.put(&hub, KEY, value(&[late.sealed(9, None)]));
    until(&hub, |state| state.connections_denied > before).await;
    assert!(hub.state().records <= 1);
}

#[tokio::test]
async fn provider_records_that_nobody_signed_are_not_kept() {
    let (hub, _provider) = hub_and_provider().await;
    let rogue = Rogue::start(OURS).await;
    rogue.knows(&hub);
    rogue.run(|swarm| {
        let key = KEY.as_bytes().to_vec();
        swarm
            .behaviour_mut()
            .kad
            .start_providing(key.into())
            .unwrap();
    });
    refused(&hub, Refusal::Unsigned).await;
}

#[tokio::test]
async fn nodes_that_answer_anything_do_not_keep_a_search_from_ending_well() {
    let (hub, provider) = hub_and_provider().await;
    let mut rogues = Vec::new();
    for kind in 0..4 {
        let rogue = Rogue::start(OURS).await;
        rogue.knows(&hub);
        let fakes: Vec<_> = (0..32)
            .map(|_| seal(&Identity::generate(), 66, Some(1)))
            .collect();
        let answer = match kind {
            0 => b"junk".to_vec(),
            1 => vec![b'P'; 100_000],
            2 => value(&fakes),
            _ => join(std::iter::repeat_n(&[0; 200][..], 32)),
        };
        rogue.run(move |swarm| {
            let kad = &mut swarm.behaviour_mut().kad;
            let record = kad::Record::new(KEY.as_bytes().to_vec(), answer);
            kad.store_mut().put(record).unwrap();
            // Peers that are nowhere, and at addresses that must not be dialled.
            for (n, place) in (0..40).zip(
                [
                    "/ip4/127.0.0.1/tcp/1",
                    "/ip4/224.0.0.1/tcp/80",
                    "/dns4/x/tcp/80",
                    "/ip4/10.255.255.1/udp/9",
                ]
                .iter()
                .cycle(),
            ) {
                let _full = (
                    n,
                    kad.add_address(&PeerId::random(), place.parse().unwrap()),
                );
            }
            let _running = kad.bootstrap();
        });
        rogues.push(rogue);
    }
    until(&hub, |state| state.peers > rogues.len()).await;
    let with_all = Config {
        bootstrap: rogues
            .iter()
            .map(Rogue::place)
            .chain([place(&hub)])
            .collect(),
        ..client(&[])
    };
    let seeker = start(with_all).await;
    until(&seeker, |state| state.peers > rogues.len()).await;
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
    // The same with the provider's words at the hub only: the answers of liars were seen, and counted.
    refused(&seeker, Refusal::Expired).await;
    drop(provider);
}

#[tokio::test]
async fn peers_that_never_answer_hold_up_a_search_but_do_not_stop_it() {
    let (hub, _provider) = hub_and_provider().await;
    // Connections are made and nothing is ever said, by peers that are nearer to the key than anybody honest.
    let silent = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let silent_at = multiaddr(silent.local_addr().unwrap());
    let target = kad::KBucketKey::new(kad::RecordKey::new(&KEY));
    let mut nearest: Vec<_> = (0..500).map(|_| PeerId::random()).collect();
    nearest.sort_by_key(|peer| kad::KBucketKey::from(*peer).distance(&target));
    let rogue = Rogue::start(OURS).await;
    rogue.knows(&hub);
    rogue.run(move |swarm| {
        for peer in &nearest[..19] {
            swarm
                .behaviour_mut()
                .kad
                .add_address(peer, silent_at.clone());
        }
    });
    let misled = Config {
        bootstrap: vec![rogue.place()],
        ..client(&[])
    };
    let seeker = start(misled).await;
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
}

#[tokio::test]
async fn another_network_stays_another_network() {
    let (hub, _provider) = hub_and_provider().await;
    let before = hub.state();
    let mut other = Rogue::start("/ipfs/kad/1.0.0").await;
    other.knows(&hub);
    other.put(&hub, KEY, value(&[other.sealed(9, None)]));
    other.run(|swarm| {
        let _query = swarm
            .behaviour_mut()
            .kad
            .get_record(KEY.as_bytes().to_vec().into());
    });
    for _ in 0..2 {
        let result = tokio::time::timeout(LIMIT, other.results.recv()).await;
        let is_failure = matches!(
            result.unwrap().unwrap(),
            QueryResult::PutRecord(Err(_)) | QueryResult::GetRecord(Err(_))
        );
        assert!(is_failure);
    }
    let after = hub.state();
    assert_eq!((after.peers, after.stored), (before.peers, before.stored));
}

#[tokio::test]
async fn nobody_gets_others_into_the_table_by_claiming_their_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Config {
        identity: Identity::load_or_make(folder.path()).unwrap(),
        folder: Some(folder.path().to_owned()),
        ..config(&[])
    };
    let hub = start(kept).await;
    let rogue = Rogue::start(OURS).await;
    rogue.knows(&hub);
    rogue.run(|swarm| {
        for place in [
            "/ip4/10.66.66.66/tcp/80",
            "/ip4/198.51.100.6/tcp/80",
            "/dns4/victim.example/tcp/80",
        ] {
            swarm.add_external_address(place.parse().unwrap());
        }
        let _running = swarm.behaviour_mut().kad.bootstrap();
    });
    until(&hub, |state| state.peers == 1).await;
    hub.shutdown().await;
    let saved = saved_peers(folder.path());
    let expected = format!(
        "{}/p2p/{}",
        multiaddr(rogue.address),
        rogue.identity.peer_id()
    );
    assert_eq!(saved.lines().nth(1), Some(expected.as_str()));
    assert_eq!(saved.lines().count(), 2, "{saved}");
}

#[tokio::test]
async fn connections_that_say_nothing_give_their_places_back() {
    let (hub, _provider) = hub_and_provider().await;
    let mut silent = Vec::new();
    for _ in 0..INBOUND_MAX + 20 {
        silent.push(tokio::net::TcpStream::connect(address(&hub)).await.unwrap());
    }
    until(&hub, |state| state.connections_denied > 0).await;
    // They are still there; a client that goes on trying gets in as soon as their time is over.
    let seeker = start(client(&[&hub])).await;
    let begun = Instant::now();
    assert_eq!(find(&seeker, query()).await, record(1).addresses);
    assert!(begun.elapsed() < LIMIT);
    drop(silent);
}

#[tokio::test]
async fn a_crowd_of_names_has_no_more_than_one_addresses_share() {
    let hub = start(config(&[])).await;
    let mut rogues = Vec::new();
    for last in 1..=12 {
        let rogue = Rogue::start(OURS).await;
        rogue.knows(&hub);
        rogue.put(&hub, KEY, value(&[rogue.sealed(last, None)]));
        rogues.push(rogue);
    }
    refused(&hub, Refusal::Full).await;
    until(&hub, |state| state.records == 8).await;
}
