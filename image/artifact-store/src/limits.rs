//! Every number of this crate, with its reason.

use std::time::Duration;

/// Files of one folder that are looked at. A release has 3 to 10; this keeps one listing, and the descriptors it
/// holds, small.
pub(crate) const FOLDER_FILES_MAX: usize = 128;

/// Digests kept in memory. Each carries up to 32 KiB of chunk digests, so this is at most 8 MiB.
pub(crate) const HASHES_MAX: usize = 256;

/// Bytes read at once while hashing: large enough that system calls do not count, small enough for the L2 cache.
pub(crate) const READ_SIZE: usize = 256 * 1024;

/// Bytes the disk is asked for ahead, twice: a request large enough for any disk, and the next one behind it.
pub(crate) const AHEAD_SIZE: u64 = 4 << 20;

/// Pieces between the two threads that hash one file: one in each hand and some to make up for uneven steps.
pub(crate) const PIECES_MAX: usize = 4;

/// A file changed this recently may change again without a new time stamp: the kernel stamps files with a clock that
/// ticks every 4 to 10 ms. Its digest is not kept.
pub(crate) const TIMESTAMP_TICK: Duration = Duration::from_millis(20);

/// `openat2` answers EAGAIN when a rename runs while it walks the path. More than this many in a row is not an
/// accident.
pub(crate) const OPEN_RETRIES_MAX: usize = 8;

/// How often events are taken at most. A change is known twice this long after it at the latest; at 1,000 reads of a few
/// hundred nanoseconds in a second, asking costs nothing that could be measured.
pub(crate) const DRAIN_PERIOD: Duration = Duration::from_millis(1);

/// Room for events, each with a name: some dozens at once.
pub(crate) const EVENTS_SIZE: usize = 4_096;

/// Channels and architectures that are watched. A provider has a handful.
pub(crate) const PLACES_MAX: usize = 64;

/// Folders and files that are watched: far below what the kernel grants a user (8,192 on old ones), each costs it about
/// a kilobyte.
pub(crate) const WATCHES_MAX: usize = 1_024;

/// Channels that are listed. A menu shows 20.
pub(crate) const CHANNELS_MAX: usize = 256;
