//! Whether others can reach this node, from what they say its address is. Pure.
//!
//! A node behind a router that translates addresses is seen at an address it does not have. One voice per network, and the
//! majority counts: a few liars turn nothing around. Nobody asked yet means reachable, because most nodes of a LAN are.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::limits::OBSERVERS_MAX;
use super::net::Net;

/// What others say.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The last word of each network: whether it saw an address that this node has.
    voices: VecDeque<(Net, bool)>,
}

impl Reach {
    /// Somebody this node connected to says where the connection came from.
    pub(super) fn observe(&mut self, observer: IpAddr, seen: IpAddr, own: &[IpAddr]) {
        let net = Net::from(observer);
        self.voices.retain(|(other, _)| *other != net);
        if self.voices.len() >= OBSERVERS_MAX {
            self.voices.pop_front();
        }
        let has_it = own
            .iter()
            .any(|ip| ip.to_canonical() == seen.to_canonical());
        self.voices.push_back((net, has_it));
    }

    /// What most of them say.
    pub(super) fn is_direct(&self) -> bool {
        let direct = self.voices.iter().filter(|(_, is_direct)| *is_direct);
        2 * direct.count() >= self.voices.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));
    const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn check(voices: &[([u8; 4], IpAddr)], expected: bool) {
        let mut reach = Reach::default();
        for (observer, seen) in voices {
            reach.observe(IpAddr::from(*observer), *seen, &[OWN]);
        }
        assert_eq!(reach.is_direct(), expected, "{voices:?}");
    }

    #[test]
    fn the_majority_of_networks_says_whether_a_router_is_between() {
        check(&[], true);
        check(&[([10, 0, 0, 9], OWN)], true);
        check(&[([192, 0, 2, 1], ROUTER)], false);
        check(&[([192, 0, 2, 1], ROUTER), ([198, 51, 100, 1], OWN)], true);
        // Many liars in one network have one voice.
        let mut voices: Vec<_> = (1..200).map(|n| ([192, 0, 2, n], ROUTER)).collect();
        voices.extend([([10, 0, 0, 9], OWN), ([10, 0, 1, 9], OWN)]);
        check(&voices, true);
        // And it may change its mind.
        check(&[([192, 0, 2, 1], ROUTER), ([192, 0, 2, 9], OWN)], true);
    }

    #[test]
    fn voices_are_bounded() {
        let mut reach = Reach::default();
        for n in 0..=255 {
            reach.observe(IpAddr::from([10, n, 0, 1]), OWN, &[OWN]);
        }
        assert_eq!(reach.voices.len(), OBSERVERS_MAX);
    }
}
