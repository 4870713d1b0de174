//! One transfer's file and socket: reading blocks and sending them, as [`pxe::tftp::Session`] says.
//!
//! Where the kernel can cut one call's bytes into packets, a window is one read and one call.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use pxe::tftp::limits::{BLOCK_SIZE_MAX, HEADER_SIZE, WINDOW_BYTES_MAX, WINDOW_MAX};
use pxe::tftp::{Blocks, ErrorCode, Options, Session, Terms, error};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

use crate::listen::files::Opened;
use crate::listen::limits::{TFTP_SEGMENT_SIZE_MIN, TFTP_SEGMENTED_SIZE_MAX, TFTP_SEGMENTS_MAX};
use crate::listen::sys;
use crate::listen::tftp::ports::Port;

/// Bytes before a block in a packet on an IPv4 network: IP, UDP and TFTP.
const HEADERS_V4: u32 = 20 + 8 + 4;
/// The same with IPv6.
const HEADERS_V6: u32 = 40 + 8 + 4;
/// Where the kernel does not say, it is Ethernet.
const MTU: u32 = 1_500;

/// Memory for one window with its headers, shared by all transfers.
pub(super) fn room() -> Vec<u8> {
    let blocks = WINDOW_BYTES_MAX.max(BLOCK_SIZE_MAX) + WINDOW_MAX * HEADER_SIZE as u64;
    vec![0; usize::try_from(blocks).unwrap_or(0)]
}

/// What a transfer sends through.
#[derive(Debug)]
pub(super) enum Route {
    /// A socket of its own, connected to the client.
    Own {
        socket: Socket,
        /// Whether the kernel cuts windows into packets.
        cuts: bool,
    },
    /// The port that requests come to.
    Port { index: usize, local: Option<IpAddr> },
}

/// One transfer.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) session: Session,
    /// The file as the client calls it.
    pub(super) name: String,
    /// What it asked for besides.
    pub(super) options: Options,
    pub(super) file: Opened,
    pub(super) peer: SocketAddr,
    pub(super) route: Route,
    pub(super) began: Duration,
}

/// Why nothing could be sent.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nobody listens at the client's port.
    Gone,
    /// The file is not what it was, or cannot be read.
    File(String),
}

impl Route {
    /// A socket of its own for `peer`, at the address it asked.
    pub(super) fn own(peer: SocketAddr, local: Option<IpAddr>) -> io::Result<Self> {
        let domain = Domain::for_address(peer);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(local) = local {
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        if peer.is_ipv4() {
            // Firmware cannot be asked to send smaller ones, and routers' answers get lost: what is too large on the way may be
            // cut there.
            sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        }
        socket.connect(&peer.into())?;
        Ok(Self::Own {
            socket,
            cuts: false,
        })
    }

    /// How many bytes of a block fit into a packet that needs no cutting.
    pub(super) fn room(&self, peer: SocketAddr) -> u16 {
        let (mtu, headers) = match (self, peer) {
            (Self::Own { socket, .. }, SocketAddr::V4(_)) => (sockopt::ip_mtu(socket), HEADERS_V4),
            (Self::Own { socket, .. }, SocketAddr::V6(_)) => {
                (sockopt::ipv6_mtu(socket), HEADERS_V6)
            }
            (Self::Port { .. }, SocketAddr::V4(_)) => (Ok(MTU), HEADERS_V4),
            (Self::Port { .. }, SocketAddr::V6(_)) => (Ok(MTU), HEADERS_V6),
        };
        let room = mtu.unwrap_or(MTU).saturating_sub(headers);
        u16::try_from(room).unwrap_or(u16::MAX)
    }

    /// Lets the kernel cut windows, where it can and there are any.
    pub(super) fn prepare(&mut self, terms: &Terms) {
        if let Self::Own { socket, cuts } = self {
            let size = packet_size(terms.block_size);
            *cuts = terms.window > 1
                && terms.block_size >= TFTP_SEGMENT_SIZE_MIN
                && u16::try_from(size)
                    .is_ok_and(|size| sys::cut_into(socket.as_fd(), size).is_ok());
        }
    }

    /// The socket to wait for.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Own { socket, .. } => Some(socket.as_fd()),
            Self::Port { .. } => None,
        }
    }

    /// The next packet of the client.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Own { socket, .. } => Ok(recv(socket, buffer, RecvFlags::DONTWAIT)?.0),
            Self::Port { .. } => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends one packet.
    pub(super) fn send(&self, packet: &[u8], peer: SocketAddr, ports: &[Port]) -> io::Result<()> {
        match self {
            Self::Own { socket, .. } => {
                send(socket, packet, SendFlags::DONTWAIT)?;
                Ok(())
            }
            Self::Port { index, local } => match ports.get(*index) {
                Some(port) => port.send(packet, peer, *local),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }

    /// Sends packets of `size` bytes each, the last of which may be shorter.
    fn send_all(
        &mut self,
        packets: &[u8],
        size: usize,
        peer: SocketAddr,
        ports: &[Port],
    ) -> io::Result<()> {
        let mut rest = packets;
        if let Self::Own { socket, cuts } = self
            && *cuts
        {
            let at_once = (TFTP_SEGMENTED_SIZE_MAX / size).clamp(1, TFTP_SEGMENTS_MAX) * size;
            while !rest.is_empty() {
                let (part, others) = rest.split_at(at_once.min(rest.len()));
                match send(&*socket, part, SendFlags::DONTWAIT) {
                    Ok(_) => rest = others,
                    Err(error) if is_loss(&error.into()) => return Ok(()),
                    Err(rustix::io::Errno::CONNREFUSED) => {
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    // This way out of the machine cannot do it.
                    Err(_) => {
                        *cuts = false;
                        sys::cut_into(socket.as_fd(), 0)?;
                        break;
                    }
                }
            }
        }
        for packet in rest.chunks(size) {
            match self.send(packet, peer, ports) {
                Err(error) if is_loss(&error) => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }
}

/// What is lost on its way out of this machine is lost like any other packet: the session finds out.
fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EPERM
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
        )
    )
}

fn packet_size(block_size: u16) -> usize {
    HEADER_SIZE + usize::from(block_size)
}

impl Transfer {
    /// Sends what tells the client of its options.
    pub(super) fn send_oack(&self, ports: &[Port]) -> Result<(), Failed> {
        gone(self.route.send(self.session.oack(), self.peer, ports))
    }

    /// Reads blocks and sends them.
    pub(super) fn send_blocks(
        &mut self,
        blocks: Blocks,
        room: &mut [u8],
        ports: &[Port],
    ) -> Result<(), Failed> {
        let size = packet_size(self.session.terms().block_size);
        let (offset, length) = self.session.place(blocks);
        let total = length + usize::from(blocks.count) * HEADER_SIZE;
        let unreadable = |error: io::Error| Failed::File(error.to_string());
        let packets = room
            .get_mut(..total)
            .ok_or_else(|| Failed::File("a window is larger than it may be".to_owned()))?;
        let mut parts = Vec::with_capacity(usize::from(blocks.count));
        for (number, packet) in (blocks.first..).zip(packets.chunks_mut(size)) {
            let (header, block) = packet.split_at_mut(HEADER_SIZE.min(packet.len()));
            header.copy_from_slice(&Session::header(number)[..header.len()]);
            parts.push(IoSliceMut::new(block));
        }
        self.file
            .read_blocks(&mut parts, offset)
            .map_err(unreadable)?;
        // Nobody gets a complete lie: the end is only sent of a file that is still what was hashed.
        if self.session.is_end(blocks) && !self.file.is_unchanged().map_err(unreadable)? {
            return Err(Failed::File("the file was changed meanwhile".to_owned()));
        }
        gone(self.route.send_all(&room[..total], size, self.peer, ports))
    }

    /// Tells the client that this is the end.
    pub(super) fn send_error(&self, text: &str, ports: &[Port]) {
        // It may be gone as well.
        let packet = error(ErrorCode::Undefined, text);
        let _ = self.route.send(&packet, self.peer, ports);
    }
}

/// Of all that can happen to a packet, only a closed port means something.
fn gone(sent: io::Result<()>) -> Result<(), Failed> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Failed::Gone),
        _ => Ok(()),
    }
}
