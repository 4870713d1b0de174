//! `--dhcp-range FIRST-LAST[/PREFIX][,LEASE]`.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use crate::listen::limits::{LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, RANGE_MAX};

/// Addresses to give to the machines of one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first address.
    pub(crate) first: Ipv4Addr,
    /// The last address.
    pub(crate) last: Ipv4Addr,
    /// Bits of the subnet; that of the interface when it is not given.
    pub(crate) prefix: Option<u8>,
    /// How long an address is given for.
    pub(crate) lease: Duration,
}

/// Why this is no range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRange {
    #[error("write it as FIRST-LAST[/PREFIX][,LEASE], like 10.0.0.100-10.0.0.199/24,12h")]
    Form,
    #[error("{0} is no IPv4 address")]
    Address(String),
    #[error("the last address comes before the first")]
    Order,
    #[error("more than {RANGE_MAX} addresses")]
    Large,
    #[error("the prefix is a number from 8 to 30")]
    Prefix,
    #[error(
        "both ends must lie in one subnet of that prefix, and be neither its first nor its last address"
    )]
    Subnet,
    #[error("a lease is a number with s, m, h or d, from 2m to 30d")]
    Lease,
}

/// Prefixes that make sense for a LAN.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;

impl Range {
    /// Bits that the addresses of the subnet have in common.
    pub(crate) fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    /// Whether both ends are addresses for machines in one subnet of `prefix` bits.
    fn fits(&self, prefix: u8) -> bool {
        let mask = Self::mask(prefix);
        let host = |ip: Ipv4Addr| u32::from(ip) & !mask;
        let is_same = u32::from(self.first) & mask == u32::from(self.last) & mask;
        is_same && host(self.first) != 0 && host(self.last) != !mask
    }
}

impl FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let (addresses, lease) = match text.split_once(',') {
            Some((addresses, lease)) => (addresses, duration(lease)?),
            None => (text, LEASE_DEFAULT),
        };
        let (ends, prefix) = match addresses.split_once('/') {
            Some((ends, prefix)) => {
                let prefix = prefix.parse().ok().filter(|bits| PREFIXES.contains(bits));
                (ends, Some(prefix.ok_or(BadRange::Prefix)?))
            }
            None => (addresses, None),
        };
        let (first, last) = ends.split_once('-').ok_or(BadRange::Form)?;
        let address = |text: &str| {
            let text = text.trim();
            text.parse().map_err(|_| BadRange::Address(text.to_owned()))
        };
        let range = Self {
            first: address(first)?,
            last: address(last)?,
            prefix,
            lease,
        };
        let size = u32::from(range.last).checked_sub(u32::from(range.first));
        match size {
            None => Err(BadRange::Order),
            Some(size) if size >= RANGE_MAX => Err(BadRange::Large),
            Some(_) if prefix.is_some_and(|prefix| !range.fits(prefix)) => Err(BadRange::Subnet),
            Some(_) => Ok(range),
        }
    }
}

fn duration(text: &str) -> Result<Duration, BadRange> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(BadRange::Lease),
    };
    let number: u64 = number.parse().map_err(|_| BadRange::Lease)?;
    let lease = number.checked_mul(seconds).map(Duration::from_secs);
    lease
        .filter(|lease| (LEASE_MIN..=LEASE_MAX).contains(lease))
        .ok_or(BadRange::Lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_people_write_them() {
        let range: Range = "10.0.0.100-10.0.0.199/24,12h".parse().unwrap();
        assert_eq!(range.first, Ipv4Addr::new(10, 0, 0, 100));
        assert_eq!(range.last, Ipv4Addr::new(10, 0, 0, 199));
        assert_eq!((range.prefix, range.lease.as_secs()), (Some(24), 43_200));
        let range: Range = "10.0.0.100-10.0.0.100".parse().unwrap();
        assert_eq!((range.prefix, range.lease), (None, LEASE_DEFAULT));
    }

    #[test]
    fn what_is_no_range_is_refused_with_its_reason() {
        for (text, wrong) in [
            ("", BadRange::Form),
            ("10.0.0.1", BadRange::Form),
            ("10.0.0.1-x", BadRange::Address("x".to_owned())),
            ("10.0.0.9-10.0.0.1", BadRange::Order),
            ("10.0.0.1-10.9.0.1", BadRange::Large),
            ("10.0.0.1-10.0.0.9/33", BadRange::Prefix),
            ("10.0.0.1-10.0.0.9/", BadRange::Prefix),
            ("10.0.0.1-10.0.1.9/24", BadRange::Subnet),
            ("10.0.0.0-10.0.0.9/24", BadRange::Subnet),
            ("10.0.0.1-10.0.0.255/24", BadRange::Subnet),
            ("10.0.0.1-10.0.0.9/24,1s", BadRange::Lease),
            ("10.0.0.1-10.0.0.9,12", BadRange::Lease),
            ("10.0.0.1-10.0.0.9,99999999999999999999d", BadRange::Lease),
            ("10.0.0.1-10.0.0.9,31d", BadRange::Lease),
        ] {
            assert_eq!(text.parse::<Range>(), Err(wrong), "{text}");
        }
    }
}
