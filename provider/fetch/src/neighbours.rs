//! What a machine knows of others that fetch, or have, the same: it outlives one download, and is where those who find
//! peers, the download that asks them, and the server beside it meet.
//!
//! It holds addresses and maps, and decides nothing. Anyone may have made up an address: who is there, and what it has, is
//! found out by asking, and every byte is checked.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boot_manifest::Digest;
use tokio::sync::Notify;

use crate::limits::{CANDIDATES_MAX, LATER_PROVIDERS_MAX, REACHED_MAX};
use crate::sources::Mirror;

/// A handle; all clones are the same swarm.
#[derive(Clone, Debug)]
pub struct Swarm {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Where this machine serves what it has; 0 when it does not.
    port: AtomicU16,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Peers that nobody asked yet.
    candidates: VecDeque<SocketAddr>,
    providers: VecDeque<Mirror>,
    /// Peers that answered, and whether they have everything.
    reached: BTreeMap<SocketAddr, bool>,
    /// Chunks on their way, by the digest of their file.
    coming: BTreeMap<Digest, Vec<usize>>,
}

/// Somebody who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// A machine that fetches the same, or did: it is asked what it has.
    Peer(SocketAddr),
    /// A server that has everything its manifest names.
    Provider(Mirror),
}

impl Default for Swarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Swarm {
    /// A swarm of which nobody is known yet, and whose members this machine only takes from.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                port: AtomicU16::new(0),
                state: Mutex::default(),
                news: Notify::new(),
            }),
        }
    }

    /// From now on others are told that this machine serves what it has, at this port.
    pub fn serves_at(&self, port: u16) {
        self.shared.port.store(port, Ordering::Relaxed);
    }

    /// Where this machine serves what it has.
    pub fn port(&self) -> Option<NonZeroU16> {
        NonZeroU16::new(self.shared.port.load(Ordering::Relaxed))
    }

    /// Takes note of somebody. A download that runs asks them soon, the next one otherwise. Those that are known are
    /// told again without harm; of too many that nobody asked yet, the oldest are forgotten.
    pub fn found(&self, neighbour: Neighbour) {
        let mut state = self.state();
        match neighbour {
            Neighbour::Peer(address) => {
                if state.candidates.contains(&address) {
                    return;
                }
                if state.candidates.len() >= CANDIDATES_MAX {
                    state.candidates.pop_front();
                }
                state.candidates.push_back(address);
            }
            Neighbour::Provider(mirror) => {
                if state.providers.contains(&mirror) {
                    return;
                }
                if state.providers.len() >= LATER_PROVIDERS_MAX {
                    state.providers.pop_front();
                }
                state.providers.push_back(mirror);
            }
        }
        drop(state);
        self.shared.news.notify_one();
    }

    /// The peers that answered lately, and whether they have everything.
    pub fn known(&self) -> Vec<(SocketAddr, bool)> {
        let state = self.state();
        let known = state.reached.iter();
        known
            .map(|(address, complete)| (*address, *complete))
            .collect()
    }

    /// The chunks of a file that are on their way to this machine.
    pub fn coming(&self, file: &Digest) -> Vec<usize> {
        self.state().coming.get(file).cloned().unwrap_or_default()
    }

    /// Takes note of what is on its way.
    pub(crate) fn set_coming(&self, coming: BTreeMap<Digest, Vec<usize>>) {
        self.state().coming = coming;
    }

    /// Takes the next one that was found.
    pub(crate) fn next_found(&self) -> Option<Neighbour> {
        let mut state = self.state();
        let provider = state.providers.pop_front().map(Neighbour::Provider);
        provider.or_else(|| state.candidates.pop_front().map(Neighbour::Peer))
    }

    /// Waits until somebody was found.
    pub(crate) async fn news(&self) {
        self.shared.news.notified().await;
    }

    /// Takes note of a peer that answered.
    pub(crate) fn reached(&self, address: SocketAddr, complete: bool) {
        let mut state = self.state();
        if state.reached.len() < REACHED_MAX || state.reached.contains_key(&address) {
            state.reached.insert(address, complete);
        }
    }

    /// Takes note of a peer that is not asked any more.
    pub(crate) fn left(&self, address: SocketAddr) {
        self.state().reached.remove(&address);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Lists of addresses are never half changed.
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}
