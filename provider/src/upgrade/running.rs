//! What runs on this machine: the manifest that is served, and the keys that are in force.

use std::path::{Path, PathBuf};

use boot_manifest::limits::ROOT_CHAIN_SIZE_MAX;
use boot_manifest::{
    Counters, Digest, Expect, Expiry, Floor, MANIFEST_SIZE_MAX, Manifest, Timestamp, TrustRoot,
    Verified, verify_chained,
};

use crate::exit::CommandError;
use crate::trust;

/// The chain of root documents lies beside the manifest, here and at every provider.
pub(super) const ROOTS_FILE: &str = "roots.json";

/// The image that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) manifest: Verified<Manifest>,
    /// The newest root that its chain leads to.
    pub(super) root: TrustRoot,
    /// The clock cannot be right before this.
    built_at: Timestamp,
}

impl Running {
    /// Reads and verifies what init put there. Its age does not matter: expiry stops upgrading, never serving.
    pub(super) fn read(
        file: &Path,
        trust_root: &Path,
        built_at: i64,
    ) -> Result<Self, CommandError> {
        let start = trust::load_root(trust_root)?;
        let bytes = trust::read(file, MANIFEST_SIZE_MAX, "manifest that runs")?;
        let beside = beside(file);
        let roots = match beside.exists() {
            true => Some(trust::read(&beside, ROOT_CHAIN_SIZE_MAX, "root chain")?),
            false => None,
        };
        let built_at = Timestamp::from_unix(built_at);
        let chained = verify_chained(&bytes, roots.as_deref(), &start, &expect(built_at, None));
        let chained = chained.map_err(|error| {
            let file = file.display();
            CommandError::failed(format!("{file}: {}: {error}", error.code()))
        })?;
        Ok(Self {
            built_at: built_at.max(chained.manifest.created_at),
            manifest: chained.manifest,
            root: chained.root,
        })
    }

    /// What another manifest must be to be looked at. Whether it is newer, and expired, is decided afterwards.
    pub(super) fn expect(&self) -> Expect<'_> {
        expect(self.built_at, Some(&self.manifest))
    }

    pub(super) fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    pub(super) fn counters(&self) -> Counters {
        Counters::from(&*self.manifest)
    }
}

/// The order of releases is that of their numbers. A clock that is wrong must neither hide a newer one nor admit an older
/// one, so times are only reported; who decides about an offer refuses an expired one.
fn expect(built_at: Timestamp, running: Option<&Manifest>) -> Expect<'_> {
    Expect {
        now: trust::now().max(built_at),
        floor: Floor::default(),
        channel: running.map(|manifest| &manifest.channel),
        arch: running.map(|manifest| manifest.arch),
        expiry: Expiry::Report,
    }
}

fn beside(file: &Path) -> PathBuf {
    file.with_file_name(ROOTS_FILE)
}
