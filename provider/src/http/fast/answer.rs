//! The answer to a plain request: exactly the bytes that hyper would send for it, but for the moment in `Date`.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::RANGE;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_semantics::labels::write_field;

use crate::http::body::Body;
use crate::http::fast::Plain;
use crate::http::respond::{self, Content, Source};
use crate::http::stream::Stream;

/// `Connection: close`, `Date: ` with 29 bytes, and the empty line.
const END_SIZE_MAX: usize = 19 + 37 + 2;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The head up to its last lines.
    pub(crate) head: Bytes,
    /// The last lines.
    pub(crate) end: End,
    /// The body.
    pub(crate) body: Body,
    /// Whether the connection ends with it.
    pub(crate) closes: bool,
}

/// The last lines of a head: those that no two answers share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    bytes: [u8; END_SIZE_MAX],
    size: usize,
}

impl Answer {
    /// What `plain` is answered with; nothing when that is for hyper to say.
    pub(crate) fn new(plain: &Plain<'_>, content: Content, closes: bool) -> Option<Self> {
        // hyper says the length of nothing in another place.
        if content.labels.size == 0 && !plain.is_head {
            return None;
        }
        let end = End::now(closes);
        if plain.range.is_some() && !plain.is_head {
            return Self::chosen(plain, content, end, closes);
        }
        let body = match content.source {
            _ if plain.is_head => Body::Empty,
            Source::Bytes(bytes) => Body::Bytes(bytes),
            Source::File(file) => {
                let size = file.size();
                Body::file(file, 0, size)
            }
        };
        Some(Self {
            status: StatusCode::OK,
            head: content.labels.head.clone(),
            end,
            body,
            closes,
        })
    }

    /// Bytes of the head.
    pub(crate) fn head_size(&self) -> u64 {
        (self.head.len() + self.end.as_bytes().len()) as u64
    }

    /// Writes all of it with one call, unless some of it is in a file: then nothing.
    pub(crate) fn poll_write<S: Stream>(
        &self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<u64>> {
        let bytes = match &self.body {
            Body::File(_) | Body::Several(_) => return Poll::Pending,
            Body::Empty => &[],
            Body::Bytes(bytes) => &bytes[..],
        };
        let slices = [&self.head[..], self.end.as_bytes(), bytes].map(IoSlice::new);
        let written = ready!(Pin::new(stream).poll_write_vectored(context, &slices))?;
        Poll::Ready(Ok(written as u64))
    }

    /// What depends on more than the path.
    fn chosen(plain: &Plain<'_>, content: Content, end: End, closes: bool) -> Option<Self> {
        let mut asked = HeaderMap::new();
        if let Some(range) = plain
            .range
            .and_then(|text| HeaderValue::from_str(text).ok())
        {
            asked.insert(RANGE, range);
        }
        let (parts, body) = respond::content(&Method::GET, &asked, content).into_parts();
        let response = Response::from_parts(parts, ());
        response.status().is_success().then(|| Self {
            status: response.status(),
            head: head_of(&response),
            end,
            body,
            closes,
        })
    }
}

/// A head as hyper writes it, up to its last lines.
fn head_of(response: &Response<()>) -> Bytes {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or("<none>");
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    for (name, value) in response.headers() {
        write_field(&mut head, name, value);
    }
    head.into()
}

impl End {
    /// The last lines of an answer that is sent now.
    fn now(closes: bool) -> Self {
        let mut end = Self {
            bytes: [0; END_SIZE_MAX],
            size: 0,
        };
        if closes {
            end.push(b"Connection: close\r\n");
        }
        end.push(b"Date: ");
        DATE.with_borrow_mut(|date| end.push(date.now()));
        end.push(b"\r\n\r\n");
        end
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.size..self.size + bytes.len()].copy_from_slice(bytes);
        self.size += bytes.len();
    }

    /// The lines.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: 0, text: [0; 29] }) };
}

/// The time of day as it was last written out.
struct Date {
    second: u64,
    text: [u8; 29],
}

impl Date {
    fn now(&mut self) -> &[u8; 29] {
        let now = SystemTime::now();
        let second = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if second != self.second || self.text[0] == 0 {
            let text = http_semantics::labels::http_date(now);
            if let Ok(text) = text.as_bytes().try_into() {
                self.text = text;
                self.second = second;
            }
        }
        &self.text
    }
}
