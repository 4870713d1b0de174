//! A machine that asks for something to boot, byte by byte: only sockets, nothing of the program under test decides.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pxe::Mac;
use pxe::dhcp::{Kind, Message, options};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lan::Lan;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) kind: Kind,
    pub(crate) xid: u32,
    pub(crate) mac: Mac,
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) giaddr: Ipv4Addr,
    pub(crate) options: Vec<(u8, Vec<u8>)>,
}

impl Ask {
    pub(crate) fn new(kind: Kind) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let xid = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            kind,
            xid,
            mac: Mac([0x52, 0x54, 0, 0x77, 0, 1]),
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            options: Vec::new(),
        }
    }

    /// Of a machine that does not boot from the network.
    pub(crate) fn plain_discover() -> Self {
        Self::new(Kind::Discover)
    }

    /// Of firmware of that architecture.
    pub(crate) fn discover(arch: u16, class: &str) -> Self {
        Self::new(Kind::Discover).booting(arch, class)
    }

    pub(crate) fn booting(self, arch: u16, class: &str) -> Self {
        let class = format!("{class}:Arch:{arch:05}:UNDI:003016");
        self.with(options::CLASS, class.as_bytes())
            .with(options::ARCH, &arch.to_be_bytes())
            .with(options::UNDI, &[1, 3, 16])
    }

    pub(crate) fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }

    /// Takes what was offered.
    pub(crate) fn take(offer: &Message) -> Self {
        let mut ask = Self::new(Kind::Request);
        ask.mac = offer.mac;
        let server = offer.server_id().unwrap();
        ask.with(options::REQUESTED_ADDRESS, &offer.yiaddr.octets())
            .with(options::SERVER_ID, &server.octets())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        // Broadcast answers, please.
        bytes.extend([0, 0, 0x80, 0]);
        bytes.extend(self.ciaddr.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.giaddr.octets());
        bytes.extend(self.mac.octets());
        bytes.resize(236, 0);
        bytes.extend([
            99,
            130,
            83,
            99,
            options::MESSAGE_TYPE,
            1,
            self.kind.number(),
        ]);
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(300), 0);
        bytes
    }
}

/// A card of a machine, with the port of DHCP clients.
pub(crate) struct Client(UdpSocket);

impl Client {
    /// At `eth0` of a host, which needs no address.
    pub(crate) fn new(lan: &Lan, host: &str) -> Self {
        Self::at(lan, host, "eth0", 68)
    }

    pub(crate) fn at(lan: &Lan, host: &str, interface: &str, port: u16) -> Self {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.set_broadcast(true)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
            std::io::Result::Ok(socket.into())
        };
        Self(lan.within(host, open).unwrap())
    }

    /// The socket itself.
    pub(crate) fn into_socket(self) -> UdpSocket {
        self.0
    }

    /// Asks everybody, and gives the answers that came until `is_enough`, or until `limit`.
    pub(crate) fn ask(
        &self,
        ask: &Ask,
        limit: Duration,
        is_enough: impl Fn(&[Message]) -> bool,
    ) -> Vec<Message> {
        self.ask_at(ask, (Ipv4Addr::BROADCAST, 67), limit, is_enough)
    }

    /// The same of one server.
    pub(crate) fn ask_at(
        &self,
        ask: &Ask,
        to: (Ipv4Addr, u16),
        limit: Duration,
        is_enough: impl Fn(&[Message]) -> bool,
    ) -> Vec<Message> {
        self.0.send_to(&ask.bytes(), to).unwrap();
        self.hear(ask.xid, limit, is_enough)
    }

    /// What else comes in answer to that question.
    pub(crate) fn heard(&self, xid: u32, limit: Duration) -> Vec<Message> {
        self.hear(xid, limit, |_| false)
    }

    fn hear(
        &self,
        xid: u32,
        limit: Duration,
        is_enough: impl Fn(&[Message]) -> bool,
    ) -> Vec<Message> {
        let end = Instant::now() + limit;
        let mut answers = Vec::new();
        while !is_enough(&answers) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.0.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 2_048];
            let Ok((length, _)) = self.0.recv_from(&mut buffer) else {
                break;
            };
            if let Ok(message) = Message::parse(&buffer[..length])
                && message.xid == xid
            {
                answers.push(message);
            }
        }
        answers
    }
}
