//! Every number of the HTTP server, with its reason.

use std::time::Duration;

/// Bytes read from a file at once, into memory that all connections of a thread share. Measured: 64 KiB costs 15 % of
/// throughput, 1 MiB gains nothing.
pub(crate) const FRAME_SIZE: usize = 256 * 1024;

/// Time a client has for the head of a request from its first byte on. A slow link needs a second.
pub(crate) const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time an idle connection has to send its next request. Firmware keeps one idle for seconds between HEAD and GET; one
/// costs little, and makes room when others need it.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

/// Time a client may take to accept no byte at all before its connection is cut.
pub(crate) const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// Bytes of one request head.
pub(crate) use http_semantics::limits::HEAD_SIZE_MAX;

/// Bytes of an unfinished request that every connection may hold. Heads of firmware and browsers are smaller; all
/// connections together are 24 MiB.
pub(crate) const HEAD_FREE_SIZE: usize = 2 * 1024;

/// Bytes of unfinished requests beyond those, in all connections together: some 500 of the largest heads at once, and a
/// sixteenth of the smallest machine's memory.
pub(crate) const HEADS_SIZE_MAX: usize = 16 * 1024 * 1024;

/// Bytes that hyper has for a connection while it waits for the rest of a request: its first buffer.
pub(crate) const HYPER_SIZE: usize = 8 * 1024;

/// Bytes taken from a connection at once: a few pipelined requests.
pub(crate) const READ_SIZE: usize = 4 * 1024;

/// Bytes of requests read at once by the short way, into memory that all connections share: a few dozen requests.
pub(crate) const REQUESTS_READ_SIZE: usize = 16 * 1024;

/// Time a client has to read why it was refused before its connection is closed over it.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Bytes of a refused client that are read away so that it can read why: more than a large head.
pub(crate) const FAREWELL_REST_MAX: usize = 256 * 1024;

/// Connections at once, if the limit on open files allows as many. Measured: 10,000 idle ones are 13 MiB here; the kernel
/// holds about 4 KiB for each besides.
pub(crate) const CONNECTIONS_MAX: usize = 12_288;

/// The largest number of connections that can be asked for; the kernel gives a process no more descriptors by default.
pub(crate) const CONNECTIONS_LIMIT: u64 = 1 << 20;

/// Connections of one client address (IPv6: one /64): a third. A relay in front, or a building behind one address, has
/// hundreds; one that wants more has its longest idle one ended for each new one.
pub(crate) const CONNECTIONS_PER_ADDRESS_MAX: usize = 4_096;

/// Connections that may speak TLS at once. Each may hold most of a record of 16 KiB that is never finished: together 36 MiB.
pub(crate) const ENCRYPTED_MAX: usize = 2_048;

/// Connections that make room at once when all places are taken, so that looking for them is not repeated for each new
/// client. Small against all places, and below the reserve of descriptors.
pub(crate) const ROOM_BATCH: usize = 16;

/// How often connections are looked at for deadlines: this much later than it says, one may end.
pub(crate) const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Bytes per second below which a reader makes room when all places are taken. A modem is faster; nobody boots over less.
pub(crate) const RATE_MIN: u64 = 4 * 1024;

/// Time over which a reader's rate is taken: one stall on a bad link is no sign of ill will.
pub(crate) const RATE_WINDOW: Duration = Duration::from_secs(20);

/// Body bytes sent for one connection before others get their turn: as many as the kernel's queue of a connection takes
/// at most (tcp_wmem), at memory speed less than two milliseconds. A turn thus ends with a full queue, which empties in the
/// client's time. Measured with sixteen downloads: 1 MiB costs 1.5 times the processor time for each byte.
pub(crate) const TURN_SIZE: u64 = 4 * 1024 * 1024;

/// Bytes that go by reference with one call. The client works on them while the next are on their way: measured, 64 KiB and
/// more are a sixth to a third slower with one download and cost more time; with 16 KiB the calls themselves cost as much.
pub(crate) const REFERRED_SIZE: u64 = 32 * 1024;

/// Bytes at the end of a piece of a file that never go by reference. They are on their way while it is looked at whether
/// those before them have arrived: 2 ms at 1 Gbit/s.
pub(crate) const REFERRED_END: u64 = 256 * 1024;

/// Bytes at the very end of such a piece, which wait until that is known.
pub(crate) const HELD_END: u64 = 16 * 1024;

/// Bytes of a piece of a file from which on it goes by reference. Below, waiting for the client to have them would be more
/// than a tenth of the time they take at 10 Gbit/s, and copying them costs 2 ms at most.
pub(crate) const REFERRED_MIN: u64 = 8 * 1024 * 1024;

/// How soon to look again whether a client has what went by reference: about a round trip in a building.
pub(crate) const DRAIN_LOOK: Duration = Duration::from_millis(1);

/// The same when it takes long: 10,000 clients that acknowledge nothing cost 10,000 looks in a second, a tenth of a
/// processor.
pub(crate) const DRAIN_LOOK_MAX: Duration = Duration::from_secs(1);

/// Descriptors for everything that is no connection or its file, files at hand included.
pub(crate) const FILES_RESERVED: u64 = 96;

/// Connections the kernel holds for us while we are busy; it is cut to net.core.somaxconn.
pub(crate) const BACKLOG: i32 = 4_096;

/// Pause after `accept` failed for want of descriptors or memory. Without it the loop would spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time between two complaints about having no room.
pub(crate) const ACCEPT_WARN_PERIOD: Duration = Duration::from_secs(60);

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

/// Time of one turn when there is a rate for all connections: ten times a timer's step.
pub(crate) const EGRESS_TURN: Duration = Duration::from_millis(10);

/// The least bytes of a turn: with fewer, heads and system calls would be most of the work.
pub(crate) const EGRESS_TURN_SIZE_MIN: u64 = 4 * 1024;

/// The most bytes of a turn: others need not wait for longer than at any rate without a limit.
pub(crate) const EGRESS_TURN_SIZE_MAX: u64 = TURN_SIZE;
