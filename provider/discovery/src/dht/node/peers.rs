//! Who is known, how this node gets to know others, and whether it serves them.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Instant;

use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{PeerId, identify, kad};

use super::super::limits::{
    JOIN_PAUSE_MAX, JOIN_PAUSE_MIN, PEER_ADDRESSES_MAX, PEERS_PER_ADDRESS_MAX, REJOIN_INTERVAL,
    SAVE_INTERVAL, SAVED_PEERS_MAX, TICK,
};
use super::super::net::{ip, may_dial, multiaddr, socket_address};
use super::super::saved::Saved;
use super::{KAD_PROTOCOL, Node, Serving};

impl Node {
    /// Begins to reach the bootstrap peers, and those of the last run.
    pub(super) fn join(&mut self) {
        let is_alone = self.table_size() == 0;
        let now = Instant::now();
        // Somebody who searches has seconds, and a member that is just starting or full has room a moment later.
        let is_patient = is_alone && self.searches.is_empty();
        self.join_pause = match is_patient {
            true => (self.join_pause * 2).clamp(JOIN_PAUSE_MIN, JOIN_PAUSE_MAX),
            false => JOIN_PAUSE_MIN,
        };
        self.join_at = now
            + if is_alone {
                self.join_pause
            } else {
                REJOIN_INTERVAL
            };
        if !self.resolving.is_empty() {
            return;
        }
        for bootstrap in self.config.bootstrap.clone() {
            self.resolving.spawn(async move {
                let addresses = bootstrap.addresses().await;
                let peer = bootstrap.peer;
                addresses
                    .into_iter()
                    .map(|address| (peer, address))
                    .collect()
            });
        }
        if is_alone {
            let saved = self.saved.peers.iter();
            self.dial_found(
                saved
                    .map(|(peer, address)| (Some(*peer), *address))
                    .collect(),
            );
        }
    }

    pub(super) fn dial_found(&mut self, found: Vec<(Option<PeerId>, SocketAddr)>) {
        for (peer, address) in found {
            if address.ip().is_loopback() {
                // Somebody on this machine told us to begin there, or a name of this machine leads there.
                self.is_loopback_used.store(true, Ordering::Relaxed);
            }
            let address = multiaddr(address);
            if let Some(peer) = &peer {
                self.swarm.behaviour_mut().gate.retry(peer);
            }
            let options = match peer {
                Some(peer) if self.swarm.is_connected(&peer) => continue,
                Some(peer) => DialOpts::peer_id(peer).addresses(vec![address]).build(),
                None => DialOpts::unknown_peer_id().address(address).build(),
            };
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%error, "a known peer was not dialled");
            }
        }
    }

    /// Somebody said who it is. Of what it says only addresses that it is seen at get into the table, so nobody can send
    /// others to a third party.
    pub(super) fn on_identified(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        info: &identify::Info,
    ) {
        let Some(seen_at) = self.swarm.behaviour().gate.ip(connection) else {
            return;
        };
        let dialled = self.swarm.behaviour().gate.dialled(connection);
        if dialled.is_some()
            && let Some(observed) = ip(&info.observed_addr)
        {
            let own = self.own_addresses();
            self.reach.observe(seen_at, observed, &own);
        }
        if !info.protocols.contains(&KAD_PROTOCOL) {
            // A client, or a server that became one.
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            return;
        }
        if self.is_crowded(seen_at, &peer) {
            return;
        }
        let listening = info.listen_addrs.iter().filter_map(socket_address);
        let listening = listening.filter(|address| {
            address.ip().to_canonical() == seen_at.to_canonical() && may_dial(address, true)
        });
        let kad = &mut self.swarm.behaviour_mut().kad;
        for address in dialled
            .into_iter()
            .chain(listening)
            .take(PEER_ADDRESSES_MAX)
        {
            kad.add_address(&peer, multiaddr(address));
        }
    }

    /// Whether the table has as many peers of one address as it may.
    fn is_crowded(&mut self, seen_at: IpAddr, peer: &PeerId) -> bool {
        let mut others = 0;
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            others += bucket
                .iter()
                .filter(|entry| entry.node.key.preimage() != peer)
                .filter(|entry| ip(entry.node.value.first()) == Some(seen_at))
                .count();
        }
        !seen_at.is_loopback() && others >= PEERS_PER_ADDRESS_MAX
    }

    /// A peer that cannot be reached is not looked for there again, until it comes by itself.
    pub(super) fn on_dial_failure(&mut self, peer: Option<PeerId>, error: &DialError) {
        tracing::debug!(?peer, %error, "a peer was not reached");
        let is_gone = matches!(
            error,
            DialError::Transport(_) | DialError::WrongPeerId { .. }
        );
        if let Some(peer) = peer.filter(|peer| is_gone && !self.swarm.is_connected(peer)) {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            if self.table_size() == 0 {
                self.join_at = self.join_at.min(Instant::now() + JOIN_PAUSE_MIN);
            }
        }
    }

    /// Serves others if it may and can.
    pub(super) fn choose_mode(&mut self) {
        let is_reachable = !self.config.listen.is_empty()
            && (!self.config.external.is_empty() || self.reach.is_direct());
        let mode = match self.config.serving {
            Serving::WhenReachable if is_reachable => kad::Mode::Server,
            Serving::WhenReachable | Serving::Never => kad::Mode::Client,
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        if kad.mode() != mode {
            tracing::debug!(%mode, "what this node does in the DHT changed");
            kad.set_mode(Some(mode));
        }
    }

    pub(super) fn table_size(&mut self) -> usize {
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// Begins to write what is known, if anything is and no other write goes on.
    pub(super) fn save(&mut self) {
        self.save_at = Instant::now() + SAVE_INTERVAL;
        let Some(folder) = self.config.folder.clone() else {
            return;
        };
        if self
            .saving
            .as_ref()
            .is_some_and(|saving| !saving.is_finished())
        {
            return;
        }
        let mut peers = Vec::new();
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            let known = bucket.iter().filter_map(|entry| {
                let address = socket_address(entry.node.value.first())?;
                Some((*entry.node.key.preimage(), address))
            });
            peers.extend(known);
        }
        if peers.is_empty() {
            // Nobody is known now; those of before may come back.
            peers.clone_from(&self.saved.peers);
        }
        peers.truncate(SAVED_PEERS_MAX);
        let saved = Saved {
            sequence: self.publisher.sequence(),
            peers,
        };
        if saved == self.saved {
            return;
        }
        self.saved = saved.clone();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = saved.store(&folder) {
                tracing::warn!(%error, "known peers are not kept");
            }
        }));
    }

    fn own_addresses(&mut self) -> Vec<IpAddr> {
        let (at, addresses) = &mut self.own_addresses;
        if at.elapsed() >= TICK {
            *at = Instant::now();
            *addresses = own_addresses();
        }
        addresses.clone()
    }
}

pub(super) fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().map(if_addrs::Interface::ip).collect()
}
