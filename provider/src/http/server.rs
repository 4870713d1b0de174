//! Accepting connections: within bounds, without spinning, and with a drain that lets running downloads finish.
//!
//! Each connection is a task of its own; a panic in it ends that connection only. Who may have a place, and who has to
//! leave, is decided in [`seats`](crate::http::seats). When a client must wait for a place, it is one of each listener, and
//! all others wait in the kernel. No task outlives [`run`] by more than the runtime's own end.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::http::answered::Answered;
use crate::http::body::Body;
use crate::http::connection::Connection;
use crate::http::egress::Egress;
use crate::http::limits::{
    ACCEPT_PAUSE, ACCEPT_WARN_PERIOD, BACKLOG, CONNECTIONS_PER_ADDRESS_MAX, ENCRYPTED_MAX,
    FILES_RESERVED,
};
use crate::http::respond::Content;
use crate::http::seats::{Caps, Full, Place, Seats};
use crate::http::tls::Tls;
use crate::serve::metrics::{self, Cut, Metrics, Reason};

/// The interface by which a client came, among the extensions of its request: without it an IPv6 address of one link alone
/// is no address. Only such clients' requests have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope(pub(crate) u32);

impl Scope {
    /// That of an address, when it has one.
    pub(crate) fn of(peer: SocketAddr) -> Option<Self> {
        match peer {
            SocketAddr::V6(peer) if peer.scope_id() != 0 => Some(Self(peer.scope_id())),
            _ => None,
        }
    }
}

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
    fn at_hand(&self, _path: &str) -> Option<Content> {
        None
    }

    /// The rate of artifacts, where there is one.
    fn egress(&self) -> Option<&Egress> {
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

/// Raises the limit on open files as far as allowed and needed, and returns how many of the wanted connections it permits.
pub(crate) fn connections_max(wanted_max: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = wanted_max.saturating_mul(5) / 4 + FILES_RESERVED;
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
    // A connection is a socket. Files are shared by all that send them; every fourth may have one that is not.
    let possible = current.saturating_sub(FILES_RESERVED) / 5 * 4;
    usize::try_from(possible.clamp(1, wanted_max.max(1))).unwrap_or(usize::MAX)
}

/// How much is served, and how patiently it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Connections of one client address. By default a fixed number, and as many as they like for this machine's own.
    pub(crate) per_address_max: Option<usize>,
    /// Time that running downloads have to end.
    pub(crate) drain_max: Duration,
    /// Time a client may take to accept no byte at all before its connection is cut.
    pub(crate) stall_max: Duration,
}

impl Bounds {
    fn caps(&self) -> Caps {
        Caps {
            total: self.connections_max,
            encrypted: ENCRYPTED_MAX,
            per_address: self.per_address_max.unwrap_or(CONNECTIONS_PER_ADDRESS_MAX),
            counts_loopback: self.per_address_max.is_some(),
            stall_max: self.stall_max,
        }
    }
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
    let seats = Seats::new(bounds.caps());
    let sweeping = tokio::spawn(Arc::clone(&seats).sweep(Arc::clone(&metrics)));
    let mut accepting = JoinSet::new();
    for Listener { socket, tls } in listeners {
        let acceptor = Acceptor {
            listener: TcpListener::from_std(socket)?,
            tls,
            handler: Arc::clone(&handler),
            metrics: Arc::clone(&metrics),
            seats: Arc::clone(&seats),
            warned: None,
        };
        accepting.spawn(acceptor.accept());
    }
    shutdown.await;
    // The ports close before the connections are told.
    accepting.shutdown().await;
    seats.stop();
    let drained = async {
        while seats.taken() > 0 {
            seats.somebody_left().await;
        }
    };
    // Its time is up when the time is up; what is left then is counted below.
    let _ = tokio::time::timeout(bounds.drain_max, drained).await;
    sweeping.abort();
    let cut = seats.taken();
    for _ in 0..cut {
        metrics.cut(Cut::Stop);
    }
    Ok(cut)
}

/// What accepts the connections of one listener.
struct Acceptor<H> {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    handler: Arc<H>,
    metrics: Arc<Metrics>,
    seats: Arc<Seats>,
    warned: Option<Instant>,
}

impl<H: Handler> Acceptor<H> {
    /// Accepts for ever.
    async fn accept(mut self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    metrics::add(&self.metrics.connections_total, 1);
                    let client = peer.ip().to_canonical();
                    if let Some(place) = self.place(client).await {
                        self.spawn(stream, client, Scope::of(peer), place);
                    }
                }
                Err(error) if is_about_one_client(&error) => {}
                Err(error) => {
                    self.metrics.accept_failed();
                    self.warn(&format!(
                        "cannot accept connections for the moment: {error}"
                    ));
                    // Descriptors that are held for nothing are needed now.
                    self.seats.relieve(&self.metrics);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for a place. Nothing when this client has more than its share.
    async fn place(&mut self, client: IpAddr) -> Option<Place> {
        loop {
            match self.seats.take(client, self.tls.is_some(), &self.metrics) {
                Ok(place) => return Some(place),
                Err(Full::Address) => {
                    self.metrics.refused(Reason::ConnectionsOfAddress);
                    self.warn(&format!("{client} has all the connections it may have"));
                    return None;
                }
                Err(Full::All) => {
                    self.warn("all places for connections are taken; new clients wait");
                    // Whether somebody left or not, there may be somebody who can leave by now.
                    let left = self.seats.somebody_left();
                    let _ = tokio::time::timeout(ACCEPT_PAUSE, left).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, client: IpAddr, scope: Option<Scope>, place: Place) {
        let id = place.id();
        let connection = Connection {
            client,
            scope,
            handler: Arc::clone(&self.handler),
            metrics: Arc::clone(&self.metrics),
            place,
        };
        let task = tokio::spawn(connection.run(stream, self.tls.clone()));
        self.seats.seat_task(id, task.abort_handle());
    }

    fn warn(&mut self, what: &str) {
        if self
            .warned
            .is_none_or(|last| last.elapsed() > ACCEPT_WARN_PERIOD)
        {
            self.warned = Some(Instant::now());
            let connections = self.metrics.connections_open.load(Ordering::Relaxed);
            tracing::warn!(connections, "{what}");
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

#[cfg(test)]
mod tests;
