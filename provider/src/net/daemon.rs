//! The loop of the network role: waits for frames, changes of links, signals and timers, and makes the kernel be what
//! [`Uplink::wanted`] says. Decides nothing about addresses itself.
//!
//! One thread and one `poll`. What is wanted is compared with what was made, so a failed step is simply tried again at
//! the next turn, and an address left behind by an earlier life of this role is found and removed first.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use boot_manifest::handoff::Report;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use super::dhcp::Asks;
use super::hint;
use super::kernel::{Change, Ipv4, Kernel};
use super::limits::{
    ADDRESSES_REPORTED_MAX, FRAME_SIZE_MAX, FRAMES_PER_TURN_MAX, INTERFACES_MAX, ROUTE_METRIC_BASE,
};
use super::netlink::Link;
use super::resolv;
use super::resume::{self, Kept};
use super::sys::{PacketSocket, Protocol, termination_signals};
use super::uplink::{Note, Uplink, Wanted};
use super::written::Written;
use crate::init_link::InitLink;

/// A turn after a failed step comes at the latest now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One interface and its sockets.
struct Port {
    name: String,
    mac: EthernetAddress,
    uplink: Uplink,
    arp: PacketSocket,
    dhcp: PacketSocket,
    /// What the kernel was told, or `None` before the first time.
    made: Option<Option<Wanted>>,
    /// Global IPv6 addresses, kept by the kernel from router advertisements.
    ipv6: Vec<String>,
    /// The IPv6 addresses must be read again.
    ipv6_stale: bool,
    reported: Option<Report>,
    /// The lease in use as a successor gets it, and until when it lasts.
    kept: Option<(Instant, Kept)>,
}

/// The files this role keeps for others.
pub(super) struct Files {
    /// For the resolver.
    pub(super) resolv: Written,
    /// What boot servers say, when that is wanted.
    pub(super) providers: Option<Written>,
    /// The leases, for a successor.
    pub(super) leases: Written,
}

/// Everything the role knows.
pub(super) struct Daemon {
    kernel: Kernel,
    signals: OwnedFd,
    init: InitLink,
    resolv: Written,
    providers: Option<Written>,
    leases: Written,
    /// The leases of the predecessor.
    resumed: Vec<Kept>,
    asks: Asks,
    fixed: BTreeMap<String, Wanted>,
    ports: BTreeMap<u32, Port>,
    /// A step failed: try again soon.
    retry: bool,
    /// Interfaces beyond the limit were already complained about.
    full: bool,
}

impl Daemon {
    /// Opens the sockets and reads the interfaces.
    pub(super) fn start(
        init: InitLink,
        files: Files,
        asks: Asks,
        fixed: BTreeMap<String, Wanted>,
        resumed: Vec<Kept>,
    ) -> io::Result<Self> {
        let mut daemon = Self {
            kernel: Kernel::open()?,
            signals: termination_signals()?,
            init,
            resolv: files.resolv,
            providers: files.providers,
            leases: files.leases,
            resumed,
            asks,
            fixed,
            ports: BTreeMap::new(),
            retry: false,
            full: false,
        };
        daemon.read_links()?;
        daemon.write_files();
        Ok(daemon)
    }

    /// Works until SIGTERM or SIGINT, then gives the leases back.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.report(&Report::Ready {});
        loop {
            self.turn();
            let ready = self.wait()?;
            if ready.signal {
                self.stop();
                return Ok(());
            }
            if ready.change {
                self.read_changes()?;
            }
            for index in ready.ports {
                self.read_frames(index);
            }
        }
    }

    /// Lets every interface do what is due, and makes it so.
    fn turn(&mut self) {
        self.retry = false;
        let now = now();
        let indices: Vec<u32> = self.ports.keys().copied().collect();
        for index in indices {
            let Some(port) = self.ports.get_mut(&index) else {
                continue;
            };
            port.uplink.poll(now);
            port.flush();
            let wanted = port.uplink.wanted();
            if port.made.as_ref() != Some(&wanted) {
                match self.kernel.set_ipv4(
                    index,
                    metric(index),
                    wanted.as_ref().map(|w| ipv4(index, w, now)),
                ) {
                    Ok(()) => port.made = Some(wanted),
                    Err(error) => {
                        tracing::warn!(interface = %port.name, %error, "cannot set the address");
                        self.retry = true;
                    }
                }
            }
            if port.ipv6_stale {
                match self.kernel.addresses(index) {
                    Ok(addresses) => {
                        port.ipv6_stale = false;
                        port.ipv6 = addresses
                            .iter()
                            .filter(|found| found.address.is_ipv6() && found.is_global)
                            .map(|found| format!("{}/{}", found.address, found.prefix))
                            .collect();
                    }
                    Err(error) => {
                        tracing::warn!(interface = %port.name, %error, "cannot read the addresses");
                        self.retry = true;
                    }
                }
            }
            let report = port.report();
            if port.reported.as_ref() != Some(&report) {
                port.reported = Some(report.clone());
                self.report(&report);
            }
        }
        self.write_files();
    }

    /// Sleeps until something is to be done.
    fn wait(&mut self) -> io::Result<Ready> {
        let now = now();
        let mut deadline = self
            .ports
            .values_mut()
            .filter_map(|port| port.uplink.next_at(now))
            .min();
        if self.retry {
            let retry_at = now + RETRY_AFTER;
            deadline = Some(deadline.map_or(retry_at, |at| at.min(retry_at)));
        }
        let timeout = deadline.map(|at| timespec(at, now));
        let mut indices = Vec::new();
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.kernel.changes_fd(), PollFlags::IN),
        ];
        for (index, port) in &self.ports {
            for fd in [port.arp.fd(), port.dhcp.fd()] {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                indices.push(*index);
            }
        }
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let mut ports: Vec<u32> = fds
            .iter()
            .skip(2)
            .zip(indices)
            .filter_map(|(fd, index)| is_ready(fd).then_some(index))
            .collect();
        ports.dedup();
        Ok(Ready {
            signal: fds.first().is_some_and(is_ready),
            change: fds.get(1).is_some_and(is_ready),
            ports,
        })
    }

    fn read_links(&mut self) -> io::Result<()> {
        let links = self.kernel.links()?;
        self.ports
            .retain(|index, _| links.iter().any(|link| link.index == *index));
        for link in links {
            self.on_link(link);
        }
        Ok(())
    }

    fn read_changes(&mut self) -> io::Result<()> {
        for change in self.kernel.changes()? {
            match change {
                Change::Link(link) => self.on_link(link),
                Change::LinkGone(index) => self.forget(index),
                Change::Address(index) => {
                    if let Some(port) = self.ports.get_mut(&index) {
                        port.ipv6_stale = true;
                    }
                }
                Change::Missed => self.read_links()?,
            }
        }
        Ok(())
    }

    fn on_link(&mut self, link: Link) {
        if link.is_loopback {
            if !link.is_up {
                self.set_up(&link);
            }
            return;
        }
        let Some(mac) = link.mac.filter(|_| link.is_uplink()) else {
            // It became part of a bridge, say.
            self.release(link.index);
            self.forget(link.index);
            return;
        };
        if self
            .ports
            .get(&link.index)
            .is_some_and(|port| port.mac != mac)
        {
            self.forget(link.index);
        }
        if !self.ports.contains_key(&link.index) {
            if self.ports.len() >= INTERFACES_MAX {
                if !std::mem::replace(&mut self.full, true) {
                    tracing::warn!(limit = INTERFACES_MAX, interface = %link.name, "too many interfaces: left alone");
                }
                return;
            }
            match self.new_port(&link, mac) {
                Ok(port) => {
                    tracing::info!(interface = %link.name, mac = colons(mac), "interface found");
                    self.ports.insert(link.index, port);
                }
                Err(error) => {
                    tracing::error!(interface = %link.name, %error, "cannot listen on the interface");
                    return;
                }
            }
            if !link.is_up {
                self.set_up(&link);
            }
        }
        if let Some(port) = self.ports.get_mut(&link.index) {
            port.name = link.name;
            port.on_carrier(link.is_up && link.has_carrier);
        }
    }

    fn new_port(&self, link: &Link, mac: EthernetAddress) -> io::Result<Port> {
        let fixed = self.fixed.get(&link.name).cloned();
        let mut uplink = Uplink::new(mac, seed()?, self.asks, fixed, now());
        if let Some(kept) = self.resumed.iter().find(|kept| kept.mac == mac) {
            uplink.resume(kept.lease.clone(), now());
        }
        Ok(Port {
            name: link.name.clone(),
            mac,
            uplink,
            arp: PacketSocket::open(link.index, Protocol::Arp)?,
            dhcp: PacketSocket::open(link.index, Protocol::Dhcp)?,
            made: None,
            ipv6: Vec::new(),
            ipv6_stale: true,
            reported: None,
            kept: None,
        })
    }

    fn set_up(&mut self, link: &Link) {
        if let Err(error) = self.kernel.set_up(link.index) {
            tracing::error!(interface = %link.name, %error, "cannot set the interface up");
        }
    }

    fn forget(&mut self, index: u32) {
        if let Some(port) = self.ports.remove(&index) {
            tracing::info!(interface = %port.name, "interface gone");
            self.report(&Report::Network {
                interface: port.name,
                addresses: Vec::new(),
                source: "none".to_owned(),
            });
        }
    }

    fn read_frames(&mut self, index: u32) {
        let own: Vec<EthernetAddress> = self.ports.values().map(|port| port.mac).collect();
        if let Some(port) = self.ports.get_mut(&index) {
            port.read(&own);
        }
    }

    /// Leases go back, addresses go away. The links stay up for whoever comes next.
    fn stop(&mut self) {
        let indices: Vec<u32> = self.ports.keys().copied().collect();
        for index in indices {
            self.release(index);
        }
        tracing::info!("leases released");
    }

    /// Gives the lease of one interface back and takes the address away.
    fn release(&mut self, index: u32) {
        let Some(port) = self.ports.get_mut(&index) else {
            return;
        };
        port.uplink.release();
        port.flush();
        if let Err(error) = self.kernel.set_ipv4(index, metric(index), None) {
            tracing::warn!(interface = %port.name, %error, "cannot remove the address");
        }
    }

    fn write_files(&mut self) {
        let leases = self.ports.values().filter_map(|port| {
            let wanted = port.made.as_ref()?.as_ref()?;
            Some((wanted.name_servers.as_slice(), wanted.domain.as_deref()))
        });
        let text = resolv::text(leases);
        if let Err(error) = self.resolv.update(text) {
            tracing::error!(%error, "cannot write resolv.conf");
            self.retry = true;
        }
        let kept = self.ports.values_mut().filter_map(Port::keep);
        let text = resume::text(&kept.collect::<Vec<_>>());
        if let Err(error) = self.leases.update(text) {
            tracing::error!(%error, "cannot write the leases");
            self.retry = true;
        }
        let Some(file) = &mut self.providers else {
            return;
        };
        let links = self
            .ports
            .values()
            .map(|port| port.uplink.providers().all());
        let text = hint::text(links);
        // Once, and not for each of those that somebody may send in a row.
        if file.is_empty() && !text.is_empty() {
            tracing::info!("a boot server named a provider");
        }
        match file.update(text) {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "cannot write the providers");
                self.retry = true;
            }
        }
    }

    fn report(&self, report: &Report) {
        if let Err(error) = self.init.send(report) {
            tracing::warn!(%error, "cannot report to init");
        }
    }
}

/// What `wait` found.
struct Ready {
    signal: bool,
    change: bool,
    ports: Vec<u32>,
}

impl Port {
    fn on_carrier(&mut self, carrier: bool) {
        self.uplink.on_carrier(carrier, now());
        self.ipv6_stale = true;
    }

    /// Reads what arrived, up to a limit for one turn.
    fn read(&mut self, own: &[EthernetAddress]) {
        let mut buffer = [0; FRAME_SIZE_MAX];
        for socket in [&self.arp, &self.dhcp] {
            for _ in 0..FRAMES_PER_TURN_MAX {
                match socket.receive(&mut buffer) {
                    Ok(Some(frame)) => self.uplink.on_frame(frame, own, now()),
                    Ok(None) => break,
                    Err(error) => {
                        // ENETDOWN, told once when an interface is set down: the link change comes too.
                        tracing::debug!(interface = %self.name, %error, "cannot receive");
                        break;
                    }
                }
            }
        }
    }

    /// Sends what the uplink wants to send and logs what it has to say.
    fn flush(&mut self) {
        let (frames, notes) = self.uplink.take();
        for frame in frames {
            if let Err(error) = self.arp.send(&frame) {
                // Lost like any other frame: every sender here repeats itself.
                tracing::debug!(interface = %self.name, %error, "cannot send");
            }
        }
        for note in notes {
            log(&self.name, &note);
        }
    }

    /// The lease as a successor gets it. Its end by the wall clock is looked at once for each lease: the text must not
    /// change with every look.
    fn keep(&mut self) -> Option<Kept> {
        let lease = self.uplink.lease();
        let changed = lease.map(|(_, until)| until) != self.kept.as_ref().map(|(until, _)| *until);
        if changed {
            self.kept = lease.map(|(lease, until)| {
                let left = if until > now() {
                    until - now()
                } else {
                    Duration::ZERO
                };
                let kept = Kept {
                    mac: self.mac,
                    lease: lease.clone(),
                    expires_at: wall_seconds().saturating_add(left.secs()),
                };
                (until, kept)
            });
        }
        self.kept.as_ref().map(|(_, kept)| kept.clone())
    }

    fn report(&self) -> Report {
        let made = self.made.as_ref().and_then(Option::as_ref);
        let addresses: Vec<String> = made
            .map(|wanted| format!("{}/{}", wanted.address, wanted.prefix))
            .into_iter()
            .chain(self.ipv6.iter().cloned())
            .take(ADDRESSES_REPORTED_MAX)
            .collect();
        let source = match made {
            Some(wanted) => wanted.source.as_str(),
            None if addresses.is_empty() => "none",
            None => "ra",
        };
        Report::Network {
            interface: self.name.clone(),
            addresses,
            source: source.to_owned(),
        }
    }
}

fn log(interface: &str, note: &Note) {
    match note {
        Note::Leased(lease) => tracing::info!(
            interface,
            address = %lease.address,
            prefix = lease.prefix,
            router = ?lease.router,
            name_servers = ?lease.name_servers,
            domain = ?lease.domain,
            time_servers = ?lease.time_servers,
            server = %lease.server,
            seconds = lease.lifetime.secs(),
            "lease in use"
        ),
        Note::Resumed(lease) => tracing::info!(
            interface,
            address = %lease.address,
            seconds = lease.lifetime.secs(),
            "lease of the predecessor in use"
        ),
        Note::LeaseLost => tracing::warn!(interface, "lease lost"),
        Note::Declined(address, other) => {
            let other = colons(*other);
            tracing::warn!(interface, %address, other, "address is in use by another station: declined");
        }
        Note::Fallback(address) => {
            tracing::warn!(interface, %address, "no DHCP server: link-local address in use");
        }
        Note::FallbackLost(address, other) => {
            let other = colons(*other);
            tracing::warn!(interface, %address, other, "link-local address is in use by another station");
        }
    }
}

/// A hardware address as people write it.
fn colons(mac: EthernetAddress) -> String {
    mac.to_string().replace('-', ":")
}

fn metric(index: u32) -> u32 {
    ROUTE_METRIC_BASE.saturating_add(index)
}

fn ipv4(index: u32, wanted: &Wanted, now: Instant) -> Ipv4 {
    // The kernel drops the address by itself when this role is not there to do it; it rounds down, so one more second.
    let seconds = wanted.until.map(|until| {
        let left = match until > now {
            true => (until - now).secs() + 1,
            false => 1,
        };
        u32::try_from(left).unwrap_or(u32::MAX - 1)
    });
    Ipv4 {
        address: wanted.address,
        prefix: wanted.prefix,
        router: wanted.router,
        seconds,
        metric: metric(index),
    }
}

/// Time since start-up, sleep included: a lease goes on while the machine sleeps.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_micros(
        time.tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(time.tv_nsec / 1000),
    )
}

/// Seconds since 1970 by this machine's clock.
pub(super) fn wall_seconds() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    u64::try_from(time.tv_sec).unwrap_or_default()
}

fn timespec(at: Instant, now: Instant) -> Timespec {
    let micros = match at > now {
        true => (at - now).total_micros(),
        false => 0,
    };
    // Rounded up: waking a moment early would only mean another turn.
    let micros = i64::try_from(micros)
        .unwrap_or(i64::MAX)
        .saturating_add(999);
    Timespec {
        tv_sec: micros / 1_000_000,
        tv_nsec: micros % 1_000_000 * 1000,
    }
}

/// Transaction numbers must not be guessed by who only hears the broadcasts of another client.
fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
