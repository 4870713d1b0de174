//! The squashfs an appliance serves from: in `<channel>/<arch>/` the kernel, the initramfs, what makes one EFI program of
//! them, and what firmware that cannot fetch those needs first (see `boot_files`); beside it `licences/`.
//!
//! Written in process by backhand: no loop device, no root, no C library. Times are 0, owners root, the walk sorted, so the
//! same recipe gives the same bytes. It writes no extended attributes; nothing here needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Seek, Write};

use backhand::compression::{CompressionOptions, Compressor, Zstd};
use backhand::{BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader};

/// Data block size. The contents are compressed already, so larger blocks would save nothing and cost the reader memory.
const BLOCK_BYTES: u32 = 128 * 1024;

/// zstd level: low, because kernel and initramfs do not shrink; blocks that do not are stored as they are.
const LEVEL: u32 = 3;

/// The longest file name a squashfs can hold.
pub const NAME_BYTES_MAX: usize = 255;

/// The files of the image by their path (relative, plain components); directories are made as needed.
pub type Recipe<'a> = BTreeMap<String, &'a [u8]>;

/// Why a squashfs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that is not a list of plain names of at most 255 bytes.
    #[error("{path:?} cannot be a path of a squashfs: {why}")]
    Path {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// One path is a file and also the directory of another.
    #[error("{0:?} is both a file and a directory")]
    FileAndDirectory(String),
    /// The writer failed.
    #[error("write the squashfs")]
    Write(#[from] BackhandError),
}

/// Writes the image to `out` from its current position, which must be 0.
///
/// # Errors
/// Paths that do not fit the format, and failures of `out`.
pub fn write(recipe: &Recipe<'_>, out: impl Write + Seek) -> Result<(), Error> {
    let directories = check(recipe)?;
    let mut image = FilesystemWriter::default();
    let mut zstd = FilesystemCompressor::new(Compressor::Zstd, None)?;
    zstd.options(CompressionOptions::Zstd(Zstd {
        compression_level: LEVEL,
    }))?;
    image.set_compressor(zstd);
    image.set_block_size(BLOCK_BYTES);
    image.set_time(0);
    image.set_root_mode(0o755);
    for directory in &directories {
        image.push_dir(directory, NodeHeader::new(0o755, 0, 0, 0))?;
    }
    for (path, content) in recipe {
        image.push_file(Cursor::new(*content), path, NodeHeader::new(0o644, 0, 0, 0))?;
    }
    image.write(out)?;
    Ok(())
}

/// Checks every path and returns the directories they need, parents first.
fn check(recipe: &Recipe<'_>) -> Result<BTreeSet<String>, Error> {
    let mut directories = BTreeSet::new();
    for path in recipe.keys() {
        let error = |why| {
            Err(Error::Path {
                path: path.clone(),
                why,
            })
        };
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return error("every component must be a plain name");
        }
        if path.contains('\0') {
            return error("it holds a NUL byte");
        }
        if path.split('/').any(|name| name.len() > NAME_BYTES_MAX) {
            return error("a component is longer than 255 bytes");
        }
        directories.extend(
            path.match_indices('/')
                .map(|(end, _)| path[..end].to_owned()),
        );
    }
    match directories
        .iter()
        .find(|directory| recipe.contains_key(*directory))
    {
        Some(both) => Err(Error::FileAndDirectory(both.clone())),
        None => Ok(directories),
    }
}

/// One file of an image that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path relative to the root.
    pub path: String,
    /// The file's bytes.
    pub content: Vec<u8>,
}

/// Reads every regular file of an image into memory, sorted by path: for `inspect` and the tests, not for untrusted images.
///
/// # Errors
/// When the bytes are no squashfs or a file cannot be unpacked.
pub fn read(image: &[u8]) -> Result<Vec<Listed>, Error> {
    use std::io::Read;

    let reader = backhand::FilesystemReader::from_reader(Cursor::new(image))?;
    let mut files = Vec::new();
    for node in reader.files() {
        if let backhand::InnerNode::File(file) = &node.inner {
            let mut content = Vec::new();
            reader
                .file(file)
                .reader()
                .read_to_end(&mut content)
                .map_err(BackhandError::from)?;
            let path = node
                .fullpath
                .to_string_lossy()
                .trim_start_matches('/')
                .to_owned();
            files.push(Listed { path, content });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(recipe: &Recipe<'_>) -> Result<Vec<u8>, Error> {
        let mut out = Cursor::new(Vec::new());
        write(recipe, &mut out).map(|()| out.into_inner())
    }

    #[test]
    fn two_builds_give_the_same_bytes_and_read_back() {
        let big: Vec<u8> = (0..700_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let recipe = Recipe::from([
            ("stable/x86_64/vmlinuz".into(), big.as_slice()),
            ("stable/x86_64/initramfs.img".into(), &b"small"[..]),
            ("empty".into(), &b""[..]),
        ]);
        let bytes = image(&recipe).unwrap();
        assert_eq!(bytes, image(&recipe).unwrap());
        let files = read(&bytes).unwrap();
        assert_eq!(files.len(), recipe.len());
        for file in files {
            assert_eq!(recipe[&file.path], file.content.as_slice(), "{}", file.path);
        }
    }

    #[test]
    fn odd_paths_are_refused() {
        let check = |path: &str, expected: &str| {
            let message = image(&Recipe::from([(path.to_owned(), &b"x"[..])]))
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(expected),
                "{message:?} should say {expected:?}"
            );
        };
        check("../escape", "plain name");
        check("/absolute", "plain name");
        check("a//b", "plain name");
        check("a\0b", "NUL");
        check(&format!("a/{}", "n".repeat(256)), "255");
        let both = Recipe::from([("a".to_owned(), &b"x"[..]), ("a/b".to_owned(), &b"y"[..])]);
        assert!(matches!(image(&both), Err(Error::FileAndDirectory(path)) if path == "a"));
    }

    #[test]
    fn bytes_that_are_no_squashfs_are_an_error() {
        assert!(read(b"not a squashfs").is_err());
    }
}
