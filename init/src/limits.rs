//! Every number that bounds `init`, with its reason.

use std::time::Duration;

/// One step of copying or hashing. Between steps the main loop handles signals and feeds the watchdog, so a step must
/// stay far below the watchdog's timeout even on a slow USB 1.1 stick (1 MiB/s).
pub(crate) const STEP_SIZE: usize = 256 << 10;

/// Processors that hash one file at once. Four are as fast as memory on what this boots on, and each has a step in memory.
pub(crate) const HASHING_PROCESSES_MAX: usize = 4;

/// Reports taken from one child in one turn of the loop: a child that floods its socket must not starve the others.
pub(crate) const REPORTS_PER_TURN: usize = 16;

/// File descriptors accepted beside one report: a handoff has four; the kernel would pass up to 253.
pub(crate) const REPORT_FDS_MAX: usize = 8;

/// Bytes of one line of a child's output that are shown; the rest of the line is dropped.
pub(crate) const CHILD_LINE_MAX: usize = 400;

/// Bytes read from a child's output in one turn.
pub(crate) const CHILD_READ_SIZE: usize = 4096;

/// Lines of one child that are shown within [`CHILD_LINES_WINDOW`]; a crash report fits, a flood does not.
pub(crate) const CHILD_LINES_MAX: u32 = 60;

/// See [`CHILD_LINES_MAX`].
pub(crate) const CHILD_LINES_WINDOW: Duration = Duration::from_secs(10);

/// Bytes that wait for a console that does not take them (a serial line at 9600 baud takes 1 KiB/s).
pub(crate) const CONSOLE_QUEUE_MAX: usize = 32 << 10;

/// Interfaces on the status screen.
pub(crate) const INTERFACES_MAX: usize = 8;

/// Requests kept for the status screen.
pub(crate) const REQUESTS_KEPT: usize = 5;

/// Log lines kept for the lower half of a screen console.
pub(crate) const LOG_LINES_KEPT: usize = 12;

/// A status block follows its last change by this much, so that a burst of changes prints one block.
pub(crate) const STATUS_SETTLE: Duration = Duration::from_secs(1);

/// A screen console is drawn anew at least this often: its uptime and requests change without an event.
pub(crate) const SCREEN_REFRESH: Duration = Duration::from_secs(5);

/// Memory in use is told this long after the machine first serves: its programs have settled by then.
pub(crate) const MEMORY_SETTLE: Duration = Duration::from_secs(2);

/// Progress of the same download is told at most this often.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// First delay before a child that ended is started again; doubles with each crash.
pub(crate) const RESTART_DELAY_MIN: Duration = Duration::from_millis(250);

/// Longest delay between two starts of a child: an operator who repairs the cause waits at most this long.
pub(crate) const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);

/// A child that ran this long counts as healthy: its crashes before that are forgiven.
pub(crate) const RESTART_FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// How long children may take to end after SIGTERM: `serve` drains its connections, `net` releases its lease.
pub(crate) const CHILD_STOP_WAIT: Duration = Duration::from_secs(8);

/// How long killed children may take to be gone before the shutdown goes on without them.
pub(crate) const CHILD_KILL_WAIT: Duration = Duration::from_secs(2);

/// Time the watchdog grants the main loop, unless `phase.watchdog=` says otherwise. Four times the longest blocking step
/// seen (a 12 MiB read from a USB 2 stick, and `kexec_file_load` of 64 MiB on an emulated processor).
pub(crate) const WATCHDOG_TIMEOUT_SECONDS: u32 = 60;

/// The loop turns at least this often, for the watchdog and for hot-plugged power keys.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// A disk is waited for this long when there is no other source: slow USB hubs and RAID cards take up to ten seconds.
pub(crate) const DISK_WAIT_SECONDS: u32 = 10;

/// When another source exists: the set of devices must have been the same for this long before the disk is given up.
pub(crate) const DISK_SETTLE: Duration = Duration::from_secs(1);

/// The same when a USB storage device is plugged in: the driver waits one second before it looks for disks on it.
pub(crate) const DISK_SETTLE_USB: Duration = Duration::from_secs(3);

/// Interval of the looks at `/sys` while a disk is waited for.
pub(crate) const DISK_POLL: Duration = Duration::from_millis(100);

/// Where the squashfs starts in the artifacts partition; before it lies the manifest, padded with NUL bytes.
pub(crate) const DISK_SQUASHFS_OFFSET: u64 = 1 << 20;

/// Artifact partitions that are looked at: more than two sticks in one machine is an accident. The manifest of each is kept
/// until the newest is chosen, so this bounds memory too.
pub(crate) const DISKS_MAX: usize = 8;

/// Seconds the fatal screen stands before the machine restarts: time to read it, or to photograph it.
pub(crate) const REBOOT_WAIT_SECONDS: u32 = 60;

/// Longest accepted `phase.reboot_wait=`: one day.
pub(crate) const REBOOT_WAIT_SECONDS_MAX: u32 = 86_400;

/// `/proc/cmdline` is at most this long (COMMAND_LINE_SIZE of x86 and arm64, with the terminator).
pub(crate) const KERNEL_CMDLINE_MAX: usize = 2048;

/// Longest accepted `phase.provider=`.
pub(crate) const URL_MAX: usize = 512;

/// Members of `phase.bootstrap=`: two or three lead into a DHT, the others are for when those are gone.
pub(crate) const BOOTSTRAPS_MAX: usize = 8;

/// Longest of them: a host name has 253 characters, a peer id 52, and the rest of a multiaddress few.
pub(crate) const BOOTSTRAP_LENGTH_MAX: usize = 340;

/// Where a machine listens for others of the DHT. `plasmd` has the same number as its default; UDP 4011 is that of PXE.
pub(crate) const DHT_PORT: u16 = 4011;

/// Memory that must stay free beside everything counted when a successor is loaded: see `kexec::memory`.
pub(crate) const KEXEC_RESERVE_MIN: u64 = 16 << 20;

/// The same on a large machine; more does not help.
pub(crate) const KEXEC_RESERVE_MAX: u64 = 64 << 20;

/// A kernel's run-time size when its header does not say it: that of a full distribution kernel.
pub(crate) const KERNEL_RUNTIME_DEFAULT: u64 = 72 << 20;

/// Attempts to load a kernel before the next cold boot. Every load and every unload spends one; a boot needs two.
pub(crate) const KEXEC_LOADS: &str = "8";

/// Memory that must stay free beside the copy of the squashfs: what the programs need to serve it.
pub(crate) const IMAGE_RESERVE: u64 = 32 << 20;

/// Inodes of `/run/phase/images`: the copy, its directory, and nothing else.
pub(crate) const IMAGE_INODES: u32 = 8;

/// Bytes of `/etc/phase/image.json` that are read.
pub(crate) const IMAGE_INFO_MAX: u64 = 16 << 10;

/// Bytes of a root chain: what its format allows.
pub(crate) const ROOTS_MAX: u64 = boot_manifest::ROOT_CHAIN_SIZE_MAX as u64;

/// Shortest `phase.upgrade.poll=`: for trying things out.
pub(crate) const UPGRADE_POLL_SECONDS_MIN: u32 = 2;

/// Longest accepted `phase.upgrade.poll=` and `phase.upgrade.soak=`.
pub(crate) const DAY_SECONDS: u32 = 86_400;

/// Providers in `phase.upgrade.from=`: two or three are enough, and a command line has 2 KiB.
pub(crate) const UPGRADE_SOURCES_MAX: usize = 8;

/// Longest wait for one step of a disk (256 KiB, or one sector of the ledger) before it is given up: a stick that moves its
/// flash around pauses for seconds, a disk that spins up for ten, and the kernel itself repeats a request after thirty.
pub(crate) const DISK_STALL: Duration = Duration::from_secs(40);

/// Longest time for the ledger: a read, a write and a read back, each as slow as a disk may be.
pub(crate) const LEDGER_TOTAL: Duration = Duration::from_secs(90);

/// Longest time to write a slot and read it back: 64 MiB at 256 KiB/s.
pub(crate) const SLOT_TOTAL: Duration = Duration::from_secs(600);

/// How long a worker is listened to before the loop turns again.
pub(crate) const DISK_TURN: Duration = Duration::from_millis(20);

/// Bytes of a worker's answer that are read at once.
pub(crate) const DISK_ANSWER_STEP: usize = 64 << 10;

/// Space for the signed manifest at the start of a slot, as on the artifacts partition; padded with NUL bytes.
pub(crate) const SLOT_MANIFEST_AREA: u64 = DISK_SQUASHFS_OFFSET;

/// Space for the root documents behind it; padded with NUL bytes.
pub(crate) const SLOT_ROOTS_AREA: u64 = 1 << 20;

/// Records of a crash that are looked at: a kernel that died leaves two or three.
pub(crate) const CRASH_RECORDS_MAX: usize = 32;

/// Bytes of one that are read: the kernel writes at most so much of its log (`pstore.kmsg_bytes`), and then some.
pub(crate) const CRASH_RECORD_SIZE_MAX: u64 = 64 << 10;

/// What one child may tell of upgrades between two looks at it. Each holds at most eight files; a child that sends more is
/// asked again.
pub(crate) const NOTES_MAX: usize = 16;

/// The loop turns at most this often for an upgrade whose deadline is past.
pub(crate) const UPGRADE_TURN_MIN: Duration = Duration::from_millis(100);

/// Offers that are remembered with their chains: what one look brings from several sources.
pub(crate) const OFFERS_KEPT: usize = 4;

/// Bytes of what `net` hands over: some addresses and a lease.
pub(crate) const LEASE_SIZE_MAX: u64 = 16 << 10;

/// Bytes of a fingerprint: eight network cards of a hundred bytes each.
pub(crate) const FINGERPRINT_SIZE_MAX: u64 = 4 << 10;

/// Bytes of one word.
pub(crate) const WORD_SIZE_MAX: u64 = 16;

/// Machines with less memory reserve none for a crash: a quarter would be gone. Machines of 512 MiB say a little less.
pub(crate) const CRASH_MACHINE_MIN: u64 = 440 << 20;

/// Memory that a predecessor gets after a crash to write the reason down: the kernel takes 40 MiB while it unpacks itself,
/// the programs 16 MiB twice, and init its tables.
pub(crate) const CRASH_MEMORY: u64 = 112 << 20;

/// Machines without a disk that have so much can have their predecessor serve from it; others keep none for it.
pub(crate) const CRASH_MACHINE_LARGE: u64 = 900 << 20;

/// For that it needs its artifacts as well, copied once.
pub(crate) const CRASH_MEMORY_LARGE: u64 = 208 << 20;

/// How long the boot after a crash may take to write the reason down before the machine restarts anyway.
pub(crate) const RESCUE_TIME: Duration = Duration::from_secs(60);

/// The updater that must prove itself is asked again after this long without an answer.
pub(crate) const DRY_RUN_AGAIN: Duration = Duration::from_secs(20);

/// How often a soak looks at what programs have in use.
pub(crate) const GROWTH_INTERVAL: Duration = Duration::from_secs(5);
