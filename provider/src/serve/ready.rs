//! Small files at hand: their bytes, kept by the identity of their content, so that an answer needs no descriptor.
//!
//! Firmware and upgraders ask for device trees, loaders and manifests far more often than for images. Whoever asks looks
//! at the file first; what is kept is only used for exactly the content that was seen. Bytes are kept when they were read
//! from a file that cannot change unseen any more, and have its digest.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use artifact_store::{Identity, OpenFile, Seen};
use boot_manifest::{Digest, FileName};
use bytes::Bytes;

use crate::http::respond::{Content, Labels, Source};
use crate::serve::limits::{READY_KEPT_MAX, READY_SIZE_MAX};

/// A small file, ready to be sent.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Its name: a content can have several.
    pub(crate) name: FileName,
    /// Its digest.
    pub(crate) digest: Digest,
    /// All of it.
    bytes: Bytes,
    /// What is said about it.
    labels: Arc<Labels>,
}

impl Ready {
    /// What to send.
    pub(crate) fn content(&self) -> Content {
        Content {
            source: Source::Bytes(self.bytes.clone()),
            labels: Arc::clone(&self.labels),
        }
    }
}

/// The files at hand.
#[derive(Debug, Default)]
pub(crate) struct ReadyFiles(Mutex<HashMap<Identity, Arc<Ready>>>);

impl ReadyFiles {
    /// The file that was seen, when its content is at hand under this name.
    pub(crate) fn get(&self, seen: &Seen<'_>) -> Option<Arc<Ready>> {
        let identity = seen.identity()?;
        if identity.size() > READY_SIZE_MAX {
            return None;
        }
        let kept = self.lock().get(&identity).cloned()?;
        (kept.name.as_str() == seen.name()).then_some(kept)
    }

    /// Reads `file` and keeps it, when it is small and sure to be what `digest` is the digest of.
    pub(crate) fn keep(&self, file: &OpenFile, digest: Digest, labels: &Arc<Labels>) {
        let identity = file.identity();
        if identity.size() > READY_SIZE_MAX || identity.settles_in(SystemTime::now()).is_some() {
            return;
        }
        // Whatever is wrong, the file itself is sent, and fails as it must.
        let Ok(Some(bytes)) = read_whole(file) else {
            return;
        };
        if Digest::of(&bytes) != digest {
            return;
        }
        let ready = Ready {
            name: file.name().clone(),
            digest,
            bytes,
            labels: Arc::clone(labels),
        };
        let mut kept = self.lock();
        if kept.len() >= READY_KEPT_MAX {
            kept.clear();
        }
        kept.insert(identity, Arc::new(ready));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Arc<Ready>>> {
        // Whole at every unlock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All bytes of a file whose size was checked; nothing when it changed since it was opened.
pub(crate) fn read_whole(file: &OpenFile) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; usize::try_from(file.size()).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => return Ok(None),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(file.unchanged()?.then(|| bytes.into()))
}
