//! The kernel's file systems: which, where, with which flags, and what happens when one cannot be mounted.
//!
//! `debugfs`, `tracefs`, `configfs` and `bpf` are left out on purpose; `devpts` too, because there is no shell.

use std::io;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};

/// What a missing file system means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The machine cannot serve without it: fatal screen.
    Must,
    /// Worth a warning.
    Should,
    /// Machines without it are normal: silence.
    May,
}

/// One file system.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) target: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) flags: MountFlags,
    pub(crate) data: &'static str,
    pub(crate) need: Need,
}

const PLAIN: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const fn row(
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static str,
    need: Need,
) -> Row {
    Row {
        target,
        kind,
        flags,
        data,
        need,
    }
}

/// In the order they are mounted. Sizes: `/run` holds sockets and names, `/tmp` nothing that init knows of; the big data
/// has a file system of its own (see `root`), so that none of these can fill the machine's memory.
pub(crate) const TABLE: &[Row] = &[
    row(
        "/dev",
        "devtmpfs",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "mode=0755",
        Need::Must,
    ),
    // hidepid: a role sees its own processes only.
    row("/proc", "proc", PLAIN, "hidepid=2", Need::Must),
    row("/sys", "sysfs", PLAIN, "", Need::Must),
    row(
        "/run",
        "tmpfs",
        PLAIN,
        "size=16m,nr_inodes=2048,mode=0755",
        Need::Must,
    ),
    row(
        "/tmp",
        "tmpfs",
        PLAIN,
        "size=4m,nr_inodes=256,mode=1777",
        Need::Should,
    ),
    row(
        "/sys/fs/cgroup",
        "cgroup2",
        PLAIN,
        "nsdelegate,memory_recursiveprot",
        Need::Must,
    ),
    row(
        "/sys/firmware/efi/efivars",
        "efivarfs",
        PLAIN.union(MountFlags::RDONLY),
        "",
        Need::May,
    ),
    row("/sys/fs/pstore", "pstore", PLAIN, "", Need::May),
];

/// A file system that is not there.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) target: &'static str,
    pub(crate) need: Need,
    pub(crate) error: io::Error,
}

/// Mounts the whole table and returns what failed; something already mounted is fine.
pub(crate) fn mount_all() -> Vec<Missing> {
    let missing = TABLE.iter().filter_map(|row| {
        let error = mount(row).err()?;
        (row.need != Need::May).then_some(Missing {
            target: row.target,
            need: row.need,
            error,
        })
    });
    let missing = missing.collect();
    // Nothing that a child mounts in a namespace of its own may come back here.
    let private = MountPropagationFlags::PRIVATE.union(MountPropagationFlags::REC);
    let _unsupported_is_harmless = rustix::mount::mount_change("/", private);
    missing
}

fn mount(row: &Row) -> io::Result<()> {
    // Directories inside sysfs cannot be made: when they are missing, the kernel has no such file system.
    if !row.target.starts_with("/sys/") {
        make_directory(Path::new(row.target))?;
    }
    let data = sys_data(row.data)?;
    match rustix::mount::mount(row.kind, row.target, row.kind, row.flags, data.as_deref()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sys_data(data: &str) -> io::Result<Option<std::ffi::CString>> {
    if data.is_empty() {
        Ok(None)
    } else {
        crate::sys::c_string(data).map(Some)
    }
}

/// Makes a directory that everybody may enter; one that exists is fine.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_system_lets_programs_gain_rights() {
        for row in TABLE {
            assert!(
                row.flags.contains(MountFlags::NOSUID | MountFlags::NOEXEC),
                "{}",
                row.target
            );
            assert!(
                row.flags.contains(MountFlags::NODEV) || row.kind == "devtmpfs",
                "{}",
                row.target
            );
        }
    }

    #[test]
    fn every_memory_file_system_has_a_size_and_an_inode_cap() {
        for row in TABLE.iter().filter(|row| row.kind == "tmpfs") {
            assert!(
                row.data.contains("size=") && row.data.contains("nr_inodes="),
                "{}",
                row.target
            );
            assert!(!row.data.contains("mode=0777"), "{}", row.target);
        }
    }

    #[test]
    fn parents_come_before_children_and_firmware_is_read_only() {
        for (index, row) in TABLE.iter().enumerate() {
            for later in &TABLE[index + 1..] {
                assert!(
                    !row.target.starts_with(&format!("{}/", later.target)),
                    "{}",
                    row.target
                );
            }
        }
        let efi = TABLE.iter().find(|row| row.kind == "efivarfs").unwrap();
        assert!(efi.flags.contains(MountFlags::RDONLY));
        for forbidden in ["debugfs", "tracefs", "configfs", "bpf"] {
            assert!(TABLE.iter().all(|row| row.kind != forbidden));
        }
    }
}
