//! What this process is to the machine it runs on: its number, its user, its ports, what it may not do. For `/status`.

use std::fs::File;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::serve::sandbox::{Confinement, Mode};
use crate::serve::sockets::{Listener, Scheme};

/// The facts of this process. They do not change while it serves.
#[derive(Debug)]
pub(crate) struct Process {
    listeners: Vec<(Scheme, SocketAddr)>,
    /// What it was to give up, and what it gave up.
    pub(super) confinement: (Mode, Confinement),
    /// The kernel forgets which directory the sandbox lets this process look at unless it is held.
    _own_entry: Option<File>,
}

impl Process {
    /// Of the process that listens there.
    pub(super) fn of(listeners: &[Listener]) -> Self {
        Self {
            listeners: listeners
                .iter()
                .map(|listener| (listener.scheme, listener.address))
                .collect(),
            confinement: (Mode::Off, Confinement::NONE),
            _own_entry: File::open("/proc/self").ok(),
        }
    }

    /// The sockets that speak plain HTTP, or TLS.
    pub(super) fn addresses(&self, scheme: Scheme) -> impl Iterator<Item = SocketAddr> {
        self.listeners
            .iter()
            .filter(move |(spoken, _)| *spoken == scheme)
            .map(|(_, address)| *address)
    }

    /// The socket that this process asks itself at: the one that says most about serving.
    pub(super) fn question_address(&self) -> Option<SocketAddr> {
        self.addresses(Scheme::Http)
            .chain(self.addresses(Scheme::Https))
            .next()
    }

    /// All sockets, as URLs.
    pub(super) fn urls(&self) -> Vec<String> {
        self.listeners
            .iter()
            .map(|(scheme, address)| format!("{}://{address}/", scheme.as_str()))
            .collect()
    }

    /// As `/status` shows them.
    pub(super) fn facts(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "uid": rustix::process::geteuid().as_raw(),
            "listeners": self.urls(),
            "sandbox": self.confinement.1.to_string(),
        })
    }
}
