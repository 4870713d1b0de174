//! `plasmd doctor --packets`: captures of every kind, and a LAN of namespaces watched while a machine fails in it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pxe::findings::RULES;
use pxe::packet::Packet;
use pxe::transcript::Transcript;
use serde_json::Value;

use crate::desk::Ended;
use crate::lan::{Lan, skip, until};
use crate::provider::PLASMD;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn transcript(name: &str) -> (PathBuf, Transcript) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pxe/tests/data/doctor");
    let path = folder.join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap();
    (path, Transcript::parse(&text).unwrap())
}

/// A packet of a transcript as an Ethernet frame.
fn frame(packet: &Packet) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (packet.source.ip(), packet.target.ip()) else {
        panic!("{packet:?}");
    };
    let payload = &packet.udp().unwrap().bytes;
    let mut frame = vec![0xff; 6];
    frame.extend(packet.link.map_or([2, 0, 0, 0, 0, 1], |mac| mac.octets()));
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(packet.source.port().to_be_bytes());
    frame.extend(packet.target.port().to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// A pcap of this byte order, with a clock of so many steps in a second.
fn pcap(packets: &[Packet], magic: u32, steps: u32, order: fn(u32) -> [u8; 4]) -> Vec<u8> {
    let half = |one: u16, other: u16| match order(1) == [1, 0, 0, 0] {
        true => [one.to_le_bytes(), other.to_le_bytes()].concat(),
        false => [one.to_be_bytes(), other.to_be_bytes()].concat(),
    };
    let mut file = order(magic).to_vec();
    file.extend(half(2, 4));
    for number in [0, 0, 262_144, 1] {
        file.extend(order(number));
    }
    for packet in packets {
        let frame = frame(packet);
        let size = frame.len() as u32;
        let part = u64::from(packet.at.subsec_micros()) * u64::from(steps) / 1_000_000;
        let seconds = 1_700_000_000 + packet.at.as_secs() as u32;
        for number in [seconds, part as u32, size, size] {
            file.extend(order(number));
        }
        file.extend(frame);
    }
    file
}

/// The same as pcapng.
fn pcapng(packets: &[Packet]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padded = body.len().next_multiple_of(4);
        let size = (12 + padded as u32).to_le_bytes();
        let mut block = kind.to_le_bytes().to_vec();
        block.extend(size);
        block.extend(body);
        block.resize(8 + padded, 0);
        block.extend(size);
        block
    };
    let head = [&[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..], &[0xff; 8]].concat();
    let mut file = block(0x0a0d_0d0a, &head);
    file.extend(block(1, &[1, 0, 0, 0, 0, 0, 4, 0]));
    for packet in packets {
        let frame = frame(packet);
        let micros = 1_700_000_000_000_000 + packet.at.as_micros() as u64;
        let size = frame.len() as u32;
        let numbers = [0, (micros >> 32) as u32, micros as u32, size, size];
        let mut body: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        body.extend(frame);
        file.extend(block(6, &body));
    }
    file
}

fn doctor(flags: &[&str], input: &[u8]) -> Ended {
    let mut child = Command::new(PLASMD)
        .args(["doctor", "--packets"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Refused before all was read: then the pipe breaks.
    let _written = child.stdin.take().unwrap().write_all(input);
    Ended::of(&child.wait_with_output().unwrap())
}

#[test]
fn captures_of_every_kind_say_the_same() {
    let (path, transcript) = transcript("tftp-not-found");
    let wanted = doctor(&["--pcap", path.to_str().unwrap()], b"");
    assert!(wanted.out.contains("bad  tftp-not-found: "), "{wanted:?}");
    assert!(wanted.out.contains("1 machine asked to boot"), "{wanted:?}");
    assert_eq!(wanted.code, Some(1), "{wanted:?}");
    let packets = &transcript.packets;
    let micros = pcap(packets, 0xa1b2_c3d4, 1_000_000, u32::to_le_bytes);
    let nanos = pcap(packets, 0xa1b2_3c4d, 1_000_000_000, u32::to_be_bytes);
    for capture in [&micros, &nanos, &pcapng(packets)] {
        let said = doctor(&["--pcap", "-"], capture);
        assert_eq!(said.out, wanted.out, "{said:?}");
        assert_eq!(said.code, Some(1));
    }
    // The one who captured was stopped in the middle of its last packet.
    let cut = doctor(&["--pcap", "-"], &micros[..micros.len() - 5]);
    assert!(cut.out.contains("TFTP 192.168.7.2"), "{cut:?}");
}

#[test]
fn a_capture_through_a_pipe_ends_with_ctrl_c() {
    let (_, transcript) = transcript("tftp-not-found");
    let capture = pcap(
        &transcript.packets,
        0xa1b2_c3d4,
        1_000_000,
        u32::to_le_bytes,
    );
    let mut child = Command::new(PLASMD)
        .args(["doctor", "--packets", "--pcap", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&capture).unwrap();
    // It has heard of signals once it blocks them.
    let status = format!("/proc/{}/status", child.id());
    let blocks = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & 0b10 != 0)
    };
    assert!(until(PATIENCE, || blocks(
        &fs::read_to_string(&status).unwrap()
    )));
    interrupt(child.id());
    let ended = Ended::of(&child.wait_with_output().unwrap());
    assert!(ended.out.contains("bad  tftp-not-found: "), "{ended:?}");
    drop(pipe);
}

fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn programs_read_the_findings_and_good_boots_are_good() {
    let (path, _) = transcript("class-not-echoed");
    let ended = doctor(&["--json", "--pcap", path.to_str().unwrap()], b"");
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    let machine = &json["machines"][0];
    let finding = &machine["findings"][0];
    assert_eq!(
        (&json["status"], &machine["mac"]),
        (&"bad".into(), &"52:54:00:00:00:09".into())
    );
    assert_eq!(
        (&finding["code"], &finding["level"]),
        (&"class-not-echoed".into(), &"bad".into())
    );
    for text in [
        &finding["message"],
        &finding["rule"],
        &finding["advice"],
        &machine["got"][0],
    ] {
        assert!(text.is_string(), "{json}");
    }
    let (path, _) = transcript("good-uefi-pxe");
    let ended = doctor(&["--quiet", "--pcap", path.to_str().unwrap()], b"");
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(0), "1 machine asked to boot\n")
    );
}

#[test]
fn what_cannot_be_read_or_written_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("taken"), "").unwrap();
    fs::write(path("lines"), "about: x\n0 - nonsense\n").unwrap();
    for (flags, input, why) in [
        (
            vec!["--pcap".to_owned(), path("nothing")],
            &b""[..],
            "No such file",
        ),
        (
            vec!["--pcap".to_owned(), "-".to_owned()],
            &[0x89, b'P', b'N', b'G', 1, 2, 3, 4][..],
            "a capture is pcap",
        ),
        (vec!["--pcap".to_owned(), path("lines")], b"", "line 2: "),
        (
            vec![
                "--pcap".to_owned(),
                "-".to_owned(),
                "--record".to_owned(),
                path("taken"),
            ],
            b"",
            "a name that is not taken",
        ),
        (
            vec!["--interface".to_owned(), "../lo".to_owned()],
            b"",
            "no network interface",
        ),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let ended = doctor(&flags, input);
        assert!(
            ended.code == Some(3) && ended.err.contains(why),
            "{flags:?}: {ended:?}"
        );
    }
    let ended = Command::new(PLASMD)
        .args(["doctor", "--pcap", "x"])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(2), "--pcap without --packets");
}

#[test]
fn every_finding_is_in_the_guide() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operators-guide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let codes = RULES.iter().map(|rule| rule.code);
    let missing: Vec<_> = codes
        .filter(|code| !guide.contains(&format!("`{code}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A machine that asks, is not answered, and finds a web server without its file; watched on both sides of a bridge.
#[test]
fn a_machine_that_fails_on_the_wire_is_understood_and_recorded() {
    let mut lan = match Lan::new(&["machine"]) {
        Ok(lan) => lan,
        Err(reason) => return skip("doctor --packets on the wire", &reason),
    };
    lan.ip("hub", "address add 192.168.7.2/24 dev br0").unwrap();
    lan.ip("machine", "link set eth0 address 52:54:00:00:00:09")
        .unwrap();
    lan.ip("machine", "address add 192.168.7.9/24 dev eth0")
        .unwrap();
    lan.ip("machine", "link set eth0 up").unwrap();
    let record = lan.directory().join("record.txt");
    let mut command = lan.command("hub", PLASMD);
    command
        .args(["doctor", "--packets", "--record"])
        .arg(&record);
    let doctor = lan.start("doctor", command);
    assert!(until(PATIENCE, || lan
        .log("doctor")
        .contains("watching all interfaces")));

    let listener = lan.within("hub", || TcpListener::bind("192.168.7.2:8080").unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _asked = stream.read(&mut [0; 1_024]).unwrap();
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    let (_, questions) = transcript("no-answer");
    let discover = questions.packets[0].udp().unwrap().bytes.clone();
    lan.within("machine", || {
        let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(&discover, "192.168.7.255:67").unwrap();
        let mut stream = TcpStream::connect("192.168.7.2:8080").unwrap();
        stream
            .write_all(b"GET /phase.efi HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
    });
    server.join().unwrap();
    let said = |text: &str| lan.log("doctor").contains(text);
    assert!(until(PATIENCE, || said(
        "bad  no-answer: it asked once and nobody answered"
    )));
    assert!(said(
        "bad  http-status: 192.168.7.2:8080 answered GET /phase.efi with 404"
    ));
    interrupt(doctor);
    assert_eq!(lan.wait(doctor, PATIENCE), Some(1));

    let text = fs::read_to_string(&record).unwrap();
    let recorded = Transcript::parse(&text).unwrap();
    let discovers = recorded.packets.iter().filter(|packet| packet.is_dhcp());
    assert_eq!(discovers.count(), 1, "{text}");
    let again = self::doctor(&["--pcap", record.to_str().unwrap()], b"");
    for code in ["no-answer", "http-status"] {
        assert!(again.out.contains(code), "{again:?}");
    }
}
