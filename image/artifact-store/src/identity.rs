//! Which content a descriptor stands for, and an opened artifact that knows it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boot_manifest::FileName;
use rustix::fs::Stat;

use crate::limits::TIMESTAMP_TICK;

/// What changes whenever a file's content changes: another file (device, inode), another length, or another time of
/// the last change. The change time (ctime) cannot be set back by programs that preserve the modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Identity {
    #[expect(
        clippy::useless_conversion,
        reason = "the widths of these members differ between architectures"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, part: i128| i128::from(seconds) * 1_000_000_000 + part;
        Self {
            device: stat.st_dev.into(),
            inode: stat.st_ino.into(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: nanoseconds(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            changed_ns: nanoseconds(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When the content was last modified, by its own account.
    pub fn modified(&self) -> SystemTime {
        at(self.modified_ns)
    }

    /// How long it is until any further change is sure to give the file another identity; nothing when it is so now.
    ///
    /// The kernel stamps files with a clock that ticks, so two changes within a tick look alike. A change time in the
    /// future, after the clock was set back, cannot be that of a change made now.
    pub fn settles_in(&self, now: SystemTime) -> Option<Duration> {
        let distance = match now.duration_since(at(self.changed_ns)) {
            Ok(age) => age,
            Err(ahead) => ahead.duration(),
        };
        (distance <= TIMESTAMP_TICK).then_some(TIMESTAMP_TICK)
    }
}

fn at(nanoseconds: i128) -> SystemTime {
    let distance =
        u64::try_from(nanoseconds.unsigned_abs()).map_or(Duration::MAX, Duration::from_nanos);
    let time = if nanoseconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// An opened regular file of the store. Its descriptor keeps meaning the same file when the name is given to another.
/// Clones share everything and cost nothing.
#[derive(Debug, Clone)]
pub struct OpenFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    file: File,
    name: FileName,
    identity: Identity,
}

impl OpenFile {
    pub(crate) fn new(file: OwnedFd, name: FileName, identity: Identity) -> Self {
        Self(Arc::new(Opened {
            file: File::from(file),
            name,
            identity,
        }))
    }

    /// The name it was found under, which can differ from the one asked for.
    pub fn name(&self) -> &FileName {
        &self.0.name
    }

    /// What it was when it was opened.
    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    /// Length in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.0.identity.size
    }

    /// Whether its content is still what was opened, and was not overwritten in place.
    ///
    /// The change time does not count here: it also moves when the name is given to another file, which is how
    /// a release is replaced while the old one is still being sent.
    pub fn unchanged(&self) -> io::Result<bool> {
        let now = Identity::of(&rustix::fs::fstat(self)?);
        Ok((now.size, now.modified_ns) == (self.0.identity.size, self.0.identity.modified_ns))
    }

    /// Reads at an offset; 0 means the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.file.read_at(buffer, offset)
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}
