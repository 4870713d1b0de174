//! A TFTP client as EDK2's: blocks of 1468 bytes, four of them before each acknowledgement.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::limits::{BOOTS_LIMIT, TFTP_WAIT};

/// Where servers listen.
const PORT: u16 = 69;

/// What EDK2 asks for on Ethernet.
const BLOCK: usize = 1468;
const WINDOW: u16 = 4;

/// A whole file.
///
/// # Errors
/// When the server refuses it, or nothing comes for long.
pub fn get(server: Ipv4Addr, file: &str) -> Result<Vec<u8>> {
    get_at(SocketAddr::from((server, PORT)), file)
}

fn get_at(server: SocketAddr, file: &str) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(TFTP_WAIT))?;
    let asked =
        format!("\0\x01{file}\0octet\0blksize\0{BLOCK}\0windowsize\0{WINDOW}\0tsize\x000\0");
    let mut transfer = Transfer::default();
    let (mut peer, mut last) = (server, asked.into_bytes());
    let begun = Instant::now();
    socket.send_to(&last, peer)?;
    while !transfer.is_whole {
        ensure!(begun.elapsed() < BOOTS_LIMIT, "{file} takes too long");
        let mut buffer = [0; BLOCK + 4];
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                peer = from;
                let Some(answer) = transfer.take(&buffer[..length]).context(file.to_owned())?
                else {
                    continue;
                };
                last = answer;
            }
            // Lost: what was said last is said again.
            Err(_) => transfer.in_window = 0,
        }
        socket.send_to(&last, peer)?;
    }
    Ok(transfer.bytes)
}

/// What has come so far.
#[derive(Debug, Default)]
struct Transfer {
    bytes: Vec<u8>,
    /// The last block that is there.
    block: u16,
    /// Blocks since the last acknowledgement.
    in_window: u16,
    options: Option<(usize, u16)>,
    is_whole: bool,
}

impl Transfer {
    /// Takes one packet; perhaps it is to be acknowledged.
    fn take(&mut self, packet: &[u8]) -> Result<Option<Vec<u8>>> {
        match packet {
            [0, 6, options @ ..] => {
                let text = String::from_utf8_lossy(options);
                let mut words = text.split('\0');
                let (mut block, mut window) = (512, 1);
                while let (Some(name), Some(value)) = (words.next(), words.next()) {
                    match name.to_ascii_lowercase().as_str() {
                        "blksize" => block = value.parse()?,
                        "windowsize" => window = value.parse()?,
                        _ => {}
                    }
                }
                self.options = Some((block, window));
                Ok(Some(self.acknowledge()))
            }
            [0, 3, high, low, data @ ..] => {
                let number = u16::from_be_bytes([*high, *low]);
                let (size, window) = self.options.unwrap_or((512, 1));
                if number != self.block.wrapping_add(1) {
                    // A gap, or one that is there: the last good one is named, once a window.
                    self.in_window += 1;
                    return Ok((self.in_window >= window).then(|| self.acknowledge()));
                }
                self.bytes.extend_from_slice(data);
                self.block = number;
                self.in_window += 1;
                self.is_whole = data.len() < size;
                let is_due = self.is_whole || self.in_window >= window;
                Ok(is_due.then(|| self.acknowledge()))
            }
            [0, 5, _, code, text @ ..] => bail!("error {code}: {}", String::from_utf8_lossy(text)),
            _ => Ok(None),
        }
    }

    fn acknowledge(&mut self) -> Vec<u8> {
        self.in_window = 0;
        let [high, low] = self.block.to_be_bytes();
        vec![0, 4, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_acknowledged_at_their_ends_and_after_gaps() {
        let mut transfer = Transfer::default();
        let take = |transfer: &mut Transfer, packet: &[u8]| transfer.take(packet).unwrap();
        assert_eq!(
            take(&mut transfer, b"\0\x06blksize\x0010\0WindowSize\x002\0"),
            Some(vec![0, 4, 0, 0])
        );
        assert_eq!(take(&mut transfer, b"\0\x03\0\x010123456789"), None);
        assert_eq!(
            take(&mut transfer, b"\0\x03\0\x020123456789"),
            Some(vec![0, 4, 0, 2])
        );
        // Block 3 is lost.
        assert_eq!(take(&mut transfer, b"\0\x03\0\x040123456789"), None);
        assert_eq!(
            take(&mut transfer, b"\0\x03\0\x050123456789"),
            Some(vec![0, 4, 0, 2])
        );
        assert!(!transfer.is_whole);
        assert_eq!(
            take(&mut transfer, b"\0\x03\0\x03end"),
            Some(vec![0, 4, 0, 3])
        );
        assert!(transfer.is_whole);
        assert_eq!(transfer.bytes, b"01234567890123456789end");
        assert!(transfer.take(b"\0\x05\0\x01gone\0").is_err());
    }
}
