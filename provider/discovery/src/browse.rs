//! Listening for providers.

use std::time::{Duration, Instant};

use mdns_sd::{Receiver, ServiceEvent};

use crate::hint::Hint;
use crate::{Daemon, DiscoveryError, SERVICE_TYPE};

/// Listens until it is dropped.
pub struct Browser {
    // Dropped after the receiver would be: the thread must not find its channel closed first and complain.
    events: Receiver<ServiceEvent>,
    _daemon: Daemon,
}

impl Browser {
    /// Asks the network for providers, on every interface but loopback.
    pub fn start() -> Result<Self, DiscoveryError> {
        let daemon = Daemon::start()?;
        let events = daemon.0.browse(SERVICE_TYPE)?;
        Ok(Self {
            events,
            _daemon: daemon,
        })
    }

    /// Blocks until a provider answers; `None` after the time limit. The same provider comes again when something about
    /// it changed, for example when another of its addresses became known.
    pub fn next(&self, limit: Duration) -> Option<Hint> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(ServiceEvent::ServiceResolved(service)) => {
                    if let Some(hint) = Hint::from_service(&service) {
                        return Some(hint);
                    }
                    tracing::debug!(name = %service.fullname.escape_debug(), "not usable as a provider");
                }
                Ok(_) => (),
                Err(_) => return None,
            }
        }
    }
}
