//! Every bound of an upgrade, with the reason for its size.

use std::time::Duration;

/// Trials that are remembered as failed. Each is one bad release; eight bad ones in a row are a story for people. What is
/// below a full list is not tried at all, so a long row of bad releases never begins again.
pub const QUARANTINE_MAX: usize = 8;

/// Past events that are remembered: what an operator asks about when a machine was left alone for some months.
pub const HISTORY_MAX: usize = 10;

/// Longest explanation of a failure, in bytes: a line of a screen, and small enough that the fullest ledger fits a sector.
pub const DETAIL_SIZE_MAX: usize = 96;

/// Network cards that a fingerprint names. More than any board has ports; the rest are not compared.
pub const NICS_MAX: usize = 8;

/// Longest path of a network card in a fingerprint. `0000:00:00.0` has 12 bytes, one behind several bridges about 40.
pub const NIC_PATH_SIZE_MAX: usize = 48;

/// Sections of later versions that are kept unread: half of a kilobyte is what the fullest ledger leaves free.
pub const EXTRA_SIZE_MAX: usize = 256;

/// Cold starts of a proved image without being stable, after which an older one is started: two may be a shaky mains.
pub const STARTS_MAX: u8 = 3;

/// Cold starts of an image that no cold start proved yet. One, as for a trial by kexec: the next start is the old image.
pub const STARTS_UNPROVED_MAX: u8 = 1;

/// Trials in a row that died before or without their hardware, by different images, after which it is the machine that
/// does not survive kexec, not the images.
pub const KEXEC_FAILURES_MAX: u8 = 3;

/// How many times a trial may be repeated that was cut short by the mains or an orderly restart. More would be a loop.
pub const RETRIES_MAX: u8 = 1;

/// The time for P1: mounts, watchdog, the predecessor as crash image. Seconds on hardware; emulators are ten times slower.
pub const WATCHDOG_TIME: Duration = Duration::from_secs(120);

/// The time for P2: verification and mounting of the artifacts, 64 MiB hashed twice.
pub const IDENTITY_TIME: Duration = Duration::from_secs(180);

/// The time for P3: a DHCP server may answer after its third retry, and spanning tree holds a port for 30 s.
pub const NETWORK_TIME: Duration = Duration::from_secs(180);

/// The time for P4: five checks of a few seconds each, one of them multicast DNS with its probing.
pub const SERVE_TIME: Duration = Duration::from_secs(180);

/// The time for P5: the slowest source may take its full time-out before the embedded sample is taken.
pub const UPDATER_TIME: Duration = Duration::from_secs(300);

/// What P6 may take beyond the soak itself: the checks at its end and the write of the commit.
pub const SOAK_MARGIN: Duration = Duration::from_secs(60);

/// A trial whose image keeps restarting children is not stable; the serving child alone may take a signal once.
pub const TRIAL_RESTARTS_MAX: u32 = 0;

/// How long a fetch may go on. A gigabyte at 1 MiB/s takes 17 minutes; what is slower is tried again later.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(25 * 60);

/// How long a slot is written and read back: 64 MiB at 0.25 MiB/s, a dying USB stick.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(10 * 60);

/// How long the preparation may take: it hashes and copies some hundred MiB.
pub const PREPARE_TIME_MAX: Duration = Duration::from_secs(5 * 60);

/// How long the neighbours are waited for when they are asked for the turn.
pub const TURN_ANSWER_MAX: Duration = Duration::from_secs(60);

/// For how long a turn is granted; neighbours forget it then by themselves.
pub const TURN_TIME: Duration = Duration::from_secs(30 * 60);

/// How long after a refusal the turn is asked for again, before jitter.
pub const TURN_AGAIN: Duration = Duration::from_secs(60);

/// For how long refusals are obeyed: a hostile neighbour must not freeze a fleet.
pub const TURN_PATIENCE: Duration = Duration::from_secs(6 * 60 * 60);

/// The wait after a failure of fetching or preparing, doubled each time up to [`BACK_OFF_MAX`].
pub const BACK_OFF: Duration = Duration::from_secs(60);

/// The longest wait after failures: an hour, so that a source that is repaired is used the same day.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60 * 60);

/// How long a live neighbour counts as live after it was seen.
pub const NEIGHBOURS_FRESH: Duration = Duration::from_secs(30 * 60);
