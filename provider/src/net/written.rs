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

    /// Whether it says nothing, or was not written yet.
    pub(super) fn is_empty(&self) -> bool {
        self.text.as_ref().is_none_or(String::is_empty)
    }

    /// Writes the file when its text changed. A reader sees the old or the new text, never a part: the file is renamed
    /// into place. It lives in memory, so nothing is synced.
    pub(super) fn update(&mut self, text: String) -> io::Result<()> {
        if self.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let temporary = self.path.with_extension("new");
        fs::write(&temporary, &text)?;
        fs::rename(&temporary, &self.path)?;
        self.text = Some(text);
        Ok(())
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
        assert!(file.is_empty() && !path.exists());
        for text in ["a\n", "b\n", ""] {
            file.update(text.to_owned()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(file.is_empty(), text.is_empty());
        }
        fs::write(&path, "not ours").unwrap();
        file.update(String::new()).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "not ours",
            "the same text is not written again"
        );
        assert_eq!(fs::read_dir(folder.path().join("net")).unwrap().count(), 1);
    }
}
