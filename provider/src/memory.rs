//! How much memory this machine can still give out, and the rule that serving stops below some of it: who boots others
//! must not be what the kernel ends for want of memory. What the control group of this process may take counts too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the kernel says it.
const MEMINFO: &str = "/proc/meminfo";

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes of such a file that are read: what counts is among the first lines.
const READ_SIZE: usize = 1_024;

/// How long an answer holds. Memory that goes at 1 GiB/s is 100 MiB less by then.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Bytes that are kept free unless somebody says otherwise: what the kernel wants for the other programs and the network
/// of the smallest machine.
pub(crate) const RESERVE_MIB: u64 = 32;

/// The largest reserve that can be asked for: no machine has as much, so nothing is sent at all.
pub(crate) const RESERVE_MIB_MAX: u64 = 1 << 30;

/// The rule. Files are opened once, before a sandbox can be in the way.
#[derive(Debug)]
pub(crate) struct Reserve {
    bytes: u64,
    meminfo: Option<File>,
    group: Option<Group>,
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
        let group = Group::of_this_process();
        let reserve = Self {
            bytes,
            group: meminfo.as_ref().and(group),
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
        let machine = self
            .meminfo
            .as_ref()
            .and_then(|file| available_in(&text(file).ok()?));
        let group = self.group.as_ref().and_then(Group::left);
        let available = machine.into_iter().chain(group).min();
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

/// The control group of this process.
#[derive(Debug)]
struct Group {
    max: File,
    current: File,
    stat: File,
}

impl Group {
    fn of_this_process() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Self::open(&Path::new(GROUPS).join(path)).ok()
    }

    fn open(folder: &Path) -> io::Result<Self> {
        let open = |name: &str| File::open(folder.join(name));
        Ok(Self {
            max: open("memory.max")?,
            current: open("memory.current")?,
            stat: open("memory.stat")?,
        })
    }

    /// Bytes it may still take, when there is a limit. What it has of files can be had back at once; memory that only looks
    /// like a file cannot.
    fn left(&self) -> Option<u64> {
        let number = |file: &File| text(file).ok()?.trim().parse::<u64>().ok();
        let max = number(&self.max)?;
        let current = number(&self.current)?;
        let stat = text(&self.stat).ok()?;
        let member = |name: &str| {
            let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
            let (_, value) = lines.find(|(found, _)| *found == name)?;
            value.parse::<u64>().ok()
        };
        let files = member("file")?.saturating_sub(member("shmem")?);
        Some(max.saturating_sub(current.saturating_sub(files)))
    }
}

/// The beginning of a file that the kernel makes up when it is read.
fn text(file: &File) -> io::Result<String> {
    let mut text = [0; READ_SIZE];
    let read = file.read_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..read]).into_owned())
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
    fn what_a_control_group_may_still_take() {
        let folder = tempfile::tempdir().unwrap();
        let left = |max: &str, current: &str, stat: &str| {
            for (name, text) in [("max", max), ("current", current), ("stat", stat)] {
                std::fs::write(folder.path().join(format!("memory.{name}")), text).unwrap();
            }
            Group::open(folder.path()).unwrap().left()
        };
        let stat = "anon 1000\nfile 500\nkernel 7\nshmem 300\nfile_mapped 9\n";
        assert_eq!(left("5000\n", "1800\n", stat), Some(5_000 - 1_600));
        assert_eq!(left("1000\n", "1800\n", stat), Some(0));
        assert_eq!(left("max\n", "1800\n", stat), None);
        assert_eq!(left("5000\n", "1800\n", "anon 1\n"), None);
        assert!(Group::open(&folder.path().join("none")).is_err());
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
