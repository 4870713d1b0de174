//! Opening files so that nothing outside the directory can be reached: the kernel refuses `..`, symbolic links and
//! magic links while it walks (`openat2`), and what was opened is looked at before it is used.
//!
//! Where the kernel does not know that call (before 5.6, gVisor, valgrind) the path is walked name by name, with the same
//! refusals.
//!
//! Never follows a link, never blocks on a FIFO, never returns a device or a directory as a file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::limits::OPEN_RETRIES_MAX;

/// Why a file was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("not found")]
    NotFound,
    /// A symbolic link, or a way out of the directory.
    #[error("is a symbolic link or leads out of the directory; links are not followed")]
    Link,
    /// A directory, FIFO, socket or device.
    #[error("is a {0}, not a regular file")]
    NotRegular(&'static str),
    /// The permissions forbid it.
    #[error("permission denied")]
    Permission,
    /// Anything else the kernel said.
    #[error("{}", io::Error::from(*.0))]
    Io(Errno),
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => Self::NotFound,
            Errno::LOOP | Errno::XDEV => Self::Link,
            Errno::ACCESS | Errno::PERM => Self::Permission,
            // A socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => Self::NotRegular("socket or device"),
            other => Self::Io(other),
        }
    }
}

const NO_WAY_OUT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// The directory everything else is opened beneath. The path to it may contain links: the operator chose it.
pub(crate) fn root(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// A directory beneath `dir`.
pub(crate) fn folder(dir: impl AsFd, path: &str) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(dir.as_fd(), path, flags, Mode::empty())
}

/// A directory beneath `dir`, only for looking at and opening what is in it.
pub(crate) fn place(dir: impl AsFd, path: &str) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(dir.as_fd(), path, flags, Mode::empty())
}

/// What has the name `name` (one component) in `dir`, without opening it; nothing when it is no regular file.
pub(crate) fn look(dir: impl AsFd, name: &str) -> Result<Option<Stat>, OpenError> {
    debug_assert!(!name.contains('/'), "links would be followed");
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((kind(&stat) == REGULAR).then_some(stat))
}

/// A regular file beneath `dir`, for reading.
pub(crate) fn regular(dir: impl AsFd, path: &str) -> Result<(OwnedFd, Stat), OpenError> {
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(dir.as_fd(), path, flags, Mode::empty())?;
    let stat = check(&file)?;
    Ok((file, stat))
}

/// A regular file beneath `dir`, for reading and writing, made when it is not there.
pub(crate) fn writable(dir: impl AsFd, path: &str) -> Result<(OwnedFd, Stat), OpenError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(dir.as_fd(), path, flags, Mode::from_raw_mode(0o644))?;
    let stat = check(&file)?;
    Ok((file, stat))
}

/// The one kind of file that is served.
const REGULAR: &str = "regular file";

/// What an open file is; an error unless it is a regular one.
pub(crate) fn check(file: &OwnedFd) -> Result<Stat, OpenError> {
    let stat = rustix::fs::fstat(file)?;
    match kind(&stat) {
        REGULAR => Ok(stat),
        other => Err(OpenError::NotRegular(other)),
    }
}

fn open(dir: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, OpenError> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, NO_WAY_OUT) {
            Err(Errno::AGAIN | Errno::INTR) if tries < OPEN_RETRIES_MAX => tries += 1,
            Err(Errno::NOSYS) => return walk(dir, path, flags, mode).map_err(OpenError::from),
            other => return other.map_err(OpenError::from),
        }
    }
}

/// What [`NO_WAY_OUT`] asks of the kernel, one name at a time: each is opened in the directory opened before it, and none
/// may be a link, so a rename meanwhile leads nowhere else.
fn walk(dir: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    if path.starts_with('/') {
        return Err(Errno::XDEV);
    }
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut reached: Option<OwnedFd> = None;
    for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
        let from = reached.as_ref().map_or(dir, AsFd::as_fd);
        reached = Some(step(from, folder, through, Mode::empty())?);
    }
    step(reached.as_ref().map_or(dir, AsFd::as_fd), name, flags, mode)
}

/// Opens one name in `dir`.
fn step(dir: BorrowedFd<'_>, name: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    if name == ".." {
        return Err(Errno::XDEV);
    }
    let opened = rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW, mode);
    // With O_DIRECTORY the kernel says of a link that it is no directory.
    if matches!(opened, Err(Errno::NOTDIR))
        && let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
    {
        return Err(Errno::LOOP);
    }
    opened
}

fn kind(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => REGULAR,
        FileType::Directory => "directory",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Symlink => "symbolic link",
        FileType::Unknown => "special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walking_refuses_what_the_kernel_refuses() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("store");
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::write(inside.join("a/b/file"), b"inside").unwrap();
        std::fs::write(folder.path().join("secret"), b"outside").unwrap();
        symlink("b", inside.join("a/link")).unwrap();
        symlink("file", inside.join("a/b/alias")).unwrap();
        symlink("../../../secret", inside.join("a/b/out")).unwrap();
        let dir = root(&inside).unwrap();
        let reading = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let looking = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for path in [
            "a/b/file",
            "a/b/missing",
            "a/missing/file",
            "a/link/file",
            "a/b/alias",
            "a/b/out",
            "a/b/file/more",
            "../secret",
            "a/../../secret",
            "/etc/passwd",
            "a/b",
            "a/link",
            "a",
        ] {
            for flags in [reading, looking] {
                let kernel = open(dir.as_fd(), path, flags, Mode::empty()).map(|_| ());
                let walked = walk(dir.as_fd(), path, flags, Mode::empty())
                    .map(|_| ())
                    .map_err(OpenError::from);
                assert_eq!(walked, kernel, "{path} {flags:?}");
            }
        }
    }
}
