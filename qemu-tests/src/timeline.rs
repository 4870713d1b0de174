//! What happened when, on one clock for all machines of a story: the transcript a test leaves behind.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line of the transcript.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Since the story began.
    pub at: Duration,
    /// Who: a machine's name, or `lan`.
    pub who: String,
    /// What happened, one line.
    pub what: String,
}

/// The shared transcript. Clones write to the same one.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Instant,
    marks: Arc<Mutex<Vec<Mark>>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            marks: Arc::default(),
        }
    }
}

impl Timeline {
    /// Writes a line with the present time and returns that time.
    pub fn mark(&self, who: &str, what: impl Into<String>) -> Duration {
        self.mark_at(Instant::now(), who, what)
    }

    /// Writes a line for something that happened at `at`.
    pub fn mark_at(&self, at: Instant, who: &str, what: impl Into<String>) -> Duration {
        let at = at.saturating_duration_since(self.start);
        let mark = Mark {
            at,
            who: who.to_owned(),
            what: what.into(),
        };
        self.marks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(mark);
        at
    }

    /// Everything so far, in order of time.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks = self
            .marks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        marks.sort_by_key(|mark| mark.at);
        marks
    }

    /// Time since the story began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Mark { at, who, what } in self.marks() {
            writeln!(f, "  {:>6.1} s  {who}: {what}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_printed_in_order_of_time() {
        let timeline = Timeline::default();
        let early = Instant::now();
        timeline.mark("b", "second");
        timeline.mark_at(early, "a", "first");
        let printed = timeline.to_string();
        assert_eq!(
            printed
                .lines()
                .map(|line| line.trim_start())
                .collect::<Vec<_>>(),
            ["0.0 s  a: first", "0.0 s  b: second"]
        );
    }
}
