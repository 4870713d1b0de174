//! The manifest of a folder: the one that lies there, or one made from its files, once for each state of the folder and each
//! key, however many ask.
//!
//! A manifest made here is sent for as long as its files, the key and its freshness allow. Its sequence numbers only grow.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use artifact_store::{Depth, HashError, Identity, Looking, Scan};
use boot_manifest::{Arch, ArtifactName, Channel, Digest, FileName, Timestamp};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::http::respond::{self, Content, Facts, Labels, Source};
use crate::serve::catalog::{Catalog, ManifestBytes, lock, now, timestamp};
use crate::serve::limits::{SETTLE_TRIES_MAX, VALID_DAYS};
use crate::serve::metrics::add;
use crate::serve::refusal::Refusal;
use crate::serve::signer::{Issued, Listed, Signer, unsigned_view};

/// Which files a manifest was made from.
type Fingerprint = Vec<(ArtifactName, FileName, Identity)>;

/// A manifest made here, and what it was made from.
#[derive(Clone)]
struct Made {
    fingerprint: Fingerprint,
    content: Vec<Listed>,
    issued: Arc<Issued>,
    signer: Option<Arc<Signer>>,
    ready: ManifestBytes,
}

/// A folder whose manifest is made here. `making` is held while it is made, so that it is made once.
#[derive(Default)]
pub(super) struct MadeFolder {
    current: Mutex<Option<Made>>,
    making: tokio::sync::Mutex<()>,
    /// What was logged last: the same is not logged twice.
    problems: Mutex<Vec<String>>,
}

impl Catalog {
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
                let folder = self.folder(channel, arch);
                let ready = folder.ready(&fingerprint, self.signer().as_ref());
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
            if let Some(ready) = folder.ready(&fingerprint, self.signer().as_ref()) {
                return Ok(ready);
            }
            let _making = folder.making.lock().await;
            if let Some(ready) = folder.ready(&fingerprint, self.signer().as_ref()) {
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
        let signer = self.signer();
        // Only a signature is about chunks.
        let depth = match signer {
            Some(_) => Depth::Chunks,
            None => Depth::Whole,
        };
        let Some(content) = self.hash_all(scan, depth, &mut problems).await else {
            return Ok(None);
        };
        folder.report(channel, arch, &problems);
        if !content
            .iter()
            .any(|artifact| artifact.name.as_str() == "kernel")
        {
            add(&self.metrics.manifest_failures_total, 1);
            return Err(Refusal::NoKernel(problems));
        }
        let now = now();
        let before = lock(&folder.current).clone();
        let made = match before {
            Some(before) if before.is_about(&content, signer.as_ref(), now) => Made {
                fingerprint,
                ..before
            },
            before => {
                let times = Times {
                    before: before.map(|before| before.issued.sequence),
                    newest: newest.map_or(now, timestamp),
                    now,
                };
                let issued = issue(signer.as_deref(), channel, arch, &content, &times)
                    .inspect_err(|_| add(&self.metrics.manifest_failures_total, 1))?;
                let signed = u64::from(signer.is_some());
                add(&self.metrics.manifests_signed_total, signed);
                Made {
                    ready: ready(&issued, signer.as_deref()),
                    fingerprint,
                    content,
                    issued: Arc::new(issued),
                    signer,
                }
            }
        };
        let ready = made.ready.clone();
        *lock(&folder.current) = Some(made);
        Ok(Some(ready))
    }

    /// Hashes all files, several at a time. Files that cannot be read become problems; nothing when one changed.
    async fn hash_all(
        &self,
        scan: Scan,
        depth: Depth,
        problems: &mut Vec<String>,
    ) -> Option<Vec<Listed>> {
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

    /// The manifest that was made from these files, when it was signed with this key and is fresh.
    fn ready(
        &self,
        fingerprint: &Fingerprint,
        signer: Option<&Arc<Signer>>,
    ) -> Option<ManifestBytes> {
        let current = lock(&self.current);
        let made = current.as_ref()?;
        (made.fingerprint == *fingerprint && made.is_in_force(signer, now()))
            .then(|| made.ready.clone())
    }
}

impl Made {
    fn is_in_force(&self, signer: Option<&Arc<Signer>>, now: Timestamp) -> bool {
        let is_same_key = match (&self.signer, signer) {
            (None, None) => true,
            (Some(before), Some(signer)) => Arc::ptr_eq(before, signer),
            _ => false,
        };
        is_same_key && now < self.issued.fresh_until
    }

    fn is_about(&self, content: &[Listed], signer: Option<&Arc<Signer>>, now: Timestamp) -> bool {
        self.content == content && self.is_in_force(signer, now)
    }
}

/// What a new manifest says of the order of things.
struct Times {
    /// The sequence number of the last one.
    before: Option<u64>,
    /// When the newest file was modified.
    newest: Timestamp,
    now: Timestamp,
}

fn issue(
    signer: Option<&Signer>,
    channel: &Channel,
    arch: Arch,
    content: &[Listed],
    times: &Times,
) -> Result<Issued, Refusal> {
    let Some(signer) = signer else {
        tracing::debug!(channel = %channel, arch = %arch, "unsigned manifest made");
        return unsigned_view(channel, arch, content, times.newest, VALID_DAYS)
            .map_err(|error| Refusal::BadManifest(error.to_string()));
    };
    let artifacts = content.iter().filter_map(Listed::artifact).collect();
    let issued = signer
        .issue(channel, arch, artifacts, times.before, times.now)
        .map_err(|error| Refusal::BadManifest(error.to_string()))?;
    tracing::info!(
        channel = %channel, arch = %arch, key_id = %signer.key.public().key_id(), sequence = issued.sequence,
        expires_at = %issued.expires_at, artifacts = content.len(), "manifest signed"
    );
    Ok(issued)
}

/// What is sent of a manifest made here.
fn ready(issued: &Issued, signer: Option<&Signer>) -> ManifestBytes {
    let bytes = Bytes::from(issued.bytes.clone());
    let digest = Digest::of(&bytes);
    let labels = Labels::new(Facts {
        digest,
        size: bytes.len() as u64,
        modified: respond::past(system_time(issued.created_at)),
        media_type: "application/json",
        is_artifact: false,
    });
    ManifestBytes {
        digest,
        bytes,
        labels: Arc::new(labels),
        version: issued.version.clone(),
        key_ids: signer
            .iter()
            .map(|signer| signer.key.public().key_id())
            .collect(),
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

fn system_time(time: Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.unix()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}
