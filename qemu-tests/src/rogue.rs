//! A host on the LAN that lies by multicast DNS: it announces providers that do not exist, cannot be reached or serve
//! something else, and packets that are no DNS. It shouts for as long as it lives.

use std::io::{self, PipeWriter};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lan::{HOST, Lan};

/// Where mDNS is spoken.
const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
/// What providers announce.
const SERVICE: &str = "_phase-image._tcp.local";
/// Between two packets: a few hundred in a second, which a LAN carries without losing the honest ones.
const PAUSE: Duration = Duration::from_millis(4);
/// Record types and the class with the bit that says that what was known before is over.
const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const SRV: u16 = 33;
const IN: u16 = 1;
const IN_ALONE: u16 = 0x8001;

/// Somebody who does not stop. Dropping it silences it.
#[derive(Debug)]
pub struct Rogue {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Rogue {
    /// Sends `packets` from the host's address on the LAN, one after the other, again and again.
    ///
    /// # Errors
    /// When its socket cannot be had.
    pub fn shout(lan: &Lan, packets: Vec<Vec<u8>>) -> Result<Self> {
        let socket = lan.inside(|| {
            let address: Ipv4Addr = HOST.parse().map_err(io::Error::other)?;
            let socket = UdpSocket::bind((address, GROUP.1))?;
            rustix::net::sockopt::set_ip_multicast_if(&socket, &address)?;
            Ok(socket)
        })?;
        let (stopped, stop) = io::pipe()?;
        let thread = thread::spawn(move || {
            let pause = Timespec::try_from(PAUSE).ok();
            for packet in packets.iter().cycle() {
                // What a full queue drops comes again.
                let _ = socket.send_to(packet, GROUP);
                let mut ready = [PollFd::new(&stopped, PollFlags::IN)];
                if !matches!(poll(&mut ready, pause.as_ref()), Ok(0)) {
                    break;
                }
            }
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// The announcement of a provider of `stable` at this address, as an honest one would make it.
#[must_use]
pub fn announcement(instance: &str, address: [u8; 4], port: u16) -> Vec<u8> {
    let port_text = port.to_string();
    announcement_with(
        instance,
        address,
        port,
        &[
            ("channel", "stable"),
            ("arch", "x86_64"),
            ("version", "99"),
            ("http_port", &port_text),
        ],
    )
}

/// The same with other pairs in its TXT record.
#[must_use]
pub fn announcement_with(
    instance: &str,
    address: [u8; 4],
    port: u16,
    pairs: &[(&str, &str)],
) -> Vec<u8> {
    let (full, host) = (
        format!("{instance}.{SERVICE}"),
        format!("{instance}-host.local"),
    );
    let mut target = vec![0; 4];
    target.extend(port.to_be_bytes());
    target.extend(name(&host));
    let mut text = Vec::new();
    for (key, value) in pairs {
        // A string of a TXT record has at most 255 bytes.
        let pair: Vec<u8> = format!("{key}={value}").into_bytes();
        let pair = &pair[..pair.len().min(255)];
        text.push(u8::try_from(pair.len()).unwrap_or(u8::MAX));
        text.extend(pair);
    }
    let records = [
        record(SERVICE, PTR, IN, &name(&full)),
        record(&full, SRV, IN_ALONE, &target),
        record(&full, TXT, IN_ALONE, &text),
        record(&host, A, IN_ALONE, &address),
    ];
    packet(4, &records.concat())
}

/// Packets that no parser can make sense of, and some that pretend to be sensible: cut, with names that point at
/// themselves, with counts of records that are not there, with records longer than their packet, and noise.
#[must_use]
pub fn nonsense() -> Vec<Vec<u8>> {
    let good = announcement("nonsense", [10, 77, 0, 9], 8080);
    let mut all: Vec<Vec<u8>> = (0..good.len())
        .step_by(7)
        .map(|size| good[..size].to_vec())
        .collect();
    // A name that is a pointer to itself, and two that point at each other.
    all.push(packet(
        1,
        &[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 120, 0, 2, 0xc0, 12],
    ));
    all.push(packet(
        1,
        &[0xc0, 14, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 1, 0, 0],
    ));
    all.push(packet(u16::MAX, &good[12..]));
    // A record that promises 64 KiB.
    all.push(packet(
        1,
        &[&name(SERVICE)[..], &[0, 16, 0, 1, 0, 0, 0, 9, 255, 255, 1]].concat(),
    ));
    // A name longer than names may be, and a TXT record of many packets' length.
    let long = vec!["x".repeat(63); 40].join(".");
    all.push(packet(1, &record(&long, PTR, IN, &name(SERVICE))));
    let filler = "x".repeat(240);
    let pairs: Vec<(&str, &str)> = vec![("filler", filler.as_str()); 30];
    all.push(announcement_with("large", [10, 77, 0, 9], 8080, &pairs));
    // Noise, the same in each run.
    let mut state: u32 = 0x2545_f491;
    for size in [1, 12, 13, 40, 200, 1_400] {
        let noise = (0..size).map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        });
        all.push(noise.collect());
    }
    all
}

/// A response with so many answers.
fn packet(answers: u16, records: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0];
    packet.extend(answers.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(records);
    packet
}

fn record(owner: &str, kind: u16, class: u16, content: &[u8]) -> Vec<u8> {
    let mut record = name(owner);
    record.extend(kind.to_be_bytes());
    record.extend(class.to_be_bytes());
    record.extend(120_u32.to_be_bytes());
    record.extend(
        u16::try_from(content.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    record.extend(content);
    record
}

fn name(text: &str) -> Vec<u8> {
    let mut name = Vec::new();
    for label in text.split('.') {
        name.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        name.extend(label.as_bytes());
    }
    name.push(0);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_a_response_with_four_records() {
        let packet = announcement("liar", [10, 77, 0, 9], 8080);
        assert_eq!(packet[..12], [0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!(packet[12..25], *b"\x0c_phase-image");
        assert!(packet.ends_with(&[0, 4, 10, 77, 0, 9]));
        assert!(packet.windows(14).any(|part| part == b"http_port=8080"));
        assert!(packet.len() < 300);
    }

    #[test]
    fn nonsense_is_the_same_each_time_and_fits_datagrams() {
        let all = nonsense();
        assert_eq!(all, nonsense());
        assert!(all.len() > 20 && all.iter().all(|packet| packet.len() < 60_000));
    }
}
