//! From arguments to the parts of the provider. Every file that a flag names is read here, and no other; then the process
//! gives up what it does not need any more. Nothing runs yet.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use artifact_store::{MANIFEST_FILE, Store};

use crate::control::{DEFAULT_SOCKET, Listening, Socket};
use crate::dht::args::Wanted;
use crate::exit::CommandError;
use crate::http::egress::Egress;
use crate::init_link::InitLink;
use crate::listen;
use crate::listen::args::DhcpMode;
use crate::listen::files::Files;
use crate::listen::files::ipxe::IpxeFiles;
use crate::listen::keep::LeaseFile;
use crate::listen::ports::Ports;
use crate::listen::shared::Shared;
use crate::log::Lines;
use crate::machines::shelf::Shelf;
use crate::machines::state::StateFile;
use crate::machines::{self, Machines};
use crate::memory::Reserve;
use crate::serve::access_log::{self, AccessLog};
use crate::serve::announce::Announcement;
use crate::serve::app::App;
use crate::serve::args::{Args, TlsArgs};
use crate::serve::catalog::{Catalog, Parts};
use crate::serve::clients::Clients;
use crate::serve::confine;
use crate::serve::freshness::FreshnessKeys;
use crate::serve::hashing::Hashing;
use crate::serve::joining::{self, Joining};
use crate::serve::limits::HASHERS_MAX;
use crate::serve::metrics::Metrics;
use crate::serve::notify::{self, Notifier};
use crate::serve::privileges::User;
use crate::serve::process::Process;
use crate::serve::reload::{Outcome, Reloads};
use crate::serve::request_id::RequestIds;
use crate::serve::sandbox::Connect;
use crate::serve::settings;
use crate::serve::setup::{KeyFile, keep_apart, no_store};
use crate::serve::signer::Signing;
use crate::serve::sockets::{self, Listener, Scheme};
use crate::serve::swarm_routes::Swarm;
use crate::serve::tls::Certificates;
use crate::serve::trusted::Trusted;
use crate::serve::upgrade_routes::Upgrades;
use crate::serve::watchdog::Question;

/// Puts the parts together. Reads every file that is named by a flag; afterwards only artifacts are read, and what a
/// reload reads again.
pub(super) fn build(
    args: Args,
    user: Option<&User>,
    (listeners, ports): (&[Listener], &Ports),
    dht: Result<Wanted, String>,
    control: Option<&Socket>,
    notifier: Arc<Notifier>,
) -> Result<(App, listen::Setup, Option<Joining>), CommandError> {
    let store = Store::open(&args.artifacts).map_err(|error| no_store(&args.artifacts, error))?;
    let store = Arc::new(store);
    keep_secrets_apart(&args, listeners, ports, dht.is_ok())?;
    let membership = Arc::new(joining::membership(&dht));
    let joining = match (dht, sockets::announced(listeners)) {
        (Ok(wanted), Some(http)) => Some(Joining::prepare(&args, wanted, http)?),
        _ => None,
    };
    let leases = lease_file(&args, ports)?;
    let trusted = Arc::new(Trusted::open(args.trust_root.clone())?);
    // What a reload reads again.
    let mut files: Vec<PathBuf> = [&args.key, &args.trust_root]
        .into_iter()
        .flatten()
        .chain(&args.freshness_keys)
        .chain(&args.in_force.file)
        .cloned()
        .collect();
    let upgrade_status = args.upgrade_status();
    let key_file = args.key.map(|path| KeyFile {
        path,
        args: args.signing,
        generation: trusted.root().map_or(1, |root| root.generation()),
    });
    let signing = Signing::new(key_file)?;
    let freshness = Arc::new(FreshnessKeys::open(args.freshness_keys)?);
    let init = InitLink::from_env()
        .map_err(|error| CommandError::local(format!("cannot use the socket of init: {error}")))?;
    let metrics = Arc::new(Metrics::default());
    let hashing = Arc::new(Hashing::new(
        Arc::clone(&store),
        processors().min(HASHERS_MAX),
        Arc::clone(&metrics),
    ));
    let manifest_file = MANIFEST_FILE
        .parse()
        .map_err(|error| CommandError::local(format!("{MANIFEST_FILE}: {error}")))?;
    let announcement = match sockets::announced(listeners) {
        _ if args.no_mdns => Announcement::never("--no-mdns"),
        None => Announcement::never("no other machine can connect over plain HTTP"),
        Some(_) => Announcement::starting(),
    };
    let certificates = speaks_tls(listeners)
        .then(|| Certificates::open(&args.tls).map(Arc::new))
        .transpose()?;
    let mut reloads = Reloads::new(Arc::clone(&metrics), Arc::clone(&notifier));
    if let Some(certificates) = &certificates {
        let certificates = Arc::clone(certificates);
        reloads.add("certificate", move || {
            certificates.reload().map_err(|problem| problem.to_string())
        });
    }
    let catalog = Arc::new(Catalog::new(Parts {
        store: Arc::clone(&store),
        hashing,
        signing,
        manifest_file,
        metrics: Arc::clone(&metrics),
    }));
    let files_by_name = Arc::new(Files::new(
        Arc::clone(&catalog),
        args.channel.clone(),
        args.arch,
        IpxeFiles::read(&args.boot.ipxe)?,
    ));
    // The appliance has no disk to keep anything on.
    let is_kept = ports.mode != DhcpMode::Off && !args.appliance;
    let state_file = machines_state(&args.tls, is_kept);
    let reloaded = Arc::clone(&catalog);
    reloads.add("artifacts and signing key", move || {
        let is_changed = reloaded.reload().map_err(|error| error.to_string())?;
        Ok(Outcome::of(is_changed))
    });
    let reloaded = Arc::clone(&freshness);
    reloads.add("freshness key", move || {
        reloaded.reload().map_err(|error| error.to_string())
    });
    let reloaded = (Arc::clone(&trusted), Arc::clone(&catalog));
    reloads.add("trust root", move || {
        let (trusted, catalog) = &reloaded;
        let signs = catalog.signer().is_some();
        trusted.reload(signs).map_err(|error| error.to_string())
    });
    let mut process = Process::of(listeners);
    files.extend(certificates.iter().flat_map(|own| own.files()));
    files.extend(upgrade_status.clone());
    let state: Vec<&Path> = certificates
        .iter()
        .filter_map(|own| own.state())
        .chain(leases.iter().map(LeaseFile::folder))
        .chain(state_file.iter().map(StateFile::folder))
        .chain(joining.iter().filter_map(Joining::folder))
        .collect();
    let mut plan = confine::plan(&args.artifacts, &files, &state);
    // Orders go to init in memory that nobody can change any more.
    plan.makes_memory_files = upgrade_status.is_some();
    if notify::watchdog_period().is_some() {
        let port = process.question_address().map(|address| address.port());
        plan.connect = Connect::Only(port.into_iter().collect());
    }
    if let Some(joining) = &joining {
        joining.plan(&mut plan);
    }
    // Opened before the sandbox.
    let reserve = Reserve::of_mib(args.sending.memory_reserve);
    let watching = args.watching;
    confine::watched(
        &mut plan,
        watching.access_log.as_deref(),
        control.map(Socket::path),
    );
    let confinement = confine::confine(&args.confine, user, &plan, &state)?;
    process.confinement = (args.confine.sandbox, confinement);
    // Opened as the user that has to open it again, and in the sandbox.
    let access_log = match &watching.access_log {
        Some(path) => Some(open_log(path, watching.access_log_format, &metrics)?),
        None => None,
    };
    // Standard output stays what it is, and may be a pipe that nobody reads just now.
    if let Some(log) = access_log.as_ref().filter(|log| !log.is_stdout()) {
        let log = Arc::clone(log);
        reloads.add("access log", move || {
            log.reopen().map_err(|error| error.to_string())?;
            Ok(Outcome::Changed)
        });
    }
    let has = Arc::clone(&files_by_name);
    let has = Box::new(move |channel: &_, arch, file: &str| has.has(channel, arch, file));
    let setup = machines::Setup {
        channel: args.channel.clone(),
        arch: args.arch,
        only: args.boot.only,
        port: sockets::announced(listeners).map(|(_, port)| port),
    };
    let profiles = Arc::clone(&args.in_force.profiles);
    let shelf = Shelf::new(store, has);
    let machines = Arc::new(Machines::new(setup, shelf, profiles, state_file));
    let in_force = Arc::new(Mutex::new(args.in_force));
    let reloaded = (Arc::clone(&in_force), Arc::clone(&machines));
    reloads.add("settings", move || {
        settings::reload(&reloaded.0, &reloaded.1)
    });
    let boot = Arc::new(Shared {
        mode: ports.mode,
        note: ports.note.clone(),
        metrics: Arc::clone(&metrics.boot),
        lines: Lines::default(),
        unsent: Lines::default(),
        machines: Arc::clone(&machines),
    });
    let app = App {
        boot,
        certificates,
        reloads: Arc::new(reloads),
        notifier,
        process,
        catalog,
        files: files_by_name,
        channel: args.channel,
        arch: args.arch,
        in_force,
        trusted,
        question: Question::new(),
        freshness,
        swarm: Swarm::new(),
        upgrades: Upgrades::new(upgrade_status),
        egress: args.sending.limit_rate.map(Egress::new),
        memory: reserve,
        metrics,
        clients: Clients::default(),
        machines,
        access_log,
        request_ids: RequestIds::new(),
        hide_clients: watching.hide_clients,
        unhashable: Mutex::default(),
        started: Instant::now(),
        started_at: SystemTime::now(),
        announcement: Arc::new(announcement),
        dht: membership,
        init: Arc::new(init),
        reports: Mutex::new((Instant::now(), 0)),
    };
    let setup = listen::Setup::new(&args.boot, leases, args.appliance);
    Ok((app, setup, joining))
}

/// Where leases are kept. The appliance has no disk of its own: there they live in memory.
fn lease_file(args: &Args, ports: &Ports) -> Result<Option<LeaseFile>, CommandError> {
    if ports.mode != DhcpMode::Server || args.appliance {
        return Ok(None);
    }
    let state = args.tls.state_dir();
    LeaseFile::open(&state).map(Some).map_err(|error| {
        CommandError::local(format!(
            "leases cannot be kept in {}: {error}",
            state.display()
        ))
        .hint("name a directory with --state-dir that can be written")
    })
}

/// Where decisions about machines are kept: when machines are booted, or somebody named a place. Elsewhere they last as long
/// as the process.
fn machines_state(args: &TlsArgs, boots_machines: bool) -> Option<StateFile> {
    if !boots_machines && !args.names_state() {
        return None;
    }
    match StateFile::open(&args.state_dir()) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!("decisions about machines last until the next restart: {error}");
            None
        }
    }
}

/// What must not be fetched lies elsewhere than what is served.
fn keep_secrets_apart(
    args: &Args,
    listeners: &[Listener],
    ports: &Ports,
    is_member: bool,
) -> Result<(), CommandError> {
    let makes_keys = is_member || (args.tls.tls_key.is_none() && speaks_tls(listeners));
    let keeps_leases = ports.mode == DhcpMode::Server;
    let state = (makes_keys || keeps_leases).then(|| args.tls.state_dir());
    let log = args.watching.access_log.clone();
    let freshness = args.freshness_keys.iter().cloned();
    let freshness = freshness.map(|file| ("--freshness-key", file));
    [
        ("--key", args.key.clone()),
        ("--tls-key", args.tls.tls_key.clone()),
        ("--state-dir", state),
        ("--access-log", log.filter(|log| log != Path::new("-"))),
    ]
    .into_iter()
    .filter_map(|(flag, file)| Some((flag, file?)))
    .chain(freshness)
    .try_for_each(|(flag, file)| keep_apart(&args.artifacts, flag, &file))
}

fn speaks_tls(listeners: &[Listener]) -> bool {
    listeners
        .iter()
        .any(|listener| listener.scheme == Scheme::Https)
}

fn open_log(
    path: &Path,
    format: access_log::Format,
    metrics: &Arc<Metrics>,
) -> Result<Arc<AccessLog>, CommandError> {
    let log = AccessLog::open(path, format, Arc::clone(metrics)).map_err(|error| {
        CommandError::local(format!("access log {}: {error}", path.display()))
            .hint("name a file in a folder that this user may write")
    })?;
    Ok(Arc::new(log))
}

/// The control socket, and what became of it in words. Somebody who named none need not have one.
pub(super) fn control(args: &Args) -> Result<(Option<(Socket, Listening)>, String), CommandError> {
    let named = args.watching.control_socket.as_deref();
    if args.appliance || named == Some(Path::new("off")) {
        return Ok((None, "no control socket is wanted".to_owned()));
    }
    let path = named.unwrap_or(Path::new(DEFAULT_SOCKET));
    match (Socket::bind(path), named) {
        (Ok(bound), _) => {
            let note = format!("controlled at {}", path.display());
            Ok((Some(bound), note))
        }
        (Err(error), None) => {
            let note = format!("no control socket: {error}; --control-socket names another place");
            Ok((None, note))
        }
        (Err(error), Some(_)) => Err(CommandError::local(format!("control socket {error}"))
            .hint("name another with --control-socket PATH, or `off`")),
    }
}

/// How many processors this process may use.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
