//! Every bound of the DHT, with the reason for its size.

use std::num::NonZeroUsize;
use std::time::Duration;

/// HTTP addresses in one record: more than any honest machine needs.
pub(super) const ADDRESSES_MAX: usize = 8;

/// Key ids in one record, as in a manifest's signatures.
pub(super) const KEY_IDS_MAX: usize = 8;

/// The longest version in a record, in bytes.
pub(super) const VERSION_SIZE_MAX: usize = 64;

/// How long a record may live. A machine that went away is asked in vain no longer than this.
pub(super) const LIFETIME: Duration = Duration::from_secs(3600);

/// The shortest life that is worth storing.
pub(super) const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// A record is published again after this long: two may get lost before it ends.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(20 * 60);

/// A provider that was not heard of for so long missed a renewal, jitter and a slow network included.
pub(super) const UNHEARD_TIME: Duration = Duration::from_secs(25 * 60);

/// After a publication that nobody took: the first pause, doubled each time.
pub(super) const RETRY_PAUSE_MIN: Duration = Duration::from_secs(2);

/// And the longest.
pub(super) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(120);

/// How wrong a clock may be that somebody believes to be right: a battery clock that keeps local time is off by up to 14
/// hours. Storing nodes go by their own monotonic clock, so this only bounds for how long an old record can be shown.
pub(super) const CLOCK_ERROR_MAX: Duration = Duration::from_secs(15 * 3600);

/// A clock before this (2026-01-01) was never set.
pub(super) const CLOCK_EARLIEST: u64 = 1_767_225_600;

/// Records of one key that are kept and read: more providers than a client ever asks.
pub(super) const RECORDS_PER_KEY_MAX: usize = 32;

/// Records of one key from one address: a few machines behind one router. What a network (IPv4 /24, IPv6 /48) may have is
/// bounded only where others want the place: all machines of a LAN are one network.
pub(super) const RECORDS_PER_KEY_AND_ADDRESS_MAX: usize = 8;

/// Records kept for others in all, about 300 bytes each.
pub(super) const RECORDS_MAX: usize = 512;

/// Records of all keys from one address.
pub(super) const RECORDS_PER_ADDRESS_MAX: usize = 64;

/// Records that this node publishes itself: channels and architectures of one provider.
pub(super) const OWN_RECORDS_MAX: usize = 8;

/// The largest envelope: the longest names, and all addresses IPv6.
pub(super) const ENVELOPE_SIZE_MAX: usize = 512;

/// The largest value: a full set.
pub(super) const VALUE_SIZE_MAX: usize = 4 + RECORDS_PER_KEY_MAX * (2 + ENVELOPE_SIZE_MAX);

/// The largest Kademlia message: a full set, and the addresses of twenty closer peers.
pub(super) const PACKET_SIZE_MAX: usize = VALUE_SIZE_MAX + (12 << 10);

/// Nodes that keep a record, Kademlia's usual k.
pub(super) const REPLICAS: NonZeroUsize = NonZeroUsize::new(20).expect("20 is not 0");

/// Peers in one bucket of the routing table, as in BitTorrent's. libp2p sets the room for all 256 buckets aside at the start:
/// with its own 20 that is a megabyte.
pub(super) const BUCKET_SIZE: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

/// One lookup or publication; a lookup that goes well takes well under a second.
pub(super) const QUERY_TIME_MAX: Duration = Duration::from_secs(10);

/// Connecting, with the handshake: a lost packet, and a slow machine.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// A connection nobody uses is closed: each costs memory on both sides, and one of few places. A look-up uses it for well
/// under a second.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections from others at the same time.
pub(super) const INBOUND_MAX: usize = 128;

/// Of those, from one network: all machines of a LAN may be one, and a quarter is left for others.
pub(super) const INBOUND_PER_NET_MAX: usize = 96;

/// And from one address, where several may be behind one router.
pub(super) const INBOUND_PER_ADDRESS_MAX: usize = 8;

/// Connections to others at the same time, with those being made.
pub(super) const OUTBOUND_MAX: usize = 96;

/// And with one address: there may be a few behind a router.
pub(super) const OUTBOUND_PER_ADDRESS_MAX: usize = 4;

/// A peer that was not reached is not tried again for so long, unless somebody named it as one to begin with.
pub(super) const UNREACHABLE_TIME: Duration = Duration::from_secs(30);

/// Such peers that are remembered.
pub(super) const UNREACHABLE_MAX: usize = 256;

/// Nodes asked at the same time: a few that never answer do not hold up a search.
pub(super) const PARALLEL: NonZeroUsize = NonZeroUsize::new(10).expect("10 is not 0");

/// Streams of one connection, each of which may hold 256 KiB that nobody read yet.
pub(super) const STREAMS_PER_CONNECTION_MAX: usize = 16;

/// Addresses of one peer that are kept.
pub(super) const PEER_ADDRESSES_MAX: usize = 4;

/// Peers of one address in the table: a few behind one router, not a thousand made-up ones.
pub(super) const PEERS_PER_ADDRESS_MAX: usize = 8;

/// Faults after which an address is not spoken to for a while.
pub(super) const FAULTS_MAX: u32 = 8;

/// That while.
pub(super) const BLOCK_TIME: Duration = Duration::from_secs(600);

/// Addresses with faults that are remembered; the oldest is forgotten first.
pub(super) const FAULTY_MAX: usize = 256;

/// Publications taken from one address at once, and then one per [`PUT_INTERVAL`]: each costs a signature check. Not by
/// network: a neighbour that floods must not keep the others of its LAN from publishing.
pub(super) const PUT_BURST: u32 = 64;

/// See [`PUT_BURST`].
pub(super) const PUT_INTERVAL: Duration = Duration::from_millis(500);

/// Connections taken from one address at once, and then one per [`ARRIVAL_INTERVAL`]: each costs a handshake, and comes with
/// a new [`TRAFFIC_BURST`]. A rack that boots behind one router must get in.
pub(super) const ARRIVAL_BURST: u32 = 128;

/// See [`ARRIVAL_BURST`].
pub(super) const ARRIVAL_INTERVAL: Duration = Duration::from_millis(100);

/// Addresses whose publications and connections are counted; the one that was quiet for longest is forgotten first.
pub(super) const ALLOWANCES_MAX: usize = 512;

/// Bytes of one connection, both ways together, that pass at once: several full sets and the questions for them.
pub(super) const TRAFFIC_BURST: u32 = 128 << 10;

/// And then in a second: whoever asks without end gets two full sets in that time.
pub(super) const TRAFFIC_PER_SECOND: u32 = 32 << 10;

/// Bootstrap peers that are used.
pub(super) const BOOTSTRAP_MAX: usize = 64;

/// Size of a file of bootstrap peers.
pub(super) const BOOTSTRAP_FILE_SIZE_MAX: u64 = 64 << 10;

/// Addresses a bootstrap name may have.
pub(super) const BOOTSTRAP_ADDRESSES_MAX: usize = 8;

/// Between two attempts to reach bootstrap peers while nobody is known: the first pause, doubled each time. A machine that
/// just started may have no address yet.
pub(super) const JOIN_PAUSE_MIN: Duration = Duration::from_secs(1);

/// And the longest.
pub(super) const JOIN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Bootstrap peers are spoken to again after this long even when others are known, so that parts of a network that lost
/// each other come together again.
pub(super) const REJOIN_INTERVAL: Duration = Duration::from_secs(600);

/// Looking a name up.
pub(super) const NAME_TIME_MAX: Duration = Duration::from_secs(10);

/// Peers in the file.
pub(super) const SAVED_PEERS_MAX: usize = 128;

/// Size of that file: as many lines of the longest address.
pub(super) const SAVED_SIZE_MAX: u64 = 64 << 10;

/// Between two writes of that file.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(300);

/// From the start to the first write.
pub(super) const SAVE_FIRST: Duration = Duration::from_secs(10);

/// Searches at the same time.
pub(super) const SEARCHES_MAX: usize = 16;

/// Hints that one search gives at most.
pub(super) const HINTS_MAX: usize = 128;

/// Hints one answering node may give before the search is over: a liar cannot fill it alone.
pub(super) const HINTS_PER_ANSWER_MAX: usize = 8;

/// Different envelopes that one search looks at; each costs a signature check.
pub(super) const ENVELOPES_PER_SEARCH_MAX: usize = 512;

/// Between two lookups of a search that found nothing: the first pause, doubled each time.
pub(super) const SEARCH_PAUSE_MIN: Duration = Duration::from_millis(250);

/// And the longest.
pub(super) const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Others' words on where this node is, kept.
pub(super) const OBSERVERS_MAX: usize = 16;

/// Commands on their way to the node.
pub(super) const COMMANDS_MAX: usize = 16;

/// Between two looks at what is due.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Between two snapshots of the state, unless nothing happens: nobody sees more, and each walks the whole table.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_millis(50);

/// Saying goodbye and saving, together.
pub(super) const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

/// The goodbye's part of that.
pub(super) const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);
