//! The system calls of the boot services that neither rustix nor socket2 offers: asking the kernel where datagrams come
//! in, receiving them with its answer, and letting it cut many datagrams from one call's bytes.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Asks the kernel to say with each IPv4 datagram which interface it came in by and which address it was sent to.
#[expect(unsafe_code, reason = "neither rustix nor socket2 can set IP_PKTINFO")]
pub(super) fn tell_arrival(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is an int that lives through the call, and the length given is its own; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets the kernel cut what is sent with one call into datagrams of `size` bytes; 0 ends that.
#[expect(unsafe_code, reason = "neither rustix nor socket2 can set UDP_SEGMENT")]
pub(super) fn cut_into(socket: BorrowedFd<'_>, size: u16) -> io::Result<()> {
    let size = libc::c_int::from(size);
    // SAFETY: `size` is an int that lives through the call, and the length given is its own; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Receives one IPv4 datagram: its length, the bytes of control messages that came with it, and its sender. What does not
/// fit is cut off. Does not wait.
#[expect(
    unsafe_code,
    reason = "rustix drops control messages it does not know, and socket2 wants uninitialised buffers"
)]
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, usize, SocketAddrV4)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut peer = libc::sockaddr_in {
        sin_family: 0,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    };
    // SAFETY: a msghdr is plain numbers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut peer).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // The type differs between C libraries.
    message.msg_controllen = control.len() as _;
    // SAFETY: every pointer of `message` leads to a local variable or a slice that lives through the call and is borrowed
    // mutably by this function; each length is that of what its pointer leads to.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    if i32::from(peer.sin_family) != libc::AF_INET {
        return Err(io::Error::other("the kernel named no IPv4 sender"));
    }
    let address = Ipv4Addr::from(u32::from_be(peer.sin_addr.s_addr));
    let peer = SocketAddrV4::new(address, u16::from_be(peer.sin_port));
    Ok((length, message.msg_controllen as usize, peer))
}
