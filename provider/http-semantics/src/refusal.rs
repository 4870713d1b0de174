//! Why a request is not understood, and the whole answer that says so.
//!
//! These are refusals of bytes: what they would have asked for is not known, nor where the next request begins. The
//! connection is closed behind them (RFC 9112, section 11.2).

use std::fmt;
use std::time::SystemTime;

use http::header::{ACCEPT, HeaderMap, HeaderValue};

use crate::accept;
use crate::labels::http_date;
use crate::limits::FIELDS_MAX;

/// Why the bytes of a connection are no request that may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// A short name that does not change, for counting.
    pub code: &'static str,
    /// What is wrong and what to do, in one line.
    pub text: &'static str,
}

impl Refusal {
    /// 400 for `code`.
    pub(crate) const fn bad(code: &'static str, text: &'static str) -> Self {
        Self::new(400, code, text)
    }

    pub(crate) const fn new(status: u16, code: &'static str, text: &'static str) -> Self {
        Self { status, code, text }
    }

    /// The answer as it is sent, head and body. `asked` is what was refused: it is not understood, but it may still show
    /// that its sender wants no body, or JSON.
    pub fn answer(&self, asked: &[u8], now: SystemTime) -> Vec<u8> {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Refused");
        let (status, text) = (self.status, self.text);
        let (media_type, body) = if wants_json(asked) {
            // No text has a character that JSON would write otherwise.
            let problem = format!(
                "{{\"type\":\"about:blank\",\"title\":\"{reason}\",\"status\":{status},\"detail\":\"{text}\"}}\n"
            );
            ("application/problem+json", problem)
        } else {
            ("text/plain; charset=utf-8", format!("{text}\n"))
        };
        let mut answer = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nVary: Accept\r\nConnection: close\r\nDate: {}\r\n\r\n",
            body.len(),
            http_date(now)
        );
        if !asked.starts_with(b"HEAD ") {
            answer.push_str(&body);
        }
        answer.into_bytes()
    }
}

/// Whether a line that looks like `Accept` prefers JSON.
fn wants_json(asked: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    for line in asked.split(|byte| *byte == b'\n').take(FIELDS_MAX) {
        if line.is_empty() || line == b"\r" {
            break;
        }
        if let Some((name, value)) = line.split_at_checked("accept:".len())
            && name.eq_ignore_ascii_case(b"accept:")
            && let Ok(value) = HeaderValue::from_bytes(value.trim_ascii())
        {
            headers.append(ACCEPT, value);
        }
    }
    accept::prefers_json(&headers)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const REFUSAL: Refusal = Refusal::bad("no-host", "the Host field is missing");

    fn answer(asked: &str) -> String {
        String::from_utf8(REFUSAL.answer(asked.as_bytes(), UNIX_EPOCH)).unwrap()
    }

    #[test]
    fn the_answer_is_whole_and_the_last() {
        let expected = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n\
             Cache-Control: no-store\r\nVary: Accept\r\nConnection: close\r\n\
             Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
        let body = "the Host field is missing\n";
        assert_eq!(
            answer("GET / HTTP/1.1\r\n\r\n"),
            format!("{expected}{body}")
        );
        assert_eq!(answer("HEAD / HTTP/1.1\r\n\r\n"), expected);
        assert_eq!(answer("\u{16}\u{3}"), format!("{expected}{body}"));
    }

    #[test]
    fn programs_get_problem_details() {
        let answer = answer("GET / HTTP/1.1\r\nACCEPT: application/json\r\n\r\n");
        assert!(
            answer.contains("\r\nContent-Type: application/problem+json\r\n"),
            "{answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let expected = "{\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\
             \"detail\":\"the Host field is missing\"}\n";
        assert_eq!(body, expected);
        assert!(answer.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
    }
}
