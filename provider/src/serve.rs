//! `plasmd serve`: a provider of boot images over HTTP.
//!
//! This file is the order of its life: open the ports (`sockets`), put the parts together (`build`), give up what is not
//! needed any more (`confine`), say what is served where (`summary`), serve beside the `chores`, and end (`stopping`). What is served is decided in `catalog`, how it is sent in [`crate::http`]. Nothing is
//! ever written to the artifacts directory.

pub(crate) mod access_log;
mod announce;
mod app;
mod args;
mod boot_routes;
mod build;
pub(crate) mod catalog;
mod chores;
mod clients;
mod clients_control;
mod confine;
mod control_routes;
mod freshness;
mod hand;
mod hashing;
mod health;
mod joining;
pub(crate) mod limits;
pub(crate) mod metrics;
mod notify;
pub(crate) mod port_owner;
mod privileges;
mod process;
pub(crate) mod ready;
pub(crate) mod refusal;
mod reload;
mod request_id;
mod sandbox;
mod settings;
mod setup;
mod signed;
mod signer;
mod sockets;
mod status;
mod stopping;
mod summary;
mod swarm_routes;
pub(crate) mod tls;
mod trusted;
mod upgrade_routes;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::control::{self, Listening};
use crate::exit::{CommandError, Exit};
use crate::http::limits::WRITE_STALL_MAX;
use crate::http::server::{self, Bounds};
use crate::listen;
use crate::listen::args::DhcpMode;
use crate::listen::tftp;
use crate::serve::announce::Announcer;
use crate::serve::app::App;
pub(crate) use crate::serve::args::{Args, CMDLINE, state_dir};
use crate::serve::build::{build, processors};
use crate::serve::chores::{hash_ahead, keep_init_informed};
use crate::serve::control_routes::Operator;
use crate::serve::joining::Joining;
use crate::serve::limits::{GOODBYE_MAX, HASHERS_MAX, WORKERS_MIN};
use crate::serve::notify::Notifier;
use crate::serve::sockets::{Listener, Scheme, Wanted};
use crate::serve::stopping::{reload_signal, shutdown_signal};
use crate::serve::summary::summarise;

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    // A panic ends one connection; somebody must act on it all the same.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "internal error")));
    let bounds = Bounds {
        connections_max: server::connections_max(args.connections.connections_max),
        per_address_max: args
            .connections
            .connections_per_address
            .map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
        drain_max: Duration::from_secs(args.ending.drain_max),
        stall_max: WRITE_STALL_MAX,
    };
    let notifier = Arc::new(Notifier::from_env());
    let user = confine::user(&args.confine)?;
    let listeners = sockets::open(&Wanted {
        addresses: &args.bind,
        port: args.port,
        tls_port: args.tls.port(),
    })?;
    let announced = sockets::announced(&listeners);
    let reached = announced.as_ref().map(|(addresses, _)| &addresses[..]);
    let dht = args.dht.wanted(reached)?;
    let http6 = announced
        .as_ref()
        .and_then(|(addresses, _)| listen::dhcp6::Http6::of(addresses));
    let http = listen::ports::Http::of(announced);
    let ports = listen::ports::open(&args.boot, http)?.with_ipv6(http6);
    let is_wanted = ports.mode != DhcpMode::Off;
    let tftp = tftp::open(&args.boot.tftp, &args.bind, is_wanted)?;
    // The file of the socket is there until the process ends.
    let (control, note) = build::control(&args)?;
    let (control, listening) = control.unzip();
    let (app, boot, joining) = build(
        args,
        user.as_ref(),
        (&listeners, &ports),
        dht,
        control.as_ref(),
        notifier,
    )?;
    let places = u64::try_from(bounds.connections_max).unwrap_or(u64::MAX);
    metrics::add(&app.metrics.connections_max, places);
    let processors = processors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.max(WORKERS_MIN))
        // Besides hashing, what waits for init, for the announcing library, and for the name of a member of the DHT.
        .max_blocking_threads(processors.min(HASHERS_MAX) + 3)
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("cannot start threads: {error}")))?;
    let exit = runtime.block_on(serve(
        Arc::new(app),
        listeners,
        (ports, boot, joining),
        (listening, note),
        bounds,
        tftp,
    ));
    // A hashing that still runs must not hold up the end.
    runtime.shutdown_background();
    exit
}

async fn serve(
    app: Arc<App>,
    listeners: Vec<Listener>,
    (ports, boot, joining): (listen::ports::Ports, listen::Setup, Option<Joining>),
    (control, control_note): (Option<Listening>, String),
    bounds: Bounds,
    tftp: (Option<tftp::Ports>, Option<String>),
) -> Result<Exit, CommandError> {
    let shutdown = shutdown_signal(Arc::clone(&app.notifier), bounds.drain_max)?;
    let reloading = reload_signal(Arc::clone(&app.reloads))?;
    let booting = listen::start(ports, boot, Arc::clone(&app.boot)).await?;
    summarise(&app, bounds.connections_max);
    // Held until the end: it answers for as long.
    let _tftp = app.serve_tftp(tftp)?;
    let (stop, stopped) = watch::channel(false);
    let member = joining.map(|joining| {
        let (app, stopped) = (Arc::clone(&app), stopped.clone());
        tokio::spawn(joining.run(app, stopped))
    });
    let wanted = app.announcement.is_wanted();
    let announced = sockets::announced(&listeners).filter(|_| wanted);
    let announcer = announced.map(|listen| {
        let announcer = Announcer {
            catalog: Arc::clone(&app.catalog),
            channel: app.channel.clone(),
            arch: app.arch,
            listen,
            announcement: Arc::clone(&app.announcement),
        };
        tokio::spawn(announcer.run(stopped))
    });
    let chores = [
        tokio::spawn(hash_ahead(Arc::clone(&app))),
        tokio::spawn(keep_init_informed(Arc::clone(&app))),
        tokio::spawn({
            let catalog = Arc::clone(&app.catalog);
            async move { catalog.tidy().await }
        }),
        tokio::spawn(reloading),
        tokio::spawn({
            let machines = Arc::clone(&app.machines);
            async move { machines.keep().await }
        }),
        tokio::spawn(keep_alive(Arc::clone(&app), bounds)),
    ];
    tracing::info!("{control_note}");
    let control = control.map(|socket| {
        let operator = Arc::new(Operator(Arc::clone(&app)));
        tokio::spawn(control::serve(socket, operator, Arc::clone(&app.metrics)))
    });
    let stop = &stop;
    let shutdown = async move {
        shutdown.await;
        // From now on no connection is taken: no machine must be sent here.
        drop(booting);
        // Nobody listens when nothing is announced.
        let _ = stop.send(true);
    };
    let metrics = Arc::clone(&app.metrics);
    let tls = app.certificates.as_ref().map(|own| own.tls());
    let listeners = listeners.into_iter().map(|listener| server::Listener {
        tls: tls.clone().filter(|_| listener.scheme == Scheme::Https),
        socket: listener.socket,
    });
    // Whoever connects from now on is answered: the sockets listen.
    app.notifier.ready("serving");
    let cut = server::run(
        listeners.collect(),
        Arc::clone(&app),
        metrics,
        bounds,
        shutdown,
    )
    .await
    .map_err(|error| CommandError::local(format!("cannot watch the sockets: {error}")))?;
    for chore in chores.into_iter().chain(control) {
        chore.abort();
    }
    for leaving in [announcer, member].into_iter().flatten() {
        // It said goodbye while downloads were running; a stuck one is not worth waiting for.
        let _ = tokio::time::timeout(GOODBYE_MAX, leaving).await;
    }
    if let Some(log) = &app.access_log {
        log.finish();
    }
    if let Err(error) = app.machines.save() {
        tracing::warn!("what was learned about machines is not kept: {error}");
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

/// Tells the service manager that requests are answered, as often as it wants to hear that.
async fn keep_alive(app: Arc<App>, bounds: Bounds) {
    let Some(wanted) = notify::watchdog_period() else {
        return;
    };
    let Some(address) = app.process.question_address() else {
        return;
    };
    watchdog::watch(app, address, wanted, bounds.connections_max).await;
}
