//! The long way: hyper reads what comes and answers it, for as long as it has something to answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONNECTION, HeaderMap, HeaderValue, REFERER, USER_AGENT};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::rt::Write as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use crate::http::answered::RequestId;
use crate::http::body::Body;
use crate::http::connection::Connection;
use crate::http::connection::sending::Sending;
use crate::http::fast::send::Outgoing;
use crate::http::inlet::Inlet;
use crate::http::limits::HEAD_SIZE_MAX;
use crate::http::record::Record;
use crate::http::respond;
use crate::http::server::Handler;
use crate::http::stream::Stream;
use crate::http::wire::{Account, Carried, Due, Promise, Wire};
use crate::serve::metrics::Reason;

/// How hyper ended.
pub(super) enum Handed<S> {
    /// With the connection.
    Ended,
    /// The connection may go on, with what was received and not read.
    Back(S, Vec<u8>),
    /// The same, once this is sent.
    Send(S, Vec<u8>, Box<Sending>),
}

impl<H: Handler> Connection<H> {
    /// Has hyper answer what comes, until there is nothing to answer any more.
    pub(super) async fn by_hyper<S: Stream>(&self, stream: S, held: Vec<u8>) -> Handed<S> {
        let account = Account::new(Some(&self.place), &self.metrics);
        let telling = TellingAll {
            connection: self,
            account: &account,
        };
        let wire = Wire::new(stream, Inlet::with(held), &account);
        let service = service_fn(|request| self.answer(&account, request));
        let mut connection = http1::Builder::new()
            // The seats watch the time.
            .header_read_timeout(None)
            .max_header_size(HEAD_SIZE_MAX)
            // Some firmware sends its request and closes its sending side.
            .half_close(true)
            // Some firmware compares field names letter by letter.
            .title_case_headers(true)
            .serve_connection(wire, service);
        let ended = poll_fn(|context| {
            if self.place.seats().is_stopping() {
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(Err(result));
            }
            telling.tell(false);
            match account.due() {
                Due::Nothing => Poll::Pending,
                due => Poll::Ready(Ok(due)),
            }
        });
        match ended.await {
            Err(result) => {
                self.ended(result);
                Handed::Ended
            }
            Ok(due) => {
                let parts = connection.into_parts();
                let mut rest = parts.read_buf.to_vec();
                let (stream, unread) = parts.io.into_parts();
                rest.extend_from_slice(&unread);
                match due {
                    Due::Crowded => {
                        self.refuse_crowded(stream, rest).await;
                        Handed::Ended
                    }
                    Due::Nothing | Due::Idle => Handed::Back(stream, rest),
                    Due::Elsewhere(body, record, closes) => {
                        let mut outgoing = Outgoing::default();
                        outgoing.push_body(body);
                        let sending = Sending {
                            outgoing,
                            head_left: 0,
                            record,
                            closes,
                            turn: 0,
                        };
                        Handed::Send(stream, rest, Box::new(sending))
                    }
                }
            }
        }
    }

    /// Refuses the request that begins with `held`, for want of memory: without hyper, which would need more.
    pub(super) async fn refuse_crowded<S: Stream>(&self, stream: S, held: Vec<u8>) {
        let account = Account::new(Some(&self.place), &self.metrics);
        let _telling = TellingAll {
            connection: self,
            account: &account,
        };
        let mut inlet = Inlet::with(held);
        inlet.refuse_crowded();
        let mut wire = Wire::new(stream, inlet, &account);
        // The client may be gone already.
        let _ = poll_fn(|context| Pin::new(&mut wire).poll_shutdown(context)).await;
    }

    fn ended(&self, result: hyper::Result<()>) {
        let Err(error) = result else {
            return;
        };
        if error.is_parse_too_large() {
            self.metrics.refused(Reason::HeadTooLarge);
        } else if error.is_parse() {
            self.metrics.refused(Reason::Malformed);
        }
        // Clients go away all the time.
        let cause = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::debug!(client = %self.client, %error, cause, "connection ended early");
    }

    async fn answer(
        &self,
        account: &Account<'_>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Carried>, Infallible> {
        account.begins();
        let started = Instant::now();
        let (method, target) = (request.method().clone(), request.uri().clone());
        let keeps_alive = keeps_alive(request.version(), request.headers());
        let has_body = !http_body::Body::is_end_stream(request.body());
        let field = |name| {
            request
                .headers()
                .get(name)
                .map(|value| value.as_bytes().into())
        };
        let (agent, referer) = (field(USER_AGENT), field(REFERER));
        if let Some(scope) = self.scope {
            request.extensions_mut().insert(scope);
        }
        let response = self.handler.handle(self.client, request).await;
        let promised = match response.body() {
            _ if method == Method::HEAD => 0,
            body => body.size(),
        };
        let mut elsewhere = None;
        let mut response = response.map(|body| match body {
            Body::Empty => Carried::Empty,
            Body::Bytes(bytes) => Carried::Bytes(bytes),
            Body::File(_) | Body::Several(_) => {
                let size = body.size();
                elsewhere = Some(body);
                Carried::Elsewhere(size)
            }
        });
        // hyper would have to read a request's body before it can give the connection back.
        let closes = !keeps_alive
            || self.place.seats().is_stopping()
            || has_body && elsewhere.is_some()
            || response.headers().contains_key(CONNECTION);
        if closes {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let target = target
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        account.promises(Promise {
            head: respond::head_size(&response),
            record: Record {
                method,
                target: target.into(),
                agent,
                referer,
                status: response.status().as_u16(),
                promised,
                sent: 0,
                request_id: response.extensions().get::<RequestId>().cloned(),
                started,
                is_fast: false,
            },
            elsewhere,
            closes,
        });
        Ok(response)
    }
}

/// Whether a connection goes on after a request, as hyper sees it.
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |option: &str| {
        headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|said| said.trim().eq_ignore_ascii_case(option))
    };
    !says("close") && (version >= Version::HTTP_11 || says("keep-alive"))
}

/// Tells of the answers that hyper sends, when they have left or the connection is cut.
struct TellingAll<'a, H: Handler> {
    connection: &'a Connection<H>,
    account: &'a Account<'a>,
}

impl<H: Handler> TellingAll<'_, H> {
    fn tell(&self, is_end: bool) {
        for record in self.account.take_done(is_end) {
            let answered = record.answered(self.connection.client);
            self.connection.handler.answered(&answered);
        }
    }
}

impl<H: Handler> Drop for TellingAll<'_, H> {
    fn drop(&mut self) {
        self.tell(true);
    }
}
