//! What a download tells: while it goes on, and when it is over. All of it is told of each file by itself.

use std::time::Duration;

use crate::url::Url;

/// How far an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which one, by its place among those that are fetched together.
    pub part: usize,
    /// Verified bytes, those of earlier attempts included.
    pub done: u64,
    /// Bytes received now, those included that are not verified yet.
    pub received: u64,
    /// Size of the artifact.
    pub total: u64,
}

/// What fetching one artifact took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Verified bytes that were there before.
    pub bytes_present: u64,
    /// Verified bytes that were fetched now.
    pub bytes_fetched: u64,
    /// Bytes of all bodies, those that were not kept included.
    pub bytes_received: u64,
    /// Requests sent.
    pub requests: u32,
    /// Interruptions survived.
    pub retries: u32,
    /// Chunks that arrived wrong and were right another time.
    pub bad_chunks: u32,
    /// How long it took, from the start of the download to the last of its chunks.
    pub elapsed: Duration,
    /// What each source did: first those that were given, in their order, then those that came while it ran and had a
    /// part in it.
    pub sources: Vec<SourceReport>,
}

/// What one source did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Where it has the file.
    pub url: Url,
    /// It is a machine that fetched the same, found on the way.
    pub is_peer: bool,
    /// Verified bytes that came from it.
    pub bytes_kept: u64,
    /// Bytes of all its bodies.
    pub bytes_received: u64,
    /// Requests sent to it.
    pub requests: u32,
    /// Interruptions survived.
    pub retries: u32,
    /// Chunks that came with wrong bytes.
    pub wrong_chunks: u32,
    /// Why it was not asked any more: the stable code and the sentence of the error.
    pub dropped: Option<(&'static str, String)>,
}

impl SourceReport {
    pub(crate) fn new(url: Url, is_peer: bool) -> Self {
        Self {
            url,
            is_peer,
            bytes_kept: 0,
            bytes_received: 0,
            requests: 0,
            retries: 0,
            wrong_chunks: 0,
            dropped: None,
        }
    }
}

impl Report {
    /// Of those bytes that were fetched now, how many came from other machines that fetched the same.
    pub fn bytes_from_peers(&self) -> u64 {
        let peers = self.sources.iter().filter(|source| source.is_peer);
        peers.map(|source| source.bytes_kept).sum()
    }
}
