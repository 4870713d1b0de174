//! What is served: the files of the artifacts directory, and one manifest for each folder.
//!
//! ```text
//! folder has manifest.json ──> those bytes, unchanged; files it names are served only when they match it
//! otherwise, with a key    ──> signed here: again when a file changes, or when a third of its validity is left
//! otherwise                ──> an unsigned view, which our clients refuse
//! ```
//!
//! Never gives out bytes with a digest that is not theirs: a file is opened once, its digest belongs to what was opened,
//! and a file that was written to a moment ago is waited for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use artifact_store::{HashError, Hashed, Identity, OpenError, OpenFile, Scan, Store};
use boot_manifest::{
    Arch, Artifact, ArtifactName, Channel, Digest, FileName, KeyId, MANIFEST_SIZE_MAX, Timestamp,
    UnverifiedView,
};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::http::target::ArtifactTarget;
use crate::serve::hashing::Hashing;
use crate::serve::limits::{REPORTED_MAX, SETTLE_TRIES_MAX, SIGNED_KEPT_MAX, VALID_DAYS};
use crate::serve::signer::{Issued, Signer, unsigned_view};

/// Why something is not served. The text is for the client; it names no directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nothing has this name.
    #[error("{0}: not found")]
    NotFound(String),
    /// The folder has nothing to serve.
    #[error(
        "no artifacts found for {channel}/{arch}: expected <artifacts>/{channel}/{arch}/vmlinuz (required), \
         initramfs.img (recommended), rootfs.squashfs (optional){}", listed(.problems)
    )]
    NoArtifacts {
        /// The channel.
        channel: Channel,
        /// The architecture.
        arch: Arch,
        /// What was found wrong.
        problems: Vec<String>,
    },
    /// A manifest must have a kernel.
    #[error("manifest missing required artifact: kernel{}", listed(.0))]
    NoKernel(Vec<String>),
    /// A link, directory or special file.
    #[error("{0}: {1}")]
    NotAFile(String, OpenError),
    /// It is there and cannot be read.
    #[error("{0}: {1}")]
    Unreadable(String, String),
    /// It is not what the signed manifest names.
    #[error(
        "{file}: differs from the signed manifest, which names {expected}; this file is {found}; not served"
    )]
    Differs {
        /// File name.
        file: String,
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the file.
        found: Digest,
    },
    /// The manifest of the folder, or one made from it, is not usable.
    #[error("manifest.json: {0}")]
    BadManifest(String),
    /// It is being written.
    #[error("{0}: is being written; try again")]
    Busy(String),
}

fn listed(problems: &[String]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n{problem}"))
        .collect()
}

/// A manifest signed elsewhere, as it lies in its folder.
#[derive(Debug)]
pub(crate) struct SignedFile {
    /// Exactly the file's bytes.
    pub(crate) bytes: Bytes,
    /// Their digest.
    pub(crate) digest: Digest,
    /// When the file was modified.
    pub(crate) modified: SystemTime,
    /// Its readable part, or why it cannot be read. Nothing here is verified: that is for clients, and for `/health`.
    pub(crate) view: Result<UnverifiedView, String>,
}

/// A manifest to be sent.
#[derive(Debug, Clone)]
pub(crate) struct ManifestBytes {
    /// The bytes.
    pub(crate) bytes: Bytes,
    /// Their digest.
    pub(crate) digest: Digest,
    /// When they came to be.
    pub(crate) modified: SystemTime,
    /// The version for people.
    pub(crate) version: String,
    /// The keys it names as its signers.
    pub(crate) key_ids: Vec<KeyId>,
}

/// Which files a manifest was made from.
type Fingerprint = Vec<(ArtifactName, FileName, Identity)>;

/// A manifest made here, and what it was made from.
#[derive(Debug, Clone)]
struct Made {
    fingerprint: Fingerprint,
    content: Vec<Artifact>,
    issued: Arc<Issued>,
    ready: ManifestBytes,
}

/// A folder whose manifest is made here. `making` is held while it is made, so that it is made once.
#[derive(Default)]
struct MadeFolder {
    current: Mutex<Option<Made>>,
    making: tokio::sync::Mutex<()>,
    /// What was logged last: the same is not logged twice.
    problems: Mutex<Vec<String>>,
}

/// Everything served.
pub(crate) struct Catalog {
    store: Arc<Store>,
    hashing: Arc<Hashing>,
    signer: Option<Signer>,
    manifest_file: FileName,
    signed: Mutex<HashMap<Identity, Arc<SignedFile>>>,
    made: Mutex<HashMap<(Channel, Arch), Arc<MadeFolder>>>,
    reported: Mutex<HashSet<Identity>>,
}

impl Catalog {
    /// A catalog of `store`. `manifest_file` is the name of signed manifests.
    pub(crate) fn new(
        store: Arc<Store>,
        hashing: Arc<Hashing>,
        signer: Option<Signer>,
        manifest_file: FileName,
    ) -> Self {
        Self {
            store,
            hashing,
            signer,
            manifest_file,
            signed: Mutex::default(),
            made: Mutex::default(),
            reported: Mutex::default(),
        }
    }

    /// The directory it is about.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The key manifests are signed with here.
    pub(crate) fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// A file and its digest.
    pub(crate) async fn artifact(
        &self,
        target: &ArtifactTarget,
    ) -> Result<(OpenFile, Arc<Hashed>), Refusal> {
        let asked = target.name.to_string();
        for _ in 0..SETTLE_TRIES_MAX {
            let file = self
                .store
                .find(&target.channel, &target.spelling, &target.name)
                .map_err(|error| refusal(&asked, error))?;
            if let Some(wait) = file.identity().settles_in(SystemTime::now()) {
                tokio::time::sleep(wait).await;
                continue;
            }
            match self.hashing.digest(&file).await {
                Ok(hashed) => {
                    self.check(target, &file, &hashed)?;
                    return Ok((file, hashed));
                }
                Err(error) if matches!(*error, HashError::Changed) => {}
                Err(error) => return Err(Refusal::Unreadable(asked, error.to_string())),
            }
        }
        Err(Refusal::Busy(asked))
    }

    /// Refuses a file that the folder's signed manifest names with another digest.
    fn check(
        &self,
        target: &ArtifactTarget,
        file: &OpenFile,
        hashed: &Hashed,
    ) -> Result<(), Refusal> {
        let Ok(Some(signed)) = self.signed(&target.channel, &target.spelling) else {
            return Ok(());
        };
        let Ok(view) = &signed.view else {
            return Ok(());
        };
        let named = view
            .artifacts
            .iter()
            .find(|artifact| artifact.filename == *file.name());
        let Some(named) = named.filter(|named| named.digest != hashed.digest) else {
            return Ok(());
        };
        let file_name = format!("{}/{}/{}", target.channel, target.spelling, file.name());
        let refusal = Refusal::Differs {
            file: file_name,
            expected: named.digest,
            found: hashed.digest,
        };
        let mut reported = lock(&self.reported);
        if reported.len() >= REPORTED_MAX {
            reported.clear();
        }
        if reported.insert(file.identity()) {
            tracing::error!("{refusal}");
        }
        Err(refusal)
    }

    /// The manifest signed elsewhere that lies in a folder.
    pub(crate) fn signed(
        &self,
        channel: &Channel,
        spelling: &str,
    ) -> Result<Option<Arc<SignedFile>>, Refusal> {
        let file = match self.store.find(channel, spelling, &self.manifest_file) {
            Ok(file) => file,
            Err(OpenError::NotFound) => return Ok(None),
            Err(error) => return Err(refusal(self.manifest_file.as_str(), error)),
        };
        let identity = file.identity();
        if let Some(signed) = lock(&self.signed).get(&identity) {
            return Ok(Some(Arc::clone(signed)));
        }
        let settled = identity.settles_in(SystemTime::now()).is_none();
        let signed = Arc::new(read_signed(&file)?);
        if settled {
            let mut kept = lock(&self.signed);
            if kept.len() >= SIGNED_KEPT_MAX {
                kept.clear();
            }
            kept.insert(identity, Arc::clone(&signed));
        }
        Ok(Some(signed))
    }

    /// The manifest of a folder: signed elsewhere, signed here, or unsigned.
    pub(crate) async fn manifest(
        &self,
        channel: &Channel,
        arch: Arch,
    ) -> Result<ManifestBytes, Refusal> {
        if let Some(signed) = self.signed(channel, arch.as_str())? {
            let view = signed
                .view
                .as_ref()
                .map_err(|error| Refusal::BadManifest(error.clone()))?;
            return Ok(ManifestBytes {
                bytes: signed.bytes.clone(),
                digest: signed.digest,
                modified: signed.modified,
                version: view.version.clone(),
                key_ids: view.key_ids.clone(),
            });
        }
        for _ in 0..SETTLE_TRIES_MAX {
            let scan = self.store.scan(channel, arch);
            if scan.found.is_empty() {
                return Err(no_artifacts(channel, arch, &scan));
            }
            let folder = self.folder(channel, arch);
            let waits = scan
                .found
                .iter()
                .filter_map(|found| found.file.identity().settles_in(SystemTime::now()));
            if let Some(wait) = waits.max() {
                tokio::time::sleep(wait).await;
                continue;
            }
            let fingerprint = fingerprint(&scan);
            if let Some(ready) = folder.ready(&fingerprint, now()) {
                return Ok(ready);
            }
            let _making = folder.making.lock().await;
            if let Some(ready) = folder.ready(&fingerprint, now()) {
                return Ok(ready);
            }
            if let Some(ready) = self.make(channel, arch, scan, &folder).await? {
                return Ok(ready);
            }
        }
        Err(Refusal::Busy(format!("{channel}/{arch}")))
    }

    /// The state of a folder, which must exist: clients cannot make the table grow.
    fn folder(&self, channel: &Channel, arch: Arch) -> Arc<MadeFolder> {
        let mut made = lock(&self.made);
        Arc::clone(made.entry((channel.clone(), arch)).or_default())
    }

    /// Makes the manifest of a folder; nothing when a file changed meanwhile.
    async fn make(
        &self,
        channel: &Channel,
        arch: Arch,
        scan: Scan,
        folder: &MadeFolder,
    ) -> Result<Option<ManifestBytes>, Refusal> {
        let fingerprint = fingerprint(&scan);
        let mut problems: Vec<String> = scan.problems.iter().map(ToString::to_string).collect();
        let newest = scan
            .found
            .iter()
            .map(|found| found.file.identity().modified())
            .max();
        let Some(content) = self.hash_all(scan, &mut problems).await else {
            return Ok(None);
        };
        folder.report(channel, arch, &problems);
        if !content
            .iter()
            .any(|artifact| artifact.name.as_str() == "kernel")
        {
            return Err(Refusal::NoKernel(problems));
        }
        let now = now();
        let before = lock(&folder.current).clone();
        let made = match before {
            Some(before) if before.content == content && now < before.issued.fresh_until => Made {
                fingerprint,
                ..before
            },
            before => {
                let before = before.map(|before| before.issued.sequence);
                let newest = newest.map_or(now, timestamp);
                let issued = self.issue(channel, arch, &content, before, newest, now)?;
                let bytes = Bytes::from(issued.bytes.clone());
                let ready = ManifestBytes {
                    digest: Digest::of(&bytes),
                    bytes,
                    modified: system_time(issued.created_at),
                    version: issued.version.clone(),
                    key_ids: self
                        .signer
                        .iter()
                        .map(|signer| signer.key.public().key_id())
                        .collect(),
                };
                Made {
                    fingerprint,
                    content,
                    issued: Arc::new(issued),
                    ready,
                }
            }
        };
        let ready = made.ready.clone();
        *lock(&folder.current) = Some(made);
        Ok(Some(ready))
    }

    fn issue(
        &self,
        channel: &Channel,
        arch: Arch,
        content: &[Artifact],
        before: Option<u64>,
        newest: Timestamp,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let Some(signer) = &self.signer else {
            tracing::debug!(channel = %channel, arch = %arch, "unsigned manifest made");
            return unsigned_view(channel, arch, content, newest, VALID_DAYS)
                .map_err(|error| Refusal::BadManifest(error.to_string()));
        };
        let issued = signer
            .issue(channel, arch, content.to_vec(), before, now)
            .map_err(|error| Refusal::BadManifest(error.to_string()))?;
        tracing::info!(
            channel = %channel, arch = %arch, key_id = %signer.key.public().key_id(), sequence = issued.sequence,
            expires_at = %issued.expires_at, artifacts = content.len(), "manifest signed"
        );
        Ok(issued)
    }

    /// Hashes all files, several at a time. Files that cannot be read become problems; nothing when one changed.
    async fn hash_all(&self, scan: Scan, problems: &mut Vec<String>) -> Option<Vec<Artifact>> {
        let mut tasks = JoinSet::new();
        for found in scan.found {
            let hashing = Arc::clone(&self.hashing);
            tasks.spawn(async move {
                let outcome = hashing.digest(&found.file).await;
                (found.artifact, found.file, outcome)
            });
        }
        let mut content = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let Ok((name, file, outcome)) = done else {
                continue;
            };
            match outcome {
                Ok(hashed) => content.extend(hashed.chunks.clone().map(|chunks| Artifact {
                    name,
                    filename: file.name().clone(),
                    size: file.size(),
                    digest: hashed.digest,
                    chunks,
                })),
                Err(error) if matches!(*error, HashError::Changed) => return None,
                Err(error) => problems.push(format!("{}: {error}", file.name())),
            }
        }
        content.sort_by(|a, b| a.name.cmp(&b.name));
        Some(content)
    }

    /// The digest of a file when it is known already.
    pub(crate) fn known_digest(&self, file: &OpenFile) -> Option<Digest> {
        self.store
            .hashes()
            .peek(&file.identity())
            .map(|hashed| hashed.digest)
    }
}

impl MadeFolder {
    fn report(&self, channel: &Channel, arch: Arch, problems: &[String]) {
        let mut reported = lock(&self.problems);
        for problem in problems
            .iter()
            .filter(|problem| !reported.contains(problem))
        {
            tracing::warn!(channel = %channel, arch = %arch, "left out: {problem}");
        }
        *reported = problems.to_vec();
    }

    fn ready(&self, fingerprint: &Fingerprint, now: Timestamp) -> Option<ManifestBytes> {
        let current = lock(&self.current);
        let made = current.as_ref()?;
        (made.fingerprint == *fingerprint && now < made.issued.fresh_until)
            .then(|| made.ready.clone())
    }
}

fn fingerprint(scan: &Scan) -> Fingerprint {
    let part = |found: &artifact_store::Found| {
        (
            found.artifact.clone(),
            found.file.name().clone(),
            found.file.identity(),
        )
    };
    scan.found.iter().map(part).collect()
}

fn no_artifacts(channel: &Channel, arch: Arch, scan: &Scan) -> Refusal {
    let problems = scan.problems.iter().map(ToString::to_string).collect();
    Refusal::NoArtifacts {
        channel: channel.clone(),
        arch,
        problems,
    }
}

fn read_signed(file: &OpenFile) -> Result<SignedFile, Refusal> {
    let name = file.name().to_string();
    let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
    if size > MANIFEST_SIZE_MAX {
        return Err(Refusal::BadManifest(format!(
            "has {size} bytes; {MANIFEST_SIZE_MAX} are allowed"
        )));
    }
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => return Err(Refusal::Busy(name)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refusal::Unreadable(name, error.to_string())),
        }
    }
    if !file.unchanged().unwrap_or(false) {
        return Err(Refusal::Busy(name));
    }
    let view = boot_manifest::view(&bytes).map_err(|error| error.to_string());
    let modified = file.identity().modified();
    Ok(SignedFile {
        digest: Digest::of(&bytes),
        bytes: bytes.into(),
        modified,
        view,
    })
}

fn refusal(name: &str, error: OpenError) -> Refusal {
    let name = name.to_owned();
    match error {
        OpenError::NotFound => Refusal::NotFound(name),
        OpenError::Link | OpenError::NotRegular(_) => Refusal::NotAFile(name, error),
        OpenError::Permission | OpenError::Io(_) => Refusal::Unreadable(name, error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every table here is whole at each unlock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time now, to the second.
pub(crate) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Timestamp::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn system_time(time: Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.unix()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}
