//! Where requests come in: one socket for each address that is listened on.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use crate::listen::datagrams::{Datagrams, Way};
use crate::listen::datagrams6::Datagrams6;

/// The open ports.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(super) ports: Vec<Port>,
    /// Whether transfers use these sockets too.
    pub(super) is_single: bool,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Port {
    V4(Datagrams),
    V6(Datagrams6),
}

/// A packet that came to a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) length: usize,
    pub(super) peer: SocketAddr,
    /// The address of ours that answers come from, unless the kernel shall choose.
    pub(super) local: Option<IpAddr>,
    /// Sent to everybody, or to a group: nobody answers that (RFC 1123, 4.2.3.5).
    pub(super) is_broadcast: bool,
}

impl Ports {
    /// Opens `port` at every address. `::` is all of IPv6 and IPv4.
    pub(super) fn open(addresses: &[IpAddr], mut port: u16, is_single: bool) -> io::Result<Self> {
        let mut ports = Vec::new();
        for address in with_both(addresses) {
            let opened = match address {
                IpAddr::V4(ip) => Port::V4(Datagrams::bind(SocketAddrV4::new(ip, port))?),
                IpAddr::V6(ip) => Port::V6(Datagrams6::bind(SocketAddrV6::new(ip, port, 0, 0))?),
            };
            // One free port for all of them.
            port = opened.address()?.port();
            ports.push(opened);
        }
        Ok(Self { ports, is_single })
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.ports.iter().map(Port::address);
        addresses.filter_map(Result::ok).collect()
    }
}

/// Each address once, and all of IPv4 beside all of IPv6.
fn with_both(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let any = IpAddr::from([0, 0, 0, 0]);
    let mut found: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    if found.contains(&all) {
        found.push(any);
    }
    for whole in [all, any] {
        if found.contains(&whole) {
            found.retain(|ip| *ip == whole || ip.is_ipv4() != whole.is_ipv4());
        }
    }
    found.sort();
    found.dedup();
    found
}

impl Port {
    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::V4(socket) => Ok(SocketAddr::V4(socket.address()?)),
            Self::V6(socket) => socket.address(),
        }
    }

    /// The next packet; what does not fit is cut off.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrived> {
        match self {
            Self::V4(socket) => {
                let received = socket.receive(buffer)?;
                Ok(Arrived {
                    length: received.length,
                    peer: SocketAddr::V4(received.peer),
                    local: Some(IpAddr::V4(received.sent_to)),
                    is_broadcast: received.is_for_all,
                })
            }
            Self::V6(socket) => {
                let received = socket.receive(buffer)?;
                let sent_to = received.sent_to;
                // Those of a link mean nothing without it; there the kernel takes the one of the link that the peer is on.
                let local = (!sent_to.is_unicast_link_local()).then_some(IpAddr::V6(sent_to));
                Ok(Arrived {
                    length: received.length,
                    peer: received.peer,
                    local,
                    is_broadcast: sent_to.is_multicast(),
                })
            }
        }
    }

    /// Sends a packet to `peer`, from `local` if the kernel shall not choose.
    pub(super) fn send(
        &self,
        packet: &[u8],
        peer: SocketAddr,
        local: Option<IpAddr>,
    ) -> io::Result<()> {
        match (self, peer) {
            (Self::V4(socket), SocketAddr::V4(to)) => {
                let from = match local {
                    Some(IpAddr::V4(ip)) => Some(ip),
                    _ => None,
                };
                let way = Way {
                    to,
                    interface: None,
                    from,
                };
                socket.send(packet, way)
            }
            (Self::V6(socket), to) => {
                let from = match local {
                    Some(IpAddr::V6(ip)) => Some(ip),
                    _ => None,
                };
                socket.send(packet, to, from)
            }
            (Self::V4(_), SocketAddr::V6(_)) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::V4(socket) => socket.as_fd(),
            Self::V6(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_to_all_is_told_from_what_was_sent_here() {
        let ports = Ports::open(&["0.0.0.0".parse().unwrap()], 0, false).unwrap();
        let port = ports.addresses()[0].port();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_broadcast(true).unwrap();
        // The middle one is that of the whole network, and binding to it is possible.
        for (to, is_broadcast) in [
            ("127.0.0.5", false),
            ("127.255.255.255", true),
            ("127.0.0.1", false),
        ] {
            client.send_to(b"x", (to, port)).unwrap();
            let arrived = ports.ports[0].receive(&mut [0; 4]).unwrap();
            assert_eq!(arrived.is_broadcast, is_broadcast, "{to}");
            assert_eq!(arrived.local, Some(to.parse().unwrap()));
        }
    }

    #[test]
    fn every_address_is_listened_on_once() {
        for (given, expected) in [
            (&["0.0.0.0"][..], &["0.0.0.0"][..]),
            (&["::"], &["0.0.0.0", "::"]),
            (
                &["::", "0.0.0.0", "10.0.0.1", "fe80::1"],
                &["0.0.0.0", "::"],
            ),
            (
                &["::ffff:10.0.0.1", "10.0.0.1", "::1"],
                &["10.0.0.1", "::1"],
            ),
        ] {
            let parse = |list: &[&str]| -> Vec<IpAddr> {
                list.iter().map(|ip| ip.parse().unwrap()).collect()
            };
            assert_eq!(with_both(&parse(given)), parse(expected), "{given:?}");
        }
        let ports = Ports::open(&["::".parse().unwrap()], 0, false).unwrap();
        let addresses = ports.addresses();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
    }
}
