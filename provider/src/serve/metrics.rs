//! What the provider counts. Everybody counts here, in plain atomics; `/metrics` and `/status` read.
//!
//! Nothing here decides anything, waits, or allocates on the way of a request: a counter is one addition. Each table has a
//! fixed size: what clients send cannot make it grow. Every refusal has a [`Reason`], every connection that is ended by us
//! a [`Cut`]; whoever refuses calls [`Metrics::refused`] once.
//!
//! | module | holds |
//! | --- | --- |
//! | `artifacts` | the counters of each artifact |
//! | `text` | all of it as Prometheus reads it |
//! | `process` | what the kernel says about this process |

pub(crate) mod artifacts;
pub(crate) mod process;
pub(crate) mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;

use crate::listen::metrics::BootMetrics;
use crate::serve::metrics::artifacts::Artifacts;

/// An enum whose values each have a counter and a label.
macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the counters.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The value as a label.
            pub(crate) const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

pub(crate) use labelled;

labelled! {
    /// Why a request or a client was refused.
    Reason {
        /// Nothing has this name.
        NotFound => "not-found",
        /// The folder has nothing to serve.
        NoArtifacts => "no-artifacts",
        /// The folder has no kernel, so it has no manifest.
        NoKernel => "no-kernel",
        /// A link, directory, pipe or device.
        NotAFile => "not-a-file",
        /// It is there and cannot be read.
        Unreadable => "unreadable",
        /// It is not what the signed manifest names.
        Differs => "differs",
        /// The manifest is not usable.
        BadManifest => "bad-manifest",
        /// It is being written.
        Busy => "busy",
        /// A manifest that is not served here.
        UnknownManifest => "unknown-manifest",
        /// There is no room on the list of machines that fetch.
        PeersFull => "peers-full",
        /// Too little memory is left to send artifacts.
        TooLittleMemory => "too-little-memory",
        /// The path cannot be meant: dots, encoded slashes, NUL, too long.
        BadTarget => "bad-target",
        /// Another method than GET, HEAD and OPTIONS.
        Method => "method",
        /// A request with a body.
        RequestBody => "request-body",
        /// An expectation that is not met.
        Expectation => "expectation",
        /// If-Match or If-Unmodified-Since does not hold.
        Precondition => "precondition",
        /// A range outside of the content.
        Range => "range",
        /// A head that is too large or has too many fields.
        HeadTooLarge => "head-too-large",
        /// Unfinished requests of all connections have all the memory they may have.
        HeadMemory => "head-memory",
        /// Bytes that are no HTTP request.
        Malformed => "malformed",
        /// Framing that two readers could understand differently.
        Smuggling => "smuggling",
        /// No Host, several, or one that cannot be a host.
        BadHost => "bad-host",
        /// A version of HTTP that is not spoken here.
        Version => "version",
        /// This address has all the connections one address may have.
        ConnectionsOfAddress => "connections-of-address",
        /// A TLS handshake that failed.
        Tls => "tls",
        /// A user of this machine who may not use the control socket.
        ControlPeer => "control-peer",
        /// An order that cannot be passed on: too many, too large, or nobody here obeys any.
        Order => "order",
        /// Another machine asked who the clients are, which is shown to this one only.
        Hidden => "hidden",
    }
}

labelled! {
    /// Which deadline ended a connection.
    Cut {
        /// No whole request head in time.
        Head => "head",
        /// Nothing was asked for a while. Normal for keep-alive.
        Idle => "idle",
        /// The client took no bytes.
        Write => "write",
        /// The client took fewer bytes than the least rate.
        Slow => "slow",
        /// The TLS handshake took too long.
        Tls => "tls",
        /// The provider stopped before the download ended.
        Stop => "stop",
    }
}

labelled! {
    /// What became of a request over TFTP.
    TftpEnd {
        /// The client has the file.
        Sent => "sent",
        /// The client asked for the size only.
        SizeTold => "size-told",
        /// It broke off.
        Aborted => "aborted",
        /// It was refused.
        Refused => "refused",
    }
}

labelled! {
    /// The methods that are told apart.
    MethodClass {
        /// GET
        Get => "GET",
        /// HEAD
        Head => "HEAD",
        /// OPTIONS
        Options => "OPTIONS",
        /// Everything else.
        Other => "other",
    }
}

impl MethodClass {
    fn of(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::OPTIONS => Self::Options,
            _ => Self::Other,
        }
    }
}

/// The statuses that are told apart; others are counted together.
pub(crate) const STATUSES: [u16; 24] = [
    200, 202, 204, 206, 304, 400, 403, 404, 405, 408, 409, 411, 412, 413, 414, 416, 417, 421, 429,
    431, 500, 501, 503, 505,
];

/// Upper ends of the buckets of answering times, in seconds: a manifest from memory, a small file, a kernel over a fast
/// network, an image over a slow one.
pub(crate) const SECONDS_BUCKETS: [f64; 7] = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0];

/// Everything that is counted. All counters start at zero with the process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Body bytes the kernel has taken for clients.
    pub(crate) body_bytes_total: AtomicU64,
    /// Connections accepted.
    pub(crate) connections_total: AtomicU64,
    /// Connections open now.
    pub(crate) connections_open: AtomicU64,
    /// Places for connections.
    pub(crate) connections_max: AtomicU64,
    /// Connections whose task panicked.
    pub(crate) connection_panics_total: AtomicU64,
    /// Times `accept` failed for want of descriptors or memory.
    pub(crate) accept_failures_total: AtomicU64,
    /// Answers that were sent without the general HTTP machinery.
    pub(crate) fast_answers_total: AtomicU64,
    /// TLS handshakes that ended well; the others are refusals.
    pub(crate) tls_handshakes_total: AtomicU64,
    /// Bytes hashed.
    pub(crate) hashed_bytes_total: AtomicU64,
    /// Time spent hashing, on all threads together.
    pub(crate) hashing_nanos_total: AtomicU64,
    /// Files whose hashing failed.
    pub(crate) hashing_failures_total: AtomicU64,
    /// Files that wait for a thread or are being hashed.
    pub(crate) hashing_queue_files: AtomicU64,
    /// Manifests signed here.
    pub(crate) manifests_signed_total: AtomicU64,
    /// Manifests that could not be signed.
    pub(crate) manifest_failures_total: AtomicU64,
    /// Times that a machine was put on the list of those that fetch, or stayed on it.
    pub(crate) peer_registrations_total: AtomicU64,
    /// Turns to restart that were given to machines of this network, or kept by them.
    pub(crate) turns_granted_total: AtomicU64,
    /// Turns that were refused.
    pub(crate) turns_refused_total: AtomicU64,
    /// Orders that were passed to init.
    pub(crate) orders_passed_total: AtomicU64,
    /// Reloads that took effect.
    pub(crate) reloads_total: AtomicU64,
    /// Reloads that were refused: what was in force stays.
    pub(crate) reload_failures_total: AtomicU64,
    /// Lines of the access log that were written.
    pub(crate) access_log_lines_total: AtomicU64,
    /// Lines of the access log that were left out: the disk was slower than the clients.
    pub(crate) access_log_dropped_total: AtomicU64,
    /// What the boot services count.
    pub(crate) boot: Arc<BootMetrics>,
    /// TFTP transfers that began.
    pub(crate) tftp_transfers_total: AtomicU64,
    /// Bytes of files that TFTP clients have acknowledged.
    pub(crate) tftp_bytes_total: AtomicU64,
    /// Blocks that were sent more than once.
    pub(crate) tftp_resent_blocks_total: AtomicU64,
    /// The counters of each artifact.
    pub(crate) artifacts: Artifacts,
    requests: [[AtomicU64; STATUSES.len() + 1]; MethodClass::ALL.len()],
    answering: [AtomicU64; SECONDS_BUCKETS.len() + 1],
    answering_micros_total: AtomicU64,
    refusals: [AtomicU64; Reason::ALL.len()],
    cuts: [AtomicU64; Cut::ALL.len()],
    tftp_ends: [AtomicU64; TftpEnd::ALL.len()],
    last_accept_failure: Mutex<Option<Instant>>,
}

impl Metrics {
    /// Counts a refusal. Once for each, by whoever decides it.
    pub(crate) fn refused(&self, reason: Reason) {
        add(&self.refusals[reason as usize], 1);
    }

    /// Counts a failure to accept.
    pub(crate) fn accept_failed(&self) {
        add(&self.accept_failures_total, 1);
        let last = self.last_accept_failure.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago accepting failed last.
    pub(crate) fn last_accept_failure(&self) -> Option<Duration> {
        let last = self.last_accept_failure.lock();
        let last = *last.unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.elapsed())
    }

    /// Counts a connection that was ended by a deadline.
    pub(crate) fn cut(&self, cut: Cut) {
        add(&self.cuts[cut as usize], 1);
    }

    /// Counts the end of a request over TFTP.
    pub(crate) fn tftp_ended(&self, end: TftpEnd) {
        add(&self.tftp_ends[end as usize], 1);
    }

    /// How often requests over TFTP ended so.
    pub(crate) fn tftp_ends_total(&self, end: TftpEnd) -> u64 {
        get(&self.tftp_ends[end as usize])
    }

    /// Counts a request whose answer has left, or was cut off.
    pub(crate) fn answered(&self, method: &Method, status: u16, took: Duration) {
        let column = STATUSES
            .iter()
            .position(|known| *known == status)
            .unwrap_or(STATUSES.len());
        add(&self.requests[MethodClass::of(method) as usize][column], 1);
        let seconds = took.as_secs_f64();
        let bucket = SECONDS_BUCKETS
            .iter()
            .position(|end| seconds <= *end)
            .unwrap_or(SECONDS_BUCKETS.len());
        add(&self.answering[bucket], 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.answering_micros_total, micros);
    }

    /// How many requests were answered.
    pub(crate) fn requests_total(&self) -> u64 {
        self.answering.iter().map(get).sum()
    }

    /// How often something was refused for `reason`.
    pub(crate) fn refusals_total(&self, reason: Reason) -> u64 {
        get(&self.refusals[reason as usize])
    }

    /// How many connections a deadline ended.
    pub(crate) fn cuts_total(&self, cut: Cut) -> u64 {
        get(&self.cuts[cut as usize])
    }

    /// Requests by method and status; the last status is that of all others.
    fn requests(&self) -> impl Iterator<Item = (MethodClass, Option<u16>, u64)> {
        MethodClass::ALL.iter().flat_map(|class| {
            let row = &self.requests[*class as usize];
            row.iter()
                .enumerate()
                .map(|(column, count)| (*class, STATUSES.get(column).copied(), get(count)))
        })
    }
}

/// Adds to a counter. Counters are independent of each other: no order is promised.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Reads a counter.
pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_used_once() {
        let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        let cuts: Vec<&str> = Cut::ALL.iter().map(|cut| cut.label()).collect();
        for labels in [reasons, cuts] {
            let mut once = labels.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), labels.len(), "{labels:?}");
        }
    }

    #[test]
    fn an_answer_is_counted_where_it_belongs() {
        let metrics = Metrics::default();
        metrics.answered(&Method::GET, 206, Duration::from_micros(1_500));
        metrics.answered(&Method::PUT, 405, Duration::from_secs(3_600));
        metrics.answered(&Method::HEAD, 299, Duration::ZERO);
        let counted: Vec<_> = metrics
            .requests()
            .filter(|(.., count)| *count > 0)
            .collect();
        assert_eq!(
            counted,
            [
                (MethodClass::Get, Some(206), 1),
                (MethodClass::Head, None, 1),
                (MethodClass::Other, Some(405), 1),
            ]
        );
        assert_eq!(metrics.requests_total(), 3);
        assert_eq!(get(&metrics.answering[1]), 1);
        assert_eq!(get(&metrics.answering[SECONDS_BUCKETS.len()]), 1);
        metrics.refused(Reason::Range);
        metrics.cut(Cut::Write);
        assert_eq!(metrics.refusals_total(Reason::Range), 1);
        assert_eq!(metrics.cuts_total(Cut::Write), 1);
        assert_eq!(metrics.refusals_total(Reason::Method), 0);
    }
}
