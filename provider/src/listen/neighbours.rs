//! What the kernel knows about one neighbour: the Ethernet address behind an IPv4 address, and how sure it is of it.
//!
//! One question of rtnetlink that needs no privilege, so that it works in the sandbox of a provider that gave everything up.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use pxe::Mac;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// Bytes of `nlmsghdr`.
const HEAD_SIZE: usize = 16;
/// Bytes of `ndmsg`.
const NEIGHBOUR_SIZE: usize = 12;
/// `NDA_DST` and `NDA_LLADDR`: the address, and the hardware behind it.
const ADDRESS: u16 = 1;
const HARDWARE: u16 = 2;
/// Bytes of one answer; it has a handful of attributes.
const ANSWER_SIZE: usize = 4_096;
/// The kernel answers while it is asked; this only ends a mistake.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);

/// A neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its hardware, once known.
    pub(super) mac: Option<Mac>,
    /// How sure the kernel is.
    pub(super) state: State,
}

/// How sure the kernel is of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It was asked, and has not answered yet.
    Asked,
    /// It answered just now, or somebody said that it is there for good.
    There,
    /// It was there once.
    WasThere,
    /// It did not answer.
    Absent,
}

/// What the kernel knows about `address` behind an interface; `None` when nothing.
pub(super) fn look(interface: u32, address: Ipv4Addr) -> io::Result<Option<Neighbour>> {
    // No protocol means NETLINK_ROUTE.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WAIT_MAX))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    send(&socket, &question(interface, address), SendFlags::empty())?;
    let mut answer = [0; ANSWER_SIZE];
    let (length, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    read(answer.get(..length).unwrap_or_default())
}

/// `RTM_GETNEIGH` for one neighbour.
fn question(interface: u32, address: Ipv4Addr) -> Vec<u8> {
    const SIZE: u32 = (HEAD_SIZE + NEIGHBOUR_SIZE + 8) as u32;
    let mut bytes = Vec::with_capacity(SIZE as usize);
    bytes.extend(SIZE.to_ne_bytes());
    bytes.extend(libc::RTM_GETNEIGH.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence and port: there is only one question.
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_INET as u8, 0, 0, 0]);
    bytes.extend(interface.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(ADDRESS.to_ne_bytes());
    bytes.extend(address.octets());
    bytes
}

fn read(answer: &[u8]) -> io::Result<Option<Neighbour>> {
    let two = |at: usize| -> Option<u16> {
        Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?))
    };
    let strange = || io::Error::other("the kernel's answer about a neighbour cannot be read");
    let kind = two(4).ok_or_else(strange)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = answer.get(HEAD_SIZE..HEAD_SIZE + 4).ok_or_else(strange)?;
        let code = i32::from_ne_bytes(code.try_into().map_err(|_| strange())?);
        return match Errno::from_raw_os_error(-code) {
            Errno::NOENT => Ok(None),
            error => Err(error.into()),
        };
    }
    if kind != libc::RTM_NEWNEIGH {
        return Err(strange());
    }
    let state = match two(HEAD_SIZE + 8).ok_or_else(strange)? {
        libc::NUD_INCOMPLETE => State::Asked,
        libc::NUD_FAILED | libc::NUD_NONE => State::Absent,
        libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE => State::WasThere,
        _ => State::There,
    };
    let mut rest = answer.get(HEAD_SIZE + NEIGHBOUR_SIZE..).unwrap_or_default();
    let mut mac = None;
    while let [a, b, c, d, ..] = rest {
        let size = usize::from(u16::from_ne_bytes([*a, *b]));
        let Some(value) = rest.get(4..size) else {
            break;
        };
        if u16::from_ne_bytes([*c, *d]) == HARDWARE {
            mac = value.try_into().ok().map(Mac);
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Some(Neighbour { mac, state }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_about_neighbours_it_does_not_know() {
        // Nobody has that address (RFC 5737), and the first interface is loopback.
        let found = look(1, Ipv4Addr::new(192, 0, 2, 1)).unwrap();
        assert_eq!(found, None);
        assert!(look(u32::MAX / 2, Ipv4Addr::new(192, 0, 2, 1)).is_err());
    }

    #[test]
    fn an_answer_is_read_and_a_cut_one_does_not_matter() {
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        let mut answer = question(1, Ipv4Addr::new(10, 0, 0, 1));
        answer[4..6].copy_from_slice(&libc::RTM_NEWNEIGH.to_ne_bytes());
        answer[HEAD_SIZE + 8..HEAD_SIZE + 10].copy_from_slice(&libc::NUD_STALE.to_ne_bytes());
        answer.extend(10_u16.to_ne_bytes());
        answer.extend(HARDWARE.to_ne_bytes());
        answer.extend(mac.octets());
        let expected = Neighbour {
            mac: Some(mac),
            state: State::WasThere,
        };
        assert_eq!(read(&answer).unwrap(), Some(expected));
        for cut in 0..answer.len() {
            if let Ok(Some(found)) = read(&answer[..cut]) {
                assert_eq!(found.mac, None, "{cut}");
            }
        }
    }
}
