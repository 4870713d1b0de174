//! Whose manifests `/health` believes: read from a file, and again whenever the operator says so.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use boot_manifest::TrustRoot;

use crate::exit::CommandError;
use crate::serve::reload::Outcome;
use crate::serve::setup::read_trust_root;

/// The trust root in force, and its file. Without a file nobody in particular is believed.
#[derive(Debug)]
pub(crate) struct Trusted {
    file: Option<PathBuf>,
    root: RwLock<Option<Arc<TrustRoot>>>,
}

impl Trusted {
    /// Reads it for the first time.
    pub(super) fn open(file: Option<PathBuf>) -> Result<Self, CommandError> {
        let root = file.as_deref().map(read_trust_root).transpose()?;
        Ok(Self {
            file,
            root: RwLock::new(root.map(Arc::new)),
        })
    }

    /// The one in force.
    pub(crate) fn root(&self) -> Option<Arc<TrustRoot>> {
        self.root
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads it again; a bad one leaves the old one in force. What is signed here names the generation of its keys from the
    /// start on, so with `signs` another generation needs a restart as well.
    pub(super) fn reload(&self, signs: bool) -> Result<Outcome, CommandError> {
        let Some(file) = &self.file else {
            return Ok(Outcome::Same);
        };
        let fresh = Arc::new(read_trust_root(file)?);
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let old = root.replace(Arc::clone(&fresh));
        if old.as_ref() == Some(&fresh) {
            return Ok(Outcome::Same);
        }
        let generation = old.map(|old| old.generation());
        if signs && generation != Some(fresh.generation()) {
            let what = "trust_root (the generation of manifests that are signed here)";
            return Ok(Outcome::NeedsRestart(what.to_owned()));
        }
        Ok(Outcome::Changed)
    }
}

#[cfg(test)]
mod tests {
    use boot_manifest::SecretKey;

    use super::*;

    #[test]
    fn a_bad_one_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root");
        let key = |seed: u8| SecretKey::from_seed([seed; 32]).public();
        let write = |generation, seed| {
            let root = TrustRoot::new(generation, 1, vec![key(seed)], false).unwrap();
            std::fs::write(&file, root.to_json()).unwrap();
        };
        write(1, 1);
        let trusted = Trusted::open(Some(file.clone())).unwrap();
        assert_eq!(trusted.reload(true).unwrap(), Outcome::Same);
        write(1, 2);
        let before = trusted.root().unwrap();
        assert_eq!(trusted.reload(true).unwrap(), Outcome::Changed);
        let after = trusted.root().unwrap();
        assert_ne!(before, after);
        std::fs::write(&file, "none").unwrap();
        assert!(trusted.reload(true).is_err());
        assert_eq!(trusted.root().unwrap(), after);
        write(2, 2);
        assert!(matches!(
            trusted.reload(true).unwrap(),
            Outcome::NeedsRestart(_)
        ));
        assert_eq!(trusted.root().unwrap().generation(), 2);
        assert_eq!(
            Trusted::open(None).unwrap().reload(true).unwrap(),
            Outcome::Same
        );
    }
}
