//! What a connection brings in. Only whole requests that may be answered go on to hyper; the first one that may not ends
//! the input, is answered here once everything before it is, and the connection is closed so that the answer arrives.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Method;
use http_semantics::gate::Gate;
use http_semantics::refusal::Refusal;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::http::limits::{FAREWELL_MAX, FAREWELL_REST_MAX, HEAD_FREE_SIZE, READ_SIZE};
use crate::serve::limits::LOG_TARGET_MAX;
use crate::serve::metrics::Reason;

/// Said to whoever wants to hold more of a request than there is memory for.
const CROWDED: Refusal = Refusal {
    status: 431,
    code: "heads-crowded",
    text: "too many large requests are under way: send shorter fields, or ask again later",
};

/// The incoming half of a connection.
#[derive(Debug, Default)]
pub(crate) struct Inlet {
    gate: Gate,
    /// Received, and not taken by hyper yet. Empty and without memory while the connection is idle.
    held: BytesMut,
    /// Bytes at the start of `held` that may be taken.
    through: usize,
    /// The most bytes that were held. They may be hyper's by now.
    peak: usize,
    is_ended: bool,
    refusal: Option<Refusal>,
    farewell: Option<Farewell>,
}

/// The last answer, and waiting for the client to have read it.
#[derive(Debug)]
struct Farewell {
    answer: Vec<u8>,
    written: usize,
    is_shut: bool,
    /// Bytes of the client that are still read away: closing over unread ones resets the connection, and with it the
    /// answer.
    rest: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Inlet {
    /// Begins with bytes that were received already.
    pub(crate) fn with(received: Vec<u8>) -> Self {
        Self {
            peak: received.len(),
            held: Bytes::from(received).into(),
            ..Self::default()
        }
    }

    /// What was received and not taken.
    pub(crate) fn into_held(self) -> Vec<u8> {
        self.held.into()
    }

    /// The most bytes of requests that this and its reader may have.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Whether a request has begun and not ended.
    pub(crate) fn is_midway(&self) -> bool {
        !self.held.is_empty()
    }

    /// Refuses what is held, for want of memory.
    pub(crate) fn refuse_crowded(&mut self) {
        self.refusal = Some(CROWDED);
        self.is_ended = true;
    }

    /// What is about to be refused, once.
    pub(crate) fn refuses(&self) -> Option<Refusal> {
        self.refusal.filter(|_| self.farewell.is_none())
    }

    /// What a refused head seems to ask for, for the logs: two words of its first line, each `-` when there is none. Nothing in
    /// them steers a terminal.
    pub(crate) fn asked(&self) -> (Method, Box<str>) {
        let line = self.held[..].split(|byte| *byte == b'\n').next();
        let mut words = line.unwrap_or_default().split(|byte| *byte == b' ');
        let mut word = || {
            let word = words.next().unwrap_or_default().trim_ascii();
            let word = word.get(..LOG_TARGET_MAX).unwrap_or(word);
            if word.is_empty() { &b"-"[..] } else { word }
        };
        let method = Method::from_bytes(word());
        let method = method.or_else(|_| Method::from_bytes(b"-"));
        let printable = |byte: &u8| match byte.is_ascii_graphic() {
            true => char::from(*byte),
            false => '?',
        };
        let target: String = word().iter().map(printable).collect();
        (method.unwrap_or_default(), target.into())
    }

    /// The answer to what was refused, once there is one, and how much of it was written.
    pub(crate) fn farewell(&self) -> Option<(&[u8], usize)> {
        let farewell = self.farewell.as_ref()?;
        Some((&farewell.answer, farewell.written))
    }

    /// Gives hyper what may go through; nothing at the end of the input.
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.through > 0 {
                let size = self.through.min(buffer.remaining());
                buffer.put_slice(&self.held[..size]);
                self.held.advance(size);
                self.through -= size;
                if self.held.is_empty() {
                    self.held = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if self.is_ended {
                return Poll::Ready(Ok(()));
            }
            match self.gate.pass(&self.held) {
                Ok(0) => ready!(self.poll_receive(stream, context))?,
                Ok(size) => self.through = size,
                Err(refusal) => {
                    // It stays held: whoever gets the connection back from hyper must come to the same end.
                    self.refusal = Some(refusal);
                    self.is_ended = true;
                }
            }
        }
    }

    fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut room = [0; READ_SIZE];
        let mut room = ReadBuf::new(&mut room);
        ready!(Pin::new(stream).poll_read(context, &mut room))?;
        self.is_ended = room.filled().is_empty();
        self.held.extend_from_slice(room.filled());
        self.peak = self.peak.max(self.held.len());
        Poll::Ready(Ok(()))
    }

    /// Sends the answer to what was refused, and ends the connection.
    pub(crate) fn poll_shutdown<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(refusal) = self.refusal else {
            return Pin::new(stream).poll_shutdown(context);
        };
        let held = &mut self.held;
        let farewell = self.farewell.get_or_insert_with(|| {
            let answer = refusal.answer(held, SystemTime::now());
            // The logs need its beginning. The rest must not be held for as long as its sender likes to read the answer.
            *held = held[..held.len().min(HEAD_FREE_SIZE)].into();
            Farewell::new(answer)
        });
        match farewell.poll(stream, context) {
            Poll::Pending => farewell.deadline.as_mut().poll(context).map(Ok),
            done @ Poll::Ready(_) => done,
        }
    }
}

impl Reason {
    /// As what a refused head is counted.
    pub(crate) fn of_head(refusal: &Refusal) -> Self {
        match refusal.code {
            "bare-lf" | "folded-field" | "bad-length" | "two-lengths" | "two-framings"
            | "not-chunked-last" => Self::Smuggling,
            "no-host" | "bad-host" => Self::BadHost,
            "other-version" => Self::Version,
            "no-length" | "unknown-coding" | "body-too-large" => Self::RequestBody,
            "heads-crowded" => Self::HeadMemory,
            "head-too-large" | "too-many-fields" => Self::HeadTooLarge,
            "bad-target" | "target-too-long" => Self::BadTarget,
            "no-proxy" | "method-too-long" => Self::Method,
            _ => Self::Malformed,
        }
    }
}

impl Farewell {
    fn new(answer: Vec<u8>) -> Self {
        Self {
            answer,
            written: 0,
            is_shut: false,
            rest: FAREWELL_REST_MAX,
            deadline: Box::pin(tokio::time::sleep(FAREWELL_MAX)),
        }
    }

    fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.answer.get(self.written..) {
            self.written += ready!(Pin::new(&mut *stream).poll_write(context, rest))?;
        }
        if !self.is_shut {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
            self.is_shut = true;
        }
        while self.rest > 0 {
            let mut room = [0; READ_SIZE];
            let mut room = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut room))?;
            match room.filled().len() {
                0 => break,
                read => self.rest = self.rest.saturating_sub(read),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;
    use crate::http::wire::{Account, Wire};
    use crate::serve::metrics::Metrics;

    async fn serve(stream: DuplexStream) {
        let metrics = Metrics::default();
        let account = Account::new(None, &metrics);
        let wire = Wire::new(stream, Inlet::default(), &account);
        let service = service_fn(async |request: http::Request<hyper::body::Incoming>| {
            let mut response = http::Response::new(Empty::<bytes::Bytes>::new());
            let path = request.uri().path().parse().unwrap();
            response.headers_mut().insert("path", path);
            Ok::<_, std::convert::Infallible>(response)
        });
        let _ = http1::Builder::new()
            .half_close(true)
            .serve_connection(wire, service)
            .await;
    }

    async fn talk(request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(64);
        let serving = tokio::spawn(serve(server));
        let (mut answer, (mut read, mut write)) = (String::new(), tokio::io::split(&mut client));
        let (_, read) = tokio::join!(
            async {
                let _ = write.write_all(request.as_bytes()).await;
                let _ = write.shutdown().await;
            },
            read.read_to_string(&mut answer)
        );
        read.unwrap();
        serving.await.unwrap();
        answer
    }

    #[test]
    fn what_was_asked_is_known_as_far_as_it_can_be() {
        for (held, method, target) in [
            ("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/a"),
            ("BREW\r\n", "BREW", "-"),
            ("", "-", "-"),
            ("\n\n", "-", "-"),
            ("\u{16}\u{3} /\u{1b}[2J\u{e9}", "-", "/?[2J??"),
        ] {
            let inlet = Inlet::with(held.as_bytes().to_vec());
            let (found, path) = inlet.asked();
            assert_eq!((found.as_str(), &*path), (method, target), "{held:?}");
        }
        let (_, long) = Inlet::with(format!("GET /{}", "x".repeat(9_999)).into()).asked();
        assert_eq!(long.len(), LOG_TARGET_MAX);
    }

    #[tokio::test]
    async fn what_comes_before_a_refused_request_is_answered_and_what_comes_after_is_not() {
        let good = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let bad = "GET /bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n";
        let answer = talk(&[&good("/one"), &good("/two"), bad, &good("/three")].concat()).await;
        let paths: Vec<&str> = answer
            .lines()
            .filter(|line| line.starts_with("path"))
            .collect();
        assert_eq!(paths, ["path: /one", "path: /two"], "{answer}");
        let (_, last) = answer.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(last.starts_with("400 Bad Request\r\n"), "{answer}");
        assert!(last.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(
            last.ends_with("the end of the request is not certain\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_client_that_never_stops_sending_is_left() {
        let endless = format!("GET / HTTP/1.1\n\n{}", "x".repeat(2 * FAREWELL_REST_MAX));
        let answer = talk(&endless).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_does_not_hide_a_request() {
        let inner = "GET /inner HTTP/1.1\r\nHost: x\r\n\r\n";
        let outer = format!(
            "GET /outer HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{inner}",
            inner.len()
        );
        let answer = talk(&format!("{outer}GET /next HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(!answer.contains("/inner"), "{answer}");
        assert!(
            answer.contains("/outer") && answer.contains("/next"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn bytes_that_were_received_before_come_first() {
        let mut inlet = Inlet::with(b"GET / HTTP/1.1\r\nHo".to_vec());
        let mut stream: &[u8] = b"st: x\r\n\r\n";
        let mut room = [0; 100];
        let mut buffer = hyper::rt::ReadBuf::new(&mut room);
        std::future::poll_fn(|context| inlet.poll_read(&mut stream, context, buffer.unfilled()))
            .await
            .unwrap();
        assert_eq!(buffer.filled(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }

    #[tokio::test]
    async fn what_was_refused_is_refused_by_the_next_reader_too() {
        let bad = b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut inlet = Inlet::default();
        let mut stream: &[u8] = bad;
        let mut room = [0; 100];
        let mut buffer = hyper::rt::ReadBuf::new(&mut room);
        std::future::poll_fn(|context| inlet.poll_read(&mut stream, context, buffer.unfilled()))
            .await
            .unwrap();
        assert!(buffer.filled().is_empty());
        assert_eq!(inlet.refuses().map(|refusal| refusal.code), Some("no-host"));
        assert_eq!(inlet.into_held(), bad);
    }
}
