//! Watches the wire through a packet socket: all interfaces, or one. What crosses a bridge is seen on both of its sides and
//! counted once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pxe::frame;
use pxe::packet::Packet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::limits::{BURST, ECHO_WAIT, ECHOES_MAX, TICK};
use super::Desk;
use super::sys::{Capture, Caught};
use crate::exit::CommandError;
use crate::out;

/// Watches until the seconds are over or somebody interrupts.
pub(super) fn watch(
    interface: Option<&str>,
    seconds: Option<u32>,
    desk: &mut Desk,
) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::local(format!("packets cannot be watched: {error}"))
            .hint("run it as root (it needs CAP_NET_RAW), or read a capture with --pcap FILE")
    };
    let index = interface.map(index_of).transpose()?;
    let stop = crate::net::termination_signals().map_err(failed)?;
    let capture = Capture::open(index).map_err(failed)?;
    let began = Instant::now();
    let end = seconds.map(|seconds| Duration::from_secs(seconds.into()));
    if !desk.json {
        let what = interface.unwrap_or("all interfaces");
        out::line(format_args!(
            "watching {what}; switch the machine on, ctrl-c ends"
        ));
    }
    let (mut echoes, mut told) = (Echoes::default(), Duration::ZERO);
    loop {
        let now = began.elapsed();
        if end.is_some_and(|end| now >= end) {
            break;
        }
        let mut ready = [
            PollFd::new(&capture, PollFlags::IN),
            PollFd::new(&stop, PollFlags::IN),
        ];
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(TICK.subsec_nanos()),
        };
        match poll(&mut ready, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        if !ready[1].revents().is_empty() {
            break;
        }
        for _packet in 0..BURST {
            let Some(caught) = capture.next().map_err(failed)? else {
                break;
            };
            if let Some(packet) = echoes.first(&caught, began.elapsed()) {
                desk.see(&packet)?;
            }
        }
        let now = began.elapsed();
        if now.saturating_sub(told) >= TICK {
            told = now;
            desk.tell(now);
        }
    }
    let missed = capture.missed().map_err(failed)?;
    if missed > 0 {
        tracing::warn!(
            missed,
            "packets came faster than they were looked at; findings may be missing"
        );
    }
    Ok(())
}

fn index_of(name: &str) -> Result<u32, CommandError> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let text = if name.contains('/') {
        None
    } else {
        std::fs::read_to_string(path).ok()
    };
    let index = text.and_then(|text| text.trim().parse().ok());
    index.ok_or_else(|| CommandError::local(format!("there is no network interface {name}")))
}

/// The last packets, to know those again that come in on a second interface.
#[derive(Default)]
struct Echoes(VecDeque<(u32, Packet)>);

impl Echoes {
    fn first(&mut self, caught: &Caught, at: Duration) -> Option<Packet> {
        let packet = frame::network(caught.kind, caught.sender, &caught.bytes, at)?;
        let is_echo = self.0.iter().any(|(interface, known)| {
            let same = (known.source, known.target) == (packet.source, packet.target)
                && known.content == packet.content;
            same && *interface != caught.interface && at.saturating_sub(known.at) < ECHO_WAIT
        });
        if is_echo {
            return None;
        }
        if self.0.len() == ECHOES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((caught.interface, packet.clone()));
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_a_bridge_counts_once_and_what_is_sent_again_counts_again() {
        let bytes = [
            0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 2, 8, 0x16, 0, 69, 0,
            12, 0, 0, 0, 3, 0, 1,
        ];
        let caught = |interface| Caught {
            interface,
            kind: 0x0800,
            sender: None,
            bytes: bytes.to_vec(),
        };
        let mut echoes = Echoes::default();
        let mut see = |interface, micros| {
            echoes
                .first(&caught(interface), Duration::from_micros(micros))
                .is_some()
        };
        assert!(see(1, 0));
        assert!(!see(2, 40), "the other side of the bridge");
        assert!(see(1, 900), "sent again at once");
        assert!(see(2, 4_000_000), "sent again later");
    }
}
