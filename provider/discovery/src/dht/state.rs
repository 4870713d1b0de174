//! What a node knows about itself, for status pages and metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

/// Whether others keep this node in their tables and records at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It asks and publishes only.
    #[default]
    Client,
    /// It keeps records for others and answers them too.
    Server,
}

/// One published record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Announced {
    /// The key it is found under.
    pub key: String,
    /// Nodes that answered the last time it was put. One that has no room answers too.
    pub stored_at: usize,
    /// When that was, in Unix seconds by this machine's clock; `None` before the first success.
    pub last_published: Option<u64>,
}

/// Why something that others sent was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Larger than the format allows.
    Oversized,
    /// Not of the format.
    Malformed,
    /// A signature that does not fit.
    Signature,
    /// An address no client may be sent to.
    Address,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    FromTheFuture,
    /// Under a key that is not its own, or not one of ours.
    OtherKey,
    /// Sent by somebody who did not sign it.
    NotTheSigner,
    /// One as new is there already.
    Stale,
    /// No room, or its address had its share.
    Full,
    /// More than one address may publish in that time.
    TooOften,
    /// More in one answer or search than is looked at.
    TooMany,
    /// A provider record, which nobody signs.
    Unsigned,
}

impl Refusal {
    /// Whether nobody honest does that.
    pub(super) fn is_fault(self) -> bool {
        match self {
            Self::Oversized
            | Self::Malformed
            | Self::Signature
            | Self::Address
            | Self::OtherKey
            | Self::NotTheSigner
            | Self::TooMany => true,
            Self::Expired
            | Self::FromTheFuture
            | Self::Stale
            | Self::Full
            | Self::TooOften
            | Self::Unsigned => false,
        }
    }
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// The name others know this node by.
    pub peer_id: String,
    /// What it does for others.
    pub mode: Mode,
    /// Addresses it listens on.
    pub listening: Vec<SocketAddr>,
    /// Peers in the routing table.
    pub peers: usize,
    /// Peers it is connected to.
    pub connected: usize,
    /// Bootstrap peers that are configured.
    pub bootstrap: usize,
    /// What it publishes.
    pub announced: Vec<Announced>,
    /// Records it keeps, its own included.
    pub records: usize,
    /// When a search found a provider last, in Unix seconds.
    pub last_found: Option<u64>,
    /// Searches so far.
    pub searches: u64,
    /// Providers found so far.
    pub found: u64,
    /// Publications of others that were taken.
    pub stored: u64,
    /// Things that were refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Connections that were not allowed: too many, or from where nothing good came.
    pub connections_denied: u64,
}
