//! Multicast DNS from those who mean harm: floods, packets that are no packets, addresses that lead nowhere.
//!
//! Everything goes through a real kernel, in network namespaces. What must hold: the real provider is found, what is printed
//! cannot steer a terminal, and nobody's memory or time grows with what strangers send.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::discover::{Rig, URL, stdout};
use crate::lan::until;

/// Where multicast DNS goes.
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// Record types.
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const SRV: u16 = 33;

/// The class of a record that others are to be forgotten for, and of one that they are not.
const UNIQUE: u16 = 0x8001;
const SHARED: u16 = 1;

/// Memory that a flood may cost, in KiB. Without a bound the ones below cost several times as much.
const GROWTH_MAX: u64 = 48 << 10;

fn name(labels: &[&[u8]]) -> Vec<u8> {
    let mut name = Vec::new();
    for label in labels {
        name.push(u8::try_from(label.len()).unwrap());
        name.extend_from_slice(label);
    }
    name.push(0);
    name
}

fn record(name: &[u8], kind: u16, class: u16, content: &[u8]) -> Vec<u8> {
    let mut record = name.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend(class.to_be_bytes());
    record.extend(4_500_u32.to_be_bytes());
    record.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
    record.extend_from_slice(content);
    record
}

fn response(records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap();
    let header = [0, 0x8400, 0, count, 0, 0];
    let mut packet: Vec<u8> = header
        .iter()
        .flat_map(|word: &u16| word.to_be_bytes())
        .collect();
    packet.extend(records.concat());
    packet
}

/// A provider that does not exist, at an address.
fn invention(instance: &[u8], address: [u8; 4], facts: &[&[u8]]) -> Vec<Vec<u8>> {
    let service: [&[u8]; 3] = [b"_phase-image", b"_tcp", b"local"];
    let full = name(&[&[instance], &service[..]].concat());
    let host = name(&[instance, b"local"]);
    let target = [&[0, 0, 0, 0, 0, 80], &host[..]].concat();
    let facts: Vec<u8> = facts
        .iter()
        .flat_map(|fact| [&[u8::try_from(fact.len()).unwrap()], *fact].concat())
        .collect();
    vec![
        record(&name(&service), PTR, SHARED, &full),
        record(&full, SRV, UNIQUE, &target),
        record(&full, TXT, UNIQUE, &facts),
        record(&host, A, UNIQUE, &address),
    ]
}

const FACTS: [&[u8]; 3] = [b"channel=stable", b"arch=x86_64", b"version=1"];

/// Sends what `packet` gives for 0, 1, 2 ... from the host `other` while `during` runs.
fn flood<T>(
    rig: &Rig,
    packet: impl Fn(u32) -> Vec<u8> + Send + Sync,
    during: impl FnOnce() -> T,
) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            rig.lan.within("other", || {
                let socket = UdpSocket::bind("10.78.0.3:5353").unwrap();
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // A full queue is no reason to stop.
                    let _sent = socket.send_to(&packet(number), GROUP);
                }
            });
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        is_over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The LAN with a provider and somebody who means harm, 10.78.0.3.
fn rig(test: &str) -> Option<Rig> {
    let mut rig = Rig::new(test)?;
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    rig.start_provider();
    let announced = || {
        rig.lan
            .log("serve")
            .contains("announced on the local network")
    };
    assert!(until(Duration::from_secs(10), announced));
    Some(rig)
}

/// Memory of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn a_flood_of_inventions_fills_no_memory_and_ends_nothing() {
    let Some(mut rig) = rig("a_flood_of_inventions") else {
        return;
    };
    let program = rig.lan.directory().join("phase-discover");
    let mut command = rig.lan.command("client", &program.display().to_string());
    command.args(["--watch", "--quiet", "--arch", "x86_64"]);
    let watch = rig.lan.start("watch", command);
    let is_found = || rig.lan.log("watch").contains(&format!("found {URL}"));
    assert!(until(Duration::from_secs(20), is_found));
    let pids = [watch, rig.served_by()];
    let before = pids.map(memory);
    let packet = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        let records = (0..8).flat_map(|part| {
            let instance = format!("invention-{number}-{part}");
            invention(instance.as_bytes(), [10, high, middle, low], &FACTS)
        });
        response(&records.collect::<Vec<_>>())
    };
    let end = Instant::now() + Duration::from_secs(8);
    let most = flood(&rig, packet, || {
        let mut most = before;
        until(Duration::from_secs(60), || {
            for (most, pid) in most.iter_mut().zip(pids) {
                *most = memory(pid).max(*most);
            }
            // Both noticed, and the flood had its time.
            let logs = ["watch", "serve"].map(|log| rig.lan.log(log));
            let noticed = logs
                .iter()
                .all(|log| log.contains("a flood of multicast DNS"));
            noticed && Instant::now() >= end
        });
        most
    });
    for ((most, before), log) in most.iter().zip(before).zip(["watch", "serve"]) {
        let log = rig.lan.log(log);
        assert!(
            log.contains("a flood of multicast DNS"),
            "not noticed: {log}"
        );
        assert!(
            most - before < GROWTH_MAX,
            "from {before} to {most} KiB: {log}"
        );
    }
    // The real provider is there still, and found.
    let found = rig.discover(&["--timeout", "20"]);
    assert_eq!(stdout(&found), format!("MANIFEST_URL={URL}\n"), "{found:?}");
}

#[test]
fn packets_that_are_none_are_survived() {
    let Some(rig) = rig("packets_that_are_none") else {
        return;
    };
    let good = response(&invention(b"x", [10, 78, 0, 66], &FACTS));
    let service = name(&[b"_phase-image", b"_tcp", b"local"]);
    let packet = |number: u32| {
        let mut packet = good.clone();
        let step = usize::try_from(number).unwrap();
        match number % 6 {
            // Cut anywhere.
            0 => packet.truncate(step % good.len()),
            // A byte changed, which makes lengths and counts lie.
            1 => packet[step / 6 % good.len()] ^= u8::try_from(step / 7 % 255).unwrap() | 1,
            // More records than there are.
            2 => packet[6] = 0xff,
            // A name that points to itself.
            3 => {
                packet = response(&[]);
                packet[7] = 1;
                packet.extend([0xc0, 12]);
            }
            // Larger than any packet of multicast DNS may be: it comes in fragments.
            4 => packet.resize(20_000, 0xc0),
            // Text records of a provider with a name that steers terminals, as large as they come.
            _ => {
                let long = [b'v'; 250];
                let facts: Vec<&[u8]> = [&FACTS[..2], &[&long[..]; 30]].concat();
                let mut records = invention(b"\x1b[2J\xff\xfe", [10, 78, 0, 66], &facts);
                records.push(record(&service, PTR, SHARED, &[0xc0, 0]));
                packet = response(&records);
            }
        }
        // Slow enough to be read: this is about what is in them.
        std::thread::sleep(Duration::from_micros(200));
        packet
    };
    let found = flood(&rig, packet, || {
        rig.discover(&["--json", "--all", "--timeout", "4"])
    });
    let said = stdout(&found);
    assert!(
        !said.contains('\u{1b}') && !said.contains("\\u001b"),
        "{said}"
    );
    let json: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{found:?}"));
    assert_eq!(json["manifest_url"], URL);
    assert_eq!(rig.discover(&["--quiet"]).status.code(), Some(0));
}

#[test]
fn addresses_that_lead_nowhere_keep_nobody_from_the_real_one() {
    let Some(rig) = rig("addresses_that_lead_nowhere") else {
        return;
    };
    let nowhere = [
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [224, 0, 0, 251],
        [255, 255, 255, 255],
        // Nobody is there, and nobody says so.
        [10, 78, 0, 99],
        [10, 78, 0, 98],
    ];
    let packet = |number: u32| {
        let which = usize::try_from(number).unwrap() % nowhere.len();
        let instance = format!("nowhere-{}", number % 200);
        std::thread::sleep(Duration::from_micros(500));
        response(&invention(instance.as_bytes(), nowhere[which], &FACTS))
    };
    let found = flood(&rig, packet, || {
        rig.discover(&["--json", "--timeout", "20"])
    });
    let json: Value = serde_json::from_slice(&found.stdout).unwrap_or_else(|_| panic!("{found:?}"));
    assert_eq!(json["manifest_url"], URL, "{json:#}");
    let said = json.to_string();
    for never in ["127.0.0.1", "//0.0.0.0", "224.0.0.251", "255.255.255.255"] {
        assert!(!said.contains(never), "{never}: {json:#}");
    }
}
