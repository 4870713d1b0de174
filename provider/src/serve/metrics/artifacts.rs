//! The counters of each artifact: how often it was asked for, how many of its bytes left, how often all of them.
//!
//! Only files that were really answered get counters, and at most [`ARTIFACTS_COUNTED_MAX`] of them; what comes after is
//! counted together. A path is looked up as it was asked for, without being decoded: another spelling is decoded once.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use crate::http::target::{self, ArtifactTarget, Target};
use crate::serve::limits::{ARTIFACTS_COUNTED_MAX, SPELLINGS_KEPT_MAX};
use crate::serve::metrics::{add, get};

/// The counters of one artifact.
#[derive(Debug)]
pub(crate) struct Artifact {
    /// `<channel>/<arch>/<file>`; nothing for the rest.
    pub(crate) name: Option<String>,
    requests: AtomicU64,
    bytes: AtomicU64,
    downloads: AtomicU64,
}

/// What was counted for one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// `<channel>/<arch>/<file>`; nothing for the rest.
    pub(crate) name: Option<String>,
    /// Requests answered with the artifact, a part of it, or that it did not change.
    pub(crate) requests: u64,
    /// Bytes of it that left.
    pub(crate) bytes: u64,
    /// Answers that carried all of it and left completely.
    pub(crate) downloads: u64,
}

/// The counters of all artifacts.
#[derive(Debug)]
pub(crate) struct Artifacts {
    known: RwLock<Known>,
    rest: Arc<Artifact>,
}

#[derive(Debug, Default)]
struct Known {
    by_path: HashMap<String, Arc<Artifact>>,
    by_name: HashMap<String, Arc<Artifact>>,
}

impl Default for Artifacts {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            rest: Artifact::new(None),
        }
    }
}

impl Artifact {
    fn new(name: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            name,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            downloads: AtomicU64::new(0),
        })
    }

    fn counted(&self) -> Counted {
        Counted {
            name: self.name.clone(),
            requests: get(&self.requests),
            bytes: get(&self.bytes),
            downloads: get(&self.downloads),
        }
    }
}

impl Artifacts {
    /// Counts an answer to a request for `path`: `sent` bytes, and whether that is a whole artifact.
    pub(crate) fn answered(&self, path: &str, status: u16, sent: u64, is_whole: bool) {
        // Others carry nothing of an artifact, or there is none.
        if !matches!(status, 200 | 206 | 304) {
            return;
        }
        let Some(artifact) = self.find(path) else {
            return;
        };
        add(&artifact.requests, 1);
        add(&artifact.bytes, sent);
        add(&artifact.downloads, u64::from(is_whole && status == 200));
    }

    fn find(&self, path: &str) -> Option<Arc<Artifact>> {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(artifact) = known.by_path.get(path) {
                return Some(Arc::clone(artifact));
            }
        }
        let name = match target::parse(path) {
            Target::Artifact(ArtifactTarget {
                channel,
                arch,
                name,
                ..
            }) => format!("{channel}/{arch}/{name}"),
            Target::Manifest(channel, arch) => {
                format!("{channel}/{arch}/{}", artifact_store::MANIFEST_FILE)
            }
            _ => return None,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let artifact = match known.by_name.get(&name) {
            Some(artifact) => Arc::clone(artifact),
            None if known.by_name.len() >= ARTIFACTS_COUNTED_MAX => Arc::clone(&self.rest),
            None => {
                let artifact = Artifact::new(Some(name.clone()));
                known.by_name.insert(name, Arc::clone(&artifact));
                artifact
            }
        };
        if known.by_path.len() < SPELLINGS_KEPT_MAX {
            known.by_path.insert(path.to_owned(), Arc::clone(&artifact));
        }
        Some(artifact)
    }

    /// What was counted, by name; the rest last, when there is one.
    pub(crate) fn counted(&self) -> Vec<Counted> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Counted> = known
            .by_name
            .values()
            .map(|artifact| artifact.counted())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let rest = self.rest.counted();
        all.extend((rest.requests > 0).then_some(rest));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_path_are_one_artifact() {
        let artifacts = Artifacts::default();
        artifacts.answered("/stable/x86_64/vmlinuz", 200, 10, true);
        artifacts.answered("//stable/amd64/%76mlinuz", 206, 4, true);
        artifacts.answered("/stable/x86_64/vmlinuz", 304, 0, true);
        artifacts.answered("/stable/x86_64/vmlinuz", 200, 3, false);
        artifacts.answered("/stable/x86_64/none", 404, 20, true);
        artifacts.answered("/health", 200, 20, true);
        assert_eq!(
            artifacts.counted(),
            [Counted {
                name: Some("stable/x86_64/vmlinuz".to_owned()),
                requests: 4,
                bytes: 17,
                downloads: 1,
            }]
        );
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let artifacts = Artifacts::default();
        let files = ARTIFACTS_COUNTED_MAX + 10;
        for file in 0..files {
            artifacts.answered(&format!("/stable/x86_64/f{file}"), 200, 1, true);
        }
        for slashes in 0..SPELLINGS_KEPT_MAX + 10 {
            let path = format!("{}stable/x86_64/f0", "/".repeat(slashes + 1));
            artifacts.answered(&path, 200, 1, false);
        }
        let counted = artifacts.counted();
        assert_eq!(counted.len(), ARTIFACTS_COUNTED_MAX + 1);
        assert_eq!(
            counted
                .last()
                .map(|rest| (rest.name.clone(), rest.requests)),
            Some((None, 10))
        );
        let first = counted
            .iter()
            .find(|one| one.name.as_deref() == Some("stable/x86_64/f0"));
        assert_eq!(
            first.map(|one| one.requests),
            Some(SPELLINGS_KEPT_MAX as u64 + 11)
        );
        let known = artifacts.known.read().unwrap();
        assert_eq!(known.by_path.len(), SPELLINGS_KEPT_MAX);
    }
}
