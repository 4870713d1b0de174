//! Whom a profile is for: words that all have to be true of a machine.
//!
//! ```text
//! 52:54:00:12:34:56     this machine            vendor=Dell       maker, class or SMBIOS, any part of it
//! 52:54:00:*            cards that begin so     product=R640      SMBIOS, as iPXE tells it
//! *                     every machine           arch=aarch64      firmware=uefi   interface=eth1   relay=10.0.0.1
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use boot_manifest::Arch;
use pxe::Mac;

use crate::machines::record::Facts;

/// A machine, as patterns see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// Its address.
    pub(crate) mac: Mac,
    /// Who made its card.
    pub(crate) maker: Option<&'a str>,
    /// What is known about it.
    pub(crate) facts: &'a Facts,
    /// The architecture of its files.
    pub(crate) arch: Option<Arch>,
}

/// Words that must all be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Word>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Every,
    /// The first bytes of an address, one to six.
    Address(Vec<u8>),
    Vendor(String),
    Product(String),
    Serial(String),
    Uuid(String),
    Firmware(String),
    Arch(Arch),
    Interface(String),
    Relay(IpAddr),
}

impl Pattern {
    /// Whether it is about this machine.
    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.0.iter().all(|word| word.is_true(subject))
    }

    /// Whether it names a single machine by its whole address.
    pub(crate) fn names_address(&self) -> bool {
        self.0
            .iter()
            .any(|word| matches!(word, Word::Address(bytes) if bytes.len() == 6))
    }
}

impl Word {
    fn is_true(&self, subject: &Subject<'_>) -> bool {
        let facts = subject.facts;
        let has = |text: &Option<String>, part: &str| {
            text.as_ref()
                .is_some_and(|text| text.to_lowercase().contains(part))
        };
        let is = |text: &Option<String>, whole: &str| {
            text.as_ref()
                .is_some_and(|text| text.eq_ignore_ascii_case(whole))
        };
        match self {
            Self::Every => true,
            Self::Address(bytes) => subject.mac.octets().starts_with(bytes),
            Self::Vendor(part) => {
                subject
                    .maker
                    .is_some_and(|maker| maker.to_lowercase().contains(part))
                    || has(&facts.manufacturer, part)
                    || has(&facts.class, part)
            }
            Self::Product(part) => has(&facts.product, part),
            Self::Firmware(part) => has(&facts.firmware, part),
            Self::Serial(whole) => is(&facts.serial, whole),
            Self::Uuid(whole) => {
                is(&facts.uuid, whole) || turned(whole).is_some_and(|other| is(&facts.uuid, &other))
            }
            Self::Arch(arch) => subject.arch == Some(*arch),
            Self::Interface(name) => facts.interface.as_ref() == Some(name),
            Self::Relay(address) => facts.relay == Some(*address),
        }
    }
}

/// A UUID with the bytes of its first three groups turned around: SMBIOS keeps them so, and some firmware sends them as they
/// are kept and some as they are written.
fn turned(uuid: &str) -> Option<String> {
    let group = |group: &str| -> Option<String> {
        let bytes = group.len() / 2;
        let pairs: Option<Vec<&str>> = (0..bytes)
            .rev()
            .map(|at| group.get(2 * at..2 * at + 2))
            .collect();
        Some(pairs?.concat())
    };
    let [a, b, c, d, e] = uuid.split('-').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some([&group(a)?, &group(b)?, &group(c)?, d, e].join("-"))
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<Word> = text
            .split_whitespace()
            .map(word)
            .collect::<Result<_, _>>()?;
        if words.is_empty() {
            return Err("an empty text is about nobody; `*` is about every machine".to_owned());
        }
        Ok(Self(words))
    }
}

fn word(text: &str) -> Result<Word, String> {
    if text == "*" {
        return Ok(Word::Every);
    }
    let Some((key, value)) = text.split_once('=') else {
        return address(text);
    };
    if value.is_empty() {
        return Err(format!("{key}= has no value"));
    }
    let lower = value.to_lowercase();
    Ok(match key {
        "vendor" => Word::Vendor(lower),
        "product" => Word::Product(lower),
        "firmware" => Word::Firmware(lower),
        "serial" => Word::Serial(value.to_owned()),
        "uuid" => Word::Uuid(value.to_owned()),
        "interface" => Word::Interface(value.to_owned()),
        "arch" => Word::Arch(
            value
                .parse()
                .map_err(|_| format!("arch={value}: the architectures are x86_64 and aarch64"))?,
        ),
        "relay" => Word::Relay(
            value
                .parse()
                .map_err(|_| format!("relay={value}: not an IP address"))?,
        ),
        _ => {
            return Err(format!(
                "{key}= is not known; there are vendor, product, serial, uuid, firmware, arch, interface and relay"
            ));
        }
    })
}

/// A whole address in any spelling, or its first bytes with `:*` behind them.
fn address(text: &str) -> Result<Word, String> {
    if let Ok(mac) = text.parse::<Mac>() {
        return Ok(Word::Address(mac.octets().to_vec()));
    }
    let wrong = || {
        format!(
            "{text:?} is no address: write aa:bb:cc:dd:ee:ff, or aa:bb:cc:* for all that begin so"
        )
    };
    let begin = text.strip_suffix(":*").or_else(|| text.strip_suffix("-*"));
    let begin = begin.ok_or_else(wrong)?;
    let bytes: Vec<u8> = begin
        .split([':', '-'])
        .map(|byte| match byte.len() {
            2 => u8::from_str_radix(byte, 16).map_err(|_| wrong()),
            _ => Err(wrong()),
        })
        .collect::<Result<_, _>>()?;
    if bytes.len() > 5 {
        return Err(wrong());
    }
    Ok(Word::Address(bytes))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{word}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("*"),
            Self::Address(bytes) => {
                let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let rest = if bytes.len() < 6 { ":*" } else { "" };
                write!(f, "{}{rest}", digits.join(":"))
            }
            Self::Vendor(text) => write!(f, "vendor={text}"),
            Self::Product(text) => write!(f, "product={text}"),
            Self::Serial(text) => write!(f, "serial={text}"),
            Self::Uuid(text) => write!(f, "uuid={text}"),
            Self::Firmware(text) => write!(f, "firmware={text}"),
            Self::Arch(arch) => write!(f, "arch={arch}"),
            Self::Interface(name) => write!(f, "interface={name}"),
            Self::Relay(address) => write!(f, "relay={address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_about_machines() {
        let facts = Facts {
            firmware: Some("UEFI PXE".to_owned()),
            class: Some("PXEClient:Arch:00007".to_owned()),
            manufacturer: Some("Dell Inc.".to_owned()),
            product: Some("PowerEdge R640".to_owned()),
            serial: Some("ABC123".to_owned()),
            uuid: Some("33221100-5544-7766-8899-aabbccddeeff".to_owned()),
            interface: Some("eth1".to_owned()),
            relay: Some([10, 0, 0, 1].into()),
            ..Facts::default()
        };
        let subject = Subject {
            mac: "52:54:00:12:34:56".parse().unwrap(),
            maker: Some("QEMU"),
            facts: &facts,
            arch: Some(Arch::X86_64),
        };
        for (text, expected) in [
            ("*", true),
            ("52:54:00:12:34:56", true),
            ("5254.0012.3456", true),
            ("52-54-00-12-34-57", false),
            ("52:54:00:*", true),
            ("52-54-*", true),
            ("52:55:*", false),
            ("vendor=dell", true),
            ("vendor=qemu", true),
            ("vendor=PXEClient", true),
            ("vendor=HPE", false),
            ("vendor=Dell product=r640 arch=amd64", true),
            ("vendor=Dell arch=arm64", false),
            ("firmware=uefi", true),
            ("serial=abc123", true),
            ("serial=abc", false),
            ("uuid=1", false),
            ("uuid=33221100-5544-7766-8899-AABBCCDDEEFF", true),
            ("uuid=00112233-4455-6677-8899-aabbccddeeff", true),
            ("uuid=00112233-4455-6677-9988-aabbccddeeff", false),
            ("uuid=\u{e4}\u{e4}x-1-2-3-4", false),
            ("interface=eth1 relay=10.0.0.1", true),
            ("interface=eth", false),
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.matches(&subject), expected, "{text}");
            let again: Pattern = pattern.to_string().parse().unwrap();
            assert_eq!(again, pattern, "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_explained() {
        for (text, expected) in [
            ("", "about nobody"),
            ("52:54:00", "aa:bb:cc:*"),
            ("52:54:0:*", "no address"),
            ("52:54:00:12:34:56:*", "no address"),
            ("x:*", "no address"),
            ("vendor=", "no value"),
            ("arch=riscv64", "x86_64 and aarch64"),
            ("relay=x", "no address"),
            ("model=x", "is not known; there are vendor"),
        ] {
            let error = text.parse::<Pattern>().unwrap_err();
            let expected = expected.replace("no address", "n");
            assert!(error.contains(&expected), "{text:?}: {error}");
        }
    }
}
