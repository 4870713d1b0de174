//! A certificate as people and clients compare it: digests of the key and of the certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::{Digest, Timestamp};
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use crate::serve::limits::CERTIFICATE_WARN_DAYS;
use crate::serve::tls::validity;

/// What is shown of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    /// SHA-256 of the public key (SubjectPublicKeyInfo), for `phase-fetch --pin`. It stays when a certificate is renewed
    /// with the same key.
    pub(crate) pin: String,
    /// The same, for `curl --pinnedpubkey`.
    pub(crate) pin_curl: String,
    /// SHA-256 of the certificate, as browsers and openssl show it.
    pub(crate) fingerprint: String,
    /// SHA-256 of the authority that made it, if that was this provider. This is what firmware enrols.
    pub(crate) authority_fingerprint: Option<String>,
    /// When clients stop to believe it.
    pub(crate) expires_at: Option<Timestamp>,
}

impl Shown {
    /// Of the first certificate of `chain`.
    pub(crate) fn of(
        chain: &[CertificateDer<'_>],
        authority: Option<&CertificateDer<'_>>,
    ) -> Result<Self, rustls::Error> {
        let leaf = chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let key = ParsedCertificate::try_from(leaf)?.subject_public_key_info();
        let pin = Digest::of(&key);
        Ok(Self {
            pin: pin.to_string(),
            pin_curl: format!("sha256//{}", STANDARD.encode(pin.as_bytes())),
            fingerprint: fingerprint(leaf),
            authority_fingerprint: authority.map(fingerprint),
            expires_at: validity::expires_at(leaf),
        })
    }

    /// What to say at `now` about its end, when that is near or over.
    pub(crate) fn ending(&self, now: Timestamp) -> Option<String> {
        let expires_at = self.expires_at?;
        if expires_at <= now {
            return Some(format!(
                "the certificate of HTTPS expired at {expires_at}: clients refuse it, unless they pin it"
            ));
        }
        (expires_at <= now.plus_days(CERTIFICATE_WARN_DAYS))
            .then(|| format!("the certificate of HTTPS expires at {expires_at}"))
    }
}

/// SHA-256 in the notation of certificates.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Digest::of(certificate);
    let pairs: Vec<String> = digest
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_near_is_said() {
        let shown = |expires_at| Shown {
            pin: String::new(),
            pin_curl: String::new(),
            fingerprint: String::new(),
            authority_fingerprint: None,
            expires_at,
        };
        let now = Timestamp::from_unix(1_000_000_000);
        let later = now.plus_days(CERTIFICATE_WARN_DAYS);
        let said = |expires_at| shown(Some(expires_at)).ending(now);
        assert!(said(now).unwrap().contains("expired at 2001-09-09"));
        assert!(said(later).unwrap().contains("expires at 2001-09-23"));
        assert_eq!(said(later.plus_days(1)), None);
        assert_eq!(shown(None).ending(now), None);
    }
}
