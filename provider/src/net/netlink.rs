//! The rtnetlink messages of this role: a dozen of the kernel's two hundred.
//!
//! Hand-made because that is all there is to it: rtnetlink would bring 14 crates and an async runtime into a role that
//! needs neither. Building and parsing only; the socket is in [`super::kernel`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::EthernetAddress;

/// Bytes of `nlmsghdr`.
const HEADER_LEN: usize = 16;
/// Bytes of `ifinfomsg`.
const LINK_LEN: usize = 16;
/// Bytes of `ifaddrmsg`.
const ADDRESS_LEN: usize = 8;
/// `IFA_PROTO`: who set an address; Linux 5.18, absent in older headers.
const IFA_PROTO: u16 = 11;
/// `IFA_FLAGS`: the whole 32 bits.
const IFA_FLAGS: u16 = 8;
/// `IFA_RT_PRIORITY`: the metric of the subnet's route.
const IFA_RT_PRIORITY: u16 = 9;
/// Our mark in `IFA_PROTO`, so that addresses of an earlier life of this role are known as ours. Free for anybody: the
/// kernel uses 1 to 3.
pub(super) const ADDRESS_OWNER: u8 = 0x70;
/// `RTPROT_DHCP`: the mark of routes that a DHCP client made.
const ROUTE_OWNER: u8 = 16;
/// `RTNH_F_ONLINK`: the router is on the link although no subnet of ours contains it.
const ROUTE_ON_LINK: u32 = 4;

/// One message in a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub(super) kind: u16,
    /// The request it answers.
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram, up to the first that does not fit.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let message = Message {
            kind: u16_at(datagram, 4)?,
            sequence: u32_at(datagram, 8)?,
            payload: datagram.get(HEADER_LEN..length)?,
        };
        datagram = datagram.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

impl Message<'_> {
    /// The result in an `NLMSG_ERROR`: 0 or a negated errno.
    pub(super) fn error(&self) -> Option<i32> {
        let bytes = self.payload.get(..4)?.try_into().ok()?;
        (i32::from(self.kind) == libc::NLMSG_ERROR).then(|| i32::from_ne_bytes(bytes))
    }

    /// Whether a dump ends here.
    pub(super) fn is_done(&self) -> bool {
        i32::from(self.kind) == libc::NLMSG_DONE
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number.
    pub(super) index: u32,
    /// Its name; kernel names are printable, others become `?`.
    pub(super) name: String,
    /// `None` when it is not an Ethernet-like interface with a usable hardware address.
    pub(super) mac: Option<EthernetAddress>,
    /// Set up.
    pub(super) is_up: bool,
    /// Has a carrier.
    pub(super) has_carrier: bool,
    /// Loopback.
    pub(super) is_loopback: bool,
    /// Part of a bridge or bond, or the hidden half of a virtual card.
    pub(super) has_master: bool,
    /// What made it, for virtual ones (`veth`, `tun`, `bridge`, ...).
    pub(super) virtual_kind: Option<String>,
}

impl Link {
    /// Whether this role configures it: hardware, and veth, which is the hardware of containers. Taps, bridges and the
    /// like belong to whoever made them.
    pub(super) fn is_uplink(&self) -> bool {
        self.mac.is_some()
            && !self.is_loopback
            && !self.has_master
            && self
                .virtual_kind
                .as_deref()
                .is_none_or(|kind| kind == "veth")
    }

    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK`.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let flags = u32_at(payload, 8)?;
        let is_ethernet = u16_at(payload, 2)? == libc::ARPHRD_ETHER;
        let mut link = Self {
            index: u32_at(payload, 4)?,
            name: String::new(),
            mac: None,
            is_up: flags & libc::IFF_UP as u32 != 0,
            has_carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
            is_loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
            has_master: false,
            virtual_kind: None,
        };
        for (kind, data) in attributes(payload.get(LINK_LEN..)?) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(data),
                libc::IFLA_ADDRESS if is_ethernet && data.len() == 6 => {
                    let mac = EthernetAddress::from_bytes(data);
                    link.mac = (mac.is_unicast() && mac.0 != [0; 6]).then_some(mac);
                }
                libc::IFLA_MASTER => link.has_master = true,
                libc::IFLA_LINKINFO => {
                    link.virtual_kind = attributes(data)
                        .find(|(kind, _)| *kind == libc::IFLA_INFO_KIND)
                        .map(|(_, data)| text(data));
                }
                _ => (),
            }
        }
        Some(link)
    }
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface.
    pub(super) interface: u32,
    /// The address.
    pub(super) address: IpAddr,
    /// Its prefix length.
    pub(super) prefix: u8,
    /// Set by this role, maybe in an earlier life.
    pub(super) is_ours: bool,
    /// Valid beyond the link, and not still being checked for duplicates.
    pub(super) is_global: bool,
}

impl Address {
    /// Reads an `RTM_NEWADDR` or `RTM_DELADDR`.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let family = i32::from(*payload.first()?);
        let prefix = *payload.get(1)?;
        let mut flags = u32::from(*payload.get(2)?);
        let scope = *payload.get(3)?;
        let interface = u32_at(payload, 4)?;
        let (mut address, mut local, mut is_ours) = (None, None, false);
        for (kind, data) in attributes(payload.get(ADDRESS_LEN..)?) {
            match kind {
                libc::IFA_ADDRESS => address = ip_address(family, data),
                libc::IFA_LOCAL => local = ip_address(family, data),
                IFA_FLAGS => flags = u32_at(data, 0)?,
                IFA_PROTO => is_ours = data.first() == Some(&ADDRESS_OWNER),
                _ => (),
            }
        }
        let unfinished = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;
        Some(Self {
            interface,
            address: local.or(address)?,
            prefix,
            is_ours,
            is_global: scope == libc::RT_SCOPE_UNIVERSE && flags & unfinished == 0,
        })
    }
}

/// A request under construction.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Asks for all interfaces.
    pub(super) fn dump_links() -> Self {
        let mut request = Self::new(libc::RTM_GETLINK, libc::NLM_F_DUMP);
        request.bytes.extend([0; LINK_LEN]);
        request
    }

    /// Asks for all addresses.
    pub(super) fn dump_addresses() -> Self {
        let mut request = Self::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
        request.bytes.extend([0; ADDRESS_LEN]);
        request
    }

    /// Sets an interface up.
    pub(super) fn set_up(interface: u32) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK, libc::NLM_F_ACK);
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        request.bytes.extend([0; 4]);
        request.bytes.extend(interface.to_ne_bytes());
        request.bytes.extend(up);
        // Which flags to change.
        request.bytes.extend(up);
        request
    }

    /// Adds or prolongs an address. `seconds` is how long the kernel keeps it.
    pub(super) fn set_address(
        interface: u32,
        address: Ipv4Addr,
        prefix: u8,
        seconds: Option<u32>,
        metric: u32,
    ) -> Self {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Self::new(libc::RTM_NEWADDR, flags);
        let scope = match address.is_link_local() {
            true => libc::RT_SCOPE_LINK,
            false => libc::RT_SCOPE_UNIVERSE,
        };
        request.address_header(interface, prefix, scope);
        request.attribute(libc::IFA_LOCAL, &address.octets());
        request.attribute(libc::IFA_ADDRESS, &address.octets());
        if prefix < 31 {
            let broadcast = Ipv4Addr::from(u32::from(address) | (u32::MAX >> prefix));
            request.attribute(libc::IFA_BROADCAST, &broadcast.octets());
        }
        let forever = u32::MAX;
        let seconds = seconds.unwrap_or(forever).to_ne_bytes();
        // ifa_cacheinfo: preferred, valid, and two times that only the kernel sets.
        let mut lifetime = [0; 16];
        lifetime[..4].copy_from_slice(&seconds);
        lifetime[4..8].copy_from_slice(&seconds);
        request.attribute(libc::IFA_CACHEINFO, &lifetime);
        request.attribute(IFA_RT_PRIORITY, &metric.to_ne_bytes());
        request.attribute(IFA_PROTO, &[ADDRESS_OWNER]);
        request
    }

    /// Removes an address.
    pub(super) fn remove_address(interface: u32, address: Ipv4Addr, prefix: u8) -> Self {
        let mut request = Self::new(libc::RTM_DELADDR, libc::NLM_F_ACK);
        request.address_header(interface, prefix, libc::RT_SCOPE_UNIVERSE);
        request.attribute(libc::IFA_LOCAL, &address.octets());
        request
    }

    /// Adds or replaces the default route of an interface. `on_link`: the router is outside our subnet.
    pub(super) fn set_default_route(
        interface: u32,
        router: Ipv4Addr,
        source: Ipv4Addr,
        metric: u32,
        on_link: bool,
    ) -> Self {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Self::new(libc::RTM_NEWROUTE, flags);
        request.route_header(on_link);
        request.attribute(libc::RTA_GATEWAY, &router.octets());
        request.attribute(libc::RTA_PREFSRC, &source.octets());
        request.attribute(libc::RTA_OIF, &interface.to_ne_bytes());
        request.attribute(libc::RTA_PRIORITY, &metric.to_ne_bytes());
        request
    }

    /// Removes the default route that `set_default_route` made.
    pub(super) fn remove_default_route(interface: u32, metric: u32) -> Self {
        let mut request = Self::new(libc::RTM_DELROUTE, libc::NLM_F_ACK);
        request.route_header(false);
        request.attribute(libc::RTA_OIF, &interface.to_ne_bytes());
        request.attribute(libc::RTA_PRIORITY, &metric.to_ne_bytes());
        request
    }

    /// The datagram.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        // A request has a few hundred bytes.
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn new(kind: u16, flags: libc::c_int) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    fn address_header(&mut self, interface: u32, prefix: u8, scope: u8) {
        self.bytes.extend([libc::AF_INET as u8, prefix, 0, scope]);
        self.bytes.extend(interface.to_ne_bytes());
    }

    /// An `rtmsg` for 0.0.0.0/0 in the main table.
    fn route_header(&mut self, on_link: bool) {
        self.bytes.extend([
            libc::AF_INET as u8,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            ROUTE_OWNER,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        let flags = match on_link {
            true => ROUTE_ON_LINK,
            false => 0,
        };
        self.bytes.extend(flags.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, data: &[u8]) {
        // Our attributes have at most 16 bytes.
        let length = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(data);
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// Kind and data of each attribute, up to the first that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // NLA_F_NESTED and NLA_F_NET_BYTEORDER.
    const KIND_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND_MASK;
        let data = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, data))
    })
}

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A NUL-terminated name, printable characters only.
fn text(data: &[u8]) -> String {
    data.iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| match byte.is_ascii_graphic() {
            true => char::from(*byte),
            false => '?',
        })
        .collect()
}

fn ip_address(family: i32, data: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
