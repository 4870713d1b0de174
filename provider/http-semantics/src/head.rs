//! The head of a request as bytes (RFC 9112): whether it may be answered at all.
//!
//! Whoever stands before us may read a sloppy head in another way than we do, and then disagrees with us about where the
//! next request begins. Parsers that forgive are how requests are smuggled; this one forgives nothing: lines end in CR LF,
//! a body has one plain length, there is one host. It is laxer than what reads the head afterwards in nothing, so nothing
//! that passes here is understood differently there.
//!
//! ```text
//! bytes ──end()──> not whole yet
//!          └─────> a whole head ──read()──> Head, or a Refusal that ends the connection
//! ```

use crate::limits::{BODY_SIZE_MAX, FIELDS_MAX, HEAD_SIZE_MAX, METHOD_SIZE_MAX, TARGET_SIZE_MAX};
use crate::refusal::Refusal;

/// The version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// A head that may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method, exactly as sent.
    pub method: &'a str,
    /// The path, still encoded, without query; `*` for the whole server.
    pub path: &'a str,
    /// The version.
    pub version: Version,
    /// Bytes of the body that follows.
    pub body_size: u64,
    /// Whether the sender waits for `100 Continue` before it sends the body.
    pub waits: bool,
    /// Whether the connection may carry another request.
    pub keeps_alive: bool,
    /// The value of the only `Range` field.
    pub range: Option<&'a str>,
    /// Whether this is a GET or HEAD of HTTP/1.1 with an ordinary path and nothing that could change the answer except
    /// `range`: no body, condition, expectation, upgrade, or wish for other digests.
    pub is_plain: bool,
}

/// Where the head at the start of `bytes` ends: behind its empty line. `searched` bytes were looked at before.
///
/// # Errors
/// When these bytes cannot become a head: too long, or not HTTP from the first byte on.
pub fn end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Refusal> {
    match bytes.first() {
        Some(0x16) => return Err(TLS),
        Some(byte) if !is_token_byte(*byte) && !matches!(byte, b'\r' | b'\n') => {
            return Err(NO_METHOD);
        }
        _ => {}
    }
    let start = skip_empty_lines(bytes);
    // The end may straddle what was looked at and what was not.
    let mut at = searched.saturating_sub(3).max(start);
    while let Some(found) = find(&bytes[at.min(bytes.len())..], b'\n') {
        let line_end = at + found + 1;
        let end = match bytes[line_end..] {
            [b'\n', ..] => line_end + 1,
            [b'\r', b'\n', ..] => line_end + 2,
            _ => {
                at = line_end;
                continue;
            }
        };
        return if end > HEAD_SIZE_MAX {
            Err(HEAD_TOO_LARGE)
        } else {
            Ok(Some(end))
        };
    }
    match bytes.len() {
        size if size <= HEAD_SIZE_MAX => Ok(None),
        // All of it one line: it is the target that is too long.
        _ if find(&bytes[start..], b'\n').is_none() => Err(TARGET_TOO_LONG),
        _ => Err(HEAD_TOO_LARGE),
    }
}

/// Reads a whole head, from its first byte to behind its empty line.
///
/// # Errors
/// When it may not be answered. The first fault found is named.
pub fn read(bytes: &[u8]) -> Result<Head<'_>, Refusal> {
    let mut lines = Lines(&bytes[skip_empty_lines(bytes)..]);
    let (method, target, version) = request_line(lines.next()?)?;
    let (path, is_ordinary) = path_of(method, target)?;
    let mut fields = Fields::default();
    let mut count = 0;
    loop {
        let line = lines.next()?;
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > FIELDS_MAX {
            return Err(TOO_MANY_FIELDS);
        }
        fields.add(line)?;
    }
    if !lines.0.is_empty() {
        return Err(BROKEN_LINE);
    }
    fields.check(version)?;
    if method == "CONNECT" {
        return Err(NO_PROXY);
    }
    let is_read = matches!(method, "GET" | "HEAD");
    let waits =
        fields.waits && version == Version::Http11 && fields.body_size.is_some_and(|n| n > 0);
    Ok(Head {
        method,
        path,
        version,
        body_size: fields.body_size.unwrap_or(0),
        waits,
        keeps_alive: fields.keeps_alive(version),
        range: fields.range,
        is_plain: is_read
            && is_ordinary
            && version == Version::Http11
            && fields.body_size.is_none()
            && !fields.is_special,
    })
}

/// The lines of a head without their ends.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a [u8], Refusal> {
        let end = find(self.0, b'\n').ok_or(BROKEN_LINE)?;
        let (line, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        let line = line.strip_suffix(b"\r").ok_or(BARE_LF)?;
        Ok(line)
    }
}

fn request_line(line: &[u8]) -> Result<(&str, &str, Version), Refusal> {
    let end = find(line, b' ').ok_or(NO_REQUEST_LINE)?;
    let (method, rest) = (&line[..end], &line[end + 1..]);
    if method.is_empty() || !method.iter().copied().all(is_token_byte) {
        return Err(NO_METHOD);
    }
    if method.len() > METHOD_SIZE_MAX {
        return Err(METHOD_TOO_LONG);
    }
    let end = find(rest, b' ').ok_or(NO_REQUEST_LINE)?;
    let (target, version) = (&rest[..end], &rest[end + 1..]);
    if target.len() > TARGET_SIZE_MAX {
        return Err(TARGET_TOO_LONG);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(OTHER_VERSION);
        }
        _ => return Err(NO_REQUEST_LINE),
    };
    if target.is_empty() || !target.iter().copied().all(is_target_byte) {
        return Err(BAD_TARGET);
    }
    Ok((text(method)?, text(target)?, version))
}

/// The path of a target, and whether it is in the ordinary form.
fn path_of<'a>(method: &str, target: &'a str) -> Result<(&'a str, bool), Refusal> {
    let without_query = |text: &'a str| text.split('?').next().unwrap_or(text);
    if target.starts_with('/') {
        return Ok((without_query(target), true));
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok((target, false))
        } else {
            Err(BAD_TARGET)
        };
    }
    if method == "CONNECT" {
        return if is_host(target.as_bytes()) && target.contains(':') {
            Ok((target, false))
        } else {
            Err(BAD_TARGET)
        };
    }
    // Every server must take the form that is meant for proxies (RFC 9112, 3.2.2).
    let (scheme, rest) = target.split_once("://").ok_or(BAD_TARGET)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(BAD_TARGET);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if host.is_empty() || host.starts_with(':') || host.contains('%') || !is_host(host.as_bytes()) {
        return Err(BAD_TARGET);
    }
    let path = match without_query(path) {
        "" if method == "OPTIONS" && path.is_empty() => "*",
        "" => "/",
        path => path,
    };
    Ok((path, false))
}

/// What the fields of a head say about it.
#[derive(Default)]
struct Fields<'a> {
    hosts: usize,
    body_size: Option<u64>,
    transfer: Transfer,
    waits: bool,
    says_close: bool,
    says_keep_alive: bool,
    range: Option<&'a str>,
    is_special: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    #[default]
    None,
    /// Only `chunked`.
    Chunked,
    /// Other codings, and no `chunked` yet.
    Open,
    /// Other codings inside `chunked`.
    Coded,
    /// Nonsense.
    Wrong,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(FOLDED);
        }
        let colon = find(line, b':').ok_or(BAD_FIELD)?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if name.is_empty() || !name.iter().copied().all(is_token_byte) {
            return Err(BAD_FIELD);
        }
        if value
            .iter()
            .any(|byte| matches!(byte, 0..=8 | 10..=31 | 127))
        {
            return Err(BAD_FIELD);
        }
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 || !is_host(value) {
                    return Err(BAD_HOST);
                }
            }
            5 if is(b"range") => {
                self.is_special |= self.range.is_some();
                self.range = text(value).ok();
                self.is_special |= self.range.is_none();
            }
            6 if is(b"expect") => {
                self.is_special = true;
                self.waits = value.eq_ignore_ascii_case(b"100-continue");
            }
            10 if is(b"connection") => self.connection(value),
            14 if is(b"content-length") => {
                let earlier = self.body_size.replace(length(value)?);
                if earlier.is_some() {
                    return Err(TWO_LENGTHS);
                }
            }
            17 if is(b"transfer-encoding") => self.transfer = self.transfer.with(value),
            7 | 8 | 12 | 13 | 16 | 17 | 19 | 20 => {
                self.is_special |= SPECIAL.iter().any(|name| is(name))
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(trim) {
            if option.eq_ignore_ascii_case(b"close") {
                self.says_close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.says_keep_alive = true;
            } else if !option.is_empty() {
                self.is_special = true;
            }
        }
    }

    fn check(&self, version: Version) -> Result<(), Refusal> {
        if self.hosts == 0 && version == Version::Http11 {
            return Err(NO_HOST);
        }
        let has_size = self.body_size.is_some();
        match self.transfer {
            Transfer::None => {}
            _ if has_size || version == Version::Http10 => return Err(TWO_FRAMINGS),
            Transfer::Open | Transfer::Wrong => return Err(NOT_CHUNKED_LAST),
            Transfer::Coded => return Err(UNKNOWN_CODING),
            Transfer::Chunked => return Err(NO_LENGTH),
        }
        if self.body_size.is_some_and(|size| size > BODY_SIZE_MAX) {
            return Err(BODY_TOO_LARGE);
        }
        Ok(())
    }

    fn keeps_alive(&self, version: Version) -> bool {
        match version {
            _ if self.says_close => false,
            Version::Http11 => true,
            Version::Http10 => self.says_keep_alive,
        }
    }
}

impl Transfer {
    /// With the codings of one more line.
    fn with(self, value: &[u8]) -> Self {
        let mut now = self;
        for coding in value.split(|byte| *byte == b',').map(trim) {
            let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            now = match (now, is_chunked) {
                _ if coding.is_empty() => Self::Wrong,
                (Self::None, true) => Self::Chunked,
                (Self::None | Self::Open, false) => Self::Open,
                (Self::Open, true) => Self::Coded,
                // Something behind `chunked`, or `chunked` twice.
                (Self::Chunked | Self::Coded | Self::Wrong, _) => Self::Wrong,
            };
        }
        now
    }
}

/// Fields that can change an answer to a GET; `Range` is looked at by itself.
const SPECIAL: [&[u8]; 10] = [
    b"upgrade",
    b"if-match",
    b"if-range",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"want-repr-digest",
    b"want-content-digest",
    b"trailer",
    b"x-request-id",
];

/// One plain number (RFC 9112, 6.3: several, signs and spaces are how lengths are disagreed about).
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD_LENGTH);
    }
    // A number that does not fit is too large in any case.
    Ok(text(value)?.parse().unwrap_or(u64::MAX))
}

/// `host [":" port]`, as far as its bytes go. It may be empty (RFC 9112, 3.2).
fn is_host(value: &[u8]) -> bool {
    let brackets = value
        .iter()
        .filter(|byte| matches!(byte, b'[' | b']'))
        .count();
    let (name, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(at) if !value[at..].contains(&b']') => (&value[..at], &value[at + 1..]),
        _ => (value, &[][..]),
    };
    let is_named = match name {
        [b'[', inner @ .., b']'] => brackets == 2 && !inner.is_empty(),
        _ => brackets == 0 && !name.contains(&b':'),
    };
    value.iter().all(|byte| HOST[usize::from(*byte)])
        && is_named
        && port.iter().all(u8::is_ascii_digit)
}

/// Empty lines before a request are skipped (RFC 9112, 2.2).
fn skip_empty_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    at
}

/// Letters, digits and `others`, as a table: heads are read for every request.
const fn bytes_of(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

const TOKEN: [bool; 256] = bytes_of(b"!#$%&'*+-.^_`|~");
const TARGET: [bool; 256] = bytes_of(b"-._~%!$&'()*+,;=:@/?[]");
const HOST: [bool; 256] = bytes_of(b"-._~%!$&'()*+;=:[]");

fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// What RFC 3986 allows in a URI, without the fragment, which is never sent.
fn is_target_byte(byte: u8) -> bool {
    TARGET[usize::from(byte)]
}

fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|byte| *byte == wanted)
}

/// Without the spaces and tabs around it; other white space is no padding.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Bytes that were checked to be ASCII, or a value that must be.
fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| BAD_FIELD)
}

const TLS: Refusal = Refusal::bad(
    "tls",
    "this port speaks plain HTTP, and this is TLS: use http:// in the address, or the TLS port",
);
const NO_METHOD: Refusal = Refusal::bad(
    "bad-method",
    "this is not HTTP: a request begins with a method, for example GET",
);
const METHOD_TOO_LONG: Refusal = Refusal::new(
    501,
    "method-too-long",
    "no method has a name that long: use GET, HEAD or OPTIONS",
);
const NO_REQUEST_LINE: Refusal = Refusal::bad(
    "bad-request-line",
    "the first line is not `METHOD target HTTP/1.1` with single spaces",
);
const OTHER_VERSION: Refusal = Refusal::new(
    505,
    "other-version",
    "only HTTP/1.1 and HTTP/1.0 are spoken here: send HTTP/1.1",
);
const BAD_TARGET: Refusal = Refusal::bad(
    "bad-target",
    "the target is not a path, or has a character that must be percent-encoded",
);
const TARGET_TOO_LONG: Refusal = Refusal::new(
    414,
    "target-too-long",
    "the target is longer than 8192 bytes; no path here is",
);
const HEAD_TOO_LARGE: Refusal = Refusal::new(
    431,
    "head-too-large",
    "the head of the request is larger than 32768 bytes: send fewer or shorter fields",
);
const TOO_MANY_FIELDS: Refusal = Refusal::new(
    431,
    "too-many-fields",
    "the request has more than 100 fields: send fewer",
);
const BROKEN_LINE: Refusal = Refusal::bad("broken-line", "the head of the request is incomplete");
const BARE_LF: Refusal = Refusal::bad(
    "bare-lf",
    "a line of the request ends without CR: lines end in CR LF",
);
const FOLDED: Refusal = Refusal::bad(
    "folded-field",
    "a line of the request begins with a space: a field is one line",
);
const BAD_FIELD: Refusal = Refusal::bad(
    "bad-field",
    "a field of the request is not `Name: value`, or has a control character",
);
const NO_HOST: Refusal = Refusal::bad("no-host", "the Host field is missing: HTTP/1.1 needs one");
const BAD_HOST: Refusal = Refusal::bad(
    "bad-host",
    "there is more than one Host field, or it is not a host name with an optional port",
);
const BAD_LENGTH: Refusal = Refusal::bad("bad-length", "Content-Length is not one plain number");
const TWO_LENGTHS: Refusal = Refusal::bad(
    "two-lengths",
    "there is more than one Content-Length: send one",
);
const TWO_FRAMINGS: Refusal = Refusal::bad(
    "two-framings",
    "Transfer-Encoding beside Content-Length or in HTTP/1.0: the end of the request is not certain",
);
const NOT_CHUNKED_LAST: Refusal = Refusal::bad(
    "not-chunked-last",
    "Transfer-Encoding does not end in one `chunked`: the end of the request is not certain",
);
const UNKNOWN_CODING: Refusal = Refusal::new(
    501,
    "unknown-coding",
    "this transfer coding is not known here: send no body",
);
const NO_LENGTH: Refusal = Refusal::new(
    411,
    "no-length",
    "chunked bodies are not taken here: send Content-Length, or better no body",
);
const BODY_TOO_LARGE: Refusal = Refusal::new(
    413,
    "body-too-large",
    "the body is larger than 8192 bytes; nothing here needs one: send no body",
);
const NO_PROXY: Refusal = Refusal::new(
    501,
    "no-proxy",
    "CONNECT is for proxies and this is none: use GET",
);

#[cfg(test)]
mod tests;
