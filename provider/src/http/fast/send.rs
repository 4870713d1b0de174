//! Sending an answer that does not leave at once.
//!
//! Bytes of files go through memory that all connections of a thread share, and are only read when the socket has room:
//! a client that takes nothing costs a few hundred bytes, however much it asked for.
//!
//! To clients on other machines, long pieces go by reference instead (`sendfile`), all but their end. Measured with 1 GiB
//! from the page cache on two processors that were busy with other work, CPU seconds for each GB of server and client, and
//! GB/s with 16 downloads:
//!
//! | | server | client | rate |
//! | --- | --- | --- | --- |
//! | `sendfile` | 0.04 to 0.11 | 0.48 to 0.51 | 1.0 |
//! | `splice` through a pipe | 0.04 to 0.11 | 0.43 to 0.51 | 1.2 |
//! | `pread` and `write`, 256 KiB | 0.18 to 0.28 | 0.17 to 0.29 | 1.3 |
//! | the same, 1 MiB | 0.21 to 0.30 | 0.17 to 0.27 | 1.1 |
//! | mapping 256 KiB at a time | 0.17 to 0.30 | 0.19 to 0.29 | 1.7 |
//!
//! What is not copied here is copied by the client, and from colder memory: where both share processors, copying is the
//! better bargain; where they do not, the server's time is what counts. Mappings would count as this process's memory.
//!
//! Bytes that went by reference are the file's until the client has them. So the end of such a piece waits until it has
//! all the others, and is copied after a look whether the file has changed: nobody gets a complete lie. That is a round
//! trip with nothing on the way, which is why short pieces are copied.

mod drain;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::http::body::{Body, FilePart};
pub(crate) use crate::http::fast::send::drain::Drained;
use crate::http::fast::send::drain::Draining;
use crate::http::limits::{FRAME_SIZE, REFERRED_END, REFERRED_MIN, TURN_SIZE};
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
    /// Whether files go by reference; not known before the first.
    refers: Option<bool>,
    /// Whether bytes went by reference since the socket was last seen empty.
    has_referred: bool,
    /// The wait until the client has them.
    draining: Option<Draining>,
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
    /// So many bytes; the client must have them before it gets more. Look again as it says.
    Draining(u64, Drained),
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
            match self.must_drain(stream) {
                Ok(None) => {}
                Ok(Some(drained)) => return Ok(Sent::Draining(sent, drained)),
                // As below.
                Err(_) if sent > 0 => return Ok(Sent::Some(sent)),
                Err(error) => return Err(error),
            }
            match self.poll_once(stream, context) {
                Poll::Pending => return Ok(Sent::Stuck(sent)),
                // What has left is counted first; the next look meets the error again.
                Poll::Ready(Err(_)) if sent > 0 => return Ok(Sent::Some(sent)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    sent += written as u64;
                    self.advance(written as u64);
                }
            }
        }
        // TLS may hold back what the socket did not take at once.
        match Pin::new(stream).poll_flush(context)? {
            Poll::Ready(()) => Ok(Sent::All(sent)),
            Poll::Pending => Ok(Sent::Stuck(sent)),
        }
    }

    /// What the end of a piece must wait for: that all bytes before it have arrived.
    fn must_drain<S: Stream>(&mut self, stream: &S) -> io::Result<Option<Drained>> {
        let is_end = |part: &FilePart| part.left() <= REFERRED_END;
        if !self.has_referred
            || !matches!(self.pieces.front(), Some(Piece::File(part)) if is_end(part))
        {
            return Ok(None);
        }
        let drained = match stream.socket() {
            Some(socket) => Draining::look(&mut self.draining, socket)?,
            None => None,
        };
        self.has_referred = drained.is_some();
        Ok(drained)
    }

    fn poll_once<S: Stream>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(socket) = stream.socket() {
            // What is read and not taken must be read again.
            ready!(socket.poll_write_ready(context))?;
            if let Some(Piece::File(part)) = self.pieces.front()
                && part.left() > REFERRED_END
                && (self.has_referred || part.left() >= REFERRED_MIN)
                && *self.refers.get_or_insert_with(|| is_elsewhere(socket))
            {
                let size = TURN_SIZE.min(part.left() - REFERRED_END);
                match socket.try_io(Interest::WRITABLE, || part.send_to(socket, size)) {
                    Ok(sent) => {
                        self.has_referred = true;
                        return Poll::Ready(Ok(sent));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // It was not ready after all, which is known now.
                        ready!(socket.poll_write_ready(context))?;
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    // Some file systems cannot.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        self.refers = Some(false);
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        with_room(|room| self.poll_copy(stream, context, room))
    }

    fn poll_copy<S: Stream>(
        &self,
        stream: &mut S,
        context: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
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

/// Whether the other side is another machine, as far as addresses tell.
fn is_elsewhere(socket: &TcpStream) -> bool {
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(here), Ok(there)) => {
            here.ip() != there.ip() && !there.ip().to_canonical().is_loopback()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
