//! Finding providers on the local network, and being found: DNS-SD over multicast DNS (RFC 6762, RFC 6763).
//!
//! A crate of its own because it keeps mDNS, and one day a distributed hash table, out of everything else.
//!
//! - [`Advertiser::start`] says that this machine serves a channel; [`Advertiser::withdraw`], or dropping it, says
//!   goodbye. Addresses that come and go are followed; [`Advertiser::update`] looks for others with the same name.
//! - [`Browser::start`] listens; [`Browser::next`] gives a [`Hint`] for each provider.
//! - [`Peers::start`] finds machines that fetch the same right now, and announces this one to them; [`Peers::next`] gives a
//!   [`PeerHint`] for each.
//!
//! A hint is an address and nothing else: anyone on the network can send one, so whoever uses it verifies what is
//! served there, and a flood of them does not fill the memory. Every string in it has been checked for length and characters. Nothing here listens on loopback, and no
//! thread outlives its handle.

mod advertise;
mod browse;
mod claim;
mod crowd;
mod daemon;
pub mod dht;
mod hint;
mod peers;
mod sockets;
mod watch;

pub use crate::advertise::{Advert, Advertiser};
pub use crate::browse::{Browser, Change};
pub use crate::hint::Hint;
pub use crate::peers::{PeerHint, Peers, Share};

/// The DNS-SD service type of providers.
pub const SERVICE_TYPE: &str = "_phase-image._tcp.local.";

/// The DNS-SD service type of machines that share what they fetch while they fetch it.
pub const PEER_SERVICE_TYPE: &str = "_phase-peer._tcp.local.";

/// mDNS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("multicast DNS: {0}")]
pub struct DiscoveryError(String);

impl From<mdns_sd::Error> for DiscoveryError {
    fn from(error: mdns_sd::Error) -> Self {
        Self(error.to_string())
    }
}
