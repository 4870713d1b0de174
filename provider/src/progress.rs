//! One line on a terminal that tells how far a download is.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Redraws per second that an eye can use.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The line. It writes to stderr, and nothing when it is not shown.
pub(crate) struct Meter {
    name: String,
    resumed: u64,
    shown: bool,
    began: Instant,
    drawn: Option<Instant>,
}

impl Meter {
    /// A line for `name`, of which `resumed` bytes were there before.
    pub(crate) fn new(name: &str, resumed: u64, shown: bool) -> Self {
        Self {
            name: name.to_owned(),
            resumed,
            shown,
            began: Instant::now(),
            drawn: None,
        }
    }

    /// Redraws the line, if it is time.
    pub(crate) fn update(&mut self, done: u64, total: u64) {
        let now = Instant::now();
        let fresh = self
            .drawn
            .is_some_and(|drawn| now - drawn < REDRAW_INTERVAL);
        if !self.shown || fresh {
            return;
        }
        self.drawn = Some(now);
        let line = line(&self.name, self.resumed, done, total, now - self.began);
        // A terminal that is gone must not end the download.
        let _gone = write!(std::io::stderr(), "\r{line}\x1b[K");
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let _gone = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(name: &str, resumed: u64, done: u64, total: u64, elapsed: Duration) -> String {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    let mut text = format!(
        "{name:<10} {percent:>3} %  {} of {}",
        size(done),
        size(total)
    );
    let fetched = done.saturating_sub(resumed);
    if fetched > 0 && elapsed >= REDRAW_INTERVAL {
        let rate = fetched as f64 / elapsed.as_secs_f64();
        let left = (total.saturating_sub(done) as f64 / rate).ceil() as u64;
        text += &format!(
            "  {}/s  {}:{:02} left",
            size(rate as u64),
            left / 60,
            left % 60
        );
    }
    text
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mib = 1 << 20;
        for (resumed, done, total, seconds, expected) in [
            (0, 0, 10 * mib, 0, "kernel       0 %  0 B of 10.0 MiB"),
            (
                0,
                5 * mib,
                10 * mib,
                5,
                "kernel      50 %  5.0 MiB of 10.0 MiB  1.0 MiB/s  0:05 left",
            ),
            (
                5 * mib,
                6 * mib,
                606 * mib,
                1,
                "kernel       0 %  6.0 MiB of 606.0 MiB  1.0 MiB/s  10:00 left",
            ),
            (
                0,
                10 * mib,
                10 * mib,
                1,
                "kernel     100 %  10.0 MiB of 10.0 MiB  10.0 MiB/s  0:00 left",
            ),
            (0, 0, 0, 1, "kernel       0 %  0 B of 0 B"),
        ] {
            assert_eq!(
                line("kernel", resumed, done, total, Duration::from_secs(seconds)),
                expected
            );
        }
    }

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1 << 50, "1024.0 TiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
