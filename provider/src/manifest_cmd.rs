//! `plasmd manifest`: what publishers do with manifests on their own machine. Uses no network.
//!
//! A manifest is made once (`create`), signed by one or several keys (`create --key`, `sign`), and then served unchanged
//! by any number of providers. A draft is the same file without signatures, so keys may live on different machines.

mod create;
mod report;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use boot_manifest::{
    Arch, Channel, Expect, Expiry, Floor, MANIFEST_SIZE_MAX, Manifest, SecretKey, SignError,
    TrustRoot, Verified, VerifyError, add_signature, merge_signatures, unverified_payload, verify,
    view,
};

use crate::exit::{CommandError, Exit};
use crate::key::{self, files};
use crate::out;
use crate::trust::{self, Trust};

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a manifest of the artifacts in a directory; with --key also sign it
    #[command(alias = "generate")]
    Create(create::Args),
    /// Add signatures to a manifest or draft
    Sign {
        /// The manifest
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Sign with this private key; repeat for several
        #[arg(short, long = "key", value_name = "FILE", required = true)]
        keys: Vec<PathBuf>,
        /// Where the signed manifest goes [default: FILE itself]; "-" is the standard output
        #[arg(short, long, alias = "output", value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Join copies of one manifest or draft that were signed on different machines
    Merge {
        /// The copies
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Where the joined manifest goes; "-" is the standard output
        #[arg(short, long, alias = "output", value_name = "FILE")]
        out: PathBuf,
    },
    /// Print what a manifest says, which proves nothing unless a trusted key is named
    Show {
        /// The manifest
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Verify it with this public key
        #[arg(short, long, value_name = "FILE.pub", conflicts_with = "trust_root")]
        key: Option<PathBuf>,
        /// Verify it with this trust root
        #[arg(long, value_name = "FILE")]
        trust_root: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Verify a manifest with the trusted keys of this machine, or those named
    Verify {
        /// The manifest
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        trust: trust::Args,
        /// Refuse manifests of another channel
        #[arg(short, long)]
        channel: Option<Channel>,
        /// Refuse manifests for other machines
        #[arg(short = 'A', long)]
        arch: Option<Arch>,
        /// Refuse manifests with a lower sequence number
        #[arg(long, value_name = "N", default_value_t = 0)]
        min_sequence: u64,
        /// Refuse manifests with a lower security version
        #[arg(long, value_name = "N", default_value_t = 0)]
        min_security_version: u64,
        /// Accept an expired manifest, and say so
        #[arg(long)]
        allow_expired: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `plasmd sign-manifest`: the same as `plasmd manifest sign`, the file under a flag.
#[derive(clap::Args)]
pub(crate) struct OlderSignArgs {
    /// The manifest
    #[arg(short, long, value_name = "FILE")]
    manifest: PathBuf,
    /// Sign with this private key; repeat for several
    #[arg(short, long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// Where the signed manifest goes [default: the manifest itself]
    #[arg(short, long, alias = "out", value_name = "FILE")]
    output: Option<PathBuf>,
}

impl From<OlderSignArgs> for Command {
    fn from(args: OlderSignArgs) -> Self {
        Self::Sign {
            file: args.manifest,
            keys: args.keys,
            out: args.output,
        }
    }
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Result<Exit, CommandError> {
    match command {
        Command::Create(args) => create::run(&args, trust::now()),
        Command::Sign { file, keys, out } => sign(&file, &keys, out.as_deref().unwrap_or(&file)),
        Command::Merge { files, out } => merge(&files, &out),
        Command::Show {
            file,
            key,
            trust_root,
            json,
        } => {
            let root = match (key, trust_root) {
                (Some(key), _) => Some(TrustRoot::single(key::load_public(&key)?)),
                (None, Some(root)) => Some(trust::load_root(&root)?),
                (None, None) => None,
            };
            out::exactly(show(&file, root.as_ref(), json)?);
            Ok(Exit::Done)
        }
        Command::Verify {
            file,
            trust,
            channel,
            arch,
            min_sequence,
            min_security_version,
            allow_expired,
            json,
        } => {
            let expect = Expect {
                now: trust::now(),
                floor: Floor {
                    security_version: min_security_version,
                    sequence: min_sequence,
                },
                channel: channel.as_ref(),
                arch,
                expiry: if allow_expired {
                    Expiry::Accept
                } else {
                    Expiry::Refuse
                },
            };
            verify_file(&file, &trust.load()?, &expect, json)
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    trust::read(file, MANIFEST_SIZE_MAX, "manifest")
}

/// A manifest that was refused, with what can be done about it.
fn refused(file: &Path, error: &VerifyError) -> CommandError {
    let failed = CommandError::failed(format!("{}: {error}", file.display()));
    match trust::hint(error) {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

fn load_secrets(files: &[PathBuf]) -> Result<Vec<SecretKey>, CommandError> {
    files.iter().map(|file| key::load_secret(file)).collect()
}

/// Puts a manifest in its place. Tells on stderr, so that `--out -` leaves stdout to the manifest.
fn put(out: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    if out == Path::new("-") {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        return written.map_err(|error| {
            CommandError::local(format!("the manifest cannot be written to stdout: {error}"))
        });
    }
    files::write_atomic(out, bytes).map_err(|error| key::unwritable(out, &error))
}

fn sign(file: &Path, keys: &[PathBuf], out: &Path) -> Result<Exit, CommandError> {
    let keys = load_secrets(keys)?;
    let mut bytes = read(file)?;
    for key in &keys {
        bytes = add_signature(&bytes, key).map_err(|error| match error {
            SignError::Refused(error) => refused(file, &error),
            error => CommandError::failed(format!("{}: {error}", file.display())),
        })?;
    }
    let manifest = unverified_payload(&bytes).map_err(|error| refused(file, &error))?;
    put(out, &bytes)?;
    // What a person has just vouched for, as the payload says it.
    eprint!("{}", report::signed(out, &manifest, &keys));
    Ok(Exit::Done)
}

fn merge(files: &[PathBuf], out: &Path) -> Result<Exit, CommandError> {
    let copies = files
        .iter()
        .map(|file| read(file))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes =
        merge_signatures(&copies).map_err(|error| CommandError::failed(error.to_string()))?;
    let shown = view(&bytes).map_err(|error| refused(out, &error))?;
    let manifest = unverified_payload(&bytes).map_err(|error| refused(out, &error))?;
    put(out, &bytes)?;
    eprint!("{}", report::merged(out, &manifest, &shown.key_ids));
    Ok(Exit::Done)
}

fn show(file: &Path, root: Option<&TrustRoot>, json: bool) -> Result<String, CommandError> {
    let bytes = read(file)?;
    let unverified = |error: VerifyError| refused(file, &error);
    let shown = view(&bytes).map_err(unverified)?;
    let payload: Option<Manifest> = match unverified_payload(&bytes) {
        Ok(payload) => Some(payload),
        // A provider without a key shows the readable part alone.
        Err(VerifyError::NotSigned) => None,
        Err(error) => return Err(unverified(error)),
    };
    let verified = root
        .map(|root| {
            let expect = Expect {
                now: trust::now(),
                floor: Floor::default(),
                channel: None,
                arch: None,
                expiry: Expiry::Report,
            };
            verify(&bytes, root, &expect)
        })
        .transpose()
        .map_err(unverified)?;
    let status = report::Status::of(verified.as_ref());
    Ok(if json {
        report::shown_json(&shown, payload.as_ref(), &status)
    } else {
        report::shown_text(&shown, payload.as_ref(), &status)
    })
}

fn verify_file(
    file: &Path,
    trust: &Trust,
    expect: &Expect<'_>,
    json: bool,
) -> Result<Exit, CommandError> {
    let bytes = read(file)?;
    let verified: Verified<Manifest> = match verify(&bytes, &trust.root, expect) {
        Ok(verified) => verified,
        Err(error) => {
            if json {
                out::exactly(report::refused_json(file, &error));
            }
            return Err(refused(file, &error));
        }
    };
    if verified.expired() {
        tracing::warn!(expired_at = %verified.expires_at, now = %expect.now, "an expired manifest is accepted because of --allow-expired");
    }
    let text = if json {
        report::verified_json(file, trust, &verified)
    } else {
        report::verified_text(file, trust, &verified)
    };
    out::exactly(text);
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests;
