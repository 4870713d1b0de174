//! The providers that were heard of, and which of them is nearest. Pure: time is an argument.
//!
//! Anyone can say anything, so the table is bounded three ways: in all, for each address, and an entry that cannot be
//! reached makes room for another. A flood of inventions does not keep a real provider out.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use boot_manifest::{Arch, Channel};
use discovery::Hint;
use serde_json::{Value, json};

/// Providers kept: 64 are a large LAN.
pub(super) const PROVIDERS_MAX: usize = 64;

/// Providers kept at one IP address: containers of one host, or its versions.
pub(super) const AT_ONE_ADDRESS_MAX: usize = 8;

/// A provider that could not be reached is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// One that could be is tried again after this by somebody who watches: how late a power cut is noticed, half of it.
const CHECK_AFTER: Duration = Duration::from_secs(5);

/// Failures in a row after which one that was reachable is not any more: one alone is a lost packet.
const MISSES_MAX: u8 = 2;

/// Where a provider was heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Via {
    /// Multicast DNS.
    Mdns,
    /// The distributed hash table.
    Dht,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Dht => "dht",
        }
    }
}

/// Tells providers from each other; no two that are heard of in one run have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(u64);

/// An address that accepts connections, and how long that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Near {
    pub(super) address: SocketAddr,
    pub(super) time: Duration,
}

/// A provider of the wanted channel and architecture.
#[derive(Debug)]
pub(super) struct Provider {
    /// What it is called here. Its names are chosen by others, who may choose the same.
    pub(super) number: Number,
    pub(super) hint: Hint,
    /// Its id in the DHT, which is proven there, when it was found there.
    peer_id: Option<String>,
    via: Vec<Via>,
    near: Option<Near>,
    misses: u8,
    /// Somebody said that it goes. Anybody can say that, so it counts when it cannot be reached any more.
    is_leaving: bool,
    /// Whether it is being measured.
    is_asked: bool,
    /// When it was measured last.
    asked_at: Option<Duration>,
}

/// What was heard so far.
#[derive(Debug)]
pub(super) struct Table {
    channel: Channel,
    arch: Arch,
    providers: Vec<Provider>,
    /// Of the next one.
    next: Number,
    others: Vec<String>,
}

impl Table {
    pub(super) fn new(channel: Channel, arch: Arch) -> Self {
        Self {
            channel,
            arch,
            providers: Vec::new(),
            next: Number(0),
            others: Vec::new(),
        }
    }

    /// The name of what is looked for, as the DHT has it.
    pub(super) fn key(&self) -> String {
        format!("/phase/{}/{}/manifest", self.channel, self.arch)
    }

    /// `channel/arch` of providers of something else.
    pub(super) fn others(&self) -> &[String] {
        &self.others
    }

    /// Notes a hint.
    pub(super) fn hear(&mut self, hint: Hint, via: Via) {
        if (&hint.channel, hint.arch) != (&self.channel, self.arch) {
            let other = format!("{}/{}", hint.channel, hint.arch);
            if !self.others.contains(&other) && self.others.len() < PROVIDERS_MAX {
                self.others.push(other);
            }
            return;
        }
        let peer_id = (via == Via::Dht).then(|| hint.id.clone());
        if let Some(known) = self.known(&hint, via) {
            known.hear(hint, via, peer_id);
            return;
        }
        if !self.make_room_at(&hint) {
            return;
        }
        if self.providers.len() >= PROVIDERS_MAX && !self.make_room(|_| true) {
            return;
        }
        let number = self.next;
        self.next = Number(number.0.wrapping_add(1));
        self.providers.push(Provider {
            number,
            hint,
            peer_id,
            via: vec![via],
            near: None,
            misses: 0,
            is_leaving: false,
            is_asked: false,
            asked_at: None,
        });
    }

    /// The same provider: by its name there, or, heard of elsewhere, by one of its addresses.
    fn known(&mut self, hint: &Hint, via: Via) -> Option<&mut Provider> {
        self.providers.iter_mut().find(|known| {
            let addresses = &known.hint.addresses;
            let is_elsewhere = known.via != [via];
            match via {
                Via::Mdns if known.via.contains(&via) => known.hint.id == hint.id,
                Via::Dht if known.via.contains(&via) => known.peer_id.as_ref() == Some(&hint.id),
                Via::Mdns | Via::Dht => {
                    is_elsewhere && hint.addresses.iter().any(|one| addresses.contains(one))
                }
            }
        })
    }

    /// Whether there is room at each IP address of this one, after one that cannot be reached made it where it had to: anybody
    /// can make up providers at the address of another.
    fn make_room_at(&mut self, hint: &Hint) -> bool {
        hint.addresses.iter().all(|address| {
            let is_here = |found: &Provider| {
                let mut addresses = found.hint.addresses.iter();
                addresses.any(|other| other.ip() == address.ip())
            };
            let here = self.providers.iter().filter(|found| is_here(found)).count();
            here < AT_ONE_ADDRESS_MAX || self.make_room(is_here)
        })
    }

    /// Drops the one of `those` that has been unreachable for longest.
    fn make_room(&mut self, those: impl Fn(&Provider) -> bool) -> bool {
        let unreachable = |found: &&Provider| found.near.is_none() && found.misses > 0;
        let longest = self
            .providers
            .iter()
            .filter(unreachable)
            .filter(|found| those(found))
            .max_by_key(|found| (found.misses, Reverse(found.asked_at)))
            .map(|found| found.number);
        let Some(number) = longest else { return false };
        self.providers.retain(|found| found.number != number);
        true
    }

    /// Somebody said goodbye on the local network.
    pub(super) fn gone(&mut self, id: &str) {
        for known in &mut self.providers {
            if known.hint.id == id && known.via.contains(&Via::Mdns) {
                known.is_leaving = true;
                known.asked_at = None;
            }
        }
    }

    /// Those that are to be measured now, and where they say to be. A `watch` measures again and again.
    pub(super) fn due(&mut self, now: Duration, is_watched: bool) -> Vec<(Number, Hint)> {
        let mut due = Vec::new();
        for known in &mut self.providers {
            let pause = match known.near {
                Some(_) if !is_watched && !known.is_leaving => continue,
                Some(_) if known.misses == 0 => CHECK_AFTER,
                _ => RETRY_AFTER,
            };
            let is_time = known.asked_at.is_none_or(|at| now >= at + pause);
            if is_time && !known.is_asked {
                known.is_asked = true;
                due.push((known.number, known.hint.clone()));
            }
        }
        due
    }

    /// What came of it.
    pub(super) fn measured(&mut self, number: Number, near: Option<Near>, now: Duration) {
        let mut providers = self.providers.iter_mut();
        let Some(known) = providers.find(|known| known.number == number) else {
            return;
        };
        known.is_asked = false;
        known.asked_at = Some(now);
        let is_leaving = std::mem::take(&mut known.is_leaving);
        match near {
            Some(_) => (known.near, known.misses) = (near, 0),
            None => {
                known.misses = known.misses.saturating_add(1);
                if known.misses >= MISSES_MAX || is_leaving {
                    known.near = None;
                }
                if is_leaving {
                    known.via.retain(|via| *via != Via::Mdns);
                }
            }
        }
        self.providers.retain(|known| !known.via.is_empty());
    }

    /// All providers, the nearest first, those that cannot be reached last.
    pub(super) fn ranked(&self) -> Vec<&Provider> {
        let mut ranked: Vec<&Provider> = self.providers.iter().collect();
        ranked.sort_by_key(|found| {
            let time = found.near.map_or(Duration::MAX, |near| near.time);
            (time, found.hint.id.clone())
        });
        ranked
    }

    /// The nearest that can be reached.
    pub(super) fn nearest(&self) -> Option<&Provider> {
        self.ranked()
            .first()
            .copied()
            .filter(|found| found.near.is_some())
    }
}

impl Provider {
    fn hear(&mut self, hint: Hint, via: Via, peer_id: Option<String>) {
        if !self.via.contains(&via) {
            self.via.push(via);
            self.via.sort_unstable();
        }
        self.is_leaving &= via != Via::Mdns;
        self.peer_id = peer_id.or(self.peer_id.take());
        // What is announced next to us is newer than what somebody keeps for others.
        if via == Via::Mdns || self.via == [via] {
            self.hint = hint;
        }
        let has_moved = self
            .near
            .is_some_and(|near| !self.hint.addresses.contains(&near.address));
        if has_moved {
            self.near = None;
        }
    }

    /// Whether it accepted a connection.
    pub(super) fn is_reachable(&self) -> bool {
        self.near.is_some()
    }

    /// Its real id: the one of the DHT, or the name it has on the local network.
    pub(super) fn id(&self) -> &str {
        self.peer_id.as_deref().unwrap_or(&self.hint.id)
    }

    /// The URL to use: at the address that is nearest, or else the best one.
    pub(super) fn url(&self) -> String {
        let best = || self.hint.addresses.first().copied();
        let address = self.near.map(|near| near.address).or_else(best);
        address.map_or_else(String::new, |address| self.hint.url_at(address))
    }

    /// How far it is, in milliseconds.
    pub(super) fn connect_ms(&self) -> Option<f64> {
        let micros = u32::try_from(self.near?.time.as_micros()).unwrap_or(u32::MAX);
        Some(f64::from(micros) / 1_000.0)
    }

    /// Where it was heard of.
    pub(super) fn found_by(&self) -> Vec<&'static str> {
        self.via.iter().map(|via| via.name()).collect()
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let hint = &self.hint;
        json!({
            "id": hint.id,
            "peer_id": self.id(),
            "manifest_url": self.url(),
            "urls": hint.urls(),
            "reachable": self.is_reachable(),
            "connect_ms": self.connect_ms(),
            "found_by": self.found_by(),
            "version": hint.version,
            "manifest_digest": hint.manifest.as_ref().map(ToString::to_string),
            "key_ids": hint.key_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
