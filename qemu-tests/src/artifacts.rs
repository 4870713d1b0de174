//! The built images: where `cargo appliance build` left them, and what a test may ask about them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use boot_manifest::{Expect, Expiry, Floor, Manifest, SecretKey, Timestamp, TrustRoot, verify};

/// Overrides where the images are.
const FOLDER_VARIABLE: &str = "PHASE_APPLIANCE_DIR";
/// What the tests boot, serve or run.
pub(crate) const NEEDED: &[&str] = &[
    "vmlinuz",
    "initramfs.img",
    "rootfs.squashfs",
    "manifest.json",
    "phase.efi",
    "phase.img",
    "trust-root.json",
    "keys/dev.key",
    "keys/dev.key.pub",
    "plasmd",
];

/// The folder of built images, complete.
#[derive(Clone, Debug)]
pub struct Images {
    folder: PathBuf,
}

impl Images {
    /// The images in `target/appliance`, or where `PHASE_APPLIANCE_DIR` says.
    ///
    /// # Errors
    /// The first one that is missing.
    pub fn find() -> Result<Self> {
        Self::at(folder())
    }

    /// The images in `folder`.
    ///
    /// # Errors
    /// The first one that is missing.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self> {
        let images = Self {
            folder: folder.into(),
        };
        for name in NEEDED {
            ensure!(
                images.path(name).exists(),
                "{} is not built: run `cargo appliance build`",
                images.path(name).display()
            );
        }
        Ok(images)
    }

    /// Where they lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of an image.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The bytes of an image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The trust root that is built into the images.
    ///
    /// # Errors
    /// When it is no trust root.
    pub fn trust_root(&self) -> Result<TrustRoot> {
        TrustRoot::parse(&self.bytes("trust-root.json")?).context("trust-root.json")
    }

    /// The key the images were signed with: a development key, made on this machine.
    ///
    /// # Errors
    /// When it is no key.
    pub fn development_key(&self) -> Result<SecretKey> {
        let pem = String::from_utf8(self.bytes("keys/dev.key")?)?;
        SecretKey::from_pem(&pem).context("keys/dev.key")
    }

    /// What the manifest says, verified with the trust root as a client would.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn manifest(&self) -> Result<Manifest> {
        let bytes = self.bytes("manifest.json")?;
        let expect = Expect {
            now: now()?,
            floor: Floor::default(),
            channel: None,
            arch: None,
            expiry: Expiry::Refuse,
        };
        let verified = verify(&bytes, &self.trust_root()?, &expect).context("manifest.json")?;
        Ok((*verified).clone())
    }

    /// Where the logs of the test `name` go: an empty folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn logs(name: &str) -> Result<PathBuf> {
        let logs = folder().join("logs/qemu").join(name);
        match std::fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("empty {}: {error}", logs.display())
            }
            _ => {}
        }
        std::fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
        Ok(logs)
    }
}

/// The root of the source tree.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The time on this machine's clock.
///
/// # Errors
/// When the clock is before 1970.
pub fn now() -> Result<Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Timestamp::from_unix(i64::try_from(since.as_secs())?))
}

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return folder.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(target).join("appliance")
}
