//! A wire that makes the iPXE in a QEMU card look like the PXE ROMs of real cards, which know no HTTP: it takes
//! iPXE's own options out of the ROM's DHCP messages, until the ROM asks for the boot program it was offered.
//! What that program says passes as it is.
//!
//! ```text
//!   card -- datagrams --> veil -- datagrams --> hub -- tap -- LAN
//! ```
//! There is no free PXE ROM for QEMU's cards but iPXE. Its PXE client is like the others; what gives it away are
//! the user class (77) and the list of its features (175).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

/// Larger than any frame of a LAN.
const FRAME_BYTES_MAX: usize = 64 * 1024;
const ETHERNET: usize = 14;
const UDP: usize = 8;
/// Where DHCP's options begin behind the UDP header.
const OPTIONS: usize = 240;
/// The options of iPXE.
const GIVEAWAYS: [u8; 2] = [77, 175];
/// Ports of DHCP servers, boot servers and TFTP servers.
const DHCP: [u16; 2] = [67, 4011];
const TFTP: u16 = 69;

/// The two threads that are the wire. Dropping it cuts the wire.
#[derive(Debug)]
pub(crate) struct Veil {
    ends: [UnixDatagram; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Veil {
    /// Makes the wire's sockets in the folder `scratch` and begins to carry frames. `program` is part of the
    /// name of the boot file with which the veil is lifted.
    pub(crate) fn hang(scratch: &Path, program: &'static str) -> Result<Self> {
        let bind = |name| {
            let path = scratch.join(name);
            UnixDatagram::bind(&path).with_context(|| format!("bind {}", path.display()))
        };
        let (card, lan) = (bind("card")?, bind("lan")?);
        let ends = [card.try_clone()?, lan.try_clone()?];
        let (card_too, lan_too) = (card.try_clone()?, lan.try_clone()?);
        let (to_lan, to_card) = (scratch.join("lan.qemu"), scratch.join("card.qemu"));
        let mut is_lifted = false;
        let outwards = thread::spawn(move || {
            carry(&card, &lan_too, &to_lan, |frame| {
                is_lifted = is_lifted || asks_for(frame, program);
                if !is_lifted {
                    hide(frame);
                }
            });
        });
        let inwards = thread::spawn(move || carry(&lan, &card_too, &to_card, |_| {}));
        Ok(Self {
            ends,
            threads: vec![outwards, inwards],
        })
    }

    /// QEMU's arguments for the netdev `id` of a card whose frames go through the veil to `tap`.
    pub(crate) fn args(scratch: &Path, id: &str, tap: &str) -> Vec<String> {
        let datagrams = |id: &str, name: &str| {
            let ours = scratch.join(format!("{name}.qemu"));
            let theirs = scratch.join(name);
            format!(
                "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                ours.display(),
                theirs.display()
            )
        };
        [
            datagrams(id, "card"),
            datagrams("veiled", "lan"),
            format!("tap,id=unveiled,ifname={tap},script=no,downscript=no"),
            "hubport,id=port0,hubid=0,netdev=veiled".to_owned(),
            "hubport,id=port1,hubid=0,netdev=unveiled".to_owned(),
        ]
        .into_iter()
        .flat_map(|netdev| ["-netdev".to_owned(), netdev])
        .collect()
    }
}

impl Drop for Veil {
    fn drop(&mut self) {
        for end in &self.ends {
            // Wakes its reader; an end that is closed already has none.
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// Carries frames from one end to the other until the ends are shut down.
fn carry(from: &UnixDatagram, by: &UnixDatagram, to: &Path, mut change: impl FnMut(&mut [u8])) {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    loop {
        match from.recv(&mut frame) {
            Ok(0) => return,
            Ok(size) => {
                change(&mut frame[..size]);
                // A frame that QEMU does not take, because it begins or ends just now, is lost as on a wire.
                let _ = by.send_to(&frame[..size], to);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The UDP datagram in an IPv4 frame, if it is one, and the port it goes to.
fn datagram(frame: &mut [u8]) -> Option<(u16, &mut [u8])> {
    let is_ipv4 = frame.get(12..ETHERNET)? == [8, 0];
    let header = usize::from(*frame.get(ETHERNET)? & 0xf) * 4;
    let is_udp = *frame.get(ETHERNET + 9)? == 17;
    let udp = frame.get_mut(ETHERNET + header..)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    (is_ipv4 && is_udp && udp.len() >= UDP).then_some((port, udp))
}

/// Overwrites iPXE's options with padding.
fn hide(frame: &mut [u8]) {
    let Some((port, udp)) = datagram(frame) else {
        return;
    };
    if !DHCP.contains(&port) {
        return;
    }
    // No checksum, which IPv4 allows.
    udp[6..UDP].fill(0);
    let mut at = UDP + OPTIONS;
    while let Some(&[code, size]) = udp.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = match code {
            0 => at + 1,
            255 => return,
            _ => at + 2 + usize::from(size),
        };
        if GIVEAWAYS.contains(&code)
            && let Some(option) = udp.get_mut(at..end)
        {
            option.fill(0);
        }
        at = end;
    }
}

/// Whether this is a request to a TFTP server for a file with `program` in its name.
fn asks_for(frame: &mut [u8], program: &str) -> bool {
    let Some((TFTP, udp)) = datagram(frame) else {
        return false;
    };
    let name = udp[UDP..].strip_prefix(&[0, 1]);
    name.is_some_and(|name| {
        let end = name.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).contains(program)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xff; 12];
        frame.extend([8, 0]);
        let mut header = [0; 20];
        (header[0], header[9]) = (0x45, 17);
        frame.extend(header);
        frame.extend([0, 68]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 0, 0x12, 0x34]);
        frame.extend(payload);
        frame
    }

    fn dhcp(options: &[u8]) -> Vec<u8> {
        let mut payload = vec![1; OPTIONS];
        payload.extend(options);
        frame(67, &payload)
    }

    #[test]
    fn what_gives_ipxe_away_is_padding() {
        let mut before =
            dhcp(b"\x35\x01\x01\x4d\x04iPXE\xaf\x03\xb1\x01\x07\x3c\x02PX\xff\x4d\x01x");
        let mut after = dhcp(b"\x35\x01\x01\0\0\0\0\0\0\0\0\0\0\0\x3c\x02PX\xff\x4d\x01x");
        let checksum = ETHERNET + 20 + 6;
        after[checksum..checksum + 2].fill(0);
        hide(&mut before);
        assert_eq!(before, after);
    }

    #[test]
    fn other_packets_and_cut_ones_pass_as_they_are() {
        for whole in [frame(53, b"query"), vec![0; 20], frame(67, b"short")] {
            for size in 0..whole.len() {
                let mut cut = whole[..size].to_vec();
                hide(&mut cut);
                assert!(!asks_for(&mut cut, ""), "{cut:?}");
            }
        }
        let mut other = frame(53, b"\x4d\x04iPXE");
        let before = other.clone();
        hide(&mut other);
        assert_eq!(other, before);
    }

    #[test]
    fn the_request_for_the_program_is_seen() {
        let mut request = frame(69, b"\0\x01stable/undionly.kpxe\0octet\0");
        assert!(asks_for(&mut request, "undionly"));
        assert!(!asks_for(&mut request, "octet"));
        assert!(!asks_for(
            &mut frame(69, b"\0\x02undionly.kpxe\0octet\0"),
            "undionly"
        ));
        assert!(!asks_for(
            &mut frame(67, b"\0\x01undionly.kpxe\0octet\0"),
            "undionly"
        ));
    }

    #[test]
    fn frames_cross_the_wire_both_ways_and_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let veil = Veil::hang(folder.path(), "undionly").unwrap();
        let card = UnixDatagram::bind(folder.path().join("card.qemu")).unwrap();
        let lan = UnixDatagram::bind(folder.path().join("lan.qemu")).unwrap();
        let mut buffer = [0; 2048];
        let sent = dhcp(b"\x4d\x04iPXE\xff");
        card.send_to(&sent, folder.path().join("card")).unwrap();
        let size = lan.recv(&mut buffer).unwrap();
        assert_eq!(size, sent.len());
        assert_ne!(buffer[..size], sent);
        // Once it asks for the program, nothing is hidden any more.
        let request = frame(69, b"\0\x01undionly.kpxe\0octet\0");
        for frame in [&request, &sent] {
            card.send_to(frame, folder.path().join("card")).unwrap();
            let size = lan.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..size], *frame);
        }
        lan.send_to(&sent, folder.path().join("lan")).unwrap();
        let size = card.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..size], sent);
        drop(veil);
    }
}
