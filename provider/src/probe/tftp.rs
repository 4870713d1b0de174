//! The beginning of a file over TFTP, one block at a time, as the simplest firmware reads it.
//!
//! ```text
//! RRQ blksize ──▶ OACK ──ACK 0──▶ DATA 1 ──ACK 1──▶ DATA 2 ... enough, or a short block: ERROR or the last ACK
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pxe::tftp::{ErrorCode, error};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Outcome, Problem, Subject, own_address};

/// The port of TFTP servers.
const PORT: u16 = 69;

/// What firmware asks for: a block and its headers in one Ethernet frame.
const BLOCK_SIZE: usize = 1_408;

/// What it gets from a server that knows no options.
const BLOCK_SIZE_PLAIN: usize = 512;

/// One packet; firmware waits for a second and longer.
const PACKET_TIME: Duration = Duration::from_secs(2);

/// How often the last packet is sent again, in a row.
const TRIES: usize = 4;

/// Of everything that is read: a chunk.
const READ_SIZE_MAX: usize = 2 << 20;

const READ: u16 = 1;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// `tftp`
pub(super) async fn kernel(subject: &Subject) -> Outcome {
    let IpAddr::V4(address) = own_address()? else {
        return Ok("not asked: this machine has no IPv4 address".to_owned());
    };
    let Subject { channel, arch, .. } = subject;
    let Some(kernel) = subject.manifest.artifact("kernel") else {
        return Err(Problem::Wrong("the manifest names no kernel".to_owned()));
    };
    let name = format!("{channel}/{arch}/{}", kernel.filename);
    let range = kernel.chunks.range(0);
    let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let bytes = first(address.into(), &name, wanted).await?;
    match kernel.chunks.verify(0, &bytes) {
        true => Ok(format!(
            "{wanted} bytes of {name} have the digest of the manifest"
        )),
        false => Err(Problem::Wrong(format!(
            "the first {wanted} bytes of {name} are not those of the manifest"
        ))),
    }
}

/// The first `wanted` bytes of a file, or all of a shorter one.
pub(super) async fn first(server: IpAddr, name: &str, wanted: usize) -> Result<Vec<u8>, Problem> {
    let said = |text: String| Problem::NotYet(format!("{name}: {text}"));
    let socket = UdpSocket::bind((server, 0)).await;
    let socket = socket.map_err(|error| said(error.to_string()))?;
    let mut transfer = Transfer {
        socket,
        server: SocketAddr::new(server, PORT),
        bytes: Vec::new(),
        wanted: wanted.min(READ_SIZE_MAX),
        block_size: BLOCK_SIZE_PLAIN,
    };
    match transfer.run(name).await {
        Ok(()) => {
            transfer.bytes.truncate(wanted);
            Ok(transfer.bytes)
        }
        Err(error) => Err(said(error.to_string())),
    }
}

/// A file on its way.
struct Transfer {
    socket: UdpSocket,
    /// The port of the server, and of the transfer from its first packet on.
    server: SocketAddr,
    bytes: Vec<u8>,
    wanted: usize,
    /// Without an answer to the options it is this (RFC 1350).
    block_size: usize,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
enum Packet<'a> {
    /// The server takes part, with blocks of this size.
    Options(usize),
    Data(u16, &'a [u8]),
}

impl Transfer {
    async fn run(&mut self, name: &str) -> io::Result<()> {
        let mut last = request(name);
        let mut next = 1_u16;
        let mut has_begun = false;
        let mut tries = 0;
        let mut buffer = vec![0; BLOCK_SIZE + 64];
        loop {
            self.socket.send_to(&last, self.server).await?;
            let received = timeout(PACKET_TIME, self.socket.recv_from(&mut buffer)).await;
            let Ok(received) = received else {
                tries += 1;
                match tries < TRIES {
                    true => continue,
                    false => return Err(io::Error::other("no answer over TFTP")),
                }
            };
            let (length, from) = received?;
            // Only the first packet may come from another port; what others send is not for this transfer.
            if from.ip() != self.server.ip() || (has_begun && from != self.server) {
                continue;
            }
            let packet = read(buffer.get(..length).unwrap_or_default())?;
            (self.server, has_begun, tries) = (from, true, 0);
            match packet {
                Packet::Options(block_size) => {
                    self.block_size = block_size;
                    last = acknowledge(0);
                }
                Packet::Data(block, bytes) if block == next => {
                    self.bytes.extend_from_slice(bytes);
                    let is_last = bytes.len() < self.block_size;
                    if is_last || self.bytes.len() >= self.wanted {
                        let end = match is_last {
                            true => acknowledge(block),
                            false => error(ErrorCode::Undefined, "that is enough"),
                        };
                        self.socket.send_to(&end, self.server).await?;
                        return Ok(());
                    }
                    last = acknowledge(block);
                    next = next.wrapping_add(1);
                }
                // Once more: it is acknowledged again.
                Packet::Data(..) => {}
            }
        }
    }
}

fn request(name: &str) -> Vec<u8> {
    let mut packet = READ.to_be_bytes().to_vec();
    for field in [name, "octet", "blksize", &BLOCK_SIZE.to_string()] {
        packet.extend_from_slice(field.as_bytes());
        packet.push(0);
    }
    packet
}

fn acknowledge(block: u16) -> Vec<u8> {
    [ACK.to_be_bytes(), block.to_be_bytes()].concat()
}

fn read(packet: &[u8]) -> io::Result<Packet<'_>> {
    let odd = || io::Error::other("the TFTP server sent what no server sends");
    let (opcode, rest) = packet.split_first_chunk::<2>().ok_or_else(odd)?;
    match u16::from_be_bytes(*opcode) {
        OACK => {
            let value = rest.strip_prefix(b"blksize\0").ok_or_else(odd)?;
            let value = value.strip_suffix(b"\0").ok_or_else(odd)?;
            let value = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            let fits = |size: &usize| (1..=BLOCK_SIZE).contains(size);
            Ok(Packet::Options(value.filter(fits).ok_or_else(odd)?))
        }
        DATA => {
            let (block, bytes) = rest.split_first_chunk::<2>().ok_or_else(odd)?;
            Ok(Packet::Data(u16::from_be_bytes(*block), bytes))
        }
        ERROR => {
            let text = rest.get(2..).unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            Err(io::Error::other(format!(
                "TFTP error: {}",
                text.trim_end_matches('\0')
            )))
        }
        _ => Err(odd()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_the_rfc() {
        assert_eq!(
            request("a/b"),
            b"\0\x01a/b\0octet\0blksize\x001408\0".to_vec()
        );
        let parsed = pxe::tftp::Request::parse(&request("a/b")).unwrap();
        assert_eq!(parsed.name, b"a/b");
        assert_eq!(acknowledge(258), [0, 4, 1, 2]);
        assert_eq!(
            read(b"\0\x06blksize\x001024\0").unwrap(),
            Packet::Options(1024)
        );
        assert_eq!(read(&[0, 3, 1, 2, 9]).unwrap(), Packet::Data(258, &[9][..]));
        let told = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(told(b"\0\x05\0\x01not here\0"), "TFTP error: not here");
        for odd in [
            &b""[..],
            b"\0",
            b"\0\x03\0",
            b"\0\x06tsize\x001\0",
            b"\0\x06blksize\x001409\0",
            b"\0\x04\0\0",
        ] {
            assert!(told(odd).contains("no server"), "{odd:?}");
        }
    }
}
