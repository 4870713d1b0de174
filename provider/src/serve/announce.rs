//! Telling the local network about this provider, and telling people whether that happens.

use std::sync::{Mutex, PoisonError};

/// Whether the local network is told, in words for people.
#[derive(Debug)]
pub(crate) struct Announcement {
    state: Mutex<String>,
}

impl Announcement {
    /// Nobody is told, for this reason.
    pub(crate) fn off(reason: &str) -> Self {
        Self {
            state: Mutex::new(format!("off: {reason}")),
        }
    }

    /// What to show.
    pub(crate) fn state(&self) -> String {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the network is told now.
    pub(crate) fn is_on(&self) -> bool {
        self.state().starts_with("on")
    }
}
