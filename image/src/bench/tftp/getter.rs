//! `cargo appliance tftp-get`, which people never type: a TFTP client that costs as little as a client can, so that servers are
//! measured and not clients. It asks for windows (RFC 7440), which no client in Debian does well.
//!
//! Several at once are a thread each. What arrives is counted and not looked at; the number of bytes must be right.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::bench::limits::{CLIENT_LIMIT, TFTP_CLIENT_WAIT};

/// Bytes of the largest packet.
const PACKET_SIZE_MAX: usize = 65_536;

/// `cargo appliance tftp-get`
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server
    #[arg(long)]
    pub server: SocketAddr,
    /// The file
    #[arg(long)]
    pub name: String,
    /// Its size
    #[arg(long)]
    pub size: u64,
    /// Bytes of a block
    #[arg(long)]
    pub block: u16,
    /// Blocks of a window
    #[arg(long)]
    pub window: u16,
    /// How many fetch it at once
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Of a hundred packets, so many are lost on each way
    #[arg(long, default_value_t = 0)]
    pub lost_percent: u64,
    /// Which ones
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs the command; prints the seconds it took.
///
/// # Errors
/// When a file did not come whole.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let begun = Instant::now();
    let fetched: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.count)
            .map(|number| scope.spawn(move || fetch(arguments, number as u64)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
            .collect()
    });
    fetched.into_iter().collect::<Result<Vec<()>>>()?;
    println!("{}", begun.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// What was agreed on.
struct Agreed {
    block: u64,
    window: u64,
}

/// A socket that loses packets.
struct Line {
    socket: UdpSocket,
    lost_percent: u64,
    state: u64,
}

impl Line {
    fn is_lost(&mut self) -> bool {
        if self.lost_percent == 0 {
            return false;
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // The low bits of such numbers are poor.
        (self.state >> 32) % 100 < self.lost_percent
    }

    /// The next packet that is not lost, or nothing for long.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        loop {
            match self.socket.recv_from(buffer) {
                Ok(_) if self.is_lost() => {}
                Ok(received) => return Ok(Some(received)),
                Err(error) if is_late(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn acknowledge(&mut self, block: u64) -> io::Result<()> {
        let [high, low] = (block as u16).to_be_bytes();
        match self.is_lost() {
            true => Ok(()),
            false => self.socket.send(&[0, 4, high, low]).map(|_| ()),
        }
    }
}

fn fetch(arguments: &Arguments, number: u64) -> Result<()> {
    let any: IpAddr = match arguments.server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(TFTP_CLIENT_WAIT))?;
    let mut line = Line {
        socket,
        lost_percent: arguments.lost_percent,
        state: (arguments.seed + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
    };
    let deadline = Instant::now() + CLIENT_LIMIT;
    let mut buffer = vec![0; PACKET_SIZE_MAX];
    let request = request(arguments);
    let length = loop {
        ensure!(Instant::now() < deadline, "no answer to the request");
        line.socket.send_to(&request, arguments.server)?;
        if let Some((length, from)) = line.receive(&mut buffer)? {
            line.socket.connect(from)?;
            break length;
        }
    };
    let agreed = agreed(&buffer[..length])?;
    let (mut has, mut unsaid, mut bytes) = (0_u64, 0, 0);
    line.acknowledge(has)?;
    loop {
        ensure!(Instant::now() < deadline, "{bytes} bytes in time");
        let Some((length, _)) = line.receive(&mut buffer)? else {
            line.acknowledge(has)?;
            continue;
        };
        if length < 4 || buffer[..2] != [0, 3] {
            ensure!(buffer[..2] != [0, 5], "the server sends an error");
            continue;
        }
        let is_next = buffer[2..4] == ((has + 1) as u16).to_be_bytes();
        let size = length as u64 - 4;
        if is_next {
            has += 1;
            unsaid += 1;
            bytes += size;
        }
        let is_last = is_next && size < agreed.block;
        if !is_next || is_last || unsaid >= agreed.window {
            unsaid = 0;
            line.acknowledge(has)?;
        }
        if is_last {
            ensure!(
                bytes == arguments.size,
                "{bytes} bytes of {}",
                arguments.size
            );
            return Ok(());
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn request(arguments: &Arguments) -> Vec<u8> {
    let mut packet = vec![0, 1];
    let (block, window) = (arguments.block.to_string(), arguments.window.to_string());
    let mut fields = vec![arguments.name.as_str(), "octet", "blksize", &block];
    if arguments.window > 1 {
        fields.extend(["windowsize", &window]);
    }
    for field in fields {
        packet.extend(field.as_bytes());
        packet.push(0);
    }
    packet
}

/// What an OACK says. Servers that know no windows leave them out.
fn agreed(packet: &[u8]) -> Result<Agreed> {
    ensure!(
        packet.starts_with(&[0, 6]),
        "the server answers {}",
        packet.get(..60).unwrap_or(packet).escape_ascii()
    );
    let fields: Vec<&[u8]> = packet[2..].split(|byte| *byte == 0).collect();
    let value = |name: &str| -> Option<u64> {
        let at = fields
            .iter()
            .position(|field| field.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(fields.get(at + 1)?).ok()?.parse().ok()
    };
    Ok(Agreed {
        block: value("blksize").context("the server agrees on no block size")?,
        window: value("windowsize").unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_options_are_understood() {
        let check = |packet: &[u8], expected: Option<(u64, u64)>| {
            let agreed = agreed(packet).ok();
            assert_eq!(agreed.map(|it| (it.block, it.window)), expected);
        };
        check(b"\0\x06blksize\x001468\0", Some((1468, 1)));
        check(b"\0\x06WindowSize\x004\0BLKSIZE\x00512\0", Some((512, 4)));
        check(b"\0\x06windowsize\x004\0", None);
        check(b"\0\x05\0\x01not found\0", None);
    }

    #[test]
    fn a_file_comes_in_windows_and_what_is_lost_comes_again() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let arguments = Arguments {
            server: server.local_addr().unwrap(),
            name: "file".to_owned(),
            size: 25,
            block: 10,
            window: 2,
            count: 1,
            lost_percent: 0,
            seed: 1,
        };
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            let (length, client) = server.recv_from(&mut buffer).unwrap();
            let asked = b"\0\x01file\0octet\0blksize\x0010\0windowsize\x002\0";
            assert_eq!(&buffer[..length], asked);
            let send = |packet: &[u8]| server.send_to(packet, client).unwrap();
            let mut acks = Vec::new();
            let mut ack = || {
                let (length, _) = server.recv_from(&mut buffer).unwrap();
                acks.push(buffer[..length].to_vec());
            };
            send(b"\0\x06blksize\x0010\0windowsize\x002\0");
            ack();
            send(b"\0\x03\0\x010123456789");
            send(b"\0\x03\0\x03lost!");
            ack();
            send(b"\0\x03\0\x020123456789");
            send(b"\0\x03\0\x03last.");
            ack();
            acks
        });
        fetch(&arguments, 0).unwrap();
        assert_eq!(
            serving.join().unwrap(),
            [b"\0\x04\0\0", b"\0\x04\0\x01", b"\0\x04\0\x03"]
        );
    }
}
