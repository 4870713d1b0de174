//! What people and `/metrics` are told about this machine and the DHT.

use std::sync::{Mutex, PoisonError};

use discovery::dht::{Mode, State, Watcher};
use serde_json::{Value, json};

/// Whether this machine takes part, and how.
#[derive(Debug)]
pub(crate) struct Membership {
    now: Mutex<Now>,
}

#[derive(Debug, Clone)]
enum Now {
    Starting,
    Off(String),
    On {
        watcher: Watcher,
        /// Why nothing is announced just now.
        silent: Option<String>,
    },
}

impl Membership {
    /// It takes no part, and is not to.
    pub(crate) fn never(reason: &str) -> Self {
        Self {
            now: Mutex::new(Now::Off(reason.to_owned())),
        }
    }

    /// It does not take part yet.
    pub(crate) fn starting() -> Self {
        Self {
            now: Mutex::new(Now::Starting),
        }
    }

    /// It cannot take part.
    pub(super) fn failed(&self, reason: &str) {
        tracing::warn!(reason, "not in the DHT");
        self.set(Now::Off(reason.to_owned()));
    }

    /// It takes part from now on.
    pub(super) fn joined(&self, watcher: Watcher) {
        tracing::info!(peer = watcher.state().peer_id, "in the DHT");
        let silent = None;
        self.set(Now::On { watcher, silent });
    }

    /// What it announces, or why it does not.
    pub(super) fn says(&self, said: Result<(), &str>) {
        if let Err(reason) = said {
            tracing::warn!(reason, "not announced in the DHT");
        }
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if let Now::On { silent, .. } = &mut *now {
            *silent = said.err().map(str::to_owned);
        }
    }

    fn set(&self, next: Now) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    fn now(&self) -> Now {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// The same as figures, when it takes part.
    pub(crate) fn figures(&self) -> Option<State> {
        match self.now() {
            Now::On { watcher, .. } => Some(watcher.state()),
            Now::Starting | Now::Off(_) => None,
        }
    }

    /// In words for people.
    pub(crate) fn state(&self) -> String {
        match self.now() {
            Now::Starting => "starting".to_owned(),
            Now::Off(reason) => format!("off: {reason}"),
            Now::On { watcher, silent } => words(&watcher.state(), silent.as_deref()),
        }
    }

    /// For programs.
    pub(crate) fn facts(&self) -> Value {
        match self.now() {
            Now::Starting => json!({ "state": "starting" }),
            Now::Off(reason) => json!({ "state": "off", "reason": reason }),
            Now::On { watcher, silent } => {
                let state = watcher.state();
                let mut facts = json!(state);
                facts["state"] = json!("on");
                facts["last_published"] = json!(last_published(&state));
                facts["silent"] = json!(silent);
                facts
            }
        }
    }
}

/// When others took what this machine announces, in seconds since 1970.
pub(crate) fn last_published(state: &State) -> Option<u64> {
    let all = state.announced.iter();
    all.filter_map(|one| one.last_published).max()
}

fn words(state: &State, silent: Option<&str>) -> String {
    let mode = match state.mode {
        Mode::Client => "client",
        Mode::Server => "server",
    };
    let peers = match state.peers {
        0 if state.bootstrap == 0 => "knows nobody: --bootstrap names a member".to_owned(),
        1 => "1 peer".to_owned(),
        peers => format!("{peers} peers"),
    };
    let said = match (silent, last_published(state)) {
        (Some(reason), _) => format!("announces nothing: {reason}"),
        (None, Some(_)) => "announced".to_owned(),
        (None, None) => "not announced yet".to_owned(),
    };
    format!("on: {}, {mode}, {peers}, {said}", state.peer_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use discovery::dht::Announced;

    #[test]
    fn what_people_read() {
        let mut state = State {
            peer_id: "12D3KooW".to_owned(),
            ..State::default()
        };
        assert_eq!(
            words(&state, Some("no manifest")),
            "on: 12D3KooW, client, knows nobody: --bootstrap names a member, announces nothing: no manifest"
        );
        state.mode = Mode::Server;
        state.peers = 1;
        assert_eq!(
            words(&state, None),
            "on: 12D3KooW, server, 1 peer, not announced yet"
        );
        state.announced = vec![Announced {
            key: "/phase/stable/x86_64/manifest".to_owned(),
            stored_at: 1,
            last_published: Some(1_800_000_000),
        }];
        state.peers = 7;
        assert_eq!(
            words(&state, None),
            "on: 12D3KooW, server, 7 peers, announced"
        );
        assert_eq!(Membership::never("--no-dht").state(), "off: --no-dht");
        assert_eq!(Membership::never("--no-dht").facts()["reason"], "--no-dht");
    }
}
