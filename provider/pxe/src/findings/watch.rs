//! Sorts packets into the stories of machines. A machine has a story once it asked for something to boot; all others on the
//! LAN are none of our business and leave no trace here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::http::Fetch;
use super::limits::{ADDRESSES_MAX, ARP_WAIT, MESSAGES_MAX, STORIES_MAX, TRANSFERS_MAX};
use super::story::{Answer, Ask, Story};
use super::tftp::{self, Transfer};
use super::{Finding, rules, six};
use crate::Mac;
use crate::client::classify;
use crate::dhcp::{Kind, Message, Operation, Request};
use crate::packet::{Content, Flags, Packet, Payload};

/// All machines that boot, as seen from beside. Bounded, whatever is sent.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    stories: BTreeMap<Mac, Story>,
    /// Whose address it is.
    owners: BTreeMap<IpAddr, Mac>,
    /// The addresses of the place of watching; none when it sees everything.
    place: Option<Vec<IpAddr>>,
}

impl Watch {
    /// A watch from a machine of the LAN, which has these addresses. A switch shows it what is sent to all and what it says
    /// itself, and not what others say to each other.
    pub fn from_machine(addresses: Vec<IpAddr>) -> Self {
        Self {
            place: Some(addresses),
            ..Self::default()
        }
    }

    /// Takes a packet; gives the machine it belongs to, none if it is nobody's who boots.
    pub fn see(&mut self, packet: &Packet) -> Option<Mac> {
        let mac = match &packet.content {
            Content::Udp(payload) => self.udp(packet, payload),
            Content::Tcp(flags, payload) => self.tcp(packet, *flags, payload),
            Content::Unreachable(about) => {
                let mac = self.owner(packet.target.ip())?;
                push(
                    &mut self.story(mac)?.refused,
                    (packet.at, *about),
                    TRANSFERS_MAX,
                );
                Some(mac)
            }
            Content::ArpRequest => self.arp_request(packet),
            Content::ArpReply => {
                let mac = self.owner(packet.target.ip())?;
                self.story(mac)?.unanswered_arp.remove(&packet.source.ip());
                Some(mac)
            }
            Content::Fragment => {
                let mac = self.owner(packet.target.ip())?;
                let story = self.story(mac)?;
                story.fragments = story.fragments.saturating_add(1);
                Some(mac)
            }
        }?;
        let is_seen_whole = self.shows_all(packet);
        let story = self.story(mac)?;
        story.last = packet.at;
        story.is_seen_whole |= is_seen_whole;
        Some(mac)
    }

    /// Whether a packet shows that nothing is hidden from here: it was said here, or by one machine to another.
    fn shows_all(&self, packet: &Packet) -> bool {
        let Some(place) = &self.place else {
            return true;
        };
        let is_for_all = match packet.target.ip() {
            IpAddr::V4(address) => address.is_broadcast() || address.is_multicast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        match packet.content {
            // These are sent to all on Ethernet, whatever the address in them is.
            Content::ArpRequest => false,
            _ => place.contains(&packet.source.ip()) || !is_for_all,
        }
    }

    /// The machines, by their addresses.
    pub fn stories(&self) -> impl Iterator<Item = &Story> {
        self.stories.values()
    }

    /// The story of one machine.
    pub fn of(&self, mac: Mac) -> Option<&Story> {
        self.stories.get(&mac)
    }

    /// What is to be said about a machine, the worst first. What waits for an answer counts from `now`; with `over`, nothing
    /// more comes, so nothing is waited for.
    pub fn findings(&self, story: &Story, now: Duration, over: bool) -> Vec<Finding> {
        rules::judge(story, if over { Duration::MAX } else { now })
    }

    fn udp(&mut self, packet: &Packet, payload: &Payload) -> Option<Mac> {
        let ports = [packet.source.port(), packet.target.port()];
        if packet.is_dhcp() {
            self.dhcp(packet, payload)
        } else if six::PORTS.iter().all(|port| ports.contains(port)) {
            self.dhcp6(packet, payload)
        } else {
            self.tftp(packet, payload)
        }
    }

    fn dhcp(&mut self, packet: &Packet, payload: &Payload) -> Option<Mac> {
        let message = Message::parse(&payload.bytes).ok()?;
        let mac = message.mac;
        if message.operation == Operation::Reply {
            let story = self.stories.get_mut(&mac)?;
            let is_ack = message.kind == Kind::Ack && !message.yiaddr.is_unspecified();
            let address = is_ack.then_some(IpAddr::V4(message.yiaddr));
            let answer = Answer {
                at: packet.at,
                source: packet.source,
                target: packet.target,
                size: payload.size(),
                message,
            };
            push(&mut story.answers, answer, MESSAGES_MAX);
            if let Some(address) = address {
                self.owns(mac, address);
            }
            return Some(mac);
        }
        let request = Request::from_message(message).ok()?;
        let client = classify(&request);
        if client.is_some() {
            self.open(mac, packet.at);
        }
        let story = self.stories.get_mut(&mac)?;
        // A relay sends on what was seen already when both sides of it are watched.
        let again = |ask: &Ask| {
            ask.request.xid == request.xid
                && ask.request.kind == request.kind
                && ask.request.is_relayed() != request.is_relayed()
        };
        if story.asks.last().is_some_and(again) {
            return Some(mac);
        }
        let ask = Ask {
            at: packet.at,
            target: packet.target,
            request,
            client,
        };
        let uses = ask.request.ciaddr;
        push(&mut story.asks, ask, MESSAGES_MAX);
        if !uses.is_unspecified() {
            self.owns(mac, IpAddr::V4(uses));
        }
        Some(mac)
    }

    fn dhcp6(&mut self, packet: &Packet, payload: &Payload) -> Option<Mac> {
        let mac = if packet.target.port() == six::PORTS[1] {
            let mac = packet.link?;
            if six::asks_to_boot(payload) {
                self.open(mac, packet.at);
            }
            self.stories
                .contains_key(&mac)
                .then(|| self.owns(mac, packet.source.ip()))?;
            mac
        } else {
            self.owner(packet.target.ip())?
        };
        self.story(mac)?.six.take(packet.at, payload);
        Some(mac)
    }

    fn tftp(&mut self, packet: &Packet, payload: &Payload) -> Option<Mac> {
        let (source, target) = (packet.source, packet.target);
        if let Some(asked) = tftp::asked(&payload.bytes) {
            let mac = self.sender(packet)?;
            let story = self.story(mac)?;
            let mut known = story.transfers.iter_mut();
            let same = |transfer: &&mut Transfer| {
                transfer.client == source
                    && transfer.server == target
                    && transfer.name == asked.name
            };
            match known.rfind(same) {
                Some(transfer) if transfer.error.is_none() && !transfer.whole => {
                    transfer.asked += 1;
                    (transfer.last, transfer.client_last) = (packet.at, packet.at);
                }
                _ => {
                    let transfer = Transfer::new(packet.at, source, target, asked);
                    push(&mut story.transfers, transfer, TRANSFERS_MAX);
                }
            }
            return Some(mac);
        }
        let owners = [source.ip(), target.ip()].map(|address| self.owner(address));
        let mac = owners.into_iter().flatten().next()?;
        let mut transfers = self.story(mac)?.transfers.iter_mut();
        let transfer = transfers.rfind(|transfer| transfer.is_of(source, target))?;
        transfer.take(packet.at, source, payload);
        Some(mac)
    }

    fn tcp(&mut self, packet: &Packet, flags: Flags, payload: &Payload) -> Option<Mac> {
        let (source, target) = (packet.source, packet.target);
        let is_of = |fetch: &&mut Fetch| {
            (fetch.client, fetch.server) == (source, target)
                || (fetch.client, fetch.server) == (target, source)
        };
        let opens = flags.syn && !flags.ack;
        if let (true, Some(mac)) = (opens, self.owner(source.ip())) {
            let story = self.story(mac)?;
            if !story.fetches.iter_mut().any(|fetch| is_of(&fetch)) {
                let fetch = Fetch::new(packet.at, source, target);
                push(&mut story.fetches, fetch, TRANSFERS_MAX);
            }
        }
        let owners = [source.ip(), target.ip()].map(|address| self.owner(address));
        let mac = owners.into_iter().flatten().next()?;
        let mut fetches = self.story(mac)?.fetches.iter_mut();
        let fetch = fetches.rfind(is_of)?;
        fetch.take(packet.at, source, flags, payload);
        Some(mac)
    }

    fn arp_request(&mut self, packet: &Packet) -> Option<Mac> {
        let mac = self.sender(packet)?;
        let wanted = packet.target.ip();
        let is_own = packet.source.ip() == wanted || packet.source.ip().is_unspecified();
        let story = self.story(mac)?;
        let known = &mut story.unanswered_arp;
        if !is_own && (known.len() < ADDRESSES_MAX || known.contains_key(&wanted)) {
            let (tries, last) = known.entry(wanted).or_default();
            // Later it asks anew, because it forgot.
            let is_again = packet.at.saturating_sub(*last) < ARP_WAIT;
            *tries = if is_again { tries.saturating_add(1) } else { 1 };
            *last = packet.at;
        }
        Some(mac)
    }

    /// Who sent it: by the address it has, else by its Ethernet address.
    fn sender(&mut self, packet: &Packet) -> Option<Mac> {
        let address = packet.source.ip();
        if let Some(mac) = self.owner(address) {
            return Some(mac);
        }
        let mac = packet.link.filter(|mac| self.stories.contains_key(mac))?;
        if !address.is_unspecified() {
            self.owns(mac, address);
        }
        Some(mac)
    }

    fn owner(&self, address: IpAddr) -> Option<Mac> {
        self.owners.get(&address).copied()
    }

    fn owns(&mut self, mac: Mac, address: IpAddr) {
        let Some(story) = self.stories.get_mut(&mac) else {
            return;
        };
        let before = self.owners.insert(address, mac);
        if before != Some(mac) {
            story.addresses.push(address);
            if story.addresses.len() > ADDRESSES_MAX {
                self.owners.remove(&story.addresses.remove(0));
            }
        }
    }

    fn story(&mut self, mac: Mac) -> Option<&mut Story> {
        self.stories.get_mut(&mac)
    }

    /// Begins a story, in the place of the one that was silent longest when there is no other.
    fn open(&mut self, mac: Mac, at: Duration) {
        if self.stories.contains_key(&mac) {
            return;
        }
        if self.stories.len() >= STORIES_MAX {
            let oldest = self.stories.values().min_by_key(|story| story.last);
            if let Some(oldest) = oldest.map(|story| story.mac) {
                self.stories.remove(&oldest);
                self.owners.retain(|_, owner| *owner != oldest);
            }
        }
        self.stories.insert(mac, Story::new(mac, at));
    }
}

/// Adds to a list that forgets its oldest.
fn push<T>(list: &mut Vec<T>, item: T, most: usize) {
    if list.len() >= most {
        list.remove(0);
    }
    list.push(item);
}
