//! The links of this machine as DHCPv6 sees them: addresses that clients on each reach us at, and the group of servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Instant;

use if_addrs::{IfAddr, Interface};
use pxe::dhcp6::SERVERS;

use super::is_reachable;
use crate::listen::interfaces::is_wanted;
use crate::listen::limits::INTERFACES_LOOK_AGAIN;

/// Any port would do.
const DISCARD: u16 = 9;

/// Bits of the subnet of a link, on which addresses can be given out.
const SUBNET_BITS: u8 = 64;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// As `ip link` shows it.
    pub(crate) name: String,
    /// Its addresses that hold beyond the link, and whether each has a subnet of the usual size.
    pub(crate) addresses: Vec<(Ipv6Addr, bool)>,
}

/// Links by their numbers.
#[derive(Debug)]
pub(crate) struct Links {
    /// Only these, when any are named.
    only: Vec<String>,
    known: BTreeMap<u32, Link>,
    joined: BTreeSet<u32>,
    looked_at: Option<Instant>,
}

impl Links {
    /// All links, or only those that are named.
    pub(crate) fn new(only: &[String]) -> Self {
        Self {
            only: only.to_vec(),
            known: BTreeMap::new(),
            joined: BTreeSet::new(),
            looked_at: None,
        }
    }

    /// The link with this number, if it is one of ours.
    pub(crate) fn get(&mut self, index: u32, now: Instant) -> Option<&Link> {
        self.look(now);
        self.known.get(&index)
    }

    /// The link that has this address.
    pub(crate) fn with_address(&mut self, address: Ipv6Addr, now: Instant) -> Option<&Link> {
        self.look(now);
        let mut links = self.known.values();
        links.find(|link| link.addresses.iter().any(|(own, _)| *own == address))
    }

    /// Joins the group of servers on every link where that was not done yet.
    pub(crate) fn join(&mut self, socket: &tokio::net::UdpSocket, now: Instant) {
        self.look(now);
        self.joined.retain(|index| self.known.contains_key(index));
        for (index, link) in &self.known {
            if self.joined.contains(index) {
                continue;
            }
            match socket.join_multicast_v6(&SERVERS, *index) {
                Ok(()) => {
                    self.joined.insert(*index);
                }
                Err(error) => tracing::debug!(link = link.name, %error, "DHCPv6 is not heard"),
            }
        }
    }

    fn look(&mut self, now: Instant) {
        let is_fresh =
            |looked: Instant| now.saturating_duration_since(looked) < INTERFACES_LOOK_AGAIN;
        if self.looked_at.is_some_and(is_fresh) {
            return;
        }
        self.looked_at = Some(now);
        match if_addrs::get_if_addrs() {
            Ok(found) => self.known = table(&self.only, found),
            Err(error) => tracing::warn!(%error, "the interfaces of this machine cannot be read"),
        }
    }
}

/// Links with an IPv6 address of any kind: where there is none, IPv6 is off.
fn table(only: &[String], found: Vec<Interface>) -> BTreeMap<u32, Link> {
    let mut table: BTreeMap<u32, Link> = BTreeMap::new();
    for one in found {
        let (Some(index), IfAddr::V6(address)) = (one.index, &one.addr) else {
            continue;
        };
        if !is_wanted(only, &one) {
            continue;
        }
        let link = table.entry(index).or_insert_with(|| Link {
            name: one.name.clone(),
            addresses: Vec::new(),
        });
        if let Some(own) = is_reachable(address.ip.into()) {
            let is_subnet = address.prefixlen == SUBNET_BITS;
            link.addresses.push((own, is_subnet));
        }
    }
    table
}

/// The address of this machine that datagrams to `there` come from; `None` when there is no way.
pub(super) fn address_towards(there: Ipv6Addr) -> Option<Ipv6Addr> {
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
    let socket = UdpSocket::bind(any).ok()?;
    // Chooses a route, and sends nothing.
    let there = SocketAddrV6::new(there, DISCARD, 0, 0);
    socket.connect(there).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V6(own) => is_reachable((*own.ip()).into()),
        SocketAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, ip: &str, prefixlen: u8) -> Interface {
        let address = if_addrs::Ifv6Addr {
            ip: ip.parse().unwrap(),
            netmask: Ipv6Addr::UNSPECIFIED,
            prefixlen,
            broadcast: None,
        };
        Interface {
            name: name.to_owned(),
            addr: IfAddr::V6(address),
            index: Some(index),
            oper_status: if_addrs::IfOperStatus::Up,
            is_p2p: false,
        }
    }

    #[test]
    fn links_are_known_by_the_addresses_that_others_reach() {
        let found = || {
            vec![
                interface("lo", 1, "::1", 128),
                interface("eth0", 2, "fe80::1", 64),
                interface("eth0", 2, "fd77::1", 64),
                interface("eth0", 2, "2001:db8::1", 128),
                interface("eth1", 3, "fe80::2", 64),
            ]
        };
        let eth0 = Link {
            name: "eth0".to_owned(),
            addresses: vec![
                ("fd77::1".parse().unwrap(), true),
                ("2001:db8::1".parse().unwrap(), false),
            ],
        };
        let table = super::table(&[], found());
        assert_eq!(table.keys().copied().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(table.get(&2), Some(&eth0));
        assert_eq!(table.get(&3).map(|link| link.addresses.len()), Some(0));
        let only = ["eth0".to_owned()];
        assert_eq!(super::table(&only, found()).len(), 1);
    }
}
