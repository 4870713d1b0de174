//! The provider's part in the DHT, from its flags to what runs. Files are read here, before the process gives up reading them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use discovery::dht::{Config, Identity};
use tokio::sync::watch;

use crate::dht;
use crate::dht::announcer::{self, Http, Served};
use crate::dht::args::Wanted;
use crate::dht::membership::Membership;
use crate::exit::CommandError;
use crate::held_folder::HeldFolder;
use crate::serve::app::App;
use crate::serve::args::Args;
use crate::serve::sandbox::{Connect, Plan};

/// What looking up the name of a member reads.
const NAME_FILES: [&str; 5] = [
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
];

/// Everything that is needed to join.
pub(super) struct Joining {
    config: Config,
    http: Http,
    port: u16,
    /// Held until the end: no other process may be the same member.
    place: Option<HeldFolder>,
}

impl Joining {
    /// Reads the peer key and the files of members. `http` is where other machines fetch.
    pub(super) fn prepare(
        args: &Args,
        wanted: Wanted,
        (listen, port): (Vec<std::net::IpAddr>, u16),
    ) -> Result<Self, CommandError> {
        let bootstrap = args.dht.members()?;
        let kept = HeldFolder::open(&args.tls.state_dir(), dht::FOLDER)
            .map_err(|error| error.to_string())
            .and_then(|place| {
                let identity = Identity::load_or_make(place.folder());
                identity
                    .map(|identity| (identity, Some(place)))
                    .map_err(|error| error.to_string())
            });
        let (identity, place) = kept.unwrap_or_else(|reason| {
            let text = "this member of the DHT is another one after each start";
            match wanted.is_explicit {
                true => tracing::warn!("{text}: {reason}"),
                false => tracing::info!("{text}: {reason}"),
            }
            (Identity::generate(), None)
        });
        Ok(Self {
            config: wanted.config(identity, bootstrap, place.as_ref()),
            http: Http {
                listen,
                port,
                external: args.dht.dht_external.clone(),
            },
            port: args.dht.port(),
            place,
        })
    }

    /// Where it keeps what it learns.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.place.as_ref().map(HeldFolder::folder)
    }

    /// Adds what a member needs to what stays possible.
    pub(super) fn plan(&self, plan: &mut Plan) {
        plan.connect = Connect::Anywhere;
        plan.listen.push(self.port);
        plan.read.extend(NAME_FILES.map(PathBuf::from));
    }

    /// Takes part until `stop` says so.
    pub(super) async fn run(self, app: Arc<App>, stop: watch::Receiver<bool>) {
        let membership = Arc::clone(&app.dht);
        let served = || served(&app);
        announcer::run(self.config, self.http, membership, served, stop).await;
    }
}

/// Whether the provider joins, and what becomes of it for people.
pub(super) fn membership(wanted: &Result<Wanted, String>) -> Membership {
    match wanted {
        Ok(_) => Membership::starting(),
        Err(reason) => Membership::never(reason),
    }
}

async fn served(app: &App) -> Result<Served, String> {
    let (channel, arch) = (&app.channel, app.arch);
    // Boxed: making a manifest needs much room.
    let manifest = Box::pin(app.catalog.manifest(channel, arch)).await;
    let manifest = manifest.map_err(|_| "there is no manifest to serve".to_owned())?;
    Ok(Served {
        channel: channel.clone(),
        arch,
        version: manifest.version,
        manifest: manifest.digest,
        key_ids: manifest.key_ids,
    })
}
