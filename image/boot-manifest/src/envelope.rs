//! The file `manifest.json`: a signed envelope (DSSE) and, beside it, a view for people and `jq`. Other signed documents
//! are the envelope alone.
//!
//! The envelope carries the payload as base64 and signatures over its exact bytes, bound to a payload type by the
//! pre-authentication encoding (PAE). The view repeats what the payload says and proves nothing. One payload and one set
//! of signatures have exactly one file: [`render`] writes it, and the verifier renders again and compares every byte.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json::{self, JsonError};
use crate::key::KeyId;
use crate::manifest::{Manifest, PayloadWire};
use crate::names::{Arch, ArtifactName, Channel, FileName};
use crate::time::Timestamp;

/// The only payload type accepted as a boot manifest. It is part of what is signed, so that a signature made for another
/// purpose never passes as one over a manifest.
pub const PAYLOAD_TYPE: &str = "application/vnd.phase.boot-manifest.v1+json";

/// One signature, still unchecked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SignatureEntry {
    pub(crate) key_id: KeyId,
    pub(crate) signature: [u8; 64],
}

/// The decoded envelope, still unchecked.
#[derive(Clone)]
pub(crate) struct Envelope {
    pub(crate) payload_type: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) signatures: Vec<SignatureEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnvelopeWire {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<SignatureWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureWire {
    keyid: KeyId,
    sig: String,
}

/// The file as far as it is read before the signatures were checked: the view is skipped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "the members of the view must be there and are not looked at"
)]
struct FileEnvelope {
    manifest_version: IgnoredAny,
    version: IgnoredAny,
    channel: IgnoredAny,
    arch: IgnoredAny,
    created_at: IgnoredAny,
    expires_at: IgnoredAny,
    artifacts: IgnoredAny,
    signatures: IgnoredAny,
    envelope: Option<EnvelopeWire>,
}

/// The whole file, in the order it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileWire {
    pub(crate) manifest_version: u64,
    pub(crate) version: String,
    pub(crate) channel: Channel,
    pub(crate) arch: Arch,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) artifacts: BTreeMap<ArtifactName, ArtifactView>,
    pub(crate) signatures: Vec<SignatureView>,
    envelope: Option<EnvelopeWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArtifactView {
    pub(crate) filename: FileName,
    pub(crate) size_bytes: u64,
    pub(crate) hash: Digest,
    pub(crate) download_url: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignatureView {
    algorithm: String,
    pub(crate) key_id: KeyId,
    signature: String,
    signed_at: Timestamp,
}

/// The bytes that are signed: type and payload, each with its length, so that no two pairs share an encoding.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads the envelope out of the file, after the strict walk over all of it. Looks at nothing else.
///
/// `None` is a file with the readable part alone, as providers without a signed manifest show it.
pub(crate) fn decode(file: &[u8]) -> Result<Option<Envelope>, JsonError> {
    json::parse::<FileEnvelope>(file)?
        .envelope
        .as_ref()
        .map(EnvelopeWire::decode)
        .transpose()
}

/// Reads a file that is an envelope and nothing else, after the strict walk over all of it.
pub(crate) fn decode_bare(file: &[u8]) -> Result<Envelope, JsonError> {
    json::parse::<EnvelopeWire>(file)?.decode()
}

/// Writes an envelope as a file of its own.
pub(crate) fn render_bare(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(&EnvelopeWire::of(envelope))
        .expect("plain text and integers always serialise");
    bytes.push(b'\n');
    bytes
}

impl EnvelopeWire {
    /// Reads base64, whose canonical form alone is accepted.
    pub(crate) fn decode(&self) -> Result<Envelope, JsonError> {
        let malformed = |what: &str| JsonError::Malformed(what.to_owned());
        let mut signatures = Vec::new();
        for entry in &self.signatures {
            let bytes = STANDARD
                .decode(&entry.sig)
                .map_err(|_| malformed("a signature is not canonical base64"))?;
            let signature = bytes
                .try_into()
                .map_err(|_| malformed("a signature does not have 64 bytes"))?;
            signatures.push(SignatureEntry {
                key_id: entry.keyid,
                signature,
            });
        }
        let payload = STANDARD
            .decode(&self.payload)
            .map_err(|_| malformed("the payload is not canonical base64"))?;
        Ok(Envelope {
            payload_type: self.payload_type.clone(),
            payload,
            signatures,
        })
    }

    pub(crate) fn of(envelope: &Envelope) -> Self {
        let signature = |entry: &SignatureEntry| SignatureWire {
            keyid: entry.key_id,
            sig: STANDARD.encode(entry.signature),
        };
        Self {
            payload_type: envelope.payload_type.clone(),
            payload: STANDARD.encode(&envelope.payload),
            signatures: envelope.signatures.iter().map(signature).collect(),
        }
    }
}

/// The envelope around what gets signed and transported, before anybody has signed.
pub(crate) fn unsigned(manifest: &Manifest) -> Envelope {
    let payload = serde_json::to_vec(&PayloadWire::from(manifest))
        .expect("plain text and integers always serialise");
    Envelope {
        payload_type: PAYLOAD_TYPE.to_owned(),
        payload,
        signatures: Vec::new(),
    }
}

/// Writes the one file for an envelope whose payload says what `manifest` says.
pub(crate) fn render(manifest: &Manifest, envelope: &Envelope) -> Vec<u8> {
    let mut envelope = envelope.clone();
    envelope.signatures.sort();
    let signature_view = |entry: &SignatureEntry| SignatureView {
        algorithm: "ed25519".to_owned(),
        key_id: entry.key_id,
        signature: hex::encode(entry.signature),
        signed_at: manifest.created_at,
    };
    let artifact = |artifact: &crate::Artifact| {
        let view = ArtifactView {
            filename: artifact.filename.clone(),
            size_bytes: artifact.size,
            hash: artifact.digest,
            download_url: manifest.download_url(artifact),
        };
        (artifact.name.clone(), view)
    };
    let file = FileWire {
        manifest_version: manifest.sequence,
        version: manifest.version.clone(),
        channel: manifest.channel.clone(),
        arch: manifest.arch,
        created_at: manifest.created_at,
        expires_at: manifest.expires_at,
        artifacts: manifest.artifacts.iter().map(artifact).collect(),
        signatures: envelope.signatures.iter().map(signature_view).collect(),
        envelope: Some(EnvelopeWire::of(&envelope)),
    };
    let mut bytes =
        serde_json::to_vec_pretty(&file).expect("plain text and integers always serialise");
    bytes.push(b'\n');
    bytes
}

/// Why two files for the same payload and signatures are not the same bytes.
pub(crate) enum Difference {
    /// A member of the view says something else than the payload.
    View(String),
    /// All members say the same in other bytes.
    Encoding,
}

/// Compares `file` with the one file it should be.
pub(crate) fn compare(file: &[u8], expected: &[u8]) -> Result<(), Difference> {
    type Members = BTreeMap<String, serde_json::Value>;
    if file == expected {
        return Ok(());
    }
    let found: Members = serde_json::from_slice(file).unwrap_or_default();
    let wanted: Members = serde_json::from_slice(expected).unwrap_or_default();
    let differing = wanted
        .iter()
        .find(|(name, value)| *name != "envelope" && found.get(*name) != Some(value));
    Err(differing.map_or(Difference::Encoding, |(name, _)| {
        Difference::View(name.clone())
    }))
}
