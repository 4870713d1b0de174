//! Every number of `plasmd doctor`, with its reason.

use std::time::Duration;

/// Days before a manifest's end at which somebody should sign a new one.
pub(super) const EXPIRY_WARNING_DAYS: u32 = 7;

/// How far this clock and the one of the hardware may differ: more means that one of them was set and the other not.
pub(super) const RTC_DIFFERENCE_MAX: u64 = 3_600;

/// Files may be this much younger than the clock says before the clock is suspected: other machines wrote them.
pub(super) const FUTURE_SECONDS_MAX: i64 = 86_400;

/// Free space for one more release and the old one beside it.
pub(super) const DISK_FREE_WANTED: u64 = 1_000_000_000;

/// Available memory below which the provider itself may not fit.
pub(super) const MEMORY_MIN: u64 = 32 << 20;

/// Available memory below which served files are read from the disk again and again.
pub(super) const MEMORY_WANTED: u64 = 256 << 20;

/// Descriptors for a handful of clients: below, even a small network is too much.
pub(super) const DESCRIPTORS_MIN: u64 = 256;

/// Descriptors for ten thousand connections and the files they ask for.
pub(super) const DESCRIPTORS_WANTED: u64 = 12_000;

/// Watches for the folders of all channels.
pub(super) const WATCHES_MIN: u64 = 64;

/// Time for the provider on this machine to answer /health.
pub(super) const HEALTH_WAIT: Duration = Duration::from_secs(3);

/// A machine that was still for so long is talked about: in the middle of a conversation there is nothing to say yet.
pub(super) const QUIET: Duration = Duration::from_secs(3);

/// A machine that was still for so long gives no further findings: rules wait up to 20 s.
pub(super) const SETTLED: Duration = Duration::from_secs(40);

/// How often the packet doctor looks whether there is something to say.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Packets that are looked at before the next look at the clock and at signals.
pub(super) const BURST: usize = 4_096;

/// What is kept of a packet: whole DHCP messages and the heads of HTTP.
pub(super) const PACKET_BYTES: usize = 2_048;

/// Packets that wait in the kernel while a line is printed: some seconds of a fast TFTP transfer.
pub(super) const CAPTURE_BUFFER: usize = 8 << 20;

/// A bridge hands a packet on within microseconds; who sends one again waits longer than this.
pub(super) const ECHO_WAIT: Duration = Duration::from_millis(20);

/// Packets among which an echo is looked for: what a few busy machines send in that time.
pub(super) const ECHOES_MAX: usize = 128;

/// The largest block of a capture: its packets are at most 256 KiB (the limit of tcpdump), with options beside them.
pub(super) const CAPTURE_BLOCK_MAX: usize = 1 << 20;

/// Interfaces of one capture: each costs memory while it is read.
pub(super) const INTERFACES_MAX: usize = 1_024;

/// The largest transcript: 65,536 packets of some size.
pub(super) const TRANSCRIPT_MAX: u64 = 64 << 20;
