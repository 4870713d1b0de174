//! Which link-local IPv4 address an interface tries (RFC 3927 section 2.1).
//!
//! The choice follows from the hardware address, so a machine gets the same address after a restart; every conflict
//! leads to the next one of its sequence.

use std::net::Ipv4Addr;

use smoltcp::wire::EthernetAddress;

/// 169.254.0.0/16.
pub(super) const PREFIX: u8 = 16;

/// 169.254.1.0 to 169.254.254.255; the first and last 256 addresses are reserved.
const CANDIDATES: u64 = 254 * 256;

/// The address to try after `conflicts` others were taken.
pub(super) fn candidate(mac: EthernetAddress, conflicts: u32) -> Ipv4Addr {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(mac.as_bytes());
    let step = u64::from(conflicts).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = mix(u64::from_be_bytes(bytes).wrapping_add(step)) % CANDIDATES;
    // At most 65,023 + 256: it fits.
    let [high, low] = u16::try_from(index + 256).unwrap_or(256).to_be_bytes();
    Ipv4Addr::new(169, 254, high, low)
}

/// The finaliser of splitmix64: spreads neighbouring hardware addresses over the whole range.
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn machines_and_conflicts_lead_to_different_addresses_in_the_allowed_range() {
        let mut seen = BTreeSet::new();
        for last in 0..50 {
            for conflicts in 0..20 {
                let address = candidate(EthernetAddress([2, 0, 0, 0, 0, last]), conflicts);
                let [169, 254, high, _] = address.octets() else {
                    panic!("{address} is not link-local");
                };
                assert!((1..=254).contains(&high), "{address}");
                seen.insert(address);
            }
        }
        assert!(seen.len() > 980, "{} of 1,000 are different", seen.len());
    }

    #[test]
    fn the_choice_is_the_same_after_a_restart() {
        let mac = EthernetAddress([2, 0, 0, 0, 0, 1]);
        assert_eq!(candidate(mac, 0), candidate(mac, 0));
    }
}
