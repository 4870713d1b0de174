//! The ports of DHCPv6, opened before privileges are dropped, and the identifier of this server.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::path::Path;

use boot_manifest::Digest;
use pxe::dhcp6::SERVER_PORT;
use socket2::{Domain, Protocol, Socket, Type};

use crate::listen::args::DhcpMode;
use crate::listen::limits::SOCKET_BUFFER_SIZE;
use crate::listen::ports::BINL_PORT;

/// What names this installation for good, where there is one.
const MACHINE_ID: &str = "/etc/machine-id";

/// What names this machine otherwise: its cards.
const CARDS: &str = "/sys/class/net";

/// The kind of identifier that is a number of 16 bytes (RFC 6355).
const DUID_UUID: [u8; 2] = [0, 4];

/// Which of our IPv6 addresses answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http6 {
    /// Only these; none means all.
    only: Vec<Ipv6Addr>,
}

impl Http6 {
    /// From the addresses that plain HTTP listens on.
    pub(crate) fn of(listened: &[IpAddr]) -> Option<Self> {
        let addresses = listened.iter().filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        });
        let only: Vec<Ipv6Addr> = addresses.collect();
        if only.iter().any(Ipv6Addr::is_unspecified) {
            return Some(Self { only: Vec::new() });
        }
        let only: Vec<_> = only.into_iter().filter(|ip| !ip.is_loopback()).collect();
        (!only.is_empty()).then_some(Self { only })
    }

    /// Whether this one does.
    pub(crate) fn allows(&self, address: Ipv6Addr) -> bool {
        self.only.is_empty() || self.only.contains(&address)
    }
}

/// The open ports.
#[derive(Debug)]
pub(crate) struct Ports6 {
    pub(super) id: Vec<u8>,
    pub(super) http: Http6,
    /// 547.
    pub(super) dhcp: Option<UdpSocket>,
    /// 4011.
    pub(super) boot: UdpSocket,
}

/// Opens what the mode needs; `Err` says in words why IPv6 is left out.
pub(crate) fn open(mode: DhcpMode, http: Option<Http6>) -> Result<Option<Ports6>, String> {
    let Some(http) = http.filter(|_| mode != DhcpMode::Off) else {
        return Ok(None);
    };
    let opened = |port| bound(port).map_err(|error| format!("port {port} over IPv6: {error}"));
    let boot = match opened(BINL_PORT) {
        // A machine without IPv6 has nothing to say about it.
        Err(_) if !has_ipv6() => return Ok(None),
        boot => boot?,
    };
    Ok(Some(Ports6 {
        id: identifier(),
        http,
        dhcp: match mode {
            DhcpMode::Binl | DhcpMode::Off => None,
            DhcpMode::Proxy | DhcpMode::Server => Some(opened(SERVER_PORT)?),
        },
        boot,
    }))
}

/// A port on all addresses. Another server of this machine may stand beside it: both hear the group.
fn bound(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(port == SERVER_PORT)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_SIZE)?;
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
    Ok(socket.into())
}

fn has_ipv6() -> bool {
    let loopback = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    UdpSocket::bind(loopback).is_ok()
}

/// The identifier of this server: the same after every start, and telling nothing else about the machine.
fn identifier() -> Vec<u8> {
    let named = std::fs::read(MACHINE_ID).unwrap_or_default();
    let name = match named.trim_ascii() {
        [] => cards(Path::new(CARDS)),
        named => named.to_vec(),
    };
    let hash = Digest::of(&[b"plasmd dhcpv6 server ".as_slice(), &name].concat());
    let mut id = DUID_UUID.to_vec();
    id.extend(hash.as_bytes().iter().take(16));
    id
}

/// The addresses of all cards, in order.
fn cards(folder: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let addresses = entries.filter_map(|card| std::fs::read(card.path().join("address")).ok());
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_fetch_from_where_http_is_spoken_over_ipv6() {
        let of = |addresses: &[&str]| {
            let parsed: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            Http6::of(&parsed)
        };
        let (own, other) = ("fd77::1".parse().unwrap(), "fd77::2".parse().unwrap());
        let all = of(&["::"]).unwrap();
        assert!(all.allows(own) && all.allows(other));
        let one = of(&["10.0.0.1", "fd77::1"]).unwrap();
        assert!(one.allows(own) && !one.allows(other));
        assert_eq!(of(&["0.0.0.0"]), None);
        assert_eq!(of(&["::1"]), None);
    }

    #[test]
    fn a_server_keeps_its_identifier() {
        let id = identifier();
        assert_eq!((id.len(), &id[..2]), (18, &DUID_UUID[..]));
        assert_eq!(id, identifier());
        let folder = tempfile::tempdir().unwrap();
        for (card, address) in [
            ("eth1", "02:00:00:00:00:02\n"),
            ("eth0", "02:00:00:00:00:01\n"),
        ] {
            std::fs::create_dir(folder.path().join(card)).unwrap();
            std::fs::write(folder.path().join(card).join("address"), address).unwrap();
        }
        let cards = cards(folder.path());
        assert_eq!(cards, b"02:00:00:00:00:01\n02:00:00:00:00:02\n");
    }
}
