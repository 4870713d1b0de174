//! Peers on the local network, by mDNS, for a download that is under way.
//!
//! So machines that start together find each other even when their provider is a plain web server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use boot_manifest::Digest;
use discovery::{DiscoveryError, Peers, Share};
use fetch::{Neighbour, Swarm};

use crate::share::limits::{NEARBY_LOOK, NEARBY_PAUSE};

/// Looks for peers, and is announced as one, until it is dropped.
pub(crate) struct Nearby {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Nearby {
    /// Tells `swarm` of those who fetch what this manifest lists. `share` is where this machine serves what it has.
    pub(crate) fn start(manifest: Digest, share: Option<Share>, swarm: Swarm) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("nearby".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Err(error) = listen(manifest, share.clone(), &swarm, &stopped) {
                        tracing::debug!(%error, "peers are not heard for a while");
                        std::thread::park_timeout(NEARBY_PAUSE);
                    }
                }
            });
        if let Err(error) = &thread {
            tracing::warn!(%error, "peers are not looked for by mDNS");
        }
        Self {
            stop,
            thread: thread.ok(),
        }
    }
}

fn listen(
    manifest: Digest,
    share: Option<Share>,
    swarm: &Swarm,
    stopped: &AtomicBool,
) -> Result<(), DiscoveryError> {
    let mut peers = Peers::start(manifest, share)?;
    while !stopped.load(Ordering::Relaxed) {
        if let Some(hint) = peers.next(NEARBY_LOOK)? {
            for address in hint.addresses {
                swarm.found(Neighbour::Peer(address));
            }
        }
    }
    Ok(())
}

impl Drop for Nearby {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It says goodbye, and that is bounded. A panic has told of itself.
            let _panicked = thread.join();
        }
    }
}
