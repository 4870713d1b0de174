//! Looks in the DHT, as a client: it asks, keeps nothing for others and publishes nothing.
//!
//! Each run is somebody else to the network: its peer key is made anew. What may stay behind is a list of peers that were
//! there, for the next search; who wants nothing to stay says `--ephemeral`.

use std::fs::DirBuilder;
use std::future::pending;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use discovery::Hint;
use discovery::dht::{Bootstrap, Config, Dht, Found, Identity, Query, Serving};
use tokio::time::Instant;

use crate::config;
use crate::config::file::{CONFIG_SIZE_MAX, Value};
use crate::discover_cmd::Args;
use crate::discover_cmd::table::PROVIDERS_MAX;
use crate::exit::CommandError;

/// The setting of `plasmd serve` that holds when no flag says anything.
const KEY: &str = "bootstrap";

/// Between two searches of somebody who watches. Records live for an hour, and a search asks a few dozen machines.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long one search of somebody who has no end goes on.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(60);

/// The peers to begin with: those of the flags, or else of the environment, or else of the file that `plasmd serve` reads.
pub(super) fn peers(args: &Args) -> Result<Vec<Bootstrap>, CommandError> {
    let texts = match args.bootstrap.is_empty() {
        false => args.bootstrap.clone(),
        true => configured(),
    };
    Bootstrap::parse_all(&texts)
        .map_err(|error| CommandError::usage(format!("--bootstrap: {error}")))
}

fn configured() -> Vec<String> {
    if let Ok(list) = std::env::var(config::variable_of(KEY)) {
        let texts = list.split(',').map(str::trim);
        return texts
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
            .collect();
    }
    // It need not be there, and need not be readable for whoever searches; `plasmd config check` says what is wrong in it.
    let file = std::path::Path::new(config::DEFAULT_FILE);
    let bytes = crate::trust::read(file, CONFIG_SIZE_MAX, "configuration").unwrap_or_default();
    let parsed = config::file::parse(&String::from_utf8_lossy(&bytes));
    let entry = parsed.entries.into_iter().find(|entry| entry.key == KEY);
    match entry.map(|entry| entry.value) {
        Some(Value::One(text)) => vec![text],
        Some(Value::Several(texts)) => texts,
        Some(Value::Switch(_)) | None => Vec::new(),
    }
}

/// A search in the DHT that may begin later.
pub(super) struct Wide {
    peers: Vec<Bootstrap>,
    folder: Option<PathBuf>,
    query: Query,
    dht: Option<Dht>,
    found: Option<Found>,
    /// When the next search begins.
    next_at: Option<Instant>,
}

impl Wide {
    /// One that begins at `start_at`; never, when nobody is known to begin with.
    pub(super) fn new(args: &Args, peers: Vec<Bootstrap>, start_at: Instant) -> Self {
        Self {
            next_at: (!peers.is_empty()).then_some(start_at),
            peers,
            folder: (!args.leaves_nothing()).then(state_folder).flatten(),
            query: Query {
                channel: args.channel.clone(),
                arch: args.arch,
                count_max: PROVIDERS_MAX,
                time_max: SEARCH_TIME_MAX,
            },
            dht: None,
            found: None,
        }
    }

    /// Whether there is anybody to ask.
    pub(super) fn is_possible(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Whether it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.dht.is_some()
    }

    /// Whether any node answered.
    pub(super) fn is_connected(&self) -> bool {
        let state = self.dht.as_ref().map(Dht::state);
        state.is_some_and(|state| state.connected > 0)
    }

    /// Begins when it is time, unless `is_enough`.
    pub(super) fn look(&mut self, is_enough: bool) -> Result<(), CommandError> {
        let is_time = self.next_at.is_some_and(|at| Instant::now() >= at);
        if !is_time || is_enough {
            return Ok(());
        }
        if self.dht.is_none() {
            let config = Config {
                identity: Identity::generate(),
                listen: Vec::new(),
                external: Vec::new(),
                bootstrap: self.peers.clone(),
                serving: Serving::Never,
                folder: self.folder.clone(),
            };
            let failed = |error| CommandError::local(format!("cannot search in the DHT: {error}"));
            self.dht = Some(Dht::start(config).map_err(failed)?);
        }
        self.found = self.dht.as_ref().map(|dht| dht.find(self.query.clone()));
        self.next_at = None;
        Ok(())
    }

    /// The next provider that is found; never, while nothing is searched.
    pub(super) async fn next(&mut self) -> Hint {
        if let Some(found) = &mut self.found {
            if let Some(hint) = found.next().await {
                return hint;
            }
            self.found = None;
            self.next_at = Some(Instant::now() + AGAIN_AFTER);
        }
        pending().await
    }

    /// Ends it. What the node has to say and to keep takes two seconds at most.
    pub(super) async fn end(self) {
        if let Some(dht) = self.dht {
            dht.shutdown().await;
        }
    }
}

/// Where peers are kept for the next search: `$XDG_STATE_HOME/phase`, or `~/.local/state/phase`.
fn state_folder() -> Option<PathBuf> {
    let named = |name: &str| {
        let folder = std::env::var_os(name).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    let state = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))?;
    let folder = state.join("phase/dht-v1");
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    if let Err(error) = &made {
        tracing::debug!(%error, folder = %folder.display(), "no peers are kept for the next search");
    }
    made.is_ok().then_some(folder)
}
