//! Which machine has which address, for a LAN whose only DHCP server is this one (RFC 2131, section 4.3).
//!
//! A machine is known by its MAC alone: firmware, boot loader and the system they start send different client identifiers,
//! and all of them are to get the same address. An address goes through these states:
//!
//! ```text
//!          offer                 request                 time passes
//! free ------------> offered ----------------> given ---------------------> free, remembered for its machine
//!                       |                        |                                   ^
//!                       | time passes            | declined, or somebody else has it |
//!                       v                        v            time passes            |
//!                      free                    avoided ------------------------------+
//! ```
//! An address that was never given comes first, then the one whose machine was away for longest. Time is counted from any
//! fixed start; for leases that outlive the process that is the Unix epoch. The table never grows beyond its pools.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Mac;
use crate::dhcp::{Kind, Request};
use crate::limits::{AVOID_TIME, DOUBT_TIME, OFFER_TIME, RELAYED_PREFIX};

/// Addresses of one subnet that may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The first one.
    pub first: Ipv4Addr,
    /// The last one.
    pub last: Ipv4Addr,
    /// Bits of the subnet, if they are not those of the interface.
    pub prefix: Option<u8>,
    /// How long an address is given for.
    pub lease: Duration,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// An address in it: this server's own, or the relay's.
    pub address: Ipv4Addr,
    /// Its bits, where they are known.
    pub prefix: Option<u8>,
}

impl Subnet {
    /// Whether an address lies in it.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        let prefix = self.prefix.unwrap_or(RELAYED_PREFIX);
        same_subnet(self.address, address, prefix)
    }
}

/// An address for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its subnet.
    pub prefix: u8,
    /// For how long.
    pub lease: Duration,
    /// Whether the client has it still: then nobody else needs to be looked for.
    pub is_known: bool,
}

/// What becomes of a REQUEST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has the address.
    Given(Grant),
    /// It must begin again.
    Refused,
    /// Another server was chosen.
    Elsewhere(Ipv4Addr),
    /// This server knows nothing of it and says nothing.
    Silence,
}

/// A lease as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose.
    pub mac: Mac,
    /// Which address.
    pub address: Ipv4Addr,
    /// Until when, in seconds.
    pub until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offered(Mac),
    Given(Mac),
    Avoided,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    state: State,
    until: Duration,
}

impl Entry {
    fn mac(&self) -> Option<Mac> {
        match self.state {
            State::Offered(mac) | State::Given(mac) => Some(mac),
            State::Avoided => None,
        }
    }

    /// Whether `mac` may have the address.
    fn is_for(&self, mac: Mac, now: Duration) -> bool {
        self.until <= now || self.mac() == Some(mac)
    }
}

/// The addresses of all pools.
#[derive(Debug, Clone)]
pub struct Leases {
    pools: Vec<Pool>,
    entries: BTreeMap<Ipv4Addr, Entry>,
}

impl Leases {
    /// Nobody has anything.
    pub fn new(pools: Vec<Pool>) -> Self {
        Self {
            pools,
            entries: BTreeMap::new(),
        }
    }

    /// Takes over what was kept; what is in no pool any more is left out. No lease lasts longer than one that is given now:
    /// the clock may have been wrong when it was written.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = Lease>, now: Duration) {
        for lease in leases {
            if let Some(pool) = self.pools.iter().find(|pool| pool.has(lease.address)) {
                let entry = Entry {
                    state: State::Given(lease.mac),
                    until: Duration::from_secs(lease.until).min(now + pool.lease),
                };
                self.entries.insert(lease.address, entry);
            }
        }
    }

    /// All leases, expired ones too: their machines get the same address again.
    pub fn given(&self) -> impl Iterator<Item = Lease> {
        self.entries
            .iter()
            .filter_map(|(address, entry)| match entry.state {
                State::Given(mac) => Some(Lease {
                    mac,
                    address: *address,
                    until: entry.until.as_secs(),
                }),
                State::Offered(_) | State::Avoided => None,
            })
    }

    /// The machine that has an address now.
    pub fn owner(&self, address: Ipv4Addr, now: Duration) -> Option<Mac> {
        let entry = self.entries.get(&address)?;
        entry.mac().filter(|_| entry.until > now)
    }

    /// Whether a pool has addresses for clients there.
    pub fn serves(&self, subnet: Subnet) -> bool {
        self.pool(subnet).is_some()
    }

    /// An address for a client that looks for one, kept for it for a moment. `own` are never given.
    pub fn offer(
        &mut self,
        request: &Request,
        subnet: Subnet,
        own: &[Ipv4Addr],
        now: Duration,
    ) -> Option<Grant> {
        let (pool, prefix) = self.pool(subnet)?;
        let mac = request.mac;
        let had = self
            .entries
            .iter()
            .find(|(address, entry)| entry.mac() == Some(mac) && pool.has(**address))
            .map(|(address, _)| *address);
        let wanted = request.requested.filter(|address| pool.has(*address));
        let is_free = |address: &Ipv4Addr| {
            let entry = self.entries.get(address);
            !own.contains(address)
                && subnet.address != *address
                && pool.fits(*address, prefix)
                && entry.is_none_or(|entry| entry.is_for(mac, now))
        };
        let never = || {
            pool.addresses()
                .filter(|address| !self.entries.contains_key(address))
                .find(is_free)
        };
        let address = had
            .filter(is_free)
            .or_else(|| wanted.filter(is_free))
            .or_else(never)
            .or_else(|| self.longest_away(pool, is_free))?;
        let old = self.entries.get(&address);
        let had_it = old.is_some_and(|entry| entry.state == State::Given(mac));
        let lasts = |at: Duration| old.is_some_and(|entry| had_it && entry.until > at);
        let is_known = lasts(now);
        if !lasts(now + OFFER_TIME) {
            // A machine that had the address keeps it on record if it does not take the offer.
            let state = match had_it {
                true => State::Given(mac),
                false => State::Offered(mac),
            };
            let until = now + OFFER_TIME;
            self.entries.insert(address, Entry { state, until });
        }
        Some(Grant {
            address,
            prefix,
            lease: pool.lease,
            is_known,
        })
    }

    fn longest_away(&self, pool: Pool, is_free: impl Fn(&Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        self.entries
            .iter()
            .filter(|(address, _)| pool.has(**address) && is_free(address))
            .min_by_key(|(_, entry)| entry.until)
            .map(|(address, _)| *address)
    }

    /// Decides about a REQUEST. `server` is the address this server is known by there.
    pub fn request(
        &mut self,
        request: &Request,
        subnet: Subnet,
        server: Ipv4Addr,
        now: Duration,
    ) -> Verdict {
        let Some((pool, prefix)) = self.pool(subnet) else {
            return Verdict::Silence;
        };
        let mac = request.mac;
        if let Some(other) = request.server_id.filter(|chosen| *chosen != server) {
            self.forget_offers(mac, pool);
            return Verdict::Elsewhere(other);
        }
        let (address, is_chosen) = match (request.requested, request.server_id) {
            (Some(address), chosen) => (address, chosen.is_some()),
            (None, _) if !request.ciaddr.is_unspecified() => (request.ciaddr, false),
            (None, _) => return Verdict::Silence,
        };
        if !pool.has(address) || !pool.fits(address, prefix) {
            // On this subnet somebody else may have given it, by hand; from elsewhere it is of no use here.
            let is_here = same_subnet(address, pool.first, prefix);
            return match is_chosen || !is_here {
                true => Verdict::Refused,
                false => Verdict::Silence,
            };
        }
        let entry = self.entries.get(&address);
        if address == server || entry.is_some_and(|entry| !entry.is_for(mac, now)) {
            return Verdict::Refused;
        }
        let is_known = entry.is_some_and(|entry| entry.state == State::Given(mac));
        self.forget_offers(mac, pool);
        let entry = Entry {
            state: State::Given(mac),
            until: now + pool.lease,
        };
        self.entries.insert(address, entry);
        Verdict::Given(Grant {
            address,
            prefix,
            lease: pool.lease,
            is_known,
        })
    }

    /// A client gave its address back. Whether anything changed.
    pub fn release(&mut self, mac: Mac, address: Ipv4Addr, now: Duration) -> bool {
        match self.entries.get_mut(&address) {
            Some(entry) if entry.state == State::Given(mac) && entry.until > now => {
                entry.until = now;
                true
            }
            _ => false,
        }
    }

    /// Somebody uses an address whom this server does not know: it is left alone for a while. A client's word counts
    /// ([`Kind::Decline`]) only for the address that was offered or given to it.
    pub fn avoid(&mut self, address: Ipv4Addr, said_by: Option<Mac>, now: Duration) -> bool {
        self.leave_alone(address, said_by, now + AVOID_TIME)
    }

    /// Nobody can say just now whether somebody uses an address.
    pub fn doubt(&mut self, address: Ipv4Addr, now: Duration) {
        self.leave_alone(address, None, now + DOUBT_TIME);
    }

    fn leave_alone(&mut self, address: Ipv4Addr, said_by: Option<Mac>, until: Duration) -> bool {
        let is_said_by_owner = |mac: Mac| {
            let entry = self.entries.get(&address);
            entry.is_some_and(|entry| entry.mac() == Some(mac))
        };
        if !self.pools.iter().any(|pool| pool.has(address))
            || said_by.is_some_and(|mac| !is_said_by_owner(mac))
        {
            return false;
        }
        let entry = Entry {
            state: State::Avoided,
            until,
        };
        self.entries.insert(address, entry);
        true
    }

    /// What a machine was offered there. A card that several subnets share (VLANs) may wait for an answer on another one.
    fn forget_offers(&mut self, mac: Mac, pool: Pool) {
        self.entries
            .retain(|address, entry| entry.state != State::Offered(mac) || !pool.has(*address));
    }

    /// The pool for clients there, and the bits of their subnet.
    fn pool(&self, subnet: Subnet) -> Option<(Pool, u8)> {
        self.pools.iter().find_map(|pool| {
            let prefix = pool.prefix.or(subnet.prefix).unwrap_or(RELAYED_PREFIX);
            same_subnet(pool.first, subnet.address, prefix).then_some((*pool, prefix))
        })
    }
}

impl Pool {
    fn has(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Whether a machine of the pool's subnet can have an address: it lies in it, and is neither its first nor its last.
    fn fits(&self, address: Ipv4Addr, prefix: u8) -> bool {
        let hosts = !u32::from(mask(prefix));
        let host = u32::from(address) & hosts;
        same_subnet(address, self.first, prefix) && host != 0 && host != hosts
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }
}

/// The mask of a subnet with so many bits.
pub fn mask(prefix: u8) -> Ipv4Addr {
    let zeroes = 32_u32.saturating_sub(u32::from(prefix));
    Ipv4Addr::from(u32::MAX.checked_shl(zeroes).unwrap_or(0))
}

fn same_subnet(one: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> bool {
    (u32::from(one) ^ u32::from(other)) & u32::from(mask(prefix)) == 0
}

/// Whether a message is about an address at all.
pub fn concerns(kind: Kind) -> bool {
    match kind {
        Kind::Discover | Kind::Request | Kind::Decline | Kind::Release => true,
        Kind::Inform | Kind::Offer | Kind::Ack | Kind::Nak => false,
    }
}

#[cfg(test)]
mod tests;
