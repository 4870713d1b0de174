//! Where verified chunks go. An implementation checks each chunk itself: the network side is never trusted to have.

use std::error::Error;

use artifact_store::{ChunkWriter, Partial, WriteError};
use boot_manifest::Digest;

/// A place for one artifact. Only chunks that verified count as there.
pub trait Sink: Send + Sync + 'static {
    /// One chunk on its way; dropping it leaves the chunk missing.
    type Chunk<'a>: SinkChunk
    where
        Self: 'a;

    /// The numbers of the chunks that are not there yet, ascending.
    fn missing(&self) -> Vec<usize>;

    /// Starts to write chunk `index`, which is missing and has no other writer.
    fn chunk(&self, index: usize) -> Result<Self::Chunk<'_>, SinkError>;
}

/// A chunk that is written and hashed as its bytes come.
pub trait SinkChunk {
    /// The next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError>;

    /// Verifies the chunk and keeps it; or else it stays missing.
    fn finish(self) -> Result<(), SinkError>;
}

/// Why a chunk was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It does not have the digest the manifest names.
    #[error("the chunk does not have the digest the manifest names")]
    WrongBytes {
        /// The digest that it has.
        computed: Digest,
    },
    /// The place failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl From<WriteError> for SinkError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::WrongBytes { computed, .. } => Self::WrongBytes { computed },
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl Sink for Partial {
    type Chunk<'a> = ChunkWriter<'a>;

    fn missing(&self) -> Vec<usize> {
        Self::missing(self)
    }

    fn chunk(&self, index: usize) -> Result<ChunkWriter<'_>, SinkError> {
        Ok(Self::chunk(self, index)?)
    }
}

impl SinkChunk for ChunkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        Ok(Self::write(self, bytes)?)
    }

    fn finish(self) -> Result<(), SinkError> {
        Ok(Self::finish(self)?)
    }
}

/// A sink that somebody else holds too, and keeps when a download fails.
impl<S: Sink> Sink for std::sync::Arc<S> {
    type Chunk<'a> = S::Chunk<'a>;

    fn missing(&self) -> Vec<usize> {
        S::missing(self)
    }

    fn chunk(&self, index: usize) -> Result<S::Chunk<'_>, SinkError> {
        S::chunk(self, index)
    }
}
