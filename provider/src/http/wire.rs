//! The bytes of one connection while hyper has it: what comes in passes the [inlet](crate::http::inlet), and what leaves is
//! counted here, answer by answer.
//!
//! hyper keeps a connection only for as long as it has something to answer. An [`Account`] knows when it has not: every
//! byte that was promised has left, nothing is being answered, and hyper waits for the next request. Bodies out of files
//! never go through hyper, which would need a buffer for each: it sends the head, and gives the connection back.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use http_body::{Frame, SizeHint};
use http_semantics::refusal::Refusal;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::body::Body;
use crate::http::inlet::Inlet;
use crate::http::limits::HYPER_SIZE;
use crate::http::record::Record;
use crate::http::seats::{Place, Waits};
use crate::serve::metrics::{self, Metrics, Reason};

/// A body as hyper has it.
#[derive(Debug)]
pub(crate) enum Carried {
    /// Nothing, or nothing more.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// So many bytes that somebody else sends behind the head.
    Elsewhere(u64),
}

impl http_body::Body for Carried {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &*self {
            Self::Empty => Poll::Ready(None),
            // The connection is taken from hyper as soon as the head has left; nothing wakes this.
            Self::Elsewhere(_) => Poll::Pending,
            Self::Bytes(bytes) => {
                let bytes = bytes.clone();
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size())
    }
}

impl Carried {
    fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Elsewhere(size) => *size,
        }
    }
}

/// What is known of the answers that hyper sends on one connection.
pub(crate) struct Account<'a> {
    place: Option<&'a Place>,
    metrics: &'a Metrics,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// Bytes that left, and bytes that are to leave by what was promised so far.
    sent: u64,
    promised: u64,
    /// Answers that have not left.
    open: VecDeque<Entry>,
    /// Answers that have.
    done: Vec<Record>,
    /// What follows the last answer's head, and whether the connection ends with it.
    elsewhere: Option<(Body, bool)>,
    answers: u64,
    /// Whether the connection ends with the last answer: what comes behind it is no request any more.
    is_last: bool,
    is_answering: bool,
    is_flushed: bool,
    is_reading: bool,
    /// Whether there is no memory for waiting for the rest of a request.
    is_crowded: bool,
}

struct Entry {
    head_end: u64,
    end: u64,
    record: Record,
}

/// How an answer begins.
pub(crate) struct Promise {
    /// What becomes of it.
    pub(crate) record: Record,
    /// Bytes of its head.
    pub(crate) head: u64,
    /// The body, when somebody else sends it.
    pub(crate) elsewhere: Option<Body>,
    /// Whether the connection ends with it.
    pub(crate) closes: bool,
}

impl Promise {
    /// That of the answer to bytes that are no request.
    fn of_refusal(refusal: &Refusal, (method, target): (Method, Box<str>), answer: &[u8]) -> Self {
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n");
        let head = body.map_or(answer.len(), |at| at + 4);
        Self {
            head: head as u64,
            record: Record {
                method,
                target,
                agent: None,
                referer: None,
                status: refusal.status,
                promised: (answer.len() - head) as u64,
                sent: 0,
                request_id: None,
                started: Instant::now(),
                is_fast: false,
            },
            elsewhere: None,
            closes: true,
        }
    }
}

/// What is to be done with the connection.
#[derive(Debug)]
pub(crate) enum Due {
    /// hyper has it.
    Nothing,
    /// It is idle.
    Idle,
    /// There is no memory for the request that has begun.
    Crowded,
    /// The head of an answer has left, and this is to follow; whether the connection ends with it.
    Elsewhere(Body, Record, bool),
}

impl<'a> Account<'a> {
    /// Nothing is answered yet.
    pub(crate) fn new(place: Option<&'a Place>, metrics: &'a Metrics) -> Self {
        Self {
            place,
            metrics,
            ledger: Mutex::default(),
        }
    }

    /// A request is being answered.
    pub(crate) fn begins(&self) {
        self.waits(Waits::Busy);
        self.ledger().is_answering = true;
    }

    /// An answer is given to hyper.
    pub(crate) fn promises(&self, promise: Promise) {
        let mut ledger = self.ledger();
        let head_end = ledger.promised + promise.head;
        let body = if promise.elsewhere.is_some() {
            0
        } else {
            promise.record.promised
        };
        ledger.promised = head_end + body;
        let end = ledger.promised;
        ledger.open.push_back(Entry {
            head_end,
            end,
            record: promise.record,
        });
        ledger.elsewhere = promise.elsewhere.map(|body| (body, promise.closes));
        ledger.answers += 1;
        ledger.is_last = promise.closes;
        ledger.is_answering = false;
        ledger.is_flushed = false;
    }

    /// What is to be done after hyper had its turn.
    pub(crate) fn due(&self) -> Due {
        let mut ledger = self.ledger();
        if ledger.is_crowded && ledger.answers == 0 && !ledger.is_answering {
            return Due::Crowded;
        }
        if ledger.is_answering || !ledger.is_flushed || ledger.sent < ledger.promised {
            return Due::Nothing;
        }
        if let Some((body, closes)) = ledger.elsewhere.take()
            && let Some(record) = ledger.done.pop()
        {
            return Due::Elsewhere(body, record, closes);
        }
        if ledger.is_reading && ledger.answers > 0 && !ledger.is_last {
            return Due::Idle;
        }
        Due::Nothing
    }

    /// The answers that have left since the last look; after the end, also those that were cut off.
    pub(crate) fn take_done(&self, is_end: bool) -> Vec<Record> {
        let mut ledger = self.ledger();
        if is_end {
            let open = std::mem::take(&mut ledger.open);
            ledger
                .done
                .extend(open.into_iter().map(|entry| entry.record));
        } else if ledger.elsewhere.is_some() {
            // Its body is still to come.
            let last = ledger.done.pop();
            let done = std::mem::take(&mut ledger.done);
            ledger.done.extend(last);
            return done;
        }
        std::mem::take(&mut ledger.done)
    }

    fn wrote(&self, written: u64) {
        if let Some(place) = self.place {
            place.sent(written);
        }
        let mut ledger = self.ledger();
        let (from, to) = (ledger.sent, ledger.sent + written);
        ledger.sent = to;
        ledger.is_flushed = false;
        for entry in &mut ledger.open {
            let body = to.min(entry.end).saturating_sub(from.max(entry.head_end));
            entry.record.sent += body;
            metrics::add(&self.metrics.body_bytes_total, body);
        }
        while ledger.open.front().is_some_and(|entry| entry.end <= to) {
            let left = ledger.open.pop_front();
            ledger.done.extend(left.map(|entry| entry.record));
        }
    }

    /// All that was written is with the kernel.
    fn flushed(&self) {
        let mut ledger = self.ledger();
        ledger.is_flushed = true;
        // What is answered next waits for nothing the client does.
        if ledger.is_answering {
            self.waits(Waits::Busy);
        }
    }

    /// hyper has asked for a request, and whether none is there.
    fn reads(&self, is_pending: bool) {
        let mut ledger = self.ledger();
        ledger.is_reading = is_pending;
        // As long as something is to leave, that is what is waited for: the bytes of a request that come meanwhile must
        // not begin that wait anew.
        let has_left = ledger.answers == 0 || ledger.is_flushed && ledger.sent >= ledger.promised;
        if is_pending && !ledger.is_answering && has_left {
            self.waits(Waits::Head);
        }
    }

    fn waits(&self, waits: Waits) -> bool {
        self.place.is_none_or(|place| place.waits(waits))
    }

    fn holds(&self, bytes: usize) -> bool {
        self.place.is_none_or(|place| place.holds(bytes))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Whole at every unlock.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's socket, or the TLS upon it, as hyper uses it.
pub(crate) struct Wire<'a, S> {
    stream: S,
    inlet: Inlet,
    account: &'a Account<'a>,
}

impl<'a, S> Wire<'a, S> {
    /// Wraps `stream`, of which the inlet may have some bytes already.
    pub(crate) fn new(stream: S, inlet: Inlet, account: &'a Account<'a>) -> Self {
        Self {
            stream,
            inlet,
            account,
        }
    }

    /// The stream, and what was received and not read by hyper.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.inlet.into_held())
    }

    /// Whether the connection may wait for its client to take bytes, with what is held of further requests.
    fn may_stall(&self) -> bool {
        let has_room = self.account.holds(self.inlet.peak());
        if !has_room {
            self.account.metrics.refused(Reason::HeadMemory);
        }
        has_room && self.account.waits(Waits::Write)
    }

    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let may_stay = match &written {
            Poll::Ready(Ok(written)) => {
                self.account.wrote(*written as u64);
                self.account.waits(Waits::Busy)
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => self.may_stall(),
        };
        if may_stay {
            written
        } else {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        }
    }
}

impl<S: AsyncRead + Unpin> Read for Wire<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        let result = wire.inlet.poll_read(&mut wire.stream, context, buffer);
        if result.is_pending() && wire.inlet.is_midway() {
            let held = wire.inlet.peak() + HYPER_SIZE;
            wire.account.ledger().is_crowded = !wire.account.holds(held);
        }
        wire.account.reads(result.is_pending());
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Write for Wire<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper asks for this when it has written all it has. TLS holds back what the socket does not take.
        match Pin::new(&mut self.stream).poll_flush(context)? {
            Poll::Pending if self.may_stall() => Poll::Pending,
            Poll::Pending => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Ready(()) => {
                self.account.flushed();
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        wire.account.waits(Waits::Write);
        let refusal = wire.inlet.refuses();
        let written = |inlet: &Inlet| inlet.farewell().map_or(0, |(_, written)| written);
        let before = written(&wire.inlet);
        let shut = wire.inlet.poll_shutdown(&mut wire.stream, context);
        if let Some(refusal) = refusal
            && let Some((answer, _)) = wire.inlet.farewell()
        {
            let promise = Promise::of_refusal(&refusal, wire.inlet.asked(), answer);
            wire.account.metrics.refused(Reason::of_head(&refusal));
            tracing::debug!(code = refusal.code, "request refused: {refusal}");
            wire.account.promises(promise);
        }
        let written = written(&wire.inlet) - before;
        if written > 0 {
            wire.account.wrote(written as u64);
        }
        shut
    }
}
