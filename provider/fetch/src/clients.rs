//! Connections that are kept from one request, and from one file, to the next.

use std::sync::Arc;

use crate::client::Client;
use crate::connect::Dialer;
use crate::limits::{IDLE_MAX, Limits, PEER_CONNECT_TIME, PEER_HEADER_TIME, PEER_RATE_WINDOW};
use crate::url::Url;

/// How somebody is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A server that was named: with the caller's patience, over TLS and by proxies if those are spoken.
    Server,
    /// Anybody: directly, in plain HTTP, and with less patience.
    Peer,
}

/// Clients, some of them with a connection.
pub(crate) struct Clients {
    limits: Limits,
    peer_limits: Limits,
    dialer: Arc<Dialer>,
    direct: Arc<Dialer>,
    idle: Vec<Client>,
}

impl Clients {
    pub(crate) fn new(limits: Limits, dialer: Dialer) -> Self {
        let peer_limits = Limits {
            connect: limits.connect.min(PEER_CONNECT_TIME),
            header: limits.header.min(PEER_HEADER_TIME),
            rate_window: limits.rate_window.min(PEER_RATE_WINDOW),
            redirects: 0,
            ..limits.clone()
        };
        Self {
            limits,
            peer_limits,
            dialer: Arc::new(dialer),
            direct: Arc::default(),
            idle: Vec::new(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A client without a connection.
    pub(crate) fn fresh(&self, manner: Manner) -> Client {
        let (limits, dialer) = match manner {
            Manner::Server => (&self.limits, &self.dialer),
            Manner::Peer => (&self.peer_limits, &self.direct),
        };
        Client::new(limits.clone(), Arc::clone(dialer), manner)
    }

    /// A client, with a connection to the server of `url` if one was kept.
    pub(crate) fn take(&mut self, url: &Url, manner: Manner) -> Client {
        let kept = self
            .idle
            .iter()
            .position(|client| client.is_at(url, manner));
        match kept {
            Some(index) => self.idle.remove(index),
            None => self.fresh(manner),
        }
    }

    /// Keeps a client, if it has a connection; of too many, the one that was not needed for longest goes.
    pub(crate) fn give_back(&mut self, client: Client) {
        if client.has_connection() {
            if self.idle.len() >= IDLE_MAX {
                self.idle.remove(0);
            }
            self.idle.push(client);
        }
    }

    /// Whether requests to the server of `url` go by way of a proxy.
    pub(crate) fn has_proxy_for(&self, url: &Url) -> bool {
        self.dialer.has_proxy_for(url)
    }
}
