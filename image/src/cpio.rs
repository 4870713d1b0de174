//! The newc cpio archive an initramfs is made of.
//!
//! A pure function of its entries: the same tree gives the same bytes on every machine, by any user. Owners, modes and device
//! numbers are what the recipe says and never what lies on the disk, so no root and no mknod(2) is needed. Times are always 0.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// The longest path the kernel unpacks; it skips a longer one without a word.
pub const PATH_BYTES_MAX: usize = 4095;

/// A newc header holds a file's size in eight hexadecimal digits.
pub const FILE_BYTES_MAX: u64 = u32::MAX as u64;

/// Magic and thirteen fields of eight digits.
const HEADER_BYTES: usize = 110;

/// The name of the member that ends every archive.
const TRAILER: &str = "TRAILER!!!";

/// One member of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root, without a leading slash.
    pub path: String,
    /// Permission bits, 0o7777 at most.
    pub permissions: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an [`Entry`] is, with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(String),
    /// A character device.
    CharDevice {
        /// Driver number.
        major: u32,
        /// Number within the driver.
        minor: u32,
    },
}

/// Why an archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is absolute, empty, has an odd component or is too long for the kernel.
    #[error("{path:?} cannot be a path of an initramfs: {why}")]
    Path {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two entries have one path.
    #[error("{0:?} is there twice")]
    Duplicate(String),
    /// The kernel creates no missing parents: it would drop the entry silently.
    #[error("{path:?} has no directory {parent:?} to lie in")]
    NoParent {
        /// The entry.
        path: String,
        /// The directory that is missing.
        parent: String,
    },
    /// A file of 4 GiB or more.
    #[error("{path:?} has {size} bytes, more than the 4 GiB a newc archive can hold")]
    TooBig {
        /// The entry.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// Bits outside the permissions.
    #[error("{path:?} has the mode {permissions:o}, more than permission bits")]
    Mode {
        /// The entry.
        path: String,
        /// What was given.
        permissions: u32,
    },
    /// The output could not be written.
    #[error("write the archive")]
    Io(#[from] io::Error),
}

impl Entry {
    /// A directory.
    pub fn directory(path: &str, permissions: u32) -> Self {
        Self {
            path: path.into(),
            permissions,
            kind: Kind::Directory,
        }
    }

    /// A regular file.
    pub fn file(path: &str, permissions: u32, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            permissions,
            kind: Kind::File(content.into()),
        }
    }

    /// A symbolic link.
    pub fn symlink(path: &str, target: &str) -> Self {
        Self {
            path: path.into(),
            permissions: 0o777,
            kind: Kind::Symlink(target.into()),
        }
    }

    /// A character device node.
    pub fn char_device(path: &str, permissions: u32, major: u32, minor: u32) -> Self {
        Self {
            path: path.into(),
            permissions,
            kind: Kind::CharDevice { major, minor },
        }
    }
}

/// Writes `entries`, sorted by path, as a complete archive with its trailer.
///
/// # Errors
/// Anything the kernel would skip silently when it unpacks the archive, and failures of `out`.
pub fn write(entries: &[Entry], mut out: impl Write) -> Result<(), Error> {
    let sorted = check(entries)?;
    for (index, entry) in sorted.values().enumerate() {
        let inode = u32::try_from(index + 1)
            .expect("an archive of 4 GiB files in memory has fewer than 2^32 entries");
        write_member(&mut out, inode, entry)?;
    }
    // The trailer: link count 1, everything else zero, as every other writer makes it.
    write_header(&mut out, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], TRAILER)?;
    Ok(())
}

/// Sorts the entries and refuses what the kernel would not unpack.
fn check(entries: &[Entry]) -> Result<BTreeMap<&str, &Entry>, Error> {
    let mut sorted = BTreeMap::new();
    for entry in entries {
        check_entry(entry)?;
        if sorted.insert(entry.path.as_str(), entry).is_some() {
            return Err(Error::Duplicate(entry.path.clone()));
        }
    }
    for path in sorted.keys() {
        let Some((parent, _)) = path.rsplit_once('/') else {
            continue;
        };
        if sorted
            .get(parent)
            .is_none_or(|entry| entry.kind != Kind::Directory)
        {
            return Err(Error::NoParent {
                path: (*path).into(),
                parent: parent.into(),
            });
        }
    }
    Ok(sorted)
}

fn check_entry(entry: &Entry) -> Result<(), Error> {
    let path_error = |why| {
        Err(Error::Path {
            path: entry.path.clone(),
            why,
        })
    };
    match entry.path.as_str() {
        "" => return path_error("it is empty"),
        TRAILER => return path_error("it is the archive's end mark"),
        path if path.len() > PATH_BYTES_MAX => return path_error("it is longer than 4095 bytes"),
        path if path.contains('\0') => return path_error("it holds a NUL byte"),
        path if path.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            return path_error("every component must be a plain name");
        }
        _ => {}
    }
    if entry.permissions > 0o7777 {
        return Err(Error::Mode {
            path: entry.path.clone(),
            permissions: entry.permissions,
        });
    }
    match &entry.kind {
        Kind::File(content) if content.len() as u64 > FILE_BYTES_MAX => Err(Error::TooBig {
            path: entry.path.clone(),
            size: content.len() as u64,
        }),
        Kind::Symlink(target)
            if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains('\0') =>
        {
            path_error("its link target is empty, too long or holds a NUL byte")
        }
        _ => Ok(()),
    }
}

fn write_member(out: &mut impl Write, inode: u32, entry: &Entry) -> io::Result<()> {
    const DIRECTORY: u32 = 0o040_000;
    const REGULAR: u32 = 0o100_000;
    const LINK: u32 = 0o120_000;
    const CHARACTER: u32 = 0o020_000;

    let (kind, links, content, device): (u32, u32, &[u8], (u32, u32)) = match &entry.kind {
        Kind::Directory => (DIRECTORY, 2, &[], (0, 0)),
        Kind::File(content) => (REGULAR, 1, content, (0, 0)),
        Kind::Symlink(target) => (LINK, 1, target.as_bytes(), (0, 0)),
        Kind::CharDevice { major, minor } => (CHARACTER, 1, &[], (*major, *minor)),
    };
    let size = u32::try_from(content.len()).expect("check_entry refuses files over 4 GiB");
    // inode, mode, uid, gid, links, mtime, size, device of the file system (2), device of the node (2)
    let fields = [
        inode,
        kind | entry.permissions,
        0,
        0,
        links,
        0,
        size,
        0,
        0,
        device.0,
        device.1,
    ];
    write_header(out, fields, &entry.path)?;
    out.write_all(content)?;
    pad(out, content.len())
}

/// Writes one header: magic, eleven fields, the name's length with its NUL, an unused checksum, the name.
fn write_header(out: &mut impl Write, fields: [u32; 11], name: &str) -> io::Result<()> {
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    write!(out, "{:08x}{:08x}", name.len() + 1, 0)?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, HEADER_BYTES + name.len() + 1)
}

/// Pads to the four-byte boundary that every header and every body starts at.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.wrapping_neg() % 4])
}

/// A member as it was read back, displayed as `ls -l` would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path relative to the root.
    pub path: String,
    /// File type and permissions, as in stat(2).
    pub mode: u32,
    /// Size of the content in bytes.
    pub size: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.mode >> 12 {
            0o04 => 'd',
            0o12 => 'l',
            0o02 => 'c',
            0o10 => '-',
            _ => '?',
        };
        let mut permissions: Vec<char> = (0..9)
            .map(|bit| {
                if self.mode & (0o400 >> bit) == 0 {
                    '-'
                } else {
                    ['r', 'w', 'x'][bit % 3]
                }
            })
            .collect();
        if self.mode & 0o1000 != 0 {
            permissions[8] = if self.mode & 1 == 0 { 'T' } else { 't' };
        }
        let permissions = String::from_iter(permissions);
        let detail = match kind {
            'c' => format!("{}, {}", self.device.0, self.device.1),
            _ => self.size.to_string(),
        };
        write!(f, "{kind}{permissions} {detail:>9} {}", self.path)
    }
}

/// Reads the members of an archive, without their contents, up to its trailer.
///
/// # Errors
/// When the bytes are no complete newc archive.
pub fn read(archive: &[u8]) -> io::Result<Vec<Listed>> {
    let mut members = Vec::new();
    walk(archive, |member, _| {
        members.push(member);
        Ok(())
    })?;
    Ok(members)
}

/// Reads an archive back into what [`write`] takes.
///
/// # Errors
/// When the bytes are no complete newc archive, or have a member of a kind that is not written here.
pub fn unpack(archive: &[u8]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    walk(archive, |member, content| {
        let text = || String::from_utf8(content.to_vec()).map_err(|_| damaged("has an odd link"));
        let kind = match member.mode >> 12 {
            0o04 => Kind::Directory,
            0o10 => Kind::File(content.to_vec()),
            0o12 => Kind::Symlink(text()?),
            0o02 => Kind::CharDevice {
                major: member.device.0,
                minor: member.device.1,
            },
            _ => return Err(damaged("has a member of another kind")),
        };
        entries.push(Entry {
            path: member.path,
            permissions: member.mode & 0o7777,
            kind,
        });
        Ok(())
    })?;
    Ok(entries)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive {what}"))
}

/// Calls `see` with every member and its content, up to the trailer.
fn walk<'a>(
    archive: &'a [u8],
    mut see: impl FnMut(Listed, &'a [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let cut = || damaged("is cut short");
    let mut at = 0usize;
    loop {
        let header = archive.get(at..at + HEADER_BYTES).ok_or_else(cut)?;
        if &header[..6] != b"070701" {
            return Err(damaged("has no newc header where one should be"));
        }
        let field = |index: usize| {
            let digits = std::str::from_utf8(&header[6 + index * 8..14 + index * 8]).ok();
            let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            value.ok_or_else(|| damaged("has an odd number in a header"))
        };
        let (mode, size, name_bytes) = (field(1)?, field(6)?, field(11)? as usize);
        let name_end = at + HEADER_BYTES + name_bytes;
        let name = archive.get(at + HEADER_BYTES..name_end).ok_or_else(cut)?;
        let path = String::from_utf8_lossy(name)
            .trim_end_matches('\0')
            .to_owned();
        if path == TRAILER {
            return Ok(());
        }
        let start = name_end.next_multiple_of(4);
        let content = archive.get(start..start + size as usize).ok_or_else(cut)?;
        let member = Listed {
            path,
            mode,
            size,
            device: (field(9)?, field(10)?),
        };
        see(member, content)?;
        at = (start + size as usize).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[Entry]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        write(entries, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn the_order_of_the_recipe_does_not_matter() {
        let mut entries = vec![
            Entry::directory("dev", 0o755),
            Entry::char_device("dev/null", 0o666, 1, 3),
            Entry::file("init", 0o755, b"#!".to_vec()),
            Entry::symlink("etc", "run/etc"),
        ];
        let first = archive(&entries).unwrap();
        entries.reverse();
        assert_eq!(first, archive(&entries).unwrap());
        assert_eq!(first.len() % 4, 0);
    }

    #[test]
    fn a_header_is_what_the_kernel_reads() {
        let bytes = archive(&[
            Entry::directory("dev", 0o755),
            Entry::char_device("dev/console", 0o600, 5, 1),
        ])
        .unwrap();
        let node = std::str::from_utf8(&bytes[116..116 + 122]).unwrap();
        let expected = concat!(
            "070701",
            "00000002",
            "00002180",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000005",
            "00000001",
            "0000000c",
            "00000000",
            "dev/console\0",
        );
        assert_eq!(node, expected);
    }

    #[test]
    fn what_the_kernel_would_drop_is_refused() {
        let check = |entry: Entry, expected: &str| {
            let message = archive(&[entry]).unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{message:?} should say {expected:?}"
            );
        };
        check(Entry::file("", 0o644, ""), "it is empty");
        check(Entry::file("/init", 0o644, ""), "plain name");
        check(Entry::file("a/../b", 0o644, ""), "plain name");
        check(Entry::file("a/", 0o644, ""), "plain name");
        check(Entry::file("TRAILER!!!", 0o644, ""), "end mark");
        check(Entry::file("a\0b", 0o644, ""), "NUL");
        check(
            Entry::file(&"n".repeat(PATH_BYTES_MAX + 1), 0o644, ""),
            "4095",
        );
        check(Entry::file("bin/sh", 0o755, ""), "no directory \"bin\"");
        check(Entry::directory("tmp", 0o41777), "permission bits");
        check(Entry::symlink("link", ""), "link target");
        let twice = [Entry::directory("a", 0o755), Entry::directory("a", 0o700)];
        assert!(matches!(archive(&twice), Err(Error::Duplicate(path)) if path == "a"));
        let in_a_file = [Entry::file("a", 0o644, ""), Entry::file("a/b", 0o644, "")];
        assert!(matches!(archive(&in_a_file), Err(Error::NoParent { .. })));
    }

    #[test]
    fn an_archive_reads_back_and_damage_is_an_error() {
        let entries = [
            Entry::directory("dev", 0o755),
            Entry::char_device("dev/null", 0o666, 1, 3),
            Entry::file("init", 0o755, b"12345".to_vec()),
            Entry::directory("tmp", 0o1777),
        ];
        let bytes = archive(&entries).unwrap();
        let lines: Vec<_> = read(&bytes)
            .unwrap()
            .iter()
            .map(Listed::to_string)
            .collect();
        let expected = [
            "drwxr-xr-x         0 dev",
            "crw-rw-rw-      1, 3 dev/null",
            "-rwxr-xr-x         5 init",
            "drwxrwxrwt         0 tmp",
        ];
        assert_eq!(lines, expected);
        let unpacked = unpack(&bytes).unwrap();
        assert_eq!(unpacked, entries);
        for length in 0..bytes.len() - 4 {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = read(&damaged);
        }
    }

    #[test]
    fn the_longest_name_the_kernel_takes_is_taken() {
        assert!(archive(&[Entry::file(&"n".repeat(PATH_BYTES_MAX), 0o644, "x")]).is_ok());
    }
}
