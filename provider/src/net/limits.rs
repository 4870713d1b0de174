//! Every number of the network role, with the reason for its size.

use smoltcp::time::Duration;

/// Interfaces looked after at once. Servers with more ports bond them; the rest is left alone with a warning.
pub(super) const INTERFACES_MAX: usize = 16;

/// The longest frame read from a packet socket: an untagged Ethernet frame of 1,500 bytes and room for a tag.
pub(super) const FRAME_SIZE_MAX: usize = 1518;

/// Frames read from one packet socket before the others get their turn.
pub(super) const FRAMES_PER_TURN_MAX: usize = 32;

/// Received frames waiting for the DHCP client. It is polled after each one, so more than one only waits in a fault.
pub(super) const DHCP_QUEUE_MAX: usize = 8;

/// Frames the DHCP client may send in one burst: four rounds of DISCOVER, REQUEST and their ARP.
pub(super) const SEND_BURST_MAX: u32 = 16;

/// After the burst, one frame in this time. A server that refuses, or renews at once, cannot make us flood the link.
pub(super) const SEND_INTERVAL: Duration = Duration::from_secs(1);

/// The first DISCOVER is repeated after this; ports of switches are often deaf for a moment after the link came up.
pub(super) const DISCOVER_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The interval doubles up to this. RFC 2131 allows 64 s; a machine with no address should not wait a minute.
pub(super) const DISCOVER_INTERVAL_MAX: Duration = Duration::from_secs(16);

/// A REQUEST is repeated after this.
pub(super) const REQUEST_INTERVAL: Duration = Duration::from_secs(2);

/// REQUESTs sent before looking for a server again.
pub(super) const REQUEST_COUNT_MAX: u16 = 4;

/// Shorter leases are refused: no honest server gives them, and they would keep the network changing.
pub(super) const LEASE_SECONDS_MIN: u32 = 20;

/// Longer leases are cut to this, so that a changed network is noticed within a year at the latest.
pub(super) const LEASE_SECONDS_MAX: u32 = 365 * 24 * 3600;

/// Name servers kept of one lease, and written to resolv.conf: the resolver of the C library reads three.
pub(super) const NAME_SERVERS_MAX: usize = 3;

/// Providers kept of those that boot servers on one link name. One is usual, two is a spare.
pub(super) const PROVIDERS_MAX: usize = 4;

/// Time servers kept of one lease.
pub(super) const TIME_SERVERS_MAX: usize = 3;

/// The longest domain name (RFC 1035).
pub(super) const DOMAIN_LENGTH_MAX: usize = 253;

/// Wait after a DECLINE before asking again (RFC 2131 section 3.1 step 5: at least ten seconds).
pub(super) const DECLINE_WAIT: Duration = Duration::from_secs(10);

/// No lease for this long: try a link-local address too, which takes another 5 s of probing. DHCP goes on.
pub(super) const FALLBACK_AFTER: Duration = Duration::from_secs(10);

/// After this many conflicts of link-local addresses, one attempt in `CONFLICT_WAIT` (RFC 3927 section 9).
pub(super) const CONFLICTS_MAX: u32 = 10;

/// See `CONFLICTS_MAX`.
pub(super) const CONFLICT_WAIT: Duration = Duration::from_secs(60);

/// A second conflict within this time after we defended an address: give the address up (RFC 5227 section 2.4).
pub(super) const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// The route metric of interface N is this plus N: stable, and one default route per interface.
pub(super) const ROUTE_METRIC_BASE: u32 = 100;

/// Addresses of one interface told to init.
pub(super) const ADDRESSES_REPORTED_MAX: usize = 8;

/// The receive buffer of a packet socket, in bytes: some forty full frames.
pub(super) const SOCKET_BUFFER_BYTES: usize = 64 * 1024;

/// The kernel answers a netlink request at once; this is for a kernel in trouble.
pub(super) const NETLINK_TIMEOUT_SECONDS: u64 = 2;

/// The largest netlink datagram read; the kernel fills at most 32 KiB for a reader that offers it.
pub(super) const NETLINK_DATAGRAM_MAX: usize = 32 * 1024;

/// Datagrams read for one dump; 32 KiB each is thousands of interfaces.
pub(super) const NETLINK_DATAGRAMS_PER_DUMP_MAX: usize = 64;
