//! Digests of files, kept by the identity of their content. A file is hashed once however many ask at the same time.
//!
//! A digest is never stale: it belongs to (device, inode, size, mtime, ctime); a file that changed while it was hashed
//! gives an error; a file so fresh that its next change might carry the same time stamp is not kept.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use boot_manifest::limits::ARTIFACT_SIZE_MAX;
use boot_manifest::{ArtifactHasher, ChunkMap, Digest};

use crate::identity::{Identity, OpenFile};
use crate::limits::{HASHES_MAX, READ_SIZE};

/// What one pass over a file yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// SHA-256 of each chunk; an empty file has none.
    pub chunks: Option<ChunkMap>,
}

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It was written to meanwhile.
    #[error("the file changed while it was read")]
    Changed,
    /// It is larger than an artifact may be.
    #[error("the file has {0} bytes; an artifact may have {ARTIFACT_SIZE_MAX}")]
    TooLarge(u64),
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The digests known so far.
#[derive(Debug, Default)]
pub struct Hashes {
    state: Mutex<State>,
    done: Condvar,
    passes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Identity, Known>,
    running: HashSet<Identity>,
    /// Counts look-ups: the entry with the smallest number is the one not used for longest.
    clock: u64,
}

#[derive(Debug)]
struct Known {
    hashed: Arc<Hashed>,
    used: u64,
}

impl Hashes {
    /// The digest, when it is known. Never waits.
    pub fn peek(&self, identity: &Identity) -> Option<Arc<Hashed>> {
        self.lock().get(identity)
    }

    /// The digest, by hashing the file unless that was done or is being done. Blocks as long as that takes.
    pub fn hash(&self, file: &OpenFile) -> Result<Arc<Hashed>, HashError> {
        let identity = file.identity();
        let mut state = self.lock();
        let _running = loop {
            if let Some(hashed) = state.get(&identity) {
                return Ok(hashed);
            }
            if state.running.insert(identity) {
                break Running {
                    hashes: self,
                    identity,
                };
            }
            state = self
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        self.passes.fetch_add(1, Ordering::Relaxed);
        let started = SystemTime::now();
        let hashed = Arc::new(read(file)?);
        if identity.settles_in(started).is_none() {
            self.lock().keep(identity, Arc::clone(&hashed));
        }
        Ok(hashed)
    }

    /// How often a file was read through.
    pub fn passes_total(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The map is whole at every unlock; a panic while hashing happens outside the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a file as being hashed; its end wakes those who wait, also when hashing failed.
struct Running<'a> {
    hashes: &'a Hashes,
    identity: Identity,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.hashes.lock().running.remove(&self.identity);
        self.hashes.done.notify_all();
    }
}

impl State {
    fn get(&mut self, identity: &Identity) -> Option<Arc<Hashed>> {
        self.clock += 1;
        let known = self.known.get_mut(identity)?;
        known.used = self.clock;
        Some(Arc::clone(&known.hashed))
    }

    fn keep(&mut self, identity: Identity, hashed: Arc<Hashed>) {
        if self.known.len() >= HASHES_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.used)
        {
            let oldest = *oldest.0;
            self.known.remove(&oldest);
        }
        self.clock += 1;
        self.known.insert(
            identity,
            Known {
                hashed,
                used: self.clock,
            },
        );
    }
}

fn read(file: &OpenFile) -> Result<Hashed, HashError> {
    let size = file.size();
    if size > ARTIFACT_SIZE_MAX {
        return Err(HashError::TooLarge(size));
    }
    if size == 0 {
        return Ok(Hashed {
            digest: Digest::of(b""),
            chunks: None,
        });
    }
    let mut hasher = ArtifactHasher::new(size).map_err(|_| HashError::TooLarge(size))?;
    // A hint that may be refused.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    let mut buffer = vec![0; READ_SIZE];
    let mut at = 0;
    while at < size {
        let got = match file.read_at(&mut buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if got == 0 {
            return Err(HashError::Changed);
        }
        hasher.update(&buffer[..got]);
        at += got as u64;
    }
    let (digest, chunks) = hasher.finish().map_err(|_| HashError::Changed)?;
    if !file.unchanged()? {
        return Err(HashError::Changed);
    }
    Ok(Hashed {
        digest,
        chunks: Some(chunks),
    })
}
