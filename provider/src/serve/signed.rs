//! Manifests that were signed elsewhere: read once for each content, and sent as they are.
//!
//! Nothing here is verified. That is for clients, and for `/health`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use artifact_store::{Folders, Identity, OpenError, OpenFile};
use boot_manifest::{Digest, FileName, MANIFEST_SIZE_MAX, UnverifiedView};
use bytes::Bytes;

use crate::http::respond::{self, Facts, Labels};
use crate::serve::limits::SIGNED_KEPT_MAX;
use crate::serve::ready::read_whole;
use crate::serve::refusal::Refusal;

/// A manifest signed elsewhere, as it lies in its folder.
#[derive(Debug)]
pub(crate) struct SignedFile {
    /// Exactly the file's bytes.
    pub(crate) bytes: Bytes,
    /// Their digest.
    pub(crate) digest: Digest,
    /// What is said about it in answers.
    pub(crate) labels: Arc<Labels>,
    /// Its readable part, or why it cannot be read. Nothing here is verified: that is for clients, and for `/health`.
    pub(crate) view: Result<UnverifiedView, String>,
}

/// The manifests read so far, by the identity of their content.
#[derive(Debug)]
pub(crate) struct SignedFiles {
    name: FileName,
    known: Mutex<HashMap<Identity, Arc<SignedFile>>>,
}

impl SignedFiles {
    /// For manifests in files called `name`.
    pub(crate) fn new(name: FileName) -> Self {
        Self {
            name,
            known: Mutex::default(),
        }
    }

    /// The manifest that lies in a folder now. It is looked for each time, and read when its content is new.
    pub(crate) fn look(
        &self,
        folders: &mut Folders<'_>,
    ) -> Result<Option<Arc<SignedFile>>, Refusal> {
        let refused = |error| Refusal::of(self.name.as_str(), error);
        let seen = match folders.look(&self.name) {
            Ok(seen) => seen,
            Err(OpenError::NotFound) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        if let Some(known) = seen.identity().and_then(|identity| self.get(&identity)) {
            return Ok(Some(known));
        }
        let file = match seen.open() {
            Ok(file) => file,
            Err(OpenError::NotFound) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        let identity = file.identity();
        let settled = identity.settles_in(SystemTime::now()).is_none();
        let signed = Arc::new(read(&file)?);
        if settled {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= SIGNED_KEPT_MAX {
                known.clear();
            }
            known.insert(identity, Arc::clone(&signed));
        }
        Ok(Some(signed))
    }

    fn get(&self, identity: &Identity) -> Option<Arc<SignedFile>> {
        // Whole at every unlock.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(identity).cloned()
    }
}

fn read(file: &OpenFile) -> Result<SignedFile, Refusal> {
    if file.size() > MANIFEST_SIZE_MAX as u64 {
        return Err(Refusal::BadManifest(format!(
            "has {} bytes; {MANIFEST_SIZE_MAX} are allowed",
            file.size()
        )));
    }
    let name = file.name().as_str();
    let bytes = match read_whole(file) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Refusal::Busy(name.to_owned())),
        Err(error) => return Err(Refusal::Unreadable(name.to_owned(), error.to_string())),
    };
    let view = boot_manifest::view(&bytes).map_err(|error| error.to_string());
    let digest = Digest::of(&bytes);
    let labels = Labels::new(Facts {
        digest,
        size: file.size(),
        modified: respond::past(file.identity().modified()),
        media_type: "application/json",
        is_artifact: false,
    });
    Ok(SignedFile {
        digest,
        bytes,
        labels: Arc::new(labels),
        view,
    })
}
