//! The chunks of several files in one numbering: the pieces of a download.
//!
//! What is fetched together is scheduled together: many pieces spread better over many machines than few. The numbering is
//! this machine's own; on the wire a piece is a file's digest and the number of a chunk.

use std::ops::Range;

use boot_manifest::{Artifact, ChunkMap, Digest};

/// One file, and which pieces are its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Length of every chunk but the last.
    pub chunk_size: u64,
    /// The number of its first piece.
    pub first: usize,
    /// How many chunks it has.
    pub count: usize,
}

impl File {
    /// The numbers of its pieces.
    pub fn row(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// The files of one download.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    files: Vec<File>,
}

impl Pieces {
    /// Files of these digests and sizes, in this order.
    pub fn new(files: impl IntoIterator<Item = (Digest, u64)>) -> Self {
        let mut first = 0;
        let file = |(digest, size): (Digest, u64)| {
            let chunk_size = ChunkMap::chunk_size_for(size);
            let count = usize::try_from(size.div_ceil(chunk_size)).unwrap_or(0);
            let file = File {
                digest,
                size,
                chunk_size,
                first,
                count,
            };
            first += count;
            file
        };
        Self {
            files: files.into_iter().map(file).collect(),
        }
    }

    /// The files of these artifacts, in this order.
    pub fn of<'a>(artifacts: impl IntoIterator<Item = &'a Artifact>) -> Self {
        let artifacts = artifacts.into_iter();
        Self::new(artifacts.map(|artifact| (artifact.digest, artifact.size)))
    }

    /// How many pieces there are.
    pub fn count(&self) -> usize {
        self.files.last().map_or(0, |file| file.row().end)
    }

    /// The files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Which file a piece belongs to, and which of its chunks it is.
    pub fn locate(&self, piece: usize) -> Option<(usize, usize)> {
        let index = self.files.partition_point(|file| file.row().end <= piece);
        let file = self.files.get(index)?;
        Some((index, piece.checked_sub(file.first)?))
    }

    /// The number of a file's chunk.
    pub fn number(&self, file: usize, chunk: usize) -> Option<usize> {
        let file = self.files.get(file)?;
        (chunk < file.count).then(|| file.first + chunk)
    }

    /// The pieces of the file that a piece belongs to; nothing for a piece that there is not.
    pub fn row_of(&self, piece: usize) -> Range<usize> {
        let file = self
            .locate(piece)
            .and_then(|(file, _)| self.files.get(file));
        file.map_or(piece..piece, File::row)
    }

    /// Length of a piece in bytes; nothing for a piece that there is not.
    pub fn size(&self, piece: usize) -> u64 {
        let Some((file, chunk)) = self.locate(piece) else {
            return 0;
        };
        let file = &self.files[file];
        let start = file.chunk_size * chunk as u64;
        file.chunk_size.min(file.size.saturating_sub(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn chunks_of_all_files_are_numbered_in_a_row() {
        let digest = Digest::of(b"");
        let sizes = [5 * MIB / 2, 1, 2048 * MIB];
        let pieces = Pieces::new(sizes.map(|size| (digest, size)));
        assert_eq!(pieces.count(), 3 + 1 + 1024);
        assert_eq!(pieces.bytes(), sizes.iter().sum::<u64>());
        for (piece, place, size, row) in [
            (0, Some((0, 0)), MIB, 0..3),
            (2, Some((0, 2)), MIB / 2, 0..3),
            (3, Some((1, 0)), 1, 3..4),
            (4, Some((2, 0)), 2 * MIB, 4..1028),
            (1027, Some((2, 1023)), 2 * MIB, 4..1028),
            (1028, None, 0, 1028..1028),
        ] {
            assert_eq!(pieces.locate(piece), place, "{piece}");
            assert_eq!(pieces.size(piece), size, "{piece}");
            assert_eq!(pieces.row_of(piece), row, "{piece}");
            if let Some((file, chunk)) = place {
                assert_eq!(pieces.number(file, chunk), Some(piece));
            }
        }
        assert_eq!((pieces.number(0, 3), pieces.number(3, 0)), (None, None));
        assert_eq!(Pieces::default().count(), 0);
    }
}
