//! `plasmd manifest create`: hashes what lies in an artifacts directory and writes a manifest of it.

use std::path::{Path, PathBuf};

use artifact_store::{Depth, Found, MANIFEST_FILE, Reason, Scan, Store};
use boot_manifest::{Arch, Artifact, Channel, Manifest, SecretKey, Timestamp, draft, sign};

use super::{load_secrets, put, report};
use crate::exit::{CommandError, Exit};

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of artifacts: DIR/<channel>/<arch>/{vmlinuz,initramfs.img,rootfs.squashfs}
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "/var/lib/plasm/artifacts"
    )]
    pub(super) artifacts: PathBuf,
    /// Line of releases
    #[arg(short, long, default_value = "stable")]
    pub(super) channel: Channel,
    /// Architecture of the machines that boot this
    #[arg(short = 'A', long, default_value_t = Arch::host())]
    pub(super) arch: Arch,
    /// Version for people [default: date and time, as 20261121.100000]
    #[arg(long)]
    pub(super) version: Option<String>,
    /// Order of releases: a newer one needs a larger number [default: seconds since 1970]
    #[arg(long, value_name = "N")]
    pub(super) sequence: Option<u64>,
    /// Raise this only when machines shall no longer accept anything older
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) security_version: u64,
    /// Generation of the signing keys, as in the trust root
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) generation: u64,
    /// Kernel command line of the image; the same as `plasmd serve --key` gives
    #[arg(long, value_name = "TEXT", default_value = crate::serve::CMDLINE)]
    pub(super) cmdline: String,
    /// Days until machines refuse it for upgrades
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub(super) valid_days: u32,
    /// Sign with this private key; repeat for several. Without it the file is a draft for `plasmd manifest sign`, and needs --out
    #[arg(short, long = "key", value_name = "FILE")]
    pub(super) keys: Vec<PathBuf>,
    /// Where it goes [default: manifest.json beside the artifacts]; "-" is the standard output
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

/// Runs the command. `now` becomes the time of creation unless `SOURCE_DATE_EPOCH` is set.
pub(super) fn run(args: &Args, now: Timestamp) -> Result<Exit, CommandError> {
    if args.keys.is_empty() && args.out.is_none() {
        // Providers serve the file beside the artifacts as it stands; an unsigned one would replace the good one.
        return Err(CommandError::usage("without --key this makes a draft, which needs --out FILE")
            .hint("sign it with `plasmd manifest sign FILE --key KEY`, then put it beside the artifacts as manifest.json"));
    }
    let keys = load_secrets(&args.keys)?;
    let manifest = manifest(args, source_date()?.unwrap_or(now))?;
    let result = if keys.is_empty() {
        draft(&manifest)
    } else {
        sign(&manifest, &keys.iter().collect::<Vec<&SecretKey>>())
    };
    let bytes = result.map_err(|error| CommandError::failed(error.to_string()))?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| folder(args).join(MANIFEST_FILE));
    put(&out, &bytes)?;
    eprint!("{}", report::signed(&out, &manifest, &keys));
    Ok(Exit::Done)
}

/// A reproducible build names its own time.
fn source_date() -> Result<Option<Timestamp>, CommandError> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let seconds = text.trim().parse().map_err(|_| {
        CommandError::usage(format!(
            "SOURCE_DATE_EPOCH is {text:?}, which is no number of seconds"
        ))
    })?;
    Ok(Some(Timestamp::from_unix(seconds)))
}

fn folder(args: &Args) -> PathBuf {
    args.artifacts
        .join(args.channel.as_str())
        .join(args.arch.as_str())
}

fn manifest(args: &Args, created_at: Timestamp) -> Result<Manifest, CommandError> {
    let manifest = Manifest {
        generation: args.generation,
        sequence: args.sequence.unwrap_or(created_at.unix().unsigned_abs()),
        security_version: args.security_version,
        version: args
            .version
            .clone()
            .unwrap_or_else(|| version_at(created_at)),
        channel: args.channel.clone(),
        arch: args.arch,
        created_at,
        expires_at: created_at.plus_days(args.valid_days),
        cmdline: args.cmdline.clone(),
        artifacts: artifacts(args)?,
    };
    manifest
        .validate()
        .map_err(|error| CommandError::failed(error.to_string()))?;
    Ok(manifest)
}

/// `2026-11-21T10:00:00Z` as a version: `20261121.100000`.
fn version_at(time: Timestamp) -> String {
    let text = time.to_string().replace('T', ".");
    text.chars()
        .filter(|c| c.is_ascii_digit() || *c == '.')
        .collect()
}

fn artifacts(args: &Args) -> Result<Vec<Artifact>, CommandError> {
    let store = Store::open(&args.artifacts).map_err(|error| {
        CommandError::local(format!("{}: {error}", args.artifacts.display()))
            .hint("name the artifacts directory with --artifacts DIR")
    })?;
    let scan = store.scan(&args.channel, args.arch);
    refuse_ambiguity(&scan, &args.artifacts)?;
    for problem in &scan.problems {
        eprintln!("left out: {problem}");
    }
    if scan.found.is_empty() {
        return Err(CommandError::failed(format!(
            "no artifacts found in {}",
            folder(args).display()
        ))
        .hint("put vmlinuz (required), initramfs.img and rootfs.squashfs there"));
    }
    if !scan
        .found
        .iter()
        .any(|found| found.artifact.as_str() == "kernel")
    {
        let error = boot_manifest::InvalidManifest::MissingKernel;
        return Err(
            CommandError::failed(format!("{}: {error}", folder(args).display()))
                .hint("put the kernel there as vmlinuz"),
        );
    }
    scan.found.iter().map(|found| hash(&store, found)).collect()
}

/// Two files that could be the same artifact: a person decides, not the order of a directory.
fn refuse_ambiguity(scan: &Scan, artifacts: &Path) -> Result<(), CommandError> {
    for problem in &scan.problems {
        if let Reason::Ambiguous(artifact, files) = &problem.reason {
            let message = format!(
                "{}: {} could each be the {artifact}",
                artifacts.join(&problem.file).display(),
                files.join(" and ")
            );
            return Err(CommandError::failed(message)
                .hint("leave one of them there, or give one its usual name"));
        }
    }
    Ok(())
}

fn hash(store: &Store, found: &Found) -> Result<Artifact, CommandError> {
    let name = found.file.name();
    let failed = |error: String| CommandError::local(format!("{name}: {error}"));
    let hashed = store
        .hashes()
        .hash(&found.file, Depth::Chunks)
        .map_err(|error| failed(error.to_string()))?;
    let chunks = hashed
        .chunks
        .clone()
        .ok_or_else(|| failed("the file is empty".to_owned()))?;
    Ok(Artifact {
        name: found.artifact.clone(),
        filename: name.clone(),
        size: found.file.size(),
        digest: hashed.digest,
        chunks,
    })
}
