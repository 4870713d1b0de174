//! Every number of this crate, with its reason.

use std::time::Duration;

/// Files of one folder that are looked at. A release has 3 to 10; this keeps one listing, and the descriptors it
/// holds, small.
pub(crate) const FOLDER_FILES_MAX: usize = 128;

/// Digests kept in memory. Each carries up to 32 KiB of chunk digests, so this is at most 8 MiB.
pub(crate) const HASHES_MAX: usize = 256;

/// Bytes read at once while hashing: large enough that system calls do not count, small enough for the L2 cache.
pub(crate) const READ_SIZE: usize = 256 * 1024;

/// A file changed this recently may change again without a new time stamp: the kernel stamps files with a clock that
/// ticks every 4 to 10 ms. Its digest is not kept.
pub(crate) const TIMESTAMP_TICK: Duration = Duration::from_millis(20);

/// `openat2` answers EAGAIN when a rename runs while it walks the path. More than this many in a row is not an
/// accident.
pub(crate) const OPEN_RETRIES_MAX: usize = 8;
