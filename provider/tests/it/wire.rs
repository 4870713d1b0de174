//! What a provider says on the network by default, and what it leaves when it is told to: read off the wire.
//!
//! Silence is judged beside a provider that speaks: once that one was heard, the silent one had the same time to. A switch
//! overrules the file of settings, which asks for what it switches off.

use std::io;
use std::net::{Ipv6Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};

use serde_json::Value;

use crate::discover::Rig;
use crate::lan::{Lan, until};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where members of the DHT listen, and the one that the others are told of.
const DHT_PORT: u16 = 4011;
const MEMBER: &str = "10.78.0.2";

/// The groups of multicast DNS (RFC 6762 section 3).
const GROUP: [u8; 4] = [224, 0, 0, 251];
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// The cards of the provider that is to be silent, and of the one that speaks.
const SILENT: [u8; 6] = [2, 0, 0, 0x78, 0, 1];
const SPEAKING: [u8; 6] = [2, 0, 0, 0x78, 0, 2];

/// Everything that passes the hub.
struct Wire {
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
}

impl Wire {
    fn tap(lan: &Lan) -> Self {
        let socket = lan.within("hub", || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(
                AddressFamily::PACKET,
                SocketType::RAW,
                flags,
                Some(eth::ALL),
            )
        });
        Self {
            socket: socket.unwrap(),
            frames: Vec::new(),
        }
    }

    /// The frames of one card that `wanted` takes, of all so far.
    fn of(&mut self, card: [u8; 6], wanted: fn(&[u8]) -> bool) -> usize {
        let mut frame = [0; 2048];
        loop {
            match recv(&self.socket, &mut frame[..], RecvFlags::empty()) {
                Ok((size, _)) => self.frames.push(frame[..size].to_vec()),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => panic!("{}", io::Error::from(error)),
            }
        }
        let sent = self.frames.iter().filter(|frame| frame[6..12] == card);
        sent.filter(|frame| wanted(frame)).count()
    }
}

/// Said to a group of multicast DNS, or about being a member of it.
fn is_mdns(frame: &[u8]) -> bool {
    frame.windows(4).any(|part| part == GROUP)
        || frame.windows(16).any(|part| part == GROUP6.octets())
}

/// A TCP segment from or to the port of the DHT.
fn is_dht(frame: &[u8]) -> bool {
    let (kind, packet) = (&frame[12..14], &frame[14..]);
    let segment = match (kind, packet) {
        ([8, 0], [first, ..]) if packet.get(9) == Some(&6) => {
            packet.get(usize::from(first & 15) * 4..)
        }
        ([0x86, 0xdd], _) if packet.get(6) == Some(&6) => packet.get(40..),
        _ => None,
    };
    let port = DHT_PORT.to_be_bytes();
    segment
        .is_some_and(|segment| segment.get(..2) == Some(&port) || segment.get(2..4) == Some(&port))
}

/// A LAN with both cards at the hub, 10.78.0.1 silent and 10.78.0.3 speaking, and the tap.
fn rig(test: &str) -> Option<(Rig, Wire)> {
    let rig = Rig::new(test)?;
    for (host, card) in [("provider", SILENT), ("other", SPEAKING)] {
        let card = card.map(|byte| format!("{byte:02x}")).join(":");
        rig.lan
            .ip(host, &format!("link set eth0 address {card}"))
            .unwrap();
    }
    let wire = Wire::tap(&rig.lan);
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    Some((rig, wire))
}

#[test]
fn without_mdns_nothing_is_said_about_it() {
    let Some((mut rig, mut wire)) = rig("without_mdns_nothing_is_said") else {
        return;
    };
    rig.start_on("provider", "silent", &["--no-mdns"]);
    let serves = until(PATIENCE, || rig.lan.log("silent").contains("serving"));
    assert!(serves, "{}", rig.lan.log("silent"));
    rig.start_on("other", "speaking", &[]);
    let announced = "announced on the local network";
    let speaks = until(PATIENCE, || {
        rig.lan.log("speaking").contains(announced) && wire.of(SPEAKING, is_mdns) > 2
    });
    assert!(speaks, "{}", rig.lan.log("speaking"));
    // The one that speaks asks who else is there: whoever listened would answer within half a second (section 6).
    let found = rig.discover(&["--format", "json", "--all", "--timeout", "2"]);
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(
        found.contains("10.78.0.3") && !found.contains("10.78.0.1:"),
        "{found}"
    );
    assert_eq!(wire.of(SILENT, is_mdns), 0);
    assert!(!rig.lan.log("silent").contains(announced));
    let sockets = rig.lan.within("provider", || {
        std::fs::read_to_string("/proc/thread-self/net/udp")
    });
    let (mdns, sockets) = (format!(":{:04X} ", 5353), sockets.unwrap());
    assert!(!sockets.contains(&mdns), "{sockets}");
}

#[test]
fn without_the_dht_nobody_is_connected_to_and_nobody_is_let_in() {
    let Some((mut rig, mut wire)) = rig("without_the_dht_nobody_is_connected_to") else {
        return;
    };
    let file = rig.lan.directory().join("plasmd.toml");
    std::fs::write(&file, format!("bootstrap = [\"{MEMBER}\"]\n")).unwrap();
    let file = file.to_str().unwrap().to_owned();
    rig.lan.ip("client", "link set lo up").unwrap();
    rig.start_on("client", "member", &["--no-mdns"]);
    rig.start_on(
        "provider",
        "silent",
        &["--no-mdns", "--no-dht", "-C", &file],
    );
    rig.start_on("other", "speaking", &["--no-mdns", "-C", &file]);
    let dht = |address: &str| -> Value {
        let mut asked = rig.lan.command("client", env!("CARGO_BIN_EXE_plasmd"));
        let url = format!("http://{address}:8080");
        let answer = asked
            .args(["provider", "status", "--json", "--addr", &url])
            .output();
        let status: Value = serde_json::from_slice(&answer.unwrap().stdout).unwrap_or_default();
        status["discovery"]["dht"].clone()
    };
    // By default it listens, connects to whom it is told of, and its entry is taken there.
    let speaks = until(PATIENCE, || {
        let (member, speaking) = (dht(MEMBER), dht("10.78.0.3"));
        let is_silent_up = !dht("10.78.0.1").is_null();
        is_silent_up && member["peers"] == 1 && !speaking["last_published"].is_null()
    });
    assert!(speaks, "{} {}", dht(MEMBER), dht("10.78.0.3"));
    assert!(wire.of(SPEAKING, is_dht) > 3);
    assert_eq!(dht("10.78.0.3")["state"], "on");
    assert_eq!(dht("10.78.0.1")["reason"], "--no-dht");
    assert_eq!(wire.of(SILENT, is_dht), 0);
    let port = |address: &str| {
        let address = format!("{address}:{DHT_PORT}");
        rig.lan
            .within("client", || TcpStream::connect(address).map(drop))
    };
    port("10.78.0.3").unwrap();
    let refused = port("10.78.0.1").unwrap_err().kind();
    assert_eq!(refused, io::ErrorKind::ConnectionRefused);
}
