//! The manifest: one version of one image, and the digests of all its parts. Plain values and their rules.
//!
//! Its JSON here is the signed payload. Where a manifest matters, functions take [`crate::Verified`], which only
//! [`crate::verify`] makes.

use serde::{Deserialize, Serialize};

use crate::chunks::ChunkMap;
use crate::digest::Digest;
use crate::limits::{ARTIFACTS_MAX, CMDLINE_SIZE_MAX, INTEGER_MAX, VERSION_SIZE_MAX};
use crate::names::{Arch, ArtifactName, Channel, FileName};
use crate::time::Timestamp;

/// The artifact every manifest must have.
const KERNEL: &str = "kernel";

/// The file name that the signed manifest has beside its artifacts.
const MANIFEST_FILE: &str = "manifest.json";

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is for.
    pub name: ArtifactName,
    /// Its file name in the artifact directory and in URLs.
    pub filename: FileName,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// SHA-256 of each chunk.
    pub chunks: ChunkMap,
}

/// One version of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Generation of the trust root that the signers belong to, from 1. The other counters restart with it.
    pub generation: u64,
    /// Order of versions, from 1: a newer image has a larger number.
    pub sequence: u64,
    /// Raised only when older images must no longer be accepted.
    pub security_version: u64,
    /// The version as people call it.
    pub version: String,
    /// The line of releases it belongs to.
    pub channel: Channel,
    /// The machines it runs on.
    pub arch: Arch,
    /// When it was signed first.
    pub created_at: Timestamp,
    /// From when on it must not be used for an upgrade.
    pub expires_at: Timestamp,
    /// Kernel command line of the image.
    pub cmdline: String,
    /// The files, in ascending order of their names.
    pub artifacts: Vec<Artifact>,
}

/// Why values cannot be a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// No artifact is called `kernel`.
    #[error("manifest missing required artifact: kernel")]
    MissingKernel,
    /// More artifacts than allowed.
    #[error("the manifest has {0} artifacts; {ARTIFACTS_MAX} are allowed")]
    TooManyArtifacts(usize),
    /// Artifact names are not strictly ascending, hence perhaps not unique.
    #[error("the artifact {0} is out of order or occurs twice")]
    ArtifactOrder(ArtifactName),
    /// Two artifacts share one file name.
    #[error("two artifacts have the file name {0}")]
    DuplicateFileName(FileName),
    /// An artifact would take the place of the signed manifest in the artifact directory.
    #[error("the artifact {0} has the file name of the manifest, {MANIFEST_FILE}")]
    ManifestFileName(ArtifactName),
    /// An artifact's length and chunk list do not belong together.
    #[error("the artifact {name}: {reason}")]
    Artifact {
        /// Which one.
        name: ArtifactName,
        /// What is wrong.
        reason: String,
    },
    /// A counter is out of range.
    #[error("{field} is {value}; it must be {min} to 2^53")]
    Counter {
        /// Name of the member.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Smallest value.
        min: u64,
    },
    /// The version is empty, too long or not printable.
    #[error("the version must be 1 to {VERSION_SIZE_MAX} printable ASCII characters")]
    Version,
    /// The kernel command line is too long or not printable.
    #[error(
        "the kernel command line must be at most {CMDLINE_SIZE_MAX} printable ASCII characters"
    )]
    Cmdline,
    /// It expires before it begins.
    #[error(
        "the manifest expires at {expires_at}, which is not after its creation at {created_at}"
    )]
    Times {
        /// Begin.
        created_at: Timestamp,
        /// End.
        expires_at: Timestamp,
    },
}

impl Manifest {
    /// The artifact called `name`.
    pub fn artifact(&self, name: &str) -> Option<&Artifact> {
        self.artifacts
            .iter()
            .find(|artifact| artifact.name.as_str() == name)
    }

    /// Checks every rule that can be checked without a key, a clock or a floor.
    pub fn validate(&self) -> Result<(), InvalidManifest> {
        for (field, value, min) in [
            ("generation", self.generation, 1),
            ("sequence", self.sequence, 1),
            ("security_version", self.security_version, 0),
        ] {
            if !(min..=INTEGER_MAX).contains(&value) {
                return Err(InvalidManifest::Counter { field, value, min });
            }
        }
        if self.version.is_empty() || !is_printable(&self.version, VERSION_SIZE_MAX) {
            return Err(InvalidManifest::Version);
        }
        if !is_printable(&self.cmdline, CMDLINE_SIZE_MAX) {
            return Err(InvalidManifest::Cmdline);
        }
        let (created_at, expires_at) = (self.created_at, self.expires_at);
        if expires_at <= created_at {
            return Err(InvalidManifest::Times {
                created_at,
                expires_at,
            });
        }
        self.validate_artifacts()
    }

    fn validate_artifacts(&self) -> Result<(), InvalidManifest> {
        if self.artifacts.len() > ARTIFACTS_MAX {
            return Err(InvalidManifest::TooManyArtifacts(self.artifacts.len()));
        }
        for (index, artifact) in self.artifacts.iter().enumerate() {
            let before = &self.artifacts[..index];
            if before.last().is_some_and(|last| last.name >= artifact.name) {
                return Err(InvalidManifest::ArtifactOrder(artifact.name.clone()));
            }
            if before
                .iter()
                .any(|other| other.filename == artifact.filename)
            {
                return Err(InvalidManifest::DuplicateFileName(
                    artifact.filename.clone(),
                ));
            }
            if artifact.filename.as_str() == MANIFEST_FILE {
                return Err(InvalidManifest::ManifestFileName(artifact.name.clone()));
            }
            let reason = if artifact.size != artifact.chunks.size() {
                "its size and its chunk list differ"
            } else if artifact.chunks.chunk_count() == 1
                && artifact.chunks.digest(0) != Some(artifact.digest)
            {
                "its digest and that of its only chunk differ"
            } else {
                continue;
            };
            let name = artifact.name.clone();
            return Err(InvalidManifest::Artifact {
                name,
                reason: reason.to_owned(),
            });
        }
        if self.artifact(KERNEL).is_none() {
            return Err(InvalidManifest::MissingKernel);
        }
        Ok(())
    }

    /// The path under which providers offer `artifact`, from the root of their URL space.
    pub fn download_url(&self, artifact: &Artifact) -> String {
        format!("/{}/{}/{}", self.channel, self.arch, artifact.filename)
    }
}

/// Whether `text` is short enough and can be shown as it is.
pub(crate) fn is_printable(text: &str, size_max: usize) -> bool {
    text.len() <= size_max && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// The payload as it is written: compact JSON, members in this order, no others.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PayloadWire {
    generation: u64,
    sequence: u64,
    security_version: u64,
    version: String,
    channel: Channel,
    arch: Arch,
    created_at: Timestamp,
    expires_at: Timestamp,
    cmdline: String,
    artifacts: Vec<ArtifactWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArtifactWire {
    name: ArtifactName,
    filename: FileName,
    size: u64,
    digest: Digest,
    chunk_size: u64,
    chunks: Vec<Digest>,
}

impl From<&Manifest> for PayloadWire {
    fn from(manifest: &Manifest) -> Self {
        let artifact = |artifact: &Artifact| ArtifactWire {
            name: artifact.name.clone(),
            filename: artifact.filename.clone(),
            size: artifact.size,
            digest: artifact.digest,
            chunk_size: artifact.chunks.chunk_size(),
            chunks: artifact.chunks.digests().to_vec(),
        };
        Self {
            generation: manifest.generation,
            sequence: manifest.sequence,
            security_version: manifest.security_version,
            version: manifest.version.clone(),
            channel: manifest.channel.clone(),
            arch: manifest.arch,
            created_at: manifest.created_at,
            expires_at: manifest.expires_at,
            cmdline: manifest.cmdline.clone(),
            artifacts: manifest.artifacts.iter().map(artifact).collect(),
        }
    }
}

impl TryFrom<PayloadWire> for Manifest {
    type Error = InvalidManifest;

    fn try_from(wire: PayloadWire) -> Result<Self, InvalidManifest> {
        let mut artifacts = Vec::new();
        for wire in wire.artifacts {
            let invalid = |reason: String| InvalidManifest::Artifact {
                name: wire.name.clone(),
                reason,
            };
            let chunks = ChunkMap::new(wire.size, wire.chunks)
                .map_err(|error| invalid(error.to_string()))?;
            if chunks.chunk_size() != wire.chunk_size {
                let reason = "its chunk size is not the one its length calls for";
                return Err(invalid(reason.to_owned()));
            }
            artifacts.push(Artifact {
                name: wire.name,
                filename: wire.filename,
                size: wire.size,
                digest: wire.digest,
                chunks,
            });
        }
        let manifest = Self {
            generation: wire.generation,
            sequence: wire.sequence,
            security_version: wire.security_version,
            version: wire.version,
            channel: wire.channel,
            arch: wire.arch,
            created_at: wire.created_at,
            expires_at: wire.expires_at,
            cmdline: wire.cmdline,
            artifacts,
        };
        manifest.validate()?;
        Ok(manifest)
    }
}
