//! The packet sockets of this role, each with a filter, and signals as a file, which rustix does not offer.
//!
//! The packet sockets are bound to one interface and one protocol each, so the kernel hands over incoming frames only
//! (a socket for all protocols would also see, and slow down, everything we serve), and a filter lets just DHCP answers
//! through. All other code of the role is safe.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use super::limits::SOCKET_BUFFER_BYTES;
use crate::packet_socket::{attach_filter, bind, jump, statement};

/// What a packet socket listens to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    /// All ARP.
    Arp,
    /// IPv4, but only DHCP for clients.
    Dhcp,
}

/// Reads and writes frames of one protocol on one interface.
#[derive(Debug)]
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens the socket. Needs CAP_NET_RAW.
    pub(super) fn open(interface: u32, protocol: Protocol) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol nothing arrives until `bind`, when the filter is in place.
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER_BYTES)?;
        let ethertype = match protocol {
            Protocol::Arp => libc::ETH_P_ARP,
            Protocol::Dhcp => {
                attach_filter(&fd, &DHCP_ANSWERS)?;
                libc::ETH_P_IP
            }
        };
        let ethertype = u16::try_from(ethertype).map_err(io::Error::other)?;
        bind(&fd, interface, ethertype)?;
        Ok(Self(fd))
    }

    /// The next frame; `None` when there is none.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(&self.0, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => Ok(buffer.get(..length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(&self.0, frame, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// For `poll`.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }
}

/// Accepts unfragmented UDP from port 67 to port 68; offsets count from the start of the Ethernet frame.
const DHCP_ANSWERS: [libc::sock_filter; 9] = {
    use libc::{
        BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX,
        BPF_MSH, BPF_RET, BPF_W,
    };
    [
        statement(BPF_LD | BPF_B | BPF_ABS, 23),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 6),
        statement(BPF_LD | BPF_H | BPF_ABS, 20),
        jump(BPF_JMP | BPF_JSET | BPF_K, 0x3fff, 4, 0),
        // The length of the IP header.
        statement(BPF_LDX | BPF_B | BPF_MSH, 14),
        // Both ports at once.
        statement(BPF_LD | BPF_W | BPF_IND, 14),
        jump(BPF_JMP | BPF_JEQ | BPF_K, (67 << 16) | 68, 0, 1),
        statement(BPF_RET | BPF_K, 0xffff),
        statement(BPF_RET | BPF_K, 0),
    ]
};

/// Blocks SIGTERM and SIGINT in this thread and gives a descriptor that is readable once one of them came. Call before
/// any other thread exists: threads inherit the mask.
#[expect(unsafe_code, reason = "rustix has no signal masks and no signalfd")]
pub(crate) fn termination_signals() -> io::Result<OwnedFd> {
    // SAFETY: a sigset_t may be zeroed; sigemptyset and sigaddset then initialise this local variable. sigprocmask reads
    // it and is given no place for the old mask. signalfd gives a new descriptor or -1; a descriptor is owned by nobody
    // else yet.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        check(libc::pthread_sigmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
