//! What every packet socket needs that rustix does not offer: a filter in the kernel, and being bound to an interface. What a
//! filter lets through is its owner's matter.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// An instruction that goes on with the next one.
pub(crate) const fn statement(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// An instruction that leaves out `jt` instructions when it holds, and `jf` otherwise.
pub(crate) const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Lets through only what `program` takes.
#[expect(unsafe_code, reason = "rustix has no SO_ATTACH_FILTER")]
pub(crate) fn attach_filter(fd: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions that live until the call returns; the kernel copies them and
    // writes nothing. The size given is that of the struct.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Listens to one Ethernet type on one interface; 0 is all interfaces.
#[expect(unsafe_code, reason = "rustix has no sockaddr_ll")]
pub(crate) fn bind(fd: &OwnedFd, interface: u32, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        ..NOBODY
    };
    // SAFETY: `address` is a complete sockaddr_ll that lives through the call, and the length given is its own.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(result)
}

/// An address that is not filled in.
pub(crate) const NOBODY: libc::sockaddr_ll = libc::sockaddr_ll {
    sll_family: 0,
    sll_protocol: 0,
    sll_ifindex: 0,
    sll_hatype: 0,
    sll_pkttype: 0,
    sll_halen: 0,
    sll_addr: [0; 8],
};

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
