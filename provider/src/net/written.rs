//! A file that other roles read, written whole or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file, and what it holds.
pub(super) struct Written {
    path: PathBuf,
    text: Option<String>,
}

impl Written {
    /// The file `name` in `directory`, which is made when missing. Nothing is written yet.
    pub(super) fn open(directory: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            path: directory.join(name),
            text: None,
        })
    }

    /// Writes the file when its text changed, and says whether it did. A reader sees the old or the new text, never a part:
    /// the file is renamed into place. It lives in memory, so nothing is synced.
    pub(super) fn update(&mut self, text: String) -> io::Result<bool> {
        if self.text.as_ref() == Some(&text) {
            return Ok(false);
        }
        let temporary = self.path.with_extension("new");
        fs::write(&temporary, &text)?;
        fs::rename(&temporary, &self.path)?;
        let changed = self.text.replace(text).is_some();
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_when_its_text_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Written::open(&folder.path().join("net"), "resolv.conf").unwrap();
        let path = folder.path().join("net/resolv.conf");
        for (text, changed) in [("a\n", false), ("a\n", false), ("b\n", true), ("", true)] {
            assert_eq!(file.update(text.to_owned()).unwrap(), changed, "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path().join("net")).unwrap().count(), 1);
    }
}
