//! Every number of the table of machines, with its reason.

use std::time::Duration;

/// Machines that are remembered; of those nobody has decided about, the one that was quiet for longest makes room. A large
/// room of racks has 2,000; with 8 KiB for the wordiest one this is at most 32 MiB, usually 4.
pub(crate) const MACHINES_MAX: usize = 4_096;

/// Machines an operator may have decided about one by one; more are a matter for profiles.
pub(crate) const ORDERS_MAX: usize = 4_096;

/// Addresses whose machine is remembered: IPv4 and two of IPv6 for each.
pub(crate) const ADDRESSES_MAX: usize = 3 * MACHINES_MAX;

/// Addresses that are shown of one machine.
pub(crate) const ADDRESSES_SHOWN_MAX: usize = 4;

/// Bytes of a text that a machine says about itself: model names have 40.
pub(crate) const TEXT_MAX: usize = 96;

/// Bytes of an error, which may name a URL.
pub(crate) const ERROR_MAX: usize = 240;

/// Milestones of one boot that are kept; there are eleven kinds.
pub(crate) const MILESTONES_MAX: usize = 12;

/// Files of one boot that are fetched in parts: the kernel, its initial ramdisks, and one to spare.
pub(crate) const PARTS_MAX: usize = 4;

/// A machine that was silent for so long and asks again has been restarted, or switched on. Firmware's ladder of retries
/// ends after a minute, and a kernel with its image takes less over any network that people boot from.
pub(crate) const BOOT_GAP: Duration = Duration::from_secs(120);

/// A machine that was sent the same thing this often without ever telling of a later stage, one boot after the other within
/// [`LOOP_WINDOW`], goes round in circles.
pub(crate) const LOOP_BOOTS: u32 = 4;

/// The window of such boots. One boot of a server with much memory takes 10 minutes.
pub(crate) const LOOP_WINDOW: Duration = Duration::from_secs(60 * 60);

/// How long ago a machine may say that it reached a stage: no boot that anybody waits for takes longer.
pub(crate) const AGO_MAX: Duration = Duration::from_secs(60 * 60);

/// Bytes of the query of `/boot.ipxe` and `/boot/report`. iPXE's longest, with every name of a server, has 500.
pub(crate) const QUERY_MAX: usize = 1_500;

/// Fields of such a query.
pub(crate) const QUERY_FIELDS_MAX: usize = 24;

/// Profiles in a configuration. They are looked through for each machine that boots.
pub(crate) const PROFILES_MAX: usize = 256;

/// Machines named in a configuration.
pub(crate) const NAMED_MAX: usize = 1_024;

/// Patterns of one profile.
pub(crate) const PATTERNS_MAX: usize = 512;

/// Bytes of the kernel arguments of a profile or a `boot.toml`. The kernel reads 2 KiB on most architectures.
pub(crate) const CMDLINE_MAX: usize = 2_000;

/// Bytes of a `boot.toml`.
pub(crate) const BOOT_TOML_MAX: u64 = 16 * 1024;

/// Initial ramdisks of one payload.
pub(crate) const INITRDS_MAX: usize = 8;

/// Seconds that a menu waits for a key before it takes the first entry.
pub(crate) const MENU_SECONDS: u32 = 10;

/// The longest wait of a menu: an hour is for ever.
pub(crate) const MENU_SECONDS_MAX: u32 = 3_600;

/// The longest pause before an offer. iPXE has stopped listening after two seconds.
pub(crate) const DELAY_MS_MAX: u32 = 4_000;

/// How long what lies in a folder is believed: a storm of a thousand machines looks once.
pub(crate) const FOLDER_LOOK: Duration = Duration::from_secs(1);

/// Folders whose content is remembered for that long.
pub(crate) const FOLDERS_MAX: usize = 64;

/// How often the kernel's table of neighbours is read at most. An address that it does not know is asked for again after this.
pub(crate) const NEIGHBOURS_LOOK: Duration = Duration::from_secs(1);

/// Lines of that table which are read; the kernel keeps 1,024 by default.
pub(crate) const NEIGHBOURS_MAX: usize = 8_192;

/// Bytes of the state file: every decision with every text.
pub(crate) const STATE_SIZE_MAX: usize = 4 << 20;

/// How long changes that nobody waits for are gathered before the state file is written.
pub(crate) const STATE_PAUSE: Duration = Duration::from_secs(2);

/// How long until a state file that could not be written is tried again: a full disk is emptied by people.
pub(crate) const STATE_RETRY: Duration = Duration::from_secs(60);
