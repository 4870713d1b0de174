//! What is served: the files of the artifacts directory, and one manifest for each folder.
//!
//! ```text
//! folder has manifest.json ──> those bytes, unchanged; files it names are served only when they match it
//! otherwise, with a key    ──> signed here: again when a file changes, or when a third of its validity is left
//! otherwise                ──> an unsigned view, which our clients refuse
//! ```
//!
//! What was answered once is at hand until something changes: [`hand`](crate::serve::hand) says what that guarantees.
//!
//! Never gives out bytes with a digest that is not theirs: a file is opened once, its digest belongs to what was opened,
//! and a file that was written to a moment ago is waited for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use artifact_store::{Depth, Folders, HashError, Identity, Looking, OpenFile, Scan, Store};
use boot_manifest::{Arch, ArtifactName, Channel, Digest, FileName, KeyId, Timestamp};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::http::respond::{self, Content, Facts, Labels, Source};
use crate::http::target::ArtifactTarget;
use crate::serve::hand::Hand;
use crate::serve::hashing::Hashing;
use crate::serve::limits::{REPORTED_MAX, SETTLE_TRIES_MAX, VALID_DAYS};
use crate::serve::ready::ReadyFiles;
use crate::serve::refusal::Refusal;
use crate::serve::signed::{SignedFile, SignedFiles};
use crate::serve::signer::{Issued, Listed, Signer, unsigned_view};

/// A manifest to be sent.
#[derive(Debug, Clone)]
pub(crate) struct ManifestBytes {
    /// The bytes.
    pub(crate) bytes: Bytes,
    /// Their digest.
    pub(crate) digest: Digest,
    /// What is said about them in answers.
    pub(crate) labels: Arc<Labels>,
    /// The version for people.
    pub(crate) version: String,
    /// The keys it names as its signers.
    pub(crate) key_ids: Vec<KeyId>,
}

/// A file that is about to be served.
struct Served {
    name: FileName,
    identity: Identity,
    digest: Digest,
}

/// Which files a manifest was made from.
type Fingerprint = Vec<(ArtifactName, FileName, Identity)>;

/// A manifest made here, and what it was made from.
#[derive(Debug, Clone)]
struct Made {
    fingerprint: Fingerprint,
    content: Vec<Listed>,
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
    signed: SignedFiles,
    ready: ReadyFiles,
    hand: Hand,
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
            hand: Hand::new(&store),
            store,
            hashing,
            signer,
            signed: SignedFiles::new(manifest_file),
            ready: ReadyFiles::default(),
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

    /// The answer to a request for `path`, when it is at hand. Makes no system call, or one in a millisecond.
    pub(crate) fn at_hand(&self, path: &str) -> Option<Content> {
        self.hand.get(path)
    }

    /// Lets go of what is at hand and not good any more, for ever.
    pub(crate) async fn tidy(&self) {
        self.hand.tidy().await;
    }

    /// A file, with what is said about it. With the path it was asked for by, the answer is at hand afterwards.
    pub(crate) async fn artifact(
        &self,
        target: &ArtifactTarget,
        path: Option<&str>,
    ) -> Result<Content, Refusal> {
        let (served, content) = match self.in_memory(target)? {
            Some(found) => found,
            // Boxed: what the common case does not need would make every request's task larger.
            None => Box::pin(self.opened(target)).await?,
        };
        if let Some(path) = path {
            self.keep_artifact(path, target, &served, &content);
        }
        Ok(content)
    }

    /// Looks at a file once more, this time watched, and keeps the answer when all is as it was.
    fn keep_artifact(
        &self,
        path: &str,
        target: &ArtifactTarget,
        served: &Served,
        content: &Content,
    ) {
        let Some(look) = self.hand.begin(path, &target.channel, target.arch) else {
            return;
        };
        let mut folders = self
            .store
            .folders(&target.channel, target.arch, &target.spelling)
            .watched(&look.looking);
        let Ok(seen) = folders.look(&target.name) else {
            return;
        };
        if seen.identity() != Some(served.identity) || seen.name() != served.name.as_str() {
            return;
        }
        let content = match self.ready.get(&seen) {
            Some(ready) => ready.content(),
            None => content.clone(),
        };
        if self.check(target, served, &mut folders).is_ok() {
            drop(folders);
            self.hand.keep(look, content);
        }
    }

    /// A small file whose content is known. The file and the folder's manifest are looked at.
    fn in_memory(&self, target: &ArtifactTarget) -> Result<Option<(Served, Content)>, Refusal> {
        let mut folders = self
            .store
            .folders(&target.channel, target.arch, &target.spelling);
        // Whatever is wrong with the file, opening it will say so.
        let Ok(seen) = folders.look(&target.name) else {
            return Ok(None);
        };
        let (Some(ready), Some(identity)) = (self.ready.get(&seen), seen.identity()) else {
            return Ok(None);
        };
        let served = Served {
            name: ready.name.clone(),
            identity,
            digest: ready.digest,
        };
        self.check(target, &served, &mut folders)?;
        Ok(Some((served, ready.content())))
    }

    /// A file that is opened, and hashed if need be.
    async fn opened(&self, target: &ArtifactTarget) -> Result<(Served, Content), Refusal> {
        let asked = target.name.as_str();
        for _ in 0..SETTLE_TRIES_MAX {
            let file = self
                .store
                .find(&target.channel, &target.spelling, &target.name)
                .map_err(|error| Refusal::of(asked, error))?;
            let identity = file.identity();
            if let Some(wait) = identity.settles_in(SystemTime::now()) {
                tokio::time::sleep(wait).await;
                continue;
            }
            let digest = match self.hashing.hash(&file, Depth::Whole).await {
                Ok(hashed) => hashed.digest,
                Err(error) if matches!(*error, HashError::Changed) => continue,
                Err(error) => return Err(Refusal::Unreadable(asked.to_owned(), error.to_string())),
            };
            let served = Served {
                name: file.name().clone(),
                identity,
                digest,
            };
            let mut folders = self
                .store
                .folders(&target.channel, target.arch, &target.spelling);
            self.check(target, &served, &mut folders)?;
            let labels = Arc::new(Labels::new(Facts {
                digest,
                size: file.size(),
                modified: identity.modified(),
                media_type: respond::media_type(file.name().as_str()),
                is_artifact: true,
            }));
            self.ready.keep(&file, digest, &labels);
            let source = Source::File(file);
            return Ok((served, Content { source, labels }));
        }
        Err(Refusal::Busy(asked.to_owned()))
    }

    /// Refuses a file that the folder's signed manifest names with another digest.
    fn check(
        &self,
        target: &ArtifactTarget,
        served: &Served,
        folders: &mut Folders<'_>,
    ) -> Result<(), Refusal> {
        let Ok(Some(signed)) = self.signed.look(folders) else {
            return Ok(());
        };
        let Ok(view) = &signed.view else {
            return Ok(());
        };
        let named = view
            .artifacts
            .iter()
            .find(|artifact| artifact.filename == served.name);
        let Some(named) = named.filter(|named| named.digest != served.digest) else {
            return Ok(());
        };
        let file_name = format!("{}/{}/{}", target.channel, target.spelling, served.name);
        let refusal = Refusal::Differs {
            file: file_name,
            expected: named.digest,
            found: served.digest,
        };
        let mut reported = lock(&self.reported);
        if reported.len() >= REPORTED_MAX {
            reported.clear();
        }
        if reported.insert(served.identity) {
            tracing::error!("{refusal}");
        }
        Err(refusal)
    }

    /// The manifest signed elsewhere that lies in a folder.
    pub(crate) fn signed(
        &self,
        channel: &Channel,
        arch: Arch,
    ) -> Result<Option<Arc<SignedFile>>, Refusal> {
        self.signed
            .look(&mut self.store.folders(channel, arch, arch.as_str()))
    }

    /// The answer to a request for `path` that asks for the manifest of a folder. It is at hand afterwards.
    pub(crate) async fn manifest_answer(
        &self,
        channel: &Channel,
        arch: Arch,
        path: &str,
    ) -> Result<Content, Refusal> {
        let manifest = self.manifest(channel, arch).await?;
        let content = Content {
            source: Source::Bytes(manifest.bytes.clone()),
            labels: Arc::clone(&manifest.labels),
        };
        if let Some(look) = self.hand.begin(path, channel, arch)
            && self.is_still(&manifest, channel, arch, &look.looking)
        {
            self.hand.keep(look, content.clone());
        }
        Ok(content)
    }

    /// Whether a watched look finds that `manifest` is the one of the folder.
    fn is_still(
        &self,
        manifest: &ManifestBytes,
        channel: &Channel,
        arch: Arch,
        looking: &Looking<'_>,
    ) -> bool {
        let mut folders = self
            .store
            .folders(channel, arch, arch.as_str())
            .watched(looking);
        match self.signed.look(&mut folders) {
            Err(_) => false,
            Ok(Some(signed)) => signed.digest == manifest.digest,
            Ok(None) => {
                let fingerprint = fingerprint(&self.store.scan_watched(channel, arch, looking));
                let ready = self.folder(channel, arch).ready(&fingerprint, now());
                ready.is_some_and(|ready| ready.digest == manifest.digest)
            }
        }
    }

    /// The manifest of a folder: signed elsewhere, signed here, or unsigned.
    pub(crate) async fn manifest(
        &self,
        channel: &Channel,
        arch: Arch,
    ) -> Result<ManifestBytes, Refusal> {
        if let Some(signed) = self.signed(channel, arch)? {
            let view = signed
                .view
                .as_ref()
                .map_err(|error| Refusal::BadManifest(error.clone()))?;
            return Ok(ManifestBytes {
                bytes: signed.bytes.clone(),
                digest: signed.digest,
                labels: Arc::clone(&signed.labels),
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
                let digest = Digest::of(&bytes);
                let labels = Labels::new(Facts {
                    digest,
                    size: bytes.len() as u64,
                    modified: system_time(issued.created_at),
                    media_type: "application/json",
                    is_artifact: false,
                });
                let ready = ManifestBytes {
                    digest,
                    bytes,
                    labels: Arc::new(labels),
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
        content: &[Listed],
        before: Option<u64>,
        newest: Timestamp,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let Some(signer) = &self.signer else {
            tracing::debug!(channel = %channel, arch = %arch, "unsigned manifest made");
            return unsigned_view(channel, arch, content, newest, VALID_DAYS)
                .map_err(|error| Refusal::BadManifest(error.to_string()));
        };
        let artifacts = content.iter().filter_map(Listed::artifact).collect();
        let issued = signer
            .issue(channel, arch, artifacts, before, now)
            .map_err(|error| Refusal::BadManifest(error.to_string()))?;
        tracing::info!(
            channel = %channel, arch = %arch, key_id = %signer.key.public().key_id(), sequence = issued.sequence,
            expires_at = %issued.expires_at, artifacts = content.len(), "manifest signed"
        );
        Ok(issued)
    }

    /// Hashes all files, several at a time. Files that cannot be read become problems; nothing when one changed.
    async fn hash_all(&self, scan: Scan, problems: &mut Vec<String>) -> Option<Vec<Listed>> {
        // Only a signature is about chunks.
        let depth = match self.signer {
            Some(_) => Depth::Chunks,
            None => Depth::Whole,
        };
        let mut tasks = JoinSet::new();
        for found in scan.found {
            let hashing = Arc::clone(&self.hashing);
            tasks.spawn(async move {
                let outcome = hashing.hash(&found.file, depth).await;
                (found.artifact, found.file, outcome)
            });
        }
        let mut content = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let Ok((name, file, outcome)) = done else {
                continue;
            };
            match outcome {
                Ok(hashed) => content.push(Listed {
                    name,
                    filename: file.name().clone(),
                    size: file.size(),
                    hashed,
                }),
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
            .peek(&file.identity(), Depth::Whole)
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
