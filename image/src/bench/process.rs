//! What the kernel knows of a running process: its children, the processor time it used, the memory it has.
//!
//! Memory is read from /proc and not from the resource usage a parent gets: that one begins with the parent's own memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::limits::MEMORY_PERIOD;

/// Ticks of the processor clock a second; the kernel shows this many to programs on every machine Linux runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process and its children, as far down as they go.
pub fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        for thread in threads(&PathBuf::from(format!("/proc/{parent}"))) {
            let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        next += 1;
    }
    all
}

/// Processor seconds, user and system, that a process and its children have used.
pub fn cpu_seconds(process: u32) -> f64 {
    family(process)
        .into_iter()
        .map(|process| {
            let folder = PathBuf::from(format!("/proc/{process}"));
            // By the tick is too coarse for one download, but also knows of threads that have ended.
            by_the_nanosecond(&folder).max(by_the_tick(&folder).unwrap_or(0.0))
        })
        .sum()
}

fn by_the_nanosecond(folder: &Path) -> f64 {
    let nanoseconds = threads(folder).filter_map(|thread| {
        let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// The folders of a process's threads.
fn threads(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder.join("task"));
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn by_the_tick(folder: &Path) -> Option<f64> {
    ticks(
        &std::fs::read_to_string(folder.join("stat")).ok()?,
        [11, 12],
    )
}

/// Processor seconds of the children this process has waited for.
pub fn children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&stat, [13, 14]).unwrap_or(0.0)
}

/// The sum of two fields of a `stat`, counted from the state, in seconds.
fn ticks(stat: &str, fields: [usize; 2]) -> Option<f64> {
    // The name in parentheses may hold anything.
    let (_, after) = stat.rsplit_once(") ")?;
    let values: Vec<&str> = after.split(' ').collect();
    let value = |field: usize| values.get(field)?.parse::<u64>().ok();
    Some((value(fields[0])? + value(fields[1])?) as f64 / TICKS_PER_SECOND)
}

/// Resident memory of a process and its children in bytes.
pub fn resident_bytes(process: u32) -> u64 {
    family(process)
        .into_iter()
        .filter_map(|process| memory(process, "VmRSS:"))
        .sum()
}

/// The most a process ever had resident, in bytes.
pub fn peak_bytes(process: u32) -> u64 {
    memory(process, "VmHWM:").unwrap_or(0)
}

fn memory(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status_bytes(&status, field)
}

fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// How much this machine's processors work, from a moment on.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    idle: u64,
    all: u64,
}

impl Busy {
    /// From now on.
    pub fn start() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&stat).unwrap_or(Self { idle: 0, all: 0 })
    }

    /// The part of their time since then in which they worked.
    pub fn end(self) -> f64 {
        let now = Self::start();
        let all = now.all.saturating_sub(self.all).max(1);
        let idle = now.idle.saturating_sub(self.idle);
        1.0 - (idle as f64 / all as f64).min(1.0)
    }

    /// The first line of the kernel's account: user, nice, system, idle, waiting, interrupts, softirq, stolen.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        Some(Self {
            idle: ticks.get(3)? + ticks.get(4)?,
            all: ticks.iter().take(8).sum(),
        })
    }
}

/// Looks at a process's memory until it is dropped or asked.
pub struct Watch {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches a process and its children.
    pub fn start(process: u32) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (seen, end) = (Arc::clone(&most), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                seen.fetch_max(resident_bytes(process), Ordering::Relaxed);
                std::thread::sleep(MEMORY_PERIOD);
            }
        });
        Self {
            most,
            over,
            thread: Some(thread),
        }
    }

    /// The most that was seen.
    pub fn end(mut self) -> u64 {
        self.stop();
        self.most.load(Ordering::Relaxed)
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_accounts_are_understood() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 3 4 20 0 1 0 55";
        assert_eq!(ticks(stat, [11, 12]), Some(3.0));
        assert_eq!(ticks(stat, [13, 14]), Some(0.07));
        assert_eq!(ticks("12 (cut", [11, 12]), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(status_bytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(status_bytes("", "VmRSS:"), None);
        let busy = Busy::parse("cpu  10 0 10 70 5 0 5 0 3 0\ncpu0 1 1 1 1 1\n").unwrap();
        assert_eq!((busy.idle, busy.all), (75, 100));
        assert!(Busy::parse("cpu0 1 2 3 4 5").is_none());
    }

    #[test]
    fn this_process_is_seen() {
        let own = std::process::id();
        let before = cpu_seconds(own);
        let mut sum = 0_u64;
        while cpu_seconds(own) < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(resident_bytes(own) > 100_000);
        assert!(peak_bytes(own) > 100_000);
        let watch = Watch::start(own);
        while watch.most.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert!(watch.end() > 100_000);
    }

    #[test]
    fn children_are_counted_with_their_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let all = family(std::process::id());
        let found = all.contains(&child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        // A kernel without CONFIG_PROC_CHILDREN shows no children.
        let shown = Path::new("/proc/thread-self/children").exists();
        assert!(found || !shown, "{all:?}");
    }
}
