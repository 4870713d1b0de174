//! Every bound of a fetch, with the reason for its size.

use std::num::NonZeroU64;
use std::time::Duration;

/// Longest URL. Servers commonly refuse request lines above 8 KiB; ours are below 200 bytes.
pub(crate) const URL_SIZE_MAX: usize = 2_048;

/// Bytes that arrived and wait to be checked and written, of all connections together. It is what lets chunks be hashed on
/// several processors at once, and with two read buffers per connection it is the memory of a fetch, whatever the size.
pub(crate) const WAITING_BYTES_MAX: u32 = 4 << 20;

/// What one slice counts at least: a small one keeps the read buffer alive that it lies in.
pub(crate) const SLICE_COST_MIN: u32 = 32 << 10;

/// Servers that are asked for their manifest at the same time. Four saturate what a machine has.
pub(crate) const MANIFESTS_AT_ONCE: usize = 4;

/// Sources that one fetch may be given.
pub const SOURCES_MAX: usize = 32;

/// Peers that were named and not asked yet: many times what one download uses, so that a flood of names costs some
/// kilobytes.
pub(crate) const CANDIDATES_MAX: usize = 256;

/// Providers found while a download runs, that it did not take note of yet.
pub(crate) const LATER_PROVIDERS_MAX: usize = 8;

/// When one server has given a manifest, the others have this long to give a newer one: a lost SYN is repeated after a
/// second, and nobody wants to wait for a server that is off.
pub(crate) const NEWER_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at the rates.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Messages of connections and checking threads to the download; they wait when it is full.
pub(crate) const MESSAGES_MAX: usize = 64;

/// How patient one fetch is. The defaults suit a person at a terminal; tests and roles set their own.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From the start of the name look-up to an open TCP connection.
    pub connect: Duration,
    /// From sending the request to the end of the response's header.
    pub header: Duration,
    /// The body must bring `rate_min` bytes per second, averaged over each window of this length. It also bounds the
    /// wait for a silent server.
    pub rate_window: Duration,
    /// Bytes per second below which a transfer is given up.
    pub rate_min: u64,
    /// Everything about one manifest or one artifact, all attempts together.
    pub total: Duration,
    /// Attempts after the first one that may fail in a row without one more verified chunk.
    pub retries: u32,
    /// Pause before the first retry; it doubles with each further one, up to 30 times itself, and is shortened by chance to
    /// as little as half.
    pub retry_delay: Duration,
    /// Bytes per second of all connections together; nothing for as fast as it goes.
    pub rate_max: Option<NonZeroU64>,
    /// Redirects followed, never from https to http. The URL that artifacts are resolved against stays the one that was asked for.
    pub redirects: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A SYN is repeated after 1, 3 and 7 s: ten seconds survive three losses.
            connect: Duration::from_secs(10),
            // A provider may hash a large file before its first answer; beyond this it is broken.
            header: Duration::from_secs(15),
            rate_window: Duration::from_secs(30),
            rate_min: 1_024,
            total: Duration::from_secs(300),
            retries: 3,
            retry_delay: Duration::from_secs(1),
            rate_max: None,
            redirects: 3,
        }
    }
}

/// Lines in a response header; ours sends ten.
pub(crate) const HEADERS_MAX: usize = 64;

/// A proxy's answer to `CONNECT`; a status line and a few fields.
pub(crate) const PROXY_ANSWER_SIZE_MAX: usize = 8 << 10;

/// A file of certificates to trust; Debian's with all authorities has 220 KiB.
pub(crate) const CERTIFICATES_SIZE_MAX: u64 = 4 << 20;

/// The connection's read buffer, which is also the largest response header. Larger reads are fewer system calls.
pub(crate) const READ_BUFFER_SIZE: usize = 256 << 10;

/// Connections that are kept without a request: one to each source that is in use at a time, and some to spare.
pub(crate) const IDLE_MAX: usize = 32;

/// Peers that answered and are told to others: more than one download uses at a time.
pub(crate) const REACHED_MAX: usize = 64;

/// Peers that could join a download, and wait for one of those that did to leave.
pub(crate) const WAITING_MAX: usize = 256;

/// Peers that were tried lately. When so many were, somebody makes them up.
pub(crate) const TRIED_MAX: usize = 1_024;

/// When a peer that was tried may be tried again: what was wrong with it takes a while to pass.
pub(crate) const REJOIN_PAUSE: Duration = Duration::from_secs(30);

/// Servers and peers that are asked for their lists of peers, altogether and at the same time.
pub(crate) const LISTS_MAX: usize = 64;
pub(crate) const LISTS_AT_ONCE: usize = 8;

/// A machine that shares waits this long for the first list before its first piece: to begin with a piece that another one
/// begins with as well costs the origin more than this.
pub(crate) const FIRST_LIST_TIME: Duration = Duration::from_millis(500);

/// Between two questions to one peer for its list. The lists of servers are asked for as often as these say. Three times in
/// the life of an entry, so that two may be lost.
pub(crate) const GOSSIP_PAUSE: Duration = Duration::from_secs(10);

/// After a question that was not answered, times the failures in a row, of which so many count.
pub(crate) const LIST_PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
pub(crate) const LIST_FAILURES_MAX: u32 = 10;

/// One question to a peer, or for a list. The answer has some kilobytes and lies ready.
pub(crate) const QUESTION_TIME: Duration = Duration::from_secs(5);

/// Peers are many, and none of them is worth the patience that an origin is.
pub(crate) const PEER_CONNECT_TIME: Duration = Duration::from_secs(3);
pub(crate) const PEER_HEADER_TIME: Duration = Duration::from_secs(5);
pub(crate) const PEER_RATE_WINDOW: Duration = Duration::from_secs(10);

/// What a peer is taken to mean that is busy and does not say for how long.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Errors of one download that are told, when nobody is left.
pub(crate) const ERRORS_TOLD_MAX: usize = 32;

/// What a busy server says about when to come again is believed up to this.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The body of an answer that is no file, when it is read to keep the connection.
pub(crate) const ERROR_BODY_MAX: u64 = 4 << 10;
