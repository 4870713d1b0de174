//! Why a request is not understood, and the whole answer that says so.
//!
//! These are refusals of bytes: what they would have asked for is not known, nor where the next request begins. The
//! connection is closed behind them (RFC 9112, section 11.2).

use std::fmt;
use std::time::SystemTime;

use crate::labels::http_date;

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

    /// The answer as it is sent, head and body.
    pub fn answer(&self, now: SystemTime) -> Vec<u8> {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Refused");
        let mut body = format!("{}\n", self.text);
        let size = body.len();
        // It may be the answer to a HEAD, but whoever sent these bytes cannot rely on it: the connection ends here.
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {size}\r\n\
             Cache-Control: no-store\r\nConnection: close\r\nDate: {}\r\n\r\n",
            self.status,
            http_date(now)
        );
        body.insert_str(0, &head);
        body.into_bytes()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl std::error::Error for Refusal {}
