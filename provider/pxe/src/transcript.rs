//! Boot traffic as text: what golden tests replay, what `plasmd doctor --record` writes, and what people can write by hand.
//!
//! ```text
//! about: OVMF 2025.02, x64, PXE beside a router
//! server: 192.168.7.2
//!
//! # A comment.
//! 0.000000 52:54:00:12:34:56 udp 0.0.0.0:68 > 255.255.255.255:67 010106 00*20 .. # DISCOVER
//! 0.000000 - dhcp 0.0.0.0:68 > 255.255.255.255:67 mac=52:54:00:12:34:56 xid=01 53=01 60="PXEClient" 93=0007
//! 0.250000 - udp 192.168.7.9:2070 > 192.168.7.2:69 0001"phase.efi"00"octet"00
//! 0.300000 - udp 192.168.7.2:4000 > 192.168.7.9:2070 00030001 4d5a +1464
//! 0.400000 - tcp 192.168.7.9:4000 > 192.168.7.2:80 syn
//! 0.500000 - tcp 192.168.7.9:4000 > 192.168.7.2:80 ack "GET /boot.efi HTTP/1.1"0d0a
//! 0.600000 - icmp 192.168.7.2 > 192.168.7.9 unreachable=192.168.7.2:69
//! 0.700000 - arp 192.168.7.9 > 192.168.7.1 request
//! ```
//!
//! First come lines `key: text` about the whole. Then there is one packet per line, in the order of their times: seconds since
//! the beginning, the Ethernet address of the sender or `-`, the protocol, from and to, and the content. Bytes are written as hex digits,
//! `"text"` (printable ASCII without quotes), `HH*N` (one byte N times) and, at the end, `+N` (N more bytes that the
//! transcript leaves out). Pieces may stand together or apart. What stands behind ` #` is a comment.
//!
//! `dhcp` is for people: fields by name (`op`, `xid`, `secs`, `flags`, `ciaddr`, `yiaddr`, `siaddr`, `giaddr`, `mac`,
//! `sname`, `file`) and options by number, in the order they shall have; addresses may be written with dots. It becomes the
//! bytes of a `udp` line: padded to 300 bytes, with the end option behind the last option. Replies are told from requests by their source port.
//!
//! A transcript holds addresses and names of the LAN it was recorded on, and no file contents.

mod bytes;
mod message;
mod recorder;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Mac;
use crate::packet::{Content, Flags, Packet, Payload};

pub use recorder::Recorder;

/// Packets in one transcript: more is a capture, for which there are other formats.
pub const PACKETS_MAX: usize = 65_536;

/// Bytes of all their payloads: a few characters may stand for 64 KiB, and a recording holds no file contents.
pub const BYTES_MAX: usize = 64 << 20;

/// A recording of boot traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The lines `key: text` at the top.
    pub about: Vec<(String, String)>,
    /// The packets, oldest first.
    pub packets: Vec<Packet>,
}

/// A line of a transcript that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct NotATranscript {
    /// Which line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl Transcript {
    /// Reads the text.
    ///
    /// # Errors
    ///
    /// The first line that is not as described above, times that run backwards, and more than [`PACKETS_MAX`] packets or
    /// [`BYTES_MAX`] bytes.
    pub fn parse(text: &str) -> Result<Self, NotATranscript> {
        let (mut transcript, mut room) = (Self::default(), BYTES_MAX);
        for (index, line) in text.lines().enumerate() {
            transcript
                .take(line, &mut room)
                .map_err(|why| NotATranscript {
                    line: index + 1,
                    why,
                })?;
        }
        Ok(transcript)
    }

    /// The text behind a key, empty when it is not there.
    pub fn about(&self, key: &str) -> &str {
        let found = self.about.iter().find(|(known, _)| known == key);
        found.map_or("", |(_, text)| text)
    }

    fn take(&mut self, line: &str, room: &mut usize) -> Result<(), String> {
        let words = words(line)?;
        let Some(first) = words.first() else {
            return Ok(());
        };
        let key = first.strip_suffix(':');
        let key = key.filter(|key| {
            key.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
        if let (Some(key), true) = (key, self.packets.is_empty()) {
            let text = line.split_once(':').map_or("", |(_, text)| text.trim());
            self.about.push((key.to_owned(), text.to_owned()));
            return Ok(());
        }
        if self.packets.len() == PACKETS_MAX {
            return Err(format!("more than {PACKETS_MAX} packets"));
        }
        let packet = packet(&words)?;
        if self.packets.last().is_some_and(|last| last.at > packet.at) {
            return Err("earlier than the packet before it".to_owned());
        }
        let size = match &packet.content {
            Content::Udp(payload) | Content::Tcp(_, payload) => payload.bytes.len(),
            _ => 0,
        };
        *room = room
            .checked_sub(size)
            .ok_or_else(|| format!("more than {BYTES_MAX} bytes"))?;
        self.packets.push(packet);
        Ok(())
    }
}

/// The words of a line, without its comment. Blanks and `#` between quotes are text.
fn words(line: &str) -> Result<Vec<&str>, String> {
    let (mut words, mut start, mut quoted) = (Vec::new(), None, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            b'"' => {
                quoted = !quoted;
                start = start.or(Some(at));
            }
            _ if quoted => {}
            b'#' if start.is_none() => return Ok(words),
            b' ' | b'\t' => words.extend(start.take().and_then(|start| line.get(start..at))),
            _ => start = start.or(Some(at)),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(start.and_then(|start| line.get(start..)));
    Ok(words)
}

fn packet(words: &[&str]) -> Result<Packet, String> {
    let [at, link, kind, source, ">", target, rest @ ..] = words else {
        return Err("want: SECONDS LINK PROTOCOL FROM > TO CONTENT".to_owned());
    };
    let link = match *link {
        "-" => None,
        text => Some(text.parse::<Mac>().map_err(|error| error.to_string())?),
    };
    let (source, target) = (endpoint(source)?, endpoint(target)?);
    let content = match (*kind, rest) {
        ("udp", rest) => Content::Udp(bytes::payload(rest)?),
        ("dhcp", rest) => Content::Udp(Payload::whole(message::encode(rest, source.port())?)),
        ("tcp", rest) => tcp(rest)?,
        ("icmp", [text]) => {
            let about = text.strip_prefix("unreachable=");
            Content::Unreachable(endpoint(about.ok_or("want: unreachable=ADDRESS:PORT")?)?)
        }
        ("arp", ["request"]) => Content::ArpRequest,
        ("arp", ["reply"]) => Content::ArpReply,
        ("fragment", []) => Content::Fragment,
        (kind, _) => return Err(format!("{kind:?}: no protocol, or not this content")),
    };
    Ok(Packet {
        at: seconds(at)?,
        link,
        source,
        target,
        content,
    })
}

fn tcp(words: &[&str]) -> Result<Content, String> {
    let mut flags = Flags::default();
    let mut rest = words;
    while let [word, tail @ ..] = rest {
        match *word {
            "syn" => flags.syn = true,
            "ack" => flags.ack = true,
            "fin" => flags.fin = true,
            "rst" => flags.rst = true,
            _ => break,
        }
        rest = tail;
    }
    Ok(Content::Tcp(flags, bytes::payload(rest)?))
}

/// `ADDRESS:PORT`, or an address alone, which then has port 0.
fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let alone = || Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 0));
    text.parse()
        .ok()
        .or_else(alone)
        .ok_or_else(|| format!("{text:?} is not ADDRESS:PORT"))
}

/// Seconds with up to six decimals.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time in seconds");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 6 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let micros: u32 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(whole.into()) + Duration::from_micros(micros.into()))
}

/// The text that [`Transcript::parse`] reads back as the same transcript.
impl fmt::Display for Transcript {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, text) in &self.about {
            writeln!(out, "{key}: {text}")?;
        }
        self.packets
            .iter()
            .try_for_each(|packet| writeln!(out, "{}", Line(packet)))
    }
}

/// A packet as a line of a transcript.
pub struct Line<'a>(pub &'a Packet);

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.0;
        let at = packet.at;
        write!(out, "{}.{:06} ", at.as_secs(), at.subsec_micros())?;
        match packet.link {
            Some(link) => write!(out, "{link} ")?,
            None => out.write_str("- ")?,
        }
        let (source, target) = (packet.source, packet.target);
        match &packet.content {
            Content::Udp(payload) => {
                write!(out, "udp {source} > {target} {}", bytes::Written(payload))?;
            }
            Content::Tcp(flags, payload) => {
                write!(out, "tcp {source} > {target}")?;
                let named = [
                    (flags.syn, "syn"),
                    (flags.ack, "ack"),
                    (flags.fin, "fin"),
                    (flags.rst, "rst"),
                ];
                for (_, name) in named.iter().filter(|(set, _)| *set) {
                    write!(out, " {name}")?;
                }
                if payload.size() > 0 {
                    write!(out, " {}", bytes::Written(payload))?;
                }
            }
            Content::Unreachable(about) => {
                let (source, target) = (source.ip(), target.ip());
                write!(out, "icmp {source} > {target} unreachable={about}")?;
            }
            Content::ArpRequest => write!(out, "arp {} > {} request", source.ip(), target.ip())?,
            Content::ArpReply => write!(out, "arp {} > {} reply", source.ip(), target.ip())?,
            Content::Fragment => write!(out, "fragment {} > {}", source.ip(), target.ip())?,
        }
        write!(out, " # {packet}")
    }
}

#[cfg(test)]
mod tests;
