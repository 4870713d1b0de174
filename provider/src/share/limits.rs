//! Every number of sharing, with its reason.

use std::num::NonZeroU64;
use std::time::Duration;

/// Connections at once: each of the machines of a few racks has one, and asks again when it is refused one.
pub(super) const CONNECTIONS_MAX: u64 = 256;

/// Connections of one address: a few machines may stand behind it.
pub(super) const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;

/// Uploads at once. A chunk that goes to few is there soon and goes on from there; sent to many at the same time it is
/// late everywhere. Simulated for sixteen machines: with 8 the last one needs 1.42 times as long as one alone, with 4 1.36
/// times, with fewer more again.
pub(super) const UPLOADS_MAX: usize = 4;

/// Of them, how many one address may have: whoever asks for all of it leaves something to the others.
pub(super) const UPLOADS_PER_ADDRESS_MAX: usize = 2;

/// Bytes a second that whoever is sent something must take on average, or its answer is cut: half a megabit, of which the
/// slowest network that machines boot over together has more. With a rate for all together it is this part of that rate,
/// when that is less: each of the uploads gets more.
pub(super) const UPLOAD_RATE_MIN: NonZeroU64 = NonZeroU64::new(64 * 1024).expect("it is not zero");
pub(super) const UPLOAD_RATE_PART: u64 = 4 * UPLOADS_MAX as u64;

/// Time besides: a lost packet or two, and the turns of others.
pub(super) const UPLOAD_GRACE: Duration = Duration::from_secs(10);

/// Time a client may take to accept no byte at all. Shorter than at a provider: there are few places, the others wait for
/// one, and what was not taken is asked for again.
pub(super) const STALL_MAX: Duration = Duration::from_secs(10);

/// Uploads that are running when sharing ends are cut: whoever wants it to wait lingers before.
pub(super) const DRAIN_MAX: Duration = Duration::ZERO;

/// How long somebody may be silent before nobody is waited for: whoever misses something looks at what others have at least
/// once a second.
pub(super) const QUIET_MAX: Duration = Duration::from_millis(1_500);

/// How often it is asked whom the download has met since.
pub(super) const MET_PERIOD: Duration = Duration::from_secs(1);

/// How often it is looked whether anybody is still there.
pub(super) const LINGER_LOOK: Duration = Duration::from_millis(50);

/// How long mDNS is listened to before it is looked whether the download is over.
pub(super) const NEARBY_LOOK: Duration = Duration::from_millis(250);

/// When mDNS cannot be used, because the network is not there yet or went away, it is tried again after this.
pub(super) const NEARBY_PAUSE: Duration = Duration::from_secs(1);
