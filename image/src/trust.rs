//! Who vouches for the image: the keys that sign it and the trust root it carries.
//!
//! Without `--key` a development key is made once and kept with the images. Everybody who can read the build machine can sign
//! with it, and the trust root says so. Keys are never printed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use boot_manifest::{
    Artifact, ArtifactHasher, ArtifactName, Channel, Expect, Expiry, FileName, Floor, Manifest,
    SecretKey, Timestamp, TrustRoot, Verified, verify,
};

use crate::facts;
use crate::paths::Paths;
use crate::stamp;

/// What an image believes by itself.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Its trust root.
    pub root: TrustRoot,
    /// The root chain beside it; empty when the keys were never replaced.
    pub roots: Vec<u8>,
}

impl Carried {
    /// The root that the chain leads to.
    ///
    /// # Errors
    /// When the chain does not lead on from the trust root.
    pub fn newest(&self) -> Result<TrustRoot> {
        if self.roots.is_empty() {
            return Ok(self.root.clone());
        }
        boot_manifest::walk_roots(&self.roots, &self.root)
            .context("the root chain does not lead on from the trust root")
    }
}

/// The keys and the root of one build.
pub struct Signers {
    keys: Vec<SecretKey>,
    /// The trust root the image is signed for: the one it carries, or the one that its chain leads to.
    pub root: TrustRoot,
    /// What the image carries.
    pub carried: Carried,
    /// The development key that was made just now, if one was.
    pub made: Option<PathBuf>,
}

impl Signers {
    /// Loads the keys and the root that were named, or the development key.
    ///
    /// # Errors
    /// When a file cannot be read, or is no key or trust root.
    pub fn load(
        paths: &Paths,
        keys: &[PathBuf],
        root: Option<&Path>,
        roots: Option<&Path>,
    ) -> Result<Self> {
        let development = keys.is_empty();
        let development_key = paths.keys().join("dev.key");
        let mut made = None;
        if development && !development_key.exists() {
            generate(&development_key)?;
            made = Some(development_key.clone());
        }
        let files = if development {
            vec![development_key]
        } else {
            keys.to_vec()
        };
        let keys = files
            .iter()
            .map(|file| load_key(file))
            .collect::<Result<Vec<_>>>()?;
        let root = match root {
            Some(file) => {
                let bytes =
                    std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
                TrustRoot::parse(&bytes)
                    .with_context(|| format!("{} is no trust root", file.display()))?
            }
            None => {
                let public = keys.iter().map(SecretKey::public).collect();
                TrustRoot::new(1, keys.len() as u64, public, development)?
            }
        };
        let roots = match roots {
            Some(file) => {
                std::fs::read(file).with_context(|| format!("read {}", file.display()))?
            }
            None => Vec::new(),
        };
        let carried = Carried { root, roots };
        Ok(Self {
            keys,
            root: carried.newest()?,
            carried,
            made,
        })
    }

    /// The keys that were named, or the development key that lies with a built image, for the root that the image carries.
    ///
    /// # Errors
    /// When there is no key, or a file is none.
    pub fn of_image(image: &Paths, keys: &[PathBuf], carried: Carried) -> Result<Self> {
        let development = [image.keys().join("dev.key")];
        let files = if keys.is_empty() { &development } else { keys };
        let keys = files
            .iter()
            .map(|file| load_key(file))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            keys,
            root: carried.newest()?,
            carried,
            made: None,
        })
    }

    /// Signs a manifest, and makes sure that an image with this root accepts it.
    ///
    /// # Errors
    /// When the keys are not enough for the trust root.
    pub fn sign(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let bytes = boot_manifest::sign(manifest, &self.keys.iter().collect::<Vec<_>>())?;
        self.check(&bytes, manifest.created_at)
            .context("the keys given cannot sign for the trust root given")?;
        Ok(bytes)
    }

    /// Signs the manifest of these artifacts, or returns `existing` when it still says exactly that and has time left.
    ///
    /// # Errors
    /// When the keys are not enough for the trust root, or an artifact is empty.
    pub fn manifest(
        &self,
        artifacts: &[(&str, &str, &[u8])],
        existing: Option<&[u8]>,
    ) -> Result<Signed> {
        let now = facts::signing_time()?;
        let wanted = self.unsigned(artifacts, now)?;
        if let Some(old) = existing.and_then(|bytes| self.check(bytes, now).ok()) {
            let fixed = facts::source_date_epoch()?.is_some();
            let renewal = now.plus_days(facts::RENEWAL_DAYS);
            let undated = Manifest {
                sequence: wanted.sequence,
                created_at: wanted.created_at,
                expires_at: wanted.expires_at,
                ..(*old).clone()
            };
            if undated == wanted && old.expires_at > renewal && (!fixed || old.created_at == now) {
                return Ok(Signed {
                    bytes: old.bytes().to_vec(),
                    reused: true,
                });
            }
        }
        Ok(Signed {
            bytes: self.sign(&wanted)?,
            reused: false,
        })
    }

    fn unsigned(&self, artifacts: &[(&str, &str, &[u8])], now: Timestamp) -> Result<Manifest> {
        let mut listed = artifacts.iter().map(artifact).collect::<Result<Vec<_>>>()?;
        listed.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        Ok(Manifest {
            generation: self.root.generation(),
            // Seconds since 1970: every later signing is a newer version, wherever it happens.
            sequence: now.unix().max(1).unsigned_abs(),
            security_version: facts::SECURITY_VERSION,
            version: facts::VERSION.into(),
            channel: channel(),
            arch: facts::ARCH,
            created_at: now,
            expires_at: now.plus_days(facts::VALIDITY_DAYS),
            cmdline: facts::CMDLINE.into(),
            artifacts: listed,
        })
    }

    fn check(&self, bytes: &[u8], now: Timestamp) -> Result<Verified<Manifest>> {
        verify_image(bytes, &self.root, now)
    }
}

/// A signed manifest.
pub struct Signed {
    /// The complete `manifest.json`.
    pub bytes: Vec<u8>,
    /// Whether it is the one that was there before.
    pub reused: bool,
}

/// Verifies a manifest as a client of this channel would at the time `now`.
///
/// # Errors
/// With the reason why it is not to be believed.
pub fn verify_image(bytes: &[u8], root: &TrustRoot, now: Timestamp) -> Result<Verified<Manifest>> {
    let channel = channel();
    let expect = Expect {
        now,
        floor: Floor {
            security_version: facts::SECURITY_VERSION,
            sequence: 0,
        },
        channel: Some(&channel),
        arch: Some(facts::ARCH),
        expiry: Expiry::Refuse,
    };
    Ok(verify(bytes, root, &expect)?)
}

/// What a manifest says that this root vouches for, however old it is.
///
/// # Errors
/// With the reason why it is not to be believed.
pub fn verify_ever(bytes: &[u8], root: &TrustRoot) -> Result<Manifest> {
    let expect = Expect {
        now: facts::signing_time()?,
        floor: Floor::default(),
        channel: None,
        arch: None,
        expiry: Expiry::Report,
    };
    Ok((*verify(bytes, root, &expect)?).clone())
}

/// The channel as a checked name.
pub fn channel() -> Channel {
    facts::CHANNEL
        .parse()
        .expect("the channel constant is a channel name")
}

/// What a manifest says of one file: its name, its file name, its bytes.
///
/// # Errors
/// When the file is empty or a name is none.
pub fn artifact((name, filename, content): &(&str, &str, &[u8])) -> Result<Artifact> {
    let mut hasher =
        ArtifactHasher::new(content.len() as u64).with_context(|| format!("hash {filename}"))?;
    hasher.update(content);
    let (digest, chunks) = hasher.finish()?;
    let name: ArtifactName = name.parse()?;
    let filename: FileName = filename.parse()?;
    Ok(Artifact {
        name,
        filename,
        size: content.len() as u64,
        digest,
        chunks,
    })
}

fn load_key(file: &Path) -> Result<SecretKey> {
    let pem = std::fs::read_to_string(file)
        .with_context(|| format!("read the key {}", file.display()))?;
    SecretKey::from_pem(&pem)
        .with_context(|| format!("{} is no Ed25519 private key in PEM", file.display()))
}

/// Makes a key pair: `file`, readable by its owner only, and `file.pub`.
fn generate(file: &Path) -> Result<()> {
    let mut seed = [0; 32];
    let random = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed));
    random.context("read /dev/urandom")?;
    ensure!(seed != [0; 32], "/dev/urandom gave zeros only");
    let key = SecretKey::from_seed(seed);
    let public = file.with_extension("key.pub");
    stamp::write(&public, key.public().to_pem().as_bytes())?;
    stamp::write_with_mode(file, key.to_pem().as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &Path) -> Paths {
        Paths::new(folder.into(), folder.join("out"))
    }

    const PARTS: &[(&str, &str, &[u8])] = &[
        ("kernel", "vmlinuz", b"kernel bytes"),
        ("initramfs", "initramfs.img", b"initramfs bytes"),
    ];

    #[test]
    fn the_development_key_is_made_once_for_its_owner_only_and_marked() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let first = Signers::load(&paths, &[], None, None).unwrap();
        let made = first.made.expect("the first use makes a key");
        assert_eq!(
            std::fs::metadata(&made).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(first.root.is_development());
        let second = Signers::load(&paths, &[], None, None).unwrap();
        assert!(second.made.is_none());
        assert_eq!(first.root.fingerprint(), second.root.fingerprint());
        let named = Signers::load(&paths, &[made], None, None).unwrap();
        assert!(!named.root.is_development());
    }

    #[test]
    fn a_manifest_is_signed_again_only_when_something_changed() {
        let folder = tempfile::tempdir().unwrap();
        let signers = Signers::load(&paths(folder.path()), &[], None, None).unwrap();
        let first = signers.manifest(PARTS, None).unwrap();
        assert!(!first.reused);
        let second = signers.manifest(PARTS, Some(&first.bytes)).unwrap();
        assert!(second.reused && second.bytes == first.bytes);
        let other = [PARTS[0], ("initramfs", "initramfs.img", &b"other"[..])];
        assert!(!signers.manifest(&other, Some(&first.bytes)).unwrap().reused);
        let mut damaged = first.bytes.clone();
        damaged[20] ^= 1;
        assert!(!signers.manifest(PARTS, Some(&damaged)).unwrap().reused);

        let stranger =
            Signers::load(&paths(&folder.path().join("other")), &[], None, None).unwrap();
        assert!(!stranger.manifest(PARTS, Some(&first.bytes)).unwrap().reused);
    }

    #[test]
    fn a_key_the_trust_root_does_not_know_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mine = Signers::load(&paths(folder.path()), &[], None, None).unwrap();
        let root = folder.path().join("root.json");
        std::fs::write(&root, mine.root.to_json()).unwrap();
        let stranger =
            Signers::load(&paths(&folder.path().join("other")), &[], Some(&root), None).unwrap();
        let error = stranger
            .manifest(PARTS, None)
            .err()
            .expect("a stranger cannot sign");
        assert!(
            format!("{error:#}").contains("cannot sign for the trust root"),
            "{error:#}"
        );
    }

    #[test]
    fn odd_files_are_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let odd = folder.path().join("odd");
        let check = |keys: &[PathBuf], root: Option<&Path>, expected: &str| {
            let error = Signers::load(&paths, keys, root, None)
                .err()
                .expect("an odd file is refused");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        };
        check(std::slice::from_ref(&odd), None, "read the key");
        std::fs::write(&odd, "no key").unwrap();
        check(std::slice::from_ref(&odd), None, "no Ed25519 private key");
        check(&[], Some(&odd), "no trust root");
    }
}
