//! Whether a transfer is fast enough. No clock: the caller says how long it waited.
//!
//! Only time spent waiting for the network counts. A slow disk on this side must not make a good server look bad.

use std::fmt;
use std::time::Duration;

/// The record of one body.
#[derive(Debug)]
pub(crate) struct Pace {
    window: Duration,
    rate_min: u64,
    /// Of the current window.
    waited: Duration,
    bytes: u64,
    /// Of the whole body.
    received: u64,
}

/// What took too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TooSlow {
    /// No response header came.
    Header {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The body came below the smallest rate.
    Rate {
        /// Bytes in the window.
        bytes: u64,
        /// Length of the window.
        window: Duration,
        /// Bytes per second that were expected.
        rate_min: u64,
    },
    /// Other sources are much faster.
    Others {
        /// Bytes per second of this one.
        rate: u64,
        /// Bytes per second of the fastest one.
        best: u64,
    },
    /// Nothing came from it, again and again, and others have the same.
    Stalled,
    /// The whole fetch was not done in time.
    Total {
        /// The time it had.
        limit: Duration,
    },
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { waited } => write!(f, "no answer within {waited:?}"),
            Self::Rate {
                bytes,
                window,
                rate_min,
            } => {
                write!(
                    f,
                    "{bytes} bytes in {window:?}; at least {rate_min} bytes per second are expected"
                )
            }
            Self::Others { rate, best } => {
                write!(
                    f,
                    "{rate} bytes per second, and another source brings {best}"
                )
            }
            Self::Stalled => f.write_str("nothing came, more than once"),
            Self::Total { limit } => write!(f, "not done within {limit:?}"),
        }
    }
}

impl Pace {
    pub(crate) fn new(window: Duration, rate_min: u64) -> Self {
        Self {
            window,
            rate_min,
            waited: Duration::ZERO,
            bytes: 0,
            received: 0,
        }
    }

    /// How long to wait for the next bytes at most.
    pub(crate) fn patience(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// Bytes of the body so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Records a wait and what it brought.
    pub(crate) fn waited(&mut self, waited: Duration, bytes: usize) -> Result<(), TooSlow> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited += waited;
        if self.waited < self.window {
            return Ok(());
        }
        let (window, rate_min) = (self.window, self.rate_min);
        let enough = u128::from(rate_min) * self.waited.as_millis() / 1_000;
        if u128::from(self.bytes) < enough {
            return Err(TooSlow::Rate {
                bytes: self.bytes,
                window,
                rate_min,
            });
        }
        self.waited = Duration::ZERO;
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(Duration::from_secs(30), 1_024)
    }

    #[test]
    fn one_byte_a_second_ends_with_the_window() {
        let mut pace = pace();
        for _ in 0..29 {
            assert_eq!(pace.waited(SECOND, 1), Ok(()));
        }
        assert_eq!(pace.patience(), SECOND);
        let slow = pace.waited(SECOND, 1).expect_err("too slow");
        assert_eq!(
            slow,
            TooSlow::Rate {
                bytes: 30,
                window: Duration::from_secs(30),
                rate_min: 1_024
            }
        );
        assert_eq!(pace.received(), 30);
    }

    #[test]
    fn a_pause_within_the_average_is_forgiven_and_does_not_save_up() {
        let mut pace = pace();
        assert_eq!(pace.waited(SECOND, 30 * 1_024), Ok(()));
        assert_eq!(
            pace.waited(29 * SECOND, 0),
            Ok(()),
            "the average of the window is enough"
        );
        assert_eq!(pace.waited(SECOND, 1 << 30), Ok(()));
        assert_eq!(pace.waited(29 * SECOND, 0), Ok(()));
        assert!(
            pace.waited(30 * SECOND, 0).is_err(),
            "speed of an earlier window does not count"
        );
    }

    #[test]
    fn a_fast_transfer_is_never_slow() {
        let mut pace = pace();
        for _ in 0..10_000 {
            assert_eq!(pace.waited(Duration::from_millis(10), 1_024), Ok(()));
        }
    }
}
