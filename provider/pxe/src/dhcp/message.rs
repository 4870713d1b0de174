//! One message as it is on the wire, of a client or of a server.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpFlags, DhcpOpCode, DhcpPacket};

use super::options::{self, Options};
use crate::Mac;
use crate::limits::MESSAGE_SIZE_MAX;

/// The first number after the BOOTP part of every DHCP message.
pub(super) const MAGIC: u32 = 0x6382_5363;

/// Where the BOOTP part holds the server's name and the boot file.
const NAME: std::ops::Range<usize> = 44..108;
pub(super) const FILE: std::ops::Range<usize> = 108..236;

/// Why bytes are no DHCP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The fixed part is not whole.
    #[error("shorter than a DHCP message")]
    Short,
    /// Longer than anything that boots a machine.
    #[error("longer than any DHCP message")]
    Long,
    /// BOOTP without DHCP, or something else.
    #[error("not DHCP: wrong magic number")]
    Magic,
    /// The hardware is not Ethernet.
    #[error("the hardware address is not that of an Ethernet card")]
    NotEthernet,
    /// Neither a client's nor a server's message, or the other one than was asked for.
    #[error("wrong direction")]
    Operation,
    /// Option 53 is missing or means nothing.
    #[error("no message type (option 53)")]
    NoType,
}

/// What kind of message it is (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A client looks for servers.
    Discover = 1,
    /// A server answers that.
    Offer = 2,
    /// A client takes an offer, keeps its address, or asks a boot server.
    Request = 3,
    /// A client found its address taken.
    Decline = 4,
    /// A server agrees.
    Ack = 5,
    /// A server refuses.
    Nak = 6,
    /// A client gives its address back.
    Release = 7,
    /// A client with an address asks for the rest.
    Inform = 8,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// As the RFCs write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discover => "DISCOVER",
            Self::Offer => "OFFER",
            Self::Request => "REQUEST",
            Self::Decline => "DECLINE",
            Self::Ack => "ACK",
            Self::Nak => "NAK",
            Self::Release => "RELEASE",
            Self::Inform => "INFORM",
        }
    }
}

/// Who sends such a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A client, or a relay for it.
    Request,
    /// A server.
    Reply,
}

/// One message, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub operation: Operation,
    /// What kind it is (option 53).
    pub kind: Kind,
    /// The number that joins question and answer.
    pub xid: u32,
    /// Relays it came through.
    pub hops: u8,
    /// Seconds since the client began, as it says.
    pub secs: u16,
    /// Whether the client asks for broadcast answers.
    pub broadcast: bool,
    /// The address the client has.
    pub ciaddr: Ipv4Addr,
    /// The address the client is given.
    pub yiaddr: Ipv4Addr,
    /// The boot server.
    pub siaddr: Ipv4Addr,
    /// The relay, or zero.
    pub giaddr: Ipv4Addr,
    /// The client.
    pub mac: Mac,
    /// The server's name of the BOOTP part, unless it held options.
    pub server_name: Option<String>,
    /// The boot file of the BOOTP part, unless it held options.
    pub file: Option<String>,
    /// The options.
    pub options: Options,
}

impl Message {
    /// Reads a message of either direction.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MESSAGE_SIZE_MAX {
            return Err(Malformed::Long);
        }
        let packet = DhcpPacket::new_checked(bytes).map_err(|_| Malformed::Short)?;
        if packet.magic_number() != MAGIC {
            return Err(Malformed::Magic);
        }
        if u16::from(packet.hardware_type()) != 1 || packet.hardware_len() != 6 {
            return Err(Malformed::NotEthernet);
        }
        let operation = match packet.opcode() {
            DhcpOpCode::Request => Operation::Request,
            DhcpOpCode::Reply => Operation::Reply,
            DhcpOpCode::Unknown(_) => return Err(Malformed::Operation),
        };
        let mut options = Options::default();
        for option in packet.options() {
            options.add(option.kind, option.data);
        }
        let (file, server_name) = fields(bytes, &mut options);
        let kind = options.get(options::MESSAGE_TYPE).and_then(<[u8]>::first);
        let kind = kind.and_then(|number| Kind::from_number(*number));
        let kind = kind.ok_or(Malformed::NoType)?;
        Ok(Self {
            operation,
            kind,
            xid: packet.transaction_id(),
            hops: packet.hops(),
            secs: packet.secs(),
            broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            ciaddr: packet.client_ip(),
            yiaddr: packet.your_ip(),
            siaddr: packet.server_ip(),
            giaddr: packet.relay_agent_ip(),
            mac: Mac(packet.client_hardware_address().0),
            server_name,
            file,
            options,
        })
    }

    /// The boot file: of option 67, else of the BOOTP part.
    pub fn boot_file(&self) -> Option<String> {
        let named = self.options.text(options::BOOT_FILE);
        named.or_else(|| self.file.clone())
    }

    /// The server that speaks (option 54).
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.options.address(options::SERVER_ID)
    }
}

/// The two text fields of the BOOTP part; where option 52 says that they hold options, those are added instead.
fn fields(bytes: &[u8], options: &mut Options) -> (Option<String>, Option<String>) {
    let overload = options.array::<1>(options::OVERLOAD);
    let overload = overload.map_or(0, |[overload]| overload);
    let mut field = |range: std::ops::Range<usize>, bit: u8| {
        let field = bytes.get(range).unwrap_or_default();
        if overload & bit == 0 {
            return options::text(field);
        }
        for (code, value) in options::nested(field) {
            options.add(code, value);
        }
        None
    };
    (field(FILE, 1), field(NAME, 2))
}

/// Writes options one after another, within a size.
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    pub(super) size_max: usize,
}

impl Writer {
    /// Adds an option whole, in parts of 255 bytes, or not at all: whether it fitted beside the end mark.
    pub(super) fn put(&mut self, code: u8, value: &[u8]) -> bool {
        let parts = value.len().div_ceil(255).max(1);
        if self.bytes.len() + value.len() + 2 * parts + 1 > self.size_max {
            return false;
        }
        let mut put = |part: &[u8]| {
            let size = u8::try_from(part.len()).unwrap_or(u8::MAX);
            self.bytes.extend([code, size]);
            self.bytes.extend_from_slice(part);
        };
        if value.is_empty() {
            put(&[]);
        }
        value.chunks(255).for_each(&mut put);
        true
    }

    /// Adds a pad, which readers skip.
    pub(super) fn pad(&mut self) {
        if self.bytes.len() + 1 < self.size_max {
            self.bytes.push(0);
        }
    }
}
