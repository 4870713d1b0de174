//! Listening for providers.

use std::time::Duration;

use mdns_sd::ResolvedService;

use crate::daemon::Daemon;
use crate::hint::Hint;
use crate::watch::{Heard, Watch};
use crate::{DiscoveryError, SERVICE_TYPE};

/// A machine that boots listens before it has an address; its questions go out this soon after it got one.
pub(crate) const INTERFACES_LOOK_SECONDS: u32 = 1;

/// Listens until it is dropped.
pub struct Browser {
    watch: Watch,
    daemon: Daemon,
}

/// Something that happened on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A provider is there, or something about it changed.
    There(Hint),
    /// The one with this [`Hint::id`] said goodbye, or was silent for too long.
    Gone(String),
}

impl Browser {
    /// Asks the network for providers, on every interface but loopback.
    pub fn start() -> Result<Self, DiscoveryError> {
        let daemon = Daemon::start(INTERFACES_LOOK_SECONDS)?;
        let watch = Watch::start(&daemon, SERVICE_TYPE)?;
        Ok(Self { watch, daemon })
    }

    /// Blocks until a provider answers; `None` after the time limit. The same provider comes again when something about
    /// it changed, for example when another of its addresses became known.
    ///
    /// An error means that the search is over: this machine took its sockets away.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Hint>, DiscoveryError> {
        self.watch
            .next(&mut self.daemon, limit, |heard| match heard {
                Heard::There(service) => usable(&service),
                Heard::Gone(_) => None,
            })
    }

    /// The same, and hears of providers that go as well.
    pub fn next_change(&mut self, limit: Duration) -> Result<Option<Change>, DiscoveryError> {
        self.watch
            .next(&mut self.daemon, limit, |heard| match heard {
                Heard::There(service) => usable(&service).map(Change::There),
                Heard::Gone(name) => Some(Change::Gone(Hint::id_of(&name))),
            })
    }
}

fn usable(service: &ResolvedService) -> Option<Hint> {
    let hint = Hint::from_service(service);
    if hint.is_none() {
        tracing::debug!(name = %service.fullname.escape_debug(), "not usable as a provider");
    }
    hint
}
