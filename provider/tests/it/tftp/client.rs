//! A TFTP client that does one thing at a time, so that a test can say what it sees.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::provider::PATIENCE;

/// What came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    Data(u16, Vec<u8>),
    Oack(Vec<(String, String)>),
    Error(u16, String),
}

/// One request and what follows.
pub(super) struct Client {
    pub(super) socket: UdpSocket,
    /// Where the answers come from, once there is one.
    pub(super) server: SocketAddr,
    buffer: Vec<u8>,
    /// Of so many packets one is lost on each way; 0 loses none.
    loses_one_of: u64,
    state: u64,
}

impl Client {
    /// Asks `server` for a file.
    pub(super) fn ask(server: SocketAddr, name: &[u8], options: &[(&str, &str)]) -> Self {
        let client = Self::new(server);
        client.send_to(server, &request(1, name, "octet", options));
        client
    }

    /// Has not asked yet.
    pub(super) fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((server.ip(), 0))
            .or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))
            .unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            server,
            buffer: vec![0; 70_000],
            loses_one_of: 0,
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Has not asked yet, and loses one packet of so many.
    pub(super) fn lossy(server: SocketAddr, one_of: u64) -> Self {
        Self {
            loses_one_of: one_of,
            ..Self::new(server)
        }
    }

    fn is_lost(&mut self) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.loses_one_of > 0 && (self.state >> 32).is_multiple_of(self.loses_one_of)
    }

    pub(super) fn send_to(&self, server: SocketAddr, packet: &[u8]) {
        self.socket.send_to(packet, server).unwrap();
    }

    pub(super) fn send(&self, packet: &[u8]) {
        self.send_to(self.server, packet);
    }

    pub(super) fn ack(&mut self, block: u16) {
        if self.is_lost() {
            return;
        }
        self.send(&[&[0, 4], block.to_be_bytes().as_slice()].concat());
    }

    /// The next packet, which must come.
    pub(super) fn receive(&mut self) -> Packet {
        let (length, from) = self.socket.recv_from(&mut self.buffer).unwrap();
        self.server = from;
        read(&self.buffer[..length])
    }

    /// The next packet, if there is one soon.
    pub(super) fn receive_within(&mut self, limit: Duration) -> Option<Packet> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let received = loop {
            match self.socket.recv_from(&mut self.buffer) {
                Ok(_) if self.is_lost() => {}
                other => break other,
            }
        };
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (length, from) = received.ok()?;
        self.server = from;
        Some(read(&self.buffer[..length]))
    }

    /// The whole file, in windows as agreed, and how many packets of data it took.
    pub(super) fn fetch(&mut self, block_size: usize, window: u64) -> (Vec<u8>, u64) {
        self.fetch_from(0, &[], block_size, window)
    }

    /// The same when the first blocks are there already.
    pub(super) fn fetch_from(
        &mut self,
        mut has: u64,
        first: &[u8],
        block_size: usize,
        window: u64,
    ) -> (Vec<u8>, u64) {
        let (mut file, mut packets, mut unsaid) = (first.to_vec(), 0, 0);
        loop {
            let Some(packet) = self.receive_within(Duration::from_millis(500)) else {
                self.ack(has as u16);
                continue;
            };
            match packet {
                Packet::Oack(_) => self.ack(0),
                Packet::Data(block, bytes) => {
                    packets += 1;
                    let is_next = block == (has + 1) as u16;
                    if is_next {
                        has += 1;
                        unsaid += 1;
                        file.extend(&bytes);
                    }
                    let is_last = is_next && bytes.len() < block_size;
                    if !is_next || is_last || unsaid == window {
                        unsaid = 0;
                        self.ack(has as u16);
                    }
                    if is_last {
                        return (file, packets);
                    }
                }
                Packet::Error(code, text) => panic!("error {code}: {text}"),
            }
        }
    }
}

pub(super) fn request(opcode: u8, name: &[u8], mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, opcode];
    packet.extend(name);
    for field in [("", mode)].iter().chain(options) {
        for text in [field.0, field.1] {
            if !text.is_empty() || packet.last() != Some(&0) {
                packet.extend(text.as_bytes());
                packet.push(0);
            }
        }
    }
    packet
}

fn read(packet: &[u8]) -> Packet {
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match number(0) {
        3 => Packet::Data(number(2), packet[4..].to_vec()),
        5 => Packet::Error(number(2), text(&packet[4..packet.len() - 1])),
        6 => {
            let fields: Vec<&[u8]> = packet[2..packet.len() - 1]
                .split(|byte| *byte == 0)
                .collect();
            let pairs = fields.chunks(2).map(|pair| (text(pair[0]), text(pair[1])));
            Packet::Oack(pairs.collect())
        }
        other => panic!("opcode {other}"),
    }
}
