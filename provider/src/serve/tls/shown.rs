//! A certificate as people and clients compare it: digests of the key and of the certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::Digest;
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

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
        })
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
