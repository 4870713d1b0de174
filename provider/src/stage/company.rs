//! Who else has, or fetches, the same image while this machine fetches it, and what this machine gives them.
//!
//! ```text
//! search (boot servers, mDNS, table) ──providers of the same manifest──┐
//! _phase-peer._tcp ────────────────────machines that fetch it──────────┼──> swarm ──> download
//! sharing ─────────────────────────────who registered here─────────────┘       <── what is coming ──> sharing
//! ```
//! All of them only say whom to ask: what they send is checked chunk by chunk, and they cost time at most. Everything ends
//! when the company is left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use boot_manifest::Digest;
use discovery::Share;
use fetch::{Mirror, Neighbour, Swarm, Url};
use tokio::task::JoinHandle;

use super::image::Image;
use super::search::{LOOK_INTERVAL, Search};
use crate::http::egress::Egress;
use crate::memory::{RESERVE_MIB, Reserve};
use crate::share::{self, Nearby, Setup, Sharing};

/// How long the others may keep a machine that has everything from its next kernel. Whoever leaves takes with it what only
/// it has, until it serves again: a machine with a slow line (10 Mbit/s) gets 12 MiB more in this time. Where nobody misses
/// anything it costs nothing.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// How long the goodbye may take: others find out by themselves that this machine is gone, only later.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// What this machine takes part in.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Where it gives what it has; nothing is given without.
    pub(super) share: Option<NonZeroU16>,
    /// How fast.
    pub(super) rate: Option<NonZeroU64>,
    /// Whether it is announced, and others are listened for.
    pub(super) mdns: bool,
}

/// The company, until it is left.
pub(super) struct Company {
    swarm: Swarm,
    sharing: Option<Sharing>,
    providers: JoinHandle<()>,
    nearby: Option<Nearby>,
}

impl Company {
    /// Joins: opens the port, and looks for others from now on. `known` are the providers that the download has already.
    pub(super) fn join(part: &Part, image: &Image, search: Search, known: Vec<Url>) -> Self {
        let swarm = Swarm::new();
        let sharing = part.share.and_then(|port| {
            let opened = open(part.rate, port.get(), image, &swarm);
            opened
                .inspect_err(
                    |error| tracing::warn!(%error, "nothing is shared: the port cannot be had"),
                )
                .ok()
        });
        let digest = image.manifest().digest();
        let providers = tokio::spawn(providers(search, digest, known, swarm.clone()));
        let share = sharing.as_ref().map(|sharing| Share {
            listen: vec![sharing.address().ip()],
            port: sharing.address().port(),
        });
        let nearby = part
            .mdns
            .then(|| Nearby::start(digest, share, swarm.clone()));
        Self {
            swarm,
            sharing,
            providers,
            nearby,
        }
    }

    pub(super) fn swarm(&self) -> &Swarm {
        &self.swarm
    }

    /// Waits while somebody still fetches from here, for a bounded time, and leaves.
    pub(super) async fn leave(mut self) {
        if let Some(sharing) = &self.sharing {
            let lingered = sharing.linger(LINGER_MAX).await;
            let share::Shared {
                bytes,
                uploads,
                busy,
            } = sharing.shared();
            tracing::info!(bytes, uploads, busy, ?lingered, "shared with others");
        }
        if let Some(nearby) = self.nearby.take() {
            let goodbye = tokio::task::spawn_blocking(|| drop(nearby));
            if tokio::time::timeout(GOODBYE_MAX, goodbye).await.is_err() {
                tracing::debug!("the goodbye takes too long");
            }
        }
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        self.providers.abort();
    }
}

fn open(
    rate: Option<NonZeroU64>,
    port: u16,
    image: &Image,
    swarm: &Swarm,
) -> std::io::Result<Sharing> {
    let start = |address: IpAddr| {
        share::start(Setup {
            listen: SocketAddr::from((address, port)),
            manifest: Arc::clone(image.manifest()),
            held: image.held(),
            company: Arc::new(swarm.clone()),
            egress: rate.map(Egress::new),
            memory: Reserve::of_mib(RESERVE_MIB),
        })
    };
    // A machine without IPv6 has no `::`.
    let sharing = start(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        .or_else(|_| start(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))?;
    swarm.serves_at(sharing.address().port());
    Ok(sharing)
}

/// Tells the swarm of providers that say to have the same manifest.
async fn providers(mut search: Search, digest: Digest, known: Vec<Url>, swarm: Swarm) {
    loop {
        for url in search.having(&digest) {
            if !known.contains(&url) {
                tracing::info!(%url, "somebody else has the same");
                swarm.found(Neighbour::Provider(Mirror {
                    manifest: url,
                    artifacts: None,
                }));
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
