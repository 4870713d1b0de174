//! The `dht` role of the appliance: announces in the DHT what `serve` serves, and answers its other members.
//!
//! A process of its own, because `serve` may connect to nobody. It reads the signed manifest that is served, and the
//! addresses of this machine; it serves nothing, keeps nothing on a disk, and takes no orders.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use artifact_store::{MANIFEST_FILE, Store};
use boot_manifest::handoff::Report;
use boot_manifest::{Arch, Channel, Digest, FileName, MANIFEST_SIZE_MAX};
use discovery::dht::{Bootstrap, Identity};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::dht::announcer::{self, Http, Served};
use crate::dht::args::DhtArgs;
use crate::dht::membership::Membership;
use crate::exit::{CommandError, Exit};
use crate::init_link::InitLink;
use crate::serve::ready::read_whole;

/// Threads for looking names up.
const BLOCKING_THREADS_MAX: usize = 2;

/// The flags of the role.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The artifacts directory that is served
    #[arg(long, value_name = "DIR")]
    artifacts: PathBuf,
    /// The channel that is announced
    #[arg(long)]
    channel: Channel,
    /// Its architecture
    #[arg(long)]
    arch: Arch,
    /// The port that is served on
    #[arg(long, value_name = "PORT")]
    http_port: u16,
    #[command(flatten)]
    dht: DhtArgs,
}

/// Runs the role until it is ended.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    let link = InitLink::from_env()
        .map_err(|error| CommandError::local(format!("cannot use the socket of init: {error}")))?;
    let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let wanted = match args.dht.wanted(Some(&all))? {
        Ok(wanted) => wanted,
        Err(reason) => return Err(CommandError::usage(format!("not in the DHT: {reason}"))),
    };
    let bootstrap = lenient(&args.dht.bootstrap, &link);
    let config = wanted.config(Identity::generate(), bootstrap, None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("the runtime cannot be started: {error}")))?;
    let exit = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| CommandError::local(format!("cannot handle signals: {error}")))?;
        tokio::spawn(async move {
            terminate.recv().await;
            // Nobody listens when it is over already.
            let _ = stop.send(true);
        });
        tell(&link, &Report::Ready {});
        let http = Http {
            listen: all.to_vec(),
            port: args.http_port,
            external: args.dht.dht_external.clone(),
        };
        let membership = Arc::new(Membership::starting());
        // It never changes on the appliance; only `serve` may not have put it there yet.
        let kept = OnceLock::new();
        let served = || async {
            match kept.get() {
                Some(served) => Ok(Served::clone(served)),
                None => served(&args).map(|served| kept.get_or_init(|| served).clone()),
            }
        };
        announcer::run(config, http, Arc::clone(&membership), served, stopped).await;
        match membership.figures() {
            Some(_) => Ok(Exit::Done),
            None => Err(CommandError::local(format!(
                "the DHT is {}",
                membership.state()
            ))),
        }
    });
    // A name that is still looked up must not hold up the end.
    runtime.shutdown_background();
    exit
}

/// The members that can be understood: one that cannot costs the others nothing.
fn lenient(texts: &[String], link: &InitLink) -> Vec<Bootstrap> {
    let parse = |text: &String| {
        let parsed = text.parse();
        parsed
            .map_err(|error: discovery::dht::BootstrapError| {
                tell(
                    link,
                    &Report::Failed {
                        code: "bad-bootstrap".to_owned(),
                        reason: error.to_string(),
                        retryable: false,
                    },
                );
            })
            .ok()
    };
    texts.iter().filter_map(parse).collect()
}

fn tell(link: &InitLink, report: &Report) {
    if let Err(error) = link.send(report) {
        tracing::warn!(%error, "init could not be told");
    }
}

/// What lies in the directory now. Init verified it before anything was served.
fn served(args: &Args) -> Result<Served, String> {
    let name: FileName = MANIFEST_FILE.parse().map_err(|_| MANIFEST_FILE)?;
    let store = Store::open(&args.artifacts).map_err(|error| format!("the manifest: {error}"))?;
    let file = store
        .find(&args.channel, args.arch.as_str(), &name)
        .map_err(|error| format!("the manifest: {error}"))?;
    if file.size() > MANIFEST_SIZE_MAX as u64 {
        return Err("the manifest is too large".to_owned());
    }
    let bytes = read_whole(&file)
        .map_err(|error| format!("the manifest: {error}"))?
        .ok_or("the manifest changes just now")?;
    let view = boot_manifest::view(&bytes).map_err(|error| format!("the manifest: {error}"))?;
    Ok(Served {
        channel: args.channel.clone(),
        arch: args.arch,
        version: view.version,
        manifest: Digest::of(&bytes),
        key_ids: view.key_ids,
    })
}
