//! Claiming one IPv4 address on a link without taking it from somebody (RFC 5227).
//!
//! ```text
//!            3 probes unanswered            somebody else uses it
//! Probing ------------------------> Held ---------------------------> defend once;
//!    |                                                                again within 10 s: Lost
//!    +---- somebody uses or probes it: Lost
//! ```
//! Addresses of a DHCP lease and link-local addresses take the same way with different timing. This module decides and
//! builds frames; it has no socket and no clock.

use std::net::Ipv4Addr;

use smoltcp::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use super::limits::DEFEND_INTERVAL;
use super::wire::{Arp, arp_request};

/// How carefully an address is probed and announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// Probes sent.
    pub(super) probes: u32,
    /// Time between them.
    pub(super) probe_interval: Duration,
    /// Silence after the last one.
    pub(super) listen: Duration,
    /// Announcements sent once the address is used.
    pub(super) announcements: u32,
    /// Time between them.
    pub(super) announce_interval: Duration,
}

impl Timing {
    /// For an address that a server chose and should know to be free: a third of a second, because the machine serves
    /// nobody before. RFC 5227 would wait for 4 to 7 s; DHCP servers ping an address before they offer it.
    pub(super) const LEASED: Self = Self {
        probes: 3,
        probe_interval: Duration::from_millis(100),
        listen: Duration::from_millis(150),
        announcements: 2,
        announce_interval: Duration::from_secs(2),
    };

    /// For an address we chose ourselves: the times of RFC 3927 section 9.
    pub(super) const CHOSEN: Self = Self {
        probes: 3,
        probe_interval: Duration::from_millis(1500),
        listen: Duration::from_secs(2),
        announcements: 2,
        announce_interval: Duration::from_secs(2),
    };
}

/// What a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody objected: the address may be used from now on.
    Usable,
    /// This station uses it or wants it too: it must not be used, or not any more.
    Lost(EthernetAddress),
}

#[derive(Debug)]
enum Stage {
    /// `sent` probes are out, the next step is due at `next_at`.
    Probing { sent: u32, next_at: Instant },
    /// In use; `next_at` is when to announce again.
    Held {
        announced: u32,
        next_at: Option<Instant>,
    },
}

/// One address on its way into use.
#[derive(Debug)]
pub(super) struct Claim {
    mac: EthernetAddress,
    address: Ipv4Addr,
    timing: Timing,
    stage: Stage,
    defended_at: Option<Instant>,
}

impl Claim {
    /// Starts probing at `start`.
    pub(super) fn new(
        mac: EthernetAddress,
        address: Ipv4Addr,
        timing: Timing,
        start: Instant,
    ) -> Self {
        Self {
            mac,
            address,
            timing,
            stage: Stage::Probing {
                sent: 0,
                next_at: start,
            },
            defended_at: None,
        }
    }

    /// An address that this machine had until a moment ago: it is in use at once, and announced.
    pub(super) fn resumed(mac: EthernetAddress, address: Ipv4Addr, start: Instant) -> Self {
        Self {
            stage: Stage::Held {
                announced: 0,
                next_at: Some(start),
            },
            ..Self::new(mac, address, Timing::LEASED, start)
        }
    }

    /// The address.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Whether it may be used.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.stage, Stage::Held { .. })
    }

    /// When `poll` has something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Probing { next_at, .. } => Some(next_at),
            Stage::Held { next_at, .. } => next_at,
        }
    }

    /// Does what is due; `Usable` is given once, when probing ends.
    pub(super) fn poll(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>) -> Option<Verdict> {
        match &mut self.stage {
            Stage::Probing { next_at, .. }
            | Stage::Held {
                next_at: Some(next_at),
                ..
            } if now < *next_at => None,
            Stage::Probing { sent, next_at } if *sent < self.timing.probes => {
                *sent += 1;
                *next_at = now
                    + match *sent < self.timing.probes {
                        true => self.timing.probe_interval,
                        false => self.timing.listen,
                    };
                frames.push(arp_request(self.mac, Ipv4Addr::UNSPECIFIED, self.address));
                None
            }
            Stage::Probing { .. } => {
                self.stage = Stage::Held {
                    announced: 0,
                    next_at: Some(now),
                };
                self.announce(now, frames);
                Some(Verdict::Usable)
            }
            Stage::Held { next_at: None, .. } => None,
            Stage::Held { .. } => {
                self.announce(now, frames);
                None
            }
        }
    }

    /// Judges an ARP packet of another station.
    pub(super) fn on_arp(
        &mut self,
        arp: &Arp,
        now: Instant,
        frames: &mut Vec<Vec<u8>>,
    ) -> Option<Verdict> {
        if arp.sender_mac == self.mac {
            return None;
        }
        let used = arp.sender == self.address;
        match self.stage {
            Stage::Probing { .. } => {
                let probed =
                    arp.request && arp.sender.is_unspecified() && arp.target == self.address;
                (used || probed).then_some(Verdict::Lost(arp.sender_mac))
            }
            Stage::Held { .. } if !used => None,
            Stage::Held { .. } => {
                if self
                    .defended_at
                    .is_some_and(|at| now < at + DEFEND_INTERVAL)
                {
                    return Some(Verdict::Lost(arp.sender_mac));
                }
                self.defended_at = Some(now);
                frames.push(arp_request(self.mac, self.address, self.address));
                None
            }
        }
    }

    fn announce(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>) {
        if let Stage::Held { announced, next_at } = &mut self.stage {
            *announced += 1;
            *next_at = (*announced < self.timing.announcements)
                .then(|| now + self.timing.announce_interval);
            frames.push(arp_request(self.mac, self.address, self.address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{MAC, SERVER_MAC};
    use super::super::wire::parse_arp;
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

    fn at(ms: i64) -> Instant {
        Instant::from_millis(ms)
    }

    fn claim() -> Claim {
        Claim::new(MAC, ADDRESS, Timing::LEASED, at(0))
    }

    fn from_other(request: bool, sender: Ipv4Addr, target: Ipv4Addr) -> Arp {
        Arp {
            request,
            sender_mac: SERVER_MAC,
            sender,
            target,
        }
    }

    /// Polls whenever something is due; gives the times at which frames left and the time of `Usable`.
    fn run(claim: &mut Claim) -> (Vec<i64>, Option<i64>) {
        let (mut sent, mut usable) = (Vec::new(), None);
        while let Some(next) = claim.next_at() {
            let mut frames = Vec::new();
            if claim.poll(next, &mut frames) == Some(Verdict::Usable) {
                usable = Some(next.total_millis());
            }
            sent.extend(frames.iter().map(|_frame| next.total_millis()));
        }
        (sent, usable)
    }

    #[test]
    fn silence_makes_an_address_ours_after_three_probes() {
        let (sent, usable) = run(&mut claim());
        assert_eq!(sent, [0, 100, 200, 350, 2350]);
        assert_eq!(usable, Some(350));
    }

    #[test]
    fn an_early_poll_sends_nothing() {
        let mut claim = claim();
        let mut frames = Vec::new();
        for ms in [0, 1, 50, 99] {
            claim.poll(at(ms), &mut frames);
        }
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn while_probing_an_owner_or_a_rival_takes_the_address_away() {
        let other = Ipv4Addr::new(10, 0, 0, 9);
        let nobody = Ipv4Addr::UNSPECIFIED;
        for (arp, lost) in [
            (from_other(false, ADDRESS, other), true),
            (from_other(true, ADDRESS, other), true),
            (from_other(true, nobody, ADDRESS), true),
            (from_other(true, other, ADDRESS), false),
            (from_other(true, nobody, other), false),
        ] {
            let verdict = claim().on_arp(&arp, at(1), &mut Vec::new());
            assert_eq!(
                verdict,
                lost.then_some(Verdict::Lost(SERVER_MAC)),
                "{arp:?}"
            );
        }
    }

    #[test]
    fn our_own_echo_is_no_conflict() {
        let arp = Arp {
            sender_mac: MAC,
            ..from_other(true, ADDRESS, ADDRESS)
        };
        assert_eq!(claim().on_arp(&arp, at(1), &mut Vec::new()), None);
    }

    #[test]
    fn an_address_in_use_is_defended_once_in_ten_seconds() {
        let mut claim = claim();
        run(&mut claim);
        let attack = from_other(true, ADDRESS, ADDRESS);
        let mut frames = Vec::new();
        assert_eq!(claim.on_arp(&attack, at(60_000), &mut frames), None);
        assert_eq!(
            parse_arp(&frames[0]).map(|arp| arp.sender),
            Some(ADDRESS),
            "the defence is an announcement"
        );
        assert_eq!(
            claim.on_arp(&attack, at(69_999), &mut frames),
            Some(Verdict::Lost(SERVER_MAC))
        );
        assert_eq!(claim.on_arp(&attack, at(70_000), &mut frames), None);
        assert_eq!(frames.len(), 2);
    }
}
