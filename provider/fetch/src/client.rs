//! One HTTP/1.1 request without a body at a time over one kept connection, with a deadline on every wait.
//!
//! Knows nothing of manifests: it turns what a server (or a hostile one) does into a header and a bounded stream of
//! bytes, or into a [`FetchError`] that names the URL. Cookies, credentials and compression are not spoken. A connection
//! ends with the [`Answer`] or [`Client`] that holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, HOST, LOCATION, PROXY_AUTHORIZATION, RANGE, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::clients::Manner;
use crate::connect::{Connection, Dialer};
use crate::error::{FetchError, chain};
use crate::limits::{ERROR_BODY_MAX, Limits, QUESTION_TIME, RETRY_AFTER_MAX};
use crate::pace::{Pace, TooSlow};
use crate::url::{Url, printable};

/// Asks servers, one request at a time.
pub(crate) struct Client {
    limits: Limits,
    dialer: Arc<Dialer>,
    manner: Manner,
    idle: Option<Connection>,
    /// Where the last answer came from; a proxy's address when one was in between.
    answered_from: Option<SocketAddr>,
}

/// A header that arrived, and the body that may follow.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Where it came from in the end, redirects followed.
    pub(crate) url: Url,
    body: Incoming,
    pace: Pace,
    connection: Connection,
}

impl Client {
    pub(crate) fn new(limits: Limits, dialer: Arc<Dialer>, manner: Manner) -> Self {
        Self {
            limits,
            dialer,
            manner,
            idle: None,
            answered_from: None,
        }
    }

    /// Whether it keeps a connection to the server of `url`, and asks it in this manner.
    pub(crate) fn is_at(&self, url: &Url, manner: Manner) -> bool {
        let kept = self.idle.as_ref();
        self.manner == manner && kept.is_some_and(|kept| kept.url.same_origin(url))
    }

    /// The address that the last answer came from.
    pub(crate) fn answered_from(&self) -> Option<SocketAddr> {
        self.answered_from
    }

    /// Whether it keeps a connection.
    pub(crate) fn has_connection(&self) -> bool {
        self.idle.is_some()
    }

    /// GET, with a `Range` of bytes when one is asked for. Follows redirects within the limits.
    pub(crate) async fn get(
        &mut self,
        url: &Url,
        range: Option<&std::ops::Range<u64>>,
    ) -> Result<Answer, FetchError> {
        let mut at = url.clone();
        let mut redirects_left = self.limits.redirects;
        loop {
            let answer = self.send(&Method::GET, &at, range).await?;
            let Some(next) = redirect(&answer)? else {
                return Ok(answer);
            };
            if redirects_left == 0 {
                let (from, to, followed) = (at, next, self.limits.redirects);
                return Err(FetchError::Redirect { from, to, followed });
            }
            if next.is_https() && !self.dialer.speaks_tls() {
                let reason = format!("it redirects to {next}, and https is not spoken here");
                return Err(FetchError::not_http(&at, reason));
            }
            if at.is_https() && !next.is_https() {
                return Err(FetchError::Downgrade { from: at, to: next });
            }
            tracing::debug!(from = %at, to = %next, "redirected");
            redirects_left -= 1;
            at = next;
        }
    }

    /// A file of unknown size, up to a limit, into memory. Follows redirects within the limits.
    pub(crate) async fn small_file(
        &mut self,
        url: &Url,
        size_max: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let answer = self.get(url, None).await?;
        self.body(answer, size_max).await
    }

    /// The answer to a question, up to a limit, within a deadline of its own. Follows no redirect.
    pub(crate) async fn small_answer(
        &mut self,
        method: &Method,
        url: &Url,
        size_max: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let asked = async {
            let answer = self.send(method, url, None).await?;
            self.body(answer, size_max).await
        };
        let waited = QUESTION_TIME;
        let answer = timeout(waited, asked).await;
        answer.unwrap_or_else(|_| Err(FetchError::too_slow(url, TooSlow::Header { waited })))
    }

    /// All of an answer's body, if it is what was asked for.
    async fn body(&mut self, mut answer: Answer, size_max: usize) -> Result<Vec<u8>, FetchError> {
        if answer.status != StatusCode::OK {
            let error = FetchError::status(&answer.url, answer.status);
            self.keep_if_short(answer).await;
            return Err(error);
        }
        let limit = size_max as u64;
        let found = answer.content_length();
        let too_large = |url: &Url, found| FetchError::TooLarge {
            url: url.clone(),
            limit,
            found,
        };
        if found.is_some_and(|found| found > limit) {
            return Err(too_large(&answer.url, found));
        }
        let mut bytes = Vec::new();
        while let Some(data) = answer.next().await? {
            if bytes.len() + data.len() > size_max {
                return Err(too_large(&answer.url, None));
            }
            bytes.extend_from_slice(&data);
        }
        self.keep(answer);
        Ok(bytes)
    }

    /// Keeps the connection of an answer that nobody wants, when its body is so short that reading it costs less than
    /// another connection.
    pub(crate) async fn keep_if_short(&mut self, mut answer: Answer) {
        let short = |length| length <= ERROR_BODY_MAX;
        if !answer.content_length().is_some_and(short) {
            return;
        }
        loop {
            match answer.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return self.keep(answer),
                Err(_) => return,
            }
        }
    }

    /// Keeps the connection of an answer whose body was read to its end, for the next request.
    pub(crate) fn keep(&mut self, answer: Answer) {
        self.idle = Some(answer.connection);
    }

    /// One request that may be repeated without harm. Follows no redirect.
    pub(crate) async fn send(
        &mut self,
        method: &Method,
        url: &Url,
        range: Option<&std::ops::Range<u64>>,
    ) -> Result<Answer, FetchError> {
        // A kept connection may have been closed by the server meanwhile: that says nothing about the server, so the
        // request is sent again over a new one.
        if let Some(mut kept) = self.idle.take().filter(|kept| kept.url.same_origin(url))
            && let Ok(Ok(())) = timeout(self.limits.connect, kept.ready()).await
        {
            match self.ask(kept, method, url, range).await {
                Err(FetchError::CutShort { .. }) => {}
                other => return other,
            }
        }
        let connection = self.dialer.connect(url, self.limits.connect).await?;
        self.ask(connection, method, url, range).await
    }

    async fn ask(
        &mut self,
        mut connection: Connection,
        method: &Method,
        url: &Url,
        range: Option<&std::ops::Range<u64>>,
    ) -> Result<Answer, FetchError> {
        let mut request = Request::builder()
            .method(method)
            .uri(connection.target(url))
            .header(HOST, url.host_header())
            .header(USER_AGENT, concat!("phase/", env!("CARGO_PKG_VERSION")))
            // The digests are those of the files themselves; a server must not send another form of them.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(credentials) = connection.proxy_credentials() {
            request = request.header(PROXY_AUTHORIZATION, credentials);
        }
        if let Some(range) = range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request.body(Empty::new()).map_err(|error| {
            FetchError::not_http(url, format!("the request cannot be made: {error}"))
        })?;
        let sent = timeout(self.limits.header, connection.send(request)).await;
        let response = match sent {
            Err(_) => {
                let waited = self.limits.header;
                return Err(FetchError::too_slow(url, TooSlow::Header { waited }));
            }
            Ok(Err(error)) if error.is_parse() || error.is_parse_status() => {
                return Err(FetchError::not_http(url, chain(&error)));
            }
            Ok(Err(error)) => return Err(FetchError::cut_short(url, 0, chain(&error))),
            Ok(Ok(response)) => response,
        };
        self.answered_from = connection.address();
        let (head, body) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            url: url.clone(),
            body,
            pace: Pace::new(self.limits.rate_window, self.limits.rate_min),
            connection,
        })
    }
}

impl Answer {
    /// When a server that is busy wants to be asked again, if that is what it answers.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if self.status != StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let value = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        let seconds = Duration::from_secs(value.trim().parse().ok()?);
        Some(seconds.min(RETRY_AFTER_MAX))
    }

    /// The length the server announced for this body.
    pub(crate) fn content_length(&self) -> Option<u64> {
        hyper::body::Body::size_hint(&self.body).exact()
    }

    /// The next piece of the body; `None` at its announced end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let began = Instant::now();
            let frame = timeout(self.pace.patience(), self.body.frame()).await;
            let bytes = match &frame {
                Ok(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
                _ => 0,
            };
            let slow = self.pace.waited(began.elapsed(), bytes).err();
            match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match (slow, frame.into_data()) {
                    (Some(slow), _) => return Err(FetchError::too_slow(&self.url, slow)),
                    (None, Ok(data)) if !data.is_empty() => return Ok(Some(data)),
                    // Trailers, or an empty piece.
                    (None, _) => {}
                },
                Ok(Some(Err(error))) => {
                    let received = self.pace.received();
                    return Err(FetchError::cut_short(&self.url, received, chain(&error)));
                }
                Err(_) => {
                    if let Some(slow) = slow {
                        return Err(FetchError::too_slow(&self.url, slow));
                    }
                }
            }
        }
    }
}

/// Where a redirect leads; `None` when the answer is none.
fn redirect(answer: &Answer) -> Result<Option<Url>, FetchError> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = answer.headers.get(LOCATION) else {
        return Ok(None);
    };
    let location = String::from_utf8_lossy(location.as_bytes());
    match answer.url.join(&location) {
        Ok(next) => Ok(Some(next)),
        Err(error) => {
            let reason = format!("it redirects to {}: {error}", printable(&location));
            Err(FetchError::not_http(&answer.url, reason))
        }
    }
}
