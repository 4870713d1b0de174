//! Who must give up a place when all are taken, and who is answered once only: what keeps one client, or many forged ones, from
//! having everything.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::listen::limits::{TFTP_UNHEARD_MAX, TFTP_UNHEARD_PER_ADDRESS_MAX};

/// A place that is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) token: u64,
    pub(super) client: IpAddr,
    pub(super) began: Duration,
    /// Whether its client never said anything.
    pub(super) is_unheard: bool,
}

/// Which one goes for a client at `asking`: who was silent longest, or else the last of the address that has most of them, if
/// that has more than the one who asks.
pub(super) fn given_up(
    places: impl Iterator<Item = Place> + Clone,
    asking: IpAddr,
    now: Duration,
) -> Option<u64> {
    let silent = places
        .clone()
        .filter(|place| place.is_unheard && now.saturating_sub(place.began) >= TFTP_UNHEARD_MAX);
    if let Some(place) = silent.min_by_key(|place| place.began) {
        return Some(place.token);
    }
    let mut held: HashMap<IpAddr, u32> = HashMap::new();
    for place in places.clone() {
        *held.entry(place.client).or_default() += 1;
    }
    let own = held.get(&asking).copied().unwrap_or(0);
    let (greediest, most) = held.into_iter().max_by_key(|(_, count)| *count)?;
    // One more for the one who asks must leave the other with as many at least.
    let last = places.filter(|place| place.client == greediest);
    let last = last.max_by_key(|place| place.began)?;
    (most > own + 1).then_some(last.token)
}

/// The addresses at which so many clients never said anything that nothing is sent there again: likely they are none.
pub(super) fn suspected(places: impl Iterator<Item = Place>) -> HashSet<IpAddr> {
    let mut unheard: HashMap<IpAddr, usize> = HashMap::new();
    for place in places.filter(|place| place.is_unheard) {
        *unheard.entry(place.client).or_default() += 1;
    }
    unheard.retain(|_, count| *count > TFTP_UNHEARD_PER_ADDRESS_MAX);
    unheard.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(token: u64, host: u8, is_unheard: bool) -> Place {
        Place {
            token,
            client: [10, 0, 0, host].into(),
            began: Duration::from_secs(token),
            is_unheard,
        }
    }

    #[test]
    fn the_silent_go_first_and_then_the_greedy() {
        let check = |places: &[Place], asking: u8, now: u64, expected: Option<u64>| {
            let asking = [10, 0, 0, asking].into();
            let found = given_up(places.iter().copied(), asking, Duration::from_secs(now));
            assert_eq!(found, expected, "{places:?}");
        };
        let held = |host| (1..=3).map(move |token| place(token, host, false));
        let mut places: Vec<Place> = held(1).collect();
        check(&places, 1, 9, None);
        check(&places, 2, 9, Some(3));
        places.extend([place(4, 2, false), place(5, 2, false)]);
        // It would have three as well.
        check(&places, 2, 9, None);
        check(&places, 3, 9, Some(3));
        places.extend([place(6, 4, true), place(7, 4, true)]);
        check(&places, 2, 9, Some(6));
        // These may answer yet.
        check(&places, 2, 6, None);
    }

    #[test]
    fn an_address_with_many_who_say_nothing_is_suspected() {
        let most = TFTP_UNHEARD_PER_ADDRESS_MAX as u64;
        let with = |count| (0..count).map(|token| place(token, 1, true));
        let heard = (0..1_000).map(|token| place(token, 2, false));
        let one = IpAddr::from([10, 0, 0, 1]);
        assert!(suspected(with(most)).is_empty());
        let found = suspected(with(most + 1).chain(heard));
        assert_eq!(found, HashSet::from([one]));
    }
}
