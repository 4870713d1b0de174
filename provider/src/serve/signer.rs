//! Making a manifest from what lies in a folder: signed with a key on this machine, or as an unsigned view.
//!
//! Times are arguments. The private key never leaves [`Signer`].

use std::sync::{Arc, PoisonError, RwLock};

use artifact_store::Hashed;
use boot_manifest::{
    Arch, Artifact, ArtifactName, Channel, FileName, Manifest, SecretKey, SignError, Timestamp,
    sign,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::exit::CommandError;
use crate::serve::setup::KeyFile;

/// A file that belongs into a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// What it is for.
    pub(crate) name: ArtifactName,
    /// Its file name.
    pub(crate) filename: FileName,
    /// Length in bytes.
    pub(crate) size: u64,
    /// What is known of its content: with the chunks when it is to be signed.
    pub(crate) hashed: Arc<Hashed>,
}

impl Listed {
    /// The entry of a signed manifest; nothing without chunks.
    pub(crate) fn artifact(&self) -> Option<Artifact> {
        Some(Artifact {
            name: self.name.clone(),
            filename: self.filename.clone(),
            size: self.size,
            digest: self.hashed.digest,
            chunks: self.hashed.chunks.clone()?,
        })
    }
}

/// A key and what it vouches for besides the files.
pub(crate) struct Signer {
    /// The private key.
    pub(crate) key: SecretKey,
    /// Generation of the trust root the key belongs to.
    pub(crate) generation: u64,
    /// Sequence number of the first manifest; without it, the time of signing.
    pub(crate) sequence: Option<u64>,
    /// Security version of everything signed.
    pub(crate) security_version: u64,
    /// Version for people; without it, the time of signing.
    pub(crate) release: Option<String>,
    /// Kernel command line.
    pub(crate) cmdline: String,
    /// Days until it expires.
    pub(crate) valid_days: u32,
}

/// The key that is in force, and the file it is read from again. Without a file nothing is signed, ever.
pub(crate) struct Signing {
    file: Option<KeyFile>,
    signer: RwLock<Option<Arc<Signer>>>,
}

impl Signing {
    /// Reads the key for the first time.
    pub(crate) fn new(file: Option<KeyFile>) -> Result<Self, CommandError> {
        let signer = file.as_ref().map(KeyFile::read).transpose()?;
        Ok(Self {
            signer: RwLock::new(signer.map(Arc::new)),
            file,
        })
    }

    /// The key in force.
    pub(crate) fn signer(&self) -> Option<Arc<Signer>> {
        self.signer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the key again; whether it is another one. A bad one leaves the old one in force.
    pub(crate) fn reload(&self) -> Result<bool, CommandError> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let signer = file.read()?;
        let key_id = signer.key.public().key_id();
        let mut current = self.signer.write().unwrap_or_else(PoisonError::into_inner);
        // Manifests go by the key that made them: the same key again is no reason for new ones.
        if current
            .as_ref()
            .map(|current| current.key.public().key_id())
            == Some(key_id)
        {
            return Ok(false);
        }
        tracing::info!(%key_id, "manifests are signed with another key from now on");
        *current = Some(Arc::new(signer));
        Ok(true)
    }
}

/// A manifest made here.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// The bytes of `manifest.json`.
    pub(crate) bytes: Vec<u8>,
    /// Its sequence number.
    pub(crate) sequence: u64,
    /// Its version for people.
    pub(crate) version: String,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// When it expires.
    pub(crate) expires_at: Timestamp,
    /// From when on another one is to be made, also when no file changed.
    pub(crate) fresh_until: Timestamp,
}

impl Signer {
    /// Signs `artifacts`. The sequence number is larger than `before`, so clients take the newer manifest for newer.
    pub(crate) fn issue(
        &self,
        channel: &Channel,
        arch: Arch,
        artifacts: Vec<Artifact>,
        before: Option<u64>,
        now: Timestamp,
    ) -> Result<Issued, SignError> {
        let now_unix = u64::try_from(now.unix()).unwrap_or(1).max(1);
        let smallest = before.map_or(1, |before| before.saturating_add(1));
        let sequence = self.sequence.unwrap_or(now_unix).max(smallest);
        let expires_at = now.plus_days(self.valid_days);
        let version = self.release.clone().unwrap_or_else(|| version_at(now));
        let manifest = Manifest {
            generation: self.generation,
            sequence,
            security_version: self.security_version,
            version: version.clone(),
            channel: channel.clone(),
            arch,
            created_at: now,
            expires_at,
            cmdline: self.cmdline.clone(),
            artifacts,
        };
        let bytes = sign(&manifest, &[&self.key])?;
        // A third of the validity is what a client can count on.
        let fresh_until = expires_at.plus_seconds(-(expires_at.unix() - now.unix()) / 3);
        Ok(Issued {
            bytes,
            sequence,
            version,
            created_at: now,
            expires_at,
            fresh_until,
        })
    }
}

/// `2026-11-21T10:00:00Z` as a version: `20261121.100000`.
fn version_at(time: Timestamp) -> String {
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    let text = time.to_string();
    let (day, clock) = text.split_once('T').unwrap_or((&text, ""));
    format!("{}.{}", digits(day), digits(clock))
}

/// What a provider without a key shows: the members people look at, no signature, and nothing to verify.
///
/// Its times are those of the newest file, so that it changes when the files do and only then.
pub(crate) fn unsigned_view(
    channel: &Channel,
    arch: Arch,
    artifacts: &[Listed],
    newest: Timestamp,
    valid_days: u32,
) -> Result<Issued, serde_json::Error> {
    #[derive(Serialize)]
    struct View<'a> {
        manifest_version: u64,
        version: String,
        channel: &'a Channel,
        arch: Arch,
        created_at: Timestamp,
        expires_at: Timestamp,
        artifacts: Map<String, Value>,
        signatures: [(); 0],
    }
    let entry = |artifact: &Listed| {
        let value = json!({
            "filename": artifact.filename,
            "size_bytes": artifact.size,
            "hash": artifact.hashed.digest,
            "download_url": format!("/{channel}/{arch}/{}", artifact.filename),
        });
        (artifact.name.to_string(), value)
    };
    let sequence = u64::try_from(newest.unix()).unwrap_or(1).max(1);
    let view = View {
        manifest_version: sequence,
        version: version_at(newest),
        channel,
        arch,
        created_at: newest,
        expires_at: newest.plus_days(valid_days),
        artifacts: artifacts.iter().map(entry).collect(),
        signatures: [],
    };
    let mut bytes = serde_json::to_vec_pretty(&view)?;
    bytes.push(b'\n');
    let (version, created_at, expires_at) = (view.version, view.created_at, view.expires_at);
    Ok(Issued {
        bytes,
        sequence,
        version,
        created_at,
        expires_at,
        fresh_until: Timestamp::MAX,
    })
}

#[cfg(test)]
mod tests {
    use boot_manifest::{ArtifactHasher, Expect, Expiry, Floor, TrustRoot, verify};

    use super::*;

    fn kernel() -> Listed {
        let bytes = b"kernel bytes";
        let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
        hasher.update(bytes);
        let (digest, chunks) = hasher.finish().unwrap();
        let chunks = Some(chunks);
        Listed {
            name: "kernel".parse().unwrap(),
            filename: "vmlinuz".parse().unwrap(),
            size: bytes.len() as u64,
            hashed: Arc::new(Hashed { digest, chunks }),
        }
    }

    fn signer(sequence: Option<u64>) -> Signer {
        Signer {
            key: SecretKey::from_seed([7; 32]),
            generation: 1,
            sequence,
            security_version: 1,
            release: None,
            cmdline: "panic=10".to_owned(),
            valid_days: 30,
        }
    }

    #[test]
    fn what_is_issued_verifies_and_is_newer_each_time() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let channel = "stable".parse().unwrap();
        let issue = |signer: &Signer, before| {
            let artifacts = vec![kernel().artifact().unwrap()];
            signer
                .issue(&channel, Arch::X86_64, artifacts, before, now)
                .unwrap()
        };
        let first = issue(&signer(None), None);
        assert_eq!(first.sequence, u64::try_from(now.unix()).unwrap());
        assert_eq!(
            issue(&signer(None), Some(first.sequence)).sequence,
            first.sequence + 1
        );
        assert_eq!(issue(&signer(Some(5)), None).sequence, 5);
        assert_eq!(issue(&signer(Some(5)), Some(5)).sequence, 6);
        let root = TrustRoot::single(SecretKey::from_seed([7; 32]).public());
        let expect = Expect {
            now,
            floor: Floor::default(),
            channel: Some(&channel),
            arch: Some(Arch::X86_64),
            expiry: Expiry::Refuse,
        };
        let verified = verify(&first.bytes, &root, &expect).unwrap();
        assert_eq!(verified.version, "20261121.100000");
        assert_eq!(first.expires_at, now.plus_days(30));
        assert_eq!(first.fresh_until, now.plus_days(20));
    }

    #[test]
    fn the_unsigned_view_is_refused_by_the_verifier() {
        let newest: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let channel = "stable".parse().unwrap();
        let issued = unsigned_view(&channel, Arch::X86_64, &[kernel()], newest, 30).unwrap();
        let view: Value = serde_json::from_slice(&issued.bytes).unwrap();
        assert_eq!(view["signatures"], json!([]));
        assert_eq!(
            view["artifacts"]["kernel"]["download_url"],
            "/stable/x86_64/vmlinuz"
        );
        assert_eq!(view["expires_at"], "2026-12-21T10:00:00Z");
        let root = TrustRoot::single(SecretKey::from_seed([7; 32]).public());
        let expect = Expect {
            now: newest,
            floor: Floor::default(),
            channel: None,
            arch: None,
            expiry: Expiry::Report,
        };
        assert!(verify(&issued.bytes, &root, &expect).is_err());
    }
}
