//! The key by which others know this node. It proves that two messages come from one node, and nothing else.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{Keypair, ed25519};

/// The file in the state folder: 64 hex digits.
const KEY_FILE: &str = "peer.key";

/// The digits and a line end.
const KEY_FILE_SIZE: usize = 65;

/// A peer key.
#[derive(Clone)]
pub struct Identity {
    key: ed25519::Keypair,
    peer: PeerId,
}

/// The peer key cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct IdentityError {
    path: PathBuf,
    source: io::Error,
}

impl Identity {
    /// A new one that is kept nowhere.
    pub fn generate() -> Self {
        Self::from(ed25519::Keypair::generate())
    }

    /// The one in a folder of this node's state; makes the folder and the key when they are missing. A damaged key is
    /// replaced, with a warning: others then take this node for a new one. Call it before a sandbox is entered.
    pub fn load_or_make(folder: &Path) -> Result<Self, IdentityError> {
        let path = folder.join(KEY_FILE);
        let failed = |source| IdentityError {
            path: path.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        match read(&path) {
            Ok(Some(identity)) => return Ok(identity),
            Ok(None) => {
                tracing::warn!(path = %path.display(), "the peer key is damaged: a new one is made");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let identity = Self::generate();
        let mut text: String = (identity.key.secret().as_ref().iter())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        text.push('\n');
        write_private(&path, text.as_bytes()).map_err(failed)?;
        Ok(identity)
    }

    /// The name others know this node by, `12D3KooW...`.
    pub fn peer_id(&self) -> String {
        self.peer.to_base58()
    }

    pub(super) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(super) fn ed25519(&self) -> &ed25519::Keypair {
        &self.key
    }

    pub(super) fn keypair(&self) -> Keypair {
        Keypair::from(self.key.clone())
    }
}

impl From<ed25519::Keypair> for Identity {
    fn from(key: ed25519::Keypair) -> Self {
        let peer = Keypair::from(key.clone()).public().to_peer_id();
        Self { key, peer }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.peer).finish()
    }
}

/// `None` when there is something else than a key.
fn read(path: &Path) -> io::Result<Option<Identity>> {
    let mut text = Vec::new();
    let limit = u64::try_from(KEY_FILE_SIZE + 1).unwrap_or(u64::MAX);
    File::open(path)?.take(limit).read_to_end(&mut text)?;
    Ok(parse(&text))
}

fn parse(text: &[u8]) -> Option<Identity> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let seed: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect();
    let secret = ed25519::SecretKey::try_from_bytes(seed?).ok()?;
    Some(Identity::from(ed25519::Keypair::from(secret)))
}

/// Writes a file only its owner may read: complete or not at all, and on the disk when this returns.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // What an interrupted write left.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_for_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state/dht-v1");
        let first = Identity::load_or_make(&folder).unwrap();
        let again = Identity::load_or_make(&folder).unwrap();
        assert_eq!(first.peer_id(), again.peer_id());
        assert!(first.peer_id().starts_with("12D3KooW"));
        for (path, expected) in [(folder.clone(), 0o700), (folder.join(KEY_FILE), 0o600)] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected, "{}", path.display());
        }
        assert_ne!(Identity::generate().peer_id(), first.peer_id());
        assert!(
            !format!("{first:?}").contains(&fs::read_to_string(folder.join(KEY_FILE)).unwrap())
        );
    }

    #[test]
    fn a_damaged_key_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        for text in [
            "",
            "abc",
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(1000),
        ] {
            fs::write(&path, text).unwrap();
            let made = Identity::load_or_make(folder.path()).unwrap();
            let again = Identity::load_or_make(folder.path()).unwrap();
            assert_eq!(made.peer_id(), again.peer_id(), "{text:?}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Identity::load_or_make(&file.join("dht-v1")).unwrap_err();
        assert!(error.to_string().contains("dht-v1"), "{error}");
    }
}
