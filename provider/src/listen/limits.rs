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
