//! Connections that are kept from one request, and from one file, to the next.

use std::sync::Arc;

use crate::client::Client;
use crate::connect::Dialer;
use crate::limits::Limits;
use crate::url::Url;

/// Clients, some of them with a connection.
pub(crate) struct Clients {
    limits: Limits,
    dialer: Arc<Dialer>,
    idle: Vec<Client>,
}

impl Clients {
    pub(crate) fn new(limits: Limits, dialer: Dialer) -> Self {
        Self {
            limits,
            dialer: Arc::new(dialer),
            idle: Vec::new(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A client, with a connection to the server of `url` if one was kept.
    pub(crate) fn take(&mut self, url: &Url) -> Client {
        let kept = self.idle.iter().position(|client| client.is_at(url));
        match kept {
            Some(index) => self.idle.swap_remove(index),
            None => Client::new(self.limits.clone(), Arc::clone(&self.dialer)),
        }
    }

    /// Keeps a client, if it has a connection.
    pub(crate) fn give_back(&mut self, client: Client) {
        if client.has_connection() {
            self.idle.push(client);
        }
    }
}
