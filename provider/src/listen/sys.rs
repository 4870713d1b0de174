//! The system calls of the boot services that neither rustix nor socket2 offers: asking the kernel where datagrams come
//! in, receiving them with its answer, and letting it cut many datagrams from one call's bytes.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Asks the kernel to say with each IPv4 datagram which interface it came in by and which address it was sent to.
pub(super) fn tell_arrival(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// The same with each IPv6 datagram.
pub(super) fn tell_arrival_v6(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
}

/// Lets the kernel cut what is sent with one call into datagrams of `size` bytes; 0 ends that.
pub(super) fn cut_into(socket: BorrowedFd<'_>, size: u16) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size.into())
}

#[expect(unsafe_code, reason = "neither rustix nor socket2 has these options")]
fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is an int that lives through the call, and the length given is its own; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Bytes of the longer of the two kinds of addresses, that of IPv6.
const ADDRESS_SIZE: usize = size_of::<libc::sockaddr_in6>();

/// Receives one datagram: its length, the bytes of control messages that came with it, and its sender. What does not
/// fit is cut off. Does not wait.
#[expect(
    unsafe_code,
    reason = "rustix drops control messages it does not know, and socket2 wants uninitialised buffers"
)]
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, usize, SocketAddr)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut peer = [0_u8; ADDRESS_SIZE];
    // SAFETY: a msghdr is plain numbers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = peer.as_mut_ptr().cast();
    message.msg_namelen = ADDRESS_SIZE as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // The type differs between C libraries.
    message.msg_controllen = control.len() as _;
    // SAFETY: every pointer of `message` leads to a local variable or a slice that lives through the call and is borrowed
    // mutably by this function; each length is that of what its pointer leads to. The kernel writes bytes to all of them.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let peer = sender(&peer).ok_or_else(|| io::Error::other("the kernel named no sender"))?;
    Ok((length, message.msg_controllen as usize, peer))
}

/// The address in a `sockaddr_in` or `sockaddr_in6`.
fn sender(bytes: &[u8; ADDRESS_SIZE]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (four, rest) = rest.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => Some(SocketAddrV4::new((*four).into(), port).into()),
        libc::AF_INET6 => {
            let (address, scope) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*scope.first_chunk()?);
            // The flow of what was received is none of ours.
            Some(SocketAddrV6::new((*address).into(), port, 0, scope).into())
        }
        _ => None,
    }
}
