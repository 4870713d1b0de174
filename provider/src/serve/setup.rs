//! From arguments to the things they name, and the words for what is wrong with them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use artifact_store::OpenError;
use boot_manifest::limits::TRUST_ROOT_SIZE_MAX;
use boot_manifest::{SecretKey, TrustRoot};

use crate::exit::CommandError;
use crate::serve::args::SigningArgs;
use crate::serve::port_owner::{self, Protocol};
use crate::serve::signer::Signer;
use crate::trust;

/// The keys of a trust root or of a public key file.
pub(super) fn read_trust_root(path: &Path) -> Result<TrustRoot, CommandError> {
    let bytes = trust::read(path, TRUST_ROOT_SIZE_MAX, "trust root")?;
    if let Ok(key) = boot_manifest::PublicKey::parse(&bytes) {
        return Ok(TrustRoot::single(key));
    }
    TrustRoot::parse(&bytes).map_err(|error| {
        CommandError::local(format!("{}: {error}", path.display()))
            .hint("give a trust root (JSON) or a public key made by `plasmd key generate`")
    })
}

/// The file of the private key and what its manifests say, to be read again whenever the operator says so.
pub(crate) struct KeyFile {
    /// The private key.
    pub(super) path: PathBuf,
    /// What else is signed.
    pub(super) args: SigningArgs,
    /// Generation of the trust root the key belongs to.
    pub(super) generation: u64,
}

impl KeyFile {
    /// Reads the key.
    pub(crate) fn read(&self) -> Result<Signer, CommandError> {
        use std::os::unix::fs::PermissionsExt as _;

        let path = self.path.display();
        let failed = |error: io::Error| {
            CommandError::local(format!("{path}: {error}"))
                .hint("make a key with `plasmd key generate --out FILE`")
        };
        let mode = std::fs::metadata(&self.path)
            .map_err(failed)?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %path, "the private key can be read by others; run chmod 600 on it");
        }
        let pem = std::fs::read_to_string(&self.path).map_err(failed)?;
        let key = SecretKey::from_pem(&pem).map_err(|error| {
            CommandError::local(format!("{path}: {error}"))
                .hint("--key takes the private key that `plasmd key generate --out FILE` wrote to FILE, not FILE.pub")
        })?;
        Ok(Signer {
            key,
            generation: self.generation,
            sequence: self.args.sequence,
            security_version: self.args.security_version,
            release: self.args.release.clone(),
            cmdline: self.args.cmdline.clone(),
            valid_days: self.args.valid_days,
        })
    }
}

/// The artifacts directory cannot be opened.
pub(super) fn no_store(path: &Path, error: OpenError) -> CommandError {
    let hint = match error {
        OpenError::NotFound => {
            "create it with <channel>/<arch>/{vmlinuz,initramfs.img,rootfs.squashfs} inside, or name another with --artifacts"
        }
        OpenError::Permission => "run as a user that may read it, or name another with --artifacts",
        _ => "name a directory with --artifacts",
    };
    CommandError::local(format!("artifacts directory {}: {error}", path.display())).hint(hint)
}

/// Refuses a file or folder in the artifacts directory: everybody may fetch what lies there.
pub(super) fn keep_apart(artifacts: &Path, flag: &str, file: &Path) -> Result<(), CommandError> {
    let (Ok(artifacts), Ok(place)) = (artifacts.canonicalize(), real(file)) else {
        // What cannot be found is told by whoever opens it.
        return Ok(());
    };
    if !place.starts_with(&artifacts) {
        return Ok(());
    }
    Err(CommandError::local(format!(
        "{flag} {}: lies in the artifacts directory, where every client may fetch it",
        file.display()
    ))
    .hint("move it to a folder of its own, and make a new key if anybody could fetch this one"))
}

/// Where a file is, or will be.
fn real(file: &Path) -> io::Result<PathBuf> {
    if let Ok(found) = file.canonicalize() {
        return Ok(found);
    }
    let file = std::path::absolute(file)?;
    match (file.parent(), file.file_name()) {
        (Some(folder), Some(name)) => Ok(real(folder)?.join(name)),
        _ => Ok(file),
    }
}

/// The port cannot be had.
pub(super) fn cannot_listen(address: SocketAddr, error: &io::Error) -> CommandError {
    let (port, ip) = (address.port(), address.ip());
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = port_owner::find(port, Protocol::Tcp)
                .unwrap_or_else(|| "another process".to_owned());
            CommandError::local(format!(
                "cannot listen on {address}: the address is in use by {owner}"
            ))
            .hint("use --port to choose another port, or stop that process")
        }
        io::ErrorKind::PermissionDenied => CommandError::local(format!(
            "cannot listen on {address}: permission denied"
        ))
        .hint("ports below 1024 need root or CAP_NET_BIND_SERVICE; use --port to choose another"),
        io::ErrorKind::AddrNotAvailable => CommandError::local(format!(
            "cannot listen on {address}: this machine has no address {ip}"
        ))
        .hint("--bind takes an address of this machine, 0.0.0.0 (all of IPv4) or :: (all)"),
        _ => CommandError::local(format!("cannot listen on {address}: {error}"))
            .hint("check --bind and --port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_does_not_lie_where_everything_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = folder.path().join("artifacts");
        let inner = artifacts.join("stable/x86_64");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("a.key"), "").unwrap();
        std::fs::write(folder.path().join("b.key"), "").unwrap();
        std::os::unix::fs::symlink(inner.join("a.key"), folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink(&inner, folder.path().join("logs")).unwrap();
        for (file, is_apart) in [
            ("artifacts/stable/x86_64/a.key", false),
            ("artifacts/../artifacts/stable/x86_64/a.key", false),
            ("link", false),
            ("logs/none.log", false),
            ("artifacts/none/none", false),
            ("artifacts", false),
            ("b.key", true),
            ("artifacts-2/none", true),
            ("none/none", true),
        ] {
            let kept = keep_apart(&artifacts, "--key", &folder.path().join(file));
            assert_eq!(kept.is_ok(), is_apart, "{file}");
        }
    }
}
