//! Which keys the client tools believe, where that was configured, and what the clock says.
//!
//! There is no built-in key and no way to switch verification off: without a configured trust root a tool says so and
//! ends.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use boot_manifest::limits::{KEY_FILE_SIZE_MAX, TRUST_ROOT_SIZE_MAX};
use boot_manifest::{
    ChainedError, Manifest, PublicKey, ROOT_CHAIN_SIZE_MAX, Timestamp, TrustRoot, Verified,
    VerifyError,
};
use serde_json::{Value, json};

use crate::exit::CommandError;

/// Where a machine keeps its trust root.
pub(crate) const TRUST_ROOT_FILE: &str = "/etc/phase/trust-root.json";

/// The flags that name trusted keys.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Trust this one public key (PEM, 32 raw bytes, hex or base64)
    #[arg(
        short,
        long,
        alias = "pubkey",
        value_name = "FILE.pub",
        conflicts_with = "trust_root"
    )]
    key: Option<PathBuf>,
    /// Trust the keys of this trust root [default: /etc/phase/trust-root.json]
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
}

/// What is trusted, and who said so.
pub(crate) struct Trust {
    /// The keys.
    pub(crate) root: TrustRoot,
    /// The file they came from.
    pub(crate) file: PathBuf,
}

impl Args {
    /// Whether a key was named, or this machine has a trust root of its own.
    pub(crate) fn is_configured(&self) -> bool {
        self.key.is_some() || self.trust_root.is_some() || Path::new(TRUST_ROOT_FILE).exists()
    }

    /// Reads the key or trust root that was asked for, else the machine's own.
    pub(crate) fn load(&self) -> Result<Trust, CommandError> {
        if let Some(file) = &self.key {
            let bytes = read(file, KEY_FILE_SIZE_MAX, "key")?;
            let key = PublicKey::parse(&bytes).map_err(|error| {
                let failed = CommandError::failed(format!("{}: {error}", file.display()));
                match TrustRoot::parse(&bytes) {
                    Ok(_) => failed.hint(format!(
                        "this is a trust root: use --trust-root {}",
                        file.display()
                    )),
                    Err(_) => failed,
                }
            })?;
            return Ok(Trust {
                root: TrustRoot::single(key),
                file: file.clone(),
            });
        }
        let (file, configured) = match &self.trust_root {
            Some(file) => (file.clone(), true),
            None => (PathBuf::from(TRUST_ROOT_FILE), false),
        };
        if !configured && !file.exists() {
            let message =
                format!("no key is trusted on this machine: there is no {TRUST_ROOT_FILE}");
            return Err(CommandError::local(message)
                .hint("name the publisher's public key with -k FILE.pub, or a trust root with --trust-root FILE"));
        }
        Ok(Trust {
            root: load_root(&file)?,
            file,
        })
    }
}

impl Trust {
    /// What every object for programs tells about a manifest that was verified, and who vouched for it.
    pub(crate) fn head(&self, manifest: &Verified<Manifest>) -> Value {
        json!({
            "manifest_version": manifest.sequence,
            "version": manifest.version,
            "channel": manifest.channel,
            "arch": manifest.arch,
            "key_id": manifest.signers().first(),
            "key_ids": manifest.signers(),
            "trusted_by": self.file.display().to_string(),
            "development_key": self.root.is_development(),
            "expired": manifest.expired(),
        })
    }

    /// The warning that belongs on every result under a development key.
    pub(crate) fn development_note(&self) -> Option<&'static str> {
        self.root
            .is_development()
            .then_some("a development key is trusted: whoever has the build machine can sign")
    }
}

/// Reads a trust root.
pub(crate) fn load_root(file: &Path) -> Result<TrustRoot, CommandError> {
    let bytes = read(file, TRUST_ROOT_SIZE_MAX, "trust root")?;
    TrustRoot::parse(&bytes).map_err(|error| {
        let failed = CommandError::failed(format!("{}: {error}", file.display()));
        match PublicKey::parse(&bytes) {
            Ok(_) => failed.hint(format!(
                "this is a single public key: use -k {}",
                file.display()
            )),
            Err(_) => failed,
        }
    })
}

/// What to try when a root chain is bad.
pub(crate) const ROOTS_HINT: &str = "the publisher's keys were replaced, and what shall lead to the new ones is not sound: use another provider, or get the new trust root from the publisher";

/// The root chain beside a manifest, if there is one.
pub(crate) fn roots_beside(manifest: &Path) -> Result<Option<Vec<u8>>, CommandError> {
    let file = manifest.with_file_name(artifact_store::ROOTS_FILE);
    // The standard input has no folder.
    if manifest == Path::new("-") || !file.exists() {
        return Ok(None);
    }
    read(&file, ROOT_CHAIN_SIZE_MAX, "root chain").map(Some)
}

/// A manifest file that was refused, with what can be done about it.
pub(crate) fn refused(file: &Path, error: &ChainedError) -> CommandError {
    let failed = CommandError::failed(format!("{}: {error}", file.display()));
    let hint = match error {
        ChainedError::Chain(_) => Some(ROOTS_HINT),
        ChainedError::Manifest(error) => hint(error),
    };
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// Reads a small file; one byte above the limit is left to the parser to refuse.
pub(crate) fn read(file: &Path, size_max: usize, what: &str) -> Result<Vec<u8>, CommandError> {
    read_limited(file, size_max).map_err(|error| {
        CommandError::local(format!(
            "{}: the {what} cannot be read: {error}",
            file.display()
        ))
    })
}

fn read_limited(file: &Path, size_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(size_max)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The time of this machine's clock; a clock before 1970 reads as 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// What a person can try when a manifest was refused.
pub(crate) fn hint(error: &VerifyError) -> Option<&'static str> {
    Some(match error {
        VerifyError::Expired { .. } => {
            "check this machine's clock, or ask the publisher for a newer manifest (--allow-expired accepts an old one, and says so in the log)"
        }
        VerifyError::NotYetValid { .. } => "check this machine's clock",
        VerifyError::UnknownKey { .. } => {
            "if you trust the publisher, get its public key from them (not from the provider) and name it with -k FILE.pub"
        }
        VerifyError::BadSignature(_) | VerifyError::ViewDiffers(_) => {
            "the manifest was changed after it was signed: fetch it again, from another provider if need be"
        }
        VerifyError::ReEncoded => "keep the file as it was served: do not edit or reformat it",
        VerifyError::VersionTooLow { .. } => "an older version was offered: fetch the current one",
        VerifyError::NotSigned => "the publisher signs with: plasmd manifest sign",
        VerifyError::WrongGeneration { .. } => {
            "the trust root of this machine and the signing keys are of different generations"
        }
        VerifyError::TooLarge(_)
        | VerifyError::Malformed(_)
        | VerifyError::DuplicateField(_)
        | VerifyError::TrailingBytes
        | VerifyError::WrongPayloadType(_)
        | VerifyError::TooManySignatures(_)
        | VerifyError::DuplicateSignature(_)
        | VerifyError::ThresholdNotMet { .. }
        | VerifyError::WrongChannel { .. }
        | VerifyError::WrongArch { .. }
        | VerifyError::Invalid(_) => return None,
    })
}
