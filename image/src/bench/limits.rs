//! Every number of the bench, with its reason. The whole of it shall take less than eight minutes on an idle machine.

use std::time::Duration;

/// Rounds, unless `--rounds` says otherwise. Each measures every contender once; the middle counts.
pub const ROUNDS: usize = 3;

/// More rounds than this take an hour.
pub const ROUNDS_MAX: usize = 50;

/// Size of the large file: a root filesystem of a usual desktop.
pub const LARGE_BYTES: u64 = 1 << 30;

/// Size of the small file: requests of it are all overhead.
pub const SMALL_BYTES: u64 = 4096;

/// Size of the file a client gets beside the crowd.
pub const MEDIUM_BYTES: u64 = 64 << 20;

/// Length of a range: what firmware and `phase-fetch` ask for is of this order.
pub const RANGE_BYTES: u64 = 1 << 20;

/// Downloads of the large file one after the other: one alone takes a quarter of a second.
pub const ONE_STREAM_DOWNLOADS: u64 = 2;

/// Connections of the bulk measurement.
pub const MANY: u32 = 16;

/// Connections of the measurement of small files.
pub const SMALL_CONNECTIONS: u32 = 64;

/// Connections of the measurement of ranges.
pub const RANGE_CONNECTIONS: u32 = 8;

/// One run of wrk. Less shows the start, more makes the bench long.
pub const WRK_SECONDS: u32 = 2;

/// A server starts in milliseconds; hashing 1 GiB under emulation takes longer.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// A server ends at once when nobody is connected.
pub const END_LIMIT: Duration = Duration::from_secs(12);

/// Between two looks at the memory of a process. A shorter peak is missed, unless the kernel keeps it.
pub const MEMORY_PERIOD: Duration = Duration::from_millis(20);

/// Between two looks at something that will be there soon.
pub const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Any one client. What takes longer is stuck.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(120);
