//! The EFI system partition: FAT32 made in process, with a fixed volume id and the format's first date in every time field.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// The smallest FAT32 that firmware takes for one: below 65,525 clusters (here of one sector) it is FAT16.
pub const BYTES_MIN: u64 = 34 << 20;

/// What the file system holds.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// Size of the file system, a multiple of 512 of at least [`BYTES_MIN`].
    pub bytes: u64,
    /// Volume label, at most eleven capital letters, digits and spaces.
    pub label: &'a str,
    /// Serial number of the volume.
    pub volume_id: u32,
    /// The files by path, with `/` between components.
    pub files: BTreeMap<&'a str, &'a [u8]>,
}

/// Why a FAT file system cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size is no multiple of a sector, or outside what FAT32 and this writer can do.
    #[error("{0} bytes cannot be a FAT32 file system: 34 MiB to 32 GiB in whole sectors")]
    Size(u64),
    /// The label is too long or has odd characters.
    #[error(
        "{0:?} cannot be a FAT volume label: at most eleven capital letters, digits and spaces"
    )]
    Label(String),
    /// The files do not fit.
    #[error("the files have {files} bytes, the file system only {bytes}")]
    Full {
        /// Sum of the files' sizes.
        files: u64,
        /// Size of the file system.
        bytes: u64,
    },
    /// A file could not be created, most often for its name.
    #[error("write {path:?} into the FAT file system")]
    File {
        /// Its path.
        path: String,
        /// What happened.
        source: io::Error,
    },
    /// The output failed.
    #[error("write the FAT file system")]
    Io(#[from] io::Error),
}

/// Formats `out` and writes the files. `out` must read as zeros and is addressed from its start.
///
/// # Errors
/// See [`Error`].
pub fn write(recipe: &Recipe<'_>, mut out: impl Read + Write + Seek) -> Result<(), Error> {
    const SECTOR_BYTES: u64 = 512;
    let sectors = u32::try_from(recipe.bytes / SECTOR_BYTES).ok();
    let sectors = sectors
        .filter(|sectors| {
            *sectors <= 1 << 26
                && recipe.bytes >= BYTES_MIN
                && recipe.bytes.is_multiple_of(SECTOR_BYTES)
        })
        .ok_or(Error::Size(recipe.bytes))?;
    let files: u64 = recipe
        .files
        .values()
        .map(|content| content.len() as u64)
        .sum();
    if files >= recipe.bytes {
        return Err(Error::Full {
            files,
            bytes: recipe.bytes,
        });
    }
    out.seek(SeekFrom::Start(0))?;
    let options = fatfs::FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_cluster(512)
        .total_sectors(sectors)
        .volume_id(recipe.volume_id)
        .volume_label(label(recipe.label)?);
    fatfs::format_volume(&mut out, options)?;

    let volume = fatfs::FileSystem::new(out, fatfs::FsOptions::new().update_accessed_date(false))?;
    for (path, content) in &recipe.files {
        let written = write_file(&volume.root_dir(), path, content);
        written.map_err(|source| Error::File {
            path: (*path).into(),
            source,
        })?;
    }
    volume.unmount()?;
    Ok(())
}

fn write_file<T: Read + Write + Seek>(
    root: &fatfs::Dir<'_, T>,
    path: &str,
    content: &[u8],
) -> io::Result<()> {
    for (end, _) in path.match_indices('/') {
        root.create_dir(&path[..end])?;
    }
    root.create_file(path)?.write_all(content)
}

fn label(text: &str) -> Result<[u8; 11], Error> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ';
    if text.len() > 11 || !text.bytes().all(plain) {
        return Err(Error::Label(text.into()));
    }
    let mut label = [b' '; 11];
    label[..text.len()].copy_from_slice(text.as_bytes());
    Ok(label)
}

/// Reads every file of a FAT file system, sorted by path: for `inspect` and the tests.
///
/// # Errors
/// When the bytes are no FAT file system.
pub fn read(volume: &[u8]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    fn walk<T: Read + Write + Seek>(
        directory: &fatfs::Dir<'_, T>,
        prefix: &str,
        files: &mut BTreeMap<String, Vec<u8>>,
    ) -> io::Result<()> {
        for entry in directory.iter() {
            let entry = entry?;
            let name = entry.file_name();
            let path = format!("{prefix}{name}");
            if entry.is_file() {
                let mut content = Vec::new();
                entry.to_file().read_to_end(&mut content)?;
                files.insert(path, content);
            } else if name != "." && name != ".." {
                walk(&entry.to_dir(), &format!("{path}/"), files)?;
            }
        }
        Ok(())
    }
    let mut files = BTreeMap::new();
    let volume = fatfs::FileSystem::new(io::Cursor::new(volume.to_vec()), fatfs::FsOptions::new())?;
    walk(&volume.root_dir(), "", &mut files)?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe<'a>(files: &[(&'a str, &'a [u8])]) -> Recipe<'a> {
        Recipe {
            bytes: BYTES_MIN,
            label: "PHASE",
            volume_id: 7,
            files: files.iter().copied().collect(),
        }
    }

    fn volume(recipe: &Recipe<'_>) -> Result<Vec<u8>, Error> {
        let mut out = io::Cursor::new(vec![0; recipe.bytes as usize]);
        write(recipe, &mut out).map(|()| out.into_inner())
    }

    #[test]
    fn two_builds_give_the_same_bytes_and_read_back() {
        let big = vec![0x5a; 3_000_000];
        let recipe = recipe(&[("EFI/BOOT/BOOTX64.EFI", &big), ("a long name.txt", b"text")]);
        let bytes = volume(&recipe).unwrap();
        assert!(bytes == volume(&recipe).unwrap(), "the two volumes differ");
        let files = read(&bytes).unwrap();
        assert_eq!(files["EFI/BOOT/BOOTX64.EFI"], big);
        assert_eq!(files["a long name.txt"], b"text");
        assert_eq!(&bytes[82..90], b"FAT32   ");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |recipe: &Recipe<'_>, expected: &str| {
            let message = volume(recipe).unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{message:?} should say {expected:?}"
            );
        };
        check(
            &Recipe {
                bytes: 1 << 20,
                ..recipe(&[])
            },
            "1048576 bytes cannot be",
        );
        check(
            &Recipe {
                bytes: BYTES_MIN + 1,
                ..recipe(&[])
            },
            "cannot be",
        );
        check(
            &Recipe {
                label: "lower",
                ..recipe(&[])
            },
            "volume label",
        );
        check(
            &Recipe {
                label: "TWELVE CHARS",
                ..recipe(&[])
            },
            "volume label",
        );
        let too_much = vec![1; BYTES_MIN as usize];
        check(&recipe(&[("a", &too_much)]), "the files have");
        let nearly = vec![1; BYTES_MIN as usize - 4096];
        check(&recipe(&[("a", &nearly)]), "write \"a\"");
        check(&recipe(&[("bad:name", b"x")]), "write \"bad:name\"");
        let long = "n".repeat(256);
        check(&recipe(&[(&long, b"x")]), "write");
    }

    #[test]
    fn bytes_that_are_no_fat_are_an_error() {
        assert!(read(&[0; 4096]).is_err());
    }
}
