//! The DHCPv4 client of one interface: smoltcp's client between two queues of frames.
//!
//! smoltcp keeps the protocol's states and timers (RFC 2131: discover, request, renew, rebind, expiry). Around it this
//! module puts what it leaves out: every server message is checked before smoltcp sees it ([`Lease::from_message`]),
//! what we send is limited to a burst and then one frame a second whatever a server does, DISCOVER backs off, and an
//! address can be declined or released. No socket, no clock: frames go in, frames and events come out.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::dhcpv4;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpRepr, EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr,
};

use super::hint::{self, Providers};
use super::lease::{Lease, PARAMETERS};
use super::limits::{
    DECLINE_WAIT, DHCP_QUEUE_MAX, DISCOVER_INTERVAL_MAX, DISCOVER_INTERVAL_MIN, FRAME_SIZE_MAX,
    LEASE_SECONDS_MAX, REQUEST_COUNT_MAX, REQUEST_INTERVAL, SEND_BURST_MAX, SEND_INTERVAL,
};
use super::wire::{Route, ServerMessage, dhcp_frame, parse_arp, parse_server_message, sent_dhcp};

/// What the client came to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A lease, new or changed, that is not in use yet.
    Leased(Lease),
    /// The lease we have, prolonged.
    Renewed(Lease),
    /// The lease is over: expired, or refused by the server.
    Lost,
}

/// What every message of ours says and asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    /// Options of each message. They live as long as the process, as its clients do.
    pub(super) options: &'static [DhcpOption<'static>],
    /// A provider is wanted as well: boot servers are asked, and believed as far as [`hint`] goes.
    pub(super) provider: bool,
}

/// [`PARAMETERS`], and what a boot server of ours answers with.
const WITH_PROVIDER: [u8; PARAMETERS.len() + hint::PARAMETERS.len()] = {
    let mut all = [0; PARAMETERS.len() + hint::PARAMETERS.len()];
    let (lease, provider) = all.split_at_mut(PARAMETERS.len());
    lease.copy_from_slice(PARAMETERS);
    provider.copy_from_slice(&hint::PARAMETERS);
    all
};

/// The client of one interface.
pub(super) struct Client {
    mac: EthernetAddress,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    queues: Queues,
    /// The transaction of the last message sent.
    transaction: u32,
    wants_provider: bool,
    providers: Providers,
    /// The last ACK of that transaction.
    acknowledged: Option<Lease>,
    current: Option<Lease>,
    /// Nothing is sent or read before this.
    silent_until: Instant,
    refused: u64,
}

impl Client {
    /// A client that has sent nothing yet. `seed` makes its transaction numbers; `asks` is in each message.
    pub(super) fn new(mac: EthernetAddress, seed: u64, asks: Asks, now: Instant) -> Self {
        let mut queues = Queues::new(now);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let interface = Interface::new(config, &mut queues, now);
        let mut socket = dhcpv4::Socket::new();
        socket.set_outgoing_options(asks.options);
        socket.set_parameter_request_list(match asks.provider {
            true => &WITH_PROVIDER,
            false => PARAMETERS,
        });
        socket.set_max_lease_duration(Some(Duration::from_secs(u64::from(LEASE_SECONDS_MAX))));
        // The first event of a new socket says that there is no configuration.
        let _no_configuration = socket.poll();
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mut client = Self {
            mac,
            interface,
            sockets,
            handle,
            queues,
            transaction: 0,
            wants_provider: asks.provider,
            providers: Providers::default(),
            acknowledged: None,
            current: None,
            silent_until: now,
            refused: 0,
        };
        client.set_discover_interval(DISCOVER_INTERVAL_MIN);
        client
    }

    /// Forgets everything and looks for a server again; for a link that came up.
    pub(super) fn restart(&mut self, now: Instant) {
        self.forget();
        self.providers.clear();
        self.silent_until = now;
        self.set_discover_interval(DISCOVER_INTERVAL_MIN);
    }

    /// The lease we have.
    #[cfg(test)]
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.current.as_ref()
    }

    /// The providers that boot servers named on this link.
    pub(super) fn providers(&self) -> &Providers {
        &self.providers
    }

    /// When `poll` has something to do without a frame arriving.
    pub(super) fn next_at(&mut self, now: Instant) -> Instant {
        let due = self
            .interface
            .poll_at(now, &self.sockets)
            .unwrap_or(now + DISCOVER_INTERVAL_MAX);
        due.max(self.silent_until).max(self.queues.may_send_at(now))
    }

    /// Takes a DHCP frame, or an ARP answer, which smoltcp needs to renew by unicast.
    pub(super) fn receive(
        &mut self,
        frame: &[u8],
        now: Instant,
        frames: &mut Vec<Vec<u8>>,
    ) -> Option<Event> {
        if now < self.silent_until {
            return None;
        }
        if let Some(message) = parse_server_message(frame) {
            if message.packet.client_hardware_address() != self.mac {
                return None;
            }
            if message.packet.transaction_id() != self.transaction {
                return None;
            }
            self.look_for_provider(&message);
            if is_boot_offer(&message) {
                return None;
            }
            if message.kind != DhcpMessageType::Nak {
                match Lease::from_message(&message) {
                    Ok(lease) if message.kind == DhcpMessageType::Ack => {
                        self.acknowledged = Some(lease);
                    }
                    Ok(_offer) => (),
                    Err(error) => {
                        self.refuse(&error);
                        return None;
                    }
                }
            }
        } else if parse_arp(frame).is_none_or(|arp| arp.request) {
            // smoltcp would answer requests for our address; that is the kernel's part.
            return None;
        }
        if self.queues.received.len() < DHCP_QUEUE_MAX {
            self.queues.received.push_back(frame.to_vec());
        }
        self.poll(now, frames)
    }

    /// Lets smoltcp work. Frames to send are added to `frames`.
    pub(super) fn poll(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>) -> Option<Event> {
        if now < self.silent_until {
            return None;
        }
        self.interface
            .poll(now, &mut self.queues, &mut self.sockets);
        self.note_sent();
        frames.append(&mut self.queues.to_send);
        let acknowledged = self.acknowledged.take();
        let event = self
            .sockets
            .get_mut::<dhcpv4::Socket<'_>>(self.handle)
            .poll()
            .map(|event| match event {
                dhcpv4::Event::Configured(config) => Some(config.address),
                dhcpv4::Event::Deconfigured => None,
            });
        match event {
            Some(Some(address)) => {
                let lease = acknowledged.filter(|lease| lease.address == address.address())?;
                self.set_address(address, lease.router);
                Some(self.adopt(lease))
            }
            Some(None) => {
                self.current = None;
                self.clear_address();
                self.set_discover_interval(DISCOVER_INTERVAL_MIN);
                Some(Event::Lost)
            }
            None => {
                let lease = acknowledged?;
                let same = self.current.as_ref()?.address == lease.address;
                same.then(|| self.adopt(lease))
            }
        }
    }

    /// Tells the server that somebody else has the address (RFC 2131 section 4.4.4) and starts again after the wait.
    pub(super) fn decline(&mut self, now: Instant, frames: &mut Vec<Vec<u8>>) {
        if let Some(lease) = self.current.take() {
            let mut message = self.message(DhcpMessageType::Decline, &lease);
            message.requested_ip = Some(lease.address);
            let route = Route {
                from_mac: self.mac,
                to_mac: EthernetAddress::BROADCAST,
                from: Ipv4Addr::UNSPECIFIED,
                to: Ipv4Addr::BROADCAST,
            };
            frames.extend(dhcp_frame(route, &message));
        }
        self.forget();
        self.silent_until = now + DECLINE_WAIT;
    }

    /// Gives the lease back. The caller removes the address.
    pub(super) fn release(&mut self, frames: &mut Vec<Vec<u8>>) {
        if let Some(lease) = self.current.take() {
            let mut message = self.message(DhcpMessageType::Release, &lease);
            message.client_ip = lease.address;
            let route = Route {
                from_mac: self.mac,
                to_mac: lease.station,
                from: lease.address,
                to: lease.server,
            };
            frames.extend(dhcp_frame(route, &message));
        }
        self.forget();
    }

    fn look_for_provider(&mut self, message: &ServerMessage<'_>) {
        if self.wants_provider
            && message.kind != DhcpMessageType::Nak
            && let Some(url) = hint::provider(message)
        {
            self.providers.add(url);
        }
    }

    fn adopt(&mut self, lease: Lease) -> Event {
        let renewed = self
            .current
            .as_ref()
            .is_some_and(|old| (old.address, old.prefix) == (lease.address, lease.prefix));
        self.current = Some(lease.clone());
        self.set_discover_interval(DISCOVER_INTERVAL_MIN);
        match renewed {
            true => Event::Renewed(lease),
            false => Event::Leased(lease),
        }
    }

    fn forget(&mut self) {
        self.current = None;
        self.acknowledged = None;
        self.queues.received.clear();
        self.clear_address();
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.handle);
        socket.reset();
        let _lost = socket.poll();
    }

    /// smoltcp uses these to renew by unicast; the kernel has its own.
    fn set_address(&mut self, address: Ipv4Cidr, router: Option<Ipv4Addr>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // The list has room for two.
            let _full = addresses.push(IpCidr::Ipv4(address));
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(router) = router {
            // The table has room for two; without a route, rebinding by broadcast does the work.
            let _full = routes.add_default_ipv4_route(router);
        }
    }

    fn clear_address(&mut self) {
        self.interface
            .update_ip_addrs(|addresses| addresses.clear());
        self.interface.routes_mut().remove_default_ipv4_route();
    }

    /// Remembers the transaction that answers must name, and lets DISCOVER back off.
    fn note_sent(&mut self) {
        let mut discovers = 0;
        for frame in &self.queues.to_send {
            if let Some((transaction, kind)) = sent_dhcp(frame) {
                self.transaction = transaction;
                discovers += u32::from(kind == DhcpMessageType::Discover);
            }
        }
        if discovers > 0 {
            let socket = self.sockets.get::<dhcpv4::Socket<'_>>(self.handle);
            let doubled = socket.get_retry_config().discover_timeout * 2;
            self.set_discover_interval(doubled.min(DISCOVER_INTERVAL_MAX));
        }
    }

    fn set_discover_interval(&mut self, interval: Duration) {
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.handle);
        let mut config = socket.get_retry_config();
        config.discover_timeout = interval;
        config.initial_request_timeout = REQUEST_INTERVAL;
        config.request_retries = REQUEST_COUNT_MAX;
        socket.set_retry_config(config);
    }

    /// The first and then every thousandth refusal is logged: a server on the wire must not fill the log.
    fn refuse(&mut self, error: &super::lease::LeaseError) {
        if self.refused.is_multiple_of(1000) {
            tracing::warn!(%error, refused = self.refused + 1, "ignoring what a DHCP server says");
        }
        self.refused += 1;
    }

    fn message(&self, kind: DhcpMessageType, lease: &Lease) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type: kind,
            transaction_id: self.transaction.wrapping_add(1),
            secs: 0,
            client_hardware_address: self.mac,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: Some(self.mac),
            server_identifier: Some(lease.server),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }
}

/// An offer of a boot server that gives no addresses: nothing for a client that wants one, and nothing wrong either.
fn is_boot_offer(message: &ServerMessage<'_>) -> bool {
    message.kind == DhcpMessageType::Offer && message.packet.your_ip().is_unspecified()
}

/// The device smoltcp sees: two queues, and a budget for sending.
struct Queues {
    received: VecDeque<Vec<u8>>,
    to_send: Vec<Vec<u8>>,
    /// Frames that may be sent now; grows by one each `SEND_INTERVAL` up to `SEND_BURST_MAX`.
    budget: u32,
    refilled_at: Instant,
}

impl Queues {
    fn new(now: Instant) -> Self {
        Self {
            received: VecDeque::with_capacity(DHCP_QUEUE_MAX),
            to_send: Vec::new(),
            budget: SEND_BURST_MAX,
            refilled_at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        while self.budget < SEND_BURST_MAX && self.refilled_at + SEND_INTERVAL <= now {
            self.budget += 1;
            self.refilled_at += SEND_INTERVAL;
        }
        if self.budget == SEND_BURST_MAX {
            self.refilled_at = now;
        }
    }

    fn may_send_at(&mut self, now: Instant) -> Instant {
        self.refill(now);
        match self.budget {
            0 => self.refilled_at + SEND_INTERVAL,
            _ => now,
        }
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, now: Instant) -> Option<(Received, Sending<'_>)> {
        self.refill(now);
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, now: Instant) -> Option<Sending<'_>> {
        self.refill(now);
        (self.budget > 0).then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_SIZE_MAX - 4;
        // The senders of virtual networks leave the UDP checksum to hardware that is not there: never check it.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut Queues);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        // An answer to a frame (there is none that we let in) may come without budget; it is then not sent.
        if self.0.budget > 0 {
            self.0.budget -= 1;
            self.0.to_send.push(frame);
        }
        result
    }
}

#[cfg(test)]
mod tests;
