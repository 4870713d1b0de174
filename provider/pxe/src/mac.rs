//! The Ethernet address by which a machine is known: in requests, in settings, in lists, in file names.
//!
//! Reading is lenient about how people and tools write it; writing knows one spelling, `aa:bb:cc:dd:ee:ff`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// The text is no Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address; write it as aa:bb:cc:dd:ee:ff")]
pub struct NotMac;

impl Mac {
    /// The six bytes, in the order they are sent.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The first three bytes: who made the card, unless [`Mac::is_local`].
    pub const fn maker(self) -> [u8; 3] {
        [self.0[0], self.0[1], self.0[2]]
    }

    /// Whether the address was made up by software rather than given by a maker.
    pub const fn is_local(self) -> bool {
        self.0[0] & 0b10 != 0
    }

    /// Whether one machine can have it: neither a group's address nor all zero.
    pub fn is_machine(self) -> bool {
        self.0[0] & 0b1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Takes `aa:bb:cc:dd:ee:ff`, with dashes, as `aabb.ccdd.eeff`, as twelve digits, and in capitals.
impl FromStr for Mac {
    type Err = NotMac;

    fn from_str(text: &str) -> Result<Self, NotMac> {
        let group = match (text.len(), text.bytes().find(|byte| b":-.".contains(byte))) {
            (12, None) => 12,
            (17, Some(b':' | b'-')) => 2,
            (14, Some(b'.')) => 4,
            _ => return Err(NotMac),
        };
        let mut digits = Vec::with_capacity(12);
        let separator = text.as_bytes().get(group);
        for (at, byte) in text.bytes().enumerate() {
            if at % (group + 1) == group {
                if Some(&byte) != separator || byte.is_ascii_hexdigit() {
                    return Err(NotMac);
                }
            } else {
                let digit = char::from(byte).to_digit(16).ok_or(NotMac)?;
                digits.push(u8::try_from(digit).map_err(|_| NotMac)?);
            }
        }
        let mut octets = [0; 6];
        if digits.len() != 2 * octets.len() {
            return Err(NotMac);
        }
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            *octet = pair.iter().fold(0, |value, digit| value << 4 | digit);
        }
        Ok(Self(octets))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_common_spelling_is_read_and_one_is_written() {
        for text in [
            "52:54:00:ab:cd:ef",
            "52-54-00-AB-CD-EF",
            "5254.00ab.cdef",
            "525400abcdef",
        ] {
            let mac: Mac = text.parse().unwrap();
            assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef", "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:eg",
            "52:54:00:ab:cd-ef",
            "52:54:00:ab:cd:ef:00",
            "5254:00ab:cdef",
            "525400abcde",
            "5254a00abacdef",
            "+2:54:00:ab:cd:ef",
            "52:54:00:ab:cd:é",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NotMac), "{text}");
        }
    }

    #[test]
    fn serde_writes_what_people_read() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let text = serde_json::to_string(&mac).unwrap();
        assert_eq!(text, "\"02:00:00:00:00:09\"");
        assert_eq!(serde_json::from_str::<Mac>(&text).unwrap(), mac);
        assert!(serde_json::from_str::<Mac>("\"nobody\"").is_err());
    }

    #[test]
    fn groups_and_zero_are_no_machines() {
        assert!(Mac([0x52, 0x54, 0, 0, 0, 1]).is_machine());
        assert!(!Mac([0xff; 6]).is_machine());
        assert!(!Mac([0; 6]).is_machine());
        assert!(Mac([0x52, 0x54, 0, 0, 0, 1]).is_local());
    }
}
