//! What the machine and its programs use of its memory, from `/proc`.

use rustix::process::Pid;

/// What `/proc/meminfo` says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

/// Reads `/proc/meminfo`; `None` when it is not as expected.
pub(crate) fn parse(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: field("MemTotal")?,
        available: field("MemAvailable")?,
    })
}

/// The memory of this machine now. Zeroes when the kernel does not say: then nothing fits, which is the safe answer.
pub(crate) fn now() -> Memory {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse(&text).unwrap_or(Memory {
        total: 0,
        available: 0,
    })
}

/// KiB of memory that a process has in use, shared pages included.
pub(crate) fn resident_kib(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    parse_resident(&status)
}

/// Files that a process has open.
pub(crate) fn open_files(pid: Pid) -> Option<u64> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).ok()?;
    u64::try_from(entries.count()).ok()
}

fn parse_resident(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:         225280 kB\nMemFree:           90000 kB\nMemAvailable:     153600 kB\n";
        assert_eq!(
            parse(text),
            Some(Memory {
                total: 220 * MIB,
                available: 150 * MIB
            })
        );
        for broken in [
            "",
            "MemTotal: 1 kB\n",
            "MemTotal: x kB\nMemAvailable: 1 kB\n",
            "MemTotal: 1\nMemAvailable: 1\n",
        ] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(
            parse_resident("Name:\tinit\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n"),
            Some(1234)
        );
        assert_eq!(parse_resident("Name:\tkthreadd\n"), None);
        assert!(resident_kib(rustix::process::getpid()).is_some_and(|kib| kib > 100));
    }
}
