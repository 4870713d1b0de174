//! Where a member of the DHT keeps its key and the peers it knows: `dht-v1` below the state directory.
//!
//! One process at a time has it: two with the same key would be one member that is in two places. Another goes on with a key
//! of its own that is kept nowhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Name of the directory, with the version of what is in it.
const FOLDER: &str = "dht-v1";

/// The folder, held by this process.
#[derive(Debug)]
pub(crate) struct Place {
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
    #[error("{0}: another provider keeps its key there")]
    Taken(PathBuf),
}

impl Place {
    /// Makes the folder below the state directory, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be written, or belongs to another process.
    pub(crate) fn open(state: &Path) -> Result<Self, Error> {
        let folder = state.join(FOLDER);
        let io = |error| Error::Io(folder.clone(), error);
        std::fs::create_dir_all(state).map_err(io)?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(io(error)),
        })?;
        // Whoever may write the state directory must not choose where root writes.
        if !folder.symlink_metadata().map_err(io)?.is_dir() {
            return Err(io(io::Error::other("must be a directory, not a link")));
        }
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(folder.join("lock"))
            .map_err(io)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                folder,
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Taken(folder)),
            Err(error) => Err(io(error.into())),
        }
    }

    /// The only place that is written to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_it_and_no_link_leads_elsewhere() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::open(state.path()).unwrap();
        assert_eq!(place.folder(), state.path().join("dht-v1"));
        // A lock belongs to the open file, so a second one of this process is another's.
        assert!(matches!(Place::open(state.path()), Err(Error::Taken(_))));
        drop(place);
        assert!(Place::open(state.path()).is_ok());

        let elsewhere = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), other.path().join(FOLDER)).unwrap();
        assert!(matches!(Place::open(other.path()), Err(Error::Io(..))));
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
    }
}
