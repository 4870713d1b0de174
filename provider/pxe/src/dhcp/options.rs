//! Options as code and bytes: the numbers, and a list that joins the parts of a long one (RFC 3396).

use crate::limits::{OPTION_SIZE_MAX, OPTIONS_MAX};

/// Option 1: the mask of the subnet.
pub const SUBNET_MASK: u8 = 1;
/// Option 3: the routers of the subnet.
pub const ROUTER: u8 = 3;
/// Option 6: DNS servers.
pub const DNS: u8 = 6;
/// Option 12: the client's name.
pub const HOST_NAME: u8 = 12;
/// Option 13: the boot file's size in blocks of 512 bytes (C22).
pub const BOOT_FILE_SIZE: u8 = 13;
/// Option 15: the DNS domain.
pub const DOMAIN: u8 = 15;
/// Option 28: the broadcast address of the subnet.
pub const BROADCAST: u8 = 28;
/// Option 43: options of the vendor, here of PXE.
pub const VENDOR: u8 = 43;
/// Option 50: the address the client wants.
pub const REQUESTED_ADDRESS: u8 = 50;
/// Option 51: how long a lease lasts, in seconds.
pub const LEASE_TIME: u8 = 51;
/// Option 52: the file and name fields hold options too.
pub const OVERLOAD: u8 = 52;
/// Option 53: what kind of message it is.
pub const MESSAGE_TYPE: u8 = 53;
/// Option 54: which server speaks, or is spoken to.
pub const SERVER_ID: u8 = 54;
/// Option 55: what the client asks for.
pub const PARAMETERS: u8 = 55;
/// Option 56: a text for people.
pub const TEXT: u8 = 56;
/// Option 57: the largest datagram the client takes.
pub const MAX_SIZE: u8 = 57;
/// Option 58: when a lease is to be renewed, in seconds.
pub const RENEWAL_TIME: u8 = 58;
/// Option 59: when a lease is to be renewed by any server, in seconds.
pub const REBINDING_TIME: u8 = 59;
/// Option 60: what kind of client, or server, it is.
pub const CLASS: u8 = 60;
/// Option 61: how the client wants to be known.
pub const CLIENT_ID: u8 = 61;
/// Option 66: the name of the TFTP server; EDK2 ignores it (C9).
pub const TFTP_SERVER: u8 = 66;
/// Option 67: the boot file, or its URL.
pub const BOOT_FILE: u8 = 67;
/// Option 77: the class of the user (RFC 3004, or iPXE's raw text; C13).
pub const USER_CLASS: u8 = 77;
/// Option 82: what a relay added, and wants back (RFC 3046).
pub const RELAY: u8 = 82;
/// Option 93: the architecture of the client (RFC 4578).
pub const ARCH: u8 = 93;
/// Option 94: the version of its network driver.
pub const UNDI: u8 = 94;
/// Option 97: the identity of the machine.
pub const UUID: u8 = 97;
/// Option 175: iPXE's own options.
pub const IPXE: u8 = 175;

/// The options of one message, in the order they came; the parts of a long one are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// Adds an option, or a further part of one that is there. Beyond the limits it is dropped.
    pub fn add(&mut self, code: u8, bytes: &[u8]) {
        if let Some((_, value)) = self.0.iter_mut().find(|(known, _)| *known == code) {
            let room = OPTION_SIZE_MAX.saturating_sub(value.len());
            value.extend(bytes.iter().take(room));
        } else if self.0.len() < OPTIONS_MAX {
            self.0.push((code, bytes.to_vec()));
        }
    }

    /// The bytes of an option.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        let found = self.0.iter().find(|(known, _)| *known == code);
        found.map(|(_, value)| value.as_slice())
    }

    /// All options, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// An option of exactly `N` bytes.
    pub fn array<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    /// An option that is an IPv4 address, or begins with one.
    pub fn address(&self, code: u8) -> Option<std::net::Ipv4Addr> {
        let bytes: [u8; 4] = self.get(code)?.get(..4)?.try_into().ok()?;
        Some(bytes.into())
    }

    /// An option that is a text: what stands before the first NUL, without what cannot be printed at its end (C10).
    pub fn text(&self, code: u8) -> Option<String> {
        text(self.get(code)?)
    }
}

/// Bytes as text: what stands before the first NUL, kept to a limit, unprintable ends cut off; nothing if nothing is left.
pub fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len()))?;
    let text = String::from_utf8_lossy(bytes);
    let kept: String = text.chars().take(OPTION_SIZE_MAX).collect();
    let kept = kept.trim_matches(|c: char| c.is_control() || c.is_whitespace() || c == '\u{fffd}');
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// Options inside an option (43, 82, 175): code, length, bytes. It ends at the first one that does not fit.
pub fn nested(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            match rest {
                [] | [255, ..] => return None,
                [0, after @ ..] => rest = after,
                [code, size, after @ ..] => {
                    let (value, after) = after.split_at_checked(usize::from(*size))?;
                    rest = after;
                    return Some((*code, value));
                }
                [_] => return None,
            }
        }
    })
}
