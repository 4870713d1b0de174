//! One simulated machine: its schedule, and whom it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::pieces::Pieces;
use crate::schedule::{Kind, Plan, Schedule};
use crate::set::PieceSet;
use crate::simulate::Setup;

/// Where the machines serve.
const PORT: u16 = 80;

/// How a machine lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// It says that it has everything, and sends other bytes.
    WrongBytes,
    /// It says that it has everything, and is always busy.
    Nothing,
    /// It says that everything is coming.
    Coming,
    /// It says that it has everything, and never sends a byte.
    Stall,
}

impl Lie {
    pub(super) const ALL: [Self; 4] = [Self::WrongBytes, Self::Nothing, Self::Coming, Self::Stall];
}

/// A request that is under way to a source, or the transfer that came of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lane {
    Asked { number: u64, end: usize },
    Flows { place: usize },
}

pub(super) struct Machine {
    pub(super) schedule: Schedule,
    pub(super) lie: Option<Lie>,
    /// It fetches or serves.
    pub(super) is_on: bool,
    pub(super) finished: Option<Duration>,
    /// What it vanished in the middle of, it does not count for.
    pub(super) vanishes: bool,
    /// Who is behind each source.
    pub(super) nodes: Vec<usize>,
    pub(super) known: BTreeSet<usize>,
    pub(super) lanes: BTreeMap<usize, Lane>,
    pub(super) have: PieceSet,
    pub(super) wake: Duration,
}

impl Machine {
    pub(super) fn new(setup: &Setup, pieces: &Pieces, index: usize, seed: u64) -> Self {
        let count = pieces.count();
        Self {
            schedule: Schedule::new(Plan {
                pieces: pieces.clone(),
                missing: PieceSet::full(count),
                retries: 3,
                retry_delay: Duration::from_secs(1),
                scattered: setup.swarm,
                seed,
            }),
            lie: None,
            is_on: false,
            finished: None,
            vanishes: false,
            nodes: Vec::new(),
            known: BTreeSet::from([index]),
            lanes: BTreeMap::new(),
            have: PieceSet::new(count),
            wake: Duration::MAX,
        }
    }

    /// A node takes part as a source, unless it did before.
    pub(super) fn join(&mut self, node: usize, kind: Kind, now: Duration) {
        if self.known.contains(&node) {
            return;
        }
        if self.schedule.join(kind, None, now).is_some() {
            self.known.insert(node);
            self.nodes.push(node);
            self.wake = now;
        }
    }

    /// What it says that it has, and gets.
    pub(super) fn map(&self) -> (PieceSet, PieceSet) {
        let count = self.have.length();
        match self.lie {
            None => (self.have.clone(), self.schedule.coming()),
            Some(Lie::Coming) => (PieceSet::new(count), PieceSet::full(count)),
            Some(_) => (PieceSet::full(count), PieceSet::new(count)),
        }
    }
}

/// The address of a machine: its rack is the network.
pub(super) fn address(setup: &Setup, machine: usize) -> SocketAddr {
    let (rack, place) = (machine / setup.rack, machine % setup.rack);
    let octet = |number: usize| u8::try_from(number % 256).unwrap_or(0);
    let ip = Ipv4Addr::new(10, octet(rack / 256), octet(rack), octet(place + 1));
    SocketAddr::new(ip.into(), PORT)
}

/// The machine at an address.
pub(super) fn at(setup: &Setup, address: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let [_, high, low, place] = address.ip().octets().map(usize::from);
    Some((high * 256 + low) * setup.rack + place.checked_sub(1)?)
}
