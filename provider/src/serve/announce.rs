//! Telling the local network about this provider, and telling people whether that happens.
//!
//! Only a provider that has a manifest is announced, and only when it can be reached from other machines. What is
//! announced is a hint; clients verify what they fetch.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use boot_manifest::{Arch, Channel};
use discovery::{Advert, Advertiser};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::serve::catalog::{Catalog, now};
use crate::serve::limits::ANNOUNCER_PERIOD;

/// Whether the local network is told, in words for people.
#[derive(Debug)]
pub(crate) struct Announcement {
    wanted: bool,
    state: Mutex<State>,
    last: Mutex<Last>,
}

/// The last time that announcing worked.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// Seconds since 1970.
    at: Option<i64>,
    /// Other providers that were heard.
    peers: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Off(String),
    On(String),
}

impl Announcement {
    /// Nobody is told, and nobody is to be.
    pub(crate) fn never(reason: &str) -> Self {
        Self {
            wanted: false,
            state: Mutex::new(State::Off(reason.to_owned())),
            last: Mutex::default(),
        }
    }

    /// Nobody is told yet.
    pub(crate) fn starting() -> Self {
        Self {
            wanted: true,
            state: Mutex::new(State::Starting),
            last: Mutex::default(),
        }
    }

    /// Whether the network is to be told.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// What to show.
    pub(crate) fn state(&self) -> String {
        match self.current() {
            State::Starting => "starting".to_owned(),
            State::Off(reason) => format!("off: {reason}"),
            State::On(instance) => format!("on: {instance}"),
        }
    }

    /// For programs.
    pub(crate) fn facts(&self) -> Value {
        match self.current() {
            State::Starting => json!({ "state": "starting" }),
            State::Off(reason) => json!({ "state": "off", "reason": reason }),
            State::On(instance) => {
                let last = self.last();
                json!({
                    "state": "on",
                    "instance": instance,
                    "peers": last.peers,
                    "last_published": last.at,
                })
            }
        }
    }

    /// Whether the network is told now.
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.current(), State::On(_))
    }

    fn last(&self) -> Last {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worked(&self, peers: usize) {
        let at = Some(now().unix());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Last { at, peers };
    }

    fn current(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, state: State) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == state {
            return;
        }
        match &state {
            State::Starting => {}
            State::On(instance) => tracing::info!(instance, "announced on the local network"),
            State::Off(reason) => tracing::warn!(reason, "not announced on the local network"),
        }
        *current = state;
    }
}

/// What the announcements are about.
pub(crate) struct Announcer {
    /// Where the manifest comes from.
    pub(crate) catalog: Arc<Catalog>,
    /// Its channel.
    pub(crate) channel: Channel,
    /// Its architecture.
    pub(crate) arch: Arch,
    /// Where clients connect: addresses, and the port of all of them.
    pub(crate) listen: (Vec<IpAddr>, u16),
    /// What people are told about it.
    pub(crate) announcement: Arc<Announcement>,
}

impl Announcer {
    /// Announces until `stop` says so, then says goodbye.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut advertiser = None;
        let mut period = tokio::time::interval(ANNOUNCER_PERIOD);
        loop {
            tokio::select! {
                _ = period.tick() => {}
                // An error means that the server is gone, which is a stop as well.
                _ = stop.wait_for(|stop| *stop) => break,
            }
            let advert = self.advert().await;
            // Starting and stopping wait for a thread of the library.
            let moved = tokio::task::spawn_blocking(move || step(advertiser, advert)).await;
            let Ok((next, state)) = moved else { return };
            advertiser = next;
            if let Some(advertiser) = &advertiser {
                self.announcement.worked(advertiser.others());
            }
            self.announcement.set(state);
        }
        if let Some(advertiser) = advertiser {
            // At worst others notice by the record's lifetime.
            let _ = tokio::task::spawn_blocking(move || advertiser.withdraw()).await;
        }
    }

    /// What there is to announce now.
    async fn advert(&self) -> Result<Advert, String> {
        let manifest = self.catalog.manifest(&self.channel, self.arch).await;
        let manifest = manifest.map_err(|_| "there is no manifest to serve".to_owned())?;
        Ok(Advert {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            listen: self.listen.0.clone(),
            port: self.listen.1,
            channel: self.channel.clone(),
            arch: self.arch,
            version: manifest.version,
            manifest: Some(manifest.digest),
            key_ids: manifest.key_ids,
        })
    }
}

/// From what is announced to what should be.
fn step(
    advertiser: Option<Advertiser>,
    advert: Result<Advert, String>,
) -> (Option<Advertiser>, State) {
    let advert = match advert {
        Ok(advert) => advert,
        Err(reason) => {
            if let Some(advertiser) = advertiser {
                advertiser.withdraw();
            }
            return (None, State::Off(reason));
        }
    };
    let outcome = match advertiser {
        None => Advertiser::start(advert),
        Some(advertiser) => advertiser.update(advert),
    };
    match outcome {
        Ok(advertiser) => {
            let instance = advertiser.instance();
            (Some(advertiser), State::On(instance))
        }
        Err(error) => (None, State::Off(error.to_string())),
    }
}
