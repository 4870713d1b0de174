//! How many connections there may be, and with whom none: libp2p asks before and after each handshake.
//!
//! Knows the address behind every connection, so faults and places are counted where somebody really is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::limits::{
    ALLOWANCES_MAX, ARRIVAL_BURST, ARRIVAL_INTERVAL, BLOCK_TIME, FAULTS_MAX, FAULTY_MAX,
    INBOUND_MAX, INBOUND_PER_ADDRESS_MAX, INBOUND_PER_NET_MAX, OUTBOUND_MAX,
    OUTBOUND_PER_ADDRESS_MAX, PUT_BURST, PUT_INTERVAL, UNREACHABLE_MAX, UNREACHABLE_TIME,
};
use super::net::{self, Net};

/// A connection was not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(super) enum Denied {
    #[error("as many connections as there may be")]
    Full,
    #[error("too many in too short a time")]
    TooOften,
    #[error("nothing good came from there")]
    Blocked,
    #[error("not reached a moment ago")]
    Unreachable,
}

#[derive(Debug)]
struct Connection {
    /// Unknown until an outgoing connection is made.
    address: Option<SocketAddr>,
    is_inbound: bool,
}

impl Connection {
    fn is_at(&self, is_there: &dyn Fn(IpAddr) -> bool) -> bool {
        self.address.is_some_and(|address| is_there(address.ip()))
    }
}

#[derive(Debug)]
struct Faults {
    count: u32,
    last: Instant,
}

/// How often each address may do something: so many times at once, and then one in each interval.
#[derive(Debug)]
struct Allowances {
    burst: u32,
    interval: Duration,
    of: HashMap<IpAddr, Allowance>,
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowances {
    fn new(burst: u32, interval: Duration) -> Self {
        let of = HashMap::new();
        Self {
            burst,
            interval,
            of,
        }
    }

    /// Whether it may be done from there once more now.
    fn take(&mut self, ip: IpAddr) -> bool {
        let (ip, now) = (ip.to_canonical(), Instant::now());
        if self.of.len() >= ALLOWANCES_MAX && !self.of.contains_key(&ip) {
            let oldest = self.of.iter().min_by_key(|(_, allowance)| allowance.since);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.of.remove(&oldest);
            }
        }
        let fresh = Allowance {
            left: self.burst,
            since: now,
        };
        let allowance = self.of.entry(ip).or_insert(fresh);
        let elapsed = now.duration_since(allowance.since);
        let earned = elapsed.as_millis() / self.interval.as_millis();
        let earned = u32::try_from(earned).unwrap_or(self.burst).min(self.burst);
        if earned > 0 {
            allowance.left = (allowance.left + earned).min(self.burst);
            allowance.since = now;
        }
        let is_allowed = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        is_allowed
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    connections: HashMap<ConnectionId, Connection>,
    faults: HashMap<IpAddr, Faults>,
    puts: Allowances,
    arrivals: Allowances,
    /// Peers that were not reached a moment ago. Others go on naming them, and each try costs a search its time.
    unreachable: HashMap<PeerId, Instant>,
    /// Connections denied so far.
    pub(super) denied: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            connections: HashMap::new(),
            faults: HashMap::new(),
            puts: Allowances::new(PUT_BURST, PUT_INTERVAL),
            arrivals: Allowances::new(ARRIVAL_BURST, ARRIVAL_INTERVAL),
            unreachable: HashMap::new(),
            denied: 0,
        }
    }
}

impl Gate {
    /// Where the other end of a connection is.
    pub(super) fn ip(&self, connection: ConnectionId) -> Option<IpAddr> {
        Some(self.connections.get(&connection)?.address?.ip())
    }

    /// The address at which this node reached the other end, if it was this node that connected.
    pub(super) fn dialled(&self, connection: ConnectionId) -> Option<SocketAddr> {
        let known = self.connections.get(&connection)?;
        known.address.filter(|_| !known.is_inbound)
    }

    /// The connections with an address.
    pub(super) fn connections_of(&self, ip: IpAddr) -> Vec<ConnectionId> {
        let connections = self.connections.iter();
        let there = connections.filter(|(_, known)| known.is_at(&|other| other == ip));
        there.map(|(connection, _)| *connection).collect()
    }

    /// Tries a peer again, whatever happened before.
    pub(super) fn retry(&mut self, peer: &PeerId) {
        self.unreachable.remove(peer);
    }

    fn note_unreachable(&mut self, peer: PeerId) {
        self.unreachable
            .retain(|_, at| at.elapsed() < UNREACHABLE_TIME);
        if self.unreachable.len() < UNREACHABLE_MAX {
            self.unreachable.insert(peer, Instant::now());
        }
    }

    /// Notes a fault of whoever is there; whether it was one too many.
    pub(super) fn fault(&mut self, ip: IpAddr) -> bool {
        let now = Instant::now();
        self.faults
            .retain(|_, faults| now.duration_since(faults.last) < BLOCK_TIME);
        if self.faults.len() >= FAULTY_MAX && !self.faults.contains_key(&ip) {
            let oldest = self.faults.iter().min_by_key(|(_, faults)| faults.last);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.faults.remove(&oldest);
            }
        }
        let faults = self.faults.entry(ip).or_insert(Faults {
            count: 0,
            last: now,
        });
        faults.count = faults.count.saturating_add(1);
        faults.last = now;
        faults.count >= FAULTS_MAX
    }

    /// Whether somebody there may publish once more now.
    pub(super) fn may_put(&mut self, ip: IpAddr) -> bool {
        self.puts.take(ip)
    }

    fn is_blocked(&self, ip: IpAddr) -> bool {
        self.faults
            .get(&ip)
            .is_some_and(|faults| faults.count >= FAULTS_MAX && faults.last.elapsed() < BLOCK_TIME)
    }

    fn admit(&mut self, ip: IpAddr) -> Result<(), Denied> {
        if self.is_blocked(ip) {
            return Err(Denied::Blocked);
        }
        let inbound = || self.connections.values().filter(|known| known.is_inbound);
        let from = |is_there: &dyn Fn(IpAddr) -> bool| {
            inbound().filter(|known| known.is_at(is_there)).count()
        };
        // Whoever is on this machine may do anything to it anyway, and tests have everybody there.
        let is_crowded = !ip.is_loopback()
            && (from(&|other| other == ip) >= INBOUND_PER_ADDRESS_MAX
                || from(&|other| Net::from(other) == Net::from(ip)) >= INBOUND_PER_NET_MAX);
        if is_crowded || inbound().count() >= INBOUND_MAX {
            return Err(Denied::Full);
        }
        match ip.is_loopback() || self.arrivals.take(ip) {
            true => Ok(()),
            false => Err(Denied::TooOften),
        }
    }

    fn deny(&mut self, reason: Denied) -> ConnectionDenied {
        self.denied += 1;
        ConnectionDenied::new(reason)
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let admitted = match net::socket_address(remote) {
            Some(address) => self.admit(address.ip()).map(|()| address),
            None => Err(Denied::Blocked),
        };
        let address = Some(admitted.map_err(|reason| self.deny(reason))?);
        let is_inbound = true;
        let known = Connection {
            address,
            is_inbound,
        };
        self.connections.insert(connection, known);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let failed_at = peer.and_then(|peer| self.unreachable.get(&peer));
        if failed_at.is_some_and(|at| at.elapsed() < UNREACHABLE_TIME) {
            return Err(ConnectionDenied::new(Denied::Unreachable));
        }
        let outbound = self.connections.values().filter(|known| !known.is_inbound);
        if outbound.count() >= OUTBOUND_MAX {
            return Err(self.deny(Denied::Full));
        }
        let (address, is_inbound) = (None, false);
        let known = Connection {
            address,
            is_inbound,
        };
        self.connections.insert(connection, known);
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let address = net::socket_address(address);
        if let Some(ip) = address.map(|address| address.ip()) {
            if self.is_blocked(ip) {
                return Err(self.deny(Denied::Blocked));
            }
            // Made-up peers near a key are cheap, addresses are not: behind one, only so many have a say.
            let outbound = self.connections.values().filter(|known| !known.is_inbound);
            let there = outbound.filter(|known| known.is_at(&|other| other == ip));
            if !ip.is_loopback() && there.count() >= OUTBOUND_PER_ADDRESS_MAX {
                return Err(self.deny(Denied::Full));
            }
        }
        if let Some(known) = self.connections.get_mut(&connection) {
            known.address = address;
        }
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let ended = match event {
            FromSwarm::ConnectionClosed(closed) => closed.connection_id,
            FromSwarm::DialFailure(failure) => {
                if let (Some(peer), DialError::Transport(_)) = (failure.peer_id, failure.error) {
                    self.note_unreachable(peer);
                }
                failure.connection_id
            }
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            _ => return,
        };
        self.connections.remove(&ended);
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        _context: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::{ListenError, ListenFailure};

    use super::*;

    fn arrive(gate: &mut Gate, number: usize, ip: [u8; 4]) -> bool {
        let remote = net::multiaddr((ip, 9).into());
        let connection = ConnectionId::new_unchecked(number);
        gate.handle_pending_inbound_connection(connection, &remote, &remote)
            .is_ok()
    }

    #[test]
    fn an_address_a_network_and_all_together_have_their_share_of_connections() {
        for (addresses, nets, expected) in [
            (1, 1, INBOUND_PER_ADDRESS_MAX),
            (200, 1, INBOUND_PER_NET_MAX),
            (200, 200, INBOUND_MAX),
        ] {
            let mut gate = Gate::default();
            let arrivals = (0..2000).filter(|number| {
                let part =
                    |count: usize, share: usize| u8::try_from(number / share % count).unwrap();
                arrive(
                    &mut gate,
                    *number,
                    [10, 0, part(nets, 1), part(addresses, nets)],
                )
            });
            assert_eq!(
                arrivals.count(),
                expected,
                "{addresses} addresses, {nets} networks"
            );
            assert_eq!(gate.denied, 2000 - u64::try_from(expected).unwrap());
        }
    }

    #[test]
    fn a_full_network_leaves_room_for_another() {
        let mut gate = Gate::default();
        for number in 0..1000 {
            let last = u8::try_from(number % 250).unwrap();
            arrive(&mut gate, number, [10, 0, 0, last]);
        }
        assert!(arrive(&mut gate, 1000, [10, 0, 1, 1]));
    }

    #[test]
    fn faults_block_one_address_and_are_remembered_for_few() {
        let (mut gate, bad) = (Gate::default(), [10, 0, 0, 1]);
        for fault in 1..=FAULTS_MAX {
            assert_eq!(gate.fault(bad.into()), fault == FAULTS_MAX);
        }
        assert!(!arrive(&mut gate, 1, bad) && arrive(&mut gate, 2, [10, 0, 0, 2]));
        for n in 0..4 * FAULTY_MAX {
            let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
            gate.fault([10, 1, high, low].into());
        }
        assert_eq!(gate.faults.len(), FAULTY_MAX);
    }

    #[test]
    fn an_address_publishes_as_much_as_it_may_and_its_neighbours_too() {
        let mut gate = Gate::default();
        let ip = |n: usize| {
            let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
            IpAddr::from([10, 0, high, low])
        };
        let taken = (0..1000).filter(|_| gate.may_put(ip(1))).count();
        let burst = usize::try_from(PUT_BURST).unwrap();
        // The test itself may take a moment, in which more is earned.
        assert!((burst..burst + 100).contains(&taken), "{taken}");
        assert!(gate.may_put(ip(2)));
        for n in 0..4 * ALLOWANCES_MAX {
            gate.may_put(ip(n));
        }
        assert_eq!(gate.puts.of.len(), ALLOWANCES_MAX);
    }

    #[test]
    fn whoever_comes_and_goes_without_end_is_let_in_now_and_then_only() {
        let (mut gate, restless) = (Gate::default(), [10, 0, 0, 1]);
        let remote = net::multiaddr((restless, 9).into());
        let mut come = |number: usize| {
            let is_in = arrive(&mut gate, number, restless);
            let gone = FromSwarm::ListenFailure(ListenFailure {
                local_addr: &remote,
                send_back_addr: &remote,
                error: &ListenError::Aborted,
                connection_id: ConnectionId::new_unchecked(number),
                peer_id: None,
            });
            gate.on_swarm_event(gone);
            is_in
        };
        let admitted = (0..1000).filter(|number| come(*number)).count();
        let burst = usize::try_from(ARRIVAL_BURST).unwrap();
        assert!((burst..burst + 100).contains(&admitted), "{admitted}");
        assert!(arrive(&mut gate, 1000, [10, 0, 0, 2]));
    }

    #[test]
    fn peers_that_are_not_there_are_remembered_for_a_while_and_bounded() {
        let (mut gate, peer) = (Gate::default(), PeerId::random());
        let number = ConnectionId::new_unchecked;
        let dial = |gate: &mut Gate, n| {
            gate.handle_pending_outbound_connection(number(n), Some(peer), &[], Endpoint::Dialer)
                .is_ok()
        };
        assert!(dial(&mut gate, 1));
        gate.note_unreachable(peer);
        assert!(!dial(&mut gate, 2));
        gate.retry(&peer);
        assert!(dial(&mut gate, 3));
        for _ in 0..4 * UNREACHABLE_MAX {
            gate.note_unreachable(PeerId::random());
        }
        assert_eq!(gate.unreachable.len(), UNREACHABLE_MAX);
    }
}
