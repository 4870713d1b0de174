//! A small signed image to fetch.

use boot_manifest::{
    Arch, Artifact, ArtifactHasher, Manifest, Role, RoleName, SecretKey, Timestamp, TrustRoot,
    append_link, draft_link, sign, sign_link, unverified_payload,
};

/// The time at which the tests take place.
pub(crate) const NOW: Timestamp = Timestamp::from_unix(1_795_255_200);

/// Files under one manifest.
pub(crate) struct Image {
    /// Name, file name, content.
    pub(crate) files: Vec<(&'static str, &'static str, Vec<u8>)>,
    /// `manifest.json`.
    pub(crate) manifest: Vec<u8>,
    /// The key that signed it.
    pub(crate) key: SecretKey,
    /// `roots.json`, when the keys were replaced.
    pub(crate) roots: Option<Vec<u8>>,
}

/// Bytes that differ everywhere, so that a misplaced chunk is noticed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Image {
    /// A kernel of five chunks (the last one short), an initramfs of one and a rootfs of three.
    pub(crate) fn new() -> Self {
        Self::of(
            NOW,
            vec![
                ("initramfs", "initramfs.img", noise(2, 1_000)),
                ("kernel", "vmlinuz", noise(1, (4 << 20) + 17)),
                ("rootfs", "rootfs.squashfs", noise(3, 3 << 20)),
            ],
        )
    }

    /// An image made at `created_at`, valid for thirty days.
    pub(crate) fn of(
        created_at: Timestamp,
        files: Vec<(&'static str, &'static str, Vec<u8>)>,
    ) -> Self {
        Self::numbered(7, created_at, files)
    }

    /// The same with a sequence number of one's own.
    pub(crate) fn numbered(
        sequence: u64,
        created_at: Timestamp,
        files: Vec<(&'static str, &'static str, Vec<u8>)>,
    ) -> Self {
        let key = SecretKey::from_seed([7; 32]);
        let artifacts = files.iter().map(|(name, filename, bytes)| {
            let mut hasher = ArtifactHasher::new(bytes.len() as u64).expect("a sound length");
            hasher.update(bytes);
            let (digest, chunks) = hasher.finish().expect("all bytes were hashed");
            Artifact {
                name: name.parse().expect("a name"),
                filename: filename.parse().expect("a file name"),
                size: bytes.len() as u64,
                digest,
                chunks,
            }
        });
        let manifest = Manifest {
            generation: 1,
            sequence,
            security_version: 1,
            version: "0.1.0".to_owned(),
            channel: "stable".parse().expect("a channel"),
            arch: Arch::X86_64,
            created_at,
            expires_at: created_at.plus_days(30),
            cmdline: "console=ttyS0 panic=10".to_owned(),
            artifacts: artifacts.collect(),
        };
        let manifest = sign(&manifest, &[&key]).expect("it can be signed");
        Self {
            files,
            manifest,
            key,
            roots: None,
        }
    }

    /// The same image after its key was replaced: signed by the new one as generation 2, with the chain from the old one.
    pub(crate) fn rotated(self, sequence: u64) -> Self {
        let new = SecretKey::from_seed([8; 32]);
        let role = Role::new(1, vec![new.public()]).expect("one key");
        let next = self.root().successor().expect("a second generation");
        let next = next.with_role(RoleName::Release, role);
        let link = draft_link(&next)
            .and_then(|draft| sign_link(&draft, &[&self.key, &new]))
            .expect("it can be signed");
        let (roots, _) = append_link(None, &link, &self.root()).expect("it follows");
        let mut manifest = unverified_payload(&self.manifest).expect("it is sound");
        (manifest.generation, manifest.sequence) = (2, sequence);
        Self {
            manifest: sign(&manifest, &[&new]).expect("it can be signed"),
            roots: Some(roots),
            ..self
        }
    }

    /// Who trusts the first key.
    pub(crate) fn root(&self) -> TrustRoot {
        TrustRoot::single(self.key.public())
    }

    /// The content of an artifact.
    pub(crate) fn content(&self, name: &str) -> &[u8] {
        &self
            .files
            .iter()
            .find(|file| file.0 == name)
            .expect("it exists")
            .2
    }

    /// What a provider has under a path: `/manifest.json`, `/stable/x86_64/...`.
    pub(crate) fn at(&self, target: &str) -> Option<&[u8]> {
        let name = target
            .strip_prefix("/stable/x86_64/")
            .unwrap_or(target.strip_prefix('/')?);
        if name == "manifest.json" {
            return Some(&self.manifest);
        }
        if name == "roots.json" {
            return self.roots.as_deref();
        }
        let file = self
            .files
            .iter()
            .find(|file| target == format!("/stable/x86_64/{}", file.1));
        file.map(|file| &file.2[..])
    }
}
