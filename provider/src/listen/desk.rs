//! The one task that answers DHCP: it owns both ports, what was learned about clients, and the addresses that are given.
//!
//! Everything that happens comes in as one of its inputs, one after the other. Nothing here waits for a disk or for another
//! machine: what takes time runs beside it and comes back as an input.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pxe::boot::Plan;
use pxe::client::{Client, classify};
use pxe::dhcp::{CLIENT_PORT, Destination, Kind, Reply, Request};
use pxe::leases::{self, Subnet};
use pxe::strategy::{Action, Arrival, Book, Question, Server, decide};
use tokio::sync::mpsc;

use crate::listen::addresses::{Addresses, Asked, Grant, Outcome};
use crate::listen::datagrams::{Received, Watched, Way};
use crate::listen::interfaces::{Interfaces, address_towards};
use crate::listen::later::Later;
use crate::listen::limits::{DATAGRAM_MAX, DATAGRAMS_AT_ONCE, RECEIVE_PAUSE};
use crate::listen::metrics::Fate;
use crate::listen::ports::Http;
use crate::listen::shared::{Hint, Shared};
use crate::machines::Heard;

/// Where a question came from, and who answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The port it came to.
    pub(super) arrival: Arrival,
    /// The number of the interface it came in by.
    pub(super) index: u32,
    /// Its name.
    pub(super) interface: String,
    /// The address of this machine that the client is told.
    pub(super) server: Ipv4Addr,
    /// Who sent the datagram: the client, or its relay.
    pub(super) peer: SocketAddrV4,
    /// The relay, as the client's subnet knows it.
    pub(super) relay: Option<Ipv4Addr>,
    /// The subnet of the client.
    pub(super) subnet: Subnet,
    /// Whether the client itself wrote to us through routers. Then they know the way back.
    pub(super) is_routed: bool,
    /// All addresses of this machine.
    pub(super) own: Vec<Ipv4Addr>,
}

/// A datagram that is to be sent, and what it counts as.
#[derive(Debug)]
pub(super) struct Letter {
    bytes: Vec<u8>,
    way: Way,
    arrival: Arrival,
    fate: Fate,
}

impl Letter {
    fn new(reply: &Reply, to: Destination, request: &Request, place: &Place, fate: Fate) -> Self {
        // Beyond a relay or a router the routes know the way.
        let is_near = !request.is_relayed() && !place.is_routed;
        let near = is_near.then_some(place.index);
        let everybody = |port| {
            (
                SocketAddrV4::new(Ipv4Addr::BROADCAST, port),
                Some(place.index),
            )
        };
        let (to, interface) = match to {
            Destination::Broadcast => everybody(CLIENT_PORT),
            Destination::Unicast(to, port) => (SocketAddrV4::new(to, port), near),
            // An old ROM may ask everybody before it uses its address; the kernel would send to itself.
            Destination::Sender if place.peer.ip().is_unspecified() => everybody(place.peer.port()),
            Destination::Sender => (place.peer, near),
        };
        Self {
            bytes: reply.encode(),
            way: Way {
                to,
                interface,
                from: Some(place.server),
            },
            arrival: place.arrival,
            fate,
        }
    }
}

/// What happens.
enum Input {
    Received(Arrival, io::Result<Received>),
    Heard(io::Result<Received>),
    Addresses(Outcome),
    Hint(Hint),
    Due,
}

/// The ports as the task has them.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) dhcp: Option<Watched>,
    pub(super) binl: Option<Watched>,
    pub(super) rivals: Option<Watched>,
}

/// The state of the task.
pub(super) struct Desk {
    pub(super) open: Open,
    pub(super) http: Http,
    pub(super) interfaces: Interfaces,
    /// What this server gives, when it gives addresses.
    pub(super) addresses: Option<Addresses>,
    pub(super) shared: Arc<Shared>,
    pub(super) hints: mpsc::Receiver<Hint>,
    book: Book,
    later: Later<Letter>,
    started: Instant,
}

/// One buffer for each port.
struct Buffers([Vec<u8>; 3]);

impl Desk {
    pub(super) fn new(
        open: Open,
        http: Http,
        interfaces: Interfaces,
        addresses: Option<Addresses>,
        shared: Arc<Shared>,
        hints: mpsc::Receiver<Hint>,
    ) -> Self {
        let mut book = Book::default();
        for (mac, style) in shared.machines.learned() {
            book.learn(mac, style);
        }
        Self {
            open,
            http,
            interfaces,
            addresses,
            shared,
            hints,
            book,
            later: Later::new(),
            started: Instant::now(),
        }
    }

    /// Answers until it is dropped.
    pub(super) async fn run(mut self) {
        let mut buffers = Buffers([(); 3].map(|()| vec![0; DATAGRAM_MAX]));
        loop {
            match self.next(&mut buffers).await {
                Input::Received(arrival, Ok(received)) => {
                    let at = usize::from(arrival == Arrival::Port4011);
                    if let Some(buffer) = buffers.0.get_mut(at) {
                        self.received_all(arrival, received, buffer);
                    }
                }
                Input::Heard(Ok(received)) => {
                    let bytes = buffers.0.get(2).and_then(|all| all.get(..received.length));
                    let bytes = bytes.unwrap_or_default();
                    self.heard(received, bytes);
                }
                Input::Received(_, Err(error)) | Input::Heard(Err(error)) => {
                    tracing::warn!(%error, "a boot port cannot be read");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
                Input::Addresses(outcome) => self.addresses_came(outcome),
                Input::Hint(hint) => self.heard_of(hint),
                Input::Due => {
                    let due: Vec<Letter> = self.later.take(Instant::now()).collect();
                    due.into_iter().for_each(|letter| self.send(letter));
                }
            }
        }
    }

    async fn next(&mut self, buffers: &mut Buffers) -> Input {
        let [dhcp, binl, rivals] = &mut buffers.0;
        let due = self.later.next().map(tokio::time::Instant::from_std);
        tokio::select! {
            received = receive(self.open.dhcp.as_ref(), dhcp) => Input::Received(Arrival::Port67, received),
            received = receive(self.open.binl.as_ref(), binl) => Input::Received(Arrival::Port4011, received),
            received = receive(self.open.rivals.as_ref(), rivals) => Input::Heard(received),
            outcome = came(self.addresses.as_mut()) => Input::Addresses(outcome),
            Some(hint) = self.hints.recv() => Input::Hint(hint),
            () = wait(due) => Input::Due,
        }
    }

    /// What machines do elsewhere shows whether they understood their answer.
    fn heard_of(&mut self, Hint { mac, heard }: Hint) {
        match heard {
            Heard::Forgotten => self.book.forget(mac),
            Heard::Transfer(transfer) => {
                let before = self.book.learned_style(mac);
                self.book.saw_tftp(mac, transfer, self.started.elapsed());
                let learned = self.book.learned_style(mac);
                if let Some(style) = learned.filter(|_| learned != before) {
                    self.shared.machines.learn(mac, style);
                }
            }
        }
    }

    /// Answers a datagram and those that wait behind it: in a storm, waking up for each one takes longer than answering it.
    fn received_all(&mut self, arrival: Arrival, first: Received, buffer: &mut [u8]) {
        let mut received = first;
        for left in (0..DATAGRAMS_AT_ONCE).rev() {
            let bytes = buffer.get(..received.length).unwrap_or_default();
            self.received(arrival, received, bytes);
            let socket = match arrival {
                Arrival::Port67 => &self.open.dhcp,
                Arrival::Port4011 => &self.open.binl,
            };
            let socket = socket.as_ref().filter(|_| left > 0);
            match socket.and_then(|socket| socket.receive_waiting(buffer)) {
                Some(Ok(next)) => received = next,
                Some(Err(error)) => return tracing::warn!(%error, "a boot port cannot be read"),
                None => return,
            }
        }
    }

    fn received(&mut self, arrival: Arrival, received: Received, bytes: &[u8]) {
        let metrics = &self.shared.metrics;
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(peer = %received.peer, %error, "no DHCP request");
                return metrics.count(Fate::Malformed);
            }
        };
        let Some(place) = self.place(arrival, received, &request) else {
            return self.shared.metrics.count(Fate::Interface);
        };
        let client = classify(&request);
        let is_own = place.own.contains(received.peer.ip()) && !request.is_relayed();
        if is_own && client.is_none() {
            // This server's own question for other servers, which the kernel gives back. A machine that tests itself says
            // that it boots.
            return self.shared.metrics.count(Fate::NotOurs);
        }
        tracing::debug!(
            mac = %request.mac, kind = request.kind.name(), xid = request.xid, interface = place.interface,
            firmware = client.as_ref().map(|client| client.firmware.name()), ?arrival, "asked"
        );
        if arrival == Arrival::Port67
            && leases::concerns(request.kind)
            && let Some(addresses) = &mut self.addresses
        {
            let asked = Asked {
                request,
                place,
                client,
            };
            let outcome = addresses.asked(asked);
            return self.addresses_came(outcome);
        }
        match client {
            Some(client) => self.boot(&client, &request, &place, None),
            None => self.shared.metrics.count(Fate::NotBooting),
        }
    }

    /// Answers a boot client, with the address that it is given if it is given one.
    fn boot(&mut self, client: &Client, request: &Request, place: &Place, grant: Option<Grant>) {
        let plan = self.shared.plan(client, place);
        let server = Server {
            address: place.server,
            http_port: Some(self.http.port),
            gives_addresses: grant.is_some(),
        };
        let question = Question {
            client,
            request,
            plan: &plan,
            server: &server,
            arrival: place.arrival,
        };
        match decide(&mut self.book, &question, self.started.elapsed()) {
            Action::Silence(why) => {
                let (fate, is_news) = match (&plan, request.kind) {
                    (Plan::Silence(_), _) => (Fate::Denied, true),
                    // Every machine takes its address from the other server; that is nothing to show.
                    (_, Kind::Request) => (Fate::NotOurs, place.arrival == Arrival::Port4011),
                    (_, _) => (Fate::NotOurs, true),
                };
                self.shared.metrics.count(fate);
                if is_news {
                    self.shared.not_answered(client, place, why);
                }
            }
            Action::Answer(mut answer) => {
                let fate = match (place.arrival, &grant, answer.reply.kind) {
                    (Arrival::Port4011, ..) => Fate::Answered,
                    (Arrival::Port67, Some(_), Kind::Ack) => Fate::LeaseGiven,
                    (Arrival::Port67, ..) => Fate::Offered,
                };
                if let Some(grant) = grant {
                    if fate == Fate::LeaseGiven {
                        self.shared.given(client, grant.address());
                    }
                    grant.fill(&mut answer.reply);
                }
                self.shared.answered(client, place, &answer);
                let letter = Letter::new(&answer.reply, answer.destination, request, place, fate);
                self.post(letter, answer.after);
            }
        }
    }

    /// Sends now or when it is due.
    fn post(&mut self, letter: Letter, after: Duration) {
        let letter = match after.is_zero() {
            true => Err(letter),
            false => self.later.keep(Instant::now() + after, letter),
        };
        if let Err(letter) = letter {
            self.send(letter);
        }
    }

    fn send(&self, letter: Letter) {
        let socket = match letter.arrival {
            Arrival::Port67 => &self.open.dhcp,
            Arrival::Port4011 => &self.open.binl,
        };
        let Some(socket) = socket else {
            return;
        };
        match socket.send(&letter.bytes, letter.way) {
            Ok(()) => self.shared.metrics.count(letter.fate),
            Err(error) => {
                self.shared.not_sent(letter.way.to.into(), &error);
            }
        }
    }

    /// Where a question came from and who answers it; nothing where this machine cannot be reached.
    fn place(&mut self, arrival: Arrival, received: Received, request: &Request) -> Option<Place> {
        let now = Instant::now();
        let interface = self.interfaces.get(received.interface, now)?.clone();
        let own = self.interfaces.own(now).to_vec();
        let near = Subnet {
            address: interface.address,
            prefix: Some(interface.prefix),
        };
        let peer = *received.peer.ip();
        let is_routed = !request.is_relayed() && !peer.is_unspecified() && !near.has(peer);
        let (server, subnet) = if request.is_relayed() {
            // As the relay reaches us, or else as its datagram did.
            let towards = address_towards(request.giaddr)?;
            let server = self.http.reached(&[towards, received.sent_to])?;
            (
                server,
                Subnet {
                    address: request.giaddr,
                    prefix: None,
                },
            )
        } else {
            let asked = [received.sent_to];
            let is_asked = own.contains(&received.sent_to);
            let asked = self.http.reached(&asked).filter(|_| is_asked);
            let server = asked.or_else(|| self.http.reached(&interface.addresses))?;
            // Who got an address through a relay keeps it by asking without one.
            let far = Subnet {
                address: request.ciaddr,
                prefix: None,
            };
            let is_far = is_asked && is_routed && peer == request.ciaddr;
            (server, if is_far { far } else { near })
        };
        Some(Place {
            arrival,
            index: received.interface,
            interface: interface.name,
            server,
            peer: received.peer,
            relay: request.is_relayed().then_some(request.giaddr),
            subnet,
            is_routed,
            own,
        })
    }

    /// A datagram for DHCP clients, heard because another server may have sent it.
    fn heard(&mut self, received: Received, bytes: &[u8]) {
        let Some(addresses) = &mut self.addresses else {
            return;
        };
        let now = Instant::now();
        let own = self.interfaces.own(now).to_vec();
        if let Some(interface) = self.interfaces.get(received.interface, now) {
            addresses.heard(received.interface, &interface.name, bytes, &own);
        }
    }

    /// Something became of a client's wish for an address.
    fn addresses_came(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answer(asked, grant) => match &asked.client {
                Some(client) => self.boot(client, &asked.request, &asked.place, grant),
                None => self.lease(&asked.request, &asked.place, grant),
            },
            Outcome::Refused(asked) => {
                let reply = Reply::to(&asked.request, Kind::Nak, asked.place.server);
                self.reply(&reply, &asked.request, &asked.place, Fate::LeaseRefused);
            }
            Outcome::Silence(fate) => self.shared.metrics.count(fate),
            Outcome::Later => {}
        }
    }

    /// Answers a client that does not boot, with its address.
    fn lease(&mut self, request: &Request, place: &Place, grant: Option<Grant>) {
        let Some(grant) = grant else {
            return self.shared.metrics.count(Fate::NotBooting);
        };
        let (kind, fate) = match request.kind {
            Kind::Discover => (Kind::Offer, Fate::LeaseOffered),
            _ => (Kind::Ack, Fate::LeaseGiven),
        };
        let mut reply = Reply::to(request, kind, place.server);
        grant.fill(&mut reply);
        self.reply(&reply, request, place, fate);
    }

    fn reply(&mut self, reply: &Reply, request: &Request, place: &Place, fate: Fate) {
        let to = reply.destination(request);
        self.send(Letter::new(reply, to, request, place, fate));
    }
}

async fn receive(socket: Option<&Watched>, buffer: &mut [u8]) -> io::Result<Received> {
    match socket {
        Some(socket) => socket.receive(buffer).await,
        None => pending().await,
    }
}

async fn came(addresses: Option<&mut Addresses>) -> Outcome {
    match addresses {
        Some(addresses) => addresses.next().await,
        None => pending().await,
    }
}

async fn wait(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::rival;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
    const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);

    /// Where the answer to an INFORM at `arrival` goes, of a client with the address `ciaddr` whose datagram has `peer`.
    fn way(arrival: Arrival, ciaddr: Ipv4Addr, peer: Ipv4Addr) -> (String, Option<u32>) {
        let question = rival::question(Kind::Inform, [1, 2, 3, 4], ciaddr);
        let request = Request::parse(&question).unwrap();
        let subnet = Subnet {
            address: SERVER,
            prefix: Some(24),
        };
        let place = Place {
            arrival,
            index: 7,
            interface: "eth0".to_owned(),
            server: SERVER,
            peer: SocketAddrV4::new(peer, 4011),
            relay: None,
            subnet,
            is_routed: !peer.is_unspecified() && !subnet.has(peer),
            own: vec![SERVER],
        };
        let reply = Reply::to(&request, Kind::Ack, SERVER);
        let to = match arrival {
            Arrival::Port67 => reply.destination(&request),
            Arrival::Port4011 => Destination::Sender,
        };
        let letter = Letter::new(&reply, to, &request, &place, Fate::Answered);
        assert_eq!(letter.way.from, Some(SERVER));
        (letter.way.to.to_string(), letter.way.interface)
    }

    #[test]
    fn answers_leave_by_their_interface_or_by_the_routes() {
        // C19
        let nobody = Ipv4Addr::UNSPECIFIED;
        for (arrival, ciaddr, peer, to, interface) in [
            (Arrival::Port4011, NEAR, NEAR, "192.0.2.50:4011", Some(7)),
            (Arrival::Port4011, FAR, FAR, "198.51.100.50:4011", None),
            (
                Arrival::Port4011,
                nobody,
                nobody,
                "255.255.255.255:4011",
                Some(7),
            ),
            (Arrival::Port67, NEAR, NEAR, "192.0.2.50:68", Some(7)),
            (Arrival::Port67, FAR, FAR, "198.51.100.50:68", None),
            (
                Arrival::Port67,
                nobody,
                nobody,
                "255.255.255.255:68",
                Some(7),
            ),
        ] {
            let found = way(arrival, ciaddr, peer);
            assert_eq!(
                found,
                (to.to_owned(), interface),
                "{arrival:?} {ciaddr} {peer}"
            );
        }
    }
}
