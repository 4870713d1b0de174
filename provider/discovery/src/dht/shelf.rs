//! What this node keeps for others: under each key a bounded set of envelopes, the newest of each provider.
//!
//! Pure: the time is an argument. A record is taken from its signer only, over a connection that proves who that is. So
//! nobody can bring back an old record or fill a set with keys that nobody connects with, and what counts against a
//! network is where the signer really is, not what it claims. No network can push out others: when there is no room, only
//! a network that has more than the newcomer's loses a place. Within its share, what is over gives way: machines that
//! start anew have another key each time, and not all of them say goodbye.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use libp2p::PeerId;

use super::envelope::{Envelope, join};
use super::limits::{
    RECORDS_MAX, RECORDS_PER_KEY_AND_NET_MAX, RECORDS_PER_KEY_MAX, RECORDS_PER_NET_MAX,
    UNHEARD_TIME,
};
use super::net::Net;

/// Whose place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This node's own record, which is never pushed out.
    Own,
    /// A record whose signer connected from there.
    From(IpAddr),
}

impl Place {
    fn is_in(self, net: Net) -> bool {
        matches!(self, Self::From(ip) if Net::from(ip) == net)
    }
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
    since: Duration,
    until: Duration,
}

impl Kept {
    /// Whether its provider went away, or has not been heard of for longer than any that is there.
    fn is_over(&self, now: Duration) -> bool {
        self.envelope.is_goodbye() || now.saturating_sub(self.since) > UNHEARD_TIME
    }

    /// Whether it is the same machine, which started anew with another key.
    fn is_same_machine(&self, other: &Self) -> bool {
        self.place != Place::Own
            && self.place == other.place
            && self.envelope.record.addresses == other.envelope.record.addresses
    }
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
            since: now,
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
            // There is nothing that it would end.
            None if kept.envelope.is_goodbye() => Ok(()),
            None => {
                set.retain(|old| !old.is_same_machine(&kept));
                self.add(&key, kept, now)
            }
        };
        self.sets.retain(|_, set| !set.is_empty());
        result
    }

    fn add(&mut self, key: &str, kept: Kept, now: Duration) -> Result<(), Refused> {
        if let Place::From(ip) = kept.place {
            let net = Net::from(ip);
            let in_set = self.sets.get(key).map_or(0, |set| count(set, net));
            let in_all = count(self.sets.values().flatten(), net);
            let is_in_set = |set: &str| set == key;
            let in_net = |kept: &Kept| kept.place.is_in(net) && kept.is_over(now);
            if in_set >= RECORDS_PER_KEY_AND_NET_MAX {
                self.remove(is_in_set, in_net)?;
            } else if in_all >= RECORDS_PER_NET_MAX {
                self.remove(|_| true, in_net)?;
            }
            if self
                .sets
                .get(key)
                .is_some_and(|set| set.len() >= RECORDS_PER_KEY_MAX)
            {
                let net = heaviest(self.sets.get(key).into_iter().flatten(), in_set)?;
                self.remove(is_in_set, |kept| kept.place.is_in(net))?;
            }
            if self.len() >= RECORDS_MAX {
                let net = heaviest(self.sets.values().flatten(), in_all)?;
                self.remove(|_| true, |kept| kept.place.is_in(net))?;
            }
        }
        self.sets.entry(key.to_owned()).or_default().push(kept);
        Ok(())
    }

    /// Takes that record away, of those that may be, which was not heard of for longest.
    fn remove(
        &mut self,
        is_in: impl Fn(&str) -> bool,
        may_go: impl Fn(&Kept) -> bool,
    ) -> Result<(), Refused> {
        let sets = self.sets.iter_mut().filter(|(key, _)| is_in(key));
        let oldest = sets.filter_map(|(_, set)| {
            let candidates = set.iter().enumerate().filter(|(_, kept)| may_go(kept));
            let (index, since) = candidates
                .map(|(index, kept)| (index, kept.since))
                .min_by_key(|(_, since)| *since)?;
            Some((set, index, since))
        });
        let (set, index, _) = oldest
            .min_by_key(|(.., since)| *since)
            .ok_or(Refused::Full)?;
        set.remove(index);
        Ok(())
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

fn count<'a>(kept: impl IntoIterator<Item = &'a Kept>, net: Net) -> usize {
    let kept = kept.into_iter().filter(|kept| kept.place.is_in(net));
    kept.count()
}

/// The network with the most records, if a newcomer of a network with `fewer` may have one of its places.
fn heaviest<'a>(kept: impl Iterator<Item = &'a Kept>, fewer: usize) -> Result<Net, Refused> {
    let mut counts = BTreeMap::<Net, usize>::new();
    for kept in kept {
        if let Place::From(ip) = kept.place {
            *counts.entry(Net::from(ip)).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    let (net, _) = most
        .filter(|(_, most)| *most > fewer + 1)
        .ok_or(Refused::Full)?;
    Ok(net)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::envelope::{Record, Span, split};
    use super::super::limits::LIFETIME;
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    fn envelope(signer: PeerId, channel: &str, sequence: u64) -> Envelope {
        // Each somewhere else, so that nobody is taken for another that started anew.
        let place = u128::from_be_bytes(*signer.to_bytes().last_chunk().unwrap());
        at(
            signer,
            channel,
            sequence,
            &[SocketAddr::from((place.to_be_bytes(), 80))],
        )
    }

    fn at(signer: PeerId, channel: &str, sequence: u64, addresses: &[SocketAddr]) -> Envelope {
        let record = Record {
            channel: channel.parse().unwrap(),
            arch: boot_manifest::Arch::X86_64,
            version: String::new(),
            manifest: None,
            key_ids: Vec::new(),
            addresses: addresses.to_vec(),
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
        Place::From(IpAddr::from([10, 0, net, 1]))
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

    #[test]
    fn machines_that_start_anew_with_another_key_take_their_own_places() {
        let mut shelves = Shelves::default();
        let same = [SocketAddr::from(([10, 0, 1, 5], 80))];
        for _ in 0..100 {
            let reborn = at(PeerId::random(), "stable", 1, &same);
            shelves.put(reborn, from(1), START).unwrap();
        }
        assert_eq!(kept(&shelves, "stable"), 1);
        // Somebody at another address who claims the same is somebody else.
        let other = at(PeerId::random(), "stable", 1, &same);
        shelves
            .put(other, Place::From([10, 0, 1, 9].into()), START)
            .unwrap();
        assert_eq!(kept(&shelves, "stable"), 2);
    }

    #[test]
    fn in_a_full_share_those_that_went_away_make_room() {
        let (mut shelves, leaving) = (Shelves::default(), PeerId::random());
        shelves
            .put(envelope(leaving, "stable", 1), from(1), START)
            .unwrap();
        for _ in 1..RECORDS_PER_KEY_AND_NET_MAX {
            shelves.put(new("stable"), from(1), START).unwrap();
        }
        assert_eq!(
            shelves.put(new("stable"), from(1), START),
            Err(Refused::Full)
        );
        shelves
            .put(at(leaving, "stable", 2, &[]), from(1), START)
            .unwrap();
        assert_eq!(shelves.put(new("stable"), from(1), START), Ok(()));
        assert_eq!(
            shelves.put(new("stable"), from(1), START),
            Err(Refused::Full)
        );
        // All of them missed their renewal but the last one.
        let later = START + UNHEARD_TIME + Duration::from_secs(1);
        for _ in 0..RECORDS_PER_KEY_AND_NET_MAX {
            assert_eq!(shelves.put(new("stable"), from(1), later), Ok(()));
        }
        assert_eq!(
            shelves.put(new("stable"), from(1), later),
            Err(Refused::Full)
        );
    }

    #[test]
    fn a_goodbye_of_somebody_unknown_takes_no_place() {
        let mut shelves = Shelves::default();
        let goodbye = at(PeerId::random(), "stable", 1, &[]);
        assert_eq!(shelves.put(goodbye, from(1), START), Ok(()));
        assert!(shelves.sets.is_empty());
    }
}
