//! Other machines that fetch the same: taking from them, and with `--share` giving to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boot_manifest::{Manifest, Verified};
use fetch::Swarm;

use super::flags::Listen;
use super::{Args, Begun};
use crate::exit::CommandError;
use crate::memory::{RESERVE_MIB, Reserve};
use crate::share::{self, Held, Nearby, Setup, Shared, Sharing};

/// How long others may still fetch from here when everything is done. A rack that started together needs a part of what
/// one machine needs for all of it; whoever comes later finds the provider.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// Who else takes part.
pub(super) struct Company {
    swarm: Option<Swarm>,
    sharing: Option<Sharing>,
    /// Ends before the server does.
    _nearby: Option<Nearby>,
}

impl Company {
    /// As the flags say. Inside a runtime.
    pub(super) fn start(
        args: &Args,
        manifest: &Arc<Verified<Manifest>>,
        begun: &[Begun],
    ) -> Result<Self, CommandError> {
        let is_missing = begun.iter().any(|one| one.partial.is_some());
        let swarm = (!args.no_peers && is_missing).then(Swarm::new);
        let (mut sharing, mut nearby) = (None, None);
        if let (Some(listen), Some(swarm)) = (args.share, &swarm) {
            // What was complete before is as good to others as what is fetched now.
            let views = begun.iter().map(|one| one.view.clone());
            let held = views.map(|view| Arc::new(view) as Arc<dyn Held>);
            let server = serve(listen, manifest, held.collect(), swarm)?;
            let at = server.address();
            swarm.serves_at(at.port());
            if !at.ip().is_loopback() {
                let share = discovery::Share {
                    listen: vec![at.ip()],
                    port: at.port(),
                };
                let manifest = manifest.digest();
                nearby = Some(Nearby::start(manifest, Some(share), swarm.clone()));
            }
            sharing = Some(server);
        }
        Ok(Self {
            swarm,
            sharing,
            _nearby: nearby,
        })
    }

    /// Those who take part, if anybody may.
    pub(super) fn swarm(&self) -> Option<&Swarm> {
        self.swarm.as_ref()
    }

    /// Waits while others still take, and parts with them. Tells what they took.
    pub(super) async fn part(self) -> Option<Shared> {
        let sharing = self.sharing?;
        sharing.linger(LINGER_MAX).await;
        Some(sharing.shared())
    }
}

fn serve(
    listen: Listen,
    manifest: &Arc<Verified<Manifest>>,
    held: Vec<Arc<dyn Held>>,
    swarm: &Swarm,
) -> Result<Sharing, CommandError> {
    let start = |address: SocketAddr| {
        share::start(Setup {
            listen: address,
            manifest: Arc::clone(manifest),
            held: held.clone(),
            company: Arc::new(swarm.clone()),
            egress: None,
            memory: Reserve::of_mib(RESERVE_MIB),
        })
    };
    let started = match listen {
        Listen::Address(address) => start(address),
        // A machine without IPv6 has no `::`.
        Listen::Port(port) => {
            let all = |ip: [u8; 4]| SocketAddr::from((ip, port));
            start(SocketAddr::from(([0; 16], port))).or_else(|_| start(all([0; 4])))
        }
    };
    started.map_err(|error| {
        let message = format!("{listen}: nothing can be shared there: {error}");
        CommandError::local(message).hint("--share 0 takes any free port")
    })
}
