//! Room: on the disk, in memory, and in the tables of the kernel that have limits.

use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::process::Resource;

use crate::doctor::finding::{Finding, Machine};
use crate::doctor::limits::{
    DESCRIPTORS_MIN, DESCRIPTORS_WANTED, DISK_FREE_WANTED, MEMORY_MIN, MEMORY_WANTED, WATCHES_MIN,
};
use crate::progress::size;
use crate::serve::limits::DISK_FREE_MIN;

/// Looks at all of it.
pub(super) fn check(machine: &Machine, artifacts: &Path) -> Vec<Finding> {
    let descriptors = rustix::process::getrlimit(Resource::Nofile);
    [
        disk(artifacts),
        memory(machine),
        Some(files(descriptors.current)),
        watches(machine),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn disk(artifacts: &Path) -> Option<Finding> {
    let space = rustix::fs::statvfs(artifacts).ok()?;
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some(Finding::ok(
            "disk",
            "the artifacts are on a read-only file system",
        ));
    }
    Some(free(space.f_bavail.saturating_mul(space.f_frsize)))
}

fn free(bytes: u64) -> Finding {
    let message = format!("{} are free for artifacts", size(bytes));
    let advice =
        "remove old releases, or put the artifacts on a larger disk: plasmd serve --artifacts DIR";
    match bytes {
        DISK_FREE_WANTED.. => Finding::ok("disk", message),
        DISK_FREE_MIN.. => Finding::warn("disk", message, advice),
        _ => Finding::bad("disk", message, advice),
    }
}

fn memory(machine: &Machine) -> Option<Finding> {
    let text = machine.text("proc/meminfo")?;
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = available.split_whitespace().next()?.parse().ok()?;
    let bytes = kib << 10;
    let message = format!("{} of memory are available", size(bytes));
    let advice = "stop what needs the memory, or add some";
    Some(match bytes {
        MEMORY_WANTED.. => Finding::ok("memory", message),
        MEMORY_MIN.. => Finding::warn("memory", message, advice),
        _ => Finding::bad("memory", message, advice),
    })
}

/// `limit`: none is no limit.
fn files(limit: Option<u64>) -> Finding {
    let limit = limit.unwrap_or(u64::MAX);
    let message = format!("{limit} open files are allowed");
    let advice = "raise the limit: LimitNOFILE=65536 in the unit, or ulimit -n 65536";
    match limit {
        u64::MAX => Finding::ok("open files", "as many open files as one likes"),
        DESCRIPTORS_WANTED.. => Finding::ok("open files", message),
        DESCRIPTORS_MIN.. => Finding::warn(
            "open files",
            format!("{message}; ten thousand clients need {DESCRIPTORS_WANTED}"),
            advice,
        ),
        _ => Finding::bad("open files", message, advice),
    }
}

fn watches(machine: &Machine) -> Option<Finding> {
    let watches = machine.number("proc/sys/fs/inotify/max_user_watches")?;
    let instances = machine.number("proc/sys/fs/inotify/max_user_instances")?;
    Some(if watches < WATCHES_MIN || instances == 0 {
        Finding::warn(
            "inotify",
            format!("{watches} watches in {instances} instances are allowed"),
            "changed files are noticed later without it: sysctl fs.inotify.max_user_watches=8192 fs.inotify.max_user_instances=128",
        )
    } else {
        Finding::ok("inotify", format!("{watches} watches are allowed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn little_room_is_warned_about_and_none_is_bad() {
        for (bytes, level) in [
            (5_000_000_000, Level::Ok),
            (500_000_000, Level::Warn),
            (99_999_999, Level::Bad),
        ] {
            assert_eq!(free(bytes).level, level, "{bytes}");
        }
        for (kib, level) in [
            (4_000_000, Level::Ok),
            (100_000, Level::Warn),
            (9_000, Level::Bad),
        ] {
            let text = format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\n");
            let (_dir, machine) = Machine::of(&[("proc/meminfo", &text)]);
            assert_eq!(memory(&machine).unwrap().level, level, "{kib}");
        }
        for (limit, level) in [
            (None, Level::Ok),
            (Some(65_536), Level::Ok),
            (Some(1_024), Level::Warn),
            (Some(64), Level::Bad),
        ] {
            assert_eq!(files(limit).level, level, "{limit:?}");
        }
        for (watches_max, instances, level) in [
            ("8192", "128", Level::Ok),
            ("10", "128", Level::Warn),
            ("8192", "0", Level::Warn),
        ] {
            let (_dir, machine) = Machine::of(&[
                ("proc/sys/fs/inotify/max_user_watches", watches_max),
                ("proc/sys/fs/inotify/max_user_instances", instances),
            ]);
            assert_eq!(
                watches(&machine).unwrap().level,
                level,
                "{watches_max} {instances}"
            );
        }
    }
}
