//! Where verified chunks go. An implementation checks each chunk itself: the network side is never trusted to have.

use std::error::Error;

use artifact_store::{Partial, WriteError};

/// A place for one artifact. It keeps verified chunks only.
pub trait Sink: Send + Sync + 'static {
    /// The numbers of the chunks that are not there yet, ascending.
    fn missing(&self) -> Vec<usize>;

    /// Verifies `bytes` as chunk `index` and keeps them, or keeps nothing.
    fn put_chunk(&self, index: usize, bytes: &[u8]) -> Result<(), SinkError>;
}

/// Why a chunk was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It does not have the digest the manifest names.
    #[error("the chunk does not have the digest the manifest names")]
    WrongBytes,
    /// The place failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl Sink for Partial {
    fn missing(&self) -> Vec<usize> {
        Self::missing(self)
    }

    fn put_chunk(&self, index: usize, bytes: &[u8]) -> Result<(), SinkError> {
        match Self::put_chunk(self, index, bytes) {
            Ok(()) => Ok(()),
            Err(WriteError::WrongBytes { .. }) => Err(SinkError::WrongBytes),
            Err(error) => Err(SinkError::Failed(Box::new(error))),
        }
    }
}

/// A sink that somebody else holds too, and keeps when a download fails.
impl<S: Sink> Sink for std::sync::Arc<S> {
    fn missing(&self) -> Vec<usize> {
        S::missing(self)
    }

    fn put_chunk(&self, index: usize, bytes: &[u8]) -> Result<(), SinkError> {
        S::put_chunk(self, index, bytes)
    }
}
