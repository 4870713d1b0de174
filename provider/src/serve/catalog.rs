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

mod made;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use artifact_store::{Depth, Folders, HashError, Identity, OpenError, OpenFile, ROOTS_FILE, Store};
use boot_manifest::{Arch, Channel, Digest, FileName, KeyId, ROOT_CHAIN_SIZE_MAX, Timestamp};
use bytes::Bytes;

use crate::exit::CommandError;
use crate::http::respond::{self, Content, Facts, Labels, Source};
use crate::http::target::ArtifactTarget;
use crate::serve::catalog::made::MadeFolder;
use crate::serve::hand::Hand;
use crate::serve::hashing::Hashing;
use crate::serve::limits::{REPORTED_MAX, SETTLE_TRIES_MAX};
use crate::serve::metrics::Metrics;
use crate::serve::ready::{ReadyFiles, read_whole};
use crate::serve::refusal::Refusal;
use crate::serve::setup::no_store;
use crate::serve::signed::{SignedFile, SignedFiles};
use crate::serve::signer::{Signer, Signing};

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

/// Everything served.
pub(crate) struct Catalog {
    store: Arc<Store>,
    hashing: Arc<Hashing>,
    signing: Signing,
    signed: SignedFiles,
    ready: ReadyFiles,
    hand: Hand,
    made: Mutex<HashMap<(Channel, Arch), Arc<MadeFolder>>>,
    reported: Mutex<HashSet<Identity>>,
    metrics: Arc<Metrics>,
}

/// What a catalog is put together from.
pub(crate) struct Parts {
    /// The directory.
    pub(crate) store: Arc<Store>,
    /// What hashes its files.
    pub(crate) hashing: Arc<Hashing>,
    /// The key for manifests.
    pub(crate) signing: Signing,
    /// The name of manifests that were signed elsewhere.
    pub(crate) manifest_file: FileName,
    /// Where manifests are counted.
    pub(crate) metrics: Arc<Metrics>,
}

impl Catalog {
    /// A catalog of these parts.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            hand: Hand::new(&parts.store),
            store: parts.store,
            hashing: parts.hashing,
            signing: parts.signing,
            signed: SignedFiles::new(parts.manifest_file),
            ready: ReadyFiles::default(),
            made: Mutex::default(),
            reported: Mutex::default(),
            metrics: parts.metrics,
        }
    }

    /// The directory it is about.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The key manifests are signed with here.
    pub(crate) fn signer(&self) -> Option<Arc<Signer>> {
        self.signing.signer()
    }

    /// Reads the signing key again, and looks at every file anew; whether the key is another one. Then manifests are made
    /// when they are asked for, with higher sequence numbers; no request is refused or waits for more than a signature. A
    /// key that cannot be used leaves everything as it is. The directory is the one of the start; an error says when its
    /// path leads to another one.
    pub(crate) fn reload(&self) -> Result<bool, CommandError> {
        let is_another = self.signing.reload()?;
        self.hand.clear();
        let path = self.store.path();
        match self.store.is_replaced() {
            Ok(false) => Ok(is_another),
            Ok(true) => Err(CommandError::local(format!(
                "{} is another directory by now; the one that was there at the start is served",
                path.display()
            ))
            .hint("restart to serve the new one")),
            Err(error) => Err(no_store(path, error)),
        }
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
        let (is_same, ready) = match folders.look(&target.name) {
            Ok(seen) => {
                let is_same = seen.name() == served.name.as_str();
                let is_same = is_same && seen.identity() == Some(served.identity);
                (is_same, self.ready.get(&seen))
            }
            Err(OpenError::NotFound) => {
                let file = folders.find_only(&target.name);
                let is_same = file.is_ok_and(|file| file.identity() == served.identity);
                (is_same, None)
            }
            Err(_) => return,
        };
        if !is_same {
            return;
        }
        let content = ready.map_or_else(|| content.clone(), |ready| ready.content());
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
                modified: respond::past(identity.modified()),
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

    /// Whether the folder's signed manifest names a file, be it there or not.
    pub(crate) fn promises(&self, target: &ArtifactTarget) -> bool {
        let signed = self.signed(&target.channel, target.arch);
        let Ok(Some(signed)) = signed else {
            return false;
        };
        let mut artifacts = signed.view.iter().flat_map(|view| &view.artifacts);
        artifacts.any(|artifact| artifact.filename == target.name)
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

    /// The root chain that lies in a folder.
    pub(crate) fn roots(&self, channel: &Channel, arch: Arch) -> Result<Option<Bytes>, Refusal> {
        let name = ROOTS_FILE;
        let Ok(file_name) = name.parse() else {
            return Ok(None);
        };
        let file = match self.store.find(channel, arch.as_str(), &file_name) {
            Ok(file) => file,
            Err(OpenError::NotFound) => return Ok(None),
            Err(error) => return Err(Refusal::of(name, error)),
        };
        if file.size() > ROOT_CHAIN_SIZE_MAX as u64 {
            let problem = format!("more than {ROOT_CHAIN_SIZE_MAX} bytes");
            return Err(Refusal::Unreadable(name.to_owned(), problem));
        }
        match read_whole(&file) {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(Refusal::Busy(name.to_owned())),
            Err(error) => Err(Refusal::Unreadable(name.to_owned(), error.to_string())),
        }
    }

    /// The digest of a file when it is known already.
    pub(crate) fn known_digest(&self, file: &OpenFile) -> Option<Digest> {
        self.store
            .hashes()
            .peek(&file.identity(), Depth::Whole)
            .map(|hashed| hashed.digest)
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
