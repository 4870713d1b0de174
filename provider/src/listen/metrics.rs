//! What the boot services count. Plain atomics like all counters of the provider; `/metrics` and `/status` read.

use std::sync::atomic::AtomicU64;

use crate::serve::metrics::{add, get, labelled};

labelled! {
    /// What became of a datagram at port 67, 547 or 4011.
    Fate {
        /// A boot client was told at port 67 or 547 what to boot.
        Offered => "offered",
        /// A boot client was told at port 4011 what to boot.
        Answered => "answered",
        /// An address was offered.
        LeaseOffered => "lease-offered",
        /// An address was given.
        LeaseGiven => "lease-given",
        /// The end of an address was acknowledged, or that it fits the link (DHCPv6).
        Acknowledged => "acknowledged",
        /// A client was told to begin again.
        LeaseRefused => "lease-refused",
        /// No address was left.
        NoAddress => "no-address",
        /// The policy says that this machine gets no answer.
        Denied => "denied",
        /// There is a reason in the protocol to say nothing.
        NotOurs => "not-ours",
        /// The sender does not boot over the network.
        NotBooting => "not-booting",
        /// It came in by an interface without an address, or one that is not served.
        Interface => "interface",
        /// It is no DHCP message.
        Malformed => "malformed",
        /// The kernel did not take the answer.
        Unsent => "unsent",
    }
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct BootMetrics {
    fates: [AtomicU64; Fate::ALL.len()],
    /// Addresses that were about to be given and that somebody used already.
    pub(crate) conflicts_total: AtomicU64,
    /// Addresses that are given now.
    pub(crate) leases: AtomicU64,
    /// Messages of other DHCP servers, where this one gives the addresses.
    pub(crate) rivals_total: AtomicU64,
}

impl BootMetrics {
    /// Counts a datagram, once.
    pub(crate) fn count(&self, fate: Fate) {
        if let Some(counter) = self.fates.get(fate as usize) {
            add(counter, 1);
        }
    }

    /// How many datagrams ended so.
    pub(crate) fn total(&self, fate: Fate) -> u64 {
        self.fates.get(fate as usize).map_or(0, get)
    }
}
