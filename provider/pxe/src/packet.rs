//! One packet of boot traffic, as a capture, a transcript or a test gives it: when, from whom, to whom, and what of it matters.
//!
//! It holds what was on the wire and judges nothing. Link layers and IP headers are taken off in `frame`; the text form is
//! in `transcript`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Mac;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When, since the beginning of the capture.
    pub at: Duration,
    /// The Ethernet address it came from, where there was one.
    pub link: Option<Mac>,
    /// From; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// To.
    pub target: SocketAddr,
    /// What.
    pub content: Content,
}

/// What is in a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A UDP datagram.
    Udp(Payload),
    /// A segment of TCP.
    Tcp(Flags, Payload),
    /// An ICMP message of `source` to `target`: nobody has UDP or TCP port `port` of `host`, or it is forbidden, or no way leads
    /// there.
    Unreachable(SocketAddr),
    /// `source` asks who has the address `target`.
    ArpRequest,
    /// `source` tells `target` that it is here.
    ArpReply,
    /// A part of a larger packet, other than the first.
    Fragment,
}

/// The flags of TCP that tell a story.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Opens a connection.
    pub syn: bool,
    /// Acknowledges; with `syn`, accepts a connection.
    pub ack: bool,
    /// Says that nothing more comes.
    pub fin: bool,
    /// Ends or refuses a connection.
    pub rst: bool,
}

/// The bytes of a packet, or its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The bytes that are known.
    pub bytes: Vec<u8>,
    /// How many more there were on the wire.
    pub left_out: usize,
}

impl Payload {
    /// A payload that is known whole.
    pub fn whole(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            left_out: 0,
        }
    }

    /// Its size on the wire.
    pub fn size(&self) -> usize {
        self.bytes.len().saturating_add(self.left_out)
    }

    /// The same, with at most `most` bytes known.
    #[must_use]
    pub fn cut(&self, most: usize) -> Self {
        let known = self.bytes.get(..most).unwrap_or(&self.bytes);
        Self {
            bytes: known.to_vec(),
            left_out: self.size() - known.len(),
        }
    }
}

impl Packet {
    /// The payload of UDP, none for others.
    pub fn udp(&self) -> Option<&Payload> {
        match &self.content {
            Content::Udp(payload) => Some(payload),
            _ => None,
        }
    }

    /// Whether this is DHCP for IPv4, by its ports.
    pub fn is_dhcp(&self) -> bool {
        let ports = [self.source.port(), self.target.port()];
        self.udp().is_some() && ports.iter().any(|port| matches!(port, 67 | 68 | 4011))
    }
}

/// What the packet is, in a few words: for the comments of transcripts.
impl fmt::Display for Packet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Udp(payload) if self.is_dhcp() => out.write_str(dhcp_name(&payload.bytes)),
            Content::Udp(payload) => tftp_words(&payload.bytes, out),
            Content::Tcp(flags, payload) => {
                let line = payload.bytes.split(|byte| *byte == b'\r').next();
                match (line, flags.rst) {
                    (Some(line), _) if !line.is_empty() && line.is_ascii() => {
                        write!(out, "{}", String::from_utf8_lossy(line).escape_default())
                    }
                    (_, true) => out.write_str("refused or broken off"),
                    _ => out.write_str("TCP"),
                }
            }
            Content::Unreachable(_) => out.write_str("ICMP: unreachable"),
            Content::ArpRequest => out.write_str("who has it?"),
            Content::ArpReply => out.write_str("it is here"),
            Content::Fragment => out.write_str("a fragment"),
        }
    }
}

/// The kind of a DHCP message, found without trusting anything else in it.
fn dhcp_name(bytes: &[u8]) -> &'static str {
    const OPTIONS_AT: usize = 240;
    let mut rest = bytes.get(OPTIONS_AT..).unwrap_or_default();
    while let [kind, tail @ ..] = rest {
        rest = match (kind, tail) {
            (0, tail) => tail,
            (255, _) | (_, []) => break,
            (53, [1, kind, ..]) => {
                let names = [
                    "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM",
                ];
                let index = usize::from(*kind).checked_sub(1);
                return index.and_then(|index| names.get(index)).unwrap_or(&"DHCP");
            }
            (_, [length, tail @ ..]) => tail.get(usize::from(*length)..).unwrap_or_default(),
        };
    }
    "BOOTP"
}

fn tftp_words(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0);
        let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        bytes.escape_ascii().to_string()
    };
    match bytes {
        [0, 1, name @ ..] => write!(out, "RRQ {}", text(name)),
        [0, 2, name @ ..] => write!(out, "WRQ {}", text(name)),
        [0, 3, high, low, ..] => write!(out, "DATA {}", u16::from_be_bytes([*high, *low])),
        [0, 4, high, low, ..] => write!(out, "ACK {}", u16::from_be_bytes([*high, *low])),
        [0, 5, high, low, words @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            write!(out, "ERROR {code} {}", text(words))
        }
        [0, 6, ..] => out.write_str("OACK"),
        _ => out.write_str("UDP"),
    }
}
