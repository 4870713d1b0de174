//! DHCPv6, byte by byte: what firmware sends over IPv6, and what it gets beside a LAN's own server, alone, and through a relay.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::netdevice;

use super::{PATIENCE, QUIET, Rig};
use crate::lan::until;

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
const HUB6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The machine's identifier, as OVMF makes it, and its number for an address.
const DUID: [u8; 14] = [
    0, 1, 0, 1, 0x31, 0xda, 0xa4, 0x2a, 0x52, 0x54, 0, 0x77, 0, 1,
];
const IAID: [u8; 4] = [0x4b, 0xfb, 0x8d, 0x37];

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const INFORMATION_REQUEST: u8 = 11;

/// A message of either side.
#[derive(Debug, Clone)]
struct Message {
    kind: u8,
    options: Vec<(u16, Vec<u8>)>,
}

impl Message {
    /// Of a machine, with its identifier.
    fn of(kind: u8) -> Self {
        let options = vec![(1, DUID.to_vec()), (8, vec![0, 0])];
        Self { kind, options }
    }

    fn with(mut self, code: u16, value: impl AsRef<[u8]>) -> Self {
        self.options.push((code, value.as_ref().to_vec()));
        self
    }

    /// Wants an address, or has this one.
    fn identity(self, address: Option<Ipv6Addr>) -> Self {
        let mut value = [IAID.as_slice(), &[0xff; 8]].concat();
        if let Some(address) = address {
            value.extend([0, 5, 0, 24]);
            value.extend(address.octets());
            value.extend([0; 8]);
        }
        self.with(3, value)
    }

    /// Boots by PXE (7) or HTTP (16).
    fn booting(self, arch: u16, class: &str) -> Self {
        let class = format!("{class}:Arch:{arch:05}:UNDI:003000");
        let size = u16::try_from(class.len()).unwrap().to_be_bytes();
        let class = [&[0, 0, 1, 0x57], &size[..], class.as_bytes()].concat();
        self.with(61, arch.to_be_bytes()).with(16, class)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, 1, 2, 3];
        for (code, value) in &self.options {
            bytes.extend(code.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(value);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes[1..4], [1, 2, 3], "the number of the question");
        let mut options = Vec::new();
        let mut rest = &bytes[4..];
        while let [a, b, c, d, after @ ..] = rest {
            let size = usize::from(u16::from_be_bytes([*c, *d]));
            options.push((u16::from_be_bytes([*a, *b]), after[..size].to_vec()));
            rest = &after[size..];
        }
        let kind = bytes[0];
        Self { kind, options }
    }

    fn option(&self, code: u16) -> Option<&[u8]> {
        let found = self.options.iter().find(|(known, _)| *known == code);
        found.map(|(_, value)| value.as_slice())
    }

    fn url(&self) -> &str {
        std::str::from_utf8(self.option(59).unwrap_or_default()).unwrap()
    }

    fn address(&self) -> Option<Ipv6Addr> {
        let octets: [u8; 16] = self.option(3)?.get(16..32)?.try_into().ok()?;
        Some(octets.into())
    }
}

/// Asks from a host; the first answer, or nothing within `patience`.
fn ask(
    rig: &Rig,
    host: &str,
    port: u16,
    to: (Ipv6Addr, u16),
    message: &[u8],
    patience: Duration,
) -> Option<Vec<u8>> {
    rig.lan.within(host, || {
        let here = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
        // A process that another test just forked holds a copy of an earlier socket until it becomes its program.
        let mut bound = None;
        until(PATIENCE, || {
            bound = UdpSocket::bind(here).ok();
            bound.is_some()
        });
        let socket = bound.expect("the port is free");
        let card = if host == "hub" { "br0" } else { "eth0" };
        let index = netdevice::name_to_index(&socket, card).unwrap();
        let is_local = to.0.is_multicast();
        let to = SocketAddrV6::new(to.0, to.1, 0, if is_local { index } else { 0 });
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let (began, mut buffer) = (Instant::now(), [0; 2048]);
        while began.elapsed() < patience {
            // Until the link-local address may be used, and the group is joined on the other side, firmware asks again too.
            if let Err(error) = socket.send_to(message, to) {
                assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
            }
            if let Ok((size, _)) = socket.recv_from(&mut buffer) {
                return Some(buffer[..size].to_vec());
            }
        }
        None
    })
}

fn rig(test: &str, flags: &[&str]) -> Option<Rig> {
    let mut rig = Rig::new(test)?;
    for (host, card, address) in [("hub", "br0", HUB6), ("server", "eth0", SERVER6)] {
        let add = format!("address add {address}/64 dev {card} nodad");
        if let Err(error) = rig.lan.ip(host, &add) {
            crate::lan::skip(test, &format!("no IPv6 here: {error}"));
            return None;
        }
    }
    // Usable at once, so that firmware's first packet counts.
    let usable = || {
        !rig.lan
            .ip("client", "-6 address show dev eth0 tentative")
            .is_ok_and(|shown| shown.contains("fe80"))
    };
    assert!(
        until(PATIENCE, usable),
        "the client has no link-local address"
    );
    let all = [&["--bind", "::"], flags].concat();
    rig.start(&all);
    Some(rig)
}

fn asked(rig: &Rig, message: &Message) -> Option<Message> {
    let answer = ask(
        rig,
        "client",
        546,
        (SERVERS, 547),
        &message.bytes(),
        PATIENCE,
    );
    answer.map(|answer| Message::read(&answer))
}

// C24, C39: beside the server that gives addresses.
#[test]
fn machines_are_booted_over_ipv6_beside_the_server_of_the_lan() {
    let Some(rig) = rig("boot over IPv6", &["--dhcp", "proxy"]) else {
        return;
    };
    let http = Message::of(SOLICIT)
        .identity(None)
        .booting(16, "HTTPClient");
    let answer = asked(&rig, &http).unwrap();
    assert_eq!((answer.kind, answer.option(3)), (ADVERTISE, None));
    assert_eq!(answer.option(1), Some(&DUID[..]));
    assert_eq!(
        answer.url(),
        "http://[fd77::2]:8080/stable/x86_64/phase.efi"
    );
    assert_eq!(answer.option(16), Some(&b"\0\0\x01W\0\x0aHTTPClient"[..]));

    let pxe = Message::of(SOLICIT).identity(None).booting(7, "PXEClient");
    let advertised = asked(&rig, &pxe).unwrap();
    assert!(
        advertised.url().starts_with("tftp://[fd77::2]/"),
        "{}",
        advertised.url()
    );
    // UEFI asks the boot server it was told of again, from the same port.
    let again = Message::of(REQUEST)
        .with(2, advertised.option(2).unwrap())
        .booting(7, "PXEClient");
    rig.lan
        .ip("client", "address add fd77::77/64 dev eth0 nodad")
        .unwrap();
    let answer = ask(
        &rig,
        "client",
        4011,
        (SERVER6, 4011),
        &again.bytes(),
        PATIENCE,
    );
    let answer = Message::read(&answer.unwrap());
    assert_eq!((answer.kind, answer.url()), (REPLY, advertised.url()));

    let rest = Message::of(INFORMATION_REQUEST).booting(16, "HTTPClient");
    assert_eq!(
        asked(&rig, &rest).unwrap().url(),
        "http://[fd77::2]:8080/stable/x86_64/phase.efi"
    );

    let plain = Message::of(SOLICIT).identity(None).bytes();
    let answer = ask(&rig, "client", 546, (SERVERS, 547), &plain, QUIET);
    assert_eq!(answer, None, "C20: it does not boot from the network");
}

// C24: as the LAN's only server.
#[test]
fn machines_get_their_address_over_ipv6_too() {
    let range = "10.77.0.60-10.77.0.69/24";
    let Some(rig) = rig(
        "addresses over IPv6",
        &["--dhcp", "server", "--dhcp-range", range],
    ) else {
        return;
    };
    let solicit = Message::of(SOLICIT)
        .identity(None)
        .booting(16, "HTTPClient");
    let advertised = asked(&rig, &solicit).unwrap();
    let address = advertised.address().unwrap();
    assert_eq!(
        address.segments()[..4],
        SERVER6.segments()[..4],
        "{address}"
    );
    let take = Message::of(REQUEST)
        .with(2, advertised.option(2).unwrap())
        .identity(Some(address))
        .booting(16, "HTTPClient");
    let taken = asked(&rig, &take).unwrap();
    assert_eq!((taken.kind, taken.address()), (REPLY, Some(address)));
    // OVMF does not say who it is when it gives the address back, and starts what it fetched only after the answer.
    let release = Message::of(RELEASE)
        .with(2, advertised.option(2).unwrap())
        .identity(Some(address));
    let released = asked(&rig, &release).unwrap();
    assert_eq!(
        (released.kind, released.option(13)),
        (REPLY, Some(&[0, 0][..]))
    );
}

// C18, over IPv6: a relay's link decides the subnet, and the answer goes back through it.
#[test]
fn a_relay_passes_ipv6_on() {
    let range = "10.77.0.60-10.77.0.69/24";
    let Some(rig) = rig(
        "a relay of IPv6",
        &["--dhcp", "server", "--dhcp-range", range],
    ) else {
        return;
    };
    rig.lan
        .ip("server", "route add fd99::/64 via fd77::1")
        .unwrap();
    let solicit = Message::of(SOLICIT)
        .identity(None)
        .booting(16, "HTTPClient")
        .bytes();
    let link: Ipv6Addr = "fd99::1".parse().unwrap();
    let peer: Ipv6Addr = "fe80::5054:ff:fe77:1".parse().unwrap();
    let mut forward = vec![12, 0];
    forward.extend(link.octets());
    forward.extend(peer.octets());
    forward.extend([0, 18, 0, 2, 0xab, 0xcd, 0, 9]);
    forward.extend(u16::try_from(solicit.len()).unwrap().to_be_bytes());
    forward.extend(&solicit);
    let answer = ask(&rig, "hub", 547, (SERVER6, 547), &forward, PATIENCE).unwrap();
    assert_eq!((answer[0], &answer[2..18]), (13, &link.octets()[..]));
    assert_eq!(answer[18..34], peer.octets());
    assert_eq!(answer[34..40], [0, 18, 0, 2, 0xab, 0xcd]);
    let inner = Message::read(&answer[44..]);
    assert_eq!(inner.kind, ADVERTISE);
    let address = inner.address().unwrap();
    assert_eq!(address.segments()[..4], link.segments()[..4], "{address}");
    assert!(
        inner.url().starts_with("http://[fd77::2]:8080/"),
        "{}",
        inner.url()
    );
}

/// Firmware throws away what comes from another address than the one it asked.
#[test]
fn boot_files_come_from_the_address_that_was_asked() {
    let read = b"\0\x01phase.efi\0octet\0";
    for flags in [
        &["--dhcp", "off", "--tftp-port", "69"][..],
        &["--tftp-single-port"],
    ] {
        let Some(rig) = rig("boot files over IPv6", flags) else {
            return;
        };
        let second: Ipv6Addr = "fd77::3".parse().unwrap();
        let third: Ipv6Addr = "fd77::4".parse().unwrap();
        for address in [second, third] {
            let add = format!("address add {address}/64 dev eth0 nodad");
            rig.lan.ip("server", &add).unwrap();
        }
        let add = "address add fd77::77/64 dev eth0 nodad";
        rig.lan.ip("client", add).unwrap();
        rig.lan.within("client", || {
            let ask = |to: Ipv6Addr| {
                let socket = UdpSocket::bind("[::]:0").unwrap();
                socket.set_read_timeout(Some(QUIET)).unwrap();
                let mut from = None;
                // The neighbour's address is looked for first.
                assert!(until(PATIENCE, || {
                    socket.send_to(read, (to, 69)).unwrap();
                    from = socket.recv_from(&mut [0; 600]).ok();
                    from.is_some()
                }));
                from.unwrap().1.ip()
            };
            for server in [SERVER6, second, third] {
                assert_eq!(ask(server), server, "{flags:?}");
            }
            // What everybody gets nobody answers.
            let socket = UdpSocket::bind("[fd77::77]:0").unwrap();
            socket.set_read_timeout(Some(QUIET)).unwrap();
            let card = netdevice::name_to_index(&socket, "eth0").unwrap();
            let all = SocketAddrV6::new("ff02::1".parse().unwrap(), 69, 0, card);
            socket.send_to(read, all).unwrap();
            let answer = socket.recv_from(&mut [0; 600]);
            assert!(answer.is_err(), "{answer:?}");
        });
    }
}
