//! Writes the `newc` cpio archive that is appended to a successor's initramfs.
//!
//! The kernel unpacks archives one after the other; an uncompressed one must start at a multiple of four bytes, with NUL
//! bytes before it. Never reads an archive.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_444;

/// Writes entries and counts bytes, because every header and body is padded to four.
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Starts behind `written` bytes that are already in `out`; pads them.
    pub(crate) fn new(out: W, written: u64) -> io::Result<Self> {
        let mut archive = Self {
            out,
            written,
            entries: 0,
        };
        archive.pad()?;
        Ok(archive)
    }

    /// A directory.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(path, DIRECTORY, 2, 0)
    }

    /// A file of exactly `size` bytes: the caller then calls [`Self::data`] until all are written, and
    /// [`Self::end_file`].
    pub(crate) fn file(&mut self, path: &str, size: u64) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a cpio archive holds files below 4 GiB",
            )
        })?;
        self.header(path, FILE, 1, size)
    }

    /// Bytes of the file begun last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Pads the file begun last.
    pub(crate) fn end_file(&mut self) -> io::Result<()> {
        self.pad()
    }

    /// Writes the end mark and returns the writer.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 1, 0)?;
        Ok(self.out)
    }

    fn header(&mut self, path: &str, mode: u32, links: u32, size: u32) -> io::Result<()> {
        self.entries += 1;
        let name_size = path.len() + 1;
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.entries, 0, 0, 0, 0, 0, 0, 0, 0
        );
        self.data(header.as_bytes())?;
        self.data(path.as_bytes())?;
        self.data(b"\0")?;
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        let missing = usize::try_from(missing).unwrap_or(0);
        self.data(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn archive(before: &[u8], manifest: &[u8], rootfs: &[u8]) -> Vec<u8> {
        let mut archive = Archive::new(before.to_vec(), before.len() as u64).unwrap();
        archive.directory("phase").unwrap();
        for (path, bytes) in [
            ("phase/manifest.json", manifest),
            ("phase/rootfs.squashfs", rootfs),
        ] {
            archive.file(path, bytes.len() as u64).unwrap();
            for piece in bytes.chunks(7) {
                archive.data(piece).unwrap();
            }
            archive.end_file().unwrap();
        }
        archive.finish().unwrap()
    }

    /// The cpio program is the independent reader.
    #[test]
    fn cpio_reads_back_what_was_written() {
        for size in [0, 1, 2, 3, 4, 4097] {
            let folder = tempfile::tempdir().unwrap();
            let manifest = vec![b'm'; size];
            let rootfs: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let bytes = archive(b"", &manifest, &rootfs);
            let mut child = Command::new("cpio")
                .args(["--extract", "--quiet", "--make-directories"])
                .current_dir(folder.path())
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the cpio program is installed");
            child.stdin.take().unwrap().write_all(&bytes).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(
                std::fs::read(folder.path().join("phase/manifest.json")).unwrap(),
                manifest
            );
            assert_eq!(
                std::fs::read(folder.path().join("phase/rootfs.squashfs")).unwrap(),
                rootfs
            );
        }
    }

    #[test]
    fn an_archive_starts_at_a_multiple_of_four() {
        for before in [&b""[..], b"1", b"12", b"123", b"1234"] {
            let bytes = archive(before, b"{}", b"hsqs");
            let start = before.len().next_multiple_of(4);
            assert_eq!(&bytes[..before.len()], before);
            assert!(bytes[before.len()..start].iter().all(|b| *b == 0));
            assert_eq!(&bytes[start..start + 6], b"070701");
            assert_eq!(bytes.len() % 4, 0);
        }
    }

    #[test]
    fn a_file_that_does_not_fit_the_format_is_refused() {
        let mut archive = Archive::new(Vec::new(), 0).unwrap();
        assert!(archive.file("x", 1 << 32).is_err());
        assert!(archive.file("x", (1 << 32) - 1).is_ok());
    }
}
