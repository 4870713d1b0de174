//! Every number of the serving policy, with its reason.

use std::time::Duration;

/// Free space below which the artifacts' file system is reported as full: too little for one more release.
pub(crate) const DISK_FREE_MIN: u64 = 100_000_000;

/// How often a file that is being written is looked at again before a client is told to come back. With the 20 ms of a
/// time stamp's tick between two looks this is about a second.
pub(crate) const SETTLE_TRIES_MAX: usize = 50;

/// Manifests of other makers kept parsed: one for each channel and architecture, and some that were replaced.
pub(crate) const SIGNED_KEPT_MAX: usize = 64;

/// Size up to which a file is kept in memory. Above, the descriptor's few microseconds no longer count.
pub(crate) const READY_SIZE_MAX: u64 = 64 * 1024;

/// Small files kept: with the size above at most 4 MiB. A release has a handful.
pub(crate) const READY_KEPT_MAX: usize = 64;

/// Manifests whose fetchers can find each other: each channel and architecture, and some that were replaced while machines
/// still fetched them. As many as the list of machines keeps apart.
pub(crate) const MANIFESTS_KNOWN_MAX: usize = 64;

/// Time between two looks through all folders for a manifest that is not known: anybody may ask for one.
pub(crate) const FOLDERS_LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Mismatching files remembered as logged.
pub(crate) const REPORTED_MAX: usize = 1_024;

/// Requests told to init in a second; its screen shows the last few.
pub(crate) const REPORTS_PER_SECOND_MAX: u32 = 5;

/// How often the machine's addresses and the default folder are looked at, for what is announced, shown and hashed ahead.
/// Requests look for themselves.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// How often the announcer looks at them, and for others with its name: machines that boot wait for what it says.
pub(crate) const ANNOUNCER_PERIOD: Duration = Duration::from_secs(2);

/// Bytes of the file in which init says what it does about the image: 32 images that failed and as many lines of history
/// have 20 KiB.
pub(crate) const UPGRADE_STATUS_SIZE_MAX: usize = 256 * 1024;

/// Bytes of an order: what the HTTP server takes as a body. One with sixteen signatures has 3 KiB.
pub(crate) const ORDER_SIZE_MAX: usize = 8 * 1024;

/// Time for the body of an order, which is a few packets.
pub(crate) const ORDER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Orders passed to init in a second. Each costs it some signatures, which is a millisecond; who is refused comes again.
pub(crate) const ORDERS_PER_SECOND_MAX: u32 = 4;

/// Days a manifest signed here is valid. The guide promises 30.
pub(crate) const VALID_DAYS: u32 = 30;

/// Threads that answer requests: at least two, so that one disk read does not stop everybody.
pub(crate) const WORKERS_MIN: usize = 2;

/// Threads that may hash at once are as many as there are processors, but not more than this.
pub(crate) const HASHERS_MAX: usize = 16;

/// How long the service manager may take to make room for a message. It reads all day; after a start of many services at once
/// it may need some milliseconds.
pub(crate) const TELL_WAIT_MAX: Duration = Duration::from_secs(1);

/// Time for the end besides the drain: the goodbye, the last lines of the access log, and a busy machine.
pub(crate) const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// Time for the goodbye to the local network when the process ends; the library needs milliseconds, or 2 s at worst.
pub(crate) const GOODBYE_MAX: Duration = Duration::from_secs(3);

/// Artifacts with counters of their own: some releases of some architectures. A series costs a monitoring system memory
/// for as long as it keeps its history.
pub(crate) const ARTIFACTS_COUNTED_MAX: usize = 256;

/// Spellings of paths remembered with their counters; others are decoded each time.
pub(crate) const SPELLINGS_KEPT_MAX: usize = 1_024;

/// The longest drain that can be asked for: whoever wants more does not want to stop.
pub(crate) const DRAIN_SECONDS_LIMIT: u64 = 3_600;

/// How long an answer is at hand before everything is looked at again. Changes that the kernel does not tell of are noticed
/// after this long; looking once in a second costs nothing that could be measured.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Answers at hand. A release has a handful; one that does not fit costs a few looks.
pub(crate) const HAND_MAX: usize = 256;

/// Bytes of the answers at hand, nearly all of them shared with the small files and manifests that are kept anyway.
pub(crate) const HAND_BYTES_MAX: usize = 4 << 20;

/// Descriptors of the answers at hand; `FILES_RESERVED` of the HTTP server has room for them.
pub(crate) const HAND_FILES_MAX: usize = 32;

/// Bytes of a file of certificates or a key: a chain of ten has 20 KiB.
pub(crate) const PEM_SIZE_MAX: usize = 256 * 1024;

/// Days before the end of a certificate at which that is said. Those who renew by themselves do it earlier.
pub(crate) const CERTIFICATE_WARN_DAYS: u32 = 14;

/// Names and addresses in a certificate that is made here. Firmware reads certificates into small buffers.
pub(crate) const NAMES_MAX: usize = 64;

/// Lines of the access log that wait to be written: 1 MiB of usual ones, a second of a busy provider's.
pub(crate) const LOG_QUEUE_MAX: usize = 4_096;

/// Bytes of the access log that are written with one call.
pub(crate) const LOG_BATCH_SIZE: usize = 64 * 1024;

/// Bytes of a target in the access log. Ours have less than 200.
pub(crate) const LOG_TARGET_MAX: usize = 1_024;

/// Bytes of another field in the access log.
pub(crate) const LOG_FIELD_MAX: usize = 256;

/// Time for the last lines of the access log when the process ends.
pub(crate) const LOG_GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Clients that are remembered; the one that was quiet for longest makes room. A rack has 48 machines.
pub(crate) const CLIENTS_KEPT_MAX: usize = 256;

/// Answers that are remembered of each client: a boot is a manifest and three artifacts.
pub(crate) const FETCHES_KEPT_MAX: usize = 8;

/// Bytes of a path or a User-Agent that are remembered: with the two numbers above at most 700 KiB.
pub(crate) const REMEMBERED_TEXT_MAX: usize = 200;

/// Bytes of a request id that is taken from a client. A UUID has 36.
pub(crate) const REQUEST_ID_MAX: usize = 64;

/// Clients shown in `/status`: a screenful and some more. The control socket shows all that are remembered.
pub(crate) const CLIENTS_SHOWN_MAX: usize = 32;

/// How long `/health` remembers that accepting failed: longer than the period at which monitoring asks.
pub(crate) const ACCEPT_FAILURE_MEMORY: Duration = Duration::from_secs(30);

/// Machines shown at `/clients` over HTTP: some racks, in less than a megabyte. The control socket shows all.
pub(crate) const MACHINES_SHOWN_MAX: usize = 512;
