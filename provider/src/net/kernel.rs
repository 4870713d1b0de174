//! The kernel's side of the network: interfaces, addresses and routes by rtnetlink. Needs CAP_NET_ADMIN to change any.
//!
//! One socket asks and waits for each answer, a second one hears of changes. What to set up is decided elsewhere.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::limits::{
    NETLINK_DATAGRAM_MAX, NETLINK_DATAGRAMS_PER_DUMP_MAX, NETLINK_TIMEOUT_SECONDS,
};
use super::netlink::{Address, Link, Message, Request, messages};

/// `RTMGRP_LINK | RTMGRP_IPV6_IFADDR`: changes of interfaces and of IPv6 addresses.
const GROUPS: u32 = 0x001 | 0x100;

/// The two sockets.
pub(super) struct Kernel {
    requests: OwnedFd,
    changes: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Something changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An interface is there, maybe with other flags.
    Link(Link),
    /// An interface is gone.
    LinkGone(u32),
    /// An address of this interface came or went.
    Address(u32),
    /// Changes were missed: look at everything again.
    Missed,
}

/// The IPv4 set-up of one interface that this role makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ipv4 {
    /// The address.
    pub(super) address: Ipv4Addr,
    /// Its prefix length.
    pub(super) prefix: u8,
    /// The default router.
    pub(super) router: Option<Ipv4Addr>,
    /// How long the kernel keeps it; `None` is for ever.
    pub(super) seconds: Option<u32>,
    /// The metric of its routes.
    pub(super) metric: u32,
}

impl Kernel {
    /// Opens both sockets.
    pub(super) fn open() -> io::Result<Self> {
        let requests = netlink_socket(SocketFlags::CLOEXEC, 0)?;
        let timeout = Duration::from_secs(NETLINK_TIMEOUT_SECONDS);
        set_socket_timeout(&requests, Timeout::Recv, Some(timeout))?;
        let changes = netlink_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, GROUPS)?;
        Ok(Self {
            requests,
            changes,
            sequence: 0,
            buffer: vec![0; NETLINK_DATAGRAM_MAX],
        })
    }

    /// Readable when there is a change.
    pub(super) fn changes_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// All interfaces.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(Request::dump_links(), |message| {
            if message.kind == libc::RTM_NEWLINK {
                links.extend(Link::parse(message.payload));
            }
        })?;
        Ok(links)
    }

    /// All addresses of one interface.
    pub(super) fn addresses(&mut self, interface: u32) -> io::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        self.dump(Request::dump_addresses(), |message| {
            if message.kind == libc::RTM_NEWADDR {
                addresses.extend(
                    Address::parse(message.payload).filter(|found| found.interface == interface),
                );
            }
        })?;
        Ok(addresses)
    }

    /// Sets an interface up.
    pub(super) fn set_up(&mut self, interface: u32) -> io::Result<()> {
        self.ask(Request::set_up(interface))
    }

    /// Gives the interface this IPv4 set-up and takes away any other that this role ever made.
    pub(super) fn set_ipv4(
        &mut self,
        interface: u32,
        metric: u32,
        ipv4: Option<Ipv4>,
    ) -> io::Result<()> {
        if ipv4.is_none_or(|ipv4| ipv4.router.is_none()) {
            // ESRCH: there is none.
            ignore(
                self.ask(Request::remove_default_route(interface, metric)),
                Errno::SRCH,
            )?;
        }
        let keep = ipv4.map(|ipv4| (ipv4.address, ipv4.prefix));
        for old in self.addresses(interface)? {
            let std::net::IpAddr::V4(address) = old.address else {
                continue;
            };
            if old.is_ours && keep != Some((address, old.prefix)) {
                // EADDRNOTAVAIL: its time was over just now.
                let request = Request::remove_address(interface, address, old.prefix);
                ignore(self.ask(request), Errno::ADDRNOTAVAIL)?;
            }
        }
        let Some(ipv4) = ipv4 else { return Ok(()) };
        let Ipv4 {
            address,
            prefix,
            router,
            seconds,
            metric,
        } = ipv4;
        self.ask(Request::set_address(
            interface, address, prefix, seconds, metric,
        ))?;
        if let Some(router) = router {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let on_link = (u32::from(router) ^ u32::from(address)) & mask != 0;
            self.ask(Request::set_default_route(
                interface, router, address, metric, on_link,
            ))?;
        }
        Ok(())
    }

    /// What changed since the last call.
    pub(super) fn changes(&mut self) -> io::Result<Vec<Change>> {
        let length = match recv(
            &self.changes,
            self.buffer.as_mut_slice(),
            RecvFlags::DONTWAIT,
        ) {
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(Errno::NOBUFS) => return Ok(vec![Change::Missed]),
            Err(error) => return Err(error.into()),
        };
        let datagram = self.buffer.get(..length).unwrap_or_default();
        Ok(messages(datagram).filter_map(change).collect())
    }

    /// Sends a request and waits for its result.
    fn ask(&mut self, request: Request) -> io::Result<()> {
        let mut result = Err(Errno::PROTO);
        self.exchange(request, |message| match message.error() {
            None => false,
            Some(0) => {
                result = Ok(());
                true
            }
            Some(code) => {
                result = Err(Errno::from_raw_os_error(-code));
                true
            }
        })?;
        result.map_err(io::Error::from)
    }

    /// Sends a request and reads its answers until the end of the dump.
    fn dump(&mut self, request: Request, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        let mut failed = None;
        self.exchange(request, |message| {
            each(message);
            failed = message.error().filter(|code| *code != 0);
            message.is_done() || failed.is_some()
        })?;
        match failed {
            Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg()).into()),
            None => Ok(()),
        }
    }

    /// Reads answers of one request until `is_last` says so.
    fn exchange(
        &mut self,
        request: Request,
        mut is_last: impl FnMut(&Message<'_>) -> bool,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        send(
            &self.requests,
            &request.finish(sequence),
            SendFlags::empty(),
        )?;
        for _ in 0..NETLINK_DATAGRAMS_PER_DUMP_MAX {
            let length = match recv(
                &self.requests,
                self.buffer.as_mut_slice(),
                RecvFlags::empty(),
            ) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let datagram = self.buffer.get(..length).unwrap_or_default();
            // Answers to an earlier request that timed out are passed over.
            let mut ours = messages(datagram).filter(|message| message.sequence == sequence);
            if ours.any(|message| is_last(&message)) {
                return Ok(());
            }
        }
        Err(io::Error::other("the kernel's answer has no end"))
    }
}

fn netlink_socket(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    // No protocol means NETLINK_ROUTE.
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

fn change(message: Message<'_>) -> Option<Change> {
    match message.kind {
        libc::RTM_NEWLINK => Link::parse(message.payload).map(Change::Link),
        libc::RTM_DELLINK => Link::parse(message.payload).map(|link| Change::LinkGone(link.index)),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            Address::parse(message.payload).map(|address| Change::Address(address.interface))
        }
        _ => None,
    }
}

fn ignore(result: io::Result<()>, expected: Errno) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(expected.raw_os_error()) => Ok(()),
        other => other,
    }
}
