//! The values of `phase-fetch`'s flags that are not plain numbers or names.

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
