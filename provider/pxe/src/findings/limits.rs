//! Every number of the findings, with its reason.

use std::time::Duration;

/// Machines that are watched at once: a storm in a large hall. The one that was silent longest goes first. A story of a kilobyte for
/// each of its messages makes 100 MB of all, when somebody floods the network on purpose.
pub(super) const STORIES_MAX: usize = 1_024;

/// Questions, and answers, that are kept of one machine: the last ones, several boots long.
pub(super) const MESSAGES_MAX: usize = 48;

/// Transfers, and connections, that are kept of one machine.
pub(super) const TRANSFERS_MAX: usize = 48;

/// Addresses of one machine: its own before and after, and those it looked for.
pub(super) const ADDRESSES_MAX: usize = 16;

/// Requests on one connection: firmware sends two.
pub(super) const REQUESTS_MAX: usize = 16;

/// How much of a name, a path or a text is kept.
pub(super) const TEXT_MAX: usize = 255;

/// When a question counts as unanswered. EDK2 collects offers for 4 s before it asks again (C17).
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(4);

/// EDK2 asks port 4011 again after a second (C3).
pub(super) const BINL_WAIT: Duration = Duration::from_secs(1);

/// A boot offer that comes later is lost on iPXE, which waits 2 s from its start (C16): half of it is for slow links.
pub(super) const OFFER_WAIT: Duration = Duration::from_secs(1);

/// Between an accepted offer and the first step to the boot file: firmware needs less than a second, emulated machines up to 15.
pub(super) const STEP_WAIT: Duration = Duration::from_secs(20);

/// A transfer on which nothing moved for so long is dead: EDK2 repeats its acknowledgement every 4 s (C31).
pub(super) const TRANSFER_WAIT: Duration = Duration::from_secs(10);

/// A machine that asks again so soon after it took its boot file did not run it: a restart with a working system takes longer.
pub(super) const RETURN_WAIT: Duration = Duration::from_secs(90);

/// A machine that began to ask so long before it was first seen was not heard: a port of a switch listens for 15 s and learns
/// for as long before it forwards (spanning tree).
pub(super) const UNHEARD_SECONDS: u16 = 8;

/// A watch must run so long before what it has not seen means anything.
pub(super) const WARM_UP: Duration = Duration::from_secs(10);

/// Unanswered ARP requests that count: one is often lost.
pub(super) const ARP_TRIES: u32 = 3;

/// ARP requests further apart are not tries of one question.
pub(super) const ARP_WAIT: Duration = Duration::from_secs(5);

/// Whole boots in a row before a machine counts as one that boots for ever (C54).
pub(super) const BOOTS_IN_A_ROW: usize = 3;

/// The time in which they must be.
pub(super) const BOOTS_WITHIN: Duration = Duration::from_secs(1_800);

/// Blocks that may be sent again without a word, of a hundred.
pub(super) const REPEATS_PERCENT: u64 = 3;

/// Fewer repeated blocks say nothing about a cable.
pub(super) const REPEATS_MIN: u64 = 8;

/// What a datagram of DHCP may have without option 57, headers of IP and UDP included (RFC 2131).
pub(super) const MESSAGE_SIZE: usize = 576;

/// The headers of IP and UDP.
pub(super) const HEADERS: usize = 28;

/// The largest TFTP block that fits into one Ethernet frame (C28).
pub(super) const BLOCK_IN_FRAME: u64 = 1_468;

/// What option 13 can say: 16 bits of 512-byte units (C22).
pub(super) const BOOT_SIZE_UNIT: u64 = 512;
