//! The hardware watchdog: opened first thing, fed only by the main loop, so a hung `init` restarts the machine.
//!
//! It is disarmed (the magic close) for a power-off only. Before a restart or a kexec it stays armed: whatever comes next
//! has one time-out to open it, or the machine resets. Three words on the kernel command line see to that:
//! `watchdog.stop_on_reboot=0`, or the kernel stops it on the way; `watchdog.open_timeout=`, or the next kernel feeds it for
//! ever; and for a driver that stops it when it starts, `nowayout=1`, which locks the hardware.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys;

/// An armed watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    device: File,
    timeout_seconds: u32,
    fed: Instant,
    caused_reset: bool,
}

impl Watchdog {
    /// Arms the first watchdog. `None` when the machine has none; the text says what the console should know.
    pub(crate) fn open(
        device: &Path,
        timeout_seconds: u32,
        now: Instant,
    ) -> (Option<Self>, Option<String>) {
        let device = match OpenOptions::new().write(true).open(device) {
            Ok(device) => device,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (None, None),
            Err(error) => {
                return (
                    None,
                    Some(format!("the watchdog cannot be opened: {error}")),
                );
            }
        };
        let caused_reset = sys::watchdog_caused_reset(&device);
        let note = caused_reset
            .then(|| "the last restart was the watchdog's: the machine had hung".to_owned());
        // A driver without this call keeps its own time-out, which is what the feeding interval must fit: 15 s or more in
        // every driver of the kernel.
        let timeout_seconds = sys::set_watchdog_timeout(&device, timeout_seconds).unwrap_or(15);
        let mut watchdog = Self {
            device,
            timeout_seconds,
            fed: now,
            caused_reset,
        };
        watchdog.feed(now);
        (Some(watchdog), note)
    }

    /// Whether it was what restarted the machine.
    pub(crate) fn caused_reset(&self) -> bool {
        self.caused_reset
    }

    /// Whether it could say so.
    pub(crate) fn tells_resets(&self) -> bool {
        sys::watchdog_tells_resets(&self.device)
    }

    /// Sets another time-out and feeds it. What the hardware does not take leaves the one in force.
    pub(crate) fn set_timeout(&mut self, seconds: u32, now: Instant) {
        if let Ok(taken) = sys::set_watchdog_timeout(&self.device, seconds) {
            self.timeout_seconds = taken;
        }
        self.feed(now);
    }

    /// The time-out in force.
    pub(crate) fn timeout_seconds(&self) -> u32 {
        self.timeout_seconds
    }

    /// Feeds it when a quarter of the time-out went by.
    pub(crate) fn feed_if_due(&mut self, now: Instant) {
        if now.duration_since(self.fed) >= Duration::from_secs(u64::from(self.timeout_seconds) / 4)
        {
            self.feed(now);
        }
    }

    /// Feeds it now: before a step that may take long.
    pub(crate) fn feed(&mut self, now: Instant) {
        // A watchdog that cannot be fed resets the machine, which is what it is for.
        let _resets_the_machine = sys::feed_watchdog(&self.device);
        self.fed = now;
    }

    /// Disarms it: the machine is about to be switched off.
    pub(crate) fn disarm(mut self) {
        let _resets_the_machine = self.device.write_all(b"V");
    }
}
