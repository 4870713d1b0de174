//! Until when a certificate is valid. TLS libraries check that and do not say it, so the one field is looked up here.
//!
//! Reads DER as far as needed (RFC 5280, 4.1) and believes nothing: what is not as expected has no date.

use boot_manifest::Timestamp;
use rustls_pki_types::CertificateDer;

/// Tags of DER.
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const SEQUENCE: u8 = 0x30;
    /// The version, which certificates of version 1 leave out.
    pub(super) const VERSION: u8 = 0xa0;
}

/// The rest of some DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, when it is of this kind.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        if *found != tag {
            return None;
        }
        let (first, rest) = rest.split_first()?;
        let (size, rest) = match *first {
            size @ ..=0x7f => (usize::from(size), rest),
            // So many bytes that say the length; a certificate needs two.
            more @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(more & 0x7f))?;
                let size = bytes
                    .iter()
                    .fold(0, |size, byte| size << 8 | usize::from(*byte));
                (size, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        Some(content)
    }
}

/// When the certificate expires.
pub(super) fn expires_at(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let mut outer = Der(Der(certificate).next(tag::SEQUENCE)?);
    let mut fields = Der(outer.next(tag::SEQUENCE)?);
    let _version = fields.next(tag::VERSION);
    let _serial = fields.next(tag::INTEGER)?;
    let _algorithm = fields.next(tag::SEQUENCE)?;
    let _issuer = fields.next(tag::SEQUENCE)?;
    let mut validity = Der(fields.next(tag::SEQUENCE)?);
    let _from = time(&mut validity)?;
    time(&mut validity)
}

/// `YYMMDDHHMMSSZ` of 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn time(der: &mut Der<'_>) -> Option<Timestamp> {
    let text = match der.next(tag::UTC_TIME) {
        Some(text) => {
            let text = std::str::from_utf8(text).ok()?;
            let century = if text < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }
        None => String::from_utf8(der.next(tag::GENERALIZED_TIME)?.to_vec()).ok()?,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if text.get(14..) != Some("Z") {
        return None;
    }
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(year: i32) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 2, 28);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn both_notations_of_dates() {
        for year in [1999, 2030, 2049, 2050, 2123] {
            let found = expires_at(&made(year)).unwrap();
            assert_eq!(found.to_string(), format!("{year}-02-28T00:00:00Z"));
        }
    }

    #[test]
    fn what_is_cut_or_damaged_has_no_date() {
        let good = made(2030).to_vec();
        for size in 0..good.len() {
            let cut = CertificateDer::from(good[..size].to_vec());
            assert_eq!(expires_at(&cut), None, "{size}");
        }
        for at in 0..good.len().min(200) {
            for bit in 0..8 {
                let mut damaged = good.clone();
                damaged[at] ^= 1 << bit;
                // Whatever it is, it is answered.
                let _ = expires_at(&CertificateDer::from(damaged));
            }
        }
    }
}
