//! Answers. Every one has a `Content-Length` and a type; content has validators and honours ranges and preconditions.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use artifact_store::OpenFile;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
};
use http::{HeaderMap, Method, Response, StatusCode};
use http_semantics::condition::{self, Validators, Verdict};
use http_semantics::labels::content_range;
pub(crate) use http_semantics::labels::{Facts, Labels, media_type};
use http_semantics::range::{self, Selection};
use http_semantics::{digests, multipart};
use serde::Serialize;

use crate::http::body::Body;
use crate::http::refuse;

/// Where the bytes of a content come from. Clones share them.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Memory.
    Bytes(Bytes),
    /// An opened file.
    File(OpenFile),
}

/// Something with a digest that is sent whole or in part. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// The bytes.
    pub(crate) source: Source,
    /// What is said about them.
    pub(crate) labels: Arc<Labels>,
}

/// A page of another text format.
pub(crate) fn page(media_type: &'static str, text: String) -> Response<Body> {
    whole(StatusCode::OK, media_type, Bytes::from(text))
}

/// A JSON object for programs.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            whole(status, "application/json", bytes.into())
        }
        Err(error) => refuse::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(crate) fn whole(status: StatusCode, media_type: &'static str, bytes: Bytes) -> Response<Body> {
    let size = bytes.len() as u64;
    let mut response = Response::new(Body::Bytes(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, size.into());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A file may claim to be from tomorrow; an answer may not (RFC 9110, 8.8.2.1). `Date` may lag behind by a second.
pub(crate) fn past(modified: SystemTime) -> SystemTime {
    let now = SystemTime::now();
    if modified > now {
        now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
    } else {
        modified
    }
}

/// Answers a GET or HEAD request for `content`.
pub(crate) fn content(method: &Method, asked: &HeaderMap, content: Content) -> Response<Body> {
    let Content { source, labels } = content;
    let body = |start, end| send(source.clone(), start, end);
    answer(method, asked, &labels, &body)
}

/// Answers a GET or HEAD request for what has `labels`; `body` makes the bytes `start..end` of it.
pub(crate) fn answer(
    method: &Method,
    asked: &HeaderMap,
    labels: &Labels,
    body: &dyn Fn(u64, u64) -> Body,
) -> Response<Body> {
    let size = labels.size;
    let body = |start, end| match *method {
        Method::HEAD => Body::Empty,
        _ => body(start, end),
    };
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
    let (status, mut fields, body) = match (verdict, selection) {
        (Verdict::NotModified, _) => return not_modified(labels),
        (Verdict::Failed, _) => return refuse::precondition(),
        (_, Selection::Unsatisfiable) => return refuse::range(size),
        (_, Selection::Whole) => (StatusCode::OK, labels.fields.clone(), body(0, size)),
        (_, Selection::Part { start, end }) => {
            let mut fields = labels.fields.clone();
            fields.insert(CONTENT_LENGTH, (end - start).into());
            set(&mut fields, CONTENT_RANGE, &content_range(start, end, size));
            (StatusCode::PARTIAL_CONTENT, fields, body(start, end))
        }
        (_, Selection::Parts(ranges)) => several(&ranges, labels, &body),
    };
    digests::fit(asked, labels, status == StatusCode::OK, &mut fields);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// The answer to a request for a page that is made anew each time, after its preconditions. Without them the page itself
/// must have been a success for them to count (RFC 9110, 13.2.1).
pub(crate) fn made_anew(asked: &HeaderMap, page: Response<Body>) -> Response<Body> {
    if !page.status().is_success() {
        return page;
    }
    match condition::evaluate_unnamed(asked) {
        Verdict::Proceed | Verdict::ProceedWhole => page,
        Verdict::Failed => refuse::precondition(),
        Verdict::NotModified => {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
                .headers_mut()
                .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
    }
}

/// 304 says only what finds and renews the client's copy (RFC 9110, 15.4.5).
fn not_modified(labels: &Labels) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in [ETAG, CACHE_CONTROL] {
        if let Some(value) = labels.fields.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Several ranges of a content.
fn several(
    ranges: &[Range<u64>],
    labels: &Labels,
    body: &dyn Fn(u64, u64) -> Body,
) -> (StatusCode, HeaderMap, Body) {
    let framed = multipart::frame(ranges, labels);
    let mut bodies = Vec::with_capacity(2 * ranges.len() + 1);
    for (lines, range) in framed.parts {
        bodies.push(Body::Bytes(lines));
        bodies.push(body(range.start, range.end));
    }
    bodies.push(Body::Bytes(framed.end));
    let mut fields = labels.fields.clone();
    fields.insert(CONTENT_LENGTH, framed.length.into());
    set(&mut fields, CONTENT_TYPE, &framed.media_type);
    (StatusCode::PARTIAL_CONTENT, fields, Body::Several(bodies))
}

/// The bytes `start..end`.
fn send(source: Source, start: u64, end: u64) -> Body {
    match source {
        Source::File(file) => Body::file(file, start, end),
        Source::Bytes(bytes) => {
            // Offsets into bytes in memory always fit.
            let at =
                |offset: u64| usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
            Body::Bytes(bytes.slice(at(start)..at(end)))
        }
    }
}

pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Our own values are ASCII without control characters; one that were not would be left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Bytes that the head of `response` has on the wire, with the date that hyper adds.
pub(crate) fn head_size<B>(response: &Response<B>) -> u64 {
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
