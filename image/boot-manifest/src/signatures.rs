//! Signatures over an envelope's payload, and whether enough keys of a role made them. The same for every signed document.

use crate::envelope::{Envelope, pre_authentication_encoding};
use crate::key::KeyId;
use crate::root::Role;

/// Why the signatures of a document do not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature at all.
    #[error("it is not signed")]
    NotSigned,
    /// More signatures than are looked at.
    #[error("it has {0} signatures, more than are looked at")]
    TooMany(usize),
    /// One key signs twice, as if it were two.
    #[error("it carries two signatures of the key {0}")]
    Duplicate(KeyId),
    /// None of the signers is trusted for this.
    #[error("it is signed by {}, which is not trusted for it (trusted: {})", list(.found), list(.trusted))]
    UnknownKey {
        /// Who signed.
        found: Vec<KeyId>,
        /// Who would be believed.
        trusted: Vec<KeyId>,
    },
    /// A signature of a trusted key does not fit the payload.
    #[error("the payload is not what the key {0} signed")]
    Bad(KeyId),
    /// Too few trusted keys signed.
    #[error("{found} trusted key(s) signed it; {needed} are needed")]
    ThresholdNotMet {
        /// Good signatures by different trusted keys.
        found: usize,
        /// The threshold of the role.
        needed: usize,
    },
}

impl SignatureError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSigned => "not-signed",
            Self::TooMany(_) => "too-many-signatures",
            Self::Duplicate(_) => "duplicate-signature",
            Self::UnknownKey { .. } => "unknown-key",
            Self::Bad(_) => "bad-signature",
            Self::ThresholdNotMet { .. } => "threshold-not-met",
        }
    }
}

/// Counts keys of `role` with a good signature. A key id only finds the key to try; ids without a trusted key are passed
/// over, because other machines may trust them. A bad signature of a trusted key is never passed over.
///
/// The caller has checked that the payload type is the one it expects.
pub(crate) fn check(
    envelope: &Envelope,
    role: &Role,
    signatures_max: usize,
) -> Result<Vec<KeyId>, SignatureError> {
    let signatures = &envelope.signatures;
    if signatures.is_empty() {
        return Err(SignatureError::NotSigned);
    }
    if signatures.len() > signatures_max {
        return Err(SignatureError::TooMany(signatures.len()));
    }
    for (index, entry) in signatures.iter().enumerate() {
        if signatures[..index]
            .iter()
            .any(|other| other.key_id == entry.key_id)
        {
            return Err(SignatureError::Duplicate(entry.key_id));
        }
    }
    let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    let mut signers = Vec::new();
    // The loop is over the keys of the role, which are distinct points: no signature can count twice.
    for key in role.keys() {
        let key_id = key.key_id();
        let Some(entry) = signatures.iter().find(|entry| entry.key_id == key_id) else {
            continue;
        };
        if !key.verifies(&message, &entry.signature) {
            return Err(SignatureError::Bad(key_id));
        }
        signers.push(key_id);
    }
    if signers.is_empty() {
        return Err(SignatureError::UnknownKey {
            found: signatures.iter().map(|entry| entry.key_id).collect(),
            trusted: role.key_ids(),
        });
    }
    if signers.len() < role.threshold() {
        let (found, needed) = (signers.len(), role.threshold());
        return Err(SignatureError::ThresholdNotMet { found, needed });
    }
    Ok(signers)
}

/// Key ids for people.
pub(crate) fn list(ids: &[KeyId]) -> String {
    ids.iter()
        .map(KeyId::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
