//! Manifests without verification: for showing to people, for finding URLs, and for looking before signing. Decide
//! nothing by what comes from here.

use crate::digest::Digest;
use crate::envelope::FileWire;
use crate::json;
use crate::key::KeyId;
use crate::limits::MANIFEST_SIZE_MAX;
use crate::manifest::{Manifest, is_printable};
use crate::names::{Arch, ArtifactName, Channel, FileName};
use crate::time::Timestamp;
use crate::verify::{VerifyError, check_view, open, parse_payload};

/// Longest text of a view: two names, a file name and some room for a host.
const TEXT_SIZE_MAX: usize = 1_024;

/// What the readable part says. Anybody on the way may have written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedView {
    /// The member `manifest_version`.
    pub sequence: u64,
    /// The version as people call it.
    pub version: String,
    /// The line of releases.
    pub channel: Channel,
    /// The machines it claims to be for.
    pub arch: Arch,
    /// When it claims to be signed.
    pub created_at: Timestamp,
    /// When it claims to expire.
    pub expires_at: Timestamp,
    /// The files it names.
    pub artifacts: Vec<UnverifiedArtifact>,
    /// The keys it claims to be signed by.
    pub key_ids: Vec<KeyId>,
}

/// One file of an [`UnverifiedView`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedArtifact {
    /// What it is for.
    pub name: ArtifactName,
    /// Its file name.
    pub filename: FileName,
    /// Its claimed length.
    pub size: u64,
    /// Its claimed digest.
    pub digest: Digest,
    /// Where it is offered, relative to the manifest's own URL.
    pub download_url: String,
}

/// Reads the readable part of a manifest. Checks its form and no signature.
pub fn view(bytes: &[u8]) -> Result<UnverifiedView, VerifyError> {
    if bytes.len() > MANIFEST_SIZE_MAX {
        return Err(VerifyError::TooLarge(bytes.len()));
    }
    let file: FileWire = json::parse(bytes)?;
    let urls = file
        .artifacts
        .values()
        .map(|artifact| &artifact.download_url);
    if !urls
        .chain([&file.version])
        .all(|text| is_printable(text, TEXT_SIZE_MAX))
    {
        return Err(VerifyError::Malformed(
            "a text has unprintable characters".to_owned(),
        ));
    }
    let artifacts = file
        .artifacts
        .into_iter()
        .map(|(name, artifact)| UnverifiedArtifact {
            name,
            filename: artifact.filename,
            size: artifact.size_bytes,
            digest: artifact.hash,
            download_url: artifact.download_url,
        });
    Ok(UnverifiedView {
        sequence: file.manifest_version,
        version: file.version,
        channel: file.channel,
        arch: file.arch,
        created_at: file.created_at,
        expires_at: file.expires_at,
        artifacts: artifacts.collect(),
        key_ids: file
            .signatures
            .iter()
            .map(|signature| signature.key_id)
            .collect(),
    })
}

/// Reads what the payload says, with no word about who wrote it. For people who look before they sign.
///
/// The form, the rules for values and the readable part are checked as [`crate::verify`] does; signatures, times and
/// floors are not.
pub fn unverified_payload(bytes: &[u8]) -> Result<Manifest, VerifyError> {
    let envelope = open(bytes)?;
    let manifest = parse_payload(&envelope)?;
    check_view(bytes, &manifest, &envelope)?;
    Ok(manifest)
}
