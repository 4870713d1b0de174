//! A folder below the state directory that one process at a time has: what is kept there would be spoilt, or stand for two, if
//! another wrote it as well.
//!
//! Never follows a link out of the state directory: whoever may write that must not choose where root writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The folder, held by this process until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldFolder {
    folder: PathBuf,
    _lock: File,
}

/// Why nothing is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The folder cannot be made or written.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// Another process has it.
    #[error("{0}: another provider keeps its own there")]
    Taken(PathBuf),
}

impl HeldFolder {
    /// Makes the folder `name` below the state directory, with rights for its owner alone, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be written, or belongs to another process.
    pub(crate) fn open(state: &Path, name: &str) -> Result<Self, Error> {
        let folder = state.join(name);
        let io = |error| Error::Io(folder.clone(), error);
        std::fs::create_dir_all(state).map_err(io)?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(io(error)),
        })?;
        if !folder.symlink_metadata().map_err(io)?.is_dir() {
            return Err(io(io::Error::other("must be a directory, not a link")));
        }
        match take_lock(&folder.join("lock")).map_err(io)? {
            Lock::Ours(lock) => Ok(Self {
                folder,
                _lock: lock,
            }),
            Lock::Theirs(_) => Err(Error::Taken(folder)),
        }
    }

    /// The only place that is written to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A lock file, and who has its lock.
#[derive(Debug)]
pub(crate) enum Lock {
    /// This process, until the file is closed.
    Ours(File),
    /// Another one.
    Theirs(File),
}

/// Opens the lock file at `path`, which is made when it is not there, and takes its lock unless another process has it.
pub(crate) fn take_lock(path: &Path) -> io::Result<Lock> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock::Ours(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Lock::Theirs(file)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_it_and_no_link_leads_elsewhere() {
        let state = tempfile::tempdir().unwrap();
        let held = HeldFolder::open(state.path(), "own-v1").unwrap();
        assert_eq!(held.folder(), state.path().join("own-v1"));
        // A lock belongs to the open file, so a second one of this process is another's.
        let second = HeldFolder::open(state.path(), "own-v1");
        assert!(matches!(second, Err(Error::Taken(_))));
        drop(held);
        assert!(HeldFolder::open(state.path(), "own-v1").is_ok());

        let elsewhere = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), other.path().join("own-v1")).unwrap();
        let linked = HeldFolder::open(other.path(), "own-v1");
        assert!(matches!(linked, Err(Error::Io(..))));
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
    }
}
