//! Whether another DHCP server gives addresses on this LAN: asked before this one begins to.
//!
//! Asked in two ways, because neither is answered by all: for an address (some servers take seconds over it, to look whether
//! it is free), and for options only.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use pxe::dhcp::{Kind, Message, Operation, SERVER_PORT, options};
use tokio::time::{Instant, timeout_at};

use crate::listen::datagrams::{Watched, Way};
use crate::listen::interfaces::Interfaces;
use crate::listen::limits::{DATAGRAM_MAX, RIVAL_ASK_AGAIN, RIVAL_TRIES, RIVAL_WAIT};

/// A server that gives addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rival {
    /// Its address.
    pub(super) server: Ipv4Addr,
    /// Where it was heard.
    pub(super) interface: String,
}

/// The server that sent this to a DHCP client, if it gives addresses; a proxy does not.
pub(super) fn server_in(bytes: &[u8]) -> Option<Ipv4Addr> {
    let message = Message::parse(bytes).ok()?;
    let is_answer =
        message.operation == Operation::Reply && matches!(message.kind, Kind::Offer | Kind::Ack);
    let gives = !message.yiaddr.is_unspecified() || is_inform_answer(&message);
    message.server_id().filter(|_| is_answer && gives)
}

/// The answer to a question for options only. A server of addresses says at least how large the subnet is.
fn is_inform_answer(message: &Message) -> bool {
    message.kind == Kind::Ack && message.options.get(options::SUBNET_MASK).is_some()
}

/// Asks on all interfaces, and waits for an answer of a server that is not this machine.
pub(super) async fn find(
    socket: &Watched,
    interfaces: &mut Interfaces,
) -> io::Result<Option<Rival>> {
    let now = std::time::Instant::now();
    let own = interfaces.own(now).to_vec();
    let all = interfaces.all(now).clone();
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut xid = [0; 4];
    rustix::rand::getrandom(&mut xid, rustix::rand::GetRandomFlags::empty())?;
    let end = Instant::now() + RIVAL_WAIT;
    for round in 1..=RIVAL_TRIES {
        for (index, interface) in &all {
            let way = Way {
                to: SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT),
                interface: Some(*index),
                from: Some(interface.address),
            };
            for kind in [Kind::Discover, Kind::Inform] {
                let question = question(kind, xid, interface.address);
                if let Err(error) = socket.send(&question, way) {
                    tracing::debug!(interface = interface.name, %error, "other DHCP servers cannot be asked for");
                }
            }
        }
        let pause = match round {
            RIVAL_TRIES => end,
            _ => (Instant::now() + RIVAL_ASK_AGAIN).min(end),
        };
        while let Ok(received) = timeout_at(pause, socket.receive(&mut buffer)).await {
            let received = received?;
            let bytes = buffer.get(..received.length).unwrap_or_default();
            let server = server_in(bytes).filter(|server| !own.contains(server));
            let interface = all.get(&received.interface);
            if let (Some(server), Some(interface)) = (server, interface) {
                return Ok(Some(Rival {
                    server,
                    interface: interface.name.clone(),
                }));
            }
        }
    }
    Ok(None)
}

/// A question in the name of a machine that does not exist: an address made up by software, with the number of the question
/// in it.
pub(super) fn question(kind: Kind, xid: [u8; 4], own: Ipv4Addr) -> Vec<u8> {
    const BROADCAST_FLAG: [u8; 2] = [0x80, 0];
    const MAGIC: [u8; 4] = [99, 130, 83, 99];
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid);
    bytes.extend([0, 0]);
    bytes.extend(BROADCAST_FLAG);
    // Who asks for options only has an address.
    bytes.extend(match kind {
        Kind::Inform => own.octets(),
        _ => [0; 4],
    });
    bytes.resize(28, 0);
    bytes.extend([0x02, 0x70]);
    bytes.extend(xid);
    bytes.resize(236, 0);
    bytes.extend(MAGIC);
    bytes.extend([options::MESSAGE_TYPE, 1, kind.number()]);
    bytes.extend([
        options::PARAMETERS,
        2,
        options::SUBNET_MASK,
        options::ROUTER,
    ]);
    bytes.push(255);
    bytes.resize(pxe::limits::REPLY_SIZE_MIN, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxe::dhcp::{Reply, Request};

    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn answer(kind: Kind, yiaddr: Ipv4Addr, with: &[(u8, &[u8])]) -> Vec<u8> {
        let question = question(Kind::Discover, [1, 2, 3, 4], OTHER);
        let request = Request::parse(&question).unwrap();
        assert_eq!((request.kind, request.broadcast), (Kind::Discover, true));
        let mut reply = Reply::to(&request, kind, OTHER);
        reply.yiaddr = yiaddr;
        for (code, value) in with {
            reply = reply.with(*code, value);
        }
        reply.encode()
    }

    #[test]
    fn servers_of_addresses_are_rivals_and_proxies_are_not() {
        let (given, none) = (Ipv4Addr::new(10, 0, 0, 50), Ipv4Addr::UNSPECIFIED);
        let mask: (u8, &[u8]) = (options::SUBNET_MASK, &[255, 255, 255, 0]);
        for (kind, yiaddr, with, is_rival) in [
            (Kind::Offer, given, &[][..], true),
            (Kind::Ack, given, &[], true),
            (Kind::Ack, none, &[mask], true),
            (Kind::Offer, none, &[], false),
            (Kind::Ack, none, &[], false),
            (Kind::Nak, none, &[], false),
        ] {
            let heard = server_in(&answer(kind, yiaddr, with));
            assert_eq!(heard, is_rival.then_some(OTHER), "{kind:?} {yiaddr}");
        }
        let own = question(Kind::Discover, [1, 2, 3, 4], OTHER);
        assert_eq!(server_in(&own), None, "a client's message");
        assert_eq!(server_in(b"nonsense"), None);
    }
}
