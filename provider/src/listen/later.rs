//! Answers that are due later: some ROMs miss one that comes at once.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::listen::limits::LATER_MAX;

/// Things with the time at which they are due. What does not fit is due at once.
#[derive(Debug)]
pub(super) struct Later<T> {
    waiting: BTreeMap<(Instant, u64), T>,
    next: u64,
}

impl<T> Later<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    /// Keeps something until `due`; given back when too much waits already.
    pub(super) fn keep(&mut self, due: Instant, thing: T) -> Result<(), T> {
        if self.waiting.len() >= LATER_MAX {
            return Err(thing);
        }
        self.next = self.next.wrapping_add(1);
        self.waiting.insert((due, self.next), thing);
        Ok(())
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }

    /// What is due at `now`, in order.
    pub(super) fn take(&mut self, now: Instant) -> impl Iterator<Item = T> {
        let rest = self.waiting.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.waiting, rest).into_values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn things_come_in_order_and_when_they_are_due() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut later = Later::new();
        for (ms, thing) in [(30, "c"), (10, "a"), (10, "b")] {
            later.keep(at(ms), thing).unwrap();
        }
        assert_eq!(later.take(at(9)).count(), 0);
        assert_eq!(later.next(), Some(at(10)));
        assert_eq!(later.take(at(10)).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(later.take(at(99)).collect::<Vec<_>>(), ["c"]);
        assert_eq!(later.next(), None);
    }

    #[test]
    fn what_does_not_fit_is_given_back() {
        let mut later = Later::new();
        let now = Instant::now();
        for thing in 0..LATER_MAX {
            later.keep(now, thing).unwrap();
        }
        assert_eq!(later.keep(now, 7), Err(7));
    }
}
