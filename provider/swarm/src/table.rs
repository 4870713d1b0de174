//! The peers that registered themselves: who fetches which manifest's artifacts, and who has them all.
//!
//! Bounded in every direction, because anyone may register. Entries end by themselves unless they are renewed. Pure: the
//! caller says what time it is, and chance comes from a seed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use boot_manifest::Digest;

use crate::limits::{
    ENTRY_LIFE, ENTRY_LIFE_COMPLETE, PEERS_MAX, QUESTIONS_PER_SECOND, REFRESH_MIN, SAMPLE_NEAR_MAX,
    SWEEP_PAUSE, TABLE_ENTRIES_MAX, TABLE_MANIFESTS_MAX, TABLE_PER_ADDRESS_MAX,
    TABLE_PER_NETWORK_MAX, TABLE_REFRESH_MAX,
};
use crate::peers::{Answer, Peer, plain};
use crate::random::Random;

/// Who registered.
#[derive(Debug)]
pub struct Table {
    crowds: BTreeMap<Digest, Crowd>,
    per_address: HashMap<IpAddr, usize>,
    per_network: HashMap<Network, usize>,
    random: Random,
    swept: Duration,
}

/// An entry was not taken: the table is full, or that address or its network has too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are too many peers")]
pub struct Full;

/// How many peers are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that still fetch.
    pub partial: usize,
    /// Those that have everything.
    pub complete: usize,
}

/// Those of one manifest.
#[derive(Debug, Default)]
struct Crowd {
    entries: Vec<Entry>,
    /// Where in `entries` an address is.
    places: HashMap<SocketAddr, usize>,
    near: HashMap<Network, Vec<SocketAddr>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    peer: Peer,
    until: Duration,
}

/// The addresses that count as near each other: a /24, or a /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Network([u8; 8], bool);

impl Network {
    fn of(ip: IpAddr) -> Self {
        let mut prefix = [0; 8];
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                prefix[..3].copy_from_slice(&ip.octets()[..3]);
                Self(prefix, false)
            }
            IpAddr::V6(ip) => {
                prefix.copy_from_slice(&ip.octets()[..8]);
                Self(prefix, true)
            }
        }
    }
}

/// Whether two addresses are of one /24 or one /64: then they are most likely in one rack.
pub fn are_near(one: IpAddr, other: IpAddr) -> bool {
    Network::of(one) == Network::of(other)
}

impl Table {
    /// An empty table.
    pub fn new(seed: u64) -> Self {
        Self {
            crowds: BTreeMap::new(),
            per_address: HashMap::new(),
            per_network: HashMap::new(),
            random: Random::new(seed),
            swept: Duration::ZERO,
        }
    }

    /// Enters a peer, or renews its entry.
    pub fn register(
        &mut self,
        manifest: &Digest,
        address: SocketAddr,
        complete: bool,
        now: Duration,
    ) -> Result<(), Full> {
        self.sweep(now);
        let address = plain(address);
        let life = if complete {
            ENTRY_LIFE_COMPLETE
        } else {
            ENTRY_LIFE
        };
        let peer = Peer { address, complete };
        let entry = Entry {
            peer,
            until: now + life,
        };
        if let Some(crowd) = self.crowds.get_mut(manifest)
            && let Some(&place) = crowd.places.get(&address)
        {
            crowd.entries[place] = entry;
            return Ok(());
        }
        let network = Network::of(address.ip());
        let of = |counts: Option<&usize>| counts.copied().unwrap_or(0);
        let has_room = of(self.per_address.get(&address.ip())) < TABLE_PER_ADDRESS_MAX
            && of(self.per_network.get(&network)) < TABLE_PER_NETWORK_MAX
            && self.length() < TABLE_ENTRIES_MAX
            && (self.crowds.contains_key(manifest) || self.crowds.len() < TABLE_MANIFESTS_MAX);
        if !has_room {
            return Err(Full);
        }
        *self.per_address.entry(address.ip()).or_default() += 1;
        *self.per_network.entry(network).or_default() += 1;
        self.crowds.entry(*manifest).or_default().add(entry);
        Ok(())
    }

    /// Forgets an address, whatever it has.
    pub fn forget(&mut self, address: SocketAddr) {
        let address = plain(address);
        self.remove(|entry| entry.peer.address == address);
    }

    /// Some of the peers of a manifest for somebody who asks from `asker`: near ones first, and enough from elsewhere that
    /// no rack knows only itself. `own`, the asker's own entry, is left out.
    pub fn sample(
        &mut self,
        manifest: &Digest,
        asker: IpAddr,
        own: Option<SocketAddr>,
        now: Duration,
    ) -> Answer {
        self.sweep(now);
        let own = own.map(plain);
        let mut answer = Answer {
            manifest: *manifest,
            refresh: REFRESH_MIN,
            peers: Vec::new(),
        };
        let Some(crowd) = self.crowds.get(manifest) else {
            return answer;
        };
        answer.refresh = refresh(crowd.entries.len());
        let random = &mut self.random;
        let mut near = crowd.near.get(&Network::of(asker)).cloned();
        let near = near.get_or_insert_default();
        random.shuffle(near);
        let others = crowd.entries.len() - near.len();
        let near_max = SAMPLE_NEAR_MAX.max(PEERS_MAX.saturating_sub(others));
        let near = near.iter().filter(|address| Some(**address) != own);
        let near = near.take(near_max).map(|address| crowd.places[address]);
        let mut places: Vec<usize> = near.collect();
        // From a random place on, in steps of a random length: different ones each time, without a copy of them all.
        let start = random.below(crowd.entries.len());
        let step = stride(crowd.entries.len(), random);
        for round in 0..crowd.entries.len() {
            if places.len() >= PEERS_MAX {
                break;
            }
            let place = (start + round * step) % crowd.entries.len();
            let address = crowd.entries[place].peer.address;
            let is_near = are_near(address.ip(), asker);
            if !is_near && Some(address) != own {
                places.push(place);
            }
        }
        let peers = places.iter().map(|&place| crowd.entries[place].peer);
        answer.peers = peers.collect();
        answer
    }

    /// How many there are, of all manifests together.
    pub fn counts(&mut self, now: Duration) -> Counts {
        self.sweep(now);
        let mut counts = Counts::default();
        for entry in self.crowds.values().flat_map(|crowd| &crowd.entries) {
            if entry.peer.complete {
                counts.complete += 1;
            } else {
                counts.partial += 1;
            }
        }
        counts
    }

    fn length(&self) -> usize {
        self.crowds.values().map(|crowd| crowd.entries.len()).sum()
    }

    /// Removes what has ended, now and then.
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) >= SWEEP_PAUSE {
            self.swept = now;
            self.remove(|entry| entry.until <= now);
        }
    }

    fn remove(&mut self, mut is_over: impl FnMut(&Entry) -> bool) {
        for crowd in self.crowds.values_mut() {
            let mut place = 0;
            while place < crowd.entries.len() {
                if !is_over(&crowd.entries[place]) {
                    place += 1;
                    continue;
                }
                let ip = crowd.remove(place).ip();
                decrement(&mut self.per_address, ip);
                decrement(&mut self.per_network, Network::of(ip));
            }
        }
        self.crowds.retain(|_, crowd| !crowd.entries.is_empty());
    }
}

impl Crowd {
    fn add(&mut self, entry: Entry) {
        let address = entry.peer.address;
        self.places.insert(address, self.entries.len());
        self.near
            .entry(Network::of(address.ip()))
            .or_default()
            .push(address);
        self.entries.push(entry);
    }

    fn remove(&mut self, place: usize) -> SocketAddr {
        let address = self.entries.swap_remove(place).peer.address;
        self.places.remove(&address);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.peer.address, place);
        }
        let network = Network::of(address.ip());
        if let Some(near) = self.near.get_mut(&network) {
            near.retain(|other| *other != address);
            if near.is_empty() {
                self.near.remove(&network);
            }
        }
        address
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// The pause until the next question in a crowd of this size, in whole seconds.
fn refresh(crowd: usize) -> Duration {
    let seconds = u64::try_from(crowd.div_ceil(QUESTIONS_PER_SECOND)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).clamp(REFRESH_MIN, TABLE_REFRESH_MAX)
}

/// A random step that visits each of `count` places once in `count` rounds.
fn stride(count: usize, random: &mut Random) -> usize {
    let divides = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    // Every second number or so has no divisor in common with another one.
    const ATTEMPTS: usize = 8;
    let steps = (0..ATTEMPTS).map(|_| 1 + random.below(count.saturating_sub(1)));
    let mut steps = steps.filter(|&step| divides(count, step));
    steps.next().unwrap_or(1)
}

#[cfg(test)]
mod tests;
