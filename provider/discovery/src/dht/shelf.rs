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

#[cfg(test)]
mod tests {
    use super::super::envelope::{Record, Span, split};
    use super::super::limits::LIFETIME;
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    fn envelope(signer: PeerId, channel: &str, sequence: u64) -> Envelope {
        let record = Record {
            channel: channel.parse().unwrap(),
            arch: boot_manifest::Arch::X86_64,
            version: String::new(),
            manifest: None,
            key_ids: Vec::new(),
            addresses: vec![([10, 0, 0, 1], 80).into()],
        };
        let span = Span {
            sequence,
            created: None,
            lifetime: LIFETIME,
        };
        Envelope::unsigned(signer, record, span)
    }

    fn new(channel: &str) -> Envelope {
        envelope(PeerId::random(), channel, 1)
    }

    fn from(net: u8) -> Place {
        Place::From(Net::V4([10, 0, net]))
    }

    fn kept(shelves: &Shelves, channel: &str) -> usize {
        let value = shelves.value(&format!("/phase/{channel}/x86_64/manifest"), START);
        value.map_or(0, |value| split(&value).unwrap().len())
    }

    #[test]
    fn the_newest_of_each_provider_is_kept() {
        let (mut shelves, one) = (Shelves::default(), PeerId::random());
        for (sequence, expected) in [
            (2, Ok(())),
            (2, Err(Refused::Stale)),
            (1, Err(Refused::Stale)),
            (3, Ok(())),
        ] {
            let put = shelves.put(envelope(one, "stable", sequence), from(1), START);
            assert_eq!(put, expected, "{sequence}");
        }
        shelves.put(new("stable"), from(1), START).unwrap();
        assert_eq!((kept(&shelves, "stable"), kept(&shelves, "beta")), (2, 0));
    }

    #[test]
    fn a_record_ends_by_itself_and_leaves_nothing() {
        let mut shelves = Shelves::default();
        shelves.put(new("stable"), from(1), START).unwrap();
        let key = "/phase/stable/x86_64/manifest";
        let end = START + LIFETIME;
        assert!(shelves.value(key, end - Duration::from_secs(1)).is_some());
        assert_eq!(shelves.value(key, end), None);
        shelves.expire(end);
        assert!(shelves.sets.is_empty());
    }

    #[test]
    fn a_network_has_its_share_of_a_key_and_no_more() {
        let mut shelves = Shelves::default();
        for n in 0..100 {
            let put = shelves.put(new("stable"), from(1), START);
            assert_eq!(put.is_ok(), n < RECORDS_PER_KEY_AND_NET_MAX, "{n}");
        }
        shelves.put(new("stable"), from(2), START).unwrap();
    }

    #[test]
    fn somebody_from_elsewhere_finds_a_place_in_a_full_set() {
        let mut shelves = Shelves::default();
        let first = PeerId::random();
        shelves
            .put(envelope(first, "stable", 1), from(99), START)
            .unwrap();
        for net in 0..50 {
            for _ in 0..RECORDS_PER_KEY_AND_NET_MAX {
                // Later ones may find no place any more.
                let _full = shelves.put(new("stable"), from(net), START);
            }
        }
        assert_eq!(kept(&shelves, "stable"), RECORDS_PER_KEY_MAX);
        // Whoever was there with one record was not pushed out by those with many, and a new network gets in.
        let again = shelves.put(envelope(first, "stable", 1), from(99), START);
        assert_eq!(again, Err(Refused::Stale));
        for net in 100..200 {
            let _full = shelves.put(new("stable"), from(net), START);
        }
        let mut nets: Vec<_> = shelves
            .sets
            .values()
            .flatten()
            .map(|kept| kept.place)
            .collect();
        nets.dedup();
        assert_eq!(nets.len(), RECORDS_PER_KEY_MAX, "one each: {nets:?}");
        assert_eq!(kept(&shelves, "stable"), RECORDS_PER_KEY_MAX);
    }

    #[test]
    fn a_flood_of_keys_from_one_network_leaves_room_for_others() {
        let mut shelves = Shelves::default();
        for n in 0..1000 {
            let put = shelves.put(new(&format!("c{n}")), from(1), START);
            assert_eq!(put.is_ok(), n < RECORDS_PER_NET_MAX, "{n}");
        }
        for net in 2..11 {
            for n in 0..RECORDS_PER_NET_MAX {
                let _full = shelves.put(new(&format!("c{n}")), from(net), START);
            }
        }
        assert_eq!(shelves.len(), RECORDS_MAX);
        shelves.put(new("stable"), from(200), START).unwrap();
        assert_eq!((shelves.len(), kept(&shelves, "stable")), (RECORDS_MAX, 1));
    }

    #[test]
    fn the_nodes_own_record_always_has_a_place() {
        let mut shelves = Shelves::default();
        for net in 0..10 {
            for n in 0..RECORDS_PER_NET_MAX {
                let _full = shelves.put(new(&format!("c{n}")), from(net), START);
            }
        }
        let own = PeerId::random();
        shelves
            .put(envelope(own, "stable", 1), Place::Own, START)
            .unwrap();
        for net in 100..200 {
            let _full = shelves.put(new("stable"), from(net), START);
        }
        let stale = shelves.put(envelope(own, "stable", 1), Place::Own, START);
        assert_eq!(stale, Err(Refused::Stale));
        shelves.forget("/phase/stable/x86_64/manifest", &own);
        assert_eq!(
            shelves.put(envelope(own, "stable", 1), Place::Own, START),
            Ok(())
        );
    }
}
