//! DHCPv6 for machines that boot over IPv6: sockets, interfaces and the clock around `pxe::dhcp6`, which decides.
//!
//! One socket for each port hears every interface; the group of DHCPv6 servers is joined on each, and on those that appear
//! later. A client's own address tells where it is: by its link if it only holds there, else by the way to it. Everything here
//! is a gift beside IPv4: a machine without IPv6 or without the ports says so in one line and serves the rest.

pub(crate) mod links;
mod ports;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;

pub(super) use pxe::dhcp6::Mode;
use pxe::dhcp6::{Addresses, Kind, Port, Prefix, Reply, Request, Server, Silence, answer};
use tokio::net::UdpSocket;

use crate::listen::limits::{DATAGRAM_MAX, LINKS_JOIN_AGAIN, RECEIVE_PAUSE};
use crate::listen::metrics::Fate;
use crate::listen::shared::Shared;
use links::{Link, Links};
pub(crate) use ports::{Http6, Ports6, open};

/// The service.
pub(super) struct Dhcp6 {
    dhcp: Option<UdpSocket>,
    boot: UdpSocket,
    desk: Desk,
}

/// What decides about a datagram.
struct Desk {
    mode: Mode,
    id: Vec<u8>,
    http: Http6,
    links: Links,
    addresses: Addresses,
    shared: Arc<Shared>,
}

/// An answer, where it goes, and what it counts as.
#[derive(Debug)]
struct Letter {
    bytes: Vec<u8>,
    to: SocketAddrV6,
    fate: Fate,
}

/// Where a question came from, as seen from here.
struct Place {
    link: String,
    server: Ipv6Addr,
    prefix: Option<Prefix>,
}

impl Dhcp6 {
    /// The service at `ports`, on all links or those that are named; within the runtime.
    pub(super) fn new(
        ports: Ports6,
        mode: Mode,
        only: &[String],
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        Ok(Self {
            dhcp: ports.dhcp.map(UdpSocket::from_std).transpose()?,
            boot: UdpSocket::from_std(ports.boot)?,
            desk: Desk {
                mode,
                id: ports.id,
                http: ports.http,
                links: Links::new(only),
                addresses: Addresses::default(),
                shared,
            },
        })
    }

    /// Answers until it is dropped.
    pub(super) async fn run(self) {
        let Self {
            dhcp,
            boot,
            mut desk,
        } = self;
        let (mut first, mut second) = (vec![0; DATAGRAM_MAX], vec![0; DATAGRAM_MAX]);
        let mut join_again = tokio::time::interval(LINKS_JOIN_AGAIN);
        loop {
            tokio::select! {
                _ = join_again.tick() => if let Some(socket) = &dhcp {
                    desk.links.join(socket, Instant::now());
                },
                got = received(dhcp.as_ref(), &mut first) => if let Some(socket) = &dhcp {
                    desk.serve(socket, Port::Dhcp, got, &first).await;
                },
                got = received(Some(&boot), &mut second) => {
                    desk.serve(&boot, Port::Boot, got, &second).await;
                }
            }
        }
    }
}

impl Desk {
    async fn serve(
        &mut self,
        socket: &UdpSocket,
        port: Port,
        got: io::Result<(usize, SocketAddr)>,
        buffer: &[u8],
    ) {
        let (size, peer) = match got {
            Ok((size, SocketAddr::V6(peer))) => (size, peer),
            Ok((_, SocketAddr::V4(_))) => return,
            Err(error) => {
                tracing::warn!(%error, "a boot port cannot be read");
                return tokio::time::sleep(RECEIVE_PAUSE).await;
            }
        };
        let message = buffer.get(..size).unwrap_or_default();
        let Some(Letter { bytes, to, fate }) = self.answered(message, peer, port) else {
            return;
        };
        // A datagram that the kernel has no room for is lost, like any other.
        match socket.try_send_to(&bytes, to.into()) {
            Ok(_) => self.shared.metrics.count(fate),
            Err(error) => self.shared.not_sent(to.into(), &error),
        }
    }

    /// The answer to one datagram.
    fn answered(&mut self, message: &[u8], peer: SocketAddrV6, port: Port) -> Option<Letter> {
        let request = match Request::parse(message) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%peer, %error, "no DHCPv6 question");
                self.shared.metrics.count(Fate::Malformed);
                return None;
            }
        };
        let Some(place) = self.place(&request, peer) else {
            self.shared.metrics.count(Fate::Interface);
            return None;
        };
        let client = request.client(*peer.ip());
        let plan = client.as_ref().map(|client| {
            self.shared
                .plan_at(client, place.server.into(), &place.link)
        });
        let server = Server {
            id: &self.id,
            address: place.server,
            mode: self.mode,
            prefix: place.prefix,
        };
        let boots = client.as_ref().zip(plan.as_ref());
        match answer(&request, port, boots, &server, &mut self.addresses) {
            Ok(reply) => {
                if let Some(client) = &client {
                    self.shared.told(client, &place.link, &reply);
                }
                let mut to = peer;
                to.set_port(reply.port(port));
                Some(Letter {
                    bytes: reply.encode(),
                    to,
                    fate: fate(port, &reply),
                })
            }
            Err(silence) => {
                if let Some(client) = &client {
                    let kind = request.kind.name();
                    tracing::debug!(mac = %client.mac, kind, link = place.link, why = silence.text(), "not answered");
                }
                self.shared.metrics.count(silent(silence));
                None
            }
        }
    }

    /// Where a client is. A relay's link, or the link its datagram came by, or the way to it.
    fn place(&mut self, request: &Request, peer: SocketAddrV6) -> Option<Place> {
        let now = Instant::now();
        if let Some(subnet) = request.relayed_link() {
            let server = links::address_towards(subnet)?;
            let link = self.links.with_address(server, now)?.name.clone();
            return self.http.allows(server).then_some(Place {
                link,
                server,
                prefix: Prefix::of(subnet),
            });
        }
        let link: &Link = if peer.ip().is_unicast_link_local() {
            self.links.get(peer.scope_id(), now)?
        } else {
            let server = links::address_towards(*peer.ip())?;
            self.links.with_address(server, now)?
        };
        let http = &self.http;
        let (server, is_subnet) = link.addresses.iter().find(|(own, _)| http.allows(*own))?;
        Some(Place {
            link: link.name.clone(),
            server: *server,
            prefix: Prefix::of(*server).filter(|_| *is_subnet),
        })
    }
}

/// What an answer counts as.
fn fate(port: Port, reply: &Reply) -> Fate {
    match (port, reply.kind, reply.address()) {
        (Port::Boot, ..) => Fate::Answered,
        (Port::Dhcp, Kind::Reply, Some(_)) => Fate::LeaseGiven,
        (Port::Dhcp, _, None) if reply.boot_url().is_none() => Fate::Acknowledged,
        (Port::Dhcp, ..) => Fate::Offered,
    }
}

/// What the lack of one counts as.
fn silent(silence: Silence) -> Fate {
    match silence {
        Silence::NotBooting => Fate::NotBooting,
        Silence::Plan(_) | Silence::LocalDisk | Silence::NothingToBoot => Fate::Denied,
        Silence::NoSubnet => Fate::NoAddress,
        Silence::AnotherServer | Silence::NoIdentifier | Silence::NotAsked => Fate::NotOurs,
    }
}

async fn received(
    socket: Option<&UdpSocket>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

/// Whether an address is one that other machines reach.
fn is_reachable(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Prefix::of(address).map(|_| address),
        IpAddr::V4(_) => None,
    }
}
