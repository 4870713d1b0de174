//! The files of one download, their chunks in one numbering.
//!
//! A piece is a chunk of one of the files: those of the first file come first. So one schedule decides about all of them.

use std::ops::Range;
use std::sync::Arc;

use boot_manifest::{Artifact, Digest};
use swarm::Pieces;

/// One file, and where its verified bytes go.
pub(crate) struct File<S> {
    pub(crate) artifact: Artifact,
    pub(crate) sink: Arc<S>,
    /// The numbers of its chunks, as pieces.
    pub(crate) row: Range<usize>,
}

impl<S> File<S> {
    /// The chunk that a piece is; the piece is one of this file.
    pub(crate) fn chunk(&self, piece: usize) -> usize {
        piece.saturating_sub(self.row.start)
    }

    /// The bytes of the file that a piece is.
    pub(crate) fn bytes(&self, piece: usize) -> Range<u64> {
        self.artifact.chunks.range(self.chunk(piece))
    }

    /// The digest that a piece has to have.
    pub(crate) fn digest(&self, piece: usize) -> Digest {
        let chunks = &self.artifact.chunks;
        chunks
            .digest(self.chunk(piece))
            .unwrap_or(self.artifact.digest)
    }
}

/// All files of a download.
pub(crate) struct Files<S> {
    pub(crate) pieces: Pieces,
    files: Vec<File<S>>,
}

impl<S> Files<S> {
    pub(crate) fn new(wanted: Vec<(Artifact, Arc<S>)>) -> Self {
        let pieces = Pieces::of(wanted.iter().map(|(artifact, _)| artifact));
        let rows = pieces.files().iter().map(swarm::File::row);
        let files = wanted.into_iter().zip(rows);
        let files = files.map(|((artifact, sink), row)| File {
            artifact,
            sink,
            row,
        });
        Self {
            files: files.collect(),
            pieces,
        }
    }

    /// Each with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &File<S>)> {
        self.files.iter().enumerate()
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Which file a piece belongs to.
    pub(crate) fn of(&self, piece: usize) -> usize {
        let place = self.pieces.locate(piece);
        place.expect("only pieces that were asked for come").0
    }

    /// What all of them are, for a person.
    pub(crate) fn name(&self) -> String {
        let names = self.files.iter().map(|file| file.artifact.name.as_str());
        names.collect::<Vec<&str>>().join(", ")
    }
}

impl<S> std::ops::Index<usize> for Files<S> {
    type Output = File<S>;

    fn index(&self, file: usize) -> &File<S> {
        &self.files[file]
    }
}

#[cfg(test)]
mod tests {
    use boot_manifest::ArtifactHasher;

    use super::*;
    use crate::part::length;

    #[test]
    fn pieces_are_numbered_through_all_files() {
        let files = [("a", 2 << 20), ("b", 1), ("c", (1 << 20) + 1)].map(|(name, size)| {
            let mut hasher = ArtifactHasher::new(size).unwrap();
            hasher.update(&vec![7; size as usize]);
            let (digest, chunks) = hasher.finish().unwrap();
            let artifact = Artifact {
                name: name.parse().unwrap(),
                filename: name.parse().unwrap(),
                size,
                digest,
                chunks,
            };
            (artifact, Arc::new(()))
        });
        let files = Files::new(files.into());
        let found: Vec<_> = (0..5)
            .map(|piece| {
                let file = files.of(piece);
                (
                    file,
                    files[file].chunk(piece),
                    length(&files[file].bytes(piece)),
                )
            })
            .collect();
        let mib = 1 << 20;
        assert_eq!(
            found,
            [(0, 0, mib), (0, 1, mib), (1, 0, 1), (2, 0, mib), (2, 1, 1)]
        );
        assert_eq!(files.name(), "a, b, c");
    }
}
