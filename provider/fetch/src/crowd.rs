//! Asking others who else there is, and what they have: `/peers` of servers and peers, `/have` of peers.
//!
//! ```text
//! Swarm (found elsewhere) ──┐
//! /peers of the origins ────┼──> waiting ──join──> a source of the download, whose /have is looked at
//! /peers of peers ──────────┘
//! ```
//!
//! What comes back is only ever an address to ask or a map to be tried. Addresses are asked directly, never by a proxy,
//! and redirects are not followed: nobody can aim this machine at something else than an HTTP server that it was told
//! of, with a request for a map. Answers are bounded, and so is how often one address is tried.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use http::Method;
use swarm::peers::{Answer, Question, is_usable};
use swarm::{HAVE_SIZE_MAX, Map, PEERS_SIZE_MAX, PieceSet, Pieces};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::clients::{Clients, Manner};
use crate::error::FetchError;
use crate::files::{File, Files};
use crate::limits::{
    GOSSIP_PAUSE, LIST_FAILURES_MAX, LIST_PAUSE_AFTER_FAILURE, LISTS_AT_ONCE, LISTS_MAX,
    REJOIN_PAUSE, TRIED_MAX, WAITING_MAX,
};
use crate::neighbours::{Neighbour, Swarm};
use crate::sources::Mirror;
use crate::url::Url;

/// What is asked of others during one download.
pub(crate) struct Crowd {
    swarm: Swarm,
    manifest: Digest,
    /// What was told last.
    coming: PieceSet,
    lists: Vec<List>,
    /// Peers that could join.
    waiting: VecDeque<Newcomer>,
    /// Those that did, and when.
    tried: BTreeMap<SocketAddr, Instant>,
    /// Clients that keep a connection to a peer for its maps, by the number of its source.
    lookers: BTreeMap<usize, Client>,
    asked: JoinSet<Asked>,
    /// Some list was answered, or was not to be had.
    has_heard: bool,
}

/// Somebody who keeps a list of peers.
struct List {
    /// Where `/peers` is.
    base: Url,
    manner: Manner,
    /// Its address, of a peer.
    peer: Option<SocketAddr>,
    due: Instant,
    failures: u32,
    is_asked: bool,
    client: Option<Client>,
}

/// A question that was answered, or not.
struct Asked {
    client: Client,
    about: About,
}

enum About {
    List {
        base: Url,
        /// The address that answered.
        by: Option<SocketAddr>,
        answer: Result<Answer, FetchError>,
    },
    Map {
        source: usize,
        answer: Result<Map, FetchError>,
    },
}

/// What came of a look at a map.
pub(crate) struct Looked {
    pub(crate) source: usize,
    pub(crate) answer: Result<Map, FetchError>,
}

/// A peer that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) address: SocketAddr,
    /// It is in the same network as this machine.
    pub(crate) is_near: bool,
}

impl Crowd {
    /// Nobody was asked yet.
    pub(crate) fn new(swarm: Swarm, manifest: Digest) -> Self {
        let mut crowd = Self {
            swarm,
            manifest,
            coming: PieceSet::new(0),
            lists: Vec::new(),
            waiting: VecDeque::new(),
            tried: BTreeMap::new(),
            lookers: BTreeMap::new(),
            asked: JoinSet::new(),
            has_heard: false,
        };
        for (address, _) in crowd.swarm.known() {
            crowd.heard_of(address, address.ip());
        }
        crowd
    }

    /// One more server that may keep a list; `origin` is the URL of a file there.
    pub(crate) fn add_origin(&mut self, origin: &Url, clients: &Clients) {
        // By way of a proxy this machine would be registered under the proxy's address, and asked there.
        if clients.has_proxy_for(origin) {
            return;
        }
        self.add_list(origin, Manner::Server, None);
    }

    fn add_list(&mut self, at: &Url, manner: Manner, peer: Option<SocketAddr>) {
        let Ok(base) = at.join("/peers") else {
            return;
        };
        let is_known = self.lists.iter().any(|list| list.base == base);
        if !is_known && self.lists.len() < LISTS_MAX {
            self.lists.push(List {
                base,
                manner,
                peer,
                due: Instant::now(),
                failures: 0,
                is_asked: false,
                client: None,
            });
        }
    }

    /// Takes what was found elsewhere, and asks the lists that are due. Gives servers that were found.
    pub(crate) fn step(&mut self, clients: &Clients) -> Vec<Mirror> {
        let mut servers = Vec::new();
        while let Some(neighbour) = self.swarm.next_found() {
            match neighbour {
                Neighbour::Peer(address) => self.heard_of(address, address.ip()),
                Neighbour::Provider(mirror) => servers.push(mirror),
            }
        }
        let now = Instant::now();
        let mut busy = self.lists.iter().filter(|list| list.is_asked).count();
        for list in &mut self.lists {
            if busy >= LISTS_AT_ONCE {
                break;
            }
            if !list.is_asked && list.due <= now {
                busy += 1;
                list.is_asked = true;
                let client = list.client.take();
                let client = client.unwrap_or_else(|| clients.fresh(list.manner));
                let question = Question {
                    manifest: self.manifest,
                    port: self.swarm.port(),
                    complete: false,
                };
                self.asked
                    .spawn(ask_list(client, list.base.clone(), question));
            }
        }
        servers
    }

    /// Whether others can have from this machine what it fetches.
    pub(crate) fn shares(&self) -> bool {
        self.swarm.port().is_some()
    }

    /// Whether nobody is known yet, and the first answers are still to come.
    pub(crate) fn is_expecting(&self) -> bool {
        !self.has_heard && self.waiting.is_empty() && self.lists.iter().any(|list| list.is_asked)
    }

    /// When to call [`Self::step`] again though nothing was told.
    pub(crate) fn wake(&self) -> Option<Duration> {
        let waiting = self.lists.iter().filter(|list| !list.is_asked);
        let due = waiting.map(|list| list.due).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// The next peer to try, near ones first. It counts as tried then.
    pub(crate) fn newcomer(&mut self, is_source: impl Fn(SocketAddr) -> bool) -> Option<Newcomer> {
        while !self.waiting.is_empty() {
            let near = self.waiting.iter().position(|newcomer| newcomer.is_near);
            let newcomer = self.waiting.remove(near.unwrap_or_default())?;
            if !is_source(newcomer.address) {
                self.tried.insert(newcomer.address, Instant::now());
                return Some(newcomer);
            }
        }
        None
    }

    /// Asks a peer for its map; answered by [`Self::answered`].
    pub(crate) fn look(&mut self, source: usize, at: &Url, pieces: &Pieces, clients: &Clients) {
        let client = self.lookers.remove(&source);
        let client = client.unwrap_or_else(|| clients.fresh(Manner::Peer));
        let (at, manifest, pieces) = (at.clone(), self.manifest, pieces.clone());
        self.asked.spawn(async move {
            let mut client = client;
            let answer = ask_map(&mut client, &at, &manifest, &pieces).await;
            let about = About::Map { source, answer };
            Asked { client, about }
        });
    }

    /// A peer answered: it can be told to others, and asked whom it knows.
    pub(crate) fn reached(&mut self, address: SocketAddr, at: &Url, complete: bool) {
        self.swarm.reached(address, complete);
        self.add_list(at, Manner::Peer, Some(address));
    }

    /// A source is not asked any more.
    pub(crate) fn left(&mut self, source: usize, address: SocketAddr) {
        self.swarm.left(address);
        self.lookers.remove(&source);
        self.lists.retain(|list| list.peer != Some(address));
    }

    /// Tells the swarm which pieces are on their way.
    pub(crate) fn tell_coming<S>(&mut self, files: &Files<S>, coming: PieceSet) {
        if coming == self.coming {
            return;
        }
        let of_file = |file: &File<S>| {
            let pieces = coming.iter().filter(|piece| file.row.contains(piece));
            let chunks = pieces.map(|piece| file.chunk(piece)).collect();
            (file.artifact.digest, chunks)
        };
        let chunks = files.iter().map(|(_, file)| of_file(file)).collect();
        self.swarm.set_coming(chunks);
        self.coming = coming;
    }

    /// Waits for the next answer about a map, or for news that are worth a [`Self::step`]. Can be dropped at any time.
    pub(crate) async fn news(&mut self) -> Option<Looked> {
        tokio::select! {
            biased;
            Some(asked) = self.asked.join_next() => match asked {
                Ok(asked) => self.answered(asked),
                Err(error) => {
                    crate::download::raise(Err(error));
                    None
                }
            },
            () = self.swarm.news() => None,
        }
    }

    fn answered(&mut self, asked: Asked) -> Option<Looked> {
        match asked.about {
            About::Map { source, answer } => {
                if answer.is_ok() {
                    self.lookers.insert(source, asked.client);
                }
                Some(Looked { source, answer })
            }
            About::List { base, by, answer } => {
                self.listed(&base, by, asked.client, answer);
                None
            }
        }
    }

    fn listed(
        &mut self,
        base: &Url,
        by: Option<SocketAddr>,
        client: Client,
        answer: Result<Answer, FetchError>,
    ) {
        self.has_heard = true;
        let now = Instant::now();
        let Some(list) = self.lists.iter_mut().find(|list| list.base == *base) else {
            return;
        };
        list.is_asked = false;
        match answer {
            Ok(answer) => {
                list.failures = 0;
                list.client = Some(client);
                list.due = now
                    + match list.peer {
                        None => answer.refresh,
                        Some(_) => answer.refresh.max(GOSSIP_PAUSE),
                    };
                tracing::debug!(%base, peers = answer.peers.len(), "peers were named");
                // Who did not say from where cannot tell of addresses that mean something only there.
                for peer in answer.peers {
                    let address = seen_from_here(peer.address, by);
                    let by = by.map_or(IpAddr::from([0, 0, 0, 0]), |by| by.ip());
                    self.heard_of(address, by);
                }
            }
            Err(error) => {
                list.failures += 1;
                list.due = now + LIST_PAUSE_AFTER_FAILURE * list.failures.min(LIST_FAILURES_MAX);
                // A server may be back one day; peers come and go, and their maps are asked for too.
                let is_over = list.failures >= LIST_FAILURES_MAX && list.peer.is_some();
                tracing::debug!(%error, "no list of peers");
                if is_over || !error.is_transient() {
                    self.lists.retain(|list| list.base != *base);
                }
            }
        }
    }

    /// Takes note of an address that somebody at `told_by` named.
    fn heard_of(&mut self, address: SocketAddr, told_by: IpAddr) {
        let now = Instant::now();
        let fresh = |tried: &Instant| now.saturating_duration_since(*tried) < REJOIN_PAUSE;
        if !is_usable(address, told_by)
            || self.waiting.iter().any(|other| other.address == address)
            || self.waiting.len() >= WAITING_MAX
            || self.tried.get(&address).is_some_and(fresh)
        {
            return;
        }
        if self.tried.len() >= TRIED_MAX {
            self.tried.retain(|_, tried| fresh(tried));
        }
        let own = own_address_towards(address);
        let port = self.swarm.port().map(NonZeroU16::get);
        let is_own = own == Some(address.ip()) && port == Some(address.port());
        if self.tried.len() < TRIED_MAX && !is_own {
            let is_near = own.is_some_and(|own| swarm::are_near(own, address.ip()));
            self.waiting.push_back(Newcomer { address, is_near });
        }
    }
}

/// An address that somebody told: one of a single link is reached by the interface by which the teller is, whatever the
/// teller calls its own.
fn seen_from_here(mut address: SocketAddr, told_by: Option<SocketAddr>) -> SocketAddr {
    if let SocketAddr::V6(address) = &mut address {
        let scope = match told_by {
            Some(SocketAddr::V6(by)) if address.ip().is_unicast_link_local() => by.scope_id(),
            _ => 0,
        };
        address.set_scope_id(scope);
    }
    address
}

/// The URL of what a peer serves.
pub(crate) fn peer_url(address: SocketAddr, path: &str) -> Option<Url> {
    let text = match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            format!(
                "http://[{}%25{}]:{}{path}",
                v6.ip(),
                v6.scope_id(),
                v6.port()
            )
        }
        _ => format!("http://{address}{path}"),
    };
    text.parse().ok()
}

/// The address of this machine that another one sees, if there is a way to it. Nothing is sent.
fn own_address_towards(address: SocketAddr) -> Option<IpAddr> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::from([0_u8; 4]),
        SocketAddr::V6(_) => IpAddr::from([0_u8; 16]),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(address).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

async fn ask_list(mut client: Client, base: Url, question: Question) -> Asked {
    let method = match question.port {
        Some(_) => Method::POST,
        None => Method::GET,
    };
    let answer = async {
        let url = base.join(&format!("?{question}"))?;
        let bytes = client.small_answer(&method, &url, PEERS_SIZE_MAX).await?;
        Answer::parse(&bytes, &question.manifest).map_err(|error| not_this(&url, &error))
    };
    let answer = answer.await;
    let about = About::List {
        by: client.answered_from(),
        base,
        answer,
    };
    Asked { client, about }
}

async fn ask_map(
    client: &mut Client,
    at: &Url,
    manifest: &Digest,
    pieces: &Pieces,
) -> Result<Map, FetchError> {
    let url = at.join(&format!("/have?manifest={manifest}"))?;
    let bytes = client
        .small_answer(&Method::GET, &url, HAVE_SIZE_MAX)
        .await?;
    swarm::have::parse(&bytes, manifest, pieces).map_err(|error| not_this(&url, &error))
}

fn not_this(url: &Url, error: &swarm::FormatError) -> FetchError {
    FetchError::not_http(url, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_one_link_is_reached_as_its_teller_is() {
        for (address, told_by, expected) in [
            ("[fe80::5]:80", Some("[fe80::1%3]:8080"), "[fe80::5%3]:80"),
            ("[fe80::5%9]:80", Some("[fe80::1%3]:8080"), "[fe80::5%3]:80"),
            ("[fe80::5%9]:80", Some("[fd00::1]:8080"), "[fe80::5]:80"),
            ("[fe80::5%9]:80", None, "[fe80::5]:80"),
            ("[fd00::5]:80", Some("[fe80::1%3]:8080"), "[fd00::5]:80"),
            ("10.0.0.5:80", Some("[fe80::1%3]:8080"), "10.0.0.5:80"),
        ] {
            let told_by = told_by.map(|by| by.parse().unwrap());
            let seen = seen_from_here(address.parse().unwrap(), told_by);
            assert_eq!(seen.to_string(), expected, "{address} {told_by:?}");
        }
    }
}
