//! What of a capture goes into a transcript: all that tells the story, no file contents, and few of the many blocks of a
//! transfer.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::packet::{Content, Packet, Payload};

use super::PACKETS_MAX;

/// Blocks at the beginning of a transfer that are all kept: they show options, window and the first loss.
const BLOCKS_FIRST: u32 = 6;

/// Then one of so many is kept. A reader follows the 16-bit counter as long as steps are shorter than half of its range.
const BLOCKS_STEP: u16 = 4_096;

/// Acknowledgements may be as many blocks apart as fit into a window (RFC 7440); more is a hole.
const WINDOW_MAX: u16 = 64;

/// Transfers at once whose blocks are counted.
const TRANSFERS_MAX: usize = 256;

/// The code and the number of a TFTP packet.
const BLOCK_HEAD: usize = 4;

/// Bytes of the head of a request or an answer of HTTP: more is cookies.
const HEAD_MAX: usize = 1_024;

/// Bytes of a TLS record that tell an alert.
const ALERT: usize = 7;

/// Decides about the packets of one recording, in their order.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    kept: usize,
    /// By the machine's end of it.
    transfers: BTreeMap<SocketAddr, Transfer>,
}

/// What was seen of a transfer.
#[derive(Clone, Debug, Default)]
struct Transfer {
    seen: u32,
    block: u16,
    acknowledged: u16,
    size: usize,
}

impl Recorder {
    /// What is written of a packet, if anything is.
    pub fn keep(&mut self, packet: &Packet) -> Option<Packet> {
        let content = match &packet.content {
            Content::Udp(payload) => Content::Udp(self.datagram(packet, payload)?),
            Content::Tcp(flags, payload) => {
                let kept = segment(payload);
                if kept.bytes.is_empty() && !(flags.syn || flags.fin || flags.rst) {
                    return None;
                }
                Content::Tcp(*flags, kept)
            }
            other => other.clone(),
        };
        if self.kept == PACKETS_MAX {
            return None;
        }
        self.kept += 1;
        let packet = packet.clone();
        Some(Packet { content, ..packet })
    }

    fn datagram(&mut self, packet: &Packet, payload: &Payload) -> Option<Payload> {
        let (machine, block, is_data) = match payload.bytes[..] {
            _ if packet.is_dhcp() => return Some(payload.clone()),
            [0, 3, high, low, ..] => (packet.target, [high, low], true),
            [0, 4, high, low] => (packet.source, [high, low], false),
            _ => return Some(payload.clone()),
        };
        if self.transfers.len() >= TRANSFERS_MAX && !self.transfers.contains_key(&machine) {
            self.transfers.clear();
        }
        let block = u16::from_be_bytes(block);
        let transfer = self.transfers.entry(machine).or_default();
        if !is_data {
            let shown = transfer.shows(block, transfer.acknowledged);
            transfer.acknowledged = block;
            return shown.then(|| payload.clone());
        }
        let is_last = transfer.size != 0 && payload.size() != transfer.size;
        let shown = transfer.shows(block, transfer.block) || is_last;
        transfer.block = block;
        transfer.size = payload.size();
        if is_last {
            self.transfers.remove(&machine);
        }
        shown.then(|| payload.cut(BLOCK_HEAD))
    }
}

impl Transfer {
    /// Whether a block tells something: the first ones, those that came before or are out of order, and samples. The last before
    /// the counter wraps is where some firmware stops.
    fn shows(&mut self, block: u16, before: u16) -> bool {
        self.seen = self.seen.saturating_add(1);
        let is_next = block > before && block - before <= WINDOW_MAX || before == u16::MAX;
        let is_sample = block.is_multiple_of(BLOCKS_STEP) || block == u16::MAX;
        self.seen <= BLOCKS_FIRST * 2 || !is_next || is_sample
    }
}

/// A segment without what is no head and no alert.
fn segment(payload: &Payload) -> Payload {
    let bytes = &payload.bytes;
    let begins = |word: &str| bytes.starts_with(word.as_bytes());
    if ["GET ", "HEAD ", "POST ", "HTTP/1."]
        .into_iter()
        .any(begins)
    {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        return payload.cut(end.map_or(HEAD_MAX, |end| end + 4).min(HEAD_MAX));
    }
    match bytes[..] {
        [21, 3, ..] => payload.cut(ALERT),
        _ => payload.cut(0),
    }
}
