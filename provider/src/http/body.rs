//! What an answer carries, and how a piece of a file is read for it.
//!
//! Nothing here holds bytes of a file: whoever sends reads them into memory that all connections of its thread share, so
//! that what a connection needs never depends on what it is sent. Reading blocks the worker thread for as long as the disk
//! takes; handing each read to another thread was measured to cost four times the throughput.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use artifact_store::OpenFile;
use bytes::Bytes;

use crate::http::uploads::Right;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// A range of a file.
    File(FilePart),
    /// Several, one after the other.
    Several(Vec<Self>),
}

/// A range of an opened file, or what is left of it.
#[derive(Debug)]
pub(crate) struct FilePart {
    file: Readable,
    at: u64,
    end: u64,
}

/// What bytes are read from.
#[derive(Debug)]
enum Readable {
    /// A file that somebody may overwrite meanwhile.
    Hashed(OpenFile),
    /// One in which only verified bytes are read, and nobody writes those again.
    Verified(Upload),
}

/// An artifact of which some is verified and there, and the right to send of it. The right is given back when the last
/// clone is dropped: when the answer was sent, or its connection is gone.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    /// The file, in which every byte lies at its own offset.
    pub(crate) file: Arc<File>,
    /// When its client must have taken all of it.
    pub(crate) until: Instant,
    /// Kept for as long as it is used.
    pub(crate) _right: Option<Arc<Right>>,
}

impl Body {
    /// The bytes `start..end` of `file`, which must lie within it.
    pub(crate) fn file(file: OpenFile, start: u64, end: u64) -> Self {
        if start >= end {
            return Self::Empty;
        }
        Self::File(FilePart {
            file: Readable::Hashed(file),
            at: start,
            end,
        })
    }

    /// The bytes `start..end` of an artifact, which must be there.
    pub(crate) fn upload(upload: Upload, start: u64, end: u64) -> Self {
        if start >= end {
            return Self::Empty;
        }
        Self::File(FilePart {
            file: Readable::Verified(upload),
            at: start,
            end,
        })
    }

    /// Bytes of it.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(part) => part.left(),
            Self::Several(bodies) => bodies.iter().map(Self::size).sum(),
        }
    }
}

impl FilePart {
    /// Bytes that are not sent yet.
    pub(crate) fn left(&self) -> u64 {
        self.end - self.at
    }

    /// Says that so many of them were sent.
    pub(crate) fn advance(&mut self, sent: u64) {
        self.at = self.end.min(self.at + sent);
    }

    /// Gives the next bytes to a socket by reference; at most `size`.
    pub(crate) fn send_to(&self, socket: impl AsFd, size: u64) -> io::Result<usize> {
        self.file.check_time()?;
        let size = usize::try_from(size.min(self.left())).unwrap_or(usize::MAX);
        let mut at = self.at;
        // Network file systems may be interrupted.
        let sent = rustix::io::retry_on_intr(|| {
            rustix::fs::sendfile(&socket, &self.file, Some(&mut at), size)
        })?;
        if sent == 0 {
            return Err(shorter());
        }
        Ok(sent)
    }

    /// Reads the next bytes into `room`; at least one. Before the last ones are given out, the file must still be what its
    /// digest was told of: when it was overwritten meanwhile, the client gets a cut connection instead of a complete lie.
    pub(crate) fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        self.file.check_time()?;
        let wanted = usize::try_from(self.left()).map_or(room.len(), |left| left.min(room.len()));
        let read = loop {
            match self.file.read_at(&mut room[..wanted], self.at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if read == 0 {
            return Err(shorter());
        }
        if self.at + read as u64 == self.end && !self.file.is_unchanged()? {
            return Err(io::Error::other(
                "the file was overwritten while it was sent",
            ));
        }
        Ok(read)
    }
}

impl Readable {
    fn read_at(&self, room: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::Hashed(file) => file.read_at(room, at),
            Self::Verified(upload) => upload.file.read_at(room, at),
        }
    }

    /// Whether its client still has time to take it.
    fn check_time(&self) -> io::Result<()> {
        match self {
            Self::Verified(upload) if Instant::now() > upload.until => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client takes too little for the place it has",
            )),
            _ => Ok(()),
        }
    }

    fn is_unchanged(&self) -> io::Result<bool> {
        match self {
            Self::Hashed(file) => file.unchanged(),
            Self::Verified(_) => Ok(true),
        }
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Hashed(file) => file.as_fd(),
            Self::Verified(upload) => upload.file.as_fd(),
        }
    }
}

fn shorter() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file became shorter while it was sent",
    )
}
