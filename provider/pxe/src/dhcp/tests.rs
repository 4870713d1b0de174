//! Messages by hand: what is read, what is written, and where it goes.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::Mac;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A DISCOVER by hand: the BOOTP part with these options after it.
fn packet(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    bytes[9] = 4;
    bytes[10] = 0x80;
    bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
    bytes.extend([0x63, 0x82, 0x53, 0x63]);
    bytes.extend_from_slice(options);
    bytes
}

fn request(options: &[u8]) -> Request {
    Request::parse(&packet(options)).unwrap()
}

const DISCOVER: [u8; 3] = [53, 1, 1];

#[test]
fn a_discover_is_read() {
    let mut options = DISCOVER.to_vec();
    options.extend([93, 4, 0, 7, 0, 16, 94, 3, 1, 3, 16, 57, 2, 5, 192]);
    options.extend([43, 6, 71, 4, 0x80, 0, 0, 0]);
    options.extend([82, 3, 1, 1, 9, 55, 2, 1, 67, 255, 66, 66]);
    let request = request(&options);
    assert_eq!(request.kind, Kind::Discover);
    assert_eq!(request.xid, 0xdead_beef);
    assert_eq!((request.secs, request.broadcast), (4, true));
    assert_eq!(request.mac, Mac([0x52, 0x54, 0, 0, 0, 1]));
    assert_eq!(request.archs, [7, 16]);
    assert_eq!(request.undi, Some([1, 3, 16]));
    assert_eq!(request.max_size, Some(1472));
    assert_eq!(request.boot_item.as_deref(), Some(&[0x80, 0, 0, 0][..]));
    assert_eq!(request.relay.as_deref(), Some(&[1, 1, 9][..]));
    assert_eq!(request.params, [1, 67]);
    assert_eq!(request.reply_size_max(), 1472 - 28);
}

#[test]
fn what_is_no_request_is_refused() {
    let check = |bytes: &[u8], why| assert_eq!(Request::parse(bytes), Err(why));
    check(b"", Malformed::Short);
    check(&packet(&[])[..239], Malformed::Short);
    check(&[1; 4000], Malformed::Long);
    check(&packet(&[]), Malformed::NoType);
    check(&packet(&[53, 1, 9]), Malformed::NoType);
    check(&packet(&[53, 0]), Malformed::NoType);
    let spoilt = |at: usize, value: u8| {
        let mut bytes = packet(&DISCOVER);
        bytes[at] = value;
        bytes
    };
    check(&spoilt(236, 0), Malformed::Magic);
    check(&spoilt(0, 2), Malformed::Operation);
    check(&spoilt(0, 3), Malformed::Operation);
    check(&spoilt(1, 32), Malformed::NotEthernet);
    check(&spoilt(2, 0), Malformed::NotEthernet);
}

#[test]
fn options_that_lie_about_their_length_end_the_list() {
    let request = request(&[53, 1, 1, 60, 200, b'P']);
    assert_eq!(request.class, None);
}

#[test]
fn parts_of_an_option_are_joined() {
    let request = request(&[
        53, 1, 1, 60, 3, b'P', b'X', b'E', 60, 6, b'C', b'l', b'i', b'e', b'n', b't',
    ]);
    assert_eq!(request.class.as_deref(), Some("PXEClient"));
}

#[test]
fn overloaded_fields_hold_options() {
    let mut bytes = packet(&[53, 1, 2, 52, 1, 3, 255]);
    bytes[0] = 2;
    bytes[108..113].copy_from_slice(&[67, 2, b'a', b'b', 255]);
    bytes[44..51].copy_from_slice(&[54, 4, 192, 0, 2, 9, 255]);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.boot_file().as_deref(), Some("ab"));
    assert_eq!(message.server_id(), Some(Ipv4Addr::new(192, 0, 2, 9)));
    assert_eq!((message.file, message.server_name), (None, None));
}

#[test]
fn a_boot_name_is_freed_of_what_follows_it() {
    // C10
    for raw in [
        &b"boot.efi"[..],
        b"boot.efi\0",
        b"boot.efi\xff",
        b"boot.efi\0\xff",
        b"boot.efi\r\n",
    ] {
        assert_eq!(options::text(raw).as_deref(), Some("boot.efi"), "{raw:?}");
    }
    assert_eq!(options::text(b"\0\0"), None);
}

fn reply(to: &Request) -> Reply {
    let mut reply = Reply::to(to, Kind::Offer, SERVER).with(options::CLASS, "PXEClient");
    reply.siaddr = SERVER;
    reply.file = Some("undionly.kpxe".to_owned());
    reply
}

#[test]
fn an_answer_names_the_file_twice_and_the_server_twice() {
    // C9
    let bytes = reply(&request(&DISCOVER)).encode();
    let read = Message::parse(&bytes).unwrap();
    assert_eq!(read.operation, Operation::Reply);
    assert_eq!(read.file.as_deref(), Some("undionly.kpxe"));
    assert_eq!(
        read.options.get(options::BOOT_FILE),
        Some(&b"undionly.kpxe"[..])
    );
    assert_eq!((read.siaddr, read.server_id()), (SERVER, Some(SERVER)));
    assert_eq!(read.yiaddr, Ipv4Addr::UNSPECIFIED);
}

#[test]
fn the_name_is_followed_by_a_nul_and_nothing_is_overloaded() {
    // C10
    let mut reply = reply(&request(&DISCOVER));
    reply.options.truncate(2);
    let bytes = reply.encode();
    let at = bytes
        .windows(15)
        .position(|window| window == b"\x43\x0dundionly.kpxe");
    assert_eq!(bytes[at.unwrap() + 15..][..2], [0, 255]);
    assert_eq!(
        Message::parse(&bytes)
            .unwrap()
            .options
            .get(options::OVERLOAD),
        None
    );
}

#[test]
fn an_answer_is_padded_and_stays_within_what_the_client_takes() {
    // C21
    let small = request(&DISCOVER);
    assert_eq!(small.reply_size_max(), 548);
    assert_eq!(reply(&small).encode().len(), 300);
    let mut long = reply(&small);
    long.options.push((options::VENDOR, vec![1; 250]));
    long.options.push((options::TEXT, vec![1; 200]));
    let bytes = long.encode();
    assert!(bytes.len() <= 548, "{}", bytes.len());
    let read = Message::parse(&bytes).unwrap();
    assert_eq!(read.options.get(options::TEXT), None);
    assert!(read.options.get(options::VENDOR).is_some());
    let tiny = request(&[53, 1, 1, 57, 2, 0, 100]);
    assert_eq!(tiny.reply_size_max(), 548);
    let huge = request(&[53, 1, 1, 57, 2, 255, 255]);
    assert_eq!(huge.reply_size_max(), 1472);
}

#[test]
fn the_identity_is_echoed_only_with_its_one_length() {
    // C11
    let echo = |size: u8| {
        let mut options = DISCOVER.to_vec();
        options.extend([97, size]);
        options.extend(vec![5; usize::from(size)]);
        let bytes = reply(&request(&options)).encode();
        Message::parse(&bytes)
            .unwrap()
            .options
            .get(options::UUID)
            .map(<[u8]>::len)
    };
    assert_eq!(echo(17), Some(17));
    assert_eq!(echo(16), None);
    assert_eq!(echo(0), None);
}

#[test]
fn a_relay_gets_the_answer_and_its_option_last() {
    // C18
    let mut bytes = packet(&[
        53, 1, 1, 82, 4, 1, 2, 7, 7, 97, 17, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    ]);
    bytes[24..28].copy_from_slice(&[198, 51, 100, 1]);
    let request = Request::parse(&bytes).unwrap();
    let reply = reply(&request);
    let relay = Ipv4Addr::new(198, 51, 100, 1);
    assert_eq!(reply.destination(&request), Destination::Unicast(relay, 67));
    let bytes = reply.encode();
    let read = Message::parse(&bytes).unwrap();
    assert_eq!(read.giaddr, relay);
    assert_eq!(
        read.options.iter().last(),
        Some((options::RELAY, &[1, 2, 7, 7][..]))
    );
}

#[test]
fn a_relay_is_told_to_broadcast_what_has_no_address() {
    // C18, C19: a proxy's offer for a client that did not ask for broadcast.
    let mut bytes = packet(&DISCOVER);
    bytes[10] = 0;
    bytes[24..28].copy_from_slice(&[198, 51, 100, 1]);
    let request = Request::parse(&bytes).unwrap();
    let is_broadcast = |reply: &Reply| Message::parse(&reply.encode()).unwrap().broadcast;
    let mut offer = reply(&request);
    assert!(is_broadcast(&offer));
    offer.yiaddr = Ipv4Addr::new(198, 51, 100, 20);
    assert!(!is_broadcast(&offer));
    let mut direct = reply(&request);
    direct.giaddr = Ipv4Addr::UNSPECIFIED;
    assert!(!is_broadcast(&direct));
}

#[test]
fn without_a_relay_it_is_broadcast_unless_the_client_has_an_address() {
    // C19
    let mut bytes = packet(&DISCOVER);
    bytes[10] = 0;
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(
        reply(&request).destination(&request),
        Destination::Broadcast
    );
    bytes[12..16].copy_from_slice(&[192, 0, 2, 50]);
    let request = Request::parse(&bytes).unwrap();
    let there = Destination::Unicast(Ipv4Addr::new(192, 0, 2, 50), 68);
    assert_eq!(reply(&request).destination(&request), there);
    assert_eq!(
        reply(&request).destination_from(&request, BOOT_PORT),
        Destination::Sender
    );
    let mut nak = reply(&request);
    nak.kind = Kind::Nak;
    assert_eq!(nak.destination(&request), Destination::Broadcast);
}

#[test]
fn a_name_too_long_for_its_field_is_in_the_option_only() {
    let mut long = reply(&request(&[53, 1, 1, 57, 2, 5, 220]));
    let url = format!("http://192.0.2.1:8080/{}.efi", "x".repeat(200));
    long.file = Some(url.clone());
    let read = Message::parse(&long.encode()).unwrap();
    assert_eq!(read.file, None);
    assert_eq!(read.boot_file(), Some(url));
}

proptest! {
    #[test]
    fn nothing_panics_and_what_is_written_is_read_back(
        tail in proptest::collection::vec(any::<u8>(), 0..600),
        head in proptest::collection::vec(any::<u8>(), 236),
    ) {
        let mut bytes = head;
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1]);
        bytes.extend(tail);
        let request = Request::parse(&bytes).unwrap();
        let written = reply(&request).encode();
        prop_assert!(written.len() <= request.reply_size_max().max(300));
        let read = Message::parse(&written).unwrap();
        prop_assert_eq!(read.xid, request.xid);
        prop_assert_eq!(read.boot_file(), Some("undionly.kpxe".to_owned()));
    }
}
