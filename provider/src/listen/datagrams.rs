//! A UDP socket for all interfaces that knows where each datagram came in, and sends out of the interface it is told.
//!
//! One socket serves interfaces that come and go while it is open. The kernel's word (`IP_PKTINFO`) is the only thing
//! believed about where a datagram came from. Nothing here knows what is in a datagram.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::listen::limits::SOCKET_BUFFER_SIZE;
use crate::listen::{control_message, sys};

/// Bytes of `struct in_pktinfo`: the interface, the address that answers come from, the address in the datagram.
const ARRIVAL_SIZE: usize = 12;

/// One control message with its padding.
const CONTROL_SIZE: usize = control_message::size(ARRIVAL_SIZE);

/// An open socket, before there is a runtime.
#[derive(Debug)]
pub(crate) struct Datagrams(Socket);

/// One datagram's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of it.
    pub(crate) length: usize,
    /// Who sent it.
    pub(crate) peer: SocketAddrV4,
    /// The number of the interface it came in by.
    pub(crate) interface: u32,
    /// The address it was sent to: one of this machine, or everybody.
    pub(crate) sent_to: Ipv4Addr,
    /// Whether others got it too: it was sent to everybody, to a whole network or to a group.
    pub(crate) is_for_all: bool,
}

/// Where a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// To whom.
    pub(crate) to: SocketAddrV4,
    /// Out of this interface, whatever the routes say.
    pub(crate) interface: Option<u32>,
    /// From this address of this machine.
    pub(crate) from: Option<Ipv4Addr>,
}

impl Datagrams {
    /// Opens `port`. Whoever has it already may share it or not; see [`Self::share`].
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let socket = Self::socket()?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        // From now on others may stand beside it, as this one would beside them.
        socket.set_reuse_address(true)?;
        Ok(Self(socket))
    }

    /// Opens a port of one address, or of all; 0 takes a free one.
    pub(crate) fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let socket = Self::socket()?;
        socket.bind(&address.into())?;
        Ok(Self(socket))
    }

    /// Where it is.
    pub(crate) fn address(&self) -> io::Result<SocketAddrV4> {
        let address = self.0.local_addr()?.as_socket_ipv4();
        address.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The next datagram, without waiting; what does not fit is cut off.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        receive(&self.0, buffer)
    }

    /// Sends one datagram now.
    pub(crate) fn send(&self, bytes: &[u8], way: Way) -> io::Result<()> {
        send(&self.0, bytes, way)
    }

    /// Opens `port` beside another program that lets others have it too, and hears broadcasts only: with the same address
    /// bound twice the kernel gives each unicast datagram to one socket alone, and those are the other program's.
    pub(crate) fn share(port: u16) -> io::Result<Self> {
        let socket = Self::socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::BROADCAST, port).into())?;
        Ok(Self(socket))
    }

    fn socket() -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_broadcast(true)?;
        // The kernel gives what its own limit allows.
        socket.set_recv_buffer_size(SOCKET_BUFFER_SIZE)?;
        sys::tell_arrival(socket.as_fd())?;
        Ok(socket)
    }

    /// Gives the socket to the runtime.
    pub(crate) fn watched(self) -> io::Result<Watched> {
        Ok(Watched(UdpSocket::from_std(self.0.into())?))
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An open socket that the runtime watches.
#[derive(Debug)]
pub(crate) struct Watched(UdpSocket);

impl Watched {
    /// The next datagram; what does not fit is cut off. Cancelling loses nothing.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let socket = &self.0;
        socket
            .async_io(Interest::READABLE, || receive(socket, buffer))
            .await
    }

    /// The next datagram, if there is one already.
    pub(crate) fn receive_waiting(&self, buffer: &mut [u8]) -> Option<io::Result<Received>> {
        let socket = &self.0;
        match socket.try_io(Interest::READABLE, || receive(socket, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other),
        }
    }

    /// Sends one datagram now. One that the kernel has no room for is lost, like any other datagram.
    pub(crate) fn send(&self, bytes: &[u8], way: Way) -> io::Result<()> {
        send(&self.0, bytes, way)
    }
}

fn send(socket: &impl AsFd, bytes: &[u8], way: Way) -> io::Result<()> {
    let to = SockAddr::from(way.to);
    let parts = [IoSlice::new(bytes)];
    let control = departure(way.interface, way.from);
    let message = MsgHdr::new()
        .with_addr(&to)
        .with_buffers(&parts)
        .with_control(&control);
    SockRef::from(socket).sendmsg(&message, libc::MSG_DONTWAIT)?;
    Ok(())
}

fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0; CONTROL_SIZE];
    let (length, told, peer) = sys::receive(socket.as_fd(), buffer, &mut control)?;
    let arrival = arrival(control.get(..told).unwrap_or_default())
        .ok_or_else(|| io::Error::other("the kernel did not say where a datagram came in"))?;
    let SocketAddr::V4(peer) = peer else {
        return Err(io::Error::other("the kernel named no IPv4 sender"));
    };
    let (interface, answers_from, sent_to) = arrival;
    Ok(Received {
        length,
        peer,
        interface,
        sent_to,
        // The kernel answers from the address that was asked, unless it is none of this machine alone.
        is_for_all: answers_from != sent_to,
    })
}

/// The interface, the address that answers come from and the address a datagram was sent to, from the first control message.
fn arrival(control: &[u8]) -> Option<(u32, Ipv4Addr, Ipv4Addr)> {
    let content = control_message::content(control, libc::IPPROTO_IP, libc::IP_PKTINFO)?;
    let number = |at: usize| -> Option<[u8; 4]> { content.get(at..at + 4)?.try_into().ok() };
    let interface = i32::from_ne_bytes(number(0)?);
    Some((
        u32::try_from(interface).ok()?,
        Ipv4Addr::from(number(4)?),
        Ipv4Addr::from(number(8)?),
    ))
}

/// The control message that says where a datagram leaves.
fn departure(interface: Option<u32>, from: Option<Ipv4Addr>) -> [u8; CONTROL_SIZE] {
    let index = interface.and_then(|index| i32::try_from(index).ok());
    let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let mut content = [0; ARRIVAL_SIZE];
    content[..4].copy_from_slice(&index.unwrap_or(0).to_ne_bytes());
    content[4..8].copy_from_slice(&from.octets());
    control_message::message(libc::IPPROTO_IP, libc::IP_PKTINFO, &content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::control_message::HEAD_SIZE;

    #[tokio::test]
    async fn a_datagram_says_where_it_came_in_and_an_answer_leaves_there() {
        let socket = Datagrams::open(0).unwrap();
        let port = socket.0.local_addr().unwrap().as_socket().unwrap().port();
        let watched = socket.watched().unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        client.send_to(b"hello", ("127.0.0.7", port)).unwrap();
        let mut buffer = [0; 4];
        let received = watched.receive(&mut buffer).await.unwrap();
        let loopback = if_addrs::get_if_addrs()
            .unwrap()
            .into_iter()
            .find(if_addrs::Interface::is_loopback)
            .unwrap();
        assert_eq!(
            (received.length, &buffer),
            (4, b"hell"),
            "what does not fit is cut off"
        );
        assert_eq!(Some(received.interface), loopback.index);
        assert_eq!(received.sent_to, Ipv4Addr::new(127, 0, 0, 7));
        let way = Way {
            to: received.peer,
            interface: Some(received.interface),
            from: Some(received.sent_to),
        };
        watched.send(b"back", way).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"back");
        assert_eq!(from.to_string(), format!("127.0.0.7:{port}"));
    }

    #[test]
    fn what_the_kernel_says_is_read_as_it_is_written() {
        let from = Ipv4Addr::new(10, 0, 0, 1);
        let mut control = departure(Some(7), Some(from));
        assert_eq!(arrival(&control), Some((7, from, Ipv4Addr::UNSPECIFIED)));
        control.copy_within(HEAD_SIZE + 4..HEAD_SIZE + 8, HEAD_SIZE + 8);
        assert_eq!(arrival(&control), Some((7, from, from)));
        for cut in 0..HEAD_SIZE + ARRIVAL_SIZE {
            assert_eq!(arrival(&control[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_shared_port_is_had_twice_and_a_plain_one_once() {
        let first = Datagrams::open(0).unwrap();
        let port = first.0.local_addr().unwrap().as_socket().unwrap().port();
        assert!(Datagrams::open(port).is_err());
        Datagrams::share(port).unwrap();
        let alone = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = alone.local_addr().unwrap().port();
        let refused = Datagrams::share(port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
