//! From arguments to the parts of the provider. Every file that a flag names is read here, and no other; nothing listens yet.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use artifact_store::{MANIFEST_FILE, Store};
use boot_manifest::TrustRoot;

use crate::exit::CommandError;
use crate::init_link::InitLink;
use crate::serve::announce::Announcement;
use crate::serve::app::App;
use crate::serve::args::Args;
use crate::serve::catalog::Catalog;
use crate::serve::hashing::Hashing;
use crate::serve::limits::HASHERS_MAX;
use crate::serve::metrics::Metrics;
use crate::serve::process::Process;
use crate::serve::setup::{KeyFile, no_store, read_trust_root};
use crate::serve::signer::Signing;
use crate::serve::sockets::{self, Listener};

/// Puts the parts together. Reads every file that is named by a flag; afterwards only artifacts are read.
pub(super) fn build(args: Args, listeners: &[Listener]) -> Result<App, CommandError> {
    let store = Store::open(&args.artifacts).map_err(|error| no_store(&args.artifacts, error))?;
    let store = Arc::new(store);
    let trust_root = args
        .trust_root
        .as_deref()
        .map(read_trust_root)
        .transpose()?;
    let key_file = args.key.map(|path| KeyFile {
        path,
        args: args.signing,
        generation: trust_root.as_ref().map_or(1, TrustRoot::generation),
    });
    let signing = Signing::new(key_file)?;
    let init = InitLink::from_env()
        .map_err(|error| CommandError::local(format!("cannot use the socket of init: {error}")))?;
    let hashing = Arc::new(Hashing::new(
        Arc::clone(&store),
        processors().min(HASHERS_MAX),
    ));
    let manifest_file = MANIFEST_FILE
        .parse()
        .map_err(|error| CommandError::local(format!("{MANIFEST_FILE}: {error}")))?;
    let announcement = match sockets::announced(listeners) {
        _ if args.no_mdns => Announcement::never("--no-mdns"),
        None => Announcement::never("no other machine can connect over plain HTTP"),
        Some(_) => Announcement::starting(),
    };
    Ok(App {
        process: Process::of(listeners),
        catalog: Arc::new(Catalog::new(store, hashing, signing, manifest_file)),
        channel: args.channel,
        arch: args.arch,
        in_force: args.in_force,
        trust_root,
        metrics: Arc::new(Metrics::default()),
        started: Instant::now(),
        started_at: SystemTime::now(),
        announcement: Arc::new(announcement),
        init: Arc::new(init),
        reports: Mutex::new((Instant::now(), 0)),
    })
}

/// How many processors this process may use.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
