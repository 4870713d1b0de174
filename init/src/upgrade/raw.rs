//! A partition as bytes, past every cache: what was written is on the disk, and what is read comes from there.
//!
//! Offsets, lengths and memory are multiples of 4 KiB, which every disk takes (a sector has 512 or 4096 bytes). Never knows
//! what the bytes mean.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What offsets and lengths are multiples of.
pub(crate) const BLOCK: usize = 4096;

/// Memory that begins at a multiple of [`BLOCK`].
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Zeros, at least `length` of them: rounded up to whole blocks.
    pub(crate) fn new(length: usize) -> Self {
        let length = length.next_multiple_of(BLOCK);
        let bytes = vec![0; length + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        // The offset to the next block is at most one block, and where it cannot be told there is no disk to talk to.
        let start = start.min(BLOCK);
        Self {
            bytes,
            start,
            length,
        }
    }

    /// `content`, and zeros up to whole blocks.
    pub(crate) fn of(content: &[u8]) -> Self {
        let mut buffer = Self::new(content.len());
        buffer[..content.len()].copy_from_slice(content);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// What ledger and slots need of a disk. Behind it stands a partition, or what a test makes of one.
pub(crate) trait Device {
    /// Bytes that it holds.
    fn size(&self) -> io::Result<u64>;
    /// Fills `into` from `offset`; an early end is an error.
    fn read(&self, offset: u64, into: &mut Buffer) -> io::Result<()>;
    /// Writes all of `from` at `offset`. May still be in a cache of the disk.
    fn write(&self, offset: u64, from: &Buffer) -> io::Result<()>;
    /// Everything written so far survives a power cut when this returns. An error means that nothing is known of any
    /// write since the last success: asking again proves nothing.
    fn flush(&self) -> io::Result<()>;
}

/// A partition, opened past the caches of the kernel.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
}

impl Raw {
    pub(crate) fn to_read(path: &Path) -> io::Result<Self> {
        Self::open(path, false)
    }

    pub(crate) fn to_write(path: &Path) -> io::Result<Self> {
        Self::open(path, true)
    }

    fn open(path: &Path, write: bool) -> io::Result<Self> {
        // Each write reaches the medium before it returns, also on a disk whose flush does nothing by itself.
        let flags = OFlags::DIRECT | OFlags::DSYNC | OFlags::CLOEXEC;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(path)?;
        Ok(Self { file })
    }
}

impl Device for Raw {
    fn size(&self) -> io::Result<u64> {
        // The length of a block device is where its end is; its metadata says 0.
        (&self.file).seek(SeekFrom::End(0))
    }

    fn read(&self, offset: u64, into: &mut Buffer) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write(&self, offset: u64, from: &Buffer) -> io::Result<()> {
        self.file.write_all_at(from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A disk in memory that fails as it is told. The numbers count calls from 1; 0 is never.
    #[derive(Debug, Default)]
    pub(crate) struct Faulty {
        pub(crate) bytes: RefCell<Vec<u8>>,
        pub(crate) fail_write: Cell<u32>,
        pub(crate) fail_flush: Cell<u32>,
        /// Says that it wrote, and did not.
        pub(crate) drop_write: Cell<u32>,
        /// Writes the first sector of 512 bytes only, and fails.
        pub(crate) tear_write: Cell<u32>,
        pub(crate) flip_read: Cell<u32>,
        pub(crate) fail_read: Cell<u32>,
        pub(crate) writes: Cell<u32>,
        pub(crate) flushes: Cell<u32>,
        pub(crate) reads: Cell<u32>,
    }

    impl Faulty {
        pub(crate) fn of_size(bytes: u64) -> Self {
            let bytes = vec![0xa5; usize::try_from(bytes).unwrap()];
            Self {
                bytes: RefCell::new(bytes),
                ..Self::default()
            }
        }
    }

    fn count(calls: &Cell<u32>) -> u32 {
        calls.set(calls.get() + 1);
        calls.get()
    }

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }

    impl Device for Faulty {
        fn size(&self) -> io::Result<u64> {
            Ok(self.bytes.borrow().len() as u64)
        }

        fn read(&self, offset: u64, into: &mut Buffer) -> io::Result<()> {
            let call = count(&self.reads);
            if self.fail_read.get() == call {
                return Err(eio());
            }
            let from = usize::try_from(offset).unwrap();
            let bytes = self.bytes.borrow();
            let found = bytes.get(from..from + into.len());
            into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            if self.flip_read.get() == call {
                into[7] ^= 1;
            }
            Ok(())
        }

        fn write(&self, offset: u64, from: &Buffer) -> io::Result<()> {
            let call = count(&self.writes);
            if self.fail_write.get() == call {
                return Err(eio());
            }
            if self.drop_write.get() == call {
                return Ok(());
            }
            let torn = self.tear_write.get() == call;
            let length = if torn { 512 } else { from.len() };
            let at = usize::try_from(offset).unwrap();
            let mut bytes = self.bytes.borrow_mut();
            let place = bytes.get_mut(at..at + length);
            place
                .ok_or(io::ErrorKind::StorageFull)?
                .copy_from_slice(&from[..length]);
            if torn { Err(eio()) } else { Ok(()) }
        }

        fn flush(&self) -> io::Result<()> {
            match count(&self.flushes) == self.fail_flush.get() {
                true => Err(eio()),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn buffers_are_whole_blocks_at_whole_blocks() {
        for length in [0, 1, 4095, 4096, 4097, 300_000] {
            let buffer = Buffer::new(length);
            assert_eq!(buffer.len(), length.next_multiple_of(BLOCK));
            assert_eq!(buffer.as_ptr().align_offset(BLOCK), 0);
        }
        let buffer = Buffer::of(b"abc");
        assert!(buffer.starts_with(b"abc\0") && buffer[3..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_written_is_read_back_past_the_caches() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 10).unwrap();
        let device = Raw::to_write(file.path()).unwrap();
        assert_eq!(device.size().unwrap(), 16 << 10);
        device.write(8192, &Buffer::of(b"here")).unwrap();
        device.flush().unwrap();
        let mut back = Buffer::new(BLOCK);
        Raw::to_read(file.path())
            .unwrap()
            .read(8192, &mut back)
            .unwrap();
        assert!(back.starts_with(b"here\0"));
        assert!(device.read(16 << 10, &mut back).is_err(), "behind the end");
        let reader = Raw::to_read(file.path()).unwrap();
        assert!(reader.write(0, &Buffer::of(b"x")).is_err());
    }
}
