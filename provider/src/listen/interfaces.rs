//! The interfaces of this machine as the boot services see them: names, and the address that clients behind each are given.
//!
//! Looked up when a datagram comes in, remembered for a moment: interfaces come and go, and a storm of clients must not ask
//! the kernel for each packet.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Instant;

use if_addrs::IfAddr;

use crate::listen::limits::INTERFACES_LOOK_AGAIN;

/// One interface with an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// As `ip link` shows it.
    pub(crate) name: String,
    /// Its first address.
    pub(crate) address: Ipv4Addr,
    /// Bits of the subnet that address is in.
    pub(crate) prefix: u8,
    /// All its addresses.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// Interfaces by their numbers.
#[derive(Debug)]
pub(crate) struct Interfaces {
    /// Only these, when any are named.
    only: Vec<String>,
    known: BTreeMap<u32, Interface>,
    /// Every address of this machine, also those of interfaces that are not served.
    own: Vec<Ipv4Addr>,
    looked_at: Option<Instant>,
}

impl Interfaces {
    /// All interfaces, or only those that are named.
    pub(crate) fn new(only: &[String]) -> Self {
        Self {
            only: only.to_vec(),
            known: BTreeMap::new(),
            own: Vec::new(),
            looked_at: None,
        }
    }

    /// The interface with this number, if it has an address and is one of ours.
    pub(crate) fn get(&mut self, index: u32, now: Instant) -> Option<&Interface> {
        self.look(now);
        self.known.get(&index)
    }

    /// Every address of this machine.
    pub(crate) fn own(&mut self, now: Instant) -> &[Ipv4Addr] {
        self.look(now);
        &self.own
    }

    /// All of them with their numbers.
    pub(crate) fn all(&mut self, now: Instant) -> &BTreeMap<u32, Interface> {
        self.look(now);
        &self.known
    }

    fn look(&mut self, now: Instant) {
        let is_fresh =
            |looked: Instant| now.saturating_duration_since(looked) < INTERFACES_LOOK_AGAIN;
        if self.looked_at.is_some_and(is_fresh) {
            return;
        }
        self.looked_at = Some(now);
        match if_addrs::get_if_addrs() {
            Ok(found) => {
                self.own = found.iter().filter_map(own_address).collect();
                self.known = table(&self.only, found);
            }
            Err(error) => tracing::warn!(%error, "the interfaces of this machine cannot be read"),
        }
    }
}

fn own_address(one: &if_addrs::Interface) -> Option<Ipv4Addr> {
    match &one.addr {
        IfAddr::V4(address) => Some(address.ip),
        IfAddr::V6(_) => None,
    }
}

/// Whether `one` is served: it was named, or none was and others can be behind it.
pub(super) fn is_wanted(only: &[String], one: &if_addrs::Interface) -> bool {
    match only {
        [] => !one.is_loopback(),
        named => named.contains(&one.name),
    }
}

fn table(only: &[String], found: Vec<if_addrs::Interface>) -> BTreeMap<u32, Interface> {
    let mut table = BTreeMap::new();
    for one in found {
        let (Some(index), IfAddr::V4(address)) = (one.index, &one.addr) else {
            continue;
        };
        if !is_wanted(only, &one) {
            continue;
        }
        table
            .entry(index)
            .or_insert_with(|| Interface {
                name: one.name.clone(),
                address: address.ip,
                prefix: address.prefixlen,
                addresses: Vec::new(),
            })
            .addresses
            .push(address.ip);
    }
    table
}

/// The address of this machine that datagrams to `there` come from; `None` when there is no way.
pub(crate) fn address_towards(there: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Chooses a route, and sends nothing.
    socket.connect(SocketAddrV4::new(there, DISCARD)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

/// Any port would do.
const DISCARD: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_served_only_when_it_is_named() {
        let now = Instant::now();
        let names = |only: &[&str]| -> Vec<String> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let mut interfaces = Interfaces::new(&only);
            interfaces
                .all(now)
                .values()
                .map(|one| one.name.clone())
                .collect()
        };
        assert!(!names(&[]).contains(&"lo".to_owned()));
        assert_eq!(names(&["lo", "none9"]), ["lo"]);
        let loopback = Ipv4Addr::new(127, 0, 0, 1);
        assert!(
            Interfaces::new(&["none9".to_owned()])
                .own(now)
                .contains(&loopback),
            "an address is this machine's wherever it is"
        );
    }

    #[test]
    fn this_machine_knows_its_way_to_itself() {
        let loopback = Ipv4Addr::new(127, 0, 0, 1);
        assert_eq!(address_towards(loopback), Some(loopback));
    }
}
