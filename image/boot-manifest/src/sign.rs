//! Making signed manifests. Deterministic: the same manifest and keys give the same bytes.

use crate::envelope::{self, PAYLOAD_TYPE, SignatureEntry, pre_authentication_encoding};
use crate::key::{KeyId, SecretKey};
use crate::limits::{MANIFEST_SIZE_MAX, SIGNATURES_MAX};
use crate::manifest::{InvalidManifest, Manifest};
use crate::verify::{self, VerifyError};

/// A manifest could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No key was given.
    #[error("at least one key is needed to sign")]
    NoKeys,
    /// More signatures than verifiers look at.
    #[error("a manifest has at most {SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// The key has signed already.
    #[error("the key {0} has signed this manifest already")]
    AlreadySigned(KeyId),
    /// The values break a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidManifest),
    /// The file would be larger than verifiers accept.
    #[error("the signed manifest would have {0} bytes; {MANIFEST_SIZE_MAX} are allowed")]
    TooLarge(usize),
    /// The file to be signed once more would be refused whoever signs it.
    #[error(transparent)]
    Refused(VerifyError),
}

/// Signs `manifest` and returns the complete `manifest.json`.
pub fn sign(manifest: &Manifest, keys: &[&SecretKey]) -> Result<Vec<u8>, SignError> {
    if keys.is_empty() {
        return Err(SignError::NoKeys);
    }
    draft_or_signed(manifest, keys)
}

/// The complete `manifest.json` without a signature, for [`add_signature`] on other machines. No verifier believes it.
pub fn draft(manifest: &Manifest) -> Result<Vec<u8>, SignError> {
    draft_or_signed(manifest, &[])
}

fn draft_or_signed(manifest: &Manifest, keys: &[&SecretKey]) -> Result<Vec<u8>, SignError> {
    manifest.validate()?;
    let payload = envelope::encode_payload(manifest);
    finish(manifest, &payload, Vec::new(), keys)
}

/// Adds the signature of `key` to a complete `manifest.json`. The payload stays as it is, byte for byte.
///
/// The signatures already there are kept unchecked: whoever signs decides by what the manifest says.
pub fn add_signature(manifest_json: &[u8], key: &SecretKey) -> Result<Vec<u8>, SignError> {
    let envelope = verify::open(manifest_json).map_err(SignError::Refused)?;
    let manifest = verify::parse_payload(&envelope).map_err(SignError::Refused)?;
    verify::check_view(manifest_json, &manifest, &envelope).map_err(SignError::Refused)?;
    finish(&manifest, &envelope.payload, envelope.signatures, &[key])
}

fn finish(
    manifest: &Manifest,
    payload: &[u8],
    mut signatures: Vec<SignatureEntry>,
    keys: &[&SecretKey],
) -> Result<Vec<u8>, SignError> {
    let message = pre_authentication_encoding(PAYLOAD_TYPE, payload);
    for key in keys {
        let key_id = key.public().key_id();
        if signatures.iter().any(|entry| entry.key_id == key_id) {
            return Err(SignError::AlreadySigned(key_id));
        }
        signatures.push(SignatureEntry {
            key_id,
            signature: key.sign(&message),
        });
    }
    if signatures.len() > SIGNATURES_MAX {
        return Err(SignError::TooManySignatures);
    }
    let file = envelope::render(manifest, payload, &signatures);
    if file.len() > MANIFEST_SIZE_MAX {
        return Err(SignError::TooLarge(file.len()));
    }
    Ok(file)
}
