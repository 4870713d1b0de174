//! The packet socket: system calls that rustix does not offer, in small wrappers. Everything else of the doctor is safe.
//!
//! The socket gives packets without their link layer, in both directions, and a filter in the kernel leaves out what fills
//! networks and tells nothing: the inner parts of TCP connections.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use pxe::Mac;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::super::limits::{CAPTURE_BUFFER, PACKET_BYTES};
use crate::packet_socket::{NOBODY, attach_filter, bind, jump, statement};

/// A packet from the wire.
pub(super) struct Caught {
    pub(super) interface: u32,
    /// Its Ethernet type.
    pub(super) kind: u16,
    pub(super) sender: Option<Mac>,
    pub(super) bytes: Vec<u8>,
}

/// A socket that sees what all others on this machine send and receive.
pub(super) struct Capture(OwnedFd);

impl Capture {
    /// Opens it, for one interface or for all. Needs CAP_NET_RAW.
    pub(super) fn open(interface: Option<u32>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol nothing arrives until `bind`, when the filter is in place.
        let fd = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_recv_buffer_size(&fd, CAPTURE_BUFFER)?;
        attach_filter(&fd, &STORIES)?;
        bind(&fd, interface.unwrap_or(0), libc::ETH_P_ALL as u16)?;
        Ok(Self(fd))
    }

    /// The next packet; `None` when there is none now.
    pub(super) fn next(&self) -> io::Result<Option<Caught>> {
        let mut bytes = vec![0; PACKET_BYTES];
        match receive(&self.0, &mut bytes) {
            Ok((size, from)) => {
                bytes.truncate(size);
                let mut sender = [0; 6];
                sender.copy_from_slice(&from.sll_addr[..6]);
                Ok(Some(Caught {
                    interface: u32::try_from(from.sll_ifindex).unwrap_or_default(),
                    kind: u16::from_be(from.sll_protocol),
                    sender: (from.sll_halen == 6).then_some(Mac(sender)),
                    bytes,
                }))
            }
            Err(error) => match error.raw_os_error() {
                // An interface went down: others go on.
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// How many packets came too fast.
    #[expect(unsafe_code, reason = "rustix has no PACKET_STATISTICS")]
    pub(super) fn missed(&self) -> io::Result<u32> {
        let mut counts = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut size = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: `counts` is a whole tpacket_stats and `size` its size, and both live through the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut size,
            )
        };
        check(result as isize)?;
        Ok(counts.tp_drops)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes all but the inner parts of TCP connections; of those only what begins like HTTP or a TLS alert. Offsets count from the IP
/// header; where an offset lies behind the end of a packet, the kernel drops it.
const STORIES: [libc::sock_filter; 25] = {
    use libc::{
        BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ,
        BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MISC, BPF_MSH, BPF_RET, BPF_RSH, BPF_TAX,
        BPF_W, BPF_X,
    };
    /// The last instruction, which takes the packet.
    const TAKE: u8 = 24;
    const TCP: u32 = 6;
    const fn begins(at: u8, bytes: [u8; 2]) -> libc::sock_filter {
        let bytes = u16::from_be_bytes(bytes) as u32;
        jump(BPF_JMP | BPF_JEQ | BPF_K, bytes, TAKE - at - 1, 0)
    }
    [
        // The version of IP; what has none is ARP.
        statement(BPF_LD | BPF_B | BPF_ABS, 0),
        statement(BPF_ALU | BPF_AND | BPF_K, 0xf0),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0x40, 4, 0),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0x60, 0, TAKE - 4),
        // IPv6: the protocol to A, the length of the header to X.
        statement(BPF_LD | BPF_B | BPF_ABS, 6),
        statement(BPF_LDX | BPF_W | BPF_IMM, 40),
        jump(BPF_JMP | BPF_JA, 2, 0, 0),
        // IPv4: the same.
        statement(BPF_LD | BPF_B | BPF_ABS, 9),
        statement(BPF_LDX | BPF_B | BPF_MSH, 0),
        // 9: what is not TCP is taken.
        jump(BPF_JMP | BPF_JEQ | BPF_K, TCP, 0, TAKE - 10),
        // FIN, SYN and RST are.
        statement(BPF_LD | BPF_B | BPF_IND, 13),
        jump(BPF_JMP | BPF_JSET | BPF_K, 0x07, TAKE - 12, 0),
        // 12: the first bytes behind the TCP header.
        statement(BPF_LD | BPF_B | BPF_IND, 12),
        statement(BPF_ALU | BPF_AND | BPF_K, 0xf0),
        statement(BPF_ALU | BPF_RSH | BPF_K, 2),
        statement(BPF_ALU | BPF_ADD | BPF_X, 0),
        statement(BPF_MISC | BPF_TAX, 0),
        statement(BPF_LD | BPF_H | BPF_IND, 0),
        begins(18, *b"GE"),
        begins(19, *b"HE"),
        begins(20, *b"HT"),
        begins(21, *b"PO"),
        begins(22, [21, 3]),
        statement(BPF_RET | BPF_K, 0),
        statement(BPF_RET | BPF_K, PACKET_BYTES as u32),
    ]
};

#[expect(unsafe_code, reason = "rustix has no sockaddr_ll")]
fn receive(fd: &OwnedFd, bytes: &mut [u8]) -> io::Result<(usize, libc::sockaddr_ll)> {
    let mut from = NOBODY;
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes.len()` bytes to `bytes` and at most `size` to `from`; both live through the call.
    let result = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    Ok((check(result)?, from))
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
