//! Answers. Every one has a `Content-Length` and a type; content has validators and honours ranges and preconditions.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use artifact_store::OpenFile;
use boot_manifest::Digest;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, LAST_MODIFIED,
};
use http::{HeaderMap, Method, Response, StatusCode};
use serde::Serialize;

use crate::http::body::Body;
use crate::http::condition::{self, Validators, Verdict};
use crate::http::range::{self, Selection};

/// The digest of the whole artifact, also with a partial answer.
const ARTIFACT_HASH: HeaderName = HeaderName::from_static("x-artifact-hash");

/// Fields of a content's answer, with room for `Content-Range`, `Connection` and the date.
const FIELDS_MAX: usize = 12;

/// Where the bytes of a content come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Memory.
    Bytes(Bytes),
    /// An opened file.
    File(OpenFile),
}

/// Something with a digest that is sent whole or in part.
#[derive(Debug)]
pub(crate) struct Content {
    /// The bytes.
    pub(crate) source: Source,
    /// What is said about them.
    pub(crate) labels: Arc<Labels>,
}

/// What is said about a content. Made once for each content, because writing it out costs more than sending it.
#[derive(Debug)]
pub(crate) struct Labels {
    /// The strong entity tag, with its quotes.
    etag: String,
    modified: SystemTime,
    /// The head of an answer with the whole content.
    whole: HeaderMap,
}

/// What labels are made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The digest of the bytes: the entity tag.
    pub(crate) digest: Digest,
    /// How many there are.
    pub(crate) size: u64,
    /// When they were last modified.
    pub(crate) modified: SystemTime,
    /// Their media type.
    pub(crate) media_type: &'static str,
    /// Whether to name the digest in `X-Artifact-Hash` too.
    pub(crate) is_artifact: bool,
}

impl Labels {
    /// The labels of a content.
    pub(crate) fn new(facts: Facts) -> Self {
        let etag = format!("\"{}\"", facts.digest.hex());
        let mut whole = HeaderMap::with_capacity(FIELDS_MAX);
        whole.insert(CONTENT_LENGTH, facts.size.into());
        set(&mut whole, ETAG, &etag);
        set(&mut whole, LAST_MODIFIED, &http_date(facts.modified));
        if facts.is_artifact {
            set(&mut whole, ARTIFACT_HASH, &facts.digest.to_string());
        }
        whole.insert(CONTENT_TYPE, HeaderValue::from_static(facts.media_type));
        whole.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // The name may get another content at any time; the entity tag makes asking again cheap.
        whole.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Self {
            etag,
            modified: facts.modified,
            whole,
        }
    }
}

/// A line of text for people.
pub(crate) fn text(status: StatusCode, line: &str) -> Response<Body> {
    whole(
        status,
        "text/plain; charset=utf-8",
        Bytes::from(format!("{line}\n")),
    )
}

/// A JSON object for programs.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            whole(status, "application/json", bytes.into())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// 405: only reading is offered.
pub(crate) fn not_allowed() -> Response<Body> {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        "only GET and HEAD are offered",
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn whole(status: StatusCode, media_type: &'static str, bytes: Bytes) -> Response<Body> {
    let size = bytes.len() as u64;
    let mut response = Response::new(Body::Bytes(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, size.into());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers a GET or HEAD request for `content`.
pub(crate) fn content(method: &Method, asked: &HeaderMap, content: Content) -> Response<Body> {
    let Content { source, labels } = content;
    let size = source.size();
    let verdict = condition::evaluate(
        asked,
        Validators {
            etag: &labels.etag,
            modified: labels.modified,
        },
    );
    let selection = match verdict {
        // Range is defined for GET only.
        Verdict::Proceed if method == Method::GET => range::select(asked, size),
        _ => Selection::Whole,
    };
    let said = labels.whole.clone();
    match (verdict, selection) {
        (Verdict::NotModified, _) => {
            let mut response = answer(StatusCode::NOT_MODIFIED, said, Body::Empty);
            response.headers_mut().remove(CONTENT_LENGTH);
            response
        }
        (Verdict::Failed, _) => instead(
            text(
                StatusCode::PRECONDITION_FAILED,
                "the content is another one by now",
            ),
            said,
        ),
        (_, Selection::Unsatisfiable) => {
            let line = format!("the content has {size} bytes");
            let mut response = instead(text(StatusCode::RANGE_NOT_SATISFIABLE, &line), said);
            let headers = response.headers_mut();
            set(headers, CONTENT_RANGE, &format!("bytes */{size}"));
            response
        }
        (_, Selection::Whole) => answer(StatusCode::OK, said, send(method, source, 0, size)),
        (_, Selection::Part { start, end }) => {
            let body = send(method, source, start, end);
            let mut response = answer(StatusCode::PARTIAL_CONTENT, said, body);
            let headers = response.headers_mut();
            headers.insert(CONTENT_LENGTH, (end - start).into());
            // Never empty, so `end` is at least one.
            let range = format!("bytes {start}-{}/{size}", end - 1);
            set(headers, CONTENT_RANGE, &range);
            response
        }
    }
}

fn answer(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A message in the place of the content: it keeps its own length and type, and has the content's other fields.
fn instead(mut message: Response<Body>, said: HeaderMap) -> Response<Body> {
    let own = std::mem::replace(message.headers_mut(), said);
    let headers = message.headers_mut();
    for name in [CONTENT_LENGTH, CONTENT_TYPE] {
        if let Some(value) = own.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    message
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.size(),
        }
    }
}

/// The bytes `start..end`; none for HEAD.
fn send(method: &Method, source: Source, start: u64, end: u64) -> Body {
    match source {
        _ if method == Method::HEAD => Body::Empty,
        Source::File(file) => Body::file(file, start, end),
        Source::Bytes(bytes) => {
            // Offsets into bytes in memory always fit.
            let at =
                |offset: u64| usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
            Body::Bytes(bytes.slice(at(start)..at(end)))
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Our own values are ASCII without control characters; one that were not would be left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// HTTP dates exist from 1970 to 9999; a file's time stamp can be anything.
fn http_date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
        .min(HTTP_DATE_MAX);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// 9999-12-31T23:59:59Z.
const HTTP_DATE_MAX: u64 = 253_402_300_799;

/// The media type of a file. Firmware compares it with `application/efi` letter by letter, and goes by the end of the
/// path when it knows nothing of the type.
pub(crate) fn media_type(file: &str) -> &'static str {
    match file.rsplit_once('.').map(|(_, extension)| extension) {
        Some("efi") => "application/efi",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Bytes that the head of `response` has on the wire, with the date that hyper adds.
pub(crate) fn head_size(response: &Response<Body>) -> u64 {
    /// `HTTP/1.1 200 ` and the line ends behind the reason and the last field.
    const FIXED: usize = 13 + 2 + 2;
    /// `date: Sun, 06 Nov 1994 08:49:37 GMT` and its line end.
    const DATE: usize = 37;
    let reason = response
        .status()
        .canonical_reason()
        .unwrap_or("<none>")
        .len();
    let fields = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    (FIXED + DATE + reason + fields.sum::<usize>()) as u64
}
