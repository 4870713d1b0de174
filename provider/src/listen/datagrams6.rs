//! A UDP socket of IPv6 that knows which address each datagram was sent to, so that a machine with several answers from that
//! one. Firmware throws away what comes from another.

use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

use crate::listen::limits::SOCKET_BUFFER_SIZE;
use crate::listen::{control_message, sys};

/// Bytes of `struct in6_pktinfo`: the address and the interface.
const ARRIVAL_SIZE: usize = 20;

/// One control message with its padding.
const CONTROL_SIZE: usize = control_message::size(ARRIVAL_SIZE);

/// An open socket.
#[derive(Debug)]
pub(super) struct Datagrams6(Socket);

/// One datagram's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received6 {
    /// Bytes of it.
    pub(super) length: usize,
    /// Who sent it.
    pub(super) peer: SocketAddr,
    /// The address it was sent to: one of this machine, or a group.
    pub(super) sent_to: Ipv6Addr,
}

impl Datagrams6 {
    /// Opens a port of one address, or of all; 0 takes a free one.
    pub(super) fn bind(address: SocketAddrV6) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(SOCKET_BUFFER_SIZE)?;
        sys::tell_arrival_v6(socket.as_fd())?;
        socket.bind(&address.into())?;
        Ok(Self(socket))
    }

    /// Where it is.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        let address = self.0.local_addr()?.as_socket();
        address.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The next datagram, without waiting; what does not fit is cut off.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received6> {
        let mut control = [0; CONTROL_SIZE];
        let (length, told, peer) = sys::receive(self.0.as_fd(), buffer, &mut control)?;
        let sent_to = arrival(control.get(..told).unwrap_or_default())
            .ok_or_else(|| io::Error::other("the kernel did not say where a datagram came in"))?;
        Ok(Received6 {
            length,
            peer,
            sent_to,
        })
    }

    /// Sends one datagram now, from `from` unless the kernel shall choose.
    pub(super) fn send(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        from: Option<Ipv6Addr>,
    ) -> io::Result<()> {
        let to = SockAddr::from(to);
        let parts = [IoSlice::new(bytes)];
        let control = from.map(departure);
        let mut message = MsgHdr::new().with_addr(&to).with_buffers(&parts);
        if let Some(control) = &control {
            message = message.with_control(control);
        }
        self.0.sendmsg(&message, libc::MSG_DONTWAIT)?;
        Ok(())
    }
}

impl AsFd for Datagrams6 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The address a datagram was sent to, from the first control message.
fn arrival(control: &[u8]) -> Option<Ipv6Addr> {
    let content = control_message::content(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)?;
    let address: [u8; 16] = content.get(..16)?.try_into().ok()?;
    Some(address.into())
}

/// The control message that says from which address a datagram leaves.
fn departure(from: Ipv6Addr) -> [u8; CONTROL_SIZE] {
    let mut content = [0; ARRIVAL_SIZE];
    content[..16].copy_from_slice(&from.octets());
    control_message::message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &content)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::listen::control_message::HEAD_SIZE;

    #[test]
    fn what_the_kernel_says_is_read_as_it_is_written() {
        let from = "fd77::2".parse().unwrap();
        let control = departure(from);
        assert_eq!(arrival(&control), Some(from));
        for cut in 0..HEAD_SIZE + 16 {
            assert_eq!(arrival(&control[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_datagram_says_whom_it_was_sent_to() {
        let one = Ipv6Addr::LOCALHOST;
        let socket = Datagrams6::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)).unwrap();
        let port = socket.address().unwrap().port();
        let client = std::net::UdpSocket::bind((one, 0)).unwrap();
        let wait = Duration::from_secs(10);
        client.set_read_timeout(Some(wait)).unwrap();
        client.send_to(b"hello", (one, port)).unwrap();
        let mut buffer = [0; 4];
        let received = socket.receive(&mut buffer).unwrap();
        let expected = Received6 {
            length: 4,
            peer: client.local_addr().unwrap(),
            sent_to: one,
        };
        assert_eq!(received, expected);
        for from in [None, Some(one)] {
            socket.send(b"back", received.peer, from).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap().0, 4);
        }
        let nobody = Some("2001:db8::1".parse().unwrap());
        assert!(socket.send(b"back", received.peer, nobody).is_err());
    }
}
