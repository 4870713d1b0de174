//! Ids of requests, so that a client's error and a line of the log can be put side by side.
//!
//! A client's own `X-Request-Id` is taken when it is sane; otherwise one is made. It is sent back when the client sent one,
//! and with every refusal; other answers go without, so that what is said about a content stays the same bytes each time.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::http::answered::RequestId;
use crate::http::body::Body;
use crate::serve::limits::REQUEST_ID_MAX;
use crate::serve::metrics::Reason;

/// The field in requests and answers.
const FIELD: HeaderName = HeaderName::from_static("x-request-id");

/// Makes ids: a part that tells processes apart, and a number.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u32,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of this process.
    pub(crate) fn new() -> Self {
        let mut process = [0; 4];
        // Without randomness the numbers still differ within the process.
        let _ = rustix::rand::getrandom(&mut process, rustix::rand::GetRandomFlags::empty());
        Self {
            process: u32::from_ne_bytes(process),
            next: AtomicU64::new(1),
        }
    }

    /// A new id.
    pub(crate) fn make(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{number:x}", self.process)
    }

    /// Gives an answer its id, when it is to have one.
    pub(crate) fn put(
        &self,
        asked: Option<&HeaderValue>,
        refused: Option<Reason>,
        response: &mut Response<Body>,
    ) {
        let theirs = asked.filter(|value| is_sane(value.as_bytes()));
        let status = response.status();
        let is_refusal = status.is_client_error() || status.is_server_error();
        let value = match theirs {
            Some(value) => value.clone(),
            None if is_refusal => match HeaderValue::try_from(self.make()) {
                Ok(value) => value,
                // Digits and a hyphen are always a value.
                Err(_) => return,
            },
            None => return,
        };
        let id = value.to_str().unwrap_or_default().to_owned();
        response.extensions_mut().insert(RequestId { id, refused });
        response.headers_mut().insert(FIELD, value);
    }
}

/// The id that a client sent.
pub(crate) fn of(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(FIELD)
}

/// Ids go into logs and shells: letters, digits, and what UUIDs and trace ids have besides.
fn is_sane(id: &[u8]) -> bool {
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(asked: Option<&str>, status: u16) -> (Option<String>, Option<RequestId>) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        let asked = asked.map(|text| HeaderValue::from_str(text).unwrap());
        RequestIds::new().put(asked.as_ref(), None, &mut response);
        let sent = response.headers().get(FIELD);
        (
            sent.map(|value| value.to_str().unwrap().to_owned()),
            response.extensions().get().cloned(),
        )
    }

    #[test]
    fn ids_are_taken_made_or_left_out() {
        let uuid = "3b1f8b1e-6f0c-4a52-9c2e-0d6a6f1f9e01";
        let (sent, noted) = put(Some(uuid), 200);
        assert_eq!(sent.as_deref(), Some(uuid));
        assert_eq!(noted.unwrap().id, uuid);
        assert_eq!(put(None, 206), (None, None));
        for bad in ["a b", "\"", "a;rm", &"x".repeat(65), ""] {
            assert_eq!(put(Some(bad), 200), (None, None), "{bad}");
            let (sent, _) = put(Some(bad), 404);
            assert!(sent.is_some_and(|id| id != bad && is_sane(id.as_bytes())));
        }
    }

    #[test]
    fn no_two_ids_are_the_same() {
        let ids = RequestIds::new();
        assert_ne!(ids.make(), ids.make());
    }
}
