//! The version file: what this machine has already accepted, so that nothing older comes back. It takes the place of a
//! clock, and of trust in one.
//!
//! ```text
//! 21                      the sequence number; a file with this line alone is understood too
//! generation 1            of the keys; a higher one starts the counters anew, a lower one is refused
//! security_version 1
//! ```
//!
//! Updating: lock, read again, decide again, write a temporary file, sync it, rename it, sync the directory. After a power
//! cut at any point the file is the old one or the new one, complete. The lock is a file of its own (`.NAME.lock`), since
//! the version file itself is replaced; it stays, and is empty.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use artifact_store::Folder;
use boot_manifest::{FileName, Floor, Manifest, VerifyError};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::limits::{LOCK_POLL, LOCK_WAIT_MAX, SEQUENCE_JUMP_MAX, VERSION_FILE_SIZE_MAX};
use crate::exit::CommandError;
use crate::trust;

/// What was accepted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Generation of the keys; none in a file that holds a sequence number alone.
    generation: Option<u64>,
    security_version: u64,
    sequence: u64,
}

/// Why a manifest is not accepted after what was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Older {
    /// The keys are older than those that were believed before.
    #[error(
        "the version is too low: the trust root is of key generation {found}, and {seen} was accepted before"
    )]
    Generation {
        /// Of the trust root.
        found: u64,
        /// Of the version file.
        seen: u64,
    },
    /// So large a step is a mistake, or a thief who wants to lock out every later release.
    #[error(
        "the sequence {found} is more than {SEQUENCE_JUMP_MAX} above the {seen} that was accepted before"
    )]
    Jump {
        /// Of the manifest.
        found: u64,
        /// Of the version file.
        seen: u64,
    },
}

impl Older {
    /// A stable name for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Generation { .. } => "version-too-low",
            Self::Jump { .. } => "version-jump",
        }
    }
}

impl Accepted {
    /// What `manifest` leaves behind once it was accepted.
    fn of(manifest: &Manifest) -> Self {
        Self {
            generation: Some(manifest.generation),
            security_version: manifest.security_version,
            sequence: manifest.sequence,
        }
    }

    /// The oldest manifest that is accepted under keys of this generation.
    pub(super) fn floor(&self, generation: u64) -> Result<Floor, Older> {
        match self.generation {
            Some(seen) if seen > generation => Err(Older::Generation {
                found: generation,
                seen,
            }),
            // New keys: whatever the old ones signed, perhaps in other hands, counts no more.
            Some(seen) if seen < generation => Ok(Floor::default()),
            _ => Ok(Floor {
                security_version: self.security_version,
                sequence: self.sequence,
            }),
        }
    }

    /// Whether a manifest that is above the floor is also not absurdly far above.
    pub(super) fn check_jump(&self, manifest: &Manifest) -> Result<(), Older> {
        let same_keys = self
            .generation
            .is_none_or(|seen| seen == manifest.generation);
        let jump = manifest.sequence.saturating_sub(self.sequence);
        if same_keys && self.sequence > 0 && jump > SEQUENCE_JUMP_MAX {
            return Err(Older::Jump {
                found: manifest.sequence,
                seen: self.sequence,
            });
        }
        Ok(())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.trim().lines();
        let mut accepted = Self {
            sequence: lines.next()?.trim().parse().ok()?,
            ..Self::default()
        };
        for line in lines {
            match line.trim().split_once(' ')? {
                ("generation", value) => accepted.generation = Some(value.parse().ok()?),
                ("security_version", value) => accepted.security_version = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(accepted)
    }

    fn render(&self) -> String {
        let generation = self.generation.unwrap_or(1);
        format!(
            "{}\ngeneration {generation}\nsecurity_version {}\n",
            self.sequence, self.security_version
        )
    }
}

/// Reads a version file. A missing file means no floor, but only to somebody who is about to write it.
pub(super) fn read(file: &Path, may_be_absent: bool) -> Result<Accepted, CommandError> {
    if may_be_absent && !file.exists() {
        return Ok(Accepted::default());
    }
    let bytes = trust::read(file, VERSION_FILE_SIZE_MAX, "version file")
        .map_err(|error| error.hint("on first use, add --update-version to create it"))?;
    Accepted::parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
        CommandError::local(format!(
            "{}: is no version file: a decimal number belongs on its first line",
            file.display()
        ))
    })
}

/// Notes durably that `manifest` was accepted, unless another process has meanwhile accepted a newer one.
pub(super) fn update(file: &Path, manifest: &Manifest) -> Result<(), CommandError> {
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::local(format!(
            "{}: the version cannot be written: {error}",
            file.display()
        ))
    };
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name: FileName = name.parse().map_err(|error| failed(&error))?;
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let folder = Folder::open(parent).map_err(|error| failed(&error))?;
    let _lock = lock(&parent.join(format!(".{name}.lock"))).map_err(|error| failed(&error))?;
    let before = read(file, true)?;
    let floor = before
        .floor(manifest.generation)
        .map_err(|error| CommandError::failed(error.to_string()))?;
    let counters = [
        (
            "security_version",
            manifest.security_version,
            floor.security_version,
        ),
        ("sequence", manifest.sequence, floor.sequence),
    ];
    for (counter, found, floor) in counters {
        if found < floor {
            let error = VerifyError::VersionTooLow {
                counter,
                found,
                floor,
            };
            return Err(CommandError::failed(format!(
                "{}: {error}: another process has just raised it",
                file.display()
            )));
        }
    }
    let after = Accepted::of(manifest);
    if before == after {
        return Ok(());
    }
    folder
        .write(&name, after.render().as_bytes())
        .map_err(|error| failed(&error))?;
    Ok(())
}

/// Waits for the lock, for a while. It is given back when the file is dropped, also by a process that is killed.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let until = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_POLL),
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::other(format!(
                    "another process holds {} for {} s already",
                    path.display(),
                    LOCK_WAIT_MAX.as_secs()
                )));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(generation: Option<u64>, security_version: u64, sequence: u64) -> Accepted {
        Accepted {
            generation,
            security_version,
            sequence,
        }
    }

    #[test]
    fn files() {
        for (text, expected) in [
            ("7\n", Some(accepted(None, 0, 7))),
            (" 7 ", Some(accepted(None, 0, 7))),
            (
                "7\ngeneration 2\nsecurity_version 3\n",
                Some(accepted(Some(2), 3, 7)),
            ),
            ("", None),
            ("seven", None),
            ("-7", None),
            ("7 8", None),
            ("7\ngeneration\n", None),
            ("7\nunknown 1\n", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(Accepted::parse(text), expected, "{text:?}");
            if let Some(value) = expected.filter(|value| value.generation.is_some()) {
                assert_eq!(Accepted::parse(&value.render()), Some(value));
            }
        }
    }

    #[test]
    fn floors_follow_the_generation_of_the_keys() {
        let seen = accepted(Some(2), 3, 40);
        let floor = |security_version, sequence| Floor {
            security_version,
            sequence,
        };
        assert_eq!(seen.floor(2), Ok(floor(3, 40)));
        assert_eq!(seen.floor(3), Ok(floor(0, 0)), "counters restart");
        assert_eq!(seen.floor(1), Err(Older::Generation { found: 1, seen: 2 }));
        assert_eq!(accepted(None, 0, 40).floor(9), Ok(floor(0, 40)));
    }
}
