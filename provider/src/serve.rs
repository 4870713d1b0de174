//! `plasmd serve`: a provider of boot images over HTTP.
//!
//! This file reads the arguments, puts the parts together, says what is served where, and ends in order. What is served
//! is decided in `catalog`, how it is sent in [`crate::http`]. Nothing is ever written to the artifacts directory.

mod announce;
mod app;
mod catalog;
mod hashing;
mod health;
mod limits;
mod port_owner;
mod ready;
mod refusal;
mod setup;
mod signed;
mod signer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use artifact_store::{MANIFEST_FILE, Store};
use boot_manifest::handoff::Report;
use boot_manifest::{Arch, Channel};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::{CommandError, Exit};
use crate::http::server::{self, Counters};
use crate::init_link::InitLink;
use crate::serve::announce::{Announcement, Announcer};
use crate::serve::app::App;
use crate::serve::catalog::Catalog;
use crate::serve::hashing::Hashing;
use crate::serve::limits::{GOODBYE_MAX, HASHERS_MAX, LOOK_PERIOD, VALID_DAYS, WORKERS_MIN};
use crate::serve::setup::{cannot_listen, no_store, read_signer, read_trust_root};

/// The kernel command line of manifests signed here, unless another is given. Without `panic=` a failed boot would
/// stand still for ever.
pub(crate) const CMDLINE: &str = "console=tty0 console=ttyS0,115200 panic=10";

/// Serve DIR/<channel>/<arch>/{vmlinuz,initramfs.img,rootfs.squashfs} and their manifest.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The artifacts directory
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "/var/lib/plasm/artifacts"
    )]
    artifacts: PathBuf,
    /// The channel that /manifest.json is about
    #[arg(short, long, default_value = "stable")]
    channel: Channel,
    /// The architecture that /manifest.json is about (amd64 and arm64 are understood)
    #[arg(short = 'A', long, default_value_t = Arch::host())]
    arch: Arch,
    /// The port to listen on; 0 takes a free one
    #[arg(short, long, default_value_t = 8080)]
    port: u16,
    /// The address to listen on; :: is all of IPv6 and IPv4
    #[arg(short, long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind: IpAddr,
    /// Accepted for older scripts: there is no DHT in this version
    #[arg(long)]
    no_dht: bool,
    /// Do not announce this provider on the local network
    #[arg(long)]
    no_mdns: bool,
    /// Sign what lies in the artifacts directory with this private key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    signing: SigningArgs,
    /// Whose manifests to believe in /health: a trust root or a public key
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
    /// Run as a role of the appliance: init is told what happens
    #[arg(long, hide = true)]
    appliance: bool,
}

/// What a manifest signed here says besides the files.
#[derive(clap::Args)]
struct SigningArgs {
    /// Sequence number of the first manifest [default: the time of signing]
    #[arg(long, value_name = "N", requires = "key")]
    sequence: Option<u64>,
    /// Version for people [default: the time of signing]
    #[arg(long, value_name = "TEXT", requires = "key")]
    release: Option<String>,
    /// Security version: older ones can be refused by clients
    #[arg(long, value_name = "N", default_value_t = 1, requires = "key")]
    security_version: u64,
    /// Days until a manifest expires
    #[arg(long, value_name = "N", default_value_t = VALID_DAYS, requires = "key",
          value_parser = clap::value_parser!(u32).range(1..=3650))]
    valid_days: u32,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = CMDLINE, requires = "key")]
    cmdline: String,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    // A panic ends one connection; somebody must act on it all the same.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "internal error")));
    let address = SocketAddr::new(args.bind, args.port);
    let app = Arc::new(build(args)?);
    let processors = processors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.max(WORKERS_MIN))
        // Besides hashing, what waits for init and for the announcing library.
        .max_blocking_threads(processors.min(HASHERS_MAX) + 2)
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("cannot start threads: {error}")))?;
    let exit = runtime.block_on(serve(app, address));
    // A hashing that still runs must not hold up the end.
    runtime.shutdown_background();
    exit
}

/// Puts the parts together. Reads every file that is named by a flag; afterwards only artifacts are read.
fn build(args: Args) -> Result<App, CommandError> {
    let store = Store::open(&args.artifacts).map_err(|error| no_store(&args.artifacts, error))?;
    let store = Arc::new(store);
    let trust_root = args
        .trust_root
        .as_deref()
        .map(read_trust_root)
        .transpose()?;
    let signer = match &args.key {
        Some(path) => Some(read_signer(path, &args.signing, trust_root.as_ref())?),
        None => None,
    };
    let init = InitLink::from_env()
        .map_err(|error| CommandError::local(format!("cannot use the socket of init: {error}")))?;
    let hashing = Arc::new(Hashing::new(
        Arc::clone(&store),
        processors().min(HASHERS_MAX),
    ));
    let manifest_file = MANIFEST_FILE
        .parse()
        .map_err(|error| CommandError::local(format!("{MANIFEST_FILE}: {error}")))?;
    let announcement = match why_silent(&args) {
        Some(reason) => Announcement::never(reason),
        None => Announcement::starting(),
    };
    Ok(App {
        catalog: Arc::new(Catalog::new(store, hashing, signer, manifest_file)),
        channel: args.channel,
        arch: args.arch,
        trust_root,
        counters: Arc::new(Counters::default()),
        requests_total: AtomicU64::new(0),
        started: Instant::now(),
        announcement: Arc::new(announcement),
        init: Arc::new(init),
        reports: Mutex::new((Instant::now(), 0)),
    })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

async fn serve(app: Arc<App>, address: SocketAddr) -> Result<Exit, CommandError> {
    let connections_max = server::connections_max();
    let listener = server::listen(address).map_err(|error| cannot_listen(address, &error))?;
    let address = listener.local_addr().unwrap_or(address);
    let shutdown = shutdown_signal()?;
    summarise(&app, address, connections_max);
    let (stop, stopped) = watch::channel(false);
    let announcer = app.announcement.is_wanted().then(|| {
        let announcer = Announcer {
            catalog: Arc::clone(&app.catalog),
            channel: app.channel.clone(),
            arch: app.arch,
            address,
            announcement: Arc::clone(&app.announcement),
        };
        tokio::spawn(announcer.run(stopped))
    });
    let chores = [
        tokio::spawn(hash_ahead(Arc::clone(&app))),
        tokio::spawn(keep_init_informed(Arc::clone(&app), address)),
    ];
    let shutdown = async {
        shutdown.await;
        // Nobody listens when nothing is announced.
        let _ = stop.send(true);
    };
    let counters = Arc::clone(&app.counters);
    let cut = server::run(listener, app, counters, connections_max, shutdown).await;
    for chore in chores {
        chore.abort();
    }
    if let Some(announcer) = announcer {
        // It said goodbye while downloads were running; a stuck one is not worth waiting for.
        let _ = tokio::time::timeout(GOODBYE_MAX, announcer).await;
    }
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "stopped; connections that took too long were cut"
        );
    } else {
        tracing::info!("stopped");
    }
    Ok(Exit::Done)
}

/// Why the local network is not told, when it is not to be.
fn why_silent(args: &Args) -> Option<&'static str> {
    if args.no_mdns {
        return Some("--no-mdns");
    }
    args.bind
        .is_loopback()
        .then_some("only this machine can connect")
}

/// What an operator wants to see first: where, what, and what does not work.
fn summarise(app: &App, address: SocketAddr, connections_max: usize) {
    let store = app.catalog.store();
    let (channel, arch) = (&app.channel, app.arch);
    tracing::info!(
        url = %format_args!("http://{address}/"), artifacts = %store.path().display(), channel = %channel,
        arch = %arch, connections_max, dht = app::DHT, mdns = app.announcement.state(), "serving"
    );
    let scan = store.scan(channel, arch);
    for found in &scan.found {
        tracing::info!(
            artifact = %found.artifact, file = %found.file.name(), size = found.file.size(), "artifact"
        );
    }
    for problem in &scan.problems {
        if problem.reason.is_fault() {
            tracing::error!("{problem}");
        } else {
            tracing::warn!("{problem}");
        }
    }
    if scan.found.is_empty() {
        let path = store.path().display();
        tracing::warn!(
            "no artifacts found for {channel}/{arch}: expected \
             {path}/{channel}/{arch}/{{vmlinuz,initramfs.img,rootfs.squashfs}} \
             (vmlinuz required, initramfs.img recommended, rootfs.squashfs optional)"
        );
    }
    match (app.catalog.signed(channel, arch), app.catalog.signer()) {
        (Ok(Some(signed)), signer) => {
            if signer.is_some() {
                tracing::warn!(
                    "--key is not used for {channel}/{arch}: its manifest.json was signed elsewhere"
                );
            }
            match &signed.view {
                Ok(view) => tracing::info!(
                    sequence = view.sequence, version = view.version, expires_at = %view.expires_at,
                    "manifest.json is served as it was signed elsewhere"
                ),
                Err(error) => tracing::error!("manifest.json: {error}"),
            }
        }
        (Err(refusal), _) => tracing::error!("{refusal}"),
        (Ok(None), Some(signer)) => {
            tracing::info!(key_id = %signer.key.public().key_id(), "manifests are signed here");
        }
        (Ok(None), None) => tracing::warn!(
            "manifests are unsigned: clients will refuse them; use --key FILE, or put a signed manifest.json there"
        ),
    }
}

/// Hashes what lies in the default folder before anybody asks, now and whenever it changes, so that `/health` knows and no
/// client waits for it.
async fn hash_ahead(app: Arc<App>) {
    let mut period = tokio::time::interval(LOOK_PERIOD);
    loop {
        period.tick().await;
        for target in health::unhashed(&app.catalog, &app.channel, app.arch) {
            let started = Instant::now();
            // Refusals are logged where they are found, and stand in /health.
            let served = app.catalog.artifact(&target).await.is_ok();
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(file = %target.name, served, millis, "hashed ahead");
        }
        // Signs it when that is due; a refusal stands in /health.
        let _ = app.catalog.manifest(&app.channel, app.arch).await;
    }
}

/// Tells init that the role works and where it can be reached, again whenever the addresses change.
async fn keep_init_informed(app: Arc<App>, address: SocketAddr) {
    tell_init(&app, Report::Ready {}).await;
    let mut told = None;
    let mut period = tokio::time::interval(LOOK_PERIOD);
    loop {
        period.tick().await;
        let urls = urls(address);
        let scan = app.catalog.store().scan(&app.channel, app.arch);
        let artifacts = u32::try_from(scan.found.len()).unwrap_or(u32::MAX);
        let now = Report::Serving {
            urls,
            artifacts,
            advertised: app.announcement.is_on(),
        };
        if told.as_ref() != Some(&now) {
            tell_init(&app, now.clone()).await;
            told = Some(now);
        }
    }
}

async fn tell_init(app: &App, report: Report) {
    let init = Arc::clone(&app.init);
    // Sending may wait for init, which must not stop requests.
    let sent = tokio::task::spawn_blocking(move || init.send(&report)).await;
    if let Ok(Err(error)) = sent {
        tracing::warn!(%error, "init could not be told");
    }
}

/// Where clients on other machines reach `address`; on this machine only when there is nothing else.
fn urls(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    if !address.ip().is_unspecified() {
        return vec![format!("http://{address}/")];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let is_useful = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => address.is_ipv6() && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let mut addresses: Vec<IpAddr> = interfaces
        .iter()
        .map(if_addrs::Interface::ip)
        .filter(is_useful)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
        .iter()
        .map(|ip| format!("http://{}/", SocketAddr::new(*ip, port)))
        .collect()
}

/// Ends when the process is told to; a second signal does not wait for the drain.
fn shutdown_signal() -> Result<impl Future<Output = ()>, CommandError> {
    let listen = |kind| {
        signal(kind).map_err(|error| CommandError::local(format!("cannot handle signals: {error}")))
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    let (told, shutdown) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
        let name = next().await;
        tracing::info!(signal = name, "stopping: running downloads may finish");
        let _ = told.send(());
        let name = next().await;
        tracing::warn!(signal = name, "stopping at once");
        std::process::exit(Exit::Done as i32);
    });
    Ok(async {
        // The sender lives until it has sent.
        let _ = shutdown.await;
    })
}
