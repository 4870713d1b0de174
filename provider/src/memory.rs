//! How much memory this machine can still give out, and the rule that serving stops below some of it: who boots others
//! must not be what the kernel ends for want of memory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the kernel says it.
const MEMINFO: &str = "/proc/meminfo";

/// Bytes of it that are read: what counts is its third line.
const MEMINFO_SIZE: usize = 1_024;

/// How long an answer holds. Memory that goes at 1 GiB/s is 100 MiB less by then.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Bytes that are kept free unless somebody says otherwise: what the kernel wants for the other programs and the network
/// of the smallest machine.
pub(crate) const RESERVE_MIB: u64 = 32;

/// The largest reserve that can be asked for: no machine has as much, so nothing is sent at all.
pub(crate) const RESERVE_MIB_MAX: u64 = 1 << 30;

/// The rule. The file is opened once, before a sandbox can be in the way.
#[derive(Debug)]
pub(crate) struct Reserve {
    bytes: u64,
    meminfo: Option<File>,
    started: Instant,
    /// When it was looked last, in milliseconds since `started`.
    looked: AtomicU64,
    is_low: AtomicBool,
}

impl Reserve {
    /// Keeps so many MiB free.
    pub(crate) fn of_mib(mib: u64) -> Self {
        Self::new(mib.saturating_mul(1 << 20))
    }

    /// Keeps so many bytes free; 0 is no rule, and neither is one where the kernel does not tell.
    pub(crate) fn new(bytes: u64) -> Self {
        let meminfo = (bytes > 0).then(|| File::open(MEMINFO).ok()).flatten();
        let reserve = Self {
            bytes,
            meminfo,
            started: Instant::now(),
            looked: AtomicU64::new(0),
            is_low: AtomicBool::new(false),
        };
        reserve.look();
        reserve
    }

    /// Bytes that are kept free.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether less than that is available. Looks ten times a second at most.
    pub(crate) fn is_low(&self) -> bool {
        if self.meminfo.is_none() {
            return false;
        }
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        let is_due = Duration::from_millis(now.saturating_sub(looked)) >= LOOK_PERIOD;
        // One of those who ask looks, the others go by what was seen last.
        let looks = |looked| {
            let swap =
                self.looked
                    .compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed);
            swap.is_ok()
        };
        if is_due && looks(looked) {
            self.look();
        }
        self.is_low.load(Ordering::Relaxed)
    }

    fn look(&self) {
        let mut text = [0; MEMINFO_SIZE];
        let Some(read) = self
            .meminfo
            .as_ref()
            .and_then(|file| file.read_at(&mut text, 0).ok())
        else {
            return;
        };
        let available = std::str::from_utf8(&text[..read])
            .ok()
            .and_then(available_in);
        let is_low = available.is_some_and(|available| available < self.bytes);
        if self.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            match is_low {
                true => tracing::warn!(
                    available,
                    reserve = self.bytes,
                    "too little memory: no artifacts are sent"
                ),
                false => tracing::info!(available, "enough memory again: artifacts are sent"),
            }
        }
    }
}

/// Bytes of memory that are available, when the kernel tells.
pub(crate) fn available() -> Option<u64> {
    available_in(&std::fs::read_to_string(MEMINFO).ok()?)
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory() {
        for (text, expected) in [
            (
                "MemTotal:  10 kB\nMemAvailable:   245760 kB\nBuffers: 1 kB\n",
                Some(245_760 << 10),
            ),
            ("MemAvailable:       0 kB\n", Some(0)),
            ("MemAvailable:       12\n", None),
            ("MemAvailable: 18446744073709551615 kB\n", None),
            ("MemTotal:  10 kB\n", None),
        ] {
            assert_eq!(available_in(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_reserve_above_all_memory_is_low_and_none_is_not() {
        assert!(available() > Some(0));
        assert!(Reserve::new(u64::MAX).is_low());
        assert!(!Reserve::new(1).is_low());
        assert!(!Reserve::new(0).is_low());
    }

    #[test]
    fn it_is_looked_again() {
        let reserve = Reserve::new(1);
        // As if it had been seen long ago.
        reserve.is_low.store(true, Ordering::Relaxed);
        let started = Instant::now();
        while reserve.is_low() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "it is never looked again"
            );
            std::thread::yield_now();
        }
    }
}
