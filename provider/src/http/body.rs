//! What an answer carries, and how a piece of a file is read for it.
//!
//! Nothing here holds bytes of a file: whoever sends reads them into memory that all connections of its thread share, so
//! that what a connection needs never depends on what it is sent. Reading blocks the worker thread for as long as the disk
//! takes; handing each read to another thread was measured to cost four times the throughput.

use std::io;
use std::os::fd::AsFd;

use artifact_store::OpenFile;
use bytes::Bytes;

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
    file: OpenFile,
    at: u64,
    end: u64,
}

impl Body {
    /// The bytes `start..end` of `file`, which must lie within it.
    pub(crate) fn file(file: OpenFile, start: u64, end: u64) -> Self {
        if start >= end {
            return Self::Empty;
        }
        Self::File(FilePart {
            file,
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
        if self.at + read as u64 == self.end && !self.file.unchanged()? {
            return Err(io::Error::other(
                "the file was overwritten while it was sent",
            ));
        }
        Ok(read)
    }
}

fn shorter() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file became shorter while it was sent",
    )
}
