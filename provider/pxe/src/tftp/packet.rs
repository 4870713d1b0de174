//! The packets: a request read, an error and an OACK written. Data and acknowledgements are four bytes each and live in
//! [`session`](super::session).
//!
//! Strict about what a request must have, lenient about what firmware leaves out: the last NUL, and options nobody knows.

use super::limits::{NAME_SIZE_MAX, OPTIONS_MAX, REQUEST_SIZE_MAX};

/// Opcodes (RFC 1350, 5; RFC 2347).
pub(super) const READ: u16 = 1;
const WRITE: u16 = 2;
pub(super) const DATA: u16 = 3;
pub(super) const ACK: u16 = 4;
pub(super) const ERROR: u16 = 5;
const OACK: u16 = 6;

/// What an ERROR packet means (RFC 1350, appendix; RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// See the text.
    Undefined = 0,
    /// No such file.
    NotFound = 1,
    /// It may not be had.
    AccessViolation = 2,
    /// A packet that does not belong here.
    IllegalOperation = 4,
    /// A packet of a transfer that is not known.
    UnknownTransfer = 5,
}

/// How the bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As they are.
    Octet,
    /// As text with other line ends; nothing we serve is text.
    Netascii,
}

/// What a request asks for besides the file. Values as they stand; what is no number is as if it was not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub(super) asked: Vec<Asked>,
}

/// One option that means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) option: Known,
    /// As the client spelt it: that is how it finds it in the answer.
    pub(super) spelling: Vec<u8>,
    pub(super) value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    BlockSize,
    TransferSize,
    Timeout,
    WindowSize,
}

/// A request to read a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The file as the client calls it; see [`clean_name`](super::clean_name).
    pub name: Vec<u8>,
    /// How the bytes are to be sent.
    pub mode: Mode,
    /// The rest.
    pub options: Options,
}

/// What a packet that is no request to read is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Somebody wants to write.
    #[error("this server is read only")]
    Write,
    /// A request that makes no sense.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// Not a request at all: acknowledgements that arrive at the wrong port, noise. Nobody is answered, so that two servers
    /// cannot send each other errors for ever.
    #[error("no request")]
    Stray,
}

impl BadRequest {
    /// The packet that says so to the client.
    pub fn answer(self) -> Option<Vec<u8>> {
        let code = match self {
            Self::Write => ErrorCode::AccessViolation,
            Self::Malformed(_) => ErrorCode::IllegalOperation,
            Self::Stray => return None,
        };
        Some(error(code, &self.to_string()))
    }
}

impl Request {
    /// Reads a packet that came to the server's port.
    ///
    /// # Errors
    /// When it is no request to read.
    pub fn parse(packet: &[u8]) -> Result<Self, BadRequest> {
        let Some((opcode, rest)) = opcode(packet) else {
            return Err(BadRequest::Stray);
        };
        match opcode {
            READ => {}
            WRITE => return Err(BadRequest::Write),
            _ => return Err(BadRequest::Stray),
        }
        if packet.len() > REQUEST_SIZE_MAX {
            return Err(BadRequest::Malformed("too long"));
        }
        // Without the last NUL the rest is a field all the same.
        let mut fields = rest.split(|byte| *byte == 0);
        let name = fields.next().unwrap_or_default();
        if name.is_empty() {
            return Err(BadRequest::Malformed("no file name"));
        }
        if name.len() > NAME_SIZE_MAX {
            return Err(BadRequest::Malformed("the file name is too long"));
        }
        let mode = match fields.next() {
            Some(mode) if mode.eq_ignore_ascii_case(b"octet") => Mode::Octet,
            Some(mode) if mode.eq_ignore_ascii_case(b"netascii") => Mode::Netascii,
            Some(_) => return Err(BadRequest::Malformed("unknown mode")),
            None => return Err(BadRequest::Malformed("no mode")),
        };
        Ok(Self {
            name: name.to_vec(),
            mode,
            options: Options::read(fields),
        })
    }
}

impl Options {
    fn read<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut options = Self::default();
        for _ in 0..OPTIONS_MAX {
            let (Some(name), Some(value)) = (fields.next(), fields.next()) else {
                break;
            };
            let (Some(option), Some(value)) = (Known::of(name), number(value)) else {
                continue;
            };
            // The first counts.
            if options.get(option).is_none() {
                options.asked.push(Asked {
                    option,
                    spelling: name.to_vec(),
                    value,
                });
            }
        }
        options
    }

    pub(super) fn get(&self, option: Known) -> Option<u64> {
        let asked = self.asked.iter().find(|asked| asked.option == option)?;
        Some(asked.value)
    }

    /// Whether the client wants to know the size of the file: some ask for nothing else, and then leave (C27).
    pub fn asks_for_size(&self) -> bool {
        self.get(Known::TransferSize).is_some()
    }
}

impl Known {
    /// Options are the same in capitals (C26).
    fn of(name: &[u8]) -> Option<Self> {
        let known = [
            (&b"blksize"[..], Self::BlockSize),
            (b"tsize", Self::TransferSize),
            (b"timeout", Self::Timeout),
            (b"windowsize", Self::WindowSize),
        ];
        let mut known = known.into_iter();
        Some(known.find(|(text, _)| text.eq_ignore_ascii_case(name))?.1)
    }
}

/// The opcode and what follows it.
pub(super) fn opcode(packet: &[u8]) -> Option<(u16, &[u8])> {
    let (opcode, rest) = packet.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*opcode), rest))
}

/// Decimal digits and nothing else; no value that an option may have is longer than 20.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number
        .then(|| std::str::from_utf8(text).ok()?.parse().ok())
        .flatten()
}

/// An ERROR packet.
pub fn error(code: ErrorCode, text: &str) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend((code as u16).to_be_bytes());
    // Firmware shows it on one line.
    packet.extend(
        text.bytes()
            .take(super::limits::TEXT_SIZE_MAX)
            .map(|byte| match byte {
                b' '..=b'~' => byte,
                _ => b' ',
            }),
    );
    packet.push(0);
    packet
}

/// An OACK packet.
pub(super) fn oack<'a>(options: impl Iterator<Item = (&'a [u8], u64)>) -> Vec<u8> {
    let mut packet = OACK.to_be_bytes().to_vec();
    for (name, value) in options {
        packet.extend(name);
        packet.push(0);
        packet.extend(value.to_string().into_bytes());
        packet.push(0);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request, BadRequest> {
        Request::parse(&[b"\0\x01", text.as_bytes()].concat())
    }

    // C26, C33
    #[test]
    fn requests_of_firmware_are_understood() {
        let check = |text: &str, name: &str, expected: &[(Known, u64)]| {
            let request = read(text).unwrap();
            assert_eq!(request.name, name.as_bytes(), "{text:?}");
            let options: Vec<_> = request
                .options
                .asked
                .iter()
                .map(|asked| (asked.option, asked.value))
                .collect();
            assert_eq!(options, expected, "{text:?}");
        };
        use Known::{BlockSize, Timeout, TransferSize, WindowSize};
        // The classic, and without the last NUL.
        check("a\0octet\0", "a", &[]);
        check("a\0OCTET", "a", &[]);
        // curl
        check(
            "boot/a\0octet\0tsize\x000\0blksize\x00512\0timeout\x006\0",
            "boot/a",
            &[(TransferSize, 0), (BlockSize, 512), (Timeout, 6)],
        );
        // EDK2
        check(
            "a\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0",
            "a",
            &[(TransferSize, 0), (BlockSize, 1468), (WindowSize, 4)],
        );
        // In capitals, twice, unknown, without a value, not a number.
        check(
            "a\0octet\0BLKSIZE\x00900\0blkSize\x00100\0multicast\0\0tsize\0x\0timeout",
            "a",
            &[(BlockSize, 900)],
        );
        check(
            "a\0octet\0blksize\x00-1\0tsize\x00+0\0windowsize\x0099999999999999999999999\0",
            "a",
            &[],
        );
        check("\\EFI\\a b\u{fffd}\0octet\0", "\\EFI\\a b\u{fffd}", &[]);
    }

    #[test]
    fn what_is_no_request_is_refused_or_ignored() {
        use BadRequest::{Malformed, Stray, Write};
        let check = |packet: &[u8], expected: BadRequest| {
            assert_eq!(Request::parse(packet).unwrap_err(), expected, "{packet:?}");
        };
        check(b"", Stray);
        check(b"\x01", Stray);
        check(b"\0\x04\0\x01", Stray);
        check(b"\0\x05\0\x01gone\0", Stray);
        check(b"\0\x02a\0octet\0", Write);
        check(b"\0\x01", Malformed("no file name"));
        check(b"\0\x01\0octet\0", Malformed("no file name"));
        check(b"\0\x01a", Malformed("no mode"));
        check(b"\0\x01a\0mail\0", Malformed("unknown mode"));
        let long = [b"\0\x01".as_slice(), &[b'a'; 256], b"\0octet\0"].concat();
        check(&long, Malformed("the file name is too long"));
        let long = [b"\0\x01a\0octet\0".as_slice(), &[0; 2000]].concat();
        check(&long, Malformed("too long"));
        assert_eq!(Stray.answer(), None);
        assert_eq!(
            Write.answer().unwrap(),
            b"\0\x05\0\x02this server is read only\0"
        );
    }

    #[test]
    fn errors_are_one_short_line() {
        let packet = error(ErrorCode::NotFound, &"a\nb\u{e9}".repeat(100));
        assert!(packet.starts_with(b"\0\x05\0\x01a b  a b"));
        assert_eq!(packet.len(), 4 + 128 + 1);
    }
}
