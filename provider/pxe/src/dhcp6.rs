//! DHCPv6 as boot servers see it (RFC 8415, RFC 5970; C24): what firmware asks over IPv6, and what it must be told.
//!
//! ```text
//! proxy:   SOLICIT ----> ADVERTISE without an address, beside the one of the LAN's own server
//!          REQUEST at port 4011 ----> REPLY (UEFI PXE asks again for the file it was told of)
//! server:  SOLICIT ----> ADVERTISE with an address; REQUEST, RENEW, REBIND ----> REPLY; RELEASE, DECLINE, CONFIRM
//! both:    INFORMATION-REQUEST ----> REPLY (who made an address of its own)
//! ```
//! Only machines that boot over the network are answered, in every mode: a running system that wants an address is told of
//! its server by its router, and that server is not this one. Reading is lenient, as in [`crate::dhcp`]; relays are unpacked
//! and their answers packed again. Nothing here panics on input.

mod address;
mod answer;
mod reply;
mod request;

use std::net::Ipv6Addr;

pub use address::{Addresses, Prefix};
pub use answer::{Mode, Port, Server, Silence, answer};
pub use reply::{Reply, Status};
pub use request::{Identity, Malformed, Relay, Request};

/// Where servers and relays listen.
pub const SERVER_PORT: u16 = 547;

/// Where clients listen.
pub const CLIENT_PORT: u16 = 546;

/// The group of all servers and relays of a link.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A client looks for servers.
    Solicit = 1,
    /// A server answers that.
    Advertise = 2,
    /// A client takes what it was advertised, or asks a boot server.
    Request = 3,
    /// A client asks whether its address still fits the link.
    Confirm = 4,
    /// A client keeps its address, asking its server.
    Renew = 5,
    /// A client keeps its address, asking any server.
    Rebind = 6,
    /// A server answers.
    Reply = 7,
    /// A client gives its address back.
    Release = 8,
    /// A client found its address taken.
    Decline = 9,
    /// A client with an address asks for the rest.
    InformationRequest = 11,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Solicit,
        Self::Advertise,
        Self::Request,
        Self::Confirm,
        Self::Renew,
        Self::Rebind,
        Self::Reply,
        Self::Release,
        Self::Decline,
        Self::InformationRequest,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// As the RFC writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Solicit => "SOLICIT",
            Self::Advertise => "ADVERTISE",
            Self::Request => "REQUEST",
            Self::Confirm => "CONFIRM",
            Self::Renew => "RENEW",
            Self::Rebind => "REBIND",
            Self::Reply => "REPLY",
            Self::Release => "RELEASE",
            Self::Decline => "DECLINE",
            Self::InformationRequest => "INFORMATION-REQUEST",
        }
    }
}

/// A relay's message to a server, and a server's to a relay.
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;

/// The numbers of options.
mod code {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const RELAY_MESSAGE: u16 = 9;
    pub(super) const STATUS: u16 = 13;
    pub(super) const USER_CLASS: u16 = 15;
    pub(super) const VENDOR_CLASS: u16 = 16;
    pub(super) const INTERFACE_ID: u16 = 18;
    pub(super) const BOOT_FILE_URL: u16 = 59;
    pub(super) const ARCH: u16 = 61;
    pub(super) const LINK_ADDRESS: u16 = 79;
}

/// The enterprise number under which firmware writes its class (option 16): Intel's, as RFC 5970 left it open.
const ENTERPRISE: u32 = 343;

#[cfg(test)]
mod tests;
