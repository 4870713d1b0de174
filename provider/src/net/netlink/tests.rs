//! Round trips through our own parser; the real kernel is the other side in `tests/it/net.rs`.

use super::*;

/// An `RTM_NEWLINK` as the kernel sends it.
fn link_message(kind: u16, flags: i32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut request = Request::new(libc::RTM_NEWLINK, 0);
    request.bytes.extend([0, 0]);
    request.bytes.extend(kind.to_ne_bytes());
    request.bytes.extend(7_u32.to_ne_bytes());
    request.bytes.extend((flags as u32).to_ne_bytes());
    request.bytes.extend([0; 4]);
    for (kind, data) in attributes {
        request.attribute(*kind, data);
    }
    request.finish(1)
}

fn parse_link(datagram: &[u8]) -> Link {
    Link::parse(messages(datagram).next().unwrap().payload).unwrap()
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[test]
fn a_card_with_a_carrier_is_an_uplink() {
    let datagram = link_message(
        libc::ARPHRD_ETHER,
        libc::IFF_UP | libc::IFF_LOWER_UP,
        &[(libc::IFLA_IFNAME, b"eth0\0"), (libc::IFLA_ADDRESS, &MAC)],
    );
    let link = parse_link(&datagram);
    assert_eq!((link.index, link.name.as_str()), (7, "eth0"));
    assert!(link.is_up && link.has_carrier && link.is_uplink());
}

#[test]
fn what_belongs_to_somebody_else_is_no_uplink() {
    // One attribute of kind IFLA_INFO_KIND with the text "tun".
    let tun = [8, 0, 1, 0, b't', b'u', b'n', 0];
    let veth = [9, 0, 1, 0, b'v', b'e', b't', b'h', 0, 0, 0, 0];
    let mac = (libc::IFLA_ADDRESS, MAC.as_slice());
    for (kind, flags, attributes, expected) in [
        (libc::ARPHRD_ETHER, 0, vec![mac], true),
        (libc::ARPHRD_ETHER, 0, vec![], false),
        (
            libc::ARPHRD_ETHER,
            0,
            vec![(libc::IFLA_ADDRESS, [0; 6].as_slice())],
            false,
        ),
        (libc::ARPHRD_LOOPBACK, libc::IFF_LOOPBACK, vec![mac], false),
        (
            libc::ARPHRD_ETHER,
            0,
            vec![mac, (libc::IFLA_MASTER, &[1, 0, 0, 0])],
            false,
        ),
        (
            libc::ARPHRD_ETHER,
            0,
            vec![mac, (libc::IFLA_LINKINFO, &tun)],
            false,
        ),
        (
            libc::ARPHRD_ETHER,
            0,
            vec![mac, (libc::IFLA_LINKINFO, &veth)],
            true,
        ),
    ] {
        let link = parse_link(&link_message(kind, flags, &attributes));
        assert_eq!(link.is_uplink(), expected, "{link:?}");
    }
}

#[test]
fn an_address_request_reads_back_as_it_was_meant() {
    let address = Ipv4Addr::new(10, 0, 0, 50);
    let datagram = Request::set_address(7, address, 24, Some(60), 107).finish(3);
    let message = messages(&datagram).next().unwrap();
    assert_eq!((message.kind, message.sequence), (libc::RTM_NEWADDR, 3));
    let expected = Address {
        interface: 7,
        address: address.into(),
        prefix: 24,
        is_ours: true,
        is_global: true,
    };
    assert_eq!(Address::parse(message.payload), Some(expected));
}

#[test]
fn no_cut_and_no_changed_byte_makes_parsing_panic_or_run_for_ever() {
    let mut datagram = link_message(
        libc::ARPHRD_ETHER,
        0,
        &[(libc::IFLA_IFNAME, b"eth0\0"), (libc::IFLA_ADDRESS, &MAC)],
    );
    datagram.extend(Request::set_address(7, Ipv4Addr::LOCALHOST, 8, None, 1).finish(1));
    let read_all = |bytes: &[u8]| {
        for message in messages(bytes).take(1_000) {
            Link::parse(message.payload);
            Address::parse(message.payload);
            message.error();
        }
    };
    for index in 0..datagram.len() {
        read_all(&datagram[..index]);
        for value in [0, 1, 3, 15, 16, 0xff] {
            let mut bad = datagram.clone();
            bad[index] = value;
            read_all(&bad);
        }
    }
}
