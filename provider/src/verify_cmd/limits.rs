//! Every number of `phase-verify`, with its reason.

use std::time::Duration;

/// Read at a time while hashing: large enough that system calls do not count.
pub(super) const READ_SIZE: usize = 256 << 10;

/// Files hashed at once: as many as there are processors, but never more. Disks gain nothing from more readers.
pub(super) const HASHERS_MAX: usize = 16;

/// A version file holds three short lines.
pub(super) const VERSION_FILE_SIZE_MAX: usize = 256;

/// How far a sequence number may jump above the floor in one manifest. The largest honest jump is from counting by hand to
/// counting seconds since 1970, and those stay below this until 2038; a stolen key cannot burn the whole number space
/// (2^53) with one signature.
pub(super) const SEQUENCE_JUMP_MAX: u64 = 1 << 31;

/// How long another process may hold the version file: it writes one line and syncs twice.
pub(super) const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often the lock is tried for meanwhile.
pub(super) const LOCK_POLL: Duration = Duration::from_millis(20);

/// Files and folders looked at below one root. A provider's directory has a handful for each of its channels.
pub(super) const ENTRIES_MAX: usize = 10_000;

/// How far below the root manifests are looked for: ROOT/CHANNEL/ARCH.
pub(super) const DEPTH_MAX: usize = 2;
