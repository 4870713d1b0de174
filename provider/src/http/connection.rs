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

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use crate::http::answered::{Answered, RequestId};
use crate::http::body::Body;
use crate::http::fast::answer::Answer;
use crate::http::fast::send::{Drained, Outgoing, Sent, with_room};
use crate::http::fast::{self, Look, Plain};
use crate::http::inlet::Inlet;
use crate::http::limits::{HEAD_SIZE_MAX, REQUESTS_READ_SIZE};
use crate::http::record::Record;
use crate::http::respond;
use crate::http::seats::{Place, Waits};
use crate::http::server::Handler;
use crate::http::stream::Stream;
use crate::http::tls::Tls;
use crate::http::wire::{Account, Carried, Due, Promise, Wire};
use crate::serve::metrics::{self, Cut, Metrics, Reason};

/// A connection.
pub(crate) struct Connection<H> {
    /// The other side.
    pub(crate) client: IpAddr,
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
}

/// An answer on its way.
struct Sending {
    outgoing: Outgoing,
    /// Bytes of the head that have not left.
    head_left: u64,
    record: Record,
    closes: bool,
}

/// What comes next when an answer was sent for a while.
enum Turn {
    /// Nothing: it has left.
    End,
    /// The turn of others.
    Others,
    /// Another look, after this time.
    Later(Duration),
}

/// How hyper ended.
enum Handed<S> {
    /// With the connection.
    Ended,
    /// The connection may go on, with what was received and not read.
    Back(S, Vec<u8>),
    /// The same, once this is sent.
    Send(S, Vec<u8>, Box<Sending>),
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
                            sending
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
        if let Some(Next::Hyper | Next::Send(_)) = next
            && !self.place.waits(Waits::Busy)
        {
            return Some(Next::End);
        }
        held.extend_from_slice(rest);
        next
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
        let Answer {
            status,
            head,
            end,
            body,
        } = Answer::new(plain, content, closes)?;
        let promised = body.size();
        let head_size = (head.len() + end.as_bytes().len()) as u64;
        let written = match &body {
            Body::File(_) | Body::Several(_) => Poll::Pending,
            Body::Empty | Body::Bytes(_) => {
                let bytes = match &body {
                    Body::Bytes(bytes) => &bytes[..],
                    _ => &[],
                };
                let slices = [&head[..], end.as_bytes(), bytes].map(IoSlice::new);
                Pin::new(&mut *stream).poll_write_vectored(context, &slices)
            }
        };
        let written = match written {
            Poll::Pending => 0,
            Poll::Ready(Ok(written)) => written as u64,
            Poll::Ready(Err(_)) => return Some(Some(Next::End)),
        };
        let sent = written.saturating_sub(head_size);
        metrics::add(&self.metrics.body_bytes_total, sent);
        self.place.sent(written);
        let method = if plain.is_head {
            Method::HEAD
        } else {
            Method::GET
        };
        // TLS takes what the socket does not, and nothing but a flush makes that leave.
        let has_left = stream.socket().is_some()
            || matches!(
                Pin::new(&mut *stream).poll_flush(context),
                Poll::Ready(Ok(()))
            );
        if written == head_size + promised && has_left {
            self.handler.answered(&Answered {
                client: self.client,
                method: &method,
                target: plain.path,
                status: status.as_u16(),
                promised,
                sent,
                took: started.elapsed(),
                agent: plain.field(USER_AGENT.as_str()),
                referer: plain.field(REFERER.as_str()),
                request_id: None,
                is_fast: true,
            });
            return Some(closes.then_some(Next::End));
        }
        let mut outgoing = Outgoing::default();
        outgoing.push(head);
        outgoing.push(Bytes::copy_from_slice(end.as_bytes()));
        outgoing.push_body(body);
        outgoing.advance(written);
        let field = |name: HeaderName| plain.field(name.as_str()).map(Box::from);
        Some(Some(Next::Send(Box::new(Sending {
            outgoing,
            head_left: head_size.saturating_sub(written),
            record: Record {
                method,
                target: plain.path.into(),
                agent: field(USER_AGENT),
                referer: field(REFERER),
                status: status.as_u16(),
                promised,
                sent,
                request_id: None,
                started,
                is_fast: true,
            },
            closes,
        }))))
    }

    /// Sends an answer to its end, and tells of it however it ends.
    async fn send<S: Stream>(&self, stream: &mut S, sending: Box<Sending>) -> io::Result<()> {
        let mut telling = Telling {
            connection: self,
            sending,
        };
        let sent = loop {
            match poll_fn(|context| telling.sending.poll(self, context, stream)).await {
                Ok(Turn::End) => break Ok(()),
                // Unlike waking itself, this wakes no other thread to take the task over.
                Ok(Turn::Others) => tokio::task::yield_now().await,
                Ok(Turn::Later(time)) => tokio::time::sleep(time).await,
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &sent {
            tracing::debug!(client = %self.client, %error, "an answer was cut off");
        }
        sent
    }

    /// Has hyper answer what comes, until there is nothing to answer any more.
    async fn by_hyper<S: Stream>(&self, stream: S, held: Vec<u8>) -> Handed<S> {
        let account = Account::new(Some(&self.place), &self.metrics);
        let telling = TellingAll {
            connection: self,
            account: &account,
        };
        let wire = Wire::new(stream, Inlet::with(held), &account);
        let service = service_fn(|request| self.answer(&account, request));
        let mut connection = http1::Builder::new()
            // The seats watch the time.
            .header_read_timeout(None)
            .max_header_size(HEAD_SIZE_MAX)
            // Some firmware sends its request and closes its sending side.
            .half_close(true)
            // Some firmware compares field names letter by letter.
            .title_case_headers(true)
            .serve_connection(wire, service);
        let ended = poll_fn(|context| {
            if self.place.seats().is_stopping() {
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(Err(result));
            }
            telling.tell(false);
            match account.due() {
                Due::Nothing => Poll::Pending,
                due => Poll::Ready(Ok(due)),
            }
        });
        match ended.await {
            Err(result) => {
                self.ended(result);
                Handed::Ended
            }
            Ok(due) => {
                let parts = connection.into_parts();
                let mut rest = parts.read_buf.to_vec();
                let (stream, unread) = parts.io.into_parts();
                rest.extend_from_slice(&unread);
                match due {
                    Due::Nothing | Due::Idle => Handed::Back(stream, rest),
                    Due::Elsewhere(body, record, closes) => {
                        let mut outgoing = Outgoing::default();
                        outgoing.push_body(body);
                        let sending = Sending {
                            outgoing,
                            head_left: 0,
                            record,
                            closes,
                        };
                        Handed::Send(stream, rest, Box::new(sending))
                    }
                }
            }
        }
    }

    fn ended(&self, result: hyper::Result<()>) {
        let Err(error) = result else {
            return;
        };
        if error.is_parse_too_large() {
            self.metrics.refused(Reason::HeadTooLarge);
        } else if error.is_parse() {
            self.metrics.refused(Reason::Malformed);
        }
        // Clients go away all the time.
        let cause = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::debug!(client = %self.client, %error, cause, "connection ended early");
    }

    async fn answer(
        &self,
        account: &Account<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<Carried>, Infallible> {
        account.begins();
        let started = Instant::now();
        let (method, target) = (request.method().clone(), request.uri().clone());
        let keeps_alive = keeps_alive(request.version(), request.headers());
        let has_body = !http_body::Body::is_end_stream(request.body());
        let field = |name| {
            request
                .headers()
                .get(name)
                .map(|value| value.as_bytes().into())
        };
        let (agent, referer) = (field(USER_AGENT), field(REFERER));
        let response = self.handler.handle(self.client, request).await;
        let promised = match response.body() {
            _ if method == Method::HEAD => 0,
            body => body.size(),
        };
        let mut elsewhere = None;
        let mut response = response.map(|body| match body {
            Body::Empty => Carried::Empty,
            Body::Bytes(bytes) => Carried::Bytes(bytes),
            Body::File(_) | Body::Several(_) => {
                let size = body.size();
                elsewhere = Some(body);
                Carried::Elsewhere(size)
            }
        });
        // hyper would have to read a request's body before it can give the connection back.
        let closes = !keeps_alive
            || self.place.seats().is_stopping()
            || has_body && elsewhere.is_some()
            || response.headers().contains_key(CONNECTION);
        if closes {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let target = target
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        account.promises(Promise {
            head: respond::head_size(&response),
            record: Record {
                method,
                target: target.into(),
                agent,
                referer,
                status: response.status().as_u16(),
                promised,
                sent: 0,
                request_id: response.extensions().get::<RequestId>().cloned(),
                started,
                is_fast: false,
            },
            elsewhere,
            closes,
        });
        Ok(response)
    }
}

/// Whether a connection goes on after a request, as hyper sees it.
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |option: &str| {
        headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|said| said.trim().eq_ignore_ascii_case(option))
    };
    !says("close") && (version >= Version::HTTP_11 || says("keep-alive"))
}

impl Sending {
    fn poll<H: Handler, S: Stream>(
        &mut self,
        connection: &Connection<H>,
        context: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<Turn>> {
        let sent = self.outgoing.poll(stream, context)?;
        let (Sent::All(written)
        | Sent::Some(written)
        | Sent::Stuck(written)
        | Sent::Draining(written, _)) = sent;
        let head = self.head_left.min(written);
        self.head_left -= head;
        self.record.sent += written - head;
        metrics::add(&connection.metrics.body_bytes_total, written - head);
        let arrived = match sent {
            Sent::Draining(_, Drained { acknowledged, .. }) => acknowledged,
            _ => 0,
        };
        // The kernel's memory may be a minute's worth of a slow link: who takes from there is not silent either.
        connection.place.sent(written + arrived);
        // While bytes leave, the time for taking the next ones counts anew.
        let mut may_stay = written + arrived == 0 || connection.place.waits(Waits::Busy);
        if matches!(sent, Sent::Stuck(_) | Sent::Draining(..)) {
            may_stay = may_stay && connection.place.waits(Waits::Write);
        }
        if !may_stay {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match sent {
            Sent::All(_) => Poll::Ready(Ok(Turn::End)),
            Sent::Some(_) => Poll::Ready(Ok(Turn::Others)),
            Sent::Draining(_, Drained { again, .. }) => Poll::Ready(Ok(Turn::Later(again))),
            Sent::Stuck(_) => Poll::Pending,
        }
    }
}

/// Tells of an answer when it has left, or when its connection is cut.
struct Telling<'a, H: Handler> {
    connection: &'a Connection<H>,
    sending: Box<Sending>,
}

impl<H: Handler> Drop for Telling<'_, H> {
    fn drop(&mut self) {
        let record = &self.sending.record;
        let answered = record.answered(self.connection.client);
        self.connection.handler.answered(&answered);
    }
}

/// The same for the answers that hyper sends.
struct TellingAll<'a, H: Handler> {
    connection: &'a Connection<H>,
    account: &'a Account<'a>,
}

impl<H: Handler> TellingAll<'_, H> {
    fn tell(&self, is_end: bool) {
        for record in self.account.take_done(is_end) {
            let answered = record.answered(self.connection.client);
            self.connection.handler.answered(&answered);
        }
    }
}

impl<H: Handler> Drop for TellingAll<'_, H> {
    fn drop(&mut self) {
        self.tell(true);
    }
}

#[cfg(test)]
mod tests;
