//! Every number of the boot services, with its reason.

use std::time::Duration;

/// Bytes the kernel may keep for a socket: a thousand machines that start at once send 600 bytes each, which the kernel
/// counts with some of its own.
pub(crate) const SOCKET_BUFFER_SIZE: usize = 2 << 20;

/// How long the interfaces of this machine are remembered. One that appears is served this much later, which is less than
/// the first pause of any firmware.
pub(crate) const INTERFACES_LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Addresses in one range: more machines than one broadcast domain bears.
pub(crate) const RANGE_MAX: u32 = 4_096;

/// How long an address is given for unless somebody says otherwise: a machine that is switched off over night finds it again.
pub(crate) const LEASE_DEFAULT: Duration = Duration::from_secs(12 * 3_600);

/// The shortest lease: clients renew after half of it, and renewing more often than once a minute is a storm.
pub(crate) const LEASE_MIN: Duration = Duration::from_secs(120);

/// The longest lease.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// How long an address is listened to before it is given: on a LAN a machine answers ARP within some milliseconds, and a
/// client that waits for its offer waits for a second at least.
pub(crate) const CONFLICT_WAIT: Duration = Duration::from_millis(300);

/// How often the kernel is asked meanwhile.
pub(crate) const CONFLICT_LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Answers that wait because a delay was asked for: more machines than start at once on one LAN.
pub(crate) const LATER_MAX: usize = 4_096;

/// Bytes of the file of leases: each has some 100, and a range 4,096 addresses.
pub(crate) const LEASE_FILE_SIZE_MAX: u64 = 16 << 20;

/// Conflict checks at once. Each holds a socket for a third of a second; with more clients than that an answer in time is
/// worth more than a check that every client repeats by itself (RFC 5227).
pub(crate) const CHECKS_MAX: usize = 256;

/// Addresses that are tried for one client, when each turns out to be used.
pub(crate) const CHECKS_PER_CLIENT_MAX: u32 = 4;

/// Bytes of the largest datagram that is looked at; see the limit of the same kind in `pxe`.
pub(crate) const DATAGRAM_MAX: usize = pxe::limits::MESSAGE_SIZE_MAX + 1;

/// How long another DHCP server that was heard counts as there. Its clients renew after half a lease, mostly of some hours, but
/// it answers every machine that starts.
pub(crate) const RIVAL_MEMORY: Duration = Duration::from_secs(600);

/// How long answers of another DHCP server are waited for before addresses are given: dnsmasq looks for 3 s whether an
/// address is free before it offers it.
pub(crate) const RIVAL_WAIT: Duration = Duration::from_millis(3_600);

/// Time between two questions for another DHCP server: the first one may be lost on a port of a switch that just came up.
pub(crate) const RIVAL_ASK_AGAIN: Duration = Duration::from_secs(1);

/// Questions for another DHCP server.
pub(crate) const RIVAL_TRIES: u32 = 3;

/// How often the same trouble is said again.
pub(crate) const WARN_AGAIN: Duration = Duration::from_secs(60);

/// Pause after a boot port could not be read, so that an error that stays does not take a processor.
pub(crate) const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// Things told to the task that answers DHCP that may wait: a file that was fetched is no reason to stop.
pub(crate) const HINTS_MAX: usize = 1_024;

/// TFTP transfers at once: a building of machines that start after a power cut. Each has a socket and less than a kilobyte.
pub(crate) const TFTP_TRANSFERS_MAX: usize = 1_024;

/// How long a client that has acknowledged nothing keeps its place when all are taken. Real ones answer in milliseconds; what
/// has a forged sender never does.
pub(crate) const TFTP_UNHEARD_MAX: Duration = Duration::from_secs(1);

/// Transfers of one address whose clients never said anything, up to which each is sent its first packet again. A machine has
/// one or two; more are forged, and what is sent hits somebody who asked for nothing.
pub(crate) const TFTP_UNHEARD_PER_ADDRESS_MAX: usize = 16;

/// Bytes of a packet from a client in a transfer: acknowledgements have four, errors a line of text.
pub(crate) const TFTP_PACKET_SIZE_MAX: usize = 512;

/// Packets taken from the port for requests before transfers get their turn.
pub(crate) const TFTP_REQUESTS_AT_ONCE: usize = 32;

/// Sockets that are looked after at once.
pub(crate) const TFTP_EVENTS_MAX: usize = 64;

/// How long to look for the next packet before going to sleep: some round trips of a fast client. More would be wasted on
/// clients that take their time, for which a wake-up is nothing.
pub(crate) const TFTP_LOOK_MAX: Duration = Duration::from_micros(30);

/// Waits that are timed to see whether looking pays: less than a millisecond of a fast client.
pub(crate) const TFTP_TRIAL: u32 = 32;

/// Waits for which the answer holds. The slower way then takes part in less than a hundredth of all waits.
pub(crate) const TFTP_TRIAL_HOLDS: u32 = 8_192;

/// Bytes that the kernel cuts into packets with one call; it takes 64 KiB with headers.
pub(crate) const TFTP_SEGMENTED_SIZE_MAX: usize = 60_000;

/// Packets that the kernel cuts from one call's bytes.
pub(crate) const TFTP_SEGMENTS_MAX: usize = 64;

/// Blocks below this are not left to the kernel to cut: errors and options must not be cut with them.
pub(crate) const TFTP_SEGMENT_SIZE_MIN: u16 = 512;

/// How often links that appeared are listened on for DHCPv6: less than the first pause of any firmware.
pub(crate) const LINKS_JOIN_AGAIN: Duration = Duration::from_secs(2);

/// Datagrams taken from a boot port before the other port, and whatever else happens, gets its turn.
pub(crate) const DATAGRAMS_AT_ONCE: usize = 32;
