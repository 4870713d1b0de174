//! One connection: requests are read, answered the short way when they are plain, and left to hyper when they are not.
//!
//! ```text
//!             ┌────────────── nothing more to answer ───────────┐
//!             v                                                 │
//!  idle ── bytes ──> plain, and at hand? ── no ──> hyper ── head of a file's answer ──> its bytes ──┐
//!   ^                      │ yes                                                        ^           │
//!   │                      └──> head, date and body in one write ── the rest of it ─────┘           │
//!   └───────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! An idle connection has no buffer, no timer and no state of hyper: only its task, its socket and its seat.

mod by_hyper;
mod sending;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::header::{REFERER, USER_AGENT};
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use crate::http::answered::Answered;
use crate::http::connection::by_hyper::Handed;
use crate::http::connection::sending::Sending;
use crate::http::fast::answer::Answer;
use crate::http::fast::send::with_room;
use crate::http::fast::{self, Look, Plain};
use crate::http::limits::{HEAD_SIZE_MAX, REQUESTS_READ_SIZE};
use crate::http::seats::{Place, Waits};
use crate::http::server::{Handler, Scope};
use crate::http::stream::Stream;
use crate::http::tls::Tls;
use crate::serve::metrics::{self, Cut, Metrics, Reason};

/// A connection.
pub(crate) struct Connection<H> {
    /// The other side.
    pub(crate) client: IpAddr,
    /// By which interface it came, when its address needs that.
    pub(crate) scope: Option<Scope>,
    /// What answers.
    pub(crate) handler: Arc<H>,
    /// What counts.
    pub(crate) metrics: Arc<Metrics>,
    /// Its place among all.
    pub(crate) place: Place,
}

/// What to do after requests were read.
enum Next {
    /// Nothing more comes, or may come.
    End,
    /// An answer did not leave at once.
    Send(Box<Sending>),
    /// What is held begins with something for hyper.
    Hyper,
    /// There is no memory for what is held.
    Crowded,
}

/// Counts an open connection for as long as it lives, also when its task panics.
struct Open<'a>(&'a Metrics);

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connections_open.fetch_add(1, Ordering::Relaxed);
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
        metrics::add(
            &self.0.connection_panics_total,
            u64::from(std::thread::panicking()),
        );
    }
}

impl<H: Handler> Connection<H> {
    /// Serves the connection to its end.
    pub(crate) async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>) {
        let _open = Open::new(&self.metrics);
        // Head and body of some answers leave in two writes; waiting for the first one's acknowledgement costs 40 ms.
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.serve(stream).await,
            // Boxed: its state is far larger than that of a plain connection.
            Some(tls) => Box::pin(self.encrypt(stream, tls)).await,
        }
    }

    async fn encrypt(&self, stream: TcpStream, tls: Arc<Tls>) {
        // It has a deadline of its own. Nothing was asked for yet, so a stop ends it.
        self.place.waits(Waits::Handshake);
        if self.place.seats().is_stopping() {
            return;
        }
        match tls.accept(self.client, stream).await {
            Ok(stream) => {
                metrics::add(&self.metrics.tls_handshakes_total, 1);
                self.serve(stream).await;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.metrics.cut(Cut::Tls),
            Err(error) => {
                self.metrics.refused(Reason::Tls);
                tracing::debug!(client = %self.client, %error, "no TLS connection");
            }
        }
    }

    async fn serve<S: Stream>(&self, mut stream: S) {
        let mut held = Vec::new();
        let mut is_new = false;
        loop {
            let next =
                poll_fn(|context| self.poll_requests(context, &mut stream, &mut held, &mut is_new));
            let sending = match next.await {
                Next::End => break,
                Next::Send(sending) => sending,
                Next::Crowded => {
                    let held = std::mem::take(&mut held);
                    return Box::pin(self.refuse_crowded(stream, held)).await;
                }
                Next::Hyper => {
                    let held_before = std::mem::take(&mut held);
                    // Boxed: most connections never need it, and it is large.
                    match Box::pin(self.by_hyper(stream, held_before)).await {
                        Handed::Ended => return,
                        Handed::Back(returned, rest) => {
                            (stream, held) = (returned, rest);
                            is_new = true;
                            continue;
                        }
                        Handed::Send(returned, rest, sending) => {
                            (stream, held) = (returned, rest);
                            self.keep(&mut held, sending)
                        }
                    }
                }
            };
            is_new = true;
            let closes = sending.closes;
            if self.send(&mut stream, sending).await.is_err() || closes {
                break;
            }
        }
        // TLS has something to say at the end. The client may be gone already.
        if self.place.waits(Waits::Write) {
            let _ = stream.shutdown().await;
        }
    }

    /// Reads requests, and answers them as long as that can be done at once. `held` is what was received of a request that
    /// is not whole; `is_new` says that it was not looked at yet.
    fn poll_requests<S: Stream>(
        &self,
        context: &mut Context<'_>,
        stream: &mut S,
        held: &mut Vec<u8>,
        is_new: &mut bool,
    ) -> Poll<Next> {
        if std::mem::take(is_new) {
            self.place.waits(Waits::Busy);
            let received = std::mem::take(held);
            if let Some(next) = self.take(context, stream, &received, 0, held) {
                return Poll::Ready(next);
            }
        }
        loop {
            let waits = if held.is_empty() {
                Waits::Idle
            } else {
                Waits::Head
            };
            if !self.place.waits(waits) || held.is_empty() && self.place.seats().is_stopping() {
                return Poll::Ready(Next::End);
            }
            let next = with_room(|room| {
                let mut buffer = ReadBuf::new(&mut room[..REQUESTS_READ_SIZE]);
                if ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)).is_err() {
                    return Poll::Ready(Some(Next::End));
                }
                let received = buffer.filled();
                if received.is_empty() {
                    return Poll::Ready(Some(Next::End));
                }
                if held.is_empty() {
                    return Poll::Ready(self.take(context, stream, received, 0, held));
                }
                let searched = held.len();
                let mut all = std::mem::take(held);
                all.extend_from_slice(received);
                Poll::Ready(self.take(context, stream, &all, searched, held))
            });
            if let Some(next) = ready!(next) {
                return Poll::Ready(next);
            }
        }
    }

    /// Answers the plain requests in `received`. What is not answered is in `held` afterwards.
    fn take<S: Stream>(
        &self,
        context: &mut Context<'_>,
        stream: &mut S,
        received: &[u8],
        mut searched: usize,
        held: &mut Vec<u8>,
    ) -> Option<Next> {
        let mut rest = received;
        let mut next = None;
        while !rest.is_empty() && next.is_none() {
            match fast::look(rest, searched) {
                Look::Partial if rest.len() <= HEAD_SIZE_MAX => break,
                Look::Partial | Look::Other => next = Some(Next::Hyper),
                Look::Plain(plain) => {
                    let size = plain.bytes.len();
                    match self.answer_plain(context, stream, &plain) {
                        None => next = Some(Next::Hyper),
                        Some(answered) => {
                            rest = &rest[size..];
                            self.place.idles_anew();
                            next = answered;
                        }
                    }
                }
            }
            searched = 0;
        }
        held.extend_from_slice(rest);
        next = match next {
            Some(Next::Send(sending)) => Some(Next::Send(self.keep(held, sending))),
            None if !self.place.holds(held.len()) => Some(Next::Crowded),
            next => next,
        };
        if let Some(Next::Hyper | Next::Crowded | Next::Send(_)) = next
            && !self.place.waits(Waits::Busy)
        {
            return Some(Next::End);
        }
        next
    }

    /// Has what came behind a request wait while it is answered. Without memory for that, the connection ends with the
    /// answer.
    fn keep(&self, held: &mut Vec<u8>, mut sending: Box<Sending>) -> Box<Sending> {
        if !self.place.holds(held.len()) {
            self.metrics.refused(Reason::HeadMemory);
            *held = Vec::new();
            self.place.holds(0);
            sending.closes = true;
        }
        sending
    }

    /// Answers a plain request if that can be done without waiting for anything but the client. `Some(None)`: it was.
    fn answer_plain<S: Stream>(
        &self,
        context: &mut Context<'_>,
        stream: &mut S,
        plain: &Plain<'_>,
    ) -> Option<Option<Next>> {
        let started = Instant::now();
        let content = self.handler.at_hand(plain.path)?;
        let closes = plain.closes || self.place.seats().is_stopping();
        // What has a rate waits for its turn.
        let is_paced = content.labels.is_artifact && self.handler.egress().is_some();
        let answer = Answer::new(plain, content, closes)?;
        let written = match is_paced {
            true => Poll::Pending,
            false => answer.poll_write(stream, context),
        };
        let written = match written {
            Poll::Pending => 0,
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) => return Some(Some(Next::End)),
        };
        let (head_size, promised) = (answer.head_size(), answer.body.size());
        let sent = written.saturating_sub(head_size);
        metrics::add(&self.metrics.body_bytes_total, sent);
        self.place.sent(written);
        // TLS takes what the socket does not, and nothing but a flush makes that leave.
        let has_left = written == head_size + promised
            && (stream.socket().is_some()
                || matches!(Pin::new(stream).poll_flush(context), Poll::Ready(Ok(()))));
        if !has_left {
            let sending = Sending::of_plain(plain, answer, written, started);
            return Some(Some(Next::Send(Box::new(sending))));
        }
        self.handler.answered(&Answered {
            client: self.client,
            method: &plain.method(),
            target: plain.path,
            status: answer.status.as_u16(),
            promised,
            sent,
            took: started.elapsed(),
            agent: plain.field(USER_AGENT.as_str()),
            referer: plain.field(REFERER.as_str()),
            request_id: None,
            is_fast: true,
        });
        Some(closes.then_some(Next::End))
    }
}

#[cfg(test)]
mod tests;
