//! One line on a terminal that tells how far a download is.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Redraws per second that an eye can use.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The rate is that of the last seconds: long enough to be calm, short enough to show a change.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// More seconds than this are no forecast.
const LEFT_MAX: f64 = 100.0 * 3_600.0;

/// The line. It writes to stderr, and nothing when it is not shown.
pub(crate) struct Meter {
    name: String,
    shown: bool,
    began: Instant,
    drawn: Option<Instant>,
    rate: Rate,
}

/// Bytes per second over the last moments: what a person expects of the ones to come.
#[derive(Default)]
struct Rate {
    /// Times since the start, and bytes received until then.
    seen: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// A line for `name`.
    pub(crate) fn new(name: &str, shown: bool) -> Self {
        Self {
            name: name.to_owned(),
            shown,
            began: Instant::now(),
            drawn: None,
            rate: Rate::default(),
        }
    }

    /// Redraws the line, if it is time: `done` bytes are verified, `received` came in this run.
    pub(crate) fn update(&mut self, done: u64, received: u64, total: u64) {
        let now = Instant::now();
        let fresh = self
            .drawn
            .is_some_and(|drawn| now - drawn < REDRAW_INTERVAL);
        if !self.shown || fresh {
            return;
        }
        self.drawn = Some(now);
        let rate = self.rate.over(now - self.began, received);
        let line = line(&self.name, done, total, rate);
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

impl Rate {
    /// Takes note, and gives the rate when there is one.
    fn over(&mut self, now: Duration, received: u64) -> Option<f64> {
        self.seen.push_back((now, received));
        // One look before the window stays, so that a stalled transfer is seen to stall.
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now - *at >= RATE_WINDOW)
        {
            self.seen.pop_front();
        }
        let (from, before) = self.seen.front().copied()?;
        let time = now - from;
        (time >= REDRAW_INTERVAL).then(|| (received - before) as f64 / time.as_secs_f64())
    }
}

fn line(name: &str, done: u64, total: u64, rate: Option<f64>) -> String {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    let mut text = format!(
        "{name:<10} {percent:>3} %  {} of {}",
        size(done),
        size(total)
    );
    let Some(rate) = rate else {
        return text;
    };
    text += &format!("  {}/s", size(rate as u64));
    let left = (total.saturating_sub(done) as f64 / rate).ceil();
    if left < LEFT_MAX {
        let left = left as u64;
        text += &match (left / 3_600, left / 60 % 60, left % 60) {
            (0, minutes, seconds) => format!("  {minutes}:{seconds:02} left"),
            (hours, minutes, seconds) => format!("  {hours}:{minutes:02}:{seconds:02} left"),
        };
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
        for (done, total, rate, expected) in [
            (0, 10 * mib, None, "kernel       0 %  0 B of 10.0 MiB"),
            (
                5 * mib,
                10 * mib,
                Some(1),
                "kernel      50 %  5.0 MiB of 10.0 MiB  1.0 MiB/s  0:05 left",
            ),
            (
                6 * mib,
                606 * mib,
                Some(1),
                "kernel       0 %  6.0 MiB of 606.0 MiB  1.0 MiB/s  10:00 left",
            ),
            (
                0,
                3_661 * 2 * mib,
                Some(2),
                "kernel       0 %  0 B of 7.2 GiB  2.0 MiB/s  1:01:01 left",
            ),
            (
                10 * mib,
                10 * mib,
                Some(1),
                "kernel     100 %  10.0 MiB of 10.0 MiB  1.0 MiB/s  0:00 left",
            ),
            (
                5 * mib,
                10 * mib,
                Some(0),
                "kernel      50 %  5.0 MiB of 10.0 MiB  0 B/s",
            ),
            (0, 0, None, "kernel       0 %  0 B of 0 B"),
        ] {
            let rate = rate.map(|mibs: u64| (mibs * mib) as f64);
            assert_eq!(line("kernel", done, total, rate), expected);
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let second = Duration::from_secs(1);
        assert_eq!(rate.over(Duration::ZERO, 0), None);
        for at in 1..=20 {
            assert_eq!(rate.over(at * second, u64::from(at) * 100), Some(100.0));
        }
        let stalled: Vec<f64> = (21..=26)
            .filter_map(|at| rate.over(at * second, 2_000))
            .collect();
        assert_eq!(stalled.first(), Some(&80.0));
        assert_eq!(stalled.last(), Some(&0.0));
        assert!(rate.seen.len() <= 6, "{}", rate.seen.len());
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
