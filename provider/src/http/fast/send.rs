//! Sending an answer that does not leave at once.
//!
//! Bytes of files go through memory that all connections of a thread share, and are only read when the socket has room:
//! a client that takes nothing costs a few hundred bytes, however much it asked for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};

use crate::http::body::{Body, FilePart};
use crate::http::limits::{FRAME_SIZE, TURN_SIZE};
use crate::http::stream::Stream;

/// Pieces in memory that leave with one call: two of a head, a body, and one to spare.
const SLICES_MAX: usize = 4;

thread_local! {
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; FRAME_SIZE].into_boxed_slice());
}

/// Lends the thread's memory. It must not be asked for again before it is given back.
pub(crate) fn with_room<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    ROOM.with_borrow_mut(|room| work(room))
}

/// Bytes that are still to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    File(FilePart),
}

/// What came of sending for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// So many bytes, and everything is.
    All(u64),
    /// So many bytes; now it is the turn of others.
    Some(u64),
    /// So many bytes; the client takes no more for now.
    Stuck(u64),
}

impl Outgoing {
    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.pieces.push_back(Piece::Bytes(bytes));
        }
    }

    /// Adds a body at the end.
    pub(crate) fn push_body(&mut self, body: Body) {
        match body {
            Body::Empty => {}
            Body::Bytes(bytes) => self.push(bytes),
            Body::File(part) => self.pieces.push_back(Piece::File(part)),
            Body::Several(bodies) => bodies.into_iter().for_each(|body| self.push_body(body)),
        }
    }

    /// Says that so many bytes were sent already.
    pub(crate) fn advance(&mut self, mut sent: u64) {
        while sent > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                return;
            };
            let left = match piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::File(part) => part.left(),
            };
            if sent >= left {
                self.pieces.pop_front();
                sent -= left;
                continue;
            }
            match piece {
                // Less than its length, which is a usize.
                Piece::Bytes(bytes) => bytes.advance(usize::try_from(sent).unwrap_or(0)),
                Piece::File(part) => part.advance(sent),
            }
            return;
        }
    }

    /// Sends as much as the client takes and others can wait for. After `Stuck` the task is woken when there is room, after
    /// `Some` it must ask for its next turn.
    pub(crate) fn poll<S: Stream>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> io::Result<Sent> {
        let mut sent = 0;
        while !self.pieces.is_empty() {
            if sent >= TURN_SIZE {
                return Ok(Sent::Some(sent));
            }
            match with_room(|room| self.poll_once(stream, context, room)) {
                Poll::Pending => return Ok(Sent::Stuck(sent)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    sent += written as u64;
                    self.advance(written as u64);
                }
            }
        }
        Ok(Sent::All(sent))
    }

    fn poll_once<S: Stream>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // What is read and not taken must be read again.
        if let Some(socket) = stream.socket() {
            ready!(socket.poll_write_ready(context))?;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for piece in self.pieces.iter().take(SLICES_MAX) {
            match piece {
                Piece::Bytes(bytes) => slices[count] = IoSlice::new(bytes),
                Piece::File(part) => {
                    let read = part.read(room)?;
                    slices[count] = IoSlice::new(&room[..read]);
                    count += 1;
                    break;
                }
            }
            count += 1;
        }
        Pin::new(stream).poll_write_vectored(context, &slices[..count])
    }
}
