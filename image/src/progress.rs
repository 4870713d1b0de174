//! What the tool is doing, one line a step, with the time it took. On stderr: stdout belongs to results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Prints steps as they end. On a terminal the running step is shown too.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    live: bool,
}

/// How a step ended, for the word in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The work was done.
    Done,
    /// The result was there already.
    Unchanged,
}

impl Progress {
    /// Progress on stderr.
    pub fn new() -> Self {
        Self {
            live: std::io::stderr().is_terminal(),
        }
    }

    /// Runs one step and prints its name, what `work` says of it and its duration.
    pub fn step<T, E>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(T, Outcome), E>,
    ) -> Result<T, E> {
        let started = Instant::now();
        self.begin(name);
        let result = work();
        let word = match &result {
            Ok((_, Outcome::Done)) => "done",
            Ok((_, Outcome::Unchanged)) => "unchanged",
            Err(_) => "failed",
        };
        self.end(name, word, started.elapsed());
        result.map(|(value, _)| value)
    }

    /// Announces a step whose own output follows (cargo, apt).
    pub fn announce(&self, name: &str, detail: &str) {
        eprintln!("  {name:<12} {detail}");
    }

    /// Shows a running step on a terminal; [`Progress::end`] replaces the line.
    pub fn begin(&self, name: &str) {
        if self.live {
            eprint!("  {name:<12} ...\r");
            let _ = std::io::stderr().flush();
        }
    }

    /// Whether somebody watches: then lines may be replaced as often as they change.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Says how far a running step is: in place on a terminal, else as a line of its own.
    pub fn note(&self, name: &str, detail: &str) {
        if self.live {
            eprint!("  {name:<12} {detail:<60}\r");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("  {name:<12} {detail}");
        }
    }

    /// Prints a finished step.
    pub fn end(&self, name: &str, word: &str, took: Duration) {
        eprintln!("  {name:<12} {word:<44} {:>7.1} s", took.as_secs_f64());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A size as people read it, with three significant digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let check = |bytes, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.00 KiB");
        check(12_400_000, "11.8 MiB");
        check(1_000 * 1024, "0.98 MiB");
        check(250 << 20, "250 MiB");
        check(3 << 40, "3.00 TiB");
    }
}
