//! The verifier: the only way from bytes to a believed [`Manifest`].
//!
//! ```text
//! size -> strict JSON -> envelope -> payload type -> signatures over the exact payload bytes -> threshold of distinct keys
//!      -> strict parse of the same bytes -> generation -> floor -> channel, architecture -> times -> the view beside it
//! ```
//!
//! The order is part of the contract: what a check needs was established by those before it, and a file with several
//! faults is refused for the first. Reads no clock and no file; the caller says what time it is and what it expects.

use std::ops::Deref;

use crate::digest::Digest;
use crate::envelope::{self, Difference, Envelope, PAYLOAD_TYPE};
use crate::json::{self, JsonError};
use crate::key::KeyId;
use crate::limits::{CLOCK_SKEW_SECONDS_MAX, MANIFEST_SIZE_MAX, SIGNATURES_MAX};
use crate::manifest::{InvalidManifest, Manifest, PayloadWire};
use crate::names::{Arch, Channel};
use crate::root::{RoleName, TrustRoot};
use crate::signatures::{self, SignatureError};
use crate::time::Timestamp;

/// What a manifest outside its time means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It is refused: upgrades, downloads.
    Refuse,
    /// It is accepted and [`Verified::expired`] says so; a manifest from the future is refused all the same: somebody who
    /// has decided to use an old one.
    Accept,
    /// It is accepted and [`Verified::expired`] says so: a machine goes on serving what it has. A manifest from the future
    /// is accepted too, and nothing says so: the clock of a machine without a battery is behind.
    Report,
}

/// The oldest manifest that is accepted. The default accepts all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// Smallest security version.
    pub security_version: u64,
    /// Smallest sequence number.
    pub sequence: u64,
}

/// What the caller knows and wants.
#[derive(Debug, Clone)]
pub struct Expect<'a> {
    /// The time now.
    pub now: Timestamp,
    /// The oldest version accepted.
    pub floor: Floor,
    /// The channel asked for, when it matters.
    pub channel: Option<&'a Channel>,
    /// The architecture asked for, when it matters.
    pub arch: Option<Arch>,
    /// What to do with an expired manifest.
    pub expiry: Expiry,
}

/// A value that stood under enough good signatures, with the bytes it came in. Only the verifiers of this
/// crate make one.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    value: T,
    bytes: Vec<u8>,
    digest: Digest,
    signers: Vec<KeyId>,
    expired: bool,
}

impl<T> Verified<T> {
    /// For the verifiers of this crate, after their last check.
    pub(crate) fn new(value: T, bytes: &[u8], signers: Vec<KeyId>, expired: bool) -> Self {
        Self {
            value,
            bytes: bytes.to_vec(),
            digest: Digest::of(bytes),
            signers,
            expired,
        }
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Verified<T> {
    /// The file exactly as it was transported; pass these on, never a re-encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of [`Verified::bytes`].
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The trusted keys whose signatures were checked and good.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// Whether it had expired at the time given; only ever true under [`Expiry::Accept`] and [`Expiry::Report`].
    pub fn expired(&self) -> bool {
        self.expired
    }
}

/// Why a manifest is not believed: one variant for each kind of attack or accident.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Larger than any manifest.
    #[error("the manifest has {0} bytes; {MANIFEST_SIZE_MAX} are allowed")]
    TooLarge(usize),
    /// No strict JSON of the expected form.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// An object names one member twice.
    #[error("the manifest is ambiguous: the member {0:?} occurs twice")]
    DuplicateField(String),
    /// Something follows the end of the JSON text.
    #[error("the manifest has bytes after its end")]
    TrailingBytes,
    /// The envelope holds something else than a boot manifest.
    #[error("this is no boot manifest: its payload type is {0:?}")]
    WrongPayloadType(String),
    /// There is no envelope, or no signature in it.
    #[error("the manifest is not signed")]
    NotSigned,
    /// More signatures than are looked at.
    #[error("the manifest has {0} signatures; {SIGNATURES_MAX} are allowed")]
    TooManySignatures(usize),
    /// One key signs twice, as if it were two.
    #[error("the manifest carries two signatures of the key {0}")]
    DuplicateSignature(KeyId),
    /// None of the signers is trusted.
    #[error("the manifest is signed by {}, which is not trusted here (trusted: {})", signatures::list(.found), signatures::list(.trusted))]
    UnknownKey {
        /// Who signed.
        found: Vec<KeyId>,
        /// Who would be believed.
        trusted: Vec<KeyId>,
    },
    /// A signature of a trusted key does not fit the payload.
    #[error("invalid signature on manifest: the payload is not what the key {0} signed")]
    BadSignature(KeyId),
    /// Too few trusted keys signed.
    #[error("{found} trusted key(s) signed the manifest; {needed} are needed")]
    ThresholdNotMet {
        /// Good signatures by different trusted keys.
        found: usize,
        /// The threshold of the trust root.
        needed: usize,
    },
    /// It belongs to another generation of keys.
    #[error("the manifest is of key generation {found}; this machine is at {expected}")]
    WrongGeneration {
        /// Of the manifest.
        found: u64,
        /// Of the trust root.
        expected: u64,
    },
    /// It is older than what must be accepted.
    #[error("the version is too low: {counter} {found} is below the floor {floor}")]
    VersionTooLow {
        /// Which counter.
        counter: &'static str,
        /// Its value in the manifest.
        found: u64,
        /// The smallest accepted.
        floor: u64,
    },
    /// It is for another channel.
    #[error("the manifest is for channel {found}, not {expected}")]
    WrongChannel {
        /// Of the manifest.
        found: Channel,
        /// Asked for.
        expected: Channel,
    },
    /// It is for other machines.
    #[error("the manifest is for {found}, not {expected}")]
    WrongArch {
        /// Of the manifest.
        found: Arch,
        /// Asked for.
        expected: Arch,
    },
    /// It comes from the future, or the clock is behind.
    #[error(
        "the manifest is not yet valid: it was created at {created_at} and the clock says {now}"
    )]
    NotYetValid {
        /// Of the manifest.
        created_at: Timestamp,
        /// The time it was compared with.
        now: Timestamp,
    },
    /// Its time is over, or the clock is ahead.
    #[error("the manifest expired at {expires_at} and the clock says {now}")]
    Expired {
        /// Of the manifest.
        expires_at: Timestamp,
        /// The time it was compared with.
        now: Timestamp,
    },
    /// The signed payload breaks a rule.
    #[error(transparent)]
    Invalid(InvalidManifest),
    /// The readable part beside the envelope says something else than the signed payload.
    #[error("the readable part of the manifest was changed: {0:?} differs from the signed payload")]
    ViewDiffers(String),
    /// Same content in other bytes: it went through an editor, `jq` or a hostile mirror.
    #[error("the manifest was re-encoded: its bytes are not the ones that were published")]
    ReEncoded,
}

impl VerifyError {
    /// A stable name for programs and tests.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too-large",
            Self::Malformed(_) => "malformed",
            Self::DuplicateField(_) => "duplicate-field",
            Self::TrailingBytes => "trailing-bytes",
            Self::WrongPayloadType(_) => "wrong-payload-type",
            Self::NotSigned => "not-signed",
            Self::TooManySignatures(_) => "too-many-signatures",
            Self::DuplicateSignature(_) => "duplicate-signature",
            Self::UnknownKey { .. } => "unknown-key",
            Self::BadSignature(_) => "bad-signature",
            Self::ThresholdNotMet { .. } => "threshold-not-met",
            Self::WrongGeneration { .. } => "wrong-generation",
            Self::VersionTooLow { .. } => "version-too-low",
            Self::WrongChannel { .. } => "wrong-channel",
            Self::WrongArch { .. } => "wrong-arch",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Expired { .. } => "expired",
            Self::Invalid(InvalidManifest::MissingKernel) => "missing-kernel",
            Self::Invalid(InvalidManifest::ArtifactOrder(_)) => "duplicate-artifact",
            Self::Invalid(_) => "invalid-manifest",
            Self::ViewDiffers(_) => "view-differs",
            Self::ReEncoded => "re-encoded",
        }
    }
}

impl From<JsonError> for VerifyError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::DuplicateField(field) => Self::DuplicateField(field),
            JsonError::TrailingBytes => Self::TrailingBytes,
            JsonError::Malformed(reason) => Self::Malformed(reason),
        }
    }
}

impl From<SignatureError> for VerifyError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::NotSigned => Self::NotSigned,
            SignatureError::TooMany(count) => Self::TooManySignatures(count),
            SignatureError::Duplicate(key) => Self::DuplicateSignature(key),
            SignatureError::UnknownKey { found, trusted } => Self::UnknownKey { found, trusted },
            SignatureError::Bad(key) => Self::BadSignature(key),
            SignatureError::ThresholdNotMet { found, needed } => {
                Self::ThresholdNotMet { found, needed }
            }
        }
    }
}

/// Checks the file `bytes` against `root` and `expect`, in the order told at the top of this module.
pub fn verify(
    bytes: &[u8],
    root: &TrustRoot,
    expect: &Expect<'_>,
) -> Result<Verified<Manifest>, VerifyError> {
    let envelope = open(bytes)?;
    let signers = signatures::check(&envelope, root.role(RoleName::Release), SIGNATURES_MAX)?;
    let manifest = parse_payload(&envelope)?;
    check_counters(&manifest, root, expect)?;
    check_machine(&manifest, expect)?;
    let expired = check_times(&manifest, expect)?;
    check_view(bytes, &manifest, &envelope)?;
    Ok(Verified::new(manifest, bytes, signers, expired))
}

/// The checks before the signatures: size, strict JSON, envelope, payload type.
pub(crate) fn open(bytes: &[u8]) -> Result<Envelope, VerifyError> {
    if bytes.len() > MANIFEST_SIZE_MAX {
        return Err(VerifyError::TooLarge(bytes.len()));
    }
    let envelope = envelope::decode(bytes)?.ok_or(VerifyError::NotSigned)?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(VerifyError::WrongPayloadType(
            envelope.payload_type.chars().take(80).collect(),
        ));
    }
    Ok(envelope)
}

/// The payload as values that keep the rules.
pub(crate) fn parse_payload(envelope: &Envelope) -> Result<Manifest, VerifyError> {
    let wire: PayloadWire = json::parse(&envelope.payload)?;
    Manifest::try_from(wire).map_err(VerifyError::Invalid)
}

/// The file must be, byte for byte, the one that belongs to this payload and these signatures.
pub(crate) fn check_view(
    bytes: &[u8],
    manifest: &Manifest,
    envelope: &Envelope,
) -> Result<(), VerifyError> {
    let expected = envelope::render(manifest, envelope);
    envelope::compare(bytes, &expected).map_err(|difference| match difference {
        Difference::View(member) => VerifyError::ViewDiffers(member),
        Difference::Encoding => VerifyError::ReEncoded,
    })
}

fn check_counters(
    manifest: &Manifest,
    root: &TrustRoot,
    expect: &Expect<'_>,
) -> Result<(), VerifyError> {
    if manifest.generation != root.generation() {
        return Err(VerifyError::WrongGeneration {
            found: manifest.generation,
            expected: root.generation(),
        });
    }
    let floor = &expect.floor;
    for (counter, found, floor) in [
        (
            "security_version",
            manifest.security_version,
            floor.security_version,
        ),
        ("sequence", manifest.sequence, floor.sequence),
    ] {
        if found < floor {
            return Err(VerifyError::VersionTooLow {
                counter,
                found,
                floor,
            });
        }
    }
    Ok(())
}

fn check_machine(manifest: &Manifest, expect: &Expect<'_>) -> Result<(), VerifyError> {
    if let Some(expected) = expect.channel
        && *expected != manifest.channel
    {
        let (found, expected) = (manifest.channel.clone(), expected.clone());
        return Err(VerifyError::WrongChannel { found, expected });
    }
    if let Some(expected) = expect.arch
        && expected != manifest.arch
    {
        return Err(VerifyError::WrongArch {
            found: manifest.arch,
            expected,
        });
    }
    Ok(())
}

fn check_times(manifest: &Manifest, expect: &Expect<'_>) -> Result<bool, VerifyError> {
    let now = expect.now;
    let (created_at, expires_at) = (manifest.created_at, manifest.expires_at);
    if created_at > now.plus_seconds(CLOCK_SKEW_SECONDS_MAX) && expect.expiry != Expiry::Report {
        return Err(VerifyError::NotYetValid { created_at, now });
    }
    let expired = now >= expires_at;
    if expired && expect.expiry == Expiry::Refuse {
        return Err(VerifyError::Expired { expires_at, now });
    }
    Ok(expired)
}
