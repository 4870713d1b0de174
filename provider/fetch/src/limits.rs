//! Every bound of a fetch, with the reason for its size.

use std::time::Duration;

/// Longest URL. Servers commonly refuse request lines above 8 KiB; ours are below 200 bytes.
pub(crate) const URL_SIZE_MAX: usize = 2_048;

/// Chunks being checked and written while the next one arrives: checking and receiving then go on side by side on two
/// processors. The memory of a fetch is this many chunks and one more; chunks have 1 MiB up to artifacts of 1 GiB.
pub(crate) const CHUNKS_IN_FLIGHT: usize = 2;

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
    /// Pause before the first retry; it doubles with each further one, up to 30 times itself.
    pub retry_delay: Duration,
    /// Redirects followed, http to http. The URL that artifacts are resolved against stays the one that was asked for.
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
            redirects: 3,
        }
    }
}

/// Lines in a response header; ours sends ten.
pub(crate) const HEADERS_MAX: usize = 64;

/// The connection's read buffer, which is also the largest response header. Larger reads are fewer system calls.
pub(crate) const READ_BUFFER_SIZE: usize = 256 << 10;

/// Chunks of one artifact that may arrive wrong and be asked for again. Each costs a new request; more than a few are
/// no accident of transport.
pub(crate) const BAD_CHUNKS_MAX: u32 = 3;

/// The longest pause between retries, in multiples of the first one.
pub(crate) const RETRY_DELAY_FACTOR_MAX: u32 = 30;
