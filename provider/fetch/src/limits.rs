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

/// Servers that are asked for a manifest at the same time; more wait for one of them to fail.
pub(crate) const CONNECTIONS_MAX: usize = 4;

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
