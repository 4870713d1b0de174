//! `phase-fetch`: a verified manifest, then the artifacts it names, into a directory.
//!
//! The manifest is verified before anything else is asked for. A file appears under its own name when all of it was
//! verified and is durable; until then it is `.NAME.partial`, from which the next run goes on. `manifest.json` comes
//! last, so that a directory with a new manifest also has the new files.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use artifact_store::{Folder, MANIFEST_FILE, WriteError};
use boot_manifest::{
    Arch, Artifact, Channel, Expect, Expiry, Floor, MANIFEST_SIZE_MAX, Manifest, Verified, verify,
};
use fetch::{FetchError, Fetcher, Limits, Report, Url};
use serde_json::json;

use crate::exit::{CommandError, Exit};
use crate::out;
use crate::progress::{Meter, size};
use crate::trust::{self, Trust};

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The provider (http://host:8080) or the manifest itself (http://host:8080/manifest.json)
    #[arg(
        value_name = "URL",
        required_unless_present = "manifest",
        conflicts_with = "manifest"
    )]
    url: Option<String>,
    /// Use this manifest file instead of fetching one; it is verified all the same
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// With -m: the provider that the files are fetched from
    #[arg(long, visible_alias = "url", value_name = "URL", requires = "manifest")]
    provider: Option<String>,
    /// What to fetch: kernel, initramfs, rootfs, another name of the manifest, or all
    #[arg(
        short,
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "all"
    )]
    artifact: Vec<String>,
    /// Where the files go; made when it does not exist
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    #[command(flatten)]
    trust: trust::Args,
    /// Refuse a manifest of another channel; also selects it at a provider
    #[arg(short, long)]
    channel: Option<Channel>,
    /// Refuse a manifest for another architecture; also selects it at a provider
    #[arg(short = 'A', long)]
    arch: Option<Arch>,
    /// Go on where an earlier run stopped (always done; accepted because people type it)
    #[arg(long)]
    resume: bool,
    /// Failures in a row, without progress, that are tried again
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    retry: u32,
    /// Seconds for each file, all attempts together
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    /// Accept an expired manifest, and say so
    #[arg(long)]
    allow_expired: bool,
}

/// How an artifact came to be where it is now.
enum State {
    AlreadyThere,
    Fetched(Report),
}

/// An artifact that is complete and verified.
struct Done {
    artifact: Artifact,
    path: PathBuf,
    state: State,
}

/// A failure that knows its stable code, for `--json`.
struct Failure {
    code: &'static str,
    error: CommandError,
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self {
            code: "local",
            error,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let code = error.code();
        let message = error.to_string();
        let failed = match &error {
            FetchError::Sink(_) => CommandError::local(message),
            FetchError::Url(_) => CommandError::usage(message),
            _ => CommandError::failed(message),
        };
        let error = match hint(&error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        };
        Self { code, error }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        CommandError::local(error.to_string()).into()
    }
}

/// What a person can try.
fn hint(error: &FetchError) -> Option<&'static str> {
    Some(match error {
        FetchError::Verify { source, .. } => return trust::hint(source),
        FetchError::Url(_) => "give the URL of a provider, such as http://192.0.2.1:8080",
        FetchError::Unreachable { .. } => {
            "is the provider running, and its port reachable? phase-discover finds providers on this network"
        }
        FetchError::NotFound { .. } => {
            "curl URL/status tells what the provider serves; -c and -A select a channel and an architecture"
        }
        FetchError::CutShort { .. } => "run the same command again: it goes on where it stopped",
        FetchError::TooSlow { .. } => {
            "run the same command again: it goes on where it stopped; --timeout gives it more time"
        }
        FetchError::BadHash(_) | FetchError::TooShort { .. } | FetchError::TooLarge { .. } => {
            "the provider does not have the files this manifest names, or somebody changed them on the way: use another provider"
        }
        FetchError::Refused { .. }
        | FetchError::Redirect { .. }
        | FetchError::NotHttp { .. }
        | FetchError::NoSuchArtifact { .. }
        | FetchError::NoSource { .. }
        | FetchError::Exhausted { .. }
        | FetchError::Sink(_) => return None,
    })
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("the runtime cannot be started: {error}")))?;
    let result = runtime.block_on(fetch_all(&args));
    // A name look-up that hangs in the C library must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => {
            if args.json {
                out::line(format_args!(
                    "{:#}",
                    json!({
                        "status": "failed",
                        "code": failure.code,
                        "error": failure.error.to_string(),
                    })
                ));
            }
            Err(failure.error)
        }
    }
}

async fn fetch_all(args: &Args) -> Result<(), Failure> {
    let trust = args.trust.load()?;
    let mut fetcher = Fetcher::new(Limits {
        total: Duration::from_secs(args.timeout),
        retries: args.retry,
        ..Limits::default()
    });
    let (manifest, base) = obtain_manifest(args, &trust, &mut fetcher).await?;
    let wanted = wanted(&manifest, &args.artifact)?;
    tell_manifest(args, &trust, &manifest);
    std::fs::create_dir_all(&args.output).map_err(|error| {
        CommandError::local(format!(
            "{}: cannot be made: {error}",
            args.output.display()
        ))
    })?;
    let folder = Folder::open(&args.output)?;
    let mut done = Vec::new();
    for artifact in wanted {
        let one = fetch_one(args, &mut fetcher, &manifest, artifact, &base, &folder).await?;
        tell_artifact(args, &one);
        done.push(one);
    }
    let name = MANIFEST_FILE
        .parse()
        .map_err(|error| CommandError::local(format!("{MANIFEST_FILE}: {error}")))?;
    let path = folder.write(&name, manifest.bytes())?;
    if args.json {
        out::line(format_args!(
            "{:#}",
            json_result(&trust, &manifest, &path, &done)
        ));
    }
    Ok(())
}

/// The verified manifest, and the URL that its files are found from.
async fn obtain_manifest(
    args: &Args,
    trust: &Trust,
    fetcher: &mut Fetcher,
) -> Result<(Verified<Manifest>, Url), Failure> {
    let expect = Expect {
        now: trust::now(),
        floor: Floor::default(),
        channel: args.channel.as_ref(),
        arch: args.arch,
        expiry: if args.allow_expired {
            Expiry::Accept
        } else {
            Expiry::Refuse
        },
    };
    let (manifest, base) = match (&args.manifest, &args.provider, &args.url) {
        (Some(file), Some(provider), _) => {
            let base: Url = provider.parse().map_err(FetchError::Url)?;
            let bytes = trust::read(file, MANIFEST_SIZE_MAX, "manifest")?;
            let manifest = verify(&bytes, &trust.root, &expect).map_err(|error| {
                let failed = CommandError::failed(format!("{}: {error}", file.display()));
                let code = error.code();
                let error = match trust::hint(&error) {
                    Some(hint) => failed.hint(hint),
                    None => failed,
                };
                Failure { code, error }
            })?;
            // Its files are looked for as if the manifest had come from where the provider keeps it.
            let select = (manifest.channel.as_str(), manifest.arch.as_str());
            let base = fetch::manifest_url(&base, Some(select)).map_err(FetchError::Url)?;
            (manifest, base)
        }
        (Some(file), None, _) => {
            let file = file.display();
            let message =
                format!("{file}: its files are named relative to a provider, and none is given");
            let hint = format!("phase-fetch -m {file} --provider http://HOST:8080");
            return Err(CommandError::usage(message).hint(hint).into());
        }
        (_, _, Some(url)) => {
            let location: Url = url.parse().map_err(|error| not_a_url(url, error))?;
            let arch = args.arch.unwrap_or(Arch::host());
            let channel = args.channel.as_ref().map_or("stable", Channel::as_str);
            let selected = args.channel.is_some() || args.arch.is_some();
            let select = selected.then_some((channel, arch.as_str()));
            let url = fetch::manifest_url(&location, select).map_err(FetchError::Url)?;
            (fetcher.manifest(&url, &trust.root, &expect).await?, url)
        }
        _ => {
            return Err(CommandError::usage("neither a URL nor a manifest was named").into());
        }
    };
    if manifest.expired() {
        tracing::warn!(expired_at = %manifest.expires_at, now = %expect.now, "an expired manifest is accepted because of --allow-expired");
    }
    Ok((manifest, base))
}

fn not_a_url(text: &str, error: fetch::UrlError) -> Failure {
    if Path::new(text).is_file() {
        let error = CommandError::usage(format!("{text}: is a file, not a URL")).hint(format!(
            "a manifest file is used with: -m {text} --provider http://HOST:8080"
        ));
        return Failure {
            code: "bad-url",
            error,
        };
    }
    FetchError::Url(error).into()
}

/// The artifacts asked for, each once, in the order of the manifest.
fn wanted<'a>(manifest: &'a Manifest, names: &[String]) -> Result<Vec<&'a Artifact>, Failure> {
    for name in names.iter().filter(|name| *name != "all") {
        fetch::named(manifest, name)?;
    }
    let all = names.iter().any(|name| name == "all");
    let asked =
        |artifact: &Artifact| all || names.iter().any(|name| name == artifact.name.as_str());
    Ok(manifest.artifacts.iter().filter(|one| asked(one)).collect())
}

async fn fetch_one(
    args: &Args,
    fetcher: &mut Fetcher,
    manifest: &Verified<Manifest>,
    artifact: &Artifact,
    base: &Url,
    folder: &Folder,
) -> Result<Done, Failure> {
    let artifact = artifact.clone();
    if folder.holds(&artifact)? {
        let path = folder.path().join(artifact.filename.as_str());
        return Ok(Done {
            artifact,
            path,
            state: State::AlreadyThere,
        });
    }
    let partial = folder.begin(&artifact)?;
    let sources = fetch::sources(base, manifest, &artifact);
    let shown = !args.quiet && !args.json && std::io::stderr().is_terminal();
    let mut meter = Meter::new(artifact.name.as_str(), partial.resumed_bytes(), shown);
    let fetched = fetcher
        .artifact(
            manifest,
            artifact.name.as_str(),
            &sources[..],
            partial,
            |progress| {
                meter.update(progress.done, progress.total);
            },
        )
        .await;
    meter.clear();
    let (partial, report) = fetched?;
    let path = partial.commit()?;
    Ok(Done {
        artifact,
        path,
        state: State::Fetched(report),
    })
}

fn tell_manifest(args: &Args, trust: &Trust, manifest: &Verified<Manifest>) {
    if args.quiet || args.json {
        return;
    }
    let signers: Vec<String> = manifest.signers().iter().map(ToString::to_string).collect();
    out::line(format_args!(
        "manifest   {} {}/{}, sequence {}, signed by {} (trusted by {})",
        manifest.version,
        manifest.channel,
        manifest.arch,
        manifest.sequence,
        signers.join(", "),
        trust.file.display(),
    ));
    if let Some(note) = trust.development_note() {
        out::line(format_args!("           note: {note}"));
    }
}

fn tell_artifact(args: &Args, done: &Done) {
    if args.quiet || args.json {
        return;
    }
    let how = match &done.state {
        State::AlreadyThere => "already there, verified".to_owned(),
        State::Fetched(report) => {
            let seconds = report.elapsed.as_secs_f64().max(0.001);
            let resumed = match report.bytes_present {
                0 => String::new(),
                bytes => format!(", {} were already there", size(bytes)),
            };
            format!(
                "verified, {seconds:.1} s, {}/s{resumed}",
                size((report.bytes_fetched as f64 / seconds) as u64)
            )
        }
    };
    let (artifact, path) = (&done.artifact, done.path.display());
    out::line(format_args!(
        "{:<10} {path}, {}: {how}",
        artifact.name.as_str(),
        size(artifact.size)
    ));
}

fn json_result(
    trust: &Trust,
    manifest: &Verified<Manifest>,
    path: &Path,
    done: &[Done],
) -> serde_json::Value {
    let artifact = |one: &Done| {
        let (state, report) = match &one.state {
            State::AlreadyThere => ("already-there", None),
            State::Fetched(report) if report.bytes_present > 0 => ("resumed", Some(report)),
            State::Fetched(report) => ("fetched", Some(report)),
        };
        json!({
            "name": one.artifact.name,
            "file": one.path.display().to_string(),
            "size_bytes": one.artifact.size,
            "hash": one.artifact.digest,
            "state": state,
            "bytes_fetched": report.map_or(0, |report| report.bytes_fetched),
            "bytes_received": report.map_or(0, |report| report.bytes_received),
            "retries": report.map_or(0, |report| report.retries),
            "seconds": report.map_or(0.0, |report| report.elapsed.as_secs_f64()),
        })
    };
    let signers: Vec<String> = manifest.signers().iter().map(ToString::to_string).collect();
    json!({
        "status": "ok",
        "manifest": path.display().to_string(),
        "manifest_version": manifest.sequence,
        "version": manifest.version,
        "channel": manifest.channel,
        "arch": manifest.arch,
        "key_id": signers.first(),
        "key_ids": signers,
        "trusted_by": trust.file.display().to_string(),
        "development_key": trust.root.is_development(),
        "expired": manifest.expired(),
        "artifacts": done.iter().map(artifact).collect::<Vec<_>>(),
    })
}
