//! Looks for providers in the distributed table, for a machine that has nobody on its own network.
//!
//! Takes part as a client with a key of its own that nobody keeps: this machine is another one after the next kexec. Goes on
//! until its handle is dropped; never listens, and never publishes anything.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use boot_manifest::{Arch, Channel};
use discovery::dht::{Bootstrap, Config, Dht, DhtError, Identity, Query, Serving};
use fetch::SOURCES_MAX;
use tokio::task::JoinHandle;

use super::candidates::Way;
use super::search::{Heard, send};

/// One look for providers; those who publish later are found by the next one.
const LOOK_TIME: Duration = Duration::from_secs(20);

/// Between two looks. Also until a machine that has no address yet tries again.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// A look that goes on until this is dropped.
pub(super) struct Elsewhere(JoinHandle<()>);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Elsewhere {
    /// Starts to look, on the runtime of the caller. `None` when there is no peer to begin with.
    pub(super) fn look(
        texts: &[String],
        channel: &Channel,
        arch: Arch,
        heard: SyncSender<Heard>,
    ) -> Option<Self> {
        let bootstrap = peers(texts);
        if bootstrap.is_empty() {
            return None;
        }
        let query = Query {
            channel: channel.clone(),
            arch,
            count_max: SOURCES_MAX,
            time_max: LOOK_TIME,
        };
        Some(Self(tokio::spawn(look(bootstrap, query, heard))))
    }
}

/// The peers to begin with; what names none is left out, and said.
fn peers(texts: &[String]) -> Vec<Bootstrap> {
    let parsed = texts.iter().filter_map(|text| match text.parse() {
        Ok(peer) => Some(peer),
        Err(error) => {
            tracing::warn!(%error, text = %text.escape_debug(), "not a peer to begin with");
            None
        }
    });
    parsed.collect()
}

async fn look(bootstrap: Vec<Bootstrap>, query: Query, heard: SyncSender<Heard>) {
    let (mut told, mut warned) = (Vec::new(), false);
    loop {
        match look_once(bootstrap.clone(), query.clone(), &heard, &mut told).await {
            Ok(true) => {}
            Ok(false) => return,
            // A machine whose network is not up yet has no sockets for it.
            Err(error) if !warned => {
                tracing::warn!(%error, "the distributed table cannot be joined yet");
                warned = true;
            }
            Err(error) => tracing::debug!(%error, "the distributed table cannot be joined"),
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Looks once; whether somebody still wants to know.
async fn look_once(
    bootstrap: Vec<Bootstrap>,
    query: Query,
    heard: &SyncSender<Heard>,
    told: &mut Vec<String>,
) -> Result<bool, DhtError> {
    let dht = Dht::start(Config {
        identity: Identity::generate(),
        listen: Vec::new(),
        external: Vec::new(),
        bootstrap,
        serving: Serving::Never,
        folder: None,
    })?;
    let mut found = dht.find(query);
    while let Some(hint) = found.next().await {
        // The next look finds them again.
        if told.len() < SOURCES_MAX && !told.contains(&hint.id) {
            tracing::info!(provider = %hint.id, addresses = ?hint.addresses, "found in the distributed table");
            told.push(hint.id.clone());
        }
        if !send(heard, Heard::of(Way::Elsewhere, &hint)) {
            return Ok(false);
        }
    }
    dht.shutdown().await;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_peer_is_left_out() {
        let texts = ["10.0.0.5", "/ip4/10.0.0.6/tcp/4012", "http://x/", ""].map(str::to_owned);
        assert_eq!(peers(&texts).len(), 2);
    }
}
