//! When a child that ended is started again.
//!
//! Pure: times are arguments. The delay doubles from [`limits::RESTART_DELAY_MIN`] to [`limits::RESTART_DELAY_MAX`] with
//! every crash in a row; a child that ran for [`limits::RESTART_FORGIVEN_AFTER`] starts again from the smallest delay.
//! There is no last attempt: a machine without its server is useless, and an operator may repair the cause meanwhile.

use std::time::{Duration, Instant};

use crate::limits;

/// The history of one child.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Restarts {
    /// Ends in a row without a healthy run between them.
    in_a_row: u32,
    /// Ends since the machine started.
    total: u32,
}

impl Restarts {
    /// Notes that the child ended after it ran for `ran`, and says when it is started again.
    pub(crate) fn ended(&mut self, now: Instant, ran: Duration) -> Instant {
        if ran >= limits::RESTART_FORGIVEN_AFTER {
            self.in_a_row = 0;
        }
        let delay = delay(self.in_a_row);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.total = self.total.saturating_add(1);
        now + delay
    }

    /// Ends since the machine started.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}

fn delay(in_a_row: u32) -> Duration {
    let doubled = 2_u32
        .checked_pow(in_a_row)
        .and_then(|factor| limits::RESTART_DELAY_MIN.checked_mul(factor));
    doubled
        .unwrap_or(limits::RESTART_DELAY_MAX)
        .min(limits::RESTART_DELAY_MAX)
}

/// How a process ended, in words and as the number a shell would show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited by itself.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => {
                write!(f, "was ended by signal {signal} (status {})", 128 + signal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let now = Instant::now();
        let mut restarts = Restarts::default();
        let mut delays = Vec::new();
        for _ in 0..10 {
            delays.push((restarts.ended(now, Duration::ZERO) - now).as_millis());
        }
        assert_eq!(
            delays,
            [
                250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000
            ]
        );
        assert_eq!(restarts.total(), 10);
    }

    #[test]
    fn a_healthy_run_forgives() {
        let now = Instant::now();
        let mut restarts = Restarts::default();
        for _ in 0..20 {
            restarts.ended(now, Duration::from_secs(1));
        }
        let next = restarts.ended(now, limits::RESTART_FORGIVEN_AFTER);
        assert_eq!(next - now, limits::RESTART_DELAY_MIN);
        let next = restarts.ended(now, Duration::from_secs(59));
        assert_eq!(
            next - now,
            limits::RESTART_DELAY_MIN * 2,
            "one second less does not"
        );
        assert_eq!(restarts.total(), 22);
    }

    #[test]
    fn counters_never_overflow() {
        let now = Instant::now();
        let mut restarts = Restarts {
            in_a_row: u32::MAX,
            total: u32::MAX,
        };
        assert_eq!(
            restarts.ended(now, Duration::ZERO) - now,
            limits::RESTART_DELAY_MAX
        );
    }

    #[test]
    fn ends_are_told_as_a_shell_would() {
        assert_eq!(Ended::Code(3).to_string(), "exited with 3");
        assert_eq!(
            Ended::Signal(9).to_string(),
            "was ended by signal 9 (status 137)"
        );
    }
}
