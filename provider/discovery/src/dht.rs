//! Finding providers across networks, and being found: a Kademlia table of our own (libp2p over TCP, Noise and Yamux).
//!
//! - [`Dht::start`] joins; [`Dht::announce`] publishes that this machine serves a channel and keeps that alive;
//!   [`Dht::find`] gives a [`Hint`](crate::Hint) for each provider; [`Dht::shutdown`] says goodbye.
//! - [`Identity`] is the peer key, [`Bootstrap`] a peer to begin with, [`State`] what a status page shows.
//!
//! Nodes keep, under `/phase/<channel>/<arch>/manifest`, a set of envelopes that providers signed themselves. A signature
//! proves that one peer wrote a record; it does not prove that the record is true. So a `Hint` from here is an address to
//! ask and nothing more, exactly as one from multicast DNS.
//!
//! It never speaks another protocol than its own (`/phase/kad/1.0.0`), never joins or serves the public IPFS network, never
//! dials what no machine can be at, and keeps for others only what their signers bring themselves. Nodes behind a router
//! that translates addresses take part as clients: there is no relay and no hole punching.
//!
//! | module | holds |
//! | --- | --- |
//! | `envelope` | the format of records, and their signatures |
//! | `shelf`, `store` | what is kept for others, and the rules of who loses a place |
//! | `search` | the answers of many nodes made one list |
//! | `publish` | when own records are published again |
//! | `reach` | whether others can reach this node |
//! | `gate`, `transport`, `net` | who may connect, and what may be dialled |
//! | `pace` | how much may go over one connection |
//! | `identity`, `saved`, `bootstrap` | the key, the peers of the last run, the peers to begin with |
//! | `node` | the one task that owns it all |

mod bootstrap;
mod envelope;
mod gate;
mod identity;
mod limits;
mod net;
mod node;
mod pace;
mod publish;
mod reach;
mod saved;
mod search;
mod shelf;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod transport;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

pub use self::bootstrap::{Bootstrap, BootstrapError};
pub use self::envelope::{Envelope, Invalid, Record, split};
pub use self::identity::{Identity, IdentityError};
use self::node::Node;
pub use self::search::Query;
pub use self::state::{Announced, Mode, Refusal, State};
use crate::hint::Hint;

/// The TCP port of nodes. UDP 4011 is PXE's, which is easy to remember.
pub const DEFAULT_PORT: u16 = 4011;

/// What a node may do for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    /// Server while it listens and others see it at an address it has, client otherwise.
    #[default]
    WhenReachable,
    /// Never: it asks and publishes only.
    Never,
}

/// How to join.
#[derive(Clone, Debug)]
pub struct Config {
    /// The peer key.
    pub identity: Identity,
    /// Where to listen; nothing makes it a client.
    pub listen: Vec<SocketAddr>,
    /// Addresses that lead here from outside, through a router for example. With one it is a server whatever others see.
    pub external: Vec<SocketAddr>,
    /// Peers to begin with.
    pub bootstrap: Vec<Bootstrap>,
    /// What it may do for others.
    pub serving: Serving,
    /// The folder of [`Identity::load_or_make`], in which known peers are kept for the next start; `None` keeps nothing.
    pub folder: Option<PathBuf>,
}

/// The DHT cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// The handshake cannot be set up.
    #[error("no handshake with this key: {0}")]
    Handshake(String),
    /// There is nobody to begin with and nobody can come.
    #[error("neither listening nor bootstrap peers: nobody would ever be found")]
    Alone,
}

/// How long records of this node live, and when they are published again. Tests have no hour.
#[derive(Clone, Copy, Debug)]
struct Timing {
    lifetime: Duration,
    refresh: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lifetime: limits::LIFETIME,
            refresh: limits::REFRESH_INTERVAL,
        }
    }
}

/// A node that runs until it is shut down or dropped.
#[derive(Debug)]
pub struct Dht {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    task: Option<JoinHandle<()>>,
}

/// What the handles and the task have in common.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// What is to be published.
    wanted: Mutex<Vec<Record>>,
    /// The list above changed.
    changed: Notify,
}

/// What the handle asks of the task.
#[derive(Debug)]
enum Command {
    Find(Query, mpsc::Sender<Hint>),
    Shutdown,
}

impl Dht {
    /// Joins, on the runtime of the caller. Starts no thread; names are looked up, and files are written, on the runtime's
    /// blocking threads.
    pub fn start(config: Config) -> Result<Self, DhtError> {
        Self::start_with(config, Timing::default())
    }

    fn start_with(config: Config, timing: Timing) -> Result<Self, DhtError> {
        let shared = Arc::new(Shared::default());
        let (commands, received) = mpsc::channel(limits::COMMANDS_MAX);
        let node = Node::new(config, timing, Arc::clone(&shared))?;
        Ok(Self {
            shared,
            commands,
            task: Some(tokio::spawn(node.run(received))),
        })
    }

    /// Publishes a record from now on, in the place of the one with the same channel and architecture. The same again does
    /// nothing, so call it as often as facts may have changed. Never waits.
    pub fn announce(&self, record: Record) {
        let mut wanted = lock(&self.shared.wanted);
        let key = record.key();
        match wanted.iter_mut().find(|old| old.key() == key) {
            Some(old) if *old == record => return,
            Some(old) => *old = record,
            None => wanted.push(record),
        }
        self.shared.changed.notify_one();
    }

    /// Stops publishing; those who keep a record are told that it is over. Never waits.
    pub fn withdraw(&self) {
        lock(&self.shared.wanted).clear();
        self.shared.changed.notify_one();
    }

    /// Looks for providers. The search goes on until all nodes near the key answered and somebody was found, until
    /// `count_max` were, or until its time is over; it ends when what is returned is dropped. With more searches than there
    /// may be it is over at once.
    pub fn find(&self, query: Query) -> Found {
        let (hints, found) = mpsc::channel(limits::HINTS_MAX);
        if self.commands.try_send(Command::Find(query, hints)).is_err() {
            tracing::warn!("too many searches in the DHT at the same time");
        }
        Found(found)
    }

    /// What the node knows about itself.
    pub fn state(&self) -> State {
        lock(&self.shared.state).clone()
    }

    /// Something that gives the state wherever it is needed, also after the node ended.
    pub fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.shared))
    }

    /// Says goodbye, keeps the known peers for the next start, and ends; after two seconds at the latest.
    pub async fn shutdown(mut self) {
        let ended = async {
            // Both fail only when the task is gone already.
            if self.commands.send(Command::Shutdown).await.is_ok()
                && let Some(task) = &mut self.task
            {
                let _ended = task.await;
            }
        };
        if tokio::time::timeout(limits::SHUTDOWN_TIME_MAX, ended)
            .await
            .is_err()
        {
            tracing::debug!("the DHT took too long to say goodbye");
        }
    }
}

impl Drop for Dht {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Gives a node's state.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<Shared>);

impl Watcher {
    /// What the node knows about itself.
    pub fn state(&self) -> State {
        lock(&self.0.state).clone()
    }
}

/// Nothing panics while it holds one of these locks, and what is in them is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A search that goes on.
#[derive(Debug)]
pub struct Found(mpsc::Receiver<Hint>);

impl Found {
    /// The next provider, or one that changed; `None` when the search is over.
    pub async fn next(&mut self) -> Option<Hint> {
        self.0.recv().await
    }
}
