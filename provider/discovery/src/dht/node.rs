//! The one task that owns the node: the swarm of connections, the Kademlia table, what is published and what is looked for.
//!
//! ```text
//! Dht ──wanted, Find──> Node ──> Swarm{ gate, identify, kad } ──> TCP
//!  ^                     │
//!  └──────State──────────┘
//! ```
//! `peers` holds who is known and how others are reached, `records` what is published, stored and found. Ends with its
//! handle; what it started (name look-ups, connections) ends with it.

mod peers;
mod records;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use libp2p::core::upgrade::Version;
use libp2p::futures::StreamExt as _;
use libp2p::kad::{self, QueryId};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, Transport as _, identify, noise, ping, tcp, yamux};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use self::records::Active;
use super::gate::Gate;
use super::identity::Identity;
use super::limits::{
    BUCKET_SIZE, CONNECT_TIME_MAX, GOODBYE_TIME_MAX, IDLE_TIME_MAX, PACKET_SIZE_MAX, PARALLEL,
    QUERY_TIME_MAX, REFRESH_PAUSE, REPLICAS, SAVE_FIRST, STREAMS_PER_CONNECTION_MAX, TICK,
};
use super::net::{multiaddr, socket_address};
use super::pace::Paced;
use super::publish::Publisher;
use super::reach::Reach;
use super::saved::Saved;
use super::state::{Announced, Mode, State};
use super::store::Store;
use super::transport::Guarded;
use super::{Command, Config, DhtError, Refusal, Serving, Shared, Timing, lock};

/// The name of our network: whoever speaks another is not in it.
const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/phase/kad/1.0.0");

/// What `identify` tells others.
const IDENTIFY_PROTOCOL: &str = "/phase/1.0.0";

/// The library asks once for each connection; nobody here needs more, and a connection ends long before this.
const PING_INTERVAL: Duration = Duration::from_secs(86_400);

#[derive(NetworkBehaviour)]
struct Behaviour {
    // First: what it denies, the others never see.
    gate: Gate,
    identify: identify::Behaviour,
    kad: kad::Behaviour<Store>,
    // Last and least: members of other programs (js-libp2p) take nobody into their tables who does not answer it.
    ping: ping::Behaviour,
}

/// See the module.
pub(super) struct Node {
    config: Config,
    timing: Timing,
    shared: Arc<Shared>,
    swarm: Swarm<Behaviour>,
    is_loopback_used: Arc<AtomicBool>,
    started: Instant,
    // Peers.
    reach: Reach,
    own_addresses: (Instant, Vec<IpAddr>),
    resolving: JoinSet<Vec<(Option<PeerId>, SocketAddr)>>,
    join_at: Instant,
    join_pause: Duration,
    saved: Saved,
    save_at: Instant,
    saving: Option<JoinHandle<()>>,
    // Records.
    publisher: Publisher,
    publications: HashMap<QueryId, String>,
    goodbyes: HashSet<QueryId>,
    searches: Vec<Active>,
    counts: Counts,
    refreshed: Instant,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counts {
    refused: BTreeMap<Refusal, u64>,
    searches: u64,
    found: u64,
    stored: u64,
    last_found: Option<u64>,
}

impl Node {
    pub(super) fn new(
        config: Config,
        timing: Timing,
        shared: Arc<Shared>,
    ) -> Result<Self, DhtError> {
        if config.listen.is_empty() && config.bootstrap.is_empty() && config.folder.is_none() {
            return Err(DhtError::Alone);
        }
        let saved = config
            .folder
            .as_deref()
            .map(Saved::load)
            .unwrap_or_default();
        let now = Instant::now();
        let is_loopback_used = config.listen.iter().any(|own| own.ip().is_loopback());
        let is_loopback_used = Arc::new(AtomicBool::new(is_loopback_used));
        let mut node = Self {
            swarm: swarm(&config, Arc::clone(&is_loopback_used))?,
            is_loopback_used,
            shared,
            started: now,
            reach: Reach::default(),
            own_addresses: (now, peers::own_addresses()),
            resolving: JoinSet::new(),
            join_at: now,
            join_pause: Duration::ZERO,
            publisher: Publisher::new(saved.sequence, timing.refresh),
            timing,
            saved,
            // The first time soon: until then a power cut forgets everybody.
            save_at: now + SAVE_FIRST,
            saving: None,
            publications: HashMap::new(),
            goodbyes: HashSet::new(),
            searches: Vec::new(),
            counts: Counts::default(),
            refreshed: now,
            config,
        };
        for address in node.config.listen.clone() {
            let listening = node.swarm.listen_on(multiaddr(address));
            listening.map_err(|error| DhtError::Listen {
                address,
                reason: error.to_string(),
            })?;
        }
        for address in node.config.external.clone() {
            node.swarm.add_external_address(multiaddr(address));
        }
        node.choose_mode();
        node.refresh();
        Ok(node)
    }

    /// Runs until it is told to stop, or its handle is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let shared = Arc::clone(&self.shared);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Something happened since the last snapshot.
        let mut is_stale = false;
        loop {
            let snapshot_at = tokio::time::Instant::from_std(self.refreshed + REFRESH_PAUSE);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(found) = self.resolving.join_next() => self.dial_found(found.unwrap_or_default()),
                () = shared.changed.notified() => self.reconcile(),
                _ = ticks.tick() => self.on_tick(),
                () = tokio::time::sleep_until(snapshot_at), if is_stale => {
                    self.refresh();
                    is_stale = false;
                    continue;
                }
                command = commands.recv() => match command {
                    Some(Command::Find(query, hints)) => self.search(query, hints),
                    Some(Command::Shutdown) => break,
                    None => return,
                },
            }
            is_stale = true;
        }
        self.say_goodbye().await;
        self.refresh();
    }

    async fn say_goodbye(&mut self) {
        lock(&self.shared.wanted).clear();
        self.reconcile();
        let said = async {
            while !self.goodbyes.is_empty() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        };
        if tokio::time::timeout(GOODBYE_TIME_MAX, said).await.is_err() {
            tracing::debug!("not everybody heard that the DHT record is over");
        }
        self.save();
        if let Some(saving) = self.saving.take() {
            // It only fails by a panic, which was printed.
            let _ended = saving.await;
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        if now >= self.join_at {
            self.join();
        }
        self.choose_mode();
        self.publish();
        self.advance_searches();
        self.swarm.behaviour_mut().kad.store_mut().expire();
        if now >= self.save_at {
            self.save();
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            })) => self.on_identified(connection_id, peer_id, &info),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                self.on_dial_failure(peer_id, &error);
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::warn!(?reason, "the DHT listens no more");
            }
            _ => {}
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.on_request(request),
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => self.on_progress(id, result, step.last),
            kad::Event::RoutingUpdated { is_new_peer, .. } if is_new_peer => {
                self.publish();
                self.advance_searches();
            }
            _ => {}
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn refuse(&mut self, refusal: Refusal) {
        *self.counts.refused.entry(refusal).or_default() += 1;
    }

    /// Shows the world what there is now.
    fn refresh(&mut self) {
        let peers = self.table_size();
        let announced = self.publisher.records.iter().map(|published| Announced {
            key: published.record.key(),
            stored_at: published.stored_at,
            last_published: published.published_at,
        });
        let state = State {
            peer_id: self.config.identity.peer_id(),
            mode: match self.swarm.behaviour().kad.mode() {
                kad::Mode::Client => Mode::Client,
                kad::Mode::Server => Mode::Server,
            },
            listening: self.swarm.listeners().filter_map(socket_address).collect(),
            peers,
            connected: self.swarm.network_info().num_peers(),
            bootstrap: self.config.bootstrap.len(),
            announced: announced.collect(),
            records: self.swarm.behaviour_mut().kad.store_mut().len(),
            last_found: self.counts.last_found,
            searches: self.counts.searches,
            found: self.counts.found,
            stored: self.counts.stored,
            refused: self.counts.refused.clone(),
            connections_denied: self.swarm.behaviour().gate.denied,
        };
        *lock(&self.shared.state) = state;
        self.refreshed = Instant::now();
    }
}

fn swarm(config: &Config, is_loopback_used: Arc<AtomicBool>) -> Result<Swarm<Behaviour>, DhtError> {
    let keypair = config.identity.keypair();
    let noise = noise::Config::new(&keypair);
    let noise = noise.map_err(|error| DhtError::Handshake(error.to_string()))?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let guarded = Guarded {
        inner: tcp::tokio::Transport::new(tcp::Config::new()),
        is_loopback_used,
    };
    let transport = guarded
        .map(|stream, _| Paced::new(stream))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(CONNECT_TIME_MAX)
        .boxed();
    let behaviour = Behaviour {
        gate: Gate::default(),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
        identify: identify::Behaviour::new(
            identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
                .with_agent_version(concat!("plasmd/", env!("CARGO_PKG_VERSION")).to_owned())
                // The table below holds addresses, and only those that were seen.
                .with_cache_size(0),
        ),
        kad: kademlia(&config.identity),
    };
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIME_MAX)
        .with_max_negotiating_inbound_streams(STREAMS_PER_CONNECTION_MAX);
    let peer = config.identity.peer();
    Ok(Swarm::new(transport, behaviour, peer, swarm_config))
}

fn kademlia(identity: &Identity) -> kad::Behaviour<Store> {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(QUERY_TIME_MAX)
        .set_replication_factor(REPLICAS)
        .set_parallelism(PARALLEL)
        .set_kbucket_size(BUCKET_SIZE)
        .set_max_packet_size(PACKET_SIZE_MAX)
        // A record comes from its signer, who puts it again from its own timer.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        // Only addresses at which somebody was seen get into the table.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    let peer = identity.peer();
    kad::Behaviour::with_config(peer, Store::new(peer), config)
}

/// Any number; nothing secret depends on it.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}
