//! What a service type's announcements on the network say, one at a time.
//!
//! Never blocks longer than it is told to, whatever strangers send, and keeps nothing itself.

use std::time::{Duration, Instant};

use mdns_sd::{Receiver, RecvTimeoutError, ResolvedService, ServiceEvent};

use crate::DiscoveryError;
use crate::daemon::Daemon;

/// Between two looks at the daemon while nobody says anything.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A subscription to one service type; it lives as long as the daemon it asks.
pub(crate) struct Watch {
    service_type: &'static str,
    /// Which of the daemon's lives is subscribed to.
    renewals: u32,
    events: Receiver<ServiceEvent>,
}

/// Something that was heard.
pub(crate) enum Heard {
    /// Somebody is there, or something about them changed.
    There(Box<ResolvedService>),
    /// The full name of somebody who said goodbye, or was silent for too long.
    Gone(String),
}

impl Watch {
    /// Subscribes, and has the daemon ask the network.
    pub(crate) fn start(
        daemon: &Daemon,
        service_type: &'static str,
    ) -> Result<Self, DiscoveryError> {
        Ok(Self {
            service_type,
            renewals: daemon.renewals(),
            events: daemon.thread().browse(service_type)?,
        })
    }

    /// Waits for something that `take` makes use of; `None` when the time is over.
    pub(crate) fn next<T>(
        &mut self,
        daemon: &mut Daemon,
        limit: Duration,
        mut take: impl FnMut(Heard) -> Option<T>,
    ) -> Result<Option<T>, DiscoveryError> {
        let end = Instant::now() + limit;
        loop {
            daemon.look_after()?;
            if self.renewals != daemon.renewals() {
                *self = Self::start(daemon, self.service_type)?;
            }
            let look = end.min(Instant::now() + LOOK_INTERVAL);
            let heard = match self.events.recv_deadline(look) {
                Ok(ServiceEvent::ServiceResolved(service)) => Some(Heard::There(service)),
                Ok(ServiceEvent::ServiceRemoved(_, name)) => Some(Heard::Gone(name)),
                Ok(_) | Err(RecvTimeoutError::Timeout) => None,
                // mdns-sd ends a subscription whose reader was too slow for a flood of answers: subscribe again. What
                // it knows comes first then, so nothing is lost.
                Err(RecvTimeoutError::Disconnected) => {
                    self.events = daemon.thread().browse(self.service_type)?;
                    None
                }
            };
            if let Some(found) = heard.and_then(&mut take) {
                return Ok(Some(found));
            }
            // A flood of what is of no use has something at hand always.
            if Instant::now() >= end {
                return Ok(None);
            }
        }
    }
}
