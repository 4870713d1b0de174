//! What this node keeps for others: under each key a bounded set of envelopes, the newest of each provider.
//!
//! Pure: the time is an argument. A record is taken from its signer only, over a connection that proves who that is. So
//! nobody can bring back an old record or fill a set with keys that nobody connects with, and what counts against a
//! network is where the signer really is, not what it claims. No network can push out others: when there is no room, only
//! a network that has more than the newcomer's loses a place.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use libp2p::PeerId;

use super::envelope::{Envelope, join};
use super::limits::{
    RECORDS_MAX, RECORDS_PER_KEY_AND_NET_MAX, RECORDS_PER_KEY_MAX, RECORDS_PER_NET_MAX,
};
use super::net::Net;

/// Whose place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This node's own record, which is never pushed out.
    Own,
    /// A record whose signer connected from there.
    From(Net),
}

/// Why an envelope was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refused {
    /// One as new is there.
    Stale,
    /// Its network has its share already, or there is no room.
    Full,
}

#[derive(Debug)]
struct Kept {
    envelope: Envelope,
    place: Place,
    until: Duration,
}

/// All sets.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    sets: HashMap<String, Vec<Kept>>,
}

impl Shelves {
    /// Adds an envelope whose signer, key and times were checked, or replaces the signer's last one.
    pub(super) fn put(
        &mut self,
        envelope: Envelope,
        place: Place,
        now: Duration,
    ) -> Result<(), Refused> {
        self.expire(now);
        let key = envelope.key();
        let kept = Kept {
            until: now.saturating_add(envelope.span.lifetime),
            envelope,
            place,
        };
        let set = self.sets.entry(key.clone()).or_default();
        let signer = kept.envelope.signer;
        let result = match set.iter_mut().find(|old| old.envelope.signer == signer) {
            Some(old) if old.envelope.span.sequence >= kept.envelope.span.sequence => {
                Err(Refused::Stale)
            }
            Some(old) => {
                *old = kept;
                Ok(())
            }
            None => self.add(&key, kept),
        };
        self.sets.retain(|_, set| !set.is_empty());
        result
    }

    fn add(&mut self, key: &str, kept: Kept) -> Result<(), Refused> {
        if let Place::From(net) = kept.place {
            let in_set = self.sets.get(key).map_or(0, |set| count(set.iter(), net));
            let in_all = count(self.sets.values().flatten(), net);
            if in_set >= RECORDS_PER_KEY_AND_NET_MAX || in_all >= RECORDS_PER_NET_MAX {
                return Err(Refused::Full);
            }
            if self
                .sets
                .get(key)
                .is_some_and(|set| set.len() >= RECORDS_PER_KEY_MAX)
            {
                let victim = heaviest(self.sets.get(key).into_iter().flatten(), in_set);
                self.remove(Some(key), victim.ok_or(Refused::Full)?);
            }
            if self.sets.values().map(Vec::len).sum::<usize>() >= RECORDS_MAX {
                let victim = heaviest(self.sets.values().flatten(), in_all);
                self.remove(None, victim.ok_or(Refused::Full)?);
            }
        }
        self.sets.entry(key.to_owned()).or_default().push(kept);
        Ok(())
    }

    /// Takes the record of a network that ends first away.
    fn remove(&mut self, key: Option<&str>, net: Net) {
        let sets = self.sets.iter_mut();
        let candidates = sets
            .filter(|(name, _)| key.is_none_or(|key| key == *name))
            .flat_map(|(_, set)| {
                let ends = set
                    .iter()
                    .enumerate()
                    .filter(|(_, kept)| kept.place == Place::From(net));
                let first = ends.min_by_key(|(_, kept)| kept.until)?;
                let (index, until) = (first.0, first.1.until);
                Some((until, set, index))
            });
        if let Some((_, set, index)) = candidates.min_by_key(|(until, ..)| *until) {
            set.remove(index);
        }
    }

    /// Takes a provider's record away; this node does that with its own only.
    pub(super) fn forget(&mut self, key: &str, signer: &PeerId) {
        if let Some(set) = self.sets.get_mut(key) {
            set.retain(|kept| kept.envelope.signer != *signer);
        }
        self.sets.retain(|_, set| !set.is_empty());
    }

    /// Lets go of what is over.
    pub(super) fn expire(&mut self, now: Duration) {
        for set in self.sets.values_mut() {
            set.retain(|kept| kept.until > now);
        }
        self.sets.retain(|_, set| !set.is_empty());
    }

    /// The set under a key as one value, if there is any.
    pub(super) fn value(&self, key: &str, now: Duration) -> Option<Vec<u8>> {
        let set = self.sets.get(key)?.iter().filter(|kept| kept.until > now);
        let mut bytes = set.map(|kept| kept.envelope.bytes()).peekable();
        bytes.peek()?;
        Some(join(bytes))
    }

    /// How many records are kept.
    pub(super) fn len(&self) -> usize {
        self.sets.values().map(Vec::len).sum()
    }
}

fn count<'a>(kept: impl Iterator<Item = &'a Kept>, net: Net) -> usize {
    kept.filter(|kept| kept.place == Place::From(net)).count()
}

/// The network with the most records, if a newcomer of a network with `fewer` may have one of its places.
fn heaviest<'a>(kept: impl Iterator<Item = &'a Kept>, fewer: usize) -> Option<Net> {
    let mut counts = BTreeMap::<Net, usize>::new();
    for kept in kept {
        if let Place::From(net) = kept.place {
            *counts.entry(net).or_default() += 1;
        }
    }
    let (net, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (most > fewer + 1).then_some(net)
}
