//! Ed25519 keys. The algorithm is a property of the stored key; nothing on the wire chooses it.
//!
//! Public keys are checked when they are loaded: one point has one accepted encoding, and points of small order, under
//! which signatures hold for many messages, are refused. Secret keys are wiped when dropped and never printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    KeypairBytes,
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::digest::{Digest, decode_hex};
use crate::limits::KEY_FILE_SIZE_MAX;

/// A key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is in none of the accepted forms.
    #[error(
        "this is no Ed25519 public key: give PEM, 32 raw bytes, 64 hex digits or 44 characters of base64"
    )]
    NoPublicKey,
    /// The text is no PKCS#8 PEM of an Ed25519 key.
    #[error("this is no Ed25519 private key in PKCS#8 PEM form")]
    NoSecretKey,
    /// A private key stands where a public one belongs.
    #[error("this is a private key: give the public key (the file that ends in .pub)")]
    SecretInsteadOfPublic,
    /// The 32 bytes are no point of the curve.
    #[error("the public key is no point of the curve")]
    NotOnCurve,
    /// A second encoding of a point.
    #[error("the public key is not in canonical form")]
    NotCanonical,
    /// A point of small order.
    #[error("the public key is weak: signatures under it prove nothing")]
    Weak,
}

/// The first 16 hex digits of SHA-256 over the raw public key. A hint for people and for look-up, never a proof.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode_hex(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom("a key id is 16 lower-case hex digits"))
    }
}

/// A public key that passed the checks of this module.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a key as people hand it over: PEM, 32 raw bytes, 64 hex digits or base64.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
            return Self::from_bytes(&raw);
        }
        if bytes.len() > KEY_FILE_SIZE_MAX {
            return Err(KeyError::NoPublicKey);
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| KeyError::NoPublicKey)?
            .trim();
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::SecretInsteadOfPublic);
        }
        if text.starts_with("-----BEGIN") {
            let key = VerifyingKey::from_public_key_pem(text).map_err(|_| KeyError::NoPublicKey)?;
            return Self::from_bytes(key.as_bytes());
        }
        if text.len() == 64
            && let Ok(raw) = hex::decode(text)
            && let Ok(raw) = <[u8; 32]>::try_from(raw)
        {
            return Self::from_bytes(&raw);
        }
        let raw = STANDARD.decode(text).map_err(|_| KeyError::NoPublicKey)?;
        Self::from_bytes(&raw.try_into().map_err(|_| KeyError::NoPublicKey)?)
    }

    /// Checks 32 raw bytes: on the curve, canonical, not of small order.
    pub fn from_bytes(raw: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(raw).map_err(|_| KeyError::NotOnCurve)?;
        if key.to_edwards().compress().as_bytes() != raw {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self(key))
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// SPKI PEM, as OpenSSL reads it.
    pub fn to_pem(&self) -> String {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .expect("32 bytes always fit a PEM document")
    }

    /// The hint by which signatures name this key.
    pub fn key_id(&self) -> KeyId {
        let digest = Digest::of(self.as_bytes());
        KeyId(
            digest.as_bytes()[..8]
                .try_into()
                .expect("a digest has more than 8 bytes"),
        )
    }

    /// Strict verification (RFC 8032 without the liberties that let two verifiers disagree).
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0
            .verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

/// A private key. Wiped when dropped; has no way to be printed.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A key from 32 secret random bytes. The caller brings the randomness.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&Zeroizing::new(seed)))
    }

    /// Reads PKCS#8 PEM as this product and OpenSSL write it.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pem = Some(pem.trim()).filter(|pem| pem.len() <= KEY_FILE_SIZE_MAX);
        let key = pem.and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok());
        key.map(Self).ok_or(KeyError::NoSecretKey)
    }

    /// PKCS#8 PEM without the public half: OpenSSL 3.0 refuses the newer form that carries it.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let bytes = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        bytes
            .to_pkcs8_pem(LineEnding::LF)
            .expect("32 bytes always fit a PEM document")
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(not shown)")
    }
}
