//! Making signed manifests. Deterministic: the same manifest and keys give the same bytes.

use crate::envelope::{self, Envelope};
use crate::key::{KeyId, SecretKey};
use crate::limits::{MANIFEST_SIZE_MAX, SIGNATURES_MAX};
use crate::manifest::{InvalidManifest, Manifest};
use crate::statement::{self, StatementError};
use crate::verify::{self, VerifyError};

/// A manifest or another document could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No key was given.
    #[error("at least one key is needed to sign")]
    NoKeys,
    /// More signatures than verifiers look at.
    #[error("a document has at most {SIGNATURES_MAX} signatures of a role")]
    TooManySignatures,
    /// The key has signed already.
    #[error("the key {0} has signed this already")]
    AlreadySigned(KeyId),
    /// The values break a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidManifest),
    /// The file would be larger than verifiers accept.
    #[error("the signed file would have {0} bytes, more than verifiers accept")]
    TooLarge(usize),
    /// The file to be signed once more would be refused whoever signs it.
    #[error(transparent)]
    Refused(VerifyError),
    /// The same, for documents other than manifests.
    #[error(transparent)]
    RefusedStatement(StatementError),
    /// The values of a statement break a rule.
    #[error("{0}")]
    InvalidStatement(String),
    /// Files that shall be joined say different things.
    #[error("the files are not copies of one document: what was signed differs")]
    DifferentPayloads,
    /// Files that shall be joined carry two signatures of one key.
    #[error("the files carry two different signatures of the key {0}: one of them is false")]
    Contradiction(KeyId),
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
    let mut envelope = envelope::unsigned(manifest);
    statement::add_signatures(&mut envelope, keys, SIGNATURES_MAX)?;
    finish(manifest, &envelope)
}

/// Adds the signature of `key` to a complete `manifest.json`. The payload stays as it is, byte for byte.
///
/// The signatures already there are kept unchecked: whoever signs decides by what the manifest says.
pub fn add_signature(manifest_json: &[u8], key: &SecretKey) -> Result<Vec<u8>, SignError> {
    let (manifest, mut envelope) = open(manifest_json)?;
    statement::add_signatures(&mut envelope, &[key], SIGNATURES_MAX)?;
    finish(&manifest, &envelope)
}

/// Joins copies of one `manifest.json` that different people have signed on different machines.
///
/// The signatures are kept unchecked; two different ones of one key are refused.
pub fn merge_signatures(files: &[Vec<u8>]) -> Result<Vec<u8>, SignError> {
    let (first, others) = files.split_first().ok_or(SignError::NoKeys)?;
    let (manifest, mut envelope) = open(first)?;
    for file in others {
        let (_, other) = open(file)?;
        if other.payload != envelope.payload {
            return Err(SignError::DifferentPayloads);
        }
        statement::join_signatures(&mut envelope.signatures, other.signatures)?;
    }
    if envelope.signatures.len() > SIGNATURES_MAX {
        return Err(SignError::TooManySignatures);
    }
    finish(&manifest, &envelope)
}

fn open(manifest_json: &[u8]) -> Result<(Manifest, Envelope), SignError> {
    let envelope = verify::open(manifest_json).map_err(SignError::Refused)?;
    let manifest = verify::parse_payload(&envelope).map_err(SignError::Refused)?;
    verify::check_view(manifest_json, &manifest, &envelope).map_err(SignError::Refused)?;
    Ok((manifest, envelope))
}

fn finish(manifest: &Manifest, envelope: &Envelope) -> Result<Vec<u8>, SignError> {
    let file = envelope::render(manifest, envelope);
    if file.len() > MANIFEST_SIZE_MAX {
        return Err(SignError::TooLarge(file.len()));
    }
    Ok(file)
}
