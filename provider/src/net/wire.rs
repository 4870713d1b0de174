//! The frames of this role, and only those: ARP, and DHCP for clients.
//!
//! Built on smoltcp's packet formats. Parsing gives `None` for anything that is not exactly what is expected; no input
//! makes it panic. Nothing here has state, a clock or a socket.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpOpCode, DhcpPacket, DhcpRepr,
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

/// The DHCP server's UDP port.
const SERVER_PORT: u16 = 67;
/// The DHCP client's UDP port.
const CLIENT_PORT: u16 = 68;
/// "DHCP follows" (RFC 2131 section 3).
const DHCP_MAGIC: u32 = 0x6382_5363;
/// Option 53.
const OPTION_MESSAGE_TYPE: u8 = 53;

/// An ARP packet of Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    /// Asks for `target`; otherwise it is an answer.
    pub(super) request: bool,
    /// Who says it.
    pub(super) sender_mac: EthernetAddress,
    /// The address it says it has; 0.0.0.0 in a probe.
    pub(super) sender: Ipv4Addr,
    /// The address it is about.
    pub(super) target: Ipv4Addr,
}

/// A DHCP message from a server, not yet believed.
#[derive(Debug)]
pub(super) struct ServerMessage<'a> {
    /// The station the frame came from: the server or the router before it.
    pub(super) station: EthernetAddress,
    /// Offer, Ack or Nak.
    pub(super) kind: DhcpMessageType,
    /// The packet, its fixed part checked for length.
    pub(super) packet: DhcpPacket<&'a [u8]>,
}

/// What a frame of ours needs besides its DHCP message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// Our hardware address.
    pub(super) from_mac: EthernetAddress,
    /// The next station.
    pub(super) to_mac: EthernetAddress,
    /// Our address, 0.0.0.0 without one.
    pub(super) from: Ipv4Addr,
    /// The server, or everyone.
    pub(super) to: Ipv4Addr,
}

/// Reads an ARP frame. The Ethernet source may differ from the ARP sender; what counts is what the packet claims.
pub(super) fn parse_arp(frame: &[u8]) -> Option<Arp> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()?
    else {
        return None;
    };
    let request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return None,
    };
    Some(Arp {
        request,
        sender_mac: source_hardware_addr,
        sender: source_protocol_addr,
        target: target_protocol_addr,
    })
}

/// An ARP request as broadcast: a probe when `sender` is 0.0.0.0, an announcement when it equals `target`
/// (RFC 5227 section 1.1).
pub(super) fn arp_request(mac: EthernetAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let ethernet = EthernetRepr {
        src_addr: mac,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// Reads a DHCP message that a server sent to a client. Checks lengths and kinds, not values.
///
/// The UDP checksum is not checked: between virtual machines it is often left for hardware that does not exist, and
/// real hardware has checked it already.
pub(super) fn parse_server_message(bytes: &[u8]) -> Option<ServerMessage<'_>> {
    let (station, payload) = udp_payload(bytes, SERVER_PORT, CLIENT_PORT)?;
    let packet = DhcpPacket::new_checked(payload).ok()?;
    if packet.magic_number() != DHCP_MAGIC {
        return None;
    }
    let kind = message_type(&packet)?;
    if !matches!(
        kind,
        DhcpMessageType::Offer | DhcpMessageType::Ack | DhcpMessageType::Nak
    ) || packet.opcode() != DhcpOpCode::Reply
    {
        return None;
    }
    Some(ServerMessage {
        station,
        kind,
        packet,
    })
}

/// Transaction and kind of a DHCP frame that we are about to send; `None` for other frames.
pub(super) fn sent_dhcp(bytes: &[u8]) -> Option<(u32, DhcpMessageType)> {
    let (_, payload) = udp_payload(bytes, CLIENT_PORT, SERVER_PORT)?;
    let packet = DhcpPacket::new_checked(payload).ok()?;
    Some((packet.transaction_id(), message_type(&packet)?))
}

/// A DHCP message of ours as a frame. `None` when it cannot be built, which only oversized options could cause.
pub(super) fn dhcp_frame(route: Route, message: &DhcpRepr<'_>) -> Option<Vec<u8>> {
    let udp = UdpRepr {
        src_port: CLIENT_PORT,
        dst_port: SERVER_PORT,
    };
    let ip = Ipv4Repr {
        src_addr: route.from,
        dst_addr: route.to,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + message.buffer_len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: route.from_mac,
        dst_addr: route.to_mac,
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut dhcp = vec![0; message.buffer_len()];
    message
        .emit(&mut DhcpPacket::new_unchecked(dhcp.as_mut_slice()))
        .ok()?;

    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &IpAddress::Ipv4(route.from),
        &IpAddress::Ipv4(route.to),
        dhcp.len(),
        |payload| payload.copy_from_slice(&dhcp),
        &checksums,
    );
    Some(bytes)
}

/// The payload of an unfragmented UDP packet between these ports, and the station that sent the frame.
fn udp_payload(bytes: &[u8], from: u16, to: u16) -> Option<(EthernetAddress, &[u8])> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if ip.version() != 4
        || !ip.verify_checksum()
        || ip.next_header() != IpProtocol::Udp
        || ip.more_frags()
        || ip.frag_offset() != 0
    {
        return None;
    }
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    if udp.src_port() != from || udp.dst_port() != to {
        return None;
    }
    Some((frame.src_addr(), udp.payload()))
}

fn message_type(packet: &DhcpPacket<&[u8]>) -> Option<DhcpMessageType> {
    let option = packet
        .options()
        .find(|option| option.kind == OPTION_MESSAGE_TYPE)?;
    match option.data {
        [kind] => Some(DhcpMessageType::from(*kind)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

    #[test]
    fn an_arp_probe_survives_the_round_trip() {
        let target = Ipv4Addr::new(192, 0, 2, 7);
        let frame = arp_request(MAC, Ipv4Addr::UNSPECIFIED, target);
        let expected = Arp {
            request: true,
            sender_mac: MAC,
            sender: Ipv4Addr::UNSPECIFIED,
            target,
        };
        assert_eq!(parse_arp(&frame), Some(expected));
        assert_eq!(&frame[..6], &[0xff; 6], "probes are broadcast");
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_of_a_frame_makes_parsing_panic() {
        let arp = arp_request(MAC, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 7));
        let dhcp = super::super::fixture::ack(&super::super::fixture::Reply::default());
        assert!(parse_server_message(&dhcp).is_some());
        for frame in [arp, dhcp] {
            for length in 0..frame.len() {
                parse_arp(&frame[..length]);
                parse_server_message(&frame[..length]);
            }
            for index in 0..frame.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bad = frame.clone();
                    bad[index] = value;
                    parse_arp(&bad);
                    if let Some(message) = parse_server_message(&bad) {
                        assert!(message.packet.options().count() < bad.len());
                    }
                    sent_dhcp(&bad);
                }
            }
        }
    }
}
