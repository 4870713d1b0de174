//! How long to wait before something is sent again: measured, as TCP does (RFC 6298), and doubled with every silence.

use std::time::Duration;

use super::limits::{FIRST_WAIT, HINT_WAIT_MIN, WAIT_MIN};

/// What is known of the way to a client and back.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Smoothed round trip and how much it varies; nothing before the first.
    measured: Option<(Duration, Duration)>,
    /// The shortest round trip; zero before the first.
    shortest: Duration,
    /// Silences in a row.
    silences: u32,
    wait_max: Duration,
}

impl Pace {
    pub(super) fn new(wait_max: Duration) -> Self {
        Self {
            measured: None,
            shortest: Duration::ZERO,
            silences: 0,
            wait_max,
        }
    }

    /// An answer came after `took`, to something that was sent once. What was sent twice measures nothing: nobody knows to
    /// which of the two the answer was.
    pub(super) fn measured(&mut self, took: Duration) {
        self.shortest = match self.measured {
            None => took,
            Some(_) => self.shortest.min(took),
        };
        self.measured = Some(match self.measured {
            None => (took, took / 2),
            Some((smooth, varies)) => {
                let off = smooth.abs_diff(took);
                ((smooth * 7 + took) / 8, (varies * 3 + off) / 4)
            }
        });
    }

    /// The client goes on.
    pub(super) fn went_on(&mut self) {
        self.silences = 0;
    }

    /// Nothing came in time.
    pub(super) fn silent(&mut self) {
        self.silences = self.silences.saturating_add(1);
    }

    /// Silences in a row.
    pub(super) fn silences(&self) -> u32 {
        self.silences
    }

    /// How long to wait for the answer to what is sent now.
    pub(super) fn wait(&self) -> Duration {
        let first = match self.measured {
            None => FIRST_WAIT,
            Some((smooth, varies)) => (smooth + varies * 4).max(WAIT_MIN),
        };
        let factor = 1_u32.checked_shl(self.silences).unwrap_or(u32::MAX);
        first.saturating_mul(factor).min(self.wait_max)
    }

    /// The shortest time to the client and back; zero when nothing is known.
    pub(super) fn shortest(&self) -> Duration {
        self.shortest
    }

    /// How long to wait after a client said that it lacks something which is on its way: if it is, the client will say so.
    pub(super) fn hint_wait(&self) -> Duration {
        let trip = self.measured.map_or(FIRST_WAIT, |(smooth, _)| smooth * 2);
        trip.clamp(HINT_WAIT_MIN, self.wait_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    // C31
    #[test]
    fn waits_begin_short_and_double() {
        let mut pace = Pace::new(Duration::from_secs(4));
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push(pace.wait().as_millis());
            pace.silent();
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 4000, 4000]);
        for _ in 0..100 {
            pace.silent();
        }
        assert_eq!(pace.wait(), Duration::from_secs(4));
        pace.went_on();
        assert_eq!(pace.wait(), 250 * MS);
    }

    #[test]
    fn waits_follow_the_client() {
        let mut pace = Pace::new(Duration::from_secs(4));
        for _ in 0..50 {
            pace.measured(MS);
        }
        assert_eq!(pace.wait(), WAIT_MIN);
        assert_eq!(pace.hint_wait(), 2 * MS);
        for _ in 0..50 {
            pace.measured(200 * MS);
        }
        assert!(pace.wait() > 199 * MS && pace.wait() < 300 * MS);
        // One that stumbles is given more time.
        pace.measured(800 * MS);
        assert!(pace.wait() > 700 * MS);
    }
}
