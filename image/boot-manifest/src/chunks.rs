//! Digests of equal pieces of an artifact, so that any range from any mirror is checked when it arrives.
//!
//! The piece size follows from the length alone: the smallest power of two, at least 1 MiB, that needs at most 1,024
//! pieces. A manifest cannot choose another one.

use std::ops::Range;

use crate::digest::{Digest, Hasher};
use crate::limits::{ARTIFACT_SIZE_MAX, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, CHUNKS_MAX};

/// The chunk digests of one artifact of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap {
    size: u64,
    digests: Vec<Digest>,
}

/// A length or list of digests that cannot be a chunk map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// An empty artifact, or one above the limit.
    #[error("an artifact has 1 to {ARTIFACT_SIZE_MAX} bytes, not {0}")]
    Size(u64),
    /// The list does not cover the artifact exactly.
    #[error("{size} bytes make {expected} chunks, not {found}")]
    Count {
        /// Length of the artifact.
        size: u64,
        /// Chunks of that length.
        expected: u64,
        /// Digests in the list.
        found: usize,
    },
}

impl ChunkMap {
    /// A map from its digests, which must be as many as `size` needs.
    pub fn new(size: u64, digests: Vec<Digest>) -> Result<Self, ChunkError> {
        if size == 0 || size > ARTIFACT_SIZE_MAX {
            return Err(ChunkError::Size(size));
        }
        let expected = size.div_ceil(Self::chunk_size_for(size));
        if u64::try_from(digests.len()) != Ok(expected) {
            return Err(ChunkError::Count {
                size,
                expected,
                found: digests.len(),
            });
        }
        Ok(Self { size, digests })
    }

    /// The chunk size for an artifact of `size` bytes.
    pub const fn chunk_size_for(size: u64) -> u64 {
        let mut chunk_size = CHUNK_SIZE_MIN;
        while chunk_size < CHUNK_SIZE_MAX && size.div_ceil(chunk_size) > CHUNKS_MAX {
            chunk_size *= 2;
        }
        chunk_size
    }

    /// Length of the artifact.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Length of every chunk but the last.
    pub const fn chunk_size(&self) -> u64 {
        Self::chunk_size_for(self.size)
    }

    /// Number of chunks, at least one.
    pub const fn chunk_count(&self) -> usize {
        self.digests.len()
    }

    /// The bytes chunk `index` covers; empty past the end.
    pub fn range(&self, index: usize) -> Range<u64> {
        let start = u64::try_from(index)
            .ok()
            .and_then(|index| index.checked_mul(self.chunk_size()))
            .map_or(self.size, |start| start.min(self.size));
        start..self.size.min(start.saturating_add(self.chunk_size()))
    }

    /// The digest of chunk `index`.
    pub fn digest(&self, index: usize) -> Option<Digest> {
        self.digests.get(index).copied()
    }

    /// All digests in order.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// Whether `bytes` are exactly chunk `index`, in length and digest.
    pub fn verify(&self, index: usize, bytes: &[u8]) -> bool {
        let range = self.range(index);
        u64::try_from(bytes.len()) == Ok(range.end - range.start)
            && self.digest(index) == Some(Digest::of(bytes))
    }

    /// Checks chunk `index` while its bytes arrive, so that nobody has to hold a whole chunk in memory.
    pub fn check(&self, index: usize) -> ChunkCheck {
        let range = self.range(index);
        ChunkCheck {
            expected: self.digest(index),
            left: range.end - range.start,
            too_long: false,
            hasher: Hasher::new(),
        }
    }
}

/// The check of one chunk whose bytes come in pieces: the same verdict as [`ChunkMap::verify`].
#[derive(Debug)]
pub struct ChunkCheck {
    expected: Option<Digest>,
    left: u64,
    too_long: bool,
    hasher: Hasher,
}

impl ChunkCheck {
    /// The next bytes of the chunk.
    pub fn update(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.too_long |= length > self.left;
        self.left = self.left.saturating_sub(length);
        self.hasher.update(bytes);
    }

    /// Whether these were exactly the chunk's bytes; otherwise the digest that they have.
    pub fn finish(self) -> Result<(), Digest> {
        let computed = self.hasher.finish();
        let whole = self.left == 0 && !self.too_long;
        if whole && self.expected == Some(computed) {
            Ok(())
        } else {
            Err(computed)
        }
    }
}

/// Hashes an artifact of known length once and yields its digest and its chunk map.
#[derive(Debug)]
pub struct ArtifactHasher {
    whole: Hasher,
    chunks: ChunkHasher,
}

/// Hashes the chunks of an artifact of known length, for whoever has its digest already or makes it beside.
#[derive(Debug)]
pub struct ChunkHasher {
    size: u64,
    seen: u64,
    chunk: Hasher,
    digests: Vec<Digest>,
}

/// The stream was not as long as announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the file has {found} bytes instead of {expected}")]
pub struct WrongLength {
    /// The length announced.
    pub expected: u64,
    /// The bytes that came.
    pub found: u64,
}

impl ArtifactHasher {
    /// Prepares to hash `size` bytes.
    pub fn new(size: u64) -> Result<Self, ChunkError> {
        Ok(Self {
            whole: Hasher::new(),
            chunks: ChunkHasher::new(size)?,
        })
    }

    /// Appends `bytes`. More than announced is counted, and refused by [`ArtifactHasher::finish`].
    pub fn update(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
        self.chunks.update(bytes);
    }

    /// The digest and the chunk map, when exactly the announced bytes came.
    pub fn finish(self) -> Result<(Digest, ChunkMap), WrongLength> {
        let chunks = self.chunks.finish()?;
        Ok((self.whole.finish(), chunks))
    }
}

impl ChunkHasher {
    /// Prepares to hash `size` bytes.
    pub fn new(size: u64) -> Result<Self, ChunkError> {
        if size == 0 || size > ARTIFACT_SIZE_MAX {
            return Err(ChunkError::Size(size));
        }
        Ok(Self {
            size,
            seen: 0,
            chunk: Hasher::new(),
            digests: Vec::new(),
        })
    }

    /// Appends `bytes`. More than announced is counted, and refused by [`ChunkHasher::finish`].
    pub fn update(&mut self, mut bytes: &[u8]) {
        let chunk_size = ChunkMap::chunk_size_for(self.size);
        while !bytes.is_empty() {
            if self.seen >= self.size {
                self.seen = self.seen.saturating_add(bytes.len() as u64);
                return;
            }
            let chunk_left = chunk_size - self.seen % chunk_size;
            let left = usize::try_from(chunk_left.min(self.size - self.seen)).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(left.min(bytes.len()));
            self.chunk.update(piece);
            self.seen += piece.len() as u64;
            if self.seen.is_multiple_of(chunk_size) || self.seen == self.size {
                self.digests.push(std::mem::take(&mut self.chunk).finish());
            }
            bytes = rest;
        }
    }

    /// The chunk map, when exactly the announced bytes came.
    pub fn finish(self) -> Result<ChunkMap, WrongLength> {
        let wrong = WrongLength {
            expected: self.size,
            found: self.seen,
        };
        if self.seen != self.size {
            return Err(wrong);
        }
        ChunkMap::new(self.size, self.digests).map_err(|_| wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_smallest_size_that_gives_at_most_1024_chunks() {
        for (size, expected) in [
            (1, MIB),
            (1024 * MIB, MIB),
            (1024 * MIB + 1, 2 * MIB),
            (2048 * MIB, 2 * MIB),
            (2048 * MIB + 1, 4 * MIB),
            (ARTIFACT_SIZE_MAX, 64 * MIB),
            (u64::MAX, 64 * MIB),
        ] {
            assert_eq!(ChunkMap::chunk_size_for(size), expected, "{size}");
        }
    }

    #[test]
    fn ranges_tile_the_artifact_and_end_there() {
        let size = 2 * MIB + 7;
        let map = ChunkMap::new(size, vec![Digest::of(b""); 3]).unwrap();
        assert_eq!(map.range(0), 0..MIB);
        assert_eq!(map.range(1), MIB..2 * MIB);
        assert_eq!(map.range(2), 2 * MIB..size);
        assert!(map.range(3).is_empty());
        assert!(map.range(usize::MAX).is_empty());
        assert!(!map.verify(3, b""));
    }

    #[test]
    fn every_chunk_is_checked_by_length_and_digest() {
        let bytes: Vec<u8> = (0..2 * MIB + 7).map(|at| (at % 251) as u8).collect();
        let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
        for piece in bytes.chunks(777_777) {
            hasher.update(piece);
        }
        let (digest, map) = hasher.finish().unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        for index in 0..map.chunk_count() {
            let range = map.range(index);
            let chunk = &bytes[range.start as usize..range.end as usize];
            assert!(map.verify(index, chunk));
            assert!(!map.verify(index, &chunk[1..]));
            assert!(!map.verify(index + 1, chunk));
            let mut flipped = chunk.to_vec();
            flipped[0] ^= 1;
            assert!(!map.verify(index, &flipped));

            // In pieces, with the same verdicts.
            let check = |index: usize, bytes: &[u8]| {
                let mut check = map.check(index);
                bytes.chunks(99_991).for_each(|piece| check.update(piece));
                check.finish()
            };
            assert_eq!(check(index, chunk), Ok(()));
            assert_eq!(check(index, &flipped), Err(Digest::of(&flipped)));
            assert!(check(index, &chunk[1..]).is_err());
            assert!(check(index, &[chunk, &[0][..]].concat()).is_err());
            assert!(check(index + 1, chunk).is_err());
        }
        assert!(map.check(map.chunk_count()).finish().is_err());
    }

    #[test]
    fn a_stream_of_another_length_is_refused() {
        for (announced, came) in [(5, 4), (5, 6), (1, 0)] {
            let mut hasher = ArtifactHasher::new(announced).unwrap();
            hasher.update(&vec![0; came]);
            let found = came as u64;
            assert_eq!(
                hasher.finish().unwrap_err(),
                WrongLength {
                    expected: announced,
                    found
                }
            );
        }
        assert!(ArtifactHasher::new(0).is_err());
        assert!(ArtifactHasher::new(ARTIFACT_SIZE_MAX + 1).is_err());
        assert!(ChunkMap::new(MIB + 1, vec![Digest::of(b"")]).is_err());
    }
}
