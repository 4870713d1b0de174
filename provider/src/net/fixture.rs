//! Server messages for the tests of this role.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
    UdpRepr,
};

/// Our hardware address in the tests.
pub(super) const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
/// The server's.
pub(super) const SERVER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0xfe]);

/// A server's answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) transaction: u32,
    pub(super) address: Ipv4Addr,
    pub(super) mask: Option<u32>,
    pub(super) seconds: Option<u32>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) extra: Vec<(u8, Vec<u8>)>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            transaction: 7,
            address: Ipv4Addr::new(10, 0, 0, 50),
            mask: Some(0xffff_ff00),
            seconds: Some(3600),
            server: Some(Ipv4Addr::new(10, 0, 0, 1)),
            extra: Vec::new(),
        }
    }
}

/// An ACK frame.
pub(super) fn ack(reply: &Reply) -> Vec<u8> {
    frame(DhcpMessageType::Ack, reply)
}

/// An OFFER, ACK or NAK frame; the UDP checksum is left undone, as virtual machines do.
pub(super) fn frame(kind: DhcpMessageType, reply: &Reply) -> Vec<u8> {
    let mut options: Vec<(u8, Vec<u8>)> = reply.extra.clone();
    if let Some(mask) = reply.mask {
        options.push((1, mask.to_be_bytes().to_vec()));
    }
    if let Some(seconds) = reply.seconds {
        options.push((51, seconds.to_be_bytes().to_vec()));
    }
    let additional: Vec<DhcpOption<'_>> = options
        .iter()
        .map(|(kind, data)| DhcpOption { kind: *kind, data })
        .collect();
    let message = DhcpRepr {
        message_type: kind,
        transaction_id: reply.transaction,
        secs: 0,
        client_hardware_address: MAC,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: reply.address,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: reply.server,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &additional,
    };
    let from = Ipv4Addr::new(10, 0, 0, 1);
    let udp = UdpRepr {
        src_port: 67,
        dst_port: 68,
    };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: Ipv4Addr::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + message.buffer_len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: SERVER_MAC,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut checksums = ChecksumCapabilities::default();
    checksums.udp = smoltcp::phy::Checksum::None;
    let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    udp.emit(
        &mut datagram,
        &IpAddress::Ipv4(from),
        &IpAddress::Ipv4(Ipv4Addr::BROADCAST),
        message.buffer_len(),
        |payload| {
            message
                .emit(&mut DhcpPacket::new_unchecked(payload))
                .expect("the options fit");
        },
        &checksums,
    );
    datagram.set_checksum(0x1234);
    bytes
}
