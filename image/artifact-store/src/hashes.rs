//! Digests of files, kept by the identity of their content. A file is hashed once however many ask at the same time.
//!
//! An answer needs the digest of the whole file and nothing else, so that is all that is made at first, at the speed of
//! one SHA-256. The digests of the chunks are made when a manifest is to be signed: on a processor of their own while the
//! whole file is hashed on another, from one reading.
//!
//! A digest is never stale: it belongs to (device, inode, size, mtime, ctime); a file that changed while it was hashed
//! gives an error; a file so fresh that its next change might carry the same time stamp is not kept.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use boot_manifest::limits::ARTIFACT_SIZE_MAX;
use boot_manifest::{ChunkMap, Digest};

use crate::identity::{Identity, OpenFile};
use crate::limits::HASHES_MAX;
use crate::reading;

/// How much is to be known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Depth {
    /// The digest of the whole.
    Whole,
    /// That, and the digest of each chunk.
    Chunks,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// SHA-256 of each chunk, when that was asked for; an empty file has none.
    pub chunks: Option<ChunkMap>,
}

impl Hashed {
    /// Whether nothing is missing that `depth` asks for in a file of `size` bytes.
    fn reaches(&self, depth: Depth, size: u64) -> bool {
        depth == Depth::Whole || self.chunks.is_some() || size == 0
    }
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
    /// What is asked for, when it is known. Never waits.
    pub fn peek(&self, identity: &Identity, depth: Depth) -> Option<Arc<Hashed>> {
        let hashed = self.lock().get(identity)?;
        hashed.reaches(depth, identity.size()).then_some(hashed)
    }

    /// What is asked for, by hashing the file unless that was done or is being done. Blocks as long as that takes.
    pub fn hash(&self, file: &OpenFile, depth: Depth) -> Result<Arc<Hashed>, HashError> {
        let identity = file.identity();
        let mut state = self.lock();
        let (known, _running) = loop {
            let known = state.get(&identity);
            if let Some(hashed) = &known
                && hashed.reaches(depth, identity.size())
            {
                return Ok(Arc::clone(hashed));
            }
            if state.running.insert(identity) {
                let running = Running {
                    hashes: self,
                    identity,
                };
                break (known, running);
            }
            state = self
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        self.passes.fetch_add(1, Ordering::Relaxed);
        let started = SystemTime::now();
        let hashed = Arc::new(read(file, depth, known.map(|known| known.digest))?);
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
            && !self.known.contains_key(&identity)
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

/// Reads a file through. `known` is its digest, when only the chunks are missing.
fn read(file: &OpenFile, depth: Depth, known: Option<Digest>) -> Result<Hashed, HashError> {
    let size = file.size();
    if size > ARTIFACT_SIZE_MAX {
        return Err(HashError::TooLarge(size));
    }
    let hashed = match (depth, known) {
        _ if size == 0 => Hashed {
            digest: Digest::of(b""),
            chunks: None,
        },
        (Depth::Whole, _) => Hashed {
            digest: reading::whole(file)?,
            chunks: None,
        },
        (Depth::Chunks, Some(digest)) => Hashed {
            digest,
            chunks: Some(reading::chunks(file)?),
        },
        (Depth::Chunks, None) => {
            let (digest, chunks) = reading::both(file)?;
            Hashed {
                digest,
                chunks: Some(chunks),
            }
        }
    };
    if !file.unchanged()? {
        return Err(HashError::Changed);
    }
    Ok(hashed)
}
