//! The values of `phase-fetch`'s flags that are not plain numbers or names.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;

use boot_manifest::Digest;

/// Bytes per second: `500000`, `500K`, `10M`, `1G`, in powers of 1024 as curl has them.
pub(crate) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1_u64),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .parse::<u64>()
        .ok()
        .filter(|_| plain)
        .and_then(|number| NonZeroU64::new(number.checked_mul(factor)?))
        .ok_or_else(|| "bytes per second are expected, such as 500K or 10M".to_owned())
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// At a port of every address.
    Port(u16),
    /// At one.
    Address(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A port, or an address and a port.
pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && let Ok(port) = text.parse() {
        return Ok(Listen::Port(port));
    }
    text.parse().map(Listen::Address).map_err(|_| {
        "a port is expected, or an address and a port, such as 8080, 192.0.2.7:8080 or [2001:db8::7]:8080"
            .to_owned()
    })
}

/// `sha256:` and 64 hexadecimal digits; also the `AB:CD:...` form that certificate tools print.
pub(crate) fn pin(text: &str) -> Result<Digest, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let digits = digits.replace(':', "").to_ascii_lowercase();
    format!("sha256:{digits}").parse().map_err(|_| {
        "sha256: and 64 hexadecimal digits are expected, of the certificate or of its public key"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, expected) in [
            ("1", Some(1)),
            ("500K", Some(500 << 10)),
            ("10m", Some(10 << 20)),
            ("2G", Some(2 << 30)),
            ("0", None),
            ("0M", None),
            ("M", None),
            ("", None),
            ("+1", None),
            ("1.5M", None),
            ("10MB", None),
            ("99999999999G", None),
        ] {
            assert_eq!(rate(text).ok().map(NonZeroU64::get), expected, "{text:?}");
        }
    }

    #[test]
    fn places_to_listen() {
        let address = |text: &str| Some(Listen::Address(text.parse().unwrap()));
        for (text, expected) in [
            ("8080", Some(Listen::Port(8080))),
            ("0", Some(Listen::Port(0))),
            ("10.0.0.1:80", address("10.0.0.1:80")),
            ("[::1]:80", address("[::1]:80")),
            ("65536", None),
            ("+80", None),
            ("", None),
            (":80", None),
            ("10.0.0.1", None),
            ("::1:80", None),
            ("host:80", None),
        ] {
            assert_eq!(listen(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn pins() {
        let digest = Digest::of(b"a key");
        let hex = digest.hex();
        let pairs: Vec<&str> = (0..32).map(|at| &hex[2 * at..2 * at + 2]).collect();
        for text in [
            format!("sha256:{hex}"),
            hex.clone(),
            pairs.join(":").to_uppercase(),
        ] {
            assert_eq!(pin(&text), Ok(digest), "{text}");
        }
        for text in ["", "sha256:", &hex[1..], "sha1:da39a3ee"] {
            assert!(pin(text).is_err(), "{text:?}");
        }
    }
}
