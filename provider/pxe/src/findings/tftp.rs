//! TFTP seen from beside: one transfer, put together from the packets of both ends.

use std::net::SocketAddr;
use std::time::Duration;

use super::limits::TEXT_MAX;
use crate::packet::Payload;

/// The block size without an option (RFC 1350).
const BLOCK_SIZE: u64 = 512;

/// The sizes that RFC 2348 knows.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 8..=65_464;

/// Options of one request that are looked at: six are known.
const OPTIONS_MAX: usize = 16;

/// One file that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) at: Duration,
    pub(super) last: Duration,
    /// When the client last said anything.
    pub(super) client_last: Duration,
    pub(super) client: SocketAddr,
    /// Where the question was sent.
    pub(super) server: SocketAddr,
    /// Where the answers come from.
    pub(super) answers_from: Option<SocketAddr>,
    /// The name, as bytes.
    pub(super) name: Vec<u8>,
    pub(super) options: Vec<(String, String)>,
    /// How often it was asked.
    pub(super) asked: u32,
    pub(super) granted: Option<Vec<(String, String)>>,
    pub(super) block_size: u64,
    /// Packets with data, and those of them that had come before.
    pub(super) blocks: u64,
    pub(super) repeated: u64,
    /// The highest block, its counter not wrapped.
    pub(super) highest: u64,
    pub(super) acknowledged: u64,
    pub(super) bytes: u64,
    /// Whether the last block came.
    pub(super) whole: bool,
    pub(super) error: Option<Refusal>,
}

/// An ERROR packet.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) by_server: bool,
    pub(super) code: u16,
    pub(super) text: String,
}

/// A request to read: the name and the options.
pub(super) struct Asked {
    pub(super) name: Vec<u8>,
    pub(super) options: Vec<(String, String)>,
}

/// Reads a request to read; none for all else.
pub(super) fn asked(bytes: &[u8]) -> Option<Asked> {
    let rest = bytes.strip_prefix(&[0, 1])?;
    let mut texts = rest.split(|byte| *byte == 0);
    let name = texts.next()?;
    let mode = texts.next()?;
    let is_mode = [&b"octet"[..], b"netascii", b"mail"];
    if !is_mode.iter().any(|known| mode.eq_ignore_ascii_case(known)) {
        return None;
    }
    Some(Asked {
        name: name.get(..TEXT_MAX).unwrap_or(name).to_vec(),
        options: pairs(texts),
    })
}

fn pairs<'a>(mut texts: impl Iterator<Item = &'a [u8]>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        if name.is_empty() || pairs.len() == OPTIONS_MAX {
            break;
        }
        pairs.push((words(name).to_ascii_lowercase(), words(value)));
    }
    pairs
}

fn words(bytes: &[u8]) -> String {
    let kept = bytes.get(..TEXT_MAX).unwrap_or(bytes);
    kept.escape_ascii().to_string()
}

impl Transfer {
    pub(super) fn new(at: Duration, client: SocketAddr, server: SocketAddr, asked: Asked) -> Self {
        Self {
            at,
            last: at,
            client_last: at,
            client,
            server,
            answers_from: None,
            name: asked.name,
            options: asked.options,
            asked: 1,
            granted: None,
            block_size: BLOCK_SIZE,
            blocks: 0,
            repeated: 0,
            highest: 0,
            acknowledged: 0,
            bytes: 0,
            whole: false,
            error: None,
        }
    }

    /// The name for people, in quotes.
    pub(super) fn shown(&self) -> String {
        format!("\"{}\"", self.name.escape_ascii())
    }

    /// Whether the packet is of this transfer.
    pub(super) fn is_of(&self, source: SocketAddr, target: SocketAddr) -> bool {
        (source == self.client && target.ip() == self.server.ip())
            || (target == self.client && source.ip() == self.server.ip())
    }

    /// Takes a packet of it.
    pub(super) fn take(&mut self, at: Duration, source: SocketAddr, payload: &Payload) {
        let from_client = source == self.client;
        self.last = at;
        if from_client {
            self.client_last = at;
        } else {
            self.answers_from = Some(source);
        }
        match (&payload.bytes[..], from_client) {
            ([0, 3, high, low, ..], false) => {
                let size = payload.size().saturating_sub(4);
                self.data(u16::from_be_bytes([*high, *low]), size);
            }
            ([0, 4, high, low, ..], true) => {
                let block = u16::from_be_bytes([*high, *low]);
                self.acknowledged = near(self.acknowledged, block).unwrap_or(self.acknowledged);
            }
            ([0, 5, high, low, text @ ..], _) => {
                let end = text.iter().position(|byte| *byte == 0);
                self.error = Some(Refusal {
                    by_server: !from_client,
                    code: u16::from_be_bytes([*high, *low]),
                    text: words(text.get(..end.unwrap_or(text.len())).unwrap_or_default()),
                });
            }
            ([0, 6, rest @ ..], false) => {
                let granted = pairs(rest.split(|byte| *byte == 0));
                let size = granted.iter().find(|(name, _)| name == "blksize");
                let size = size.and_then(|(_, value)| value.parse().ok());
                self.block_size = size
                    .filter(|size| BLOCK_SIZES.contains(size))
                    .unwrap_or(BLOCK_SIZE);
                self.granted = Some(granted);
            }
            _ => {}
        }
    }

    /// Takes blocks. On the server's own machine a capture sees several datagrams as one: its kernel or its network card
    /// cuts them up later (UDP segmentation offload).
    fn data(&mut self, block: u16, size: usize) {
        const HEAD: u64 = 4;
        let whole = self.block_size + HEAD;
        let further = size as u64 / whole;
        let last = (size as u64 % whole).min(self.block_size);
        self.blocks += further + 1;
        let first = near(self.highest, block).filter(|block| *block > 0);
        let highest = first.map_or(0, |block| block + further);
        if highest <= self.highest {
            self.repeated += further + 1;
            return;
        }
        self.highest = highest;
        self.bytes = (highest - 1).saturating_mul(self.block_size) + last;
        self.whole |= last < self.block_size;
    }

    /// Whether the client only asked for the size: EDK2 breaks such a transfer off, and all is well (C27).
    pub(super) fn is_probe(&self) -> bool {
        let broken_off = self.error.as_ref().is_some_and(|error| !error.by_server);
        self.granted.is_some() && self.blocks <= 1 && broken_off && self.option("tsize").is_some()
    }

    /// What the client asked for under this name.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The size of the file, as the server said.
    pub(super) fn size(&self) -> Option<u64> {
        let mut granted = self.granted.as_ref()?.iter();
        let (_, size) = granted.rfind(|(name, _)| name == "tsize")?;
        size.parse().ok()
    }
}

/// The number nearest to `known` whose last 16 bits are `block`: counters wrap (C30).
fn near(known: u64, block: u16) -> Option<u64> {
    let low = (known & 0xffff) as u16;
    let step = i64::from(block.wrapping_sub(low).cast_signed());
    known.checked_add_signed(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_wrap_go_on() {
        assert_eq!(near(0, 1), Some(1));
        assert_eq!(near(65_535, 0), Some(65_536));
        assert_eq!(near(65_536, 65_535), Some(65_535));
        assert_eq!(near(131_000, 464), Some(131_536));
        assert_eq!(near(0, 65_535), None);
    }

    #[test]
    fn datagrams_that_are_cut_up_later_count_as_what_they_become() {
        let asked = asked(b"\0\x01name\0octet\0").unwrap();
        let end = SocketAddr::from(([10, 0, 0, 9], 2070));
        let mut transfer = Transfer::new(Duration::ZERO, end, end, asked);
        transfer.block_size = 1_468;
        for (block, size, highest, bytes, whole) in [
            (1, 5_884, 4, 5_872, false),
            (5, 1_468, 5, 7_340, false),
            (5, 5_884, 8, 11_744, false),
            // Three bytes too many are no block with a head of its own.
            (9, 1_471, 9, 13_212, false),
            (10, 1_472, 11, 14_680, true),
        ] {
            transfer.data(block, size);
            let now = (transfer.highest, transfer.bytes, transfer.whole);
            assert_eq!(now, (highest, bytes, whole), "{block}");
        }
    }

    #[test]
    fn requests_are_read_whatever_they_hold() {
        let asked = asked(b"\0\x01a\\b.efi\xff\0OCTET\0TSize\x000\0blksize\x001468\0odd").unwrap();
        assert_eq!(asked.name, b"a\\b.efi\xff");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(asked.options, [pair("tsize", "0"), pair("blksize", "1468")]);
        for nothing in [
            &b"\0\x01"[..],
            b"\0\x01name",
            b"\0\x02name\0octet\0",
            b"\0\x01n\0word\0",
            b"",
        ] {
            assert!(super::asked(nothing).is_none(), "{nothing:?}");
        }
    }
}
