//! Conversations from `tests/data/talks`, replayed: whatever a client sent in them is answered again, and the answers are
//! compared with the lines `#=` behind its packets. What servers sent in the recording is context, except TFTP data,
//! which tells how far a file got.
//!
//! `PXE_TALKS=write cargo test -p pxe --test it` writes the lines anew; read the difference before it is committed.
//! Keys at the top: `server` (our address), `mode` (`proxy` or `server`), `plan` (`netboot`, `local`, `denied`), `style`,
//! `delay-ms`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pxe::Mac;
use pxe::boot::{Offer, Plan, Reason, Style};
use pxe::client::{Client, Firmware, classify};
use pxe::dhcp::{Destination, Request, options};
use pxe::packet::{Content, Packet};
use pxe::strategy::{Action, Arrival, Book, Question, Server, Transfer, decide};
use pxe::transcript::Transcript;

/// How an expected answer begins.
const MARK: &str = "#= ";

/// A DATA packet of TFTP that is shorter than this is the last one: blocks are 512 bytes or more.
const FULL_BLOCK: usize = 4 + 512;

#[test]
fn every_talk_goes_as_written() {
    let mut seen = 0;
    let mut wrong = String::new();
    for path in talks() {
        seen += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let bare: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with(MARK))
            .collect();
        let transcript = Transcript::parse(&text);
        let transcript = transcript.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let replayed = with_answers(&bare, &replay(&transcript));
        if std::env::var_os("PXE_TALKS").is_some_and(|value| value == "write") {
            std::fs::write(&path, &replayed).unwrap();
        } else if replayed != text {
            let name = path.file_name().unwrap().to_string_lossy();
            let _ = writeln!(wrong, "{name}:\n{}", differences(&text, &replayed));
        }
    }
    assert!(seen >= 10, "only {seen} talks found");
    assert!(wrong.is_empty(), "{wrong}");
}

fn talks() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/talks");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The lines with each packet's answer behind it.
fn with_answers(lines: &[&str], answers: &[Option<String>]) -> String {
    let mut answers = answers.iter();
    let mut out = String::new();
    for line in lines {
        let _ = writeln!(out, "{line}");
        let is_packet = line.starts_with(|c: char| c.is_ascii_digit());
        if let Some(Some(answer)) = is_packet.then(|| answers.next()).flatten() {
            let _ = writeln!(out, "{MARK}{answer}");
        }
    }
    out
}

fn differences(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (marked(old), marked(new));
    let mut out = String::new();
    for index in 0..old.len().max(new.len()) {
        let (old, new) = (old.get(index), new.get(index));
        if old != new {
            let _ = writeln!(out, "  written  {old:?}\n  replayed {new:?}");
        }
    }
    out
}

fn marked(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with(MARK)).collect()
}

/// What is answered to each packet, if it is a question to us.
fn replay(transcript: &Transcript) -> Vec<Option<String>> {
    let address: Ipv4Addr = transcript.about("server").parse().unwrap();
    let server = Server {
        address,
        http_port: Some(8080),
        gives_addresses: transcript.about("mode") == "server",
    };
    let mut book = Book::default();
    let mut owners = BTreeMap::new();
    let packets = transcript.packets.iter();
    packets
        .map(|packet| {
            note(&mut book, &mut owners, &server, packet);
            let arrival = match packet.target.port() {
                67 if packet.source.port() != 67 || relayed(packet) => Arrival::Port67,
                4011 if packet.source.ip() != IpAddr::V4(address) => Arrival::Port4011,
                _ => return None,
            };
            let bytes = &packet.udp()?.bytes;
            let to_us = [IpAddr::V4(address), IpAddr::V4(Ipv4Addr::BROADCAST)];
            if !to_us.contains(&packet.target.ip()) {
                return None;
            }
            Some(match Request::parse(bytes) {
                Ok(request) => answer(&mut book, transcript, &server, &request, arrival, packet.at),
                Err(why) => format!("malformed: {why}"),
            })
        })
        .collect()
}

fn relayed(packet: &Packet) -> bool {
    let request = packet.udp().map(|payload| Request::parse(&payload.bytes));
    matches!(request, Some(Ok(request)) if request.is_relayed())
}

fn answer(
    book: &mut Book,
    transcript: &Transcript,
    server: &Server,
    request: &Request,
    arrival: Arrival,
    now: Duration,
) -> String {
    let kind = request.kind.name();
    let Some(client) = classify(request) else {
        return format!("{kind}: no netboot client");
    };
    let plan = plan(transcript, &client, server);
    let question = Question {
        client: &client,
        request,
        plan: &plan,
        server,
        arrival,
    };
    let who = format!("{kind} of {} ({})", client.firmware.name(), client.arch);
    match decide(book, &question, now) {
        Action::Silence(why) => format!("{who}: silence: {why}"),
        Action::Answer(answer) => {
            let to = match answer.destination {
                Destination::Broadcast => "broadcast".to_owned(),
                Destination::Sender => "sender".to_owned(),
                Destination::Unicast(address, port) => format!("{address}:{port}"),
            };
            let reply = &answer.reply;
            let mut out = format!("{who}: {} {} to {to}", reply.kind.name(), answer.strategy);
            if answer.rung > 0 {
                let _ = write!(out, ", rung {}", answer.rung);
            }
            if !answer.after.is_zero() {
                let _ = write!(out, ", after {} ms", answer.after.as_millis());
            }
            if let Some(class) = reply.option(options::CLASS) {
                let _ = write!(out, ", 60={}", String::from_utf8_lossy(class));
            }
            if let Some(file) = &reply.file {
                let _ = write!(out, ", file {file}");
            }
            for code in [options::VENDOR, options::IPXE] {
                if let Some(value) = reply.option(code) {
                    let _ = write!(out, ", {code}={}", value.escape_ascii());
                }
            }
            if let Some(relay) = &reply.relay {
                let _ = write!(out, ", 82={}", relay.escape_ascii());
            }
            out
        }
    }
}

fn plan(transcript: &Transcript, client: &Client, server: &Server) -> Plan {
    let base = format!("http://{}:8080", server.address);
    let folder = client.arch.folder().unwrap_or("none");
    match transcript.about("plan") {
        "local" => return Plan::LocalDisk,
        "denied" => return Plan::Silence(Reason::Denied),
        _ => {}
    }
    let style = transcript.about("style");
    let delay = transcript.about("delay-ms").parse().unwrap_or(0);
    let file = match client.firmware {
        Firmware::BiosPxe | Firmware::Ipxe { efi: false, .. } => "undionly.kpxe",
        Firmware::Ipxe { efi: true, .. } => "snponly.efi",
        Firmware::RaspberryPi => "config.txt",
        _ => "phase.efi",
    };
    Plan::Netboot(Offer {
        tftp_file: Some(format!("stable/{folder}/{file}")),
        http_url: Some(format!("{base}/stable/{folder}/phase.efi")),
        script_url: Some(format!("{base}/{}", pxe::ipxe::script_path(client.mac))),
        manifest_url: Some(format!("{base}/stable/{folder}/manifest.json")),
        delay: Duration::from_millis(delay),
        style: Style::ALL.into_iter().find(|known| known.name() == style),
    })
}

/// What the recording tells about files and about who has which address.
fn note(book: &mut Book, owners: &mut BTreeMap<IpAddr, Mac>, server: &Server, packet: &Packet) {
    let Some(payload) = packet.udp() else {
        return;
    };
    let us = IpAddr::V4(server.address);
    if let Ok(request) = Request::parse(&payload.bytes) {
        for address in [Some(request.ciaddr), request.requested]
            .into_iter()
            .flatten()
        {
            owners.insert(IpAddr::V4(address), request.mac);
        }
    } else if packet.target.ip() == us && packet.target.port() == 69 {
        if let Some(mac) = owners.get(&packet.source.ip()) {
            book.saw_tftp(*mac, Transfer::Begun, packet.at);
        }
    } else if packet.source.ip() == us
        && payload.bytes.starts_with(&[0, 3])
        && payload.size() < FULL_BLOCK
        && let Some(mac) = owners.get(&packet.target.ip())
    {
        book.saw_tftp(*mac, Transfer::Done, packet.at);
    }
}

/// A talk that cannot fail proves nothing.
#[test]
fn a_changed_answer_is_found() {
    let text = "server: 192.0.2.1\n0 - dhcp 0.0.0.0:68 > 255.255.255.255:67 mac=52:54:00:00:00:01 53=01 60=\"PXEClient\" 93=0007\n";
    let transcript = Transcript::parse(text).unwrap();
    assert!(matches!(&transcript.packets[0].content, Content::Udp(_)));
    let answers = replay(&transcript);
    let answer = answers[0].as_deref().unwrap();
    assert_eq!(
        answer,
        "DISCOVER of UEFI PXE (x86_64 UEFI): OFFER binl to broadcast, 60=PXEClient"
    );
    let lines: Vec<&str> = text.lines().collect();
    let written = with_answers(&lines, &answers);
    assert!(differences(&written, &written.replace("binl", "menu")).contains("menu"));
}
