//! What a client asked, with the options that matter for booting already understood.

use std::net::Ipv4Addr;

use super::message::{Kind, Malformed, Message, Operation};
use super::options::{self, Options, nested};
use crate::Mac;
use crate::limits::{
    ARCHS_MAX, DATAGRAM_SIZE_DEFAULT, DATAGRAM_SIZE_MAX, HEADS_SIZE, TEXT_SIZE_MAX,
    USER_CLASSES_MAX,
};

/// Sub-option 71 of option 43: which boot item was chosen (PXE 2.1).
const BOOT_ITEM: u8 = 71;

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What kind of message it is.
    pub kind: Kind,
    /// The number that joins question and answer.
    pub xid: u32,
    /// Relays it came through.
    pub hops: u8,
    /// The client.
    pub mac: Mac,
    /// The address it has, or zero.
    pub ciaddr: Ipv4Addr,
    /// The relay it came through, or zero.
    pub giaddr: Ipv4Addr,
    /// Whether it asks for broadcast answers.
    pub broadcast: bool,
    /// Seconds since it began, as it says.
    pub secs: u16,
    /// The address it wants (50).
    pub requested: Option<Ipv4Addr>,
    /// The server it speaks to (54).
    pub server_id: Option<Ipv4Addr>,
    /// What it says it is (60).
    pub class: Option<String>,
    /// Its architectures (93), as numbers.
    pub archs: Vec<u16>,
    /// The version of its network driver (94).
    pub undi: Option<[u8; 3]>,
    /// The machine's identity (97) as it came, if it has the one valid length (C11).
    pub uuid: Option<[u8; 17]>,
    /// The user classes (77), raw or as a list (C13).
    pub user_classes: Vec<String>,
    /// What an iPXE says of itself (175).
    pub ipxe: Option<IpxeFeatures>,
    /// What it asks for (55).
    pub params: Vec<u8>,
    /// The largest datagram it says it takes (57).
    pub max_size: Option<u16>,
    /// What a relay added (82), to be sent back as it came.
    pub relay: Option<Vec<u8>>,
    /// Option 43 as it came.
    pub vendor43: Option<Vec<u8>>,
    /// Sub-option 71 of it, to be sent back as it came (C7).
    pub boot_item: Option<Vec<u8>>,
    options: Options,
}

impl Request {
    /// Reads a client's message.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_message(Message::parse(bytes)?)
    }

    /// Understands a message that was read; a server's is refused.
    pub fn from_message(message: Message) -> Result<Self, Malformed> {
        if message.operation != Operation::Request {
            return Err(Malformed::Operation);
        }
        let options = message.options;
        let vendor43 = options.get(options::VENDOR).map(<[u8]>::to_vec);
        let boot_item = vendor43.as_deref().and_then(|vendor| {
            let item = nested(vendor).find(|(code, _)| *code == BOOT_ITEM)?;
            Some(item.1.to_vec())
        });
        let archs = options.get(options::ARCH).unwrap_or_default();
        let archs = archs.as_chunks().0.iter().take(ARCHS_MAX);
        let user_classes = options.get(options::USER_CLASS).map(user_classes);
        let class = options.text(options::CLASS);
        Ok(Self {
            kind: message.kind,
            xid: message.xid,
            hops: message.hops,
            mac: message.mac,
            ciaddr: message.ciaddr,
            giaddr: message.giaddr,
            broadcast: message.broadcast,
            secs: message.secs,
            requested: options.address(options::REQUESTED_ADDRESS),
            server_id: options.address(options::SERVER_ID),
            class: class.map(|class| class.chars().take(TEXT_SIZE_MAX).collect()),
            archs: archs.map(|arch| u16::from_be_bytes(*arch)).collect(),
            undi: options.array(options::UNDI),
            uuid: options.array(options::UUID),
            user_classes: user_classes.unwrap_or_default(),
            ipxe: options.get(options::IPXE).map(IpxeFeatures::parse),
            params: options
                .get(options::PARAMETERS)
                .map_or_else(Vec::new, <[u8]>::to_vec),
            max_size: options.array(options::MAX_SIZE).map(u16::from_be_bytes),
            relay: options.get(options::RELAY).map(<[u8]>::to_vec),
            vendor43,
            boot_item,
            options,
        })
    }

    /// All options as they came.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether it came through a relay (C18).
    pub fn is_relayed(&self) -> bool {
        !self.giaddr.is_unspecified()
    }

    /// Bytes of DHCP an answer may have: what it says (57), at least what all must take, at most one frame (C21).
    pub fn reply_size_max(&self) -> usize {
        let said = self.max_size.map_or(DATAGRAM_SIZE_DEFAULT, usize::from);
        said.clamp(DATAGRAM_SIZE_DEFAULT, DATAGRAM_SIZE_MAX) - HEADS_SIZE
    }
}

/// The user classes: iPXE and others send raw text; RFC 3004 wants a length before each. What reads as text without a
/// length is text (C13).
fn user_classes(bytes: &[u8]) -> Vec<String> {
    let printable = |bytes: &[u8]| bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    let raw = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if printable(raw) && listed(bytes).is_none() {
        return vec![String::from_utf8_lossy(raw).into_owned()];
    }
    let listed = listed(bytes).unwrap_or_default();
    let texts = listed.into_iter().filter(|class| printable(class));
    texts
        .map(|class| String::from_utf8_lossy(class).into_owned())
        .collect()
}

/// The list of RFC 3004, if the lengths fill the option exactly.
fn listed(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = bytes;
    let mut classes = Vec::new();
    while let [size, after @ ..] = rest {
        if *size == 0 || classes.len() == USER_CLASSES_MAX {
            return None;
        }
        let (class, after) = after.split_at_checked(usize::from(*size))?;
        classes.push(class);
        rest = after;
    }
    Some(classes)
}

/// What an iPXE says of itself in option 175: features that were compiled in, and its version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpxeFeatures {
    codes: Vec<u8>,
    /// Its version, as in `[1, 21, 1]`.
    pub version: Option<Vec<u8>>,
}

impl IpxeFeatures {
    /// Sub-options that are features (ipxe/features.h).
    const FEATURES: std::ops::RangeInclusive<u8> = 0x10..=0x4f;
    const HTTP: u8 = 0x13;
    const HTTPS: u8 = 0x14;
    const BZIMAGE: u8 = 0x18;
    const EFI: u8 = 0x24;
    const MENU: u8 = 0x27;
    const VERSION: u8 = 0xeb;

    fn parse(bytes: &[u8]) -> Self {
        let mut features = Self::default();
        for (code, value) in nested(bytes) {
            if Self::FEATURES.contains(&code) && value.first() != Some(&0) {
                features.codes.push(code);
            } else if code == Self::VERSION {
                features.version = Some(value.iter().copied().take(4).collect());
            }
        }
        features
    }

    fn has(&self, code: u8) -> bool {
        self.codes.contains(&code)
    }

    /// Whether it can fetch by HTTP.
    pub fn http(&self) -> bool {
        self.has(Self::HTTP)
    }

    /// Whether it can fetch by HTTPS.
    pub fn https(&self) -> bool {
        self.has(Self::HTTPS)
    }

    /// Whether it can start a Linux kernel by itself.
    pub fn bzimage(&self) -> bool {
        self.has(Self::BZIMAGE)
    }

    /// Whether it runs under UEFI.
    pub fn efi(&self) -> bool {
        self.has(Self::EFI)
    }

    /// Whether its scripts can show a menu.
    pub fn menu(&self) -> bool {
        self.has(Self::MENU)
    }
}
