//! `plasmd key`: signing keys and trust roots. Private keys are written once, readable to their owner only, and never
//! printed.

pub(crate) mod files;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use boot_manifest::limits::KEY_FILE_SIZE_MAX;
use boot_manifest::{PublicKey, SecretKey, TrustRoot};
use serde_json::json;
use zeroize::Zeroizing;

use crate::exit::{CommandError, Exit};
use crate::out;
use crate::trust;

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a signing key: FILE (private, mode 0600) and FILE.pub
    Generate(GenerateArgs),
    /// Show the key_id and the public key of a private or public key file
    Show {
        /// A key file: private PEM, or public in any form
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a trust root: the keys a machine believes, and how many of them must sign
    Trust {
        /// A trusted public key; repeat for several
        #[arg(short, long = "key", value_name = "FILE.pub", required = true)]
        keys: Vec<PathBuf>,
        /// Signatures by different keys that a manifest needs
        #[arg(short, long, default_value_t = 1)]
        threshold: u64,
        /// Generation of the keys; manifests must carry the same
        #[arg(long, default_value_t = 1)]
        generation: u64,
        /// Mark the keys as development keys, which every tool then mentions
        #[arg(long)]
        development: bool,
        /// Where the trust root goes; "-" is the standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
        /// Replace an existing trust root
        #[arg(long)]
        force: bool,
    },
}

/// `plasmd key generate`, also typed as `plasmd generate-key --output FILE`.
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// Where the private key goes; an existing file is never overwritten
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Result<Exit, CommandError> {
    let text = match command {
        Command::Generate(args) => generate(&args.out)?,
        Command::Show { file, json } => show(&file, json)?,
        Command::Trust {
            keys,
            threshold,
            generation,
            development,
            out,
            force,
        } => {
            let keys = keys
                .iter()
                .map(|file| load_public(file))
                .collect::<Result<_, _>>()?;
            let root = TrustRoot::new(generation, threshold, keys, development)
                .map_err(|error| CommandError::usage(error.to_string()))?;
            write_trust_root(&root, &out, force)?
        }
    };
    out::exactly(text);
    Ok(Exit::Done)
}

fn generate(out: &Path) -> Result<String, CommandError> {
    let public_file = files::public_path(out);
    for file in [out, &public_file] {
        if file.symlink_metadata().is_ok() {
            return Err(exists(file));
        }
    }
    let key = SecretKey::from_seed(*random_seed()?);
    let public = key.public();
    files::create_new(out, 0o600, key.to_pem().as_bytes())
        .map_err(|error| unwritable(out, &error))?;
    files::create_new(&public_file, 0o644, public.to_pem().as_bytes()).map_err(|error| {
        // Without its public half the key is of no use, and the next try would find it in the way.
        let _ = std::fs::remove_file(out);
        unwritable(&public_file, &error)
    })?;
    Ok(format!(
        "key_id      {}\nprivate key {} (keep it secret, keep a copy)\npublic key  {} (give it to those who shall trust you)\n",
        public.key_id(),
        out.display(),
        public_file.display()
    ))
}

/// 32 bytes from the kernel, which blocks until its generator is seeded.
fn random_seed() -> Result<Zeroizing<[u8; 32]>, CommandError> {
    let mut seed = Zeroizing::new([0; 32]);
    let flags = rustix::rand::GetRandomFlags::empty();
    let mut filled = 0;
    while filled < seed.len() {
        match rustix::rand::getrandom(&mut seed[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(CommandError::local(format!(
                    "no random numbers from the kernel: {error}"
                )));
            }
        }
    }
    Ok(seed)
}

fn show(file: &Path, json: bool) -> Result<String, CommandError> {
    let bytes = Zeroizing::new(trust::read(file, KEY_FILE_SIZE_MAX, "key")?);
    let secret = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| SecretKey::from_pem(text).ok());
    let private = secret.is_some();
    let public = match secret {
        Some(secret) => secret.public(),
        None => PublicKey::parse(&bytes)
            .map_err(|error| CommandError::failed(format!("{}: {error}", file.display())))?,
    };
    let hex: String = public
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if json {
        let value = json!({
            "key_id": public.key_id(),
            "algorithm": "ed25519",
            "public_key": hex,
            "private": private,
        });
        return Ok(format!("{value:#}\n"));
    }
    let kind = if private {
        "private key (not shown)"
    } else {
        "public key"
    };
    Ok(format!(
        "key_id      {}\nfile        {}: {kind}\npublic key  {hex}\n{}",
        public.key_id(),
        file.display(),
        public.to_pem()
    ))
}

fn write_trust_root(root: &TrustRoot, out: &Path, force: bool) -> Result<String, CommandError> {
    if out == Path::new("-") {
        return Ok(root.to_json());
    }
    let bytes = root.to_json();
    let written = if force {
        files::write_atomic(out, bytes.as_bytes())
    } else {
        files::create_new(out, 0o644, bytes.as_bytes())
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            exists(out).hint("--force replaces it: machines with the new one believe its keys only")
        }
        _ => unwritable(out, &error),
    })?;
    let ids: Vec<String> = root.key_ids().iter().map(ToString::to_string).collect();
    Ok(format!(
        "trust root  {}\nkeys        {} ({} of {} must sign)\n",
        out.display(),
        ids.join(", "),
        root.threshold(),
        ids.len()
    ))
}

/// Reads a private key for signing. Says so when others can read the file too.
pub(crate) fn load_secret(file: &Path) -> Result<SecretKey, CommandError> {
    let bytes = Zeroizing::new(trust::read(file, KEY_FILE_SIZE_MAX, "private key")?);
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(file = %file.display(), "others on this machine can read the private key: chmod 600");
    }
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    SecretKey::from_pem(text).map_err(|error| {
        let failed = CommandError::failed(format!("{}: {error}", file.display()));
        match PublicKey::parse(&bytes) {
            Ok(_) => failed.hint("this is a public key: name the file without .pub"),
            Err(_) => failed.hint("make one with: plasmd key generate --out FILE"),
        }
    })
}

pub(crate) fn load_public(file: &Path) -> Result<PublicKey, CommandError> {
    let bytes = Zeroizing::new(trust::read(file, KEY_FILE_SIZE_MAX, "public key")?);
    PublicKey::parse(&bytes)
        .map_err(|error| CommandError::failed(format!("{}: {error}", file.display())))
}

fn exists(file: &Path) -> CommandError {
    CommandError::local(format!(
        "{}: exists already and is not overwritten",
        file.display()
    ))
    .hint("choose another name, or move the file away")
}

/// A file that cannot be written, and what can be done about the usual reasons.
pub(crate) fn unwritable(file: &Path, error: &io::Error) -> CommandError {
    let failed = CommandError::local(format!("{}: cannot be written: {error}", file.display()));
    match error.kind() {
        io::ErrorKind::AlreadyExists => exists(file),
        io::ErrorKind::NotFound => failed.hint("make its directory first"),
        io::ErrorKind::PermissionDenied => {
            failed.hint("choose a directory you can write to, or use sudo")
        }
        _ => failed,
    }
}

#[cfg(test)]
mod tests;
