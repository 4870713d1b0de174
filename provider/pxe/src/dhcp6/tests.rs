//! Messages of firmware over IPv6, and answers to them.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::request::{Malformed, Request};
use super::*;
use crate::Mac;
use crate::boot::{Offer, Plan, Reason};
use crate::client::{Client, ClientArch, Firmware};

/// What OVMF 2022.11 sent when it booted by HTTP, and by PXE: SOLICIT, and REQUEST to dnsmasq.
const HTTP_SOLICIT: &str = "013c688f0001000e0001000131daa42a525400770001000800020000\
    0003000c4bfb8d37ffffffffffffffff00060008003b003c00170010003e0003010300003d00020010\
    0010002700000157002148545450436c69656e743a417263683a30303031363a554e44493a303033303030";
const PXE_SOLICIT: &str = "015600140001000e0001000131daa69b525400770001000800020000\
    0003000c7fda5fd2ffffffffffffffff00060008003b003c00170010003e0003010300003d00020007\
    00100026000001570020505845436c69656e743a417263683a30303030373a554e44493a303033303030";
const PXE_REQUEST: &str = "035700140001000e0001000131daa69b525400770001000800020000\
    0002000e0001000132948a113a0f3ff7ca81000300287fda5fd20000003c0000006900050018\
    fd7700000000000000000000000001ac000000780000007800060008003b003c00170010003e0003010300\
    003d0002000700100026000001570020505845436c69656e743a417263683a30303030373a554e44493a303033303030";

const PEER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe77, 1);
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const DUID: &[u8] = &[0, 4, 7, 7];
const CARD: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn parsed(hex: &str) -> Request {
    Request::parse(&bytes(hex)).unwrap()
}

fn netboot() -> Plan {
    Plan::Netboot(Offer {
        tftp_file: Some("stable/x86_64/phase.efi".into()),
        http_url: Some("http://[fd77::1]:8080/stable/x86_64/phase.efi".into()),
        script_url: Some("http://[fd77::1]:8080/boot.ipxe".into()),
        ..Offer::default()
    })
}

fn server(mode: Mode) -> Server<'static> {
    Server {
        id: DUID,
        address: OURS,
        mode,
        prefix: Prefix::of(OURS),
    }
}

fn asked(request: &Request, port: Port, mode: Mode) -> Result<Reply, Silence> {
    let client = request.client(PEER).unwrap();
    let mut addresses = Addresses::default();
    answer(
        request,
        port,
        Some((&client, &netboot())),
        &server(mode),
        &mut addresses,
    )
}

/// One answer as a reader sees it: its kind and its options.
fn read(bytes: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    let mut options = Vec::new();
    let mut rest = &bytes[4..];
    while let [a, b, c, d, after @ ..] = rest {
        let size = usize::from(u16::from_be_bytes([*c, *d]));
        options.push((u16::from_be_bytes([*a, *b]), after[..size].to_vec()));
        rest = &after[size..];
    }
    assert!(rest.is_empty());
    (bytes[0], options)
}

/// The same message with another kind.
fn as_kind(hex: &str, kind: Kind) -> Request {
    let mut bytes = bytes(hex);
    bytes[0] = kind.number();
    Request::parse(&bytes).unwrap()
}

#[test]
fn what_ovmf_sends_is_understood() {
    let request = parsed(HTTP_SOLICIT);
    assert_eq!(
        (request.kind, request.xid),
        (Kind::Solicit, [0x3c, 0x68, 0x8f])
    );
    assert_eq!(request.wanted, [59, 60, 23, 16]);
    assert_eq!(request.identities.len(), 1);
    let client = request.client(PEER).unwrap();
    let expected = Client {
        mac: CARD,
        firmware: Firmware::UefiHttp,
        arch: ClientArch::EFI_X64_HTTP,
        uuid: None,
        class: "HTTPClient:Arch:00016:UNDI:003000".into(),
    };
    assert_eq!(client, expected);
    let client = parsed(PXE_SOLICIT).client(PEER).unwrap();
    assert_eq!(
        (client.firmware, client.arch),
        (Firmware::UefiPxe, ClientArch::EFI_X64)
    );
}

/// C24: the class with enterprise 343 and its length, a literal address in brackets, and never 59 at the end.
#[test]
fn a_proxy_offers_what_each_firmware_takes_and_no_address() {
    for (solicit, url, class) in [
        (
            HTTP_SOLICIT,
            "http://[fd77::1]:8080/stable/x86_64/phase.efi",
            "\0\0\x01W\0\x0aHTTPClient",
        ),
        (
            PXE_SOLICIT,
            "tftp://[fd77::1]/stable/x86_64/phase.efi",
            "\0\0\x01W\0\x09PXEClient",
        ),
    ] {
        let request = parsed(solicit);
        let reply = asked(&request, Port::Dhcp, Mode::Proxy).unwrap();
        let (kind, options) = read(&reply.encode());
        let expected = vec![
            (1, request.client_id.clone().unwrap()),
            (2, DUID.to_vec()),
            (59, url.as_bytes().to_vec()),
            (16, class.as_bytes().to_vec()),
        ];
        assert_eq!((kind, options), (2, expected));
        assert_eq!(reply.port(Port::Dhcp), 546);
    }
}

#[test]
fn the_second_question_of_uefi_pxe_is_answered_at_4011() {
    // EDK2 takes out the IA and puts in the identifier of the boot server.
    let mut request = parsed(PXE_REQUEST);
    request.identities.clear();
    request.server_id = Some(DUID.to_vec());
    let reply = asked(&request, Port::Boot, Mode::Proxy).unwrap();
    assert_eq!(reply.kind, Kind::Reply);
    assert_eq!(
        reply.boot_url(),
        Some("tftp://[fd77::1]/stable/x86_64/phase.efi")
    );
    assert_eq!(reply.port(Port::Boot), 4011);
    request.server_id = None;
    assert!(asked(&request, Port::Boot, Mode::Server).is_ok());
    // A proxy gives no addresses, so nothing else is its business.
    for kind in [Kind::Request, Kind::Renew, Kind::Release, Kind::Confirm] {
        let request = Request {
            kind,
            ..request.clone()
        };
        let silence = asked(&request, Port::Dhcp, Mode::Proxy).unwrap_err();
        assert_eq!(silence, Silence::NotAsked, "{kind:?}");
    }
}

#[test]
fn a_server_gives_each_machine_its_own_address_every_time() {
    let advertised = asked(&parsed(HTTP_SOLICIT), Port::Dhcp, Mode::Server).unwrap();
    assert_eq!(advertised.kind, Kind::Advertise);
    let (_, options) = read(&advertised.encode());
    let numbers: Vec<u16> = options.iter().map(|(code, _)| *code).collect();
    assert_eq!(numbers, [1, 2, 59, 16, 3]);
    let identity = &options[4].1;
    assert_eq!(&identity[..4], [0x4b, 0xfb, 0x8d, 0x37]);
    assert_eq!(
        &identity[12..24],
        [0, 5, 0, 24, 0xfd, 0x77, 0, 0, 0, 0, 0, 0]
    );
    // UEFI PXE with the class would ask once more at 4011 before it begins.
    let reply = asked(&parsed(PXE_SOLICIT), Port::Dhcp, Mode::Server).unwrap();
    assert_eq!(reply.option(16), None);
    assert!(reply.option(3).is_some() && reply.boot_url().is_some());
    // The one it asks for, keeps and rebinds is the same.
    for kind in [Kind::Request, Kind::Renew, Kind::Rebind] {
        let again = asked(&as_kind(HTTP_SOLICIT, kind), Port::Dhcp, Mode::Server).unwrap();
        assert_eq!(
            (again.kind, again.option(3)),
            (Kind::Reply, advertised.option(3))
        );
    }
    let unlike = Request {
        client_id: Some(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9]),
        ..parsed(HTTP_SOLICIT)
    };
    let other = asked(&unlike, Port::Dhcp, Mode::Server).unwrap();
    assert_ne!(other.option(3), advertised.option(3));
}

#[test]
fn an_address_that_is_taken_is_not_given_again() {
    let mut addresses = Addresses::default();
    let prefix = Prefix::of(OURS).unwrap();
    let mut given = Vec::new();
    let solicit = as_kind(PXE_SOLICIT, Kind::Solicit);
    let id = solicit.client_id.unwrap();
    let other = addresses.of(prefix, b"other machine", [0, 0, 0, 1]);
    for _ in 0..8 {
        let address = addresses.of(prefix, &id, [0, 0, 0, 1]);
        assert!(
            prefix.contains(address) && !given.contains(&address),
            "{address}"
        );
        given.push(address);
        let request = Request {
            identities: vec![Identity {
                number: [0, 0, 0, 1],
                addresses: vec![address, other],
            }],
            ..as_kind(PXE_SOLICIT, Kind::Decline)
        };
        let client = request.client(PEER).unwrap();
        let server = server(Mode::Server);
        let reply = answer(
            &request,
            Port::Dhcp,
            Some((&client, &netboot())),
            &server,
            &mut addresses,
        );
        assert_eq!(reply.unwrap().option(13), Some(&[0, 0][..]));
    }
    // Nobody speaks for another machine, or for ourselves.
    assert_eq!(addresses.of(prefix, b"other machine", [0, 0, 0, 1]), other);
    addresses.decline([OURS]);
    // However many are declined, what is remembered is bounded, and there is an answer.
    let many = (0..10_000_u32).map(|n| addresses.of(prefix, &n.to_be_bytes(), [0; 4]));
    let many: Vec<_> = many.collect();
    addresses.decline(many);
    addresses.of(prefix, &id, [0, 0, 0, 1]);
}

/// Seen with OVMF: without an answer to its RELEASE the program it has fetched starts 70 s later.
#[test]
fn a_machine_that_left_out_who_it_is_is_answered_about_its_address() {
    let given = asked(&parsed(HTTP_SOLICIT), Port::Dhcp, Mode::Server).unwrap();
    let held = Identity {
        number: [0x4b, 0xfb, 0x8d, 0x37],
        addresses: vec![given.address().unwrap()],
    };
    let silent = Request {
        class: None,
        archs: Vec::new(),
        server_id: Some(DUID.to_vec()),
        identities: vec![held.clone()],
        ..parsed(HTTP_SOLICIT)
    };
    let server = server(Mode::Server);
    let asked = |request: &Request| {
        answer(
            request,
            Port::Dhcp,
            None,
            &server,
            &mut Addresses::default(),
        )
    };
    for (kind, has_server_id) in [
        (Kind::Release, true),
        (Kind::Decline, true),
        (Kind::Renew, true),
        (Kind::Rebind, false),
        (Kind::Confirm, false),
    ] {
        let server_id = silent.server_id.clone().filter(|_| has_server_id);
        let request = Request {
            kind,
            server_id,
            ..silent.clone()
        };
        assert_eq!(asked(&request).unwrap().kind, Kind::Reply, "{kind:?}");
    }
    // Who only passes by is not.
    let stranger = Request {
        kind: Kind::Rebind,
        server_id: None,
        identities: vec![Identity {
            addresses: vec![OURS],
            ..held
        }],
        ..silent.clone()
    };
    for request in [
        stranger,
        Request {
            kind: Kind::Solicit,
            ..silent
        },
    ] {
        assert_eq!(asked(&request).unwrap_err(), Silence::NotBooting);
    }
}

#[test]
fn whether_an_address_fits_the_link_is_said() {
    for (address, status) in [("fd77::1ac", 0), ("fd78::1ac", 4)] {
        let request = Request {
            identities: vec![Identity {
                number: [0; 4],
                addresses: vec![address.parse().unwrap()],
            }],
            ..as_kind(PXE_SOLICIT, Kind::Confirm)
        };
        let reply = asked(&request, Port::Dhcp, Mode::Server).unwrap();
        assert_eq!(reply.option(13), Some(&[0, status][..]), "{address}");
    }
}

#[test]
fn silence_has_its_reason() {
    let request = parsed(PXE_REQUEST);
    let meant_for_dnsmasq = asked(&request, Port::Dhcp, Mode::Server).unwrap_err();
    assert_eq!(meant_for_dnsmasq, Silence::AnotherServer);
    let nobody = Request {
        client_id: None,
        ..parsed(PXE_SOLICIT)
    };
    let refused = asked(&nobody, Port::Dhcp, Mode::Server).unwrap_err();
    assert_eq!(refused, Silence::NoIdentifier);
    for (plan, expected) in [
        (Plan::LocalDisk, Silence::LocalDisk),
        (Plan::Silence(Reason::Denied), Silence::Plan(Reason::Denied)),
        (Plan::Netboot(Offer::default()), Silence::NothingToBoot),
    ] {
        let request = parsed(HTTP_SOLICIT);
        let client = request.client(PEER).unwrap();
        let server = server(Mode::Proxy);
        let mut addresses = Addresses::default();
        let got = answer(
            &request,
            Port::Dhcp,
            Some((&client, &plan)),
            &server,
            &mut addresses,
        );
        assert_eq!(got.unwrap_err(), expected);
    }
    let request = parsed(HTTP_SOLICIT);
    let client = request.client(PEER).unwrap();
    let no_subnet = Server {
        prefix: None,
        ..server(Mode::Server)
    };
    let mut addresses = Addresses::default();
    let got = answer(
        &request,
        Port::Dhcp,
        Some((&client, &netboot())),
        &no_subnet,
        &mut addresses,
    );
    assert_eq!(got.unwrap_err(), Silence::NoSubnet);
}

#[test]
fn a_machine_with_an_address_of_its_own_asks_for_the_rest() {
    for mode in [Mode::Proxy, Mode::Server] {
        let mut request = as_kind(HTTP_SOLICIT, Kind::InformationRequest);
        request.identities.clear();
        request.client_id = None;
        let reply = asked(&request, Port::Dhcp, mode).unwrap();
        let (kind, options) = read(&reply.encode());
        let numbers: Vec<u16> = options.iter().map(|(code, _)| *code).collect();
        assert_eq!((kind, &numbers[..]), (7, &[2, 59, 16][..]));
    }
}

#[test]
fn ipxe_gets_its_script() {
    let mut message = bytes(PXE_SOLICIT);
    message.extend(b"\0\x0f\0\x06\0\x04iPXE");
    let request = Request::parse(&message).unwrap();
    let client = request.client(PEER).unwrap();
    let expected = Firmware::Ipxe {
        http: true,
        efi: true,
    };
    assert_eq!(client.firmware, expected);
    let reply = asked(&request, Port::Dhcp, Mode::Server).unwrap();
    assert_eq!(reply.boot_url(), Some("http://[fd77::1]:8080/boot.ipxe"));
}

/// C18, over IPv6: the answer goes back through every relay, with what each wants back.
#[test]
fn relays_are_unpacked_and_packed_again() {
    let link: Ipv6Addr = "fd99::1".parse().unwrap();
    let mut first = vec![RELAY_FORWARD, 0];
    first.extend(link.octets());
    first.extend(PEER.octets());
    first.extend([0, 18, 0, 2, 0xab, 0xcd]);
    first.extend([0, 79, 0, 8, 0, 1, 2, 0, 0, 0, 0, 7]);
    let inner = bytes(HTTP_SOLICIT);
    first.extend([0, 9, 0, u8::try_from(inner.len()).unwrap()]);
    first.extend(&inner);
    let mut second = vec![RELAY_FORWARD, 1];
    second.extend([0; 16]);
    second.extend(OURS.octets());
    second.extend([0, 9, 0, u8::try_from(first.len()).unwrap()]);
    second.extend(&first);

    let request = Request::parse(&second).unwrap();
    assert_eq!(request.relays.len(), 2);
    assert_eq!(request.relayed_link(), Some(link));
    assert_eq!(request.mac(OURS), Some(Mac([2, 0, 0, 0, 0, 7])));
    let reply = asked(&request, Port::Dhcp, Mode::Proxy).unwrap();
    assert_eq!(reply.port(Port::Dhcp), 547);
    let bytes = reply.encode();
    assert_eq!(&bytes[..2], [RELAY_REPLY, 1]);
    assert_eq!(bytes[18..34], OURS.octets());
    assert_eq!(&bytes[34..36], [0, 9]);
    let bytes = &bytes[38..];
    assert_eq!(&bytes[..2], [RELAY_REPLY, 0]);
    assert_eq!(bytes[2..18], link.octets());
    assert_eq!(bytes[34..40], [0, 18, 0, 2, 0xab, 0xcd]);
    assert_eq!(bytes[44], Kind::Advertise.number());
}

#[test]
fn cards_are_found_in_every_place() {
    let llt = "0001000e0001000131daa69b525400770009";
    let uuid = "0001001200040123456789abcdef0123456789abcdef";
    let unlike: Ipv6Addr = "fe80::1234:5678:9abc:def0".parse().unwrap();
    let of = |options: &str, peer| {
        let request = parsed(&format!("01000001{options}"));
        (request.mac(peer), uuid_of(&request))
    };
    assert_eq!(of(llt, unlike).0, Some(Mac([0x52, 0x54, 0, 0x77, 0, 9])));
    assert_eq!(of(llt, PEER).0, Some(CARD));
    assert_eq!(of(uuid, PEER).0, Some(CARD));
    assert_eq!(of(uuid, unlike).0, None);
    assert!(of(uuid, PEER).1.is_some());
}

fn uuid_of(request: &Request) -> Option<[u8; 16]> {
    let request = Request {
        class: Some("PXEClient".into()),
        archs: vec![7],
        ..request.clone()
    };
    request.client(PEER)?.uuid
}

#[test]
fn who_does_not_boot_is_no_client() {
    // OVMF's own question for an address, because its router said so.
    let plain = "0189aa550001000e0001000131daa516525400770001000800020000\
        0003000c7702a1d3ffffffffffffffff000600020017";
    assert_eq!(parsed(plain).client(PEER), None);
    // A class of another maker.
    let other = PXE_SOLICIT.replace("00000157", "0000013a");
    assert_eq!(parsed(&other).client(PEER), None);
}

#[test]
fn what_is_no_question_is_refused() {
    for (hex, expected) in [
        ("", Malformed::Short),
        ("010203", Malformed::Short),
        ("02000001", Malformed::Kind),
        ("07000001", Malformed::Kind),
        ("63000001", Malformed::Kind),
        ("0c00", Malformed::Short),
    ] {
        assert_eq!(Request::parse(&bytes(hex)), Err(expected), "{hex}");
    }
    let empty_relay = vec![RELAY_FORWARD; 34];
    assert_eq!(Request::parse(&empty_relay), Err(Malformed::Relays));
    assert_eq!(Request::parse(&[1; 4096]), Err(Malformed::Long));
    let mut nested = bytes(PXE_SOLICIT);
    for _ in 0..9 {
        let mut outer = vec![RELAY_FORWARD; 34];
        outer.extend([0, 9]);
        outer.extend(u16::try_from(nested.len()).unwrap().to_be_bytes());
        outer.extend(&nested);
        nested = outer;
    }
    assert_eq!(Request::parse(&nested), Err(Malformed::Relays));
}

proptest! {
    #[test]
    fn nothing_panics_and_every_answer_can_be_read(
        kind in 0_u8..14,
        cut in 0_usize..200,
        flips in proptest::collection::vec((0_usize..200, any::<u8>()), 0..8),
    ) {
        let mut message = bytes(PXE_REQUEST);
        message[0] = kind;
        for (at, value) in flips {
            if let Some(byte) = message.get_mut(at) {
                *byte = value;
            }
        }
        message.truncate(cut);
        let Ok(request) = Request::parse(&message) else {
            return Ok(());
        };
        let Some(client) = request.client(PEER) else {
            return Ok(());
        };
        let mut addresses = Addresses::default();
        for mode in [Mode::Proxy, Mode::Server] {
            for port in [Port::Dhcp, Port::Boot] {
                let server = Server { mode, ..server(mode) };
                let got = answer(&request, port, Some((&client, &netboot())), &server, &mut addresses);
                if let Ok(reply) = got
                    && request.relays.is_empty()
                {
                    let (_, options) = read(&reply.encode());
                    prop_assert_ne!(options.last().map(|(code, _)| *code), Some(59));
                }
            }
        }
    }
}
