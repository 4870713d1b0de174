//! How long to hold back so that a rate is not exceeded. No clock: the caller says what time it is.

use std::num::NonZeroU64;
use std::time::Duration;

/// One allowance for all connections of a fetch.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: Option<NonZeroU64>,
    /// When everything taken so far will have been allowed.
    paid_until: Duration,
}

impl Throttle {
    pub(crate) fn new(rate: Option<NonZeroU64>) -> Self {
        Self {
            rate,
            paid_until: Duration::ZERO,
        }
    }

    /// Takes note of bytes that arrived, and tells how long to read nothing. Time in which nothing came is not saved up.
    pub(crate) fn take(&mut self, bytes: usize, now: Duration) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let nanos = u128::try_from(bytes).unwrap_or(u128::MAX) * 1_000_000_000;
        let cost = u64::try_from(nanos / u128::from(rate.get())).unwrap_or(u64::MAX);
        self.paid_until = self.paid_until.max(now) + Duration::from_nanos(cost);
        self.paid_until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_rate_is_kept_over_all_pieces() {
        let mut throttle = Throttle::new(NonZeroU64::new(1_000_000));
        assert_eq!(throttle.take(1_000, 10 * MS), MS);
        assert_eq!(
            throttle.take(1_000, 10 * MS),
            2 * MS,
            "two connections share it"
        );
        assert_eq!(throttle.take(500, 12 * MS), MS / 2);
        assert_eq!(throttle.take(1_000, 500 * MS), MS, "a pause was saved up");
        assert_eq!(Throttle::new(None).take(usize::MAX, MS), Duration::ZERO);
    }
}
