//! Artifacts of which some is there: in sealed memory on the appliance, in a partial file elsewhere.

use std::fs::File;
use std::sync::Arc;

use artifact_store::PartialView;
use boot_manifest::Artifact;

use crate::sealed::Memory;

/// An artifact that is being fetched, or was. What is there stays there, with the bytes that were verified.
pub(crate) trait Held: Send + Sync + 'static {
    /// Which one.
    fn artifact(&self) -> &Artifact;

    /// Which of its chunks are there, one flag for each.
    fn there(&self) -> Vec<bool>;

    /// Where they lie, each at its own offset.
    fn file(&self) -> &Arc<File>;
}

impl Held for Memory {
    fn artifact(&self) -> &Artifact {
        Self::artifact(self)
    }

    fn there(&self) -> Vec<bool> {
        Self::there(self)
    }

    fn file(&self) -> &Arc<File> {
        Self::file(self)
    }
}

impl Held for PartialView {
    fn artifact(&self) -> &Artifact {
        Self::artifact(self)
    }

    fn there(&self) -> Vec<bool> {
        Self::there(self)
    }

    fn file(&self) -> &Arc<File> {
        Self::file(self)
    }
}
