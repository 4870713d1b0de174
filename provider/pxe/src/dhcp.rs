//! DHCPv4 messages as boot servers see them. smoltcp reads the fixed head and cuts the options; around it stands what
//! netboot needs: options in several parts, overloaded fields, firmware's own vendor options.
//!
//! Reading is lenient, because ROMs are wrong in many ways and cannot be updated: what cannot be read is absent. Only
//! what is no message at all is [`Malformed`]. Writing is strict ([`Reply`]).

mod message;
pub mod options;
mod reply;
mod request;

pub use message::{Kind, Malformed, Message, Operation};
pub use options::Options;
pub use reply::{Destination, Reply};
pub use request::{IpxeFeatures, Request};

/// Where servers and relays listen.
pub const SERVER_PORT: u16 = 67;

/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;

/// Where boot servers listen for the second question of a PXE client.
pub const BOOT_PORT: u16 = 4011;

#[cfg(test)]
mod tests;
