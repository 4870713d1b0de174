//! Every number of TFTP, with its reason.

use std::time::Duration;

/// Bytes of a request that are looked at: one Ethernet frame. RFC 2347 allows 512, and firmware with long names exceeds that.
pub const REQUEST_SIZE_MAX: usize = 1468;

/// Bytes of a file name: the longest we serve have a channel, an architecture and a file name.
pub const NAME_SIZE_MAX: usize = 255;

/// Options of a request that are looked at; four mean something here. PXE ROMs send three or four, some twice.
pub const OPTIONS_MAX: usize = 16;

/// Bytes of a block without an option (RFC 1350).
pub const BLOCK_SIZE: u16 = 512;

/// The smallest block that can be asked for (RFC 2348).
pub const BLOCK_SIZE_MIN: u64 = 8;

/// The largest (RFC 2348).
pub const BLOCK_SIZE_MAX: u64 = 65_464;

/// Bytes before the block in a packet of data.
pub const HEADER_SIZE: usize = 4;

/// Blocks of a window: RFC 7440 measured that more gains nothing, and the receive ring of small network cards has 64 places.
pub const WINDOW_MAX: u64 = 64;

/// Bytes of a window: what one session may have on its way, and what a server needs room for to read it at once.
pub const WINDOW_BYTES_MAX: u64 = 128 * 1024;

/// Seconds of the option `timeout` (RFC 2349).
pub const TIMEOUT_SECONDS_MAX: u64 = 255;

/// How long the first packet of a transfer is waited for: it is lost often, while the switch or the neighbour's table is
/// cold, and then half a second is more than a whole small file needs.
pub const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The shortest wait for an acknowledgement: longer than a busy virtual machine or the flash of a slow one stops for. What is
/// sent again for nothing costs one window, and a client drops it.
pub const WAIT_MIN: Duration = Duration::from_millis(20);

/// The longest wait, unless the client asked for a longer one. EDK2 asks again after 4 s itself.
pub const WAIT_MAX: Duration = Duration::from_secs(4);

/// The longest wait whatever a client asks for.
pub const ASKED_WAIT_MAX: Duration = Duration::from_secs(16);

/// The shortest time between a repeated acknowledgement and the answer to it.
pub const HINT_WAIT_MIN: Duration = Duration::from_millis(1);

/// A client that was silent for so long is gone. EDK2 gives up after 6 times 4 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often the first packet is sent again to a client that has not answered yet. Its sender may be forged: then each goes to
/// somebody who asked for nothing. Real clients answer, or ask again themselves after some seconds.
pub const UNHEARD_RESENDS_MAX: u32 = 4;

/// A request that comes once more so soon after its client said something was on its way twice. One that was started again needs
/// longer to ask from the same port.
pub const TWICE_WITHIN: Duration = Duration::from_secs(1);

/// [`PATIENCE`] for the very last acknowledgement: the client has everything, and many just leave.
pub const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a client's error text that are kept.
pub const TEXT_SIZE_MAX: usize = 128;
