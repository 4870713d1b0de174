//! Every bound of looking for newer images, with the reason for its size.

use std::time::Duration;

/// Asking one source for its manifest, and for its root chain when that is needed: 64 KiB each at 100 kbit/s.
pub(super) const ASK_TIME: Duration = Duration::from_secs(10);

/// One look. Sources that never answer cost [`ASK_TIME`] each, and whoever waits for a turn waits for this at most.
pub(super) const LOOK_TIME: Duration = Duration::from_secs(25);

/// An open connection: a lost SYN is repeated after one and three seconds.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(4);

/// The beginning of an answer. A provider may hash a large file before, and is asked again at the next look.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(6);

/// Sources that are asked in one look. A segment of more machines than this is asked in parts, chosen by chance.
pub(super) const ASKED_MAX: usize = 32;

/// Of them at the same time: each may send a manifest and a chain of a megabyte, and the role has 48 MiB.
pub(super) const ASKED_AT_ONCE: usize = 6;

/// Addresses of one source that are tried, best first: one of each family.
pub(super) const URLS_MAX: usize = 2;

/// Announcements that are kept. A flood of them costs memory only up to here, and crowds out whom chance picks.
pub(super) const HEARD_MAX: usize = 128;

/// Announcements on their way from the listening thread.
pub(super) const QUEUE_MAX: usize = 64;

/// Between two looks of the listening thread at whether it is still wanted; also after a failure to listen.
pub(super) const LISTEN_INTERVAL: Duration = Duration::from_secs(1);

/// After so long the listener begins anew, and asks everybody again: a flood may have crowded out somebody honest.
pub(super) const LISTEN_ANEW: Duration = Duration::from_secs(5 * 60);

/// Who was not heard of for this long is forgotten: twice the listener began anew without an answer.
pub(super) const HEARD_TIME: Duration = Duration::from_secs(11 * 60);

/// Sources that were named and are asked in each look.
pub(super) const NAMED_MAX: usize = 16;

/// Different newer manifests that are offered in one look, newest first: the newest may be one that failed here before.
pub(super) const OFFERS_MAX: usize = 4;

/// The first look: the network has its address, and neighbours have answered the first question.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(2);

/// What chance adds to it at most, so that a hall of machines that got its power back does not ask one provider in the
/// same second; a machine that looks often waits for no longer than a quarter of that.
pub(super) const FIRST_LOOK_JITTER_MAX: Duration = Duration::from_secs(30);

/// The next look after one that nobody answered, doubled up to the usual interval.
pub(super) const RETRY_MIN: Duration = Duration::from_secs(5);

/// Sources that are asked for a freshness statement in one look: two may be mirrors without the key.
pub(super) const FRESHNESS_ASKED_MAX: usize = 3;

/// Without a freshness statement for this long, where freshness keys exist, somebody is told: a mirror that is held back
/// shows nothing else.
pub(super) const FRESHNESS_BUDGET: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a machine with the lower rank goes on asking for a turn that two want at once.
pub(super) const TURN_CONTEST: Duration = Duration::from_secs(10);

/// Between two such questions.
pub(super) const TURN_CONTEST_PAUSE: Duration = Duration::from_secs(2);

/// A turn that is held is asked for again this often: a third of the time after which others forget it.
pub(super) const TURN_RENEWAL: Duration = Duration::from_secs(10 * 60);

/// A list of hardware addresses is as long as this machine has cards; more are not read.
pub(super) const CARDS_MAX: usize = 32;
