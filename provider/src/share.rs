//! Serving an image while it is still being fetched: every chunk that was verified goes out to others at once.
//!
//! ```text
//! download ──verified chunk──> sealed memory, partial file ──range──> others that fetch the same image
//! ```
//!
//! The same URLs as at a provider, so whoever can fetch from one can fetch from a machine that has half of it: a range
//! that is there is sent, another one is answered with 503 and "ask again". Beside them stand `/have`, the map of what is
//! there, and `/peers`, the list of others that fetch it.
//!
//! Never sends a byte that was not verified, never sends more than it was allowed to, never connects to anybody, and
//! believes nothing that it is told: who registers is registered with the address it came from.
//!
//! | module | holds |
//! | --- | --- |
//! | `held` | artifacts of which some is there |
//! | `desk` | from a request to an answer |
//! | `register` | the list of others |
//! | `nearby` | others on the local network, by mDNS |
//! | `linger` | how long others may still fetch when the download itself is done |
//! | `limits` | every number with its reason |

mod desk;
mod held;
mod limits;
mod linger;
mod nearby;
pub(crate) mod register;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boot_manifest::{Digest, Manifest, Verified};
use tokio::sync::watch;

use crate::http::egress::Egress;
use crate::http::server::{self, Bounds, Listener};
use crate::memory::Reserve;
use crate::serve::metrics::Metrics;
use crate::share::desk::Desk;
pub(crate) use crate::share::held::Held;
use crate::share::limits::{
    CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, DRAIN_MAX, LINGER_LOOK, STALL_MAX,
};
pub(crate) use crate::share::nearby::Nearby;

/// What is shared, and how.
pub(crate) struct Setup {
    /// Where to listen; port 0 takes a free one. `::` is all of IPv6 and IPv4.
    pub(crate) listen: SocketAddr,
    /// The image.
    pub(crate) manifest: Arc<Verified<Manifest>>,
    /// Its artifacts, as far as they are fetched here.
    pub(crate) held: Vec<Arc<dyn Held>>,
    /// The download beside it.
    pub(crate) company: Arc<dyn Company>,
    /// The rate of artifacts, to all together.
    pub(crate) egress: Option<Egress>,
    /// When there is too little memory to send anything.
    pub(crate) memory: Reserve,
}

/// What a download knows and is told. Everything returns at once.
pub(crate) trait Company: Send + Sync + 'static {
    /// The chunks of an artifact that were asked for and are not there yet.
    fn coming(&self, artifact: &Digest) -> Vec<usize>;

    /// Others that brought something of this image, and whether they have all of it.
    fn known(&self) -> Vec<(SocketAddr, bool)>;

    /// Somebody who fetches the same image, by its own word, is reached there.
    fn found(&self, peer: SocketAddr);
}

/// A download that nobody has to hear of.
impl Company for () {
    fn coming(&self, _artifact: &Digest) -> Vec<usize> {
        Vec::new()
    }

    fn known(&self) -> Vec<(SocketAddr, bool)> {
        Vec::new()
    }

    fn found(&self, _peer: SocketAddr) {}
}

impl Company for fetch::Swarm {
    fn coming(&self, artifact: &Digest) -> Vec<usize> {
        Self::coming(self, artifact)
    }

    fn known(&self) -> Vec<(SocketAddr, bool)> {
        Self::known(self)
    }

    fn found(&self, peer: SocketAddr) {
        Self::found(self, fetch::Neighbour::Peer(peer));
    }
}

/// What was shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Bytes of artifacts that left.
    pub(crate) bytes: u64,
    /// Requests for artifacts that were answered with them.
    pub(crate) uploads: u64,
    /// Requests that were told to come again: not there yet, too many at once, or too little memory.
    pub(crate) busy: u64,
}

/// The server, until it is dropped.
pub(crate) struct Sharing {
    address: SocketAddr,
    desk: Arc<Desk>,
    stop: watch::Sender<bool>,
}

/// Opens the port and shares from now on. Inside a runtime with time and network.
///
/// # Errors
/// When the port cannot be had.
pub(crate) fn start(setup: Setup) -> io::Result<Sharing> {
    let socket = server::listen(setup.listen)?;
    let address = socket.local_addr()?;
    let metrics = Arc::new(Metrics::default());
    let desk = Arc::new(Desk::new(setup));
    let bounds = Bounds {
        connections_max: server::connections_max(CONNECTIONS_MAX),
        per_address_max: Some(CONNECTIONS_PER_ADDRESS_MAX),
        drain_max: DRAIN_MAX,
        stall_max: STALL_MAX,
    };
    let (stop, mut stopped) = watch::channel(false);
    let shutdown = async move {
        // The other side is dropped: that is the end too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let listeners = vec![Listener { socket, tls: None }];
    let server = server::run(listeners, Arc::clone(&desk), metrics, bounds, shutdown);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::warn!(%error, "nothing is shared: the socket cannot be watched");
        }
    });
    tracing::info!(%address, "what is fetched is shared");
    Ok(Sharing {
        address,
        desk,
        stop,
    })
}

impl Sharing {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits while others still fetch from here, or said a moment ago that they miss something; not longer than `most`.
    /// Returns how long that was.
    pub(crate) async fn linger(&self, most: Duration) -> Duration {
        let started = Instant::now();
        let mut lingered = Duration::ZERO;
        while lingered < most && linger::is_wanted(self.desk.seen()) {
            tokio::time::sleep(LINGER_LOOK).await;
            lingered = started.elapsed();
        }
        lingered
    }

    /// What was shared so far.
    pub(crate) fn shared(&self) -> Shared {
        self.desk.shared()
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        // Nobody listens when the server could not start.
        let _ = self.stop.send(true);
    }
}

#[cfg(test)]
mod tests;
