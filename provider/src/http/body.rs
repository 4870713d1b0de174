//! Response bodies. A file is read in the task that writes the socket, one frame at a time into one buffer.
//!
//! Memory per response is bounded by a few frames, whatever the size of the file. Reading blocks the worker thread for
//! as long as the disk takes; handing each read to another thread was measured to cost four times the throughput.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use artifact_store::OpenFile;
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::http::limits::FRAME_SIZE;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing, or nothing more.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// A range of a file.
    File(FileBody),
    /// Several, one after the other.
    Several(Box<Several>),
}

/// Bodies that are sent one after the other.
#[derive(Debug)]
pub(crate) struct Several {
    left: VecDeque<Body>,
    /// Bytes of all of them.
    size: u64,
}

/// A range of an opened file.
#[derive(Debug)]
pub(crate) struct FileBody {
    file: OpenFile,
    at: u64,
    end: u64,
    buffer: BytesMut,
}

impl Body {
    /// The bytes `start..end` of `file`, which must lie within it.
    pub(crate) fn file(file: OpenFile, start: u64, end: u64) -> Self {
        if start >= end {
            return Self::Empty;
        }
        Self::File(FileBody {
            file,
            at: start,
            end,
            buffer: BytesMut::new(),
        })
    }

    /// `bodies`, one after the other.
    pub(crate) fn several(bodies: Vec<Self>) -> Self {
        let size = bodies.iter().map(Self::size).sum();
        Self::Several(Box::new(Several {
            left: bodies.into(),
            size,
        }))
    }

    fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.end - file.at,
            Self::Several(several) => several.size,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (frame, done) = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Bytes(bytes) => (Ok(std::mem::take(bytes)), true),
            Self::File(file) => {
                let frame = file.next_frame();
                let done = frame.is_err() || file.at == file.end;
                (frame, done)
            }
            Self::Several(several) => return several.poll_frame(context),
        };
        if done {
            *self = Self::Empty;
        }
        Poll::Ready(Some(frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::File(_) => false,
            Self::Several(several) => several.left.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size())
    }
}

impl Several {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        while let Some(first) = self.left.front_mut() {
            match ready!(http_body::Body::poll_frame(Pin::new(first), context)) {
                None => drop(self.left.pop_front()),
                Some(Ok(frame)) => {
                    let size = frame.data_ref().map_or(0, Bytes::len);
                    self.size = self.size.saturating_sub(size as u64);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => {
                    self.left.clear();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl FileBody {
    /// Reads the next frame. Before the last one leaves, the file must still be what its digest was told of: when it
    /// was overwritten meanwhile, the client gets a cut connection instead of a complete lie.
    fn next_frame(&mut self) -> io::Result<Bytes> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let read = read_at(&self.file, self.at, left.min(FRAME_SIZE), &mut self.buffer)?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            ));
        }
        self.at += read as u64;
        if self.at == self.end && !self.file.unchanged()? {
            return Err(io::Error::other(
                "the file was overwritten while it was sent",
            ));
        }
        Ok(self.buffer.split().freeze())
    }
}

/// Appends up to `size` bytes of `file` to `buffer`, whose memory is reused once the socket has taken the last frame.
#[expect(unsafe_code, reason = "reading into memory that is not zeroed first")]
fn read_at(file: &OpenFile, offset: u64, size: usize, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(size);
    loop {
        let spare = buffer.chunk_mut();
        let room = spare.len().min(size);
        // SAFETY: the slice is only passed to pread, which never reads from it nor writes uninitialised bytes to it.
        let spare = unsafe { spare.as_uninit_slice_mut() };
        match rustix::io::pread(file, &mut spare[..room], offset) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok((filled, _)) => {
                let read = filled.len();
                // SAFETY: pread has written `read` bytes to the start of the spare memory.
                unsafe { buffer.advance_mut(read) };
                return Ok(read);
            }
        }
    }
}
