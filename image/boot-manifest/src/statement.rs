//! Signed documents beside the manifest: links of the root chain, freshness statements and orders. Each is a DSSE envelope
//! of its own payload type, so that a signature made for one never passes as another.
//!
//! ```text
//! size -> strict JSON -> envelope -> payload type -> signatures over the exact payload bytes -> threshold of distinct keys
//!      -> strict parse of the same bytes -> what the document is about
//! ```

use crate::envelope::{
    Envelope, SignatureEntry, decode_bare, pre_authentication_encoding, render_bare,
};
use crate::json::JsonError;
use crate::key::SecretKey;
use crate::limits::SIGNATURES_MAX;
use crate::names::{Arch, Channel};
use crate::nonce::Nonce;
use crate::root::{Role, TrustRootError};
use crate::signatures::{self, SignatureError};
use crate::{KeyId, SignError};

/// Why a signed document is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Larger than any of its kind.
    #[error("it has {0} bytes, more than any real one")]
    TooLarge(usize),
    /// No strict JSON of the expected form.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It is another kind of document.
    #[error("it is another kind of document: its type is {0:?}")]
    WrongPayloadType(String),
    /// The signatures do not count.
    #[error(transparent)]
    Signatures(#[from] SignatureError),
    /// It belongs to another generation of keys.
    #[error("it is of key generation {found}, not {expected}")]
    WrongGeneration {
        /// Of the document.
        found: u64,
        /// The one it must be of.
        expected: u64,
    },
    /// It answers another question: an old one is played again.
    #[error("it answers the nonce {found}, not {expected}: it is an old one, or another machine's")]
    WrongNonce {
        /// Of the document.
        found: Nonce,
        /// The one that was sent.
        expected: Nonce,
    },
    /// It is about another channel.
    #[error("it is about channel {found}, not {expected}")]
    WrongChannel {
        /// Of the document.
        found: Channel,
        /// Asked for.
        expected: Channel,
    },
    /// It is about other machines.
    #[error("it is about {found}, not {expected}")]
    WrongArch {
        /// Of the document.
        found: Arch,
        /// Asked for.
        expected: Arch,
    },
    /// The signed payload breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// The trust root in it is unsound.
    #[error(transparent)]
    Root(#[from] TrustRootError),
}

impl StatementError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too-large",
            Self::Malformed(_) => "malformed",
            Self::WrongPayloadType(_) => "wrong-payload-type",
            Self::Signatures(error) => error.code(),
            Self::WrongGeneration { .. } => "wrong-generation",
            Self::WrongNonce { .. } => "wrong-nonce",
            Self::WrongChannel { .. } => "wrong-channel",
            Self::WrongArch { .. } => "wrong-arch",
            Self::Invalid(_) => "invalid-statement",
            Self::Root(_) => "invalid-root",
        }
    }
}

impl From<JsonError> for StatementError {
    fn from(error: JsonError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The checks before the signatures: size, strict JSON, envelope, payload type.
pub(crate) fn open(
    bytes: &[u8],
    payload_type: &str,
    size_max: usize,
) -> Result<Envelope, StatementError> {
    if bytes.len() > size_max {
        return Err(StatementError::TooLarge(bytes.len()));
    }
    let envelope = decode_bare(bytes)?;
    expect_type(&envelope, payload_type)?;
    Ok(envelope)
}

/// The envelope holds the expected kind of document.
pub(crate) fn expect_type(envelope: &Envelope, payload_type: &str) -> Result<(), StatementError> {
    if envelope.payload_type == payload_type {
        return Ok(());
    }
    let found = envelope.payload_type.chars().take(80).collect();
    Err(StatementError::WrongPayloadType(found))
}

/// The checks up to the threshold. What comes back may be parsed.
pub(crate) fn authenticate(
    bytes: &[u8],
    payload_type: &str,
    size_max: usize,
    role: &Role,
) -> Result<(Envelope, Vec<KeyId>), StatementError> {
    let envelope = open(bytes, payload_type, size_max)?;
    let signers = signatures::check(&envelope, role, SIGNATURES_MAX)?;
    Ok((envelope, signers))
}

/// Signs `payload` and returns the complete file.
pub(crate) fn sign(
    payload_type: &str,
    payload: Vec<u8>,
    keys: &[&SecretKey],
) -> Result<Vec<u8>, SignError> {
    if keys.is_empty() {
        return Err(SignError::NoKeys);
    }
    let mut envelope = Envelope {
        payload_type: payload_type.to_owned(),
        payload,
        signatures: Vec::new(),
    };
    add_signatures(&mut envelope, keys, SIGNATURES_MAX)?;
    Ok(render_bare(&envelope))
}

/// Adds signatures to an envelope; the payload stays as it is.
pub(crate) fn add_signatures(
    envelope: &mut Envelope,
    keys: &[&SecretKey],
    signatures_max: usize,
) -> Result<(), SignError> {
    let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    for key in keys {
        let key_id = key.public().key_id();
        if envelope
            .signatures
            .iter()
            .any(|entry| entry.key_id == key_id)
        {
            return Err(SignError::AlreadySigned(key_id));
        }
        envelope.signatures.push(SignatureEntry {
            key_id,
            signature: key.sign(&message),
        });
    }
    if envelope.signatures.len() > signatures_max {
        return Err(SignError::TooManySignatures);
    }
    Ok(())
}

/// Joins the signatures that several people made over the same payload.
pub(crate) fn join_signatures(
    into: &mut Vec<SignatureEntry>,
    more: Vec<SignatureEntry>,
) -> Result<(), SignError> {
    for entry in more {
        match into.iter().find(|known| known.key_id == entry.key_id) {
            // Ed25519 signs the same bytes the same way: two signatures of one key mean that one is false.
            Some(known) if known.signature != entry.signature => {
                return Err(SignError::Contradiction(entry.key_id));
            }
            Some(_) => {}
            None => into.push(entry),
        }
    }
    Ok(())
}
