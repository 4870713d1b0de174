//! Addresses: which of them may be used for what, and what counts as one network. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Bits that make an IPv6 network one holder's.
const V6_NET_BITS: u32 = 48;

/// A network that one person may have all of: /24 of IPv4, /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Net {
    V4([u8; 3]),
    V6(u128),
}

impl From<IpAddr> for Net {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => Self::V6(ip.to_bits() >> (u128::BITS - V6_NET_BITS)),
        }
    }
}

/// Whether a client may be sent to an HTTP server at this address.
pub(super) fn is_http_address(address: &SocketAddr) -> bool {
    let is_link_local = match address.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(_) => false,
    };
    address.port() != 0 && is_unicast(address.ip()) && !address.ip().is_loopback() && !is_link_local
}

/// Whether a machine can be there; link-local IPv6 addresses come without the scope they need.
fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            first != 0 && first < 224 && ip != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(ip) => {
            !ip.is_unspecified()
                && !ip.is_multicast()
                && !ip.is_unicast_link_local()
                && ip.to_ipv4_mapped().is_none()
        }
    }
}

/// Whether a peer may be dialled there. Loopback is for those whose own addresses are there too.
pub(super) fn may_dial(address: &SocketAddr, is_loopback_used: bool) -> bool {
    address.port() != 0
        && is_unicast(address.ip())
        && (is_loopback_used || !address.ip().is_loopback())
}

/// The address of `/ip4/A/tcp/N` or `/ip6/A/tcp/N`, with or without `/p2p/ID`; `None` for any other form.
pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    split(address).map(|(address, _)| address)
}

/// The same with the peer, if it is named.
pub(super) fn split(address: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else {
        return None;
    };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    parts
        .next()
        .is_none()
        .then_some((SocketAddr::new(ip, port), peer))
}

/// The IP address a multiaddress begins with.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// `/ip4/A/tcp/N` or `/ip6/A/tcp/N`.
pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_dialled() {
        for (text, expected) in [
            ("10.0.0.5:4011", true),
            ("198.51.100.1:1", true),
            ("[fd00::1]:4011", true),
            ("169.254.1.1:4011", true),
            ("127.0.0.1:4011", false),
            ("[::1]:4011", false),
            ("0.0.0.0:4011", false),
            ("0.1.2.3:4011", false),
            ("224.0.0.251:4011", false),
            ("255.255.255.255:4011", false),
            ("[fe80::1]:4011", false),
            ("[ff02::fb]:4011", false),
            ("[::ffff:10.0.0.5]:4011", false),
            ("10.0.0.5:0", false),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(may_dial(&address, false), expected, "{text}");
            let on_loopback = expected || address.ip().is_loopback();
            assert_eq!(may_dial(&address, true), on_loopback, "{text}");
            assert_eq!(socket_address(&multiaddr(address)), Some(address), "{text}");
        }
    }

    #[test]
    fn only_tcp_at_an_address_is_an_address() {
        for text in [
            "/ip4/10.0.0.5",
            "/ip4/10.0.0.5/udp/1",
            "/ip4/10.0.0.5/tcp/1/ws",
            "/dns4/example.net/tcp/1",
            "/ip4/10.0.0.5/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
        ] {
            assert_eq!(split(&text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn a_network_is_what_one_holder_has() {
        for (one, other, expected) in [
            ("10.0.0.1", "10.0.0.254", true),
            ("10.0.0.1", "10.0.1.1", false),
            ("10.0.0.1", "::ffff:10.0.0.9", true),
            ("fd00:0:1::1", "fd00:0:1:ffff::1", true),
            ("fd00:0:1::1", "fd00:0:2::1", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(
                Net::from(one) == Net::from(other),
                expected,
                "{one} {other}"
            );
        }
    }
}
