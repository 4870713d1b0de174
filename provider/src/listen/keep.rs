//! The file of leases: `leases-v1/leases.json` below the state directory.
//!
//! Written as a whole: a temporary file, synced, renamed, and the folder synced. A client hears that it has an address only
//! once that is in the file, so after a power cut no address is given twice. What cannot be read is kept under another name,
//! and the conflict check stands in for it.

use std::io;
use std::path::{Path, PathBuf};

use pxe::leases::Lease;
use serde::{Deserialize, Serialize};

use crate::key::files::write_atomic;
use crate::listen::limits::LEASE_FILE_SIZE_MAX;

/// Name of the directory, with the version of what is in it.
const FOLDER: &str = "leases-v1";

/// The file.
const FILE: &str = "leases.json";

/// What an unreadable file is called afterwards.
const BAD_FILE: &str = "leases.json.bad";

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    leases: Vec<Lease>,
}

/// The folder of the file.
#[derive(Debug, Clone)]
pub(crate) struct LeaseFile {
    folder: PathBuf,
}

impl LeaseFile {
    /// Makes the folder below the state directory.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        // Whoever may write the state directory must not choose where root writes.
        if !folder.symlink_metadata()?.is_dir() {
            return Err(io::Error::other("must be a directory, not a link"));
        }
        // Said now rather than when the first machine waits for its address.
        let probe = folder.join(".probe");
        write_atomic(&probe, b"")?;
        std::fs::remove_file(probe)?;
        Ok(Self { folder })
    }

    /// The only place that is written to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was kept. A file that cannot be read is put aside, and what was wrong is said.
    pub(crate) fn read(&self) -> (Vec<Lease>, Option<String>) {
        let path = self.folder.join(FILE);
        match read(&path) {
            Ok(leases) => (leases, None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(error) => {
                let aside = self.folder.join(BAD_FILE);
                let moved = std::fs::rename(&path, &aside);
                let place = if moved.is_ok() { &aside } else { &path };
                let problem = format!("{}: {error}: begun anew", place.display());
                (Vec::new(), Some(problem))
            }
        }
    }

    /// Makes these leases durable. May wait for the disk.
    pub(crate) fn write(&self, leases: Vec<Lease>) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&Content { leases })?;
        write_atomic(&self.folder.join(FILE), &text)
    }
}

fn read(path: &Path) -> io::Result<Vec<Lease>> {
    use std::io::Read as _;

    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(LEASE_FILE_SIZE_MAX + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|size| size > LEASE_FILE_SIZE_MAX) {
        return Err(io::Error::other("larger than any file of leases"));
    }
    let content: Content = serde_json::from_slice(&text)?;
    Ok(content.leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_come_back_and_a_damaged_file_is_put_aside() {
        let state = tempfile::tempdir().unwrap();
        let file = LeaseFile::open(state.path()).unwrap();
        assert_eq!(file.read(), (Vec::new(), None));
        let lease = Lease {
            mac: pxe::Mac([2, 0, 0, 0, 0, 1]),
            address: [10, 0, 0, 9].into(),
            until: 17,
        };
        file.write(vec![lease]).unwrap();
        let again = LeaseFile::open(state.path()).unwrap();
        assert_eq!(again.read(), (vec![lease], None));
        std::fs::write(file.folder().join(FILE), b"{ \"leases\": [").unwrap();
        let (leases, problem) = file.read();
        assert!(leases.is_empty() && problem.unwrap().contains(BAD_FILE));
        assert_eq!(file.read(), (Vec::new(), None), "said once");
        assert!(file.folder().join(BAD_FILE).exists());
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_is_refused() {
        let state = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", state.path().join(FOLDER)).unwrap();
        assert!(LeaseFile::open(state.path()).is_err());
    }
}
