//! Reads captures: pcap and pcapng (tcpdump, Wireshark, routers) and transcripts. A capture that ends in the middle of a
//! packet, because its program was stopped, is read up to there.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};
use pxe::frame::{self, Link};
use pxe::packet::Packet;
use pxe::transcript::Transcript;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::super::limits::{CAPTURE_BLOCK_MAX, INTERFACES_MAX, TRANSCRIPT_MAX};
use crate::exit::CommandError;

/// Read at once to tell what it is: the reader of captures wants the whole head in its first piece.
const START: u64 = 4_096;

/// The beginning of pcapng, which would pass for line ends.
const PCAPNG: &[u8] = b"\n\r\r\n";

type See<'a> = dyn FnMut(&Packet) -> Result<(), CommandError> + 'a;

/// Gives all packets of a capture, `-` for stdin.
pub(super) fn read(path: &Path, see: &mut See) -> Result<(), CommandError> {
    let wrong =
        |error: &dyn std::fmt::Display| CommandError::local(format!("{}: {error}", path.display()));
    let mut source: Box<dyn Read + Send> = match path.to_str() {
        Some("-") => Box::new(Interruptible::stdin().map_err(|error| wrong(&error))?),
        _ => Box::new(File::open(path).map_err(|error| wrong(&error))?),
    };
    let mut start = Vec::new();
    let head = source.by_ref().take(START).read_to_end(&mut start);
    head.map_err(|error| wrong(&error))?;
    let is_text = !start.starts_with(PCAPNG)
        && !start.is_empty()
        && start
            .iter()
            .take(4)
            .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let whole = Cursor::new(start).chain(source);
    if !is_text {
        return capture(whole, see).map_err(|error| match error {
            Failure::Capture(text) => wrong(&text)
                .hint("a capture is pcap, pcapng, or a transcript of plasmd doctor --record"),
            Failure::Seeing(error) => error,
        });
    }
    let mut text = String::new();
    let size = whole.take(TRANSCRIPT_MAX + 1).read_to_string(&mut text);
    match size.map_err(|error| wrong(&error))? as u64 {
        0..=TRANSCRIPT_MAX => {}
        _ => return Err(wrong(&"too large for a transcript")),
    }
    let transcript = Transcript::parse(&text).map_err(|error| wrong(&error))?;
    transcript.packets.iter().try_for_each(see)
}

/// Stdin that ends when somebody interrupts: what came until then is told. The other end of the pipe hears the same ctrl-c.
struct Interruptible {
    stop: OwnedFd,
}

impl Interruptible {
    fn stdin() -> io::Result<Self> {
        let stop = crate::net::termination_signals()?;
        Ok(Self { stop })
    }
}

impl Read for Interruptible {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            let mut ready = [
                PollFd::new(&stdin, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) if !ready[0].revents().is_empty() => {
                    return Ok(rustix::io::read(&stdin, buffer)?);
                }
                Ok(_) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Why reading ended.
enum Failure {
    /// The capture is wrong.
    Capture(String),
    /// Whoever took the packets failed.
    Seeing(CommandError),
}

/// An interface of a capture: its link layer, and how its clock counts.
#[derive(Clone, Copy)]
struct Interface {
    link: Option<Link>,
    offset: i64,
    resolution: u64,
}

/// What the blocks so far said.
struct Reading {
    interfaces: Vec<Interface>,
    /// The time of the first packet, and of the last one.
    first: Option<Duration>,
    last: Duration,
}

fn capture(source: impl Read + Send, see: &mut See) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Capture(error.to_string());
    let mut reader = create_reader(CAPTURE_BLOCK_MAX, source).map_err(|error| failed(&error))?;
    let mut reading = Reading {
        interfaces: Vec::new(),
        first: None,
        last: Duration::ZERO,
    };
    loop {
        let used = match reader.next() {
            Ok((used, block)) => {
                if let Some(packet) = reading.packet(&block) {
                    see(&packet).map_err(Failure::Seeing)?;
                }
                used
            }
            Err(PcapError::Eof | PcapError::UnexpectedEof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => match reader.reader_exhausted() {
                true => return Ok(()),
                false => {
                    reader.refill().map_err(|error| failed(&error))?;
                    continue;
                }
            },
            Err(error) => return Err(failed(&error)),
        };
        reader.consume(used);
    }
}

impl Reading {
    fn packet(&mut self, block: &PcapBlockOwned) -> Option<Packet> {
        let (interface, time, bytes) = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let resolution = if header.is_nanosecond_precision() {
                    1_000_000_000
                } else {
                    1_000_000
                };
                self.add(header.network.0, 0, resolution);
                return None;
            }
            PcapBlockOwned::Legacy(block) => {
                let interface = *self.interfaces.first()?;
                let part =
                    u64::from(block.ts_usec).saturating_mul(1_000_000_000 / interface.resolution);
                let time = Duration::from_secs(block.ts_sec.into()) + Duration::from_nanos(part);
                (interface, time, block.data)
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                return None;
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                let resolution = block.ts_resolution().unwrap_or(1_000_000);
                self.add(block.linktype.0, block.ts_offset(), resolution);
                return None;
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let interface = *self.interfaces.get(usize::try_from(block.if_id).ok()?)?;
                let offset = u64::try_from(interface.offset).unwrap_or_default();
                let (seconds, part) = block.decode_ts(offset, interface.resolution);
                let nanos = u64::from(part).saturating_mul(1_000_000_000) / interface.resolution;
                let time = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanos);
                (
                    interface,
                    time,
                    block.data.get(..usize::try_from(block.caplen).ok()?)?,
                )
            }
            PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                let first = self.first.unwrap_or_default();
                (*self.interfaces.first()?, first + self.last, block.data)
            }
            PcapBlockOwned::NG(_) => return None,
        };
        let first = *self.first.get_or_insert(time);
        // Clocks of captures jump; stories only go forward.
        self.last = self.last.max(time.saturating_sub(first));
        frame::packet(interface.link?, bytes, self.last)
    }

    fn add(&mut self, link: i32, offset: i64, resolution: u64) {
        if self.interfaces.len() < INTERFACES_MAX {
            self.interfaces.push(Interface {
                link: Link::from_number(link),
                offset,
                resolution: resolution.max(1),
            });
        }
    }
}
