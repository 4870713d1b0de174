//! A server's answer, packed for the relays that its question came through.

use std::net::Ipv6Addr;

use super::{CLIENT_PORT, ENTERPRISE, Kind, Port, RELAY_REPLY, Relay, Request, SERVER_PORT, code};
use crate::dhcp::BOOT_PORT;
use crate::limits::{
    ADDRESS_PREFERRED_SECONDS, ADDRESS_REBIND_SECONDS, ADDRESS_RENEW_SECONDS, ADDRESS_VALID_SECONDS,
};

/// How it went (RFC 8415, 21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Success = 0,
    /// The address is not of this link.
    NotOnLink = 4,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What kind it is.
    pub kind: Kind,
    /// The number of the question.
    pub xid: [u8; 3],
    options: Vec<(u16, Vec<u8>)>,
    relays: Vec<Relay>,
}

impl Reply {
    /// An answer with what every answer has.
    pub(super) fn to(request: &Request, kind: Kind, server_id: &[u8]) -> Self {
        let mut reply = Self {
            kind,
            xid: request.xid,
            options: Vec::new(),
            relays: request.relays.clone(),
        };
        if let Some(client_id) = &request.client_id {
            reply.options.push((code::CLIENT_ID, client_id.clone()));
        }
        reply.options.push((code::SERVER_ID, server_id.to_vec()));
        reply
    }

    /// Where the boot file is. Never the last option: EDK2's HTTP boot reads the URL up to the next zero byte, and that is
    /// the first byte of the next option.
    pub(super) fn url(&mut self, url: &str) {
        self.options
            .push((code::BOOT_FILE_URL, url.as_bytes().to_vec()));
    }

    /// The class of firmware that this is for.
    pub(super) fn class(&mut self, class: &str) {
        let size = u16::try_from(class.len()).unwrap_or_default();
        let head = [&ENTERPRISE.to_be_bytes()[..], &size.to_be_bytes()].concat();
        let value = [&head, class.as_bytes()].concat();
        self.options.push((code::VENDOR_CLASS, value));
    }

    /// How it went.
    pub(super) fn status(&mut self, status: Status) {
        self.options.push((code::STATUS, status_value(status)));
    }

    /// An address.
    pub(super) fn identity(&mut self, number: [u8; 4], address: Ipv6Addr) {
        let mut value = number.to_vec();
        for seconds in [ADDRESS_RENEW_SECONDS, ADDRESS_REBIND_SECONDS] {
            value.extend(seconds.to_be_bytes());
        }
        let mut inner = address.octets().to_vec();
        for seconds in [ADDRESS_PREFERRED_SECONDS, ADDRESS_VALID_SECONDS] {
            inner.extend(seconds.to_be_bytes());
        }
        put(&mut value, code::IA_ADDRESS, &inner);
        self.options.push((code::IA_NA, value));
    }

    /// The first value of an option.
    pub fn option(&self, code: u16) -> Option<&[u8]> {
        let found = self.options.iter().find(|(known, _)| *known == code);
        found.map(|(_, value)| value.as_slice())
    }

    /// The URL that it tells.
    pub fn boot_url(&self) -> Option<&str> {
        std::str::from_utf8(self.option(code::BOOT_FILE_URL)?).ok()
    }

    /// The first address that it gives.
    pub fn address(&self) -> Option<Ipv6Addr> {
        // The client's number, two times, and the head of the inner option stand before it.
        let octets = self.option(code::IA_NA)?.get(16..32)?;
        Some(<[u8; 16]>::try_from(octets).ok()?.into())
    }

    /// The message as it goes out.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = vec![self.kind.number()];
        message.extend(self.xid);
        for (code, value) in &self.options {
            put(&mut message, *code, value);
        }
        for relay in self.relays.iter().rev() {
            let mut outer = vec![RELAY_REPLY, relay.hops];
            outer.extend(relay.link.octets());
            outer.extend(relay.peer.octets());
            if let Some(interface_id) = &relay.interface_id {
                put(&mut outer, code::INTERFACE_ID, interface_id);
            }
            put(&mut outer, code::RELAY_MESSAGE, &message);
            message = outer;
        }
        message
    }

    /// The port it goes to, at the address that the question came from. A client that asks a boot server listens at the
    /// port it asks.
    pub fn port(&self, asked_at: Port) -> u16 {
        match asked_at {
            Port::Boot => BOOT_PORT,
            Port::Dhcp if self.relays.is_empty() => CLIENT_PORT,
            Port::Dhcp => SERVER_PORT,
        }
    }
}

fn status_value(status: Status) -> Vec<u8> {
    (status as u16).to_be_bytes().to_vec()
}

/// Adds an option. Nothing here comes near the 64 KiB that an option may have: what is put in was read from one datagram.
fn put(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(size) = u16::try_from(value.len()) else {
        return;
    };
    bytes.extend(code.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend_from_slice(value);
}
