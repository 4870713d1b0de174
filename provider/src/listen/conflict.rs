//! Whether somebody uses an address before it is given to somebody else.
//!
//! A datagram to the address makes the kernel ask for it by ARP, which no machine leaves unanswered; beyond a relay, where
//! ARP does not reach, a machine refuses the datagram by ICMP. Both need no privilege. A neighbour of whom the kernel knows
//! only that it was there once is a doubt: some seconds later the kernel has asked it and knows better.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use pxe::Mac;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use crate::listen::limits::{CONFLICT_LOOK_AGAIN, CONFLICT_WAIT};
use crate::listen::neighbours::{self, Neighbour, State};

/// A port that nobody listens on (RFC 863's service is long gone, and its refusal is an answer as well).
const DISCARD: u16 = 9;

/// Whether somebody uses an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Nobody answered.
    Free,
    /// Somebody did.
    Used,
    /// Somebody was there once, and did not answer now.
    Doubtful,
}

/// Whether a machine other than `client` uses `address`. `interface` is where it would be a neighbour; behind a relay it is
/// none.
pub(super) async fn look_for_user(
    address: Ipv4Addr,
    client: Mac,
    interface: Option<u32>,
) -> io::Result<Use> {
    if look(interface, address)?.is_some_and(|known| known.mac == Some(client)) {
        return Ok(Use::Free);
    }
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(SocketAddrV4::new(address, DISCARD)).await?;
    // A refusal of this datagram comes with the next call.
    socket.send(&[]).await?;
    let end = Instant::now() + CONFLICT_WAIT;
    loop {
        sleep(CONFLICT_LOOK_AGAIN).await;
        let refused = socket.try_recv(&mut [0; 1]);
        if refused.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return Ok(Use::Used);
        }
        let is_over = Instant::now() >= end;
        let neighbour = look(interface, address)?;
        match neighbour.map(|Neighbour { mac, state }| (mac == Some(client), state)) {
            Some((true, _) | (_, State::Absent)) => return Ok(Use::Free),
            Some((_, State::There)) => return Ok(Use::Used),
            Some((_, State::WasThere)) if is_over => return Ok(Use::Doubtful),
            _ if is_over => return Ok(Use::Free),
            _ => {}
        }
    }
}

fn look(interface: Option<u32>, address: Ipv4Addr) -> io::Result<Option<Neighbour>> {
    match interface {
        Some(interface) => neighbours::look(interface, address),
        None => Ok(None),
    }
}
