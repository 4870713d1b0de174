//! Every bound of the swarm, with the reason for its size.

use std::time::Duration;

// The formats.

/// Artifacts in a map; a manifest has no more.
pub(crate) const ARTIFACTS_MAX: usize = boot_manifest::limits::ARTIFACTS_MAX;

/// The longest map: 64 artifacts of 1,024 chunks, two rows of 256 digits each.
pub const HAVE_SIZE_MAX: usize = 48 << 10;

/// Peers in one answer: more than a machine asks at once, and few enough for two packets.
pub const PEERS_MAX: usize = 32;

/// The longest answer: 32 entries of a full IPv6 address with its zone.
pub const PEERS_SIZE_MAX: usize = 4 << 10;

/// The longest query of `/peers`; an honest one has 110 characters.
pub(crate) const QUESTION_SIZE_MAX: usize = 512;

/// Between two questions for peers: what the answer names is kept within these.
pub(crate) const REFRESH_MIN: Duration = Duration::from_secs(1);
pub(crate) const REFRESH_MAX: Duration = Duration::from_secs(60);

// The table of peers.

/// Entries of all manifests together. 10,000 machines are a large hall; an entry takes about 100 bytes.
pub(crate) const TABLE_ENTRIES_MAX: usize = 16_384;

/// Manifests that are kept apart.
pub(crate) const TABLE_MANIFESTS_MAX: usize = 64;

/// Entries of one address: several machines may be behind one translator of addresses, or on one host.
pub(crate) const TABLE_PER_ADDRESS_MAX: usize = 16;

/// Entries of one network (/24 or /64), so that one that makes up addresses cannot push out the others.
pub(crate) const TABLE_PER_NETWORK_MAX: usize = 2_048;

/// An entry ends when it was not renewed for this long: three times the longest refresh that a table asks for.
pub(crate) const ENTRY_LIFE: Duration = Duration::from_secs(30);

/// The same for machines that have everything: they say it once, and serve for as long as they run.
pub(crate) const ENTRY_LIFE_COMPLETE: Duration = Duration::from_secs(600);

/// Machines that may ask a table each second. The refresh grows with the crowd so that no more do.
pub(crate) const QUESTIONS_PER_SECOND: usize = 200;

/// The longest refresh that a table asks for.
pub(crate) const TABLE_REFRESH_MAX: Duration = Duration::from_secs(10);

/// Between two looks for entries that have ended.
pub(crate) const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Of an answer, how many are near ones at most when there are others: a rack that knew only itself would fetch everything
/// from the origin once more.
pub(crate) const SAMPLE_NEAR_MAX: usize = 24;

// The schedule: sources.

/// Sources that take part in one download, those included that left or were dropped: more than a hostile list can make a
/// machine try in the time that a download has.
pub(crate) const SOURCES_MAX: usize = 1_024;

/// Origins that are asked at the same time; more wait for one of them to fail. Four saturate what a machine has.
pub(crate) const ORIGINS_AT_ONCE: usize = 4;

/// Peers that are asked at the same time. Each of them is asked by as many others, so more would only make each slower.
pub(crate) const PEERS_AT_ONCE: usize = 4;

/// Peers that a download watches: with fewer, more of them fetch the same from outside; each costs a look now and then.
pub(crate) const NEIGHBOURS_MAX: usize = 24;

/// Wrong chunks after which a source is dropped, where damage on the line is possible.
pub(crate) const WRONG_PIECES_MAX: u32 = 2;

/// Weight of the newest rate in the average: two seconds of looks, four a second, change it by nine tenths.
pub(crate) const RATE_WEIGHT_NEW: f64 = 0.25;

/// The longest pause between retries, in multiples of the first one.
pub(crate) const RETRY_DELAY_FACTOR_MAX: u32 = 30;

/// A source is dropped when another one of its kind is this many times as fast, for this long.
pub(crate) const SLOW_FRACTION: u32 = 10;
pub(crate) const SLOW_TIME: Duration = Duration::from_secs(5);

/// A peer that brings nothing is left after this many times what a piece takes, within these bounds, and dropped when
/// that happens a second time in a row: unlike an origin, it is one of many.
pub(crate) const STALL_FACTOR: f64 = 8.0;
pub(crate) const STALL_TIME_MIN: Duration = Duration::from_secs(2);
pub(crate) const STALL_TIME_MAX: Duration = Duration::from_secs(15);
pub(crate) const STALLS_MAX: u32 = 2;

/// The pause after a peer said that it is busy is this part of what a piece takes, longer each time, up to what it asked
/// for; all pauses are kept within these bounds. A peer that was busy so many times in a row is of no use.
pub(crate) const BUSY_FACTOR: f64 = 0.125;
pub(crate) const BUSY_PAUSE_MIN: Duration = Duration::from_millis(20);
pub(crate) const BUSY_PAUSE_MAX: Duration = Duration::from_secs(5);
pub(crate) const BUSY_PEER_MAX: u32 = 16;

/// An origin that was given up is asked again after this long when peers are there, but a piece that none of them has.
pub(crate) const REVIVAL_PAUSE: Duration = Duration::from_secs(5);

/// When nobody has a missing piece, and nothing was kept for this long, the download is lost: peers that are alive look
/// for a piece themselves, and would have told of it by then.
pub(crate) const STARVED_TIME: Duration = Duration::from_secs(20);

// The schedule: runs.

/// A request to one of several origins is for what it brings in this time: long enough that the round trips do not
/// count, short enough that a source which slows down holds up little.
pub(crate) const RUN_TIME: Duration = Duration::from_secs(2);

/// The smallest and largest such request. The smallest is also the first, while the rate is not known.
pub(crate) const RUN_BYTES_MIN: u64 = 4 << 20;
pub(crate) const RUN_BYTES_MAX: u64 = 256 << 20;

/// Among peers a request is for what comes in this time, and at least one piece: what one machine has, the others can
/// have from it, so small steps spread sooner.
pub(crate) const CROWD_RUN_TIME: Duration = Duration::from_millis(100);

/// A run that is done sooner than this is not worth the request that takes a part of it.
pub(crate) const STEAL_TIME_MIN: Duration = Duration::from_millis(200);

/// The last piece of a stalled source is taken from it after this many times what it would take the helper, and not
/// before this time.
pub(crate) const HEDGE_FACTOR: u32 = 3;
pub(crate) const HEDGE_WAIT_MIN: Duration = Duration::from_secs(1);

/// How long the source that was relieved of a piece is left alone.
pub(crate) const HEDGE_PAUSE: Duration = Duration::from_secs(5);

// The schedule: what peers say.

/// Pieces that are on their way to one peer, as far as it is believed: it asks few sources at once, and few pieces of each.
/// A peer that claims everything keeps nobody from more than these.
pub(crate) const COMING_MAX: usize = 16;

/// Of each run under way, how many pieces are told as coming: those after them may yet go to somebody else.
pub(crate) const COMING_AHEAD: usize = 4;

/// What is coming to a peer is believed for this many times what a piece takes here, within these bounds, and nothing is
/// believed any more of a peer that was wrong about so many.
pub(crate) const CLAIM_FACTOR: f64 = 4.0;
pub(crate) const CLAIM_TIME_MIN: Duration = Duration::from_secs(2);
pub(crate) const CLAIM_TIME_MAX: Duration = Duration::from_secs(20);
pub(crate) const BROKEN_CLAIMS_MAX: u32 = 8;

/// Near peers that fetch something from outside at the same time. Their links are busy with other things as well, so fewer
/// would leave the way there idle; with more, each piece would come later and could be passed on later.
pub(crate) const OUTSIDE_AT_ONCE: usize = 8;

/// When nothing was kept for this many times what a piece takes, within these bounds, the origin is asked for what others
/// have or get.
pub(crate) const PATIENCE_FACTOR: f64 = 4.0;
pub(crate) const PATIENCE_MIN: Duration = Duration::from_secs(1);
pub(crate) const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// Between two looks at a peer's map while it changes: this part of what a piece takes, within these bounds. While it does
/// not change, the pause is doubled again and again.
pub(crate) const LOOK_FACTOR: f64 = 0.25;
pub(crate) const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// With many peers the pause is at least this for each of them: a machine looks 125 times a second at most, and is looked at
/// as often.
pub(crate) const LOOK_COST: Duration = Duration::from_millis(8);

/// The pause while nothing changes.
pub(crate) const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Looks that may fail in a row before a peer is left.
pub(crate) const LOOK_FAILURES_MAX: u32 = 2;
