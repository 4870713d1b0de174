//! Addresses for machines that boot, without a table of leases: each machine always gets the same one, made of its identifier.
//!
//! Half of an address is the link's prefix, the other half is a number made of the client's identifier and its number for
//! this use. Two machines get the same one with a chance of one in 2^54, and each tests its address before use (RFC 4862);
//! one that finds it taken says so (DECLINE) and is given the next. So there is nothing to keep, to lose or to exhaust.

use std::collections::VecDeque;
use std::net::Ipv6Addr;

use crate::limits::{ADDRESS_TRIES_MAX, DECLINED_MAX};

/// The first byte of every number: no machine makes such an address of its own card by rule, and no reserved number
/// (RFC 5453) begins so.
const FIRST: u8 = 0xd6;

/// The subnet a client is on: 64 bits, which is what every link has (RFC 4291, 2.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix([u8; 8]);

impl Prefix {
    /// The subnet of an address, if addresses of it may be given out: not those that only hold on a link, nor groups.
    pub fn of(address: Ipv6Addr) -> Option<Self> {
        let usable = !address.is_unspecified()
            && !address.is_loopback()
            && !address.is_multicast()
            && !address.is_unicast_link_local();
        let prefix = address.octets().first_chunk::<8>().copied();
        prefix.filter(|_| usable).map(Self)
    }

    /// Whether an address is of this subnet.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.octets().first_chunk::<8>() == Some(&self.0)
    }

    fn address(self, number: u64) -> Ipv6Addr {
        let mut octets = [0; 16];
        let (prefix, own) = octets.split_at_mut(8);
        prefix.copy_from_slice(&self.0);
        own.copy_from_slice(&number.to_be_bytes());
        // Never the middle of an address that was made of a card.
        octets[8] = FIRST;
        octets[11] &= 0x7f;
        octets.into()
    }
}

/// What is known about addresses: those that somebody found taken. Bounded; forgetting one costs its next finder a try.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    declined: VecDeque<Ipv6Addr>,
}

impl Addresses {
    /// The address of a client on a subnet.
    pub fn of(&self, prefix: Prefix, client_id: &[u8], number: [u8; 4]) -> Ipv6Addr {
        let tries = (0..ADDRESS_TRIES_MAX).map(|try_| {
            let parts = [client_id, &number, &[try_]];
            prefix.address(mixed(parts.into_iter().flatten().copied()))
        });
        let mut last = Ipv6Addr::UNSPECIFIED;
        for address in tries {
            last = address;
            if !self.declined.contains(&address) {
                break;
            }
        }
        last
    }

    /// Somebody found these taken.
    pub fn decline(&mut self, addresses: impl IntoIterator<Item = Ipv6Addr>) {
        for address in addresses {
            if address.octets()[8] != FIRST || self.declined.contains(&address) {
                continue;
            }
            if self.declined.len() >= DECLINED_MAX {
                self.declined.pop_front();
            }
            self.declined.push_back(address);
        }
    }
}

/// FNV-1a, and then a mix of its bits, because the last bytes hardly reach the high ones.
fn mixed(bytes: impl Iterator<Item = u8>) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let mut hash = bytes.fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
