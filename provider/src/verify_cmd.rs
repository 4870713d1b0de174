//! `phase-verify`: checks a manifest on disk, and artifacts against it. Uses no network and writes nothing, but the
//! version file it is told to update.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use artifact_store::Folder;
use boot_manifest::{
    Artifact, Digest, Expect, Expiry, FileName, Floor, Hasher, MANIFEST_SIZE_MAX, Manifest,
    Verified, verify,
};
use serde_json::json;

use crate::exit::{CommandError, Exit};
use crate::out;
use crate::trust::{self, Trust};

/// Read at a time while hashing: large enough that system calls do not count.
const READ_SIZE: usize = 256 << 10;

/// A version file holds one decimal number.
const VERSION_FILE_SIZE_MAX: usize = 64;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// MANIFEST, then the artifacts to check against it: PATH, found by its file name, or NAME=PATH (kernel=./bzImage)
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// The manifest; all other files are artifacts then ("-" reads stdin)
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    trust: trust::Args,
    /// Refuse manifests with a lower sequence number than the one in this file
    #[arg(long, value_name = "FILE")]
    check_version: Option<PathBuf>,
    /// After success, write the manifest's sequence number to the file of --check-version
    #[arg(long, requires = "check_version")]
    update_version: bool,
    /// Accept an expired manifest, and say so
    #[arg(long)]
    allow_expired: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print nothing but errors; the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs: one object.
    Json,
}

/// One artifact that was checked.
struct Checked {
    name: String,
    path: PathBuf,
    expected: Digest,
    expected_size: u64,
    computed: Digest,
    size: u64,
}

impl Checked {
    fn good(&self) -> bool {
        self.computed == self.expected && self.size == self.expected_size
    }

    fn mismatch(&self) -> String {
        let (path, name) = (self.path.display(), &self.name);
        let sizes = if self.size == self.expected_size {
            String::new()
        } else {
            format!(" ({} bytes instead of {})", self.size, self.expected_size)
        };
        format!(
            "{path}: is not the {name} of this manifest{sizes}: expected {}, computed {}",
            self.expected, self.computed
        )
    }
}

/// Runs the command.
pub(crate) fn run(mut args: Args) -> Result<Exit, CommandError> {
    if args.json {
        args.format = Format::Json;
    }
    let (manifest_file, artifacts) = match (&args.manifest, args.files.split_first()) {
        (Some(file), _) => (file.clone(), args.files.as_slice()),
        (None, Some((first, rest))) => (PathBuf::from(first), rest),
        (None, None) => {
            return Err(CommandError::usage("no manifest was named")
                .hint("phase-verify manifest.json vmlinuz -k KEY.pub"));
        }
    };
    if manifest_file
        .to_str()
        .is_some_and(|name| name.starts_with("http://") || name.starts_with("https://"))
    {
        return Err(CommandError::usage(format!(
            "{}: only files are verified; fetch and verify with: phase-fetch URL",
            manifest_file.display()
        )));
    }
    let trust = args.trust.load()?;
    let manifest = match check_manifest(&args, &manifest_file, &trust) {
        Ok(manifest) => manifest,
        Err(Refusal::Verify(error)) => {
            let message = format!("{}: {error}", manifest_file.display());
            print_failed(
                &args,
                &manifest_file.display().to_string(),
                &message,
                error.code(),
            );
            let failed = CommandError::failed(message);
            return Err(match trust::hint(&error) {
                Some(hint) => failed.hint(hint),
                None => failed,
            });
        }
        Err(Refusal::Other(error)) => {
            print_failed(
                &args,
                &manifest_file.display().to_string(),
                &error.to_string(),
                "local",
            );
            return Err(error);
        }
    };
    let mut checked = Vec::new();
    for argument in artifacts {
        match check_artifact(&manifest, argument) {
            Ok(one) => checked.push(one),
            Err(error) => {
                print_failed(&args, argument, &error.to_string(), "not-checked");
                return Err(error);
            }
        }
    }
    print_result(&args, &manifest_file, &trust, &manifest, &checked);
    let mismatches: Vec<String> = checked
        .iter()
        .filter(|one| !one.good())
        .map(Checked::mismatch)
        .collect();
    if !mismatches.is_empty() {
        return Err(CommandError::failed(mismatches.join("\nerror: "))
            .hint("fetch the file again with phase-fetch, which verifies while it downloads"));
    }
    if args.update_version
        && let Some(file) = &args.check_version
    {
        write_version(file, manifest.sequence)?;
    }
    Ok(Exit::Done)
}

enum Refusal {
    Verify(boot_manifest::VerifyError),
    Other(CommandError),
}

fn check_manifest(args: &Args, file: &Path, trust: &Trust) -> Result<Verified<Manifest>, Refusal> {
    let sequence = match &args.check_version {
        Some(version_file) => {
            read_version(version_file, args.update_version).map_err(Refusal::Other)?
        }
        None => 0,
    };
    let bytes = trust::read(file, MANIFEST_SIZE_MAX, "manifest").map_err(Refusal::Other)?;
    let expect = Expect {
        now: trust::now(),
        floor: Floor {
            sequence,
            ..Floor::default()
        },
        channel: None,
        arch: None,
        expiry: if args.allow_expired {
            Expiry::Accept
        } else {
            Expiry::Refuse
        },
    };
    let manifest = verify(&bytes, &trust.root, &expect).map_err(Refusal::Verify)?;
    if manifest.expired() {
        tracing::warn!(expired_at = %manifest.expires_at, now = %expect.now, "an expired manifest is accepted because of --allow-expired");
    }
    Ok(manifest)
}

/// Finds the artifact an argument means, and hashes the file.
fn check_artifact(manifest: &Manifest, argument: &str) -> Result<Checked, CommandError> {
    let (artifact, path) = matching(manifest, argument).ok_or_else(|| {
        let has: Vec<String> = manifest
            .artifacts
            .iter()
            .map(|artifact| format!("{} ({})", artifact.name, artifact.filename))
            .collect();
        CommandError::failed(format!(
            "{argument}: the manifest has no artifact of this file name; it has {}",
            has.join(", ")
        ))
        .hint(format!("say which one it is: kernel={argument}"))
    })?;
    let unreadable = |error: std::io::Error| {
        CommandError::local(format!("{}: cannot be read: {error}", path.display()))
    };
    // Without the flag a pipe that nobody writes to would be waited for, for ever.
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(CommandError::local(format!(
            "{}: is not a regular file",
            path.display()
        )));
    }
    let (mut hasher, mut size) = (Hasher::new(), 0);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = match file.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(unreadable)?,
        };
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
    Ok(Checked {
        name: artifact.name.to_string(),
        path: path.to_owned(),
        expected: artifact.digest,
        expected_size: artifact.size,
        computed: hasher.finish(),
        size,
    })
}

fn matching<'a>(manifest: &'a Manifest, argument: &'a str) -> Option<(&'a Artifact, &'a Path)> {
    if let Some((name, path)) = argument.split_once('=')
        && let Some(artifact) = manifest.artifact(name)
    {
        return Some((artifact, Path::new(path)));
    }
    let path = Path::new(argument);
    let file_name = path.file_name()?.to_str()?;
    let artifact = manifest
        .artifacts
        .iter()
        .find(|one| one.filename.as_str() == file_name)?;
    Some((artifact, path))
}

/// The number in a version file. A missing file means no floor, but only to somebody who is about to write it.
fn read_version(file: &Path, may_be_absent: bool) -> Result<u64, CommandError> {
    if may_be_absent && !file.exists() {
        return Ok(0);
    }
    let bytes = trust::read(file, VERSION_FILE_SIZE_MAX, "version file")
        .map_err(|error| error.hint("on first use, add --update-version to create it"))?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim().parse().map_err(|_| {
        CommandError::local(format!(
            "{}: does not hold one decimal number",
            file.display()
        ))
    })
}

fn write_version(file: &Path, sequence: u64) -> Result<(), CommandError> {
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::local(format!(
            "{}: the version cannot be written: {error}",
            file.display()
        ))
    };
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name: FileName = name.parse().map_err(|error| failed(&error))?;
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = Folder::open(parent.unwrap_or(Path::new("."))).map_err(|error| failed(&error))?;
    folder
        .write(&name, format!("{sequence}\n").as_bytes())
        .map_err(|error| failed(&error))?;
    Ok(())
}

fn print_failed(args: &Args, file: &str, message: &str, code: &str) {
    match args.format {
        _ if args.quiet => {}
        Format::Text => out::line(format_args!("FAILED    {file}")),
        Format::Json => print_json(&json!({
            "status": "FAILED",
            "file": file,
            "manifest_version": null,
            "channel": null,
            "arch": null,
            "key_id": null,
            "error": message,
            "code": code,
        })),
    }
}

fn print_result(
    args: &Args,
    file: &Path,
    trust: &Trust,
    manifest: &Verified<Manifest>,
    checked: &[Checked],
) {
    match args.format {
        _ if args.quiet => {}
        Format::Text => print_text(file, trust, manifest, checked),
        Format::Json => print_object(file, trust, manifest, checked),
    }
}

fn print_text(file: &Path, trust: &Trust, manifest: &Verified<Manifest>, checked: &[Checked]) {
    out::line(format_args!("VERIFIED  {}", file.display()));
    out::line(format_args!(
        "          version {} (sequence {}), {}/{}",
        manifest.version, manifest.sequence, manifest.channel, manifest.arch
    ));
    out::line(format_args!(
        "          signed by key {} (trusted by {})",
        signers(manifest).join(", "),
        trust.file.display()
    ));
    out::line(format_args!(
        "          created {}, {} {}",
        manifest.created_at,
        if manifest.expired() {
            "EXPIRED"
        } else {
            "expires"
        },
        manifest.expires_at
    ));
    if let Some(note) = trust.development_note() {
        out::line(format_args!("          note: {note}"));
    }
    for one in checked {
        let status = if one.good() { "VERIFIED" } else { "FAILED  " };
        out::line(format_args!(
            "{status}  {} ({}) {}",
            one.path.display(),
            one.name,
            one.computed
        ));
    }
}

fn print_object(file: &Path, trust: &Trust, manifest: &Verified<Manifest>, checked: &[Checked]) {
    let signers = signers(manifest);
    let first_bad = checked.iter().find(|one| !one.good());
    print_json(&json!({
        "status": if first_bad.is_some() { "FAILED" } else { "VERIFIED" },
        "manifest": file.display().to_string(),
        "manifest_version": manifest.sequence,
        "version": manifest.version,
        "channel": manifest.channel,
        "arch": manifest.arch,
        "key_id": signers.first(),
        "key_ids": signers,
        "trusted_by": trust.file.display().to_string(),
        "development_key": trust.root.is_development(),
        "created_at": manifest.created_at,
        "expires_at": manifest.expires_at,
        "expired": manifest.expired(),
        "artifacts": checked.iter().map(|one| json!({
            "name": one.name,
            "file": one.path.display().to_string(),
            "status": if one.good() { "VERIFIED" } else { "FAILED" },
            "size_bytes": one.size,
            "expected": one.expected,
            "computed": one.computed,
        })).collect::<Vec<_>>(),
        "error": first_bad.map(Checked::mismatch),
        "code": first_bad.map(|_| "bad-hash"),
    }));
}

fn signers(manifest: &Verified<Manifest>) -> Vec<String> {
    manifest.signers().iter().map(ToString::to_string).collect()
}

fn print_json(value: &serde_json::Value) {
    out::line(format_args!("{value:#}"));
}
