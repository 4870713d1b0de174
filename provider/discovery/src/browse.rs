//! Listening for providers.

use std::time::{Duration, Instant};

use mdns_sd::{Receiver, RecvTimeoutError, ServiceEvent};

use crate::hint::Hint;
use crate::{Daemon, DiscoveryError, SERVICE_TYPE};

/// A machine that boots listens before it has an address; its questions go out this soon after it got one.
const INTERFACES_LOOK_SECONDS: u32 = 1;

/// Listens until it is dropped.
pub struct Browser {
    events: Receiver<ServiceEvent>,
    daemon: Daemon,
}

impl Browser {
    /// Asks the network for providers, on every interface but loopback.
    pub fn start() -> Result<Self, DiscoveryError> {
        let daemon = Daemon::start()?;
        daemon.0.set_ip_check_interval(INTERFACES_LOOK_SECONDS)?;
        let events = daemon.0.browse(SERVICE_TYPE)?;
        Ok(Self { events, daemon })
    }

    /// Blocks until a provider answers; `None` after the time limit. The same provider comes again when something about
    /// it changed, for example when another of its addresses became known.
    ///
    /// An error means that the search is over: this machine took its sockets away.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Hint>, DiscoveryError> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(ServiceEvent::ServiceResolved(service)) => {
                    if let Some(hint) = Hint::from_service(&service) {
                        return Ok(Some(hint));
                    }
                    tracing::debug!(name = %service.fullname.escape_debug(), "not usable as a provider");
                }
                Ok(_) => (),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                // mdns-sd ends a subscription whose reader was too slow for a flood of answers: subscribe again. What it
                // knows comes first then, so nothing is lost.
                Err(RecvTimeoutError::Disconnected) => {
                    self.events = self.daemon.0.browse(SERVICE_TYPE)?;
                }
            }
        }
    }
}
