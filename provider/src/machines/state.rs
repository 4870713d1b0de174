//! The file of what was decided and learned about machines: `machines-v1/machines.json` below the state directory.
//!
//! Written as a whole: a temporary file, synced, renamed, and the folder synced. After a power cut it is the old one or the
//! new one. One process at a time has it, by a lock beside it; another keeps what it is told in memory and says so. A file
//! that cannot be read is left where it is, under another name, and serving goes on without it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::held_folder::{Error, HeldFolder};
use crate::key::files::write_atomic;
use crate::machines::limits::STATE_SIZE_MAX;
use crate::machines::orders::Orders;

/// Name of the directory, with the version of what is in it.
const FOLDER: &str = "machines-v1";

/// The file.
const FILE: &str = "machines.json";

/// What an unreadable file is called afterwards.
const BAD_FILE: &str = "machines.json.bad";

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// By MAC.
    machines: Orders,
}

/// The folder of the state file, held by this process.
#[derive(Debug)]
pub(crate) struct StateFile(HeldFolder);

impl StateFile {
    /// Makes the folder below the state directory, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be written, or belongs to another process.
    pub(crate) fn open(state: &Path) -> Result<Self, Error> {
        let held = HeldFolder::open(state, FOLDER)?;
        sweep(held.folder()).map_err(|error| Error::Io(held.folder().to_owned(), error))?;
        Ok(Self(held))
    }

    /// The only place that is written to.
    pub(crate) fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// What was kept; nothing when there is no file, or none that can be read.
    pub(crate) fn load(&self) -> Orders {
        let path = self.folder().join(FILE);
        match read(&path) {
            Ok(None) => Orders::default(),
            Ok(Some(orders)) => orders,
            Err(error) => {
                let bad = self.folder().join(BAD_FILE);
                let kept = match std::fs::rename(&path, &bad) {
                    Ok(()) => format!("it is kept as {}", bad.display()),
                    Err(error) => format!("and it cannot be put aside: {error}"),
                };
                tracing::error!(
                    file = %path.display(), %error,
                    "what was decided about machines cannot be read; {kept}"
                );
                Orders::default()
            }
        }
    }

    /// Puts `orders` in the place of what was kept. Durable when it returns.
    ///
    /// # Errors
    /// When the disk does not take it; then the old file is there.
    pub(crate) fn save(&self, orders: &Orders) -> io::Result<()> {
        let content = Content {
            machines: orders.clone(),
        };
        let mut bytes = serde_json::to_vec_pretty(&content)?;
        bytes.push(b'\n');
        write_atomic(&self.folder().join(FILE), &bytes)
    }
}

/// Takes away what a process that was killed left of a file it was writing.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_rest = name
            .to_str()
            .is_some_and(|name| name.starts_with('.') && name.ends_with(".partial"));
        if is_rest {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Option<Orders>> {
    let file = match File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(STATE_SIZE_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > STATE_SIZE_MAX {
        return Err(io::Error::other(format!(
            "it has more than {STATE_SIZE_MAX} bytes"
        )));
    }
    let content: Content = serde_json::from_slice(&bytes)?;
    Ok(Some(content.machines.tidied()))
}

#[cfg(test)]
mod tests {
    use pxe::Mac;

    use super::*;
    use crate::machines::orders::Way;

    fn orders() -> Orders {
        let mut orders = Orders::default();
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        orders
            .change(mac, |order| {
                order.way = Some(Way::Local);
                order.profile = Some("rack".to_owned());
            })
            .unwrap();
        orders
    }

    #[test]
    fn what_was_decided_is_there_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let file = StateFile::open(state.path()).unwrap();
        assert_eq!(file.load(), Orders::default());
        file.save(&orders()).unwrap();
        assert!(matches!(
            StateFile::open(state.path()),
            Err(Error::Taken(_))
        ));
        drop(file);
        let rest = state.path().join(FOLDER).join(".machines.json.1.partial");
        std::fs::write(rest, "half").unwrap();
        let file = StateFile::open(state.path()).unwrap();
        assert_eq!(file.load(), orders());
        file.save(&Orders::default()).unwrap();
        assert_eq!(file.load(), Orders::default());
        // Nothing but the file and the lock is left.
        assert_eq!(std::fs::read_dir(file.folder()).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let state = tempfile::tempdir().unwrap();
        let file = StateFile::open(state.path()).unwrap();
        for bad in [
            &b"{\"machines\": {\"52:54"[..],
            b"",
            b"[]",
            b"{\"machines\": {\"x\": {}}}",
            &vec![b' '; STATE_SIZE_MAX + 1],
        ] {
            std::fs::write(file.folder().join(FILE), bad).unwrap();
            assert_eq!(file.load(), Orders::default());
            assert_eq!(std::fs::read(file.folder().join(BAD_FILE)).unwrap(), bad);
            assert!(!file.folder().join(FILE).exists());
        }
    }

    #[test]
    fn it_is_kept_nowhere_else() {
        let state = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(other.path(), state.path().join(FOLDER)).unwrap();
        assert!(matches!(StateFile::open(state.path()), Err(Error::Io(..))));
        assert!(StateFile::open(Path::new("/proc/none")).is_err());
    }
}
