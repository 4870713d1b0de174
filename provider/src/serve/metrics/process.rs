//! What the kernel says about this process, for `/metrics` and `/status`. Read when somebody asks, from `/proc/self`; what
//! cannot be read, as in a sandbox, is left out.

use std::time::{SystemTime, UNIX_EPOCH};

/// Figures about this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Process {
    /// Bytes of memory in use.
    pub(crate) resident_bytes: Option<u64>,
    /// Descriptors open now.
    pub(crate) open_fds: Option<u64>,
    /// Descriptors that may be open.
    pub(crate) max_fds: Option<u64>,
    /// Processor time used, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
}

/// Looks.
pub(crate) fn look() -> Process {
    let page = rustix::param::page_size() as u64;
    Process {
        resident_bytes: std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|statm| resident_pages(&statm))
            .and_then(|pages| pages.checked_mul(page)),
        // The descriptor that lists them is one of them.
        open_fds: std::fs::read_dir("/proc/self/fd")
            .ok()
            .map(|list| list.count().saturating_sub(1) as u64),
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        cpu_seconds: cpu_seconds(),
    }
}

/// The second number of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u32::try_from(time.tv_sec).ok()?;
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    Some(f64::from(seconds) + f64::from(nanos) / 1e9)
}

/// Seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_files() {
        assert_eq!(resident_pages("100 42 3 4 5 6 7\n"), Some(42));
        assert_eq!(resident_pages("100"), None);
        let process = look();
        assert!(process.resident_bytes > Some(100_000), "{process:?}");
        assert!(process.open_fds > Some(2), "{process:?}");
        assert!(process.max_fds >= process.open_fds, "{process:?}");
        assert!(process.cpu_seconds > Some(0.0), "{process:?}");
    }
}
