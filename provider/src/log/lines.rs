//! How many lines a second strangers may cause: whoever sends forged packets must not fill the log. What is left out is
//! counted elsewhere all the same.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in a second about what strangers sent: a rack that is switched on is logged whole, and no disk is full of forged
/// questions.
const LINES_PER_SECOND_MAX: u32 = 64;

/// The second that runs, and the lines written in it.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<Option<(Instant, u32)>>);

impl Lines {
    /// Whether one more line may be written in this second.
    pub(crate) fn may_tell(&self, now: Instant) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running =
            |began: &Instant| now.saturating_duration_since(*began) < Duration::from_secs(1);
        let (began, told) = second
            .filter(|(began, _)| is_running(began))
            .unwrap_or((now, 0));
        *second = Some((began, told.saturating_add(1)));
        told < LINES_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_so_many_lines_in_a_second_and_goes_on_in_the_next() {
        let (lines, start) = (Lines::default(), Instant::now());
        let told = |ms| {
            let now = start + Duration::from_millis(ms);
            (0..1_000).filter(|_| lines.may_tell(now)).count()
        };
        let max = usize::try_from(LINES_PER_SECOND_MAX).unwrap();
        assert_eq!([told(0), told(999), told(1_000)], [max, 0, max]);
    }
}
