//! Whole directories: which manifests lie there, what each of them is for, and which files belong to none.
//!
//! ROOT itself, ROOT/CHANNEL and ROOT/CHANNEL/ARCH are looked at. Links are never followed: a link is a file that belongs
//! to no manifest.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use artifact_store::{MANIFEST_FILE, ROOTS_FILE};
use boot_manifest::{Arch, Channel};

use super::limits::{DEPTH_MAX, ENTRIES_MAX};
use crate::exit::CommandError;

/// What was found below a root.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Folders with a manifest in them, in order.
    pub(super) folders: Vec<PathBuf>,
    /// Everything else that is not a folder on the way.
    files: BTreeSet<PathBuf>,
}

impl Tree {
    /// Looks through `root`.
    pub(super) fn below(root: &Path) -> Result<Self, CommandError> {
        let mut tree = Self::default();
        let mut entries = 0;
        let mut waiting = vec![(root.to_owned(), 0)];
        while let Some((folder, depth)) = waiting.pop() {
            let unreadable = |error: io::Error| {
                CommandError::local(format!("{}: cannot be read: {error}", folder.display()))
            };
            for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                entries += 1;
                if entries > ENTRIES_MAX {
                    return Err(CommandError::failed(format!(
                        "{}: more than {ENTRIES_MAX} files: this is no directory of artifacts",
                        root.display()
                    )));
                }
                let kind = entry.file_type().map_err(unreadable)?;
                if kind.is_dir() && depth < DEPTH_MAX {
                    waiting.push((entry.path(), depth + 1));
                } else if kind.is_file() && entry.file_name() == MANIFEST_FILE {
                    tree.folders.push(folder.clone());
                } else if kind.is_file() && entry.file_name() == ROOTS_FILE {
                    // It belongs to the manifest beside it, and is checked with it.
                } else {
                    tree.files.insert(entry.path());
                }
            }
        }
        tree.folders.sort();
        Ok(tree)
    }

    /// Takes note that a file belongs to a manifest.
    pub(super) fn claim(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The files that belong to no manifest.
    pub(super) fn extra(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }
}

/// The channel and architecture that a folder of `root` is for, when it is called so.
pub(super) fn purpose(root: &Path, folder: &Path) -> Option<(Channel, Arch)> {
    let below = folder.strip_prefix(root).ok()?;
    let mut names = below.iter().map(|name| name.to_str());
    let channel = names.next()??.parse().ok()?;
    let arch = names.next()??.parse().ok()?;
    names.next().is_none().then_some((channel, arch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_called_after_a_channel_and_an_architecture() {
        for (folder, expected) in [
            ("/a/stable/x86_64", Some(("stable", Arch::X86_64))),
            ("/a/stable/amd64", Some(("stable", Arch::X86_64))),
            ("/a/stable", None),
            ("/a", None),
            ("/a/stable/sparc", None),
            ("/a/stable/x86_64/more", None),
            ("/elsewhere/stable/x86_64", None),
        ] {
            let found = purpose(Path::new("/a"), Path::new(folder));
            let expected = expected.map(|(channel, arch)| (channel.parse().unwrap(), arch));
            assert_eq!(found, expected, "{folder}");
        }
    }
}
