//! Accepting connections, and ending them: a bound on how many there are, deadlines for silent clients, and a drain that
//! lets running downloads finish.
//!
//! Each connection is a task of its own; a panic in it ends that connection only. No task outlives [`run`] by more than
//! the runtime's own end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderValue, REFERER, USER_AGENT};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::http::alarm::Alarm;
use crate::http::answered::{Answered, RequestId};
use crate::http::body::Body;
use crate::http::limits::{
    ACCEPT_PAUSE, BACKLOG, CONNECTIONS_MAX, FILES_RESERVED, HEAD_SIZE_MAX, HEAD_WAIT_MAX,
};
use crate::http::respond::{self, Content};
use crate::http::tls::Tls;
use crate::http::wire::{Account, Wire};
use crate::serve::metrics::{self, Cut, Metrics, Reason};

/// What answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request of `client`.
    fn handle(
        &self,
        client: IpAddr,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// What a GET of exactly `path` is answered with, when that is known without waiting for anything. It is asked before
    /// every other way, so it must be quick; `None` is always right.
    #[expect(dead_code, reason = "asked by the short way of plain requests")]
    fn at_hand(&self, _path: &str) -> Option<Content> {
        None
    }

    /// Hears what became of an answer.
    fn answered(&self, _answered: &Answered<'_>) {}
}

/// A listening socket and what is spoken on it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Not blocking.
    pub(crate) socket: std::net::TcpListener,
    /// TLS, when that is spoken.
    pub(crate) tls: Option<Arc<Tls>>,
}

/// Opens a listening socket. `::` also takes IPv4 clients.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking(),
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections of a former process in TIME_WAIT must not keep the port; a listening process still does.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Raises the limit on open files as far as allowed, and returns how many connections it permits.
pub(crate) fn connections_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = CONNECTIONS_MAX as u64 * 2 + FILES_RESERVED;
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let mut current = limit.current.unwrap_or(u64::MAX);
    if current < raised
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(raised),
                ..limit
            },
        )
        .is_ok()
    {
        current = raised;
    }
    // A connection is a socket and, while it sends, a file.
    let possible = current.saturating_sub(FILES_RESERVED) / 2;
    usize::try_from(possible)
        .unwrap_or(usize::MAX)
        .clamp(1, CONNECTIONS_MAX)
}

/// How much is served, and how patiently it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Time that running downloads have to end.
    pub(crate) drain_max: Duration,
}

/// Serves until `shutdown` ends, then drains. Returns how many connections were cut because they took too long.
///
/// # Errors
/// When the runtime cannot watch a socket.
pub(crate) async fn run<H: Handler>(
    listeners: Vec<Listener>,
    handler: Arc<H>,
    metrics: Arc<Metrics>,
    bounds: Bounds,
    shutdown: impl Future<Output = ()>,
) -> io::Result<usize> {
    let Bounds {
        connections_max,
        drain_max,
    } = bounds;
    let places = Arc::new(Semaphore::new(connections_max));
    let (stop, stopped) = watch::channel(false);
    let mut accepting = JoinSet::new();
    for Listener { socket, tls } in listeners {
        let acceptor = Acceptor {
            listener: TcpListener::from_std(socket)?,
            tls,
            handler: Arc::clone(&handler),
            metrics: Arc::clone(&metrics),
            places: Arc::clone(&places),
            stopped: stopped.clone(),
        };
        accepting.spawn(acceptor.accept());
    }
    shutdown.await;
    // The ports close before the connections are told.
    accepting.shutdown().await;
    // Nobody listens when no connection is left.
    let _ = stop.send(true);
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let drained = tokio::time::timeout(drain_max, places.acquire_many(all)).await;
    Ok(if drained.is_ok() {
        0
    } else {
        let cut = connections_max - places.available_permits();
        for _ in 0..cut {
            metrics.cut(Cut::Stop);
        }
        cut
    })
}

/// What accepts the connections of one listener.
struct Acceptor<H> {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    handler: Arc<H>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl<H: Handler> Acceptor<H> {
    /// Accepts for ever. When all places are taken, further clients wait in the kernel's backlog.
    async fn accept(self) {
        let metrics = &self.metrics;
        let mut last_warning: Option<Instant> = None;
        let mut warn = |what: &str| {
            if last_warning.is_none_or(|last| last.elapsed() > Duration::from_secs(60)) {
                last_warning = Some(Instant::now());
                tracing::warn!(
                    connections = metrics.connections_open.load(Ordering::Relaxed),
                    "{what}"
                );
            }
        };
        loop {
            if self.places.available_permits() == 0 {
                warn("all places for connections are taken; new clients wait");
            }
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    metrics::add(&metrics.connections_total, 1);
                    let connection = Connection {
                        client: peer.ip().to_canonical(),
                        handler: Arc::clone(&self.handler),
                        metrics: Arc::clone(&self.metrics),
                        stopped: self.stopped.clone(),
                        _place: place,
                    };
                    tokio::spawn(connection.run(stream, self.tls.clone()));
                }
                Err(error) if is_about_one_client(&error) => {}
                Err(error) => {
                    metrics::add(&metrics.accept_failures_total, 1);
                    warn(&format!(
                        "cannot accept connections for the moment: {error}"
                    ));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

struct Connection<H> {
    client: IpAddr,
    handler: Arc<H>,
    metrics: Arc<Metrics>,
    stopped: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

/// Counts an open connection for as long as it lives, also when its task panics.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<H: Handler> Connection<H> {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>) {
        let _open = Open::new(&self.metrics.connections_open);
        // Head and body of small answers leave in two writes; waiting for the first one's acknowledgement costs 40 ms.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else {
            return self.serve(stream).await;
        };
        let mut stopped = self.stopped.clone();
        let handshake = tokio::select! {
            handshake = tls.accept(self.client, stream) => handshake,
            // Nothing was asked for yet.
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match handshake {
            Ok(stream) => {
                metrics::add(&self.metrics.tls_handshakes_total, 1);
                self.serve(stream).await;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.metrics.cut(Cut::Tls),
            Err(error) => {
                self.metrics.refused(Reason::Tls);
                tracing::debug!(client = %self.client, %error, "no TLS connection");
            }
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let account = Arc::new(Account::default());
        let wire = Wire::new(stream, Arc::clone(&account), Arc::clone(&self.metrics));
        let service = service_fn(|request| self.answer(&account, request));
        let connection = http1::Builder::new()
            .timer(Alarm::default())
            .header_read_timeout(HEAD_WAIT_MAX)
            .max_header_size(HEAD_SIZE_MAX)
            // Some firmware sends its request and closes its sending side.
            .half_close(true)
            // Some firmware compares field names letter by letter.
            .title_case_headers(true)
            .serve_connection(wire, service);
        let mut connection = std::pin::pin!(connection);
        let mut stopped = self.stopped.clone();
        let mut told = std::pin::pin!(async move {
            // An error means that the server is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await.map(drop);
        });
        let mut is_waiting = false;
        let ended = poll_fn(|context| {
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            // All connections wait at one lock. This one is in the queue after its first look, and always woken by the
            // same waker: it need not queue again until there is something to hear.
            if is_waiting && matches!(self.stopped.has_changed(), Ok(false)) {
                return Poll::Pending;
            }
            is_waiting = true;
            told.as_mut().poll(context).map(|()| None)
        });
        let result = match ended.await {
            Some(result) => result,
            None if !account.heard.load(Ordering::Relaxed) => return,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            if error.is_timeout() {
                self.metrics.cut(Cut::Head);
            } else if error.is_parse_too_large() {
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
    }

    async fn answer(
        &self,
        account: &Account,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let closes = request
            .headers()
            .get_all(CONNECTION)
            .iter()
            .any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        let started = Instant::now();
        let (method, target) = (request.method().clone(), request.uri().clone());
        let field = |name| request.headers().get(name).cloned();
        let (agent, referer) = (field(USER_AGENT), field(REFERER));
        let mut response = self.handler.handle(self.client, request).await;
        let size = http_body::Body::size_hint(response.body()).exact();
        let target = target
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let bytes = size.filter(|_| method != Method::HEAD).unwrap_or(0);
        self.handler.answered(&Answered {
            client: self.client,
            method: &method,
            target,
            status: response.status().as_u16(),
            promised: bytes,
            sent: bytes,
            took: started.elapsed(),
            agent: agent.as_ref().map(HeaderValue::as_bytes),
            referer: referer.as_ref().map(HeaderValue::as_bytes),
            request_id: response.extensions().get::<RequestId>(),
            is_fast: false,
        });
        if closes {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        account.expect_head(respond::head_size(&response));
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
