//! Reading a file through to hash it: once, in pieces that stay in the processor's cache, with the disk kept busy ahead.
//!
//! Never holds more than a few pieces, whatever the size of the file.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use boot_manifest::{ArtifactHasher, ChunkHasher, ChunkMap, Digest, Hasher};
use rustix::fs::Advice;

use crate::hashes::HashError;
use crate::identity::OpenFile;
use crate::limits::{AHEAD_SIZE, PIECES_MAX, READ_SIZE};

/// The digest of a file.
pub(crate) fn whole(file: &OpenFile) -> Result<Digest, HashError> {
    let mut hasher = Hasher::new();
    each_piece(file, |piece| hasher.update(piece))?;
    Ok(hasher.finish())
}

/// The chunks of a file that is not empty and not too large.
pub(crate) fn chunks(file: &OpenFile) -> Result<ChunkMap, HashError> {
    let mut hasher = ChunkHasher::new(file.size()).map_err(|_| too_large(file))?;
    each_piece(file, |piece| hasher.update(piece))?;
    hasher.finish().map_err(|_| HashError::Changed)
}

/// Both, from one reading. The chunks are hashed by a thread of their own, when there can be one.
pub(crate) fn both(file: &OpenFile) -> Result<(Digest, ChunkMap), HashError> {
    let size = file.size();
    if size <= ChunkMap::chunk_size_for(size) {
        // One chunk is the whole.
        let digest = whole(file)?;
        let chunks = ChunkMap::new(size, vec![digest]).map_err(|_| too_large(file))?;
        return Ok((digest, chunks));
    }
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if processors < 2 {
        return both_alone(file);
    }
    let chunks = ChunkHasher::new(size).map_err(|_| too_large(file))?;
    thread::scope(|scope| {
        let (full, filled) = sync_channel(PIECES_MAX);
        let (empty, emptied) = sync_channel(PIECES_MAX);
        let beside = move || hash_pieces(chunks, &filled, &empty);
        // The number of threads may be limited.
        let Ok(worker) = thread::Builder::new().spawn_scoped(scope, beside) else {
            return both_alone(file);
        };
        let digest = feed(file, full, &emptied);
        let chunks = worker.join().map_err(|_| broke_off())?;
        Ok((digest?, chunks.finish().map_err(|_| HashError::Changed)?))
    })
}

/// Both, by this thread.
fn both_alone(file: &OpenFile) -> Result<(Digest, ChunkMap), HashError> {
    let mut hasher = ArtifactHasher::new(file.size()).map_err(|_| too_large(file))?;
    each_piece(file, |piece| hasher.update(piece))?;
    hasher.finish().map_err(|_| HashError::Changed)
}

/// A piece of the file: a buffer and how much of it is filled.
type Piece = (Vec<u8>, usize);

/// Hashes pieces until no more come, and gives their buffers back.
fn hash_pieces(
    mut hasher: ChunkHasher,
    filled: &Receiver<Piece>,
    empty: &SyncSender<Vec<u8>>,
) -> ChunkHasher {
    while let Ok((piece, length)) = filled.recv() {
        hasher.update(&piece[..length]);
        // Nobody wants it back at the end.
        let _ = empty.send(piece);
    }
    hasher
}

/// Hashes the whole, and hands each piece on.
fn feed(
    file: &OpenFile,
    full: SyncSender<Piece>,
    emptied: &Receiver<Vec<u8>>,
) -> Result<Digest, HashError> {
    let mut hasher = Hasher::new();
    let mut at = 0;
    let mut made = 0;
    let mut ahead = Ahead::new(file);
    while at < file.size() {
        let mut piece = if made < PIECES_MAX {
            made += 1;
            vec![0; READ_SIZE]
        } else {
            emptied.recv().map_err(|_| broke_off())?
        };
        ahead.reach(at);
        let length = fill(file, &mut piece, at)?;
        hasher.update(&piece[..length]);
        at += length as u64;
        full.send((piece, length)).map_err(|_| broke_off())?;
    }
    Ok(hasher.finish())
}

/// Calls `take` with every byte of the file, in order.
fn each_piece(file: &OpenFile, mut take: impl FnMut(&[u8])) -> Result<(), HashError> {
    let mut piece = vec![0; READ_SIZE];
    let mut at = 0;
    let mut ahead = Ahead::new(file);
    while at < file.size() {
        ahead.reach(at);
        let length = fill(file, &mut piece, at)?;
        take(&piece[..length]);
        at += length as u64;
    }
    Ok(())
}

/// Reads a piece; what lies behind the size that the file had when it was opened does not count.
fn fill(file: &OpenFile, piece: &mut [u8], at: u64) -> Result<usize, HashError> {
    let left = usize::try_from(file.size() - at).unwrap_or(usize::MAX);
    let room = left.min(piece.len());
    loop {
        match file.read_at(&mut piece[..room], at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Err(HashError::Changed),
            other => return Ok(other?),
        }
    }
}

/// Asks the kernel to read from the disk what comes next, while what is there is hashed.
struct Ahead<'a> {
    file: &'a OpenFile,
    asked: u64,
}

impl<'a> Ahead<'a> {
    fn new(file: &'a OpenFile) -> Self {
        // Hints may be refused.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
        Self { file, asked: 0 }
    }

    fn reach(&mut self, at: u64) {
        while self.asked < self.file.size() && self.asked < at + 2 * AHEAD_SIZE {
            let length = std::num::NonZero::new(AHEAD_SIZE);
            let _ = rustix::fs::fadvise(self.file, self.asked, length, Advice::WillNeed);
            self.asked += AHEAD_SIZE;
        }
    }
}

fn too_large(file: &OpenFile) -> HashError {
    HashError::TooLarge(file.size())
}

fn broke_off() -> HashError {
    HashError::Io(io::Error::other("hashing broke off"))
}
