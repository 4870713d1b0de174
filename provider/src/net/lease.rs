//! What a DHCP server gave us, after every value was checked: nothing else of its message is used.
//!
//! A DHCP server is whoever answers first on the wire, so a lease is believed only as far as it can be sensible: it is
//! never loopback, multicast or "everyone", never lasts a second, and its strings cannot carry anything into a file.

use std::net::Ipv4Addr;

use smoltcp::time::Duration;
use smoltcp::wire::EthernetAddress;

use super::limits::{
    DOMAIN_LENGTH_MAX, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, NAME_SERVERS_MAX, TIME_SERVERS_MAX,
};
use super::wire::ServerMessage;

/// Option numbers (RFC 2132).
mod option {
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const NAME_SERVERS: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const BROADCAST: u8 = 28;
    pub(super) const TIME_SERVERS: u8 = 42;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const SERVER: u8 = 54;
    pub(super) const RENEWAL_TIME: u8 = 58;
    pub(super) const REBINDING_TIME: u8 = 59;
}

/// What we ask a server for.
pub(super) const PARAMETERS: &[u8] = &[
    option::SUBNET_MASK,
    option::ROUTER,
    option::NAME_SERVERS,
    option::DOMAIN,
    option::BROADCAST,
    option::TIME_SERVERS,
    option::LEASE_TIME,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
];

/// A lease whose values make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Our address.
    pub(super) address: Ipv4Addr,
    /// Its prefix length, 1 to 32.
    pub(super) prefix: u8,
    /// The default router.
    pub(super) router: Option<Ipv4Addr>,
    /// Name servers, at most three.
    pub(super) name_servers: Vec<Ipv4Addr>,
    /// The domain for short names.
    pub(super) domain: Option<String>,
    /// Time servers, at most three.
    pub(super) time_servers: Vec<Ipv4Addr>,
    /// The server that gave it.
    pub(super) server: Ipv4Addr,
    /// The station its answer came from, for the release at the end.
    pub(super) station: EthernetAddress,
    /// How long it lasts.
    pub(super) lifetime: Duration,
}

/// Why a server's message is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeaseError {
    /// Unspecified, loopback, multicast, link-local or broadcast.
    #[error("the address {0} cannot be given to a machine")]
    Address(Ipv4Addr),
    /// No mask, or one with holes, or of length 0.
    #[error("there is no usable subnet mask")]
    Mask,
    /// The first or last address of the subnet.
    #[error("the address {0} names its whole subnet")]
    Subnet(Ipv4Addr),
    /// No server identifier, or no address a server can have.
    #[error("the server does not say who it is")]
    Server,
    /// Missing or shorter than `LEASE_SECONDS_MIN`.
    #[error("the lease lasts {0} s, too short to be used")]
    Time(u32),
}

impl Lease {
    /// Checks an OFFER or ACK. Options that merely help (router, names, time) are dropped when they make no sense.
    pub(super) fn from_message(message: &ServerMessage<'_>) -> Result<Self, LeaseError> {
        let packet = &message.packet;
        let find = |kind: u8| {
            packet
                .options()
                .find(|option| option.kind == kind)
                .map(|option| option.data)
        };
        let address = packet.your_ip();
        if !is_host(address) || address.is_link_local() {
            return Err(LeaseError::Address(address));
        }
        let prefix = find(option::SUBNET_MASK)
            .and_then(one_number)
            .and_then(prefix_of_mask)
            .ok_or(LeaseError::Mask)?;
        if names_subnet(address, prefix) {
            return Err(LeaseError::Subnet(address));
        }
        let server = find(option::SERVER)
            .and_then(|data| addresses(data, 1).pop())
            .ok_or(LeaseError::Server)?;
        let seconds = find(option::LEASE_TIME).and_then(one_number).unwrap_or(0);
        if seconds < LEASE_SECONDS_MIN {
            return Err(LeaseError::Time(seconds));
        }
        Ok(Self {
            address,
            prefix,
            router: find(option::ROUTER)
                .and_then(|data| addresses(data, 1).pop())
                .filter(|router| *router != address),
            name_servers: find(option::NAME_SERVERS)
                .map(|data| addresses(data, NAME_SERVERS_MAX))
                .unwrap_or_default(),
            domain: find(option::DOMAIN).and_then(domain),
            time_servers: find(option::TIME_SERVERS)
                .map(|data| addresses(data, TIME_SERVERS_MAX))
                .unwrap_or_default(),
            server,
            station: message.station,
            lifetime: Duration::from_secs(u64::from(seconds.min(LEASE_SECONDS_MAX))),
        })
    }

    /// Whether it could have come from a message, its time apart.
    pub(super) fn is_sensible(&self) -> bool {
        let helpers = self.router.iter().chain(&self.name_servers);
        let mut helpers = helpers.chain(&self.time_servers).chain([&self.server]);
        is_host(self.address)
            && !self.address.is_link_local()
            && (1..=32).contains(&self.prefix)
            && !names_subnet(self.address, self.prefix)
            && helpers.all(|address| is_host(*address))
            && self.router != Some(self.address)
            && self
                .domain
                .as_ref()
                .is_none_or(|text| domain(text.as_bytes()).as_ref() == Some(text))
    }
}

/// An address that one machine can have.
fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first < 224 && !address.is_loopback()
}

/// The first usable addresses of a list option.
fn addresses(data: &[u8], count_max: usize) -> Vec<Ipv4Addr> {
    data.chunks_exact(4)
        .filter_map(|chunk| <[u8; 4]>::try_from(chunk).ok())
        .map(Ipv4Addr::from)
        .filter(|address| is_host(*address))
        .take(count_max)
        .collect()
}

fn one_number(data: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(data).ok().map(u32::from_be_bytes)
}

/// 1 to 32 for a mask of ones followed by zeros.
fn prefix_of_mask(mask: u32) -> Option<u8> {
    let ones = mask.leading_ones();
    let whole = mask.checked_shl(ones).unwrap_or(0) == 0;
    (whole && ones > 0)
        .then_some(ones)
        .and_then(|ones| u8::try_from(ones).ok())
}

/// The network and broadcast address of a subnet belong to nobody. /31 and /32 have neither (RFC 3021).
fn names_subnet(address: Ipv4Addr, prefix: u8) -> bool {
    if prefix >= 31 {
        return false;
    }
    let host_mask = u32::MAX >> prefix;
    let host = u32::from(address) & host_mask;
    host == 0 || host == host_mask
}

/// A domain name of letters, digits, hyphens and dots; servers like to end it with a NUL.
fn domain(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let text = text.trim_end_matches('\0').trim_end_matches('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (text.len() <= DOMAIN_LENGTH_MAX && text.split('.').all(is_label))
        .then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Reply, ack};
    use super::super::wire::parse_server_message;
    use super::*;

    fn check(change: impl FnOnce(&mut Reply), expected: Result<(), LeaseError>) {
        let mut reply = Reply::default();
        change(&mut reply);
        let frame = ack(&reply);
        let message = parse_server_message(&frame).expect("a well-formed frame");
        assert_eq!(
            Lease::from_message(&message).map(|_lease| ()),
            expected,
            "{reply:?}"
        );
    }

    #[test]
    fn every_value_that_makes_no_sense_is_refused() {
        check(|_reply| (), Ok(()));
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.3.4",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let address: Ipv4Addr = bad.parse().unwrap();
            check(
                |reply| reply.address = address,
                Err(LeaseError::Address(address)),
            );
        }
        for mask in [0, 0xff00_ff00, 0x00ff_ffff, 1] {
            check(|reply| reply.mask = Some(mask), Err(LeaseError::Mask));
        }
        check(|reply| reply.mask = None, Err(LeaseError::Mask));
        for (last, fine) in [(0, false), (255, false), (1, true), (254, true)] {
            let address = Ipv4Addr::new(10, 0, 0, last);
            let expected = match fine {
                true => Ok(()),
                false => Err(LeaseError::Subnet(address)),
            };
            check(|reply| reply.address = address, expected);
        }
        check(|reply| reply.server = None, Err(LeaseError::Server));
        check(
            |reply| reply.server = Some(Ipv4Addr::LOCALHOST),
            Err(LeaseError::Server),
        );
        for seconds in [0, 1, LEASE_SECONDS_MIN - 1] {
            check(
                |reply| reply.seconds = Some(seconds),
                Err(LeaseError::Time(seconds)),
            );
        }
        check(|reply| reply.seconds = None, Err(LeaseError::Time(0)));
    }

    #[test]
    fn a_host_route_and_a_point_to_point_link_are_fine() {
        for mask in [u32::MAX, u32::MAX - 1] {
            check(|reply| reply.mask = Some(mask), Ok(()));
        }
    }

    #[test]
    fn an_endless_lease_ends_after_a_year() {
        let frame = ack(&Reply {
            seconds: Some(u32::MAX),
            ..Reply::default()
        });
        let lease = Lease::from_message(&parse_server_message(&frame).unwrap()).unwrap();
        assert_eq!(lease.lifetime.secs(), u64::from(LEASE_SECONDS_MAX));
    }

    #[test]
    fn helpful_options_are_taken_when_they_make_sense() {
        let frame = ack(&Reply {
            extra: vec![
                (3, vec![127, 0, 0, 1, 10, 0, 0, 1]),
                (6, vec![0, 0, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3, 9]),
                (15, b"Example.NET.\0".to_vec()),
                (42, vec![10, 0, 0, 4]),
            ],
            ..Reply::default()
        });
        let lease = Lease::from_message(&parse_server_message(&frame).unwrap()).unwrap();
        assert_eq!(lease.router, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(
            lease.name_servers,
            [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]
        );
        assert_eq!(lease.domain.as_deref(), Some("example.net"));
        assert_eq!(lease.time_servers, [Ipv4Addr::new(10, 0, 0, 4)]);
    }

    #[test]
    fn a_domain_cannot_carry_a_line_into_a_file() {
        for bad in [
            "a\nnameserver 6.6.6.6",
            "a b",
            "",
            ".",
            "-a",
            "a..b",
            "\u{1b}[2J",
        ] {
            assert_eq!(domain(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(domain(&[b'a'; 64]), None);
        assert_eq!(domain(&[0xff, 0xfe]), None);
    }
}
