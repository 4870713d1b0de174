//! Plain requests: the short way in front of hyper. This file only reads heads.
//!
//! What is taken here is a small part of what hyper takes: GET or HEAD over HTTP/1.1 of a path that needs no decoding,
//! without body, condition, expectation or upgrade. The strict reader of [`http_semantics::head`] decides, which stands
//! before hyper as well. On any doubt the answer is [`Look::Other`], and hyper reads the same bytes from their start.

pub(crate) mod answer;
pub(crate) mod send;

use http::Method;
use http_semantics::head;

/// What the bytes at the start of a buffer are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look<'a> {
    /// The beginning of something.
    Partial,
    /// A plain request.
    Plain(Plain<'a>),
    /// Something for hyper.
    Other,
}

/// The head of a plain request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plain<'a> {
    /// HEAD, not GET.
    pub(crate) is_head: bool,
    /// The target: a path that needs no decoding.
    pub(crate) path: &'a str,
    /// Whether the connection ends with the answer.
    pub(crate) closes: bool,
    /// `Range`
    pub(crate) range: Option<&'a str>,
    /// All of the head.
    pub(crate) bytes: &'a [u8],
}

/// Looks at `bytes`, of which the first `searched` are known to hold no end of a head.
pub(crate) fn look(bytes: &[u8], searched: usize) -> Look<'_> {
    let end = match head::end(bytes, searched) {
        Ok(Some(end)) => end,
        Ok(None) => return Look::Partial,
        Err(_) => return Look::Other,
    };
    let bytes = &bytes[..end];
    let Ok(head) = head::read(bytes) else {
        return Look::Other;
    };
    // Nothing but the path: no query.
    let target = bytes.split(|byte| *byte == b' ').nth(1);
    let is_path = target == Some(head.path.as_bytes()) && head.path.bytes().all(is_path_byte);
    if !head.is_plain || !is_path {
        return Look::Other;
    }
    Look::Plain(Plain {
        is_head: head.method == "HEAD",
        path: head.path,
        closes: !head.keeps_alive,
        range: head.range,
        bytes,
    })
}

impl<'a> Plain<'a> {
    /// The method.
    pub(crate) fn method(&self) -> Method {
        if self.is_head {
            Method::HEAD
        } else {
            Method::GET
        }
    }

    /// The value of a field that nothing depends on.
    pub(crate) fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.bytes.split(|byte| *byte == b'\n').find_map(|line| {
            let (found, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            found
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| value.trim_ascii())
        })
    }
}

/// Bytes of paths that mean themselves, to every reader.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, is_plain: bool) {
        let look = look(request.as_bytes(), 0);
        assert_eq!(
            matches!(look, Look::Plain(_)),
            is_plain,
            "{request:?}: {look:?}"
        );
    }

    #[test]
    fn plain_requests_are_taken() {
        for request in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "HEAD /a/b-c_d.e~f HTTP/1.1\r\nhost: 10.0.0.1:8080\r\n\r\n",
            "GET //a HTTP/1.1\r\nHOST: x:65535\r\nConnection: Keep-Alive\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: a b\r\nAccept: */*\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n",
        ] {
            check(request, true);
        }
    }

    #[test]
    fn the_rest_is_left_alone() {
        for request in [
            "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x/\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nIf-Range: \"a\"\r\nRange: bytes=0-1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
            "GET /?a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /%61 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
            "get / HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            check(request, false);
        }
    }

    #[test]
    fn every_beginning_is_partial_until_it_is_whole() {
        let request = b"GET /a HTTP/1.1\r\nHost: x\r\nUser-agent:  curl \r\n\r\n";
        for end in 0..request.len() {
            for searched in 0..end {
                assert_eq!(look(&request[..end], searched), Look::Partial, "{end}");
            }
            let Look::Plain(plain) = look(request, end) else {
                panic!("{end}: not whole");
            };
            assert_eq!(plain.bytes, request);
            assert_eq!(plain.field("User-Agent"), Some(&b"curl"[..]));
            assert_eq!(plain.field("Referer"), None);
        }
    }
}
