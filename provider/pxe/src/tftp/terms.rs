//! What a request's options are answered with (RFC 2347: only what was asked for, never more than what was asked for).

use std::time::Duration;

use super::limits::{
    ASKED_WAIT_MAX, BLOCK_SIZE, BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, PATIENCE, TIMEOUT_SECONDS_MAX,
    WAIT_MAX, WINDOW_BYTES_MAX, WINDOW_MAX,
};
use super::packet::{self, Known, Options};

/// How a transfer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of every block but the last.
    pub block_size: u16,
    /// Blocks that are sent before the client must acknowledge.
    pub window: u16,
    /// The longest wait before something is sent again.
    pub(super) wait_max: Duration,
    /// How long a silent client is believed in.
    pub(super) patience: Duration,
    /// What tells the client so; `None` when it asked for nothing.
    pub(super) oack: Option<Vec<u8>>,
    /// Whether the client asked for the size.
    pub(super) asks_for_size: bool,
}

impl Terms {
    /// What is agreed on for a file of `size` bytes. `room` is how many bytes of a block fit into a packet that is not cut into
    /// fragments on its way (C28).
    pub fn agree(options: &Options, size: u64, room: u16) -> Self {
        let mut terms = Self {
            block_size: BLOCK_SIZE,
            window: 1,
            wait_max: WAIT_MAX,
            patience: PATIENCE,
            oack: None,
            asks_for_size: options.asks_for_size(),
        };
        // The window depends on the blocks, in whatever order they were asked for.
        let block_size = options
            .get(Known::BlockSize)
            .filter(|asked| *asked >= BLOCK_SIZE_MIN)
            .map(|asked| {
                asked
                    .min(BLOCK_SIZE_MAX)
                    .min(u64::from(room).max(BLOCK_SIZE_MIN))
            });
        let in_bytes = WINDOW_BYTES_MAX / block_size.unwrap_or(u64::from(BLOCK_SIZE));
        let window = options
            .get(Known::WindowSize)
            .filter(|asked| *asked > 0)
            .map(|asked| asked.min(WINDOW_MAX).min(in_bytes.max(1)));
        let timeout = options
            .get(Known::Timeout)
            .filter(|asked| (1..=TIMEOUT_SECONDS_MAX).contains(asked));
        if let Some(seconds) = timeout {
            let asked = Duration::from_secs(seconds);
            terms.wait_max = asked.min(ASKED_WAIT_MAX);
            terms.patience = PATIENCE.max(2 * terms.wait_max);
        }
        let value = |option| match option {
            Known::BlockSize => block_size,
            Known::WindowSize => window,
            Known::Timeout => timeout,
            Known::TransferSize => Some(size),
        };
        let answers = options.asked.iter();
        let mut answers = answers
            .filter_map(|asked| Some((asked.spelling.as_slice(), value(asked.option)?)))
            .peekable();
        if answers.peek().is_some() {
            terms.oack = Some(packet::oack(answers));
        }
        let fits = |value: u64| u16::try_from(value).ok();
        terms.block_size = block_size.and_then(fits).unwrap_or(BLOCK_SIZE);
        terms.window = window.and_then(fits).unwrap_or(1);
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tftp::Request;

    // C26, C28
    #[test]
    fn only_what_was_asked_is_answered_and_never_more() {
        let check = |asked: &str, room: u16, expected: Option<&str>, sizes: (u16, u16)| {
            let packet = format!("\0\u{1}f\0octet\0{asked}");
            let options = Request::parse(packet.as_bytes()).unwrap().options;
            let terms = Terms::agree(&options, 100_000_000, room);
            let oack = expected.map(|text| format!("\0\u{6}{text}").into_bytes());
            assert_eq!(terms.oack, oack, "{asked:?}");
            assert_eq!((terms.block_size, terms.window), sizes, "{asked:?}");
        };
        check("", 1468, None, (512, 1));
        check("multicast\0\0", 1468, None, (512, 1));
        check("tsize\x000\0", 1468, Some("tsize\x00100000000\0"), (512, 1));
        check(
            "BlkSize\x001024\0",
            1468,
            Some("BlkSize\x001024\0"),
            (1024, 1),
        );
        check(
            "blksize\x008192\0",
            1468,
            Some("blksize\x001468\0"),
            (1468, 1),
        );
        check(
            "blksize\x008192\0",
            8968,
            Some("blksize\x008192\0"),
            (8192, 1),
        );
        check(
            "blksize\x0099999\0",
            65_464,
            Some("blksize\x0065464\0"),
            (65_464, 1),
        );
        check("blksize\x007\0", 1468, None, (512, 1));
        check(
            "windowsize\x004\0",
            1468,
            Some("windowsize\x004\0"),
            (512, 4),
        );
        check(
            "windowsize\x0065535\0",
            1468,
            Some("windowsize\x0064\0"),
            (512, 64),
        );
        check("windowsize\x000\0timeout\x000\0", 1468, None, (512, 1));
        check("timeout\x00256\0timeout\x001\0", 1468, None, (512, 1));
        check("timeout\x00255\0", 1468, Some("timeout\x00255\0"), (512, 1));
        // In their order; the window has room for two blocks of this size.
        check(
            "windowsize\x0016\0blksize\x0060000\0",
            65_464,
            Some("windowsize\x002\0blksize\x0060000\0"),
            (60_000, 2),
        );
    }
}
