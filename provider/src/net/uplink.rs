//! One interface's IPv4: which address it should have now, decided from its link, its DHCP lease and conflicts.
//!
//! ```text
//! link down ──link up──> looking ──lease──> probing ──nobody objects──> leased ──renewed──> leased
//!     ^                   |  ^                |                          |
//!     |                   |  └── decline, 10 s ┴──────── conflict ────────┤
//!     |                   |  └───────────────────── expired, refused ─────┘
//!     |                   └─ 15 s without a lease: a link-local address as well, until there is one
//!     └── link lost, from every state: no address
//! ```
//! After a kexec the link comes up with the lease of the predecessor (`resume`): `leased` at once, while DHCP asks for it
//! as if there were none; its answer replaces it, and without one it ends when it would have ended.
//!
//! [`Uplink::wanted`] is the whole result; whoever owns the kernel's sockets makes it true. Time and frames are
//! arguments, so every path of the drawing is tested without a network.

use std::net::Ipv4Addr;

use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use super::claim::{Claim, Timing, Verdict};
use super::dhcp::{Asks, Client, Event};
use super::hint::Providers;
use super::lease::Lease;
use super::limits::{CONFLICT_WAIT, CONFLICTS_MAX, FALLBACK_AFTER};
use super::link_local;
use super::wire::{Arp, parse_arp};

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The command line.
    Fixed,
    /// A DHCP server.
    Dhcp,
    /// Our own choice (RFC 3927).
    LinkLocal,
}

impl Source {
    /// The word in reports and logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "static",
            Self::Dhcp => "dhcp",
            Self::LinkLocal => "link-local",
        }
    }
}

/// The IPv4 set-up an interface should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The address.
    pub(super) address: Ipv4Addr,
    /// Its prefix length.
    pub(super) prefix: u8,
    /// The default router.
    pub(super) router: Option<Ipv4Addr>,
    /// When the kernel must drop the address by itself; `None` is never.
    pub(super) until: Option<Instant>,
    /// Where it comes from.
    pub(super) source: Source,
    /// Name servers.
    pub(super) name_servers: Vec<Ipv4Addr>,
    /// The domain for short names.
    pub(super) domain: Option<String>,
}

/// What a log line is written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A new lease is in use.
    Leased(Lease),
    /// The lease of the predecessor is in use.
    Resumed(Lease),
    /// The lease is over.
    LeaseLost,
    /// Somebody else has the address a server gave us.
    Declined(Ipv4Addr, EthernetAddress),
    /// A link-local address is in use.
    Fallback(Ipv4Addr),
    /// Somebody else has the link-local address.
    FallbackLost(Ipv4Addr, EthernetAddress),
}

/// A leased address on its way into use, or in use.
struct Leased {
    lease: Lease,
    until: Instant,
    claim: Claim,
}

/// The IPv4 of one interface.
pub(super) struct Uplink {
    mac: EthernetAddress,
    carrier: bool,
    fixed: Option<Wanted>,
    dhcp: Client,
    /// What the predecessor of this machine had, and until when; gone with the first answer of a server.
    resumed: Option<(Lease, Instant)>,
    leased: Option<Leased>,
    fallback: Option<Claim>,
    /// When a link-local address may be tried, or tried again.
    fallback_at: Instant,
    conflicts: u32,
    frames: Vec<Vec<u8>>,
    notes: Vec<Note>,
}

impl Uplink {
    /// An interface without a link. `fixed` replaces DHCP and the link-local address.
    pub(super) fn new(
        mac: EthernetAddress,
        seed: u64,
        asks: Asks,
        fixed: Option<Wanted>,
        now: Instant,
    ) -> Self {
        Self {
            mac,
            carrier: false,
            fixed,
            dhcp: Client::new(mac, seed, asks, now),
            resumed: None,
            leased: None,
            fallback: None,
            fallback_at: now,
            conflicts: 0,
            frames: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Has the lease of the predecessor used when the link comes up.
    pub(super) fn resume(&mut self, lease: Lease, now: Instant) {
        let until = now + lease.lifetime;
        self.resumed = Some((lease, until));
    }

    /// The lease that is in use, and until when.
    pub(super) fn lease(&self) -> Option<(&Lease, Instant)> {
        let leased = self.leased.as_ref();
        let leased = leased.filter(|leased| self.carrier && leased.claim.is_usable());
        leased.map(|leased| (&leased.lease, leased.until))
    }

    /// The address the interface should have now.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        if !self.carrier {
            return None;
        }
        if self.fixed.is_some() {
            return self.fixed.clone();
        }
        if let Some(Leased {
            lease,
            until,
            claim,
        }) = &self.leased
            && claim.is_usable()
        {
            return Some(Wanted {
                address: lease.address,
                prefix: lease.prefix,
                router: lease.router,
                until: Some(*until),
                source: Source::Dhcp,
                name_servers: lease.name_servers.clone(),
                domain: lease.domain.clone(),
            });
        }
        let fallback = self.fallback.as_ref().filter(|claim| claim.is_usable())?;
        Some(Wanted {
            address: fallback.address(),
            prefix: link_local::PREFIX,
            router: None,
            until: None,
            source: Source::LinkLocal,
            name_servers: Vec::new(),
            domain: None,
        })
    }

    /// The providers that boot servers named here.
    pub(super) fn providers(&self) -> &Providers {
        self.dhcp.providers()
    }

    /// Frames to send, and what happened.
    pub(super) fn take(&mut self) -> (Vec<Vec<u8>>, Vec<Note>) {
        (
            std::mem::take(&mut self.frames),
            std::mem::take(&mut self.notes),
        )
    }

    /// When `poll` has something to do; `None` while only a link or a frame can change anything.
    pub(super) fn next_at(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_working() {
            return None;
        }
        let claim = match &self.leased {
            Some(leased) => leased.claim.next_at(),
            None => None,
        };
        let fallback = match &self.fallback {
            Some(claim) => claim.next_at(),
            None if self.is_leased() => None,
            None => Some(self.fallback_at),
        };
        let resumed = self.resumed.as_ref().map(|(_, until)| *until);
        [Some(self.dhcp.next_at(now)), claim, fallback, resumed]
            .into_iter()
            .flatten()
            .min()
    }

    /// The link came or went.
    pub(super) fn on_carrier(&mut self, carrier: bool, now: Instant) {
        if carrier == self.carrier {
            return;
        }
        self.carrier = carrier;
        self.leased = None;
        self.fallback = None;
        self.fallback_at = now + FALLBACK_AFTER;
        self.conflicts = 0;
        self.dhcp.restart(now);
        if let (true, Some((lease, until))) = (carrier, &self.resumed) {
            self.leased = Some(Leased {
                lease: lease.clone(),
                until: *until,
                claim: Claim::resumed(self.mac, lease.address, now),
            });
            self.notes.push(Note::Resumed(lease.clone()));
        }
    }

    /// A frame arrived. ARP of a station in `own` is ours: this machine may sit on one link with two interfaces.
    pub(super) fn on_frame(&mut self, frame: &[u8], own: &[EthernetAddress], now: Instant) {
        if !self.is_working() {
            return;
        }
        if let Some(arp) = parse_arp(frame)
            && !own.contains(&arp.sender_mac)
        {
            self.on_arp(&arp, now);
        }
        let event = self.dhcp.receive(frame, now, &mut self.frames);
        self.on_event(event, now);
    }

    /// Does what is due.
    pub(super) fn poll(&mut self, now: Instant) {
        if !self.is_working() {
            return;
        }
        let event = self.dhcp.poll(now, &mut self.frames);
        self.on_event(event, now);
        if self
            .resumed
            .as_ref()
            .is_some_and(|(_, until)| *until <= now)
        {
            // No server knows of it.
            self.on_event(Some(Event::Lost), now);
        }
        if let Some(leased) = &mut self.leased
            && leased.claim.poll(now, &mut self.frames) == Some(Verdict::Usable)
        {
            self.fallback = None;
            self.notes.push(Note::Leased(leased.lease.clone()));
        }
        if self.fallback.is_none() && !self.is_leased() && self.fallback_at <= now {
            let address = link_local::candidate(self.mac, self.conflicts);
            self.fallback = Some(Claim::new(self.mac, address, Timing::CHOSEN, now));
        }
        if let Some(claim) = &mut self.fallback
            && claim.poll(now, &mut self.frames) == Some(Verdict::Usable)
        {
            self.notes.push(Note::Fallback(claim.address()));
        }
    }

    /// Gives the lease back; for the end of the role.
    pub(super) fn release(&mut self) {
        self.leased = None;
        self.fallback = None;
        self.dhcp.release(&mut self.frames);
        self.carrier = false;
    }

    fn is_working(&self) -> bool {
        self.carrier && self.fixed.is_none()
    }

    fn is_leased(&self) -> bool {
        self.leased
            .as_ref()
            .is_some_and(|leased| leased.claim.is_usable())
    }

    fn is_leased_like(&self, lease: &Lease) -> bool {
        let same = |leased: &Leased| {
            (leased.lease.address, leased.lease.prefix) == (lease.address, lease.prefix)
        };
        self.is_leased() && self.leased.as_ref().is_some_and(same)
    }

    fn on_event(&mut self, event: Option<Event>, now: Instant) {
        let resumed = match event {
            None => return,
            Some(_) => self.resumed.take().is_some(),
        };
        match event {
            None => (),
            Some(Event::Leased(lease)) if resumed && self.is_leased_like(&lease) => {
                if let Some(leased) = &mut self.leased {
                    leased.until = now + lease.lifetime;
                    leased.lease = lease.clone();
                }
                self.notes.push(Note::Leased(lease));
            }
            Some(Event::Leased(lease)) => {
                let until = now + lease.lifetime;
                let claim = Claim::new(self.mac, lease.address, Timing::LEASED, now);
                self.leased = Some(Leased {
                    lease,
                    until,
                    claim,
                });
            }
            Some(Event::Renewed(lease)) => {
                if let Some(leased) = &mut self.leased {
                    leased.until = now + lease.lifetime;
                    leased.lease = lease;
                }
            }
            Some(Event::Lost) => {
                if self.leased.take().is_some() {
                    self.notes.push(Note::LeaseLost);
                }
                self.fallback_at = now + FALLBACK_AFTER;
            }
        }
    }

    fn on_arp(&mut self, arp: &Arp, now: Instant) {
        if let Some(leased) = &mut self.leased
            && let Some(Verdict::Lost(other)) = leased.claim.on_arp(arp, now, &mut self.frames)
        {
            self.notes.push(Note::Declined(leased.lease.address, other));
            self.leased = None;
            self.resumed = None;
            self.dhcp.decline(now, &mut self.frames);
            self.fallback_at = self.fallback_at.max(now);
        }
        if let Some(claim) = &mut self.fallback
            && let Some(Verdict::Lost(other)) = claim.on_arp(arp, now, &mut self.frames)
        {
            self.notes.push(Note::FallbackLost(claim.address(), other));
            self.fallback = None;
            self.conflicts = self.conflicts.saturating_add(1);
            self.fallback_at = match self.conflicts < CONFLICTS_MAX {
                true => now,
                false => now + CONFLICT_WAIT,
            };
        }
    }
}

#[cfg(test)]
mod tests;
