//! Takes the packets of boot traffic out of captured frames: Ethernet with VLAN tags, Linux "any" captures, bare IP.
//!
//! Captures cut frames short, so sizes are taken from the headers and bytes from what is there. Checksums are not looked at:
//! network cards compute them after a capture has seen the frame. What is not UDP, TCP, ARP or an ICMP refusal is nothing here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::Mac;
use crate::packet::{Content, Flags, Packet, Payload};

/// What captured frames begin with; the numbers are those of capture files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// 1: Ethernet.
    Ethernet,
    /// 113: what Linux gives for the interface "any".
    Cooked,
    /// 276: the same, its second version.
    Cooked2,
    /// 12, 101, 228, 229: IP without anything before it.
    Ip,
}

/// VLAN tags in front of one packet: two is what providers' networks use.
const TAGS_MAX: usize = 2;

impl Link {
    /// The link layer with this number; none if its frames cannot be read here.
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            113 => Some(Self::Cooked),
            276 => Some(Self::Cooked2),
            12 | 101 | 228 | 229 => Some(Self::Ip),
            _ => None,
        }
    }
}

/// The packet in a frame; none if it is nothing of ours or too short to tell.
pub fn packet(link: Link, frame: &[u8], at: Duration) -> Option<Packet> {
    let (sender, kind, body) = match link {
        Link::Ethernet => (mac(frame, 6), word(frame, 12)?, frame.get(14..)?),
        Link::Cooked => (mac(frame, 6), word(frame, 14)?, frame.get(16..)?),
        Link::Cooked2 => (mac(frame, 12), word(frame, 0)?, frame.get(20..)?),
        Link::Ip => {
            let version = frame.first()? >> 4;
            let kind = if version == 6 { IPV6 } else { IPV4 };
            (None, kind, frame)
        }
    };
    network(kind, sender, body, at)
}

/// The packet in the body of a frame, where the kernel took the link layer off: its Ethernet type, and who sent it.
pub fn network(kind: u16, sender: Option<Mac>, body: &[u8], at: Duration) -> Option<Packet> {
    let (kind, body) = untagged(kind, body)?;
    let (source, target, content) = match kind {
        IPV4 => ipv4(body)?,
        IPV6 => ipv6(body)?,
        ARP => arp(body)?,
        _ => return None,
    };
    Some(Packet {
        at,
        link: sender.filter(|mac| mac.is_machine()),
        source,
        target,
        content,
    })
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

type Parts = (SocketAddr, SocketAddr, Content);

fn untagged(mut kind: u16, mut body: &[u8]) -> Option<(u16, &[u8])> {
    for _tag in 0..TAGS_MAX {
        if VLAN.contains(&kind) {
            (kind, body) = (word(body, 2)?, body.get(4..)?);
        }
    }
    Some((kind, body))
}

fn arp(body: &[u8]) -> Option<Parts> {
    const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    if !body.starts_with(&ETHERNET_AND_IPV4) {
        return None;
    }
    let content = match word(body, 6)? {
        1 => Content::ArpRequest,
        2 => Content::ArpReply,
        _ => return None,
    };
    let (source, target) = (address4(body, 14)?, address4(body, 24)?);
    Some((alone(source), alone(target), content))
}

fn ipv4(packet: &[u8]) -> Option<Parts> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(word(packet, 2)?);
    let (source, target) = (address4(packet, 12)?, address4(packet, 16)?);
    let fragment = word(packet, 6)? & 0x1fff;
    if packet.first()? >> 4 != 4 || header < 20 || total < header {
        return None;
    }
    if fragment != 0 {
        return Some((alone(source), alone(target), Content::Fragment));
    }
    let body = packet.get(header..)?;
    transport(*packet.get(9)?, source, target, body, total - header)
}

fn ipv6(packet: &[u8]) -> Option<Parts> {
    const HEADER: usize = 40;
    const FRAGMENT: u8 = 44;
    let size = usize::from(word(packet, 4)?);
    let (source, target) = (address6(packet, 8)?, address6(packet, 24)?);
    let body = packet.get(HEADER..)?;
    match *packet.get(6)? {
        // The first fragment has offset 0 and is as good as whole here.
        FRAGMENT if word(body, 2)? >> 3 != 0 => {
            Some((alone(source), alone(target), Content::Fragment))
        }
        FRAGMENT => transport(
            *body.first()?,
            source,
            target,
            body.get(8..)?,
            size.checked_sub(8)?,
        ),
        kind => transport(kind, source, target, body, size),
    }
}

/// What IP carries: `size` is how long it is by its header, `body` what of it was captured.
fn transport(kind: u8, source: IpAddr, target: IpAddr, body: &[u8], size: usize) -> Option<Parts> {
    let ports = || Some((word(body, 0)?, word(body, 2)?));
    let (with_ports, content) = match kind {
        17 => (
            ports()?,
            Content::Udp(payload(body, 8, size.min(word(body, 4)?.into()))?),
        ),
        6 => {
            let (header, flags) = (usize::from(*body.get(12)? >> 4) * 4, *body.get(13)?);
            let flags = Flags {
                fin: flags & 1 != 0,
                syn: flags & 2 != 0,
                rst: flags & 4 != 0,
                ack: flags & 16 != 0,
            };
            (ports()?, Content::Tcp(flags, payload(body, header, size)?))
        }
        1 | 58 => ((0, 0), Content::Unreachable(unreachable(kind, body)?)),
        _ => return None,
    };
    let (from, to) = with_ports;
    Some((
        SocketAddr::new(source, from),
        SocketAddr::new(target, to),
        content,
    ))
}

/// What an ICMP message says cannot be reached: it quotes the beginning of the packet that was refused.
fn unreachable(kind: u8, body: &[u8]) -> Option<SocketAddr> {
    let (is_refusal, header, inner) = match kind {
        1 => (*body.first()? == 3, 20, 9),
        _ => (*body.first()? == 1, 40, 6),
    };
    let quoted = body.get(8..)?;
    let to = if kind == 1 {
        address4(quoted, 16)?
    } else {
        address6(quoted, 24)?
    };
    let has_ports = matches!(quoted.get(inner)?, 6 | 17);
    let port = if has_ports {
        word(quoted, header + 2)?
    } else {
        0
    };
    is_refusal.then_some(SocketAddr::new(to, port))
}

fn payload(body: &[u8], header: usize, size: usize) -> Option<Payload> {
    let wanted = size.checked_sub(header)?;
    let there = body.get(header..).unwrap_or_default();
    let bytes = there.get(..wanted).unwrap_or(there);
    Some(Payload {
        bytes: bytes.to_vec(),
        left_out: wanted - bytes.len(),
    })
}

fn alone(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(bytes.get(at..at + 6)?.try_into().ok()?))
}

fn address4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn address6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        let pairs = digits.chunks_exact(2);
        pairs.map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    /// A frame behind its link layer, as a transcript tells it; nothing for what is not ours.
    fn check(link: Link, frame: &str, told: &str) {
        let packet = packet(link, &bytes(frame), Duration::ZERO);
        let line = packet.map(|packet| crate::transcript::Line(&packet).to_string());
        assert_eq!(line.as_deref().unwrap_or("nothing"), told, "{frame}");
    }

    const UDP: &str =
        "4500 0020 0000 0000 4011 0000 0a000009 0a000002  0816 0045 000c 0000 0003 0001";
    const TOLD: &str = "udp 10.0.0.9:2070 > 10.0.0.2:69 00030001 # DATA 1";

    #[test]
    fn every_link_layer_is_taken_off() {
        let ethernet = "525400000001 525400000009 0800";
        let sent = format!("0.000000 52:54:00:00:00:09 {TOLD}");
        check(Link::Ethernet, &format!("{ethernet} {UDP}"), &sent);
        check(Link::Ethernet, &format!("{ethernet} {UDP} 00000000"), &sent);
        let tagged = "525400000001 525400000009 8100 0007 0800";
        check(Link::Ethernet, &format!("{tagged} {UDP}"), &sent);
        let cooked = "0000 0001 0006 525400000009 0000 0800";
        check(Link::Cooked, &format!("{cooked} {UDP}"), &sent);
        let cooked2 = "0800 0000 00000002 0001 00 06 525400000009 0000";
        check(Link::Cooked2, &format!("{cooked2} {UDP}"), &sent);
        check(Link::Ip, UDP, &format!("0.000000 - {TOLD}"));
    }

    #[test]
    fn what_was_cut_is_counted() {
        let cut =
            "4500 05d8 0000 0000 4011 0000 0a000009 0a000002  0816 0045 05c4 0000 0003 0001 4d5a";
        let told = "0.000000 - udp 10.0.0.9:2070 > 10.0.0.2:69 000300014d5a +1462 # DATA 1";
        check(Link::Ip, cut, told);
    }

    #[test]
    fn refusals_arp_and_fragments_are_told() {
        let icmp = "4500 003c 0000 0000 4001 0000 0a000002 0a000009  0303 0000 00000000";
        let told =
            "0.000000 - icmp 10.0.0.2 > 10.0.0.9 unreachable=10.0.0.2:69 # ICMP: unreachable";
        check(Link::Ip, &format!("{icmp} {UDP}"), told);
        let arp = "ffffffffffff 525400000009 0806 0001 0800 0604 0001 525400000009 0a000009 000000000000 0a000002";
        let told = "0.000000 52:54:00:00:00:09 arp 10.0.0.9 > 10.0.0.2 request # who has it?";
        check(Link::Ethernet, arp, told);
        let fragment = "4500 0020 0000 00b9 4011 0000 0a000009 0a000002 00000000";
        let told = "0.000000 - fragment 10.0.0.9 > 10.0.0.2 # a fragment";
        check(Link::Ip, fragment, told);
        let syn = "4500 0028 0000 0000 4006 0000 0a000009 0a000002 1000 0050 00000001 00000000 5002 ffff 0000 0000";
        let told = "0.000000 - tcp 10.0.0.9:4096 > 10.0.0.2:80 syn # TCP";
        check(Link::Ip, syn, told);
        let six = "60000000 000c 11 40 fe800000000000000000000000000001 ff020000000000000000000000010002 \
                   0222 0223 000c 0000 01aabbcc";
        let told = "0.000000 - udp [fe80::1]:546 > [ff02::1:2]:547 01aabbcc # UDP";
        check(Link::Ip, six, told);
    }

    #[test]
    fn nothing_of_ours_and_nonsense_are_nothing() {
        for frame in [
            "",
            "45",
            "4500 0020",
            "4100 0020 0000 0000 4011 0000 0a000009 0a000002 0816 0045 000c 0000 0003 0001",
            "4500 0010 0000 0000 4011 0000 0a000009 0a000002 0816 0045 000c 0000",
            "4500 0020 0000 0000 4011 0000 0a000009 0a000002 0816 0045 0004 0000 0003 0001",
            "4500 0020 0000 0000 4059 0000 0a000009 0a000002 0816 0045 000c 0000 0003 0001",
            "60000000 0004 2c 40 fe800000000000000000000000000001 ff020000000000000000000000010002 11000000",
        ] {
            check(Link::Ip, frame, "nothing");
        }
        check(
            Link::Ethernet,
            "525400000001 525400000009 88cc 0000",
            "nothing",
        );
    }
}
