//! How long others may still fetch when the download itself is done. Pure: the caller looks and waits.

use std::time::Duration;

use crate::share::limits::QUIET_MAX;

/// What is seen of the others at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Uploads that are running.
    pub(super) uploads: usize,
    /// Since the last time that one began or ended, if there was any.
    pub(super) quiet_for: Option<Duration>,
    /// Since the last time that somebody who misses something asked what is here or registered, if there is anybody.
    pub(super) wanting_for: Option<Duration>,
}

/// Whether it is worth waiting on: somebody is being sent something, was a moment ago, or asked a moment ago for what
/// it misses.
pub(super) fn is_wanted(seen: Seen) -> bool {
    let is_recent = |since: Option<Duration>| since.is_some_and(|since| since < QUIET_MAX);
    seen.uploads > 0 || is_recent(seen.quiet_for) || is_recent(seen.wanting_for)
}
