//! What this node keeps for others: under each key a bounded set of envelopes, the newest of each provider.
//!
//! Pure: the time is an argument. A record is taken from its signer only, over a connection that proves who that is. So
//! nobody can bring back an old record or fill a set with keys that nobody connects with, and what counts against a
//! network is where the signer really is, not what it claims. As long as there is room anybody gets a place, whole racks of
//! one network too. Without room, what is over gives way first: machines that start anew have another key each time, and not
//! all of them say goodbye. Then only a network that has more than the newcomer's loses a place, or within the newcomer's own
//! network an address that has more than the newcomer's. So nobody can push out others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use libp2p::PeerId;

use super::envelope::{Envelope, join};
use super::limits::{
    RECORDS_MAX, RECORDS_PER_ADDRESS_MAX, RECORDS_PER_KEY_AND_ADDRESS_MAX, RECORDS_PER_KEY_MAX,
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
    fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Own => None,
            Self::From(ip) => Some(ip),
        }
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
            let is_there = |kept: &Kept| kept.place == Place::From(ip);
            let is_over = |kept: &Kept| is_there(kept) && kept.is_over(now);
            let is_in_set = |set: &str| set == key;
            if self.count(is_in_set, is_there) >= RECORDS_PER_KEY_AND_ADDRESS_MAX {
                self.remove(is_in_set, is_over)?;
            } else if self.count(|_| true, is_there) >= RECORDS_PER_ADDRESS_MAX {
                self.remove(|_| true, is_over)?;
            }
            if self.count(is_in_set, |_| true) >= RECORDS_PER_KEY_MAX {
                self.make_room(is_in_set, ip, now)?;
            }
            if self.len() >= RECORDS_MAX {
                self.make_room(|_| true, ip, now)?;
            }
        }
        self.sets.entry(key.to_owned()).or_default().push(kept);
        Ok(())
    }

    /// Takes one record away for somebody from that address.
    fn make_room(
        &mut self,
        is_in: impl Fn(&str) -> bool + Copy,
        ip: IpAddr,
        now: Duration,
    ) -> Result<(), Refused> {
        let is_over = |kept: &Kept| kept.place != Place::Own && kept.is_over(now);
        if self.remove(is_in, is_over).is_ok() {
            return Ok(());
        }
        let sets = self.sets.iter().filter(|(key, _)| is_in(key));
        let places = sets.flat_map(|(_, set)| set.iter().filter_map(|kept| kept.place.ip()));
        let places: Vec<IpAddr> = places.collect();
        let own = Net::from(ip);
        let net = match heaviest(places.iter().map(|place| Net::from(*place)), own, 1) {
            Some(net) => net,
            None => own,
        };
        let in_net = places
            .iter()
            .copied()
            .filter(|place| Net::from(*place) == net);
        // Of another network somebody goes in any case; of the newcomer's own only one who has more than it.
        let more = if net == own { 1 } else { 0 };
        let from = heaviest(in_net, ip, more).ok_or(Refused::Full)?;
        self.remove(is_in, |kept| kept.place == Place::From(from))
    }

    fn count(&self, is_in: impl Fn(&str) -> bool, is_meant: impl Fn(&Kept) -> bool) -> usize {
        let sets = self.sets.iter().filter(|(key, _)| is_in(key));
        sets.flat_map(|(_, set)| set)
            .filter(|kept| is_meant(kept))
            .count()
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

/// Whoever has the most places, if that is by more than `more` more than the newcomer has.
fn heaviest<T: Ord + Copy>(places: impl Iterator<Item = T>, newcomer: T, more: usize) -> Option<T> {
    let mut counts = BTreeMap::<T, usize>::new();
    for place in places {
        *counts.entry(place).or_default() += 1;
    }
    let own = counts.get(&newcomer).copied().unwrap_or_default();
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.filter(|(_, most)| *most > own + more)
        .map(|(place, _)| place)
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
        from_machine(net, 1)
    }

    fn from_machine(net: u8, last: u8) -> Place {
        Place::From(IpAddr::from([10, 0, net, last]))
    }

    fn kept_of(shelves: &Shelves, places: &[Place]) -> usize {
        shelves.count(|_| true, |kept| places.contains(&kept.place))
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
    fn an_address_has_its_share_of_a_key_and_no_more() {
        let mut shelves = Shelves::default();
        for n in 0..100 {
            let put = shelves.put(new("stable"), from(1), START);
            assert_eq!(put.is_ok(), n < RECORDS_PER_KEY_AND_ADDRESS_MAX, "{n}");
        }
        shelves.put(new("stable"), from(2), START).unwrap();
    }

    #[test]
    fn all_machines_of_one_network_are_kept_while_there_is_room() {
        let mut shelves = Shelves::default();
        for last in 0..100 {
            let put = shelves.put(new("stable"), from_machine(1, last), START);
            assert_eq!(
                put.is_ok(),
                usize::from(last) < RECORDS_PER_KEY_MAX,
                "{last}"
            );
        }
        assert_eq!(kept(&shelves, "stable"), RECORDS_PER_KEY_MAX);
        // Others take places of it until all have as many.
        for last in 0..100 {
            let put = shelves.put(new("stable"), from_machine(2, last), START);
            assert_eq!(
                put.is_ok(),
                usize::from(last) < RECORDS_PER_KEY_MAX / 2,
                "{last}"
            );
        }
        assert_eq!(kept(&shelves, "stable"), RECORDS_PER_KEY_MAX);
    }

    #[test]
    fn a_neighbour_with_many_names_takes_nobodys_place() {
        let mut shelves = Shelves::default();
        let honest: Vec<Place> = (10..15).map(|last| from_machine(1, last)).collect();
        for place in &honest {
            shelves.put(new("stable"), *place, START).unwrap();
        }
        // Four addresses with all the names they may have would fill the set, again and again.
        for n in 0..100 {
            let later = START + Duration::from_secs(n);
            for last in 1..=4 {
                let _full = shelves.put(new("stable"), from_machine(1, last), later);
            }
        }
        assert_eq!(kept(&shelves, "stable"), RECORDS_PER_KEY_MAX);
        assert_eq!(kept_of(&shelves, &honest), honest.len());
        // And somebody who comes late gets a place of theirs.
        let late = from_machine(1, 99);
        shelves.put(new("stable"), late, START).unwrap();
        assert_eq!(kept_of(&shelves, &honest), honest.len());
        // From elsewhere too.
        shelves.put(new("stable"), from(2), START).unwrap();
        assert_eq!(kept_of(&shelves, &honest), honest.len());
    }

    #[test]
    fn in_a_full_set_what_is_over_goes_first() {
        let (mut shelves, leaving) = (Shelves::default(), PeerId::random());
        shelves
            .put(envelope(leaving, "stable", 1), from(0), START)
            .unwrap();
        for net in 1..RECORDS_PER_KEY_MAX {
            let net = u8::try_from(net).unwrap();
            shelves.put(new("stable"), from(net), START).unwrap();
        }
        let full = shelves.put(new("stable"), from(200), START);
        assert_eq!(full, Err(Refused::Full), "everybody has one");
        shelves
            .put(at(leaving, "stable", 2, &[]), from(0), START)
            .unwrap();
        assert_eq!(shelves.put(new("stable"), from(200), START), Ok(()));
    }

    #[test]
    fn somebody_from_elsewhere_finds_a_place_in_a_full_set() {
        let mut shelves = Shelves::default();
        let first = PeerId::random();
        shelves
            .put(envelope(first, "stable", 1), from(99), START)
            .unwrap();
        for net in 0..50 {
            for _ in 0..RECORDS_PER_KEY_AND_ADDRESS_MAX {
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
    fn a_flood_of_keys_from_one_address_leaves_room_for_others() {
        let mut shelves = Shelves::default();
        for n in 0..1000 {
            let put = shelves.put(new(&format!("c{n}")), from(1), START);
            assert_eq!(put.is_ok(), n < RECORDS_PER_ADDRESS_MAX, "{n}");
        }
        for net in 2..11 {
            for n in 0..RECORDS_PER_ADDRESS_MAX {
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
            for n in 0..RECORDS_PER_ADDRESS_MAX {
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
        for _ in 1..RECORDS_PER_KEY_AND_ADDRESS_MAX {
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
        for _ in 0..RECORDS_PER_KEY_AND_ADDRESS_MAX {
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
