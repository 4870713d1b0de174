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
//! served there. Every string in it has been checked for length and characters. Nothing here listens on loopback, and no
//! thread outlives its handle.

mod advertise;
mod browse;
mod claim;
mod crowd;
pub mod dht;
mod hint;
mod peers;
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

/// A running mDNS thread that is stopped, and waited for, when dropped.
struct Daemon(mdns_sd::ServiceDaemon);

impl Daemon {
    /// How long stopping may take. The thread only has to send its goodbyes.
    const STOP_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(2);

    /// Starts the thread; it uses every interface but loopback.
    fn start() -> Result<Self, DiscoveryError> {
        let daemon = Self(mdns_sd::ServiceDaemon::new()?);
        daemon.0.disable_interface(vec![
            mdns_sd::IfKind::LoopbackV4,
            mdns_sd::IfKind::LoopbackV6,
        ])?;
        Ok(daemon)
    }

    /// Whether the thread still runs. Asks, but does not wait: a thread that is gone is known at once.
    fn check(&self) -> Result<(), DiscoveryError> {
        match self.0.status()?.try_recv() {
            Ok(mdns_sd::DaemonStatus::Shutdown) => Err(mdns_sd::Error::DaemonShutdown.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `Again`: the queue of commands is full for a moment.
        let stopping = loop {
            match self.0.shutdown() {
                Err(mdns_sd::Error::Again) => std::thread::yield_now(),
                other => break other,
            }
        };
        let stopped = stopping
            .map_err(|error| error.to_string())
            .and_then(|done| {
                done.recv_timeout(Self::STOP_TIME_MAX)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = stopped {
            tracing::warn!(%error, "multicast DNS did not stop cleanly");
        }
    }
}
