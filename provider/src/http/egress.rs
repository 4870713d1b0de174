//! One rate for the artifacts that all connections are sent together.
//!
//! A line, not a bucket: whoever wants to send takes the next turn of the line, and waits until it begins. So all get
//! their part of the rate in turns, however many there are, and nobody who joins takes more than one turn ahead of others.

use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::http::limits::{EGRESS_TURN, EGRESS_TURN_SIZE_MAX, EGRESS_TURN_SIZE_MIN};

/// The line.
#[derive(Debug)]
pub(crate) struct Egress {
    rate: NonZeroU64,
    started: Instant,
    line: Mutex<Line>,
}

/// Whose turn it is. No clock: the caller says what time it is.
#[derive(Debug)]
struct Line {
    rate: NonZeroU64,
    /// When everything that was given out is sent.
    ends: Duration,
}

/// A turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Bytes that may be sent in it.
    pub(crate) size: u64,
    /// Until it begins.
    pub(crate) wait: Duration,
}

impl Egress {
    /// So many bytes a second.
    pub(crate) fn new(rate: NonZeroU64) -> Self {
        Self {
            rate,
            started: Instant::now(),
            line: Mutex::new(Line {
                rate,
                ends: Duration::ZERO,
            }),
        }
    }

    /// Bytes a second.
    pub(crate) fn rate(&self) -> NonZeroU64 {
        self.rate
    }

    /// The next turn, for somebody who has so many bytes to send.
    pub(crate) fn take(&self, wanted: u64) -> Turn {
        let now = self.started.elapsed();
        self.line().take(wanted, now)
    }

    /// Gives back what was not sent, so that others are.
    pub(crate) fn give_back(&self, size: u64) {
        let mut line = self.line();
        line.ends = line.ends.saturating_sub(line.cost(size));
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Whole at every unlock.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn take(&mut self, wanted: u64, now: Duration) -> Turn {
        let turn = u128::from(self.rate.get()) * EGRESS_TURN.as_millis() / 1_000;
        let turn = u64::try_from(turn).unwrap_or(u64::MAX);
        let size = wanted.min(turn.clamp(EGRESS_TURN_SIZE_MIN, EGRESS_TURN_SIZE_MAX));
        // Timers come late by a part of a turn. More time in which nobody sent is not saved up.
        let begins = self.ends.max(now.saturating_sub(EGRESS_TURN));
        self.ends = begins.saturating_add(self.cost(size));
        Turn {
            size,
            wait: begins.saturating_sub(now),
        }
    }

    fn cost(&self, size: u64) -> Duration {
        let nanos = u128::from(size) * 1_000_000_000 / u128::from(self.rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn everybody_gets_turns_and_nothing_is_saved_up() {
        let mut line = Line {
            rate: NonZeroU64::new(1_000_000).unwrap(),
            ends: Duration::ZERO,
        };
        let turn = |size, wait| Turn { size, wait };
        assert_eq!(line.take(1 << 30, 100 * MS), turn(10_000, Duration::ZERO));
        assert_eq!(line.take(1 << 30, 100 * MS), turn(10_000, Duration::ZERO));
        assert_eq!(line.take(1 << 30, 100 * MS), turn(10_000, 10 * MS));
        assert_eq!(line.take(500, 105 * MS), turn(500, 15 * MS));
        assert_eq!(line.take(500, 105 * MS).wait, 15 * MS + MS / 2);
        assert_eq!(
            line.take(1, 900 * MS),
            turn(1, Duration::ZERO),
            "a pause was saved up"
        );
    }

    #[test]
    fn what_is_not_sent_can_be_sent_by_others() {
        let egress = Egress::new(NonZeroU64::new(4_096).unwrap());
        let turn = egress.take(1 << 20);
        assert_eq!(
            turn,
            Turn {
                size: 4_096,
                wait: Duration::ZERO
            }
        );
        assert!(egress.take(1 << 20).wait > 900 * MS);
        egress.give_back(4_096);
        assert!(egress.take(0).wait > 900 * MS);
        egress.give_back(4_096);
        assert_eq!(egress.take(1 << 20).wait, Duration::ZERO);
    }

    #[test]
    fn extreme_rates_neither_stop_nor_overflow() {
        for (rate, size) in [(1, EGRESS_TURN_SIZE_MIN), (u64::MAX, EGRESS_TURN_SIZE_MAX)] {
            let mut line = Line {
                rate: NonZeroU64::new(rate).unwrap(),
                ends: Duration::ZERO,
            };
            for _ in 0..1_000 {
                assert_eq!(line.take(u64::MAX, Duration::ZERO).size, size);
            }
        }
    }
}
