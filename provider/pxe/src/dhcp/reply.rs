//! A server's answer, written so that every ROM reads it: exact lengths, no overload, padded, within what the client takes.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpFlags, DhcpOpCode, DhcpPacket, EthernetAddress};

use super::message::{FILE, Kind, MAGIC, Writer};
use super::{BOOT_PORT, CLIENT_PORT, Request, SERVER_PORT, options};
use crate::Mac;
use crate::limits::{RELAY_SIZE_MAX, REPLY_SIZE_MIN};

/// The fixed part with the magic number; options follow.
const HEAD_SIZE: usize = 240;

/// Where an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To 255.255.255.255, port 68, out of the interface the request came from (C19).
    Broadcast,
    /// To this address and port.
    Unicast(Ipv4Addr, u16),
    /// To where the request came from: a client that asks a boot server has an address (C6).
    Sender,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What kind of answer it is.
    pub kind: Kind,
    /// The number of the question.
    pub xid: u32,
    /// Whether the client asked for broadcast.
    pub broadcast: bool,
    /// The address the client has, repeated.
    pub ciaddr: Ipv4Addr,
    /// The address it is given; zero from a proxy (C1).
    pub yiaddr: Ipv4Addr,
    /// The boot server (C9).
    pub siaddr: Ipv4Addr,
    /// The relay, repeated (C18).
    pub giaddr: Ipv4Addr,
    /// The client.
    pub mac: Mac,
    /// The boot file or URL: written into option 67, and into the BOOTP part if it has room (C9).
    pub file: Option<String>,
    /// Further options, in the order they are written. Those that do not fit are left out, so the dear ones come first.
    pub options: Vec<(u8, Vec<u8>)>,
    /// What the relay wants back (82), always last (RFC 3046, 2.2).
    pub relay: Option<Vec<u8>>,
    /// Bytes it may have.
    pub size_max: usize,
}

impl Reply {
    /// An answer of that kind from that server, with what every answer repeats: number, client, relay, identity (C11).
    pub fn to(request: &Request, kind: Kind, server: Ipv4Addr) -> Self {
        let mut reply = Self {
            kind,
            xid: request.xid,
            broadcast: request.broadcast,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: request.giaddr,
            mac: request.mac,
            file: None,
            options: vec![
                (options::MESSAGE_TYPE, vec![kind.number()]),
                (options::SERVER_ID, server.octets().to_vec()),
            ],
            relay: request
                .relay
                .clone()
                .filter(|relay| relay.len() <= RELAY_SIZE_MAX),
            size_max: request.reply_size_max(),
        };
        if kind == Kind::Ack {
            reply.ciaddr = request.ciaddr;
        }
        if let Some(uuid) = request.uuid {
            reply.options.push((options::UUID, uuid.to_vec()));
        }
        reply
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, code: u8, value: impl AsRef<[u8]>) -> Self {
        self.options.push((code, value.as_ref().to_vec()));
        self
    }

    /// The bytes of an option that was put in.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        let found = self.options.iter().find(|(known, _)| *known == code);
        found.map(|(_, value)| value.as_slice())
    }

    /// The message as it goes out. The boot file is dearer than every option after the first two.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_SIZE];
        self.write_head(&mut bytes);
        let reserved = self.relay.as_ref().map_or(0, |relay| relay.len() + 4);
        let mut writer = Writer {
            bytes,
            size_max: self.size_max.max(REPLY_SIZE_MIN).saturating_sub(reserved),
        };
        let (first, rest) = self.options.split_at(self.options.len().min(2));
        for (code, value) in first {
            writer.put(*code, value);
        }
        if let Some(file) = &self.file {
            writer.put(options::BOOT_FILE, file.as_bytes());
            // ROMs that read past the end of the name must find a NUL there, never 255 (C10).
            writer.pad();
        }
        for (code, value) in rest {
            writer.put(*code, value);
        }
        writer.size_max += reserved;
        if let Some(relay) = &self.relay {
            writer.put(options::RELAY, relay);
        }
        let mut bytes = writer.bytes;
        bytes.push(255);
        bytes.resize(bytes.len().max(REPLY_SIZE_MIN), 0);
        bytes
    }

    fn write_head(&self, bytes: &mut [u8]) {
        if let Some(file) = &self.file
            && let Some(field) = bytes.get_mut(FILE)
            && file.len() < field.len()
            && let Some(field) = field.get_mut(..file.len())
        {
            field.copy_from_slice(file.as_bytes());
        }
        let mut packet = DhcpPacket::new_unchecked(bytes);
        packet.set_opcode(DhcpOpCode::Reply);
        packet.set_hardware_type(smoltcp::wire::ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(self.xid);
        packet.set_flags(if self.broadcast || self.relay_has_no_address() {
            DhcpFlags::BROADCAST
        } else {
            DhcpFlags::empty()
        });
        packet.set_client_ip(self.ciaddr);
        packet.set_your_ip(self.yiaddr);
        packet.set_server_ip(self.siaddr);
        packet.set_relay_agent_ip(self.giaddr);
        packet.set_client_hardware_address(EthernetAddress(self.mac.octets()));
        packet.set_magic_number(MAGIC);
    }

    /// Whether a relay would find no address in the answer that it could send it to: a proxy's offer, a refusal. Relays
    /// send by the broadcast flag of the answer, and some send to 0.0.0.0 without it (RFC 2131, 4.1).
    fn relay_has_no_address(&self) -> bool {
        let has_none = self.yiaddr.is_unspecified() && self.ciaddr.is_unspecified();
        !self.giaddr.is_unspecified() && has_none
    }

    /// Where it must be sent. A relay gets it at its server port, never the client directly (C18); a client that asked
    /// with an address gets it there; everything else is broadcast, because nobody can ask by ARP for an address that is
    /// not in use yet (C19).
    pub fn destination(&self, request: &Request) -> Destination {
        if request.is_relayed() {
            Destination::Unicast(request.giaddr, SERVER_PORT)
        } else if self.kind != Kind::Nak && !request.ciaddr.is_unspecified() {
            Destination::Unicast(request.ciaddr, CLIENT_PORT)
        } else {
            Destination::Broadcast
        }
    }

    /// Where the answer to a question at port 4011 is sent: back to the asker, whose address and port it knows best.
    pub fn destination_from(&self, request: &Request, port: u16) -> Destination {
        if port == BOOT_PORT && !request.is_relayed() {
            Destination::Sender
        } else {
            self.destination(request)
        }
    }
}
