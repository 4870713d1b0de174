//! Every number of the HTTP server, with its reason.

use std::time::Duration;

/// Bytes read from a file for one frame. Measured: 64 KiB costs 15 % of throughput, 1 MiB gains nothing, and this much
/// memory per busy connection is the price.
pub(crate) const FRAME_SIZE: usize = 256 * 1024;

/// Time a client has for the head of a request, and an idle connection to send its next one. Firmware keeps a connection
/// idle for seconds between HEAD and GET.
pub(crate) const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time a client may take to accept no byte at all before its connection is cut.
pub(crate) const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// Bytes of one request head.
pub(crate) use http_semantics::limits::HEAD_SIZE_MAX;

/// Bytes taken from a connection at once: a few pipelined requests.
pub(crate) const READ_SIZE: usize = 4 * 1024;

/// Time a client has to read why it was refused before its connection is closed over it.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Bytes of a refused client that are read away so that it can read why: more than a large head.
pub(crate) const FAREWELL_REST_MAX: usize = 256 * 1024;

/// Connections at once, if the limit on open files allows as many: at about 20 KiB for an idle one this is 80 MiB.
pub(crate) const CONNECTIONS_MAX: usize = 4_096;

/// Descriptors for everything that is no connection or its file, files at hand included.
pub(crate) const FILES_RESERVED: u64 = 96;

/// Connections the kernel holds for us while we are busy; it is cut to net.core.somaxconn.
pub(crate) const BACKLOG: i32 = 4_096;

/// Pause after `accept` failed for want of descriptors or memory. Without it the loop would spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time a client has for a TLS handshake: two round trips and, on the slowest firmware, a second of arithmetic.
pub(crate) const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);

/// TLS handshakes under way at once. Each ends within the time above; whoever fills this takes no place from plain HTTP.
pub(crate) const HANDSHAKES_MAX: usize = 1_024;

/// TLS handshakes under way for one client (IPv6: one /64). A rack behind one address starts this many machines at once.
pub(crate) const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;

/// Bytes of a plain request that are read away on the TLS port, so that the answer to it arrives.
pub(crate) const WRONG_SCHEME_REST_MAX: u64 = 32 * 1024;

/// Time running downloads have to end after SIGTERM. systemd kills after 90 s, init after 15 s.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(10);
