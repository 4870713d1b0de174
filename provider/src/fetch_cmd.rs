//! `phase-fetch`: a verified manifest, then the artifacts it names, into a directory.
//!
//! All of the URLs are asked for their manifest, and the newest that verifies counts; the artifacts come from all of them
//! at once, and from other machines that fetch the same.
//! The manifest is verified before anything else is asked for. A file appears under its own name when all of it was
//! verified and is durable; until then it is `.NAME.partial`, from which the next run goes on. `manifest.json` comes
//! last, so that a directory with a new manifest also has the new files.

mod company;
pub(crate) mod flags;
mod tell;

use std::fs::File;
use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use artifact_store::{Folder, MANIFEST_FILE, Partial, PartialView, ROOTS_FILE, WriteError};
use boot_manifest::{
    Arch, Artifact, Chained, Channel, Digest, Expect, Expiry, FileName, Floor, MANIFEST_SIZE_MAX,
    Manifest, Verified, verify_chained,
};
use fetch::{
    FetchError, Fetcher, Led, Limits, Mirror, Mirrors, Newest, Offer, Progress, Report, Url,
};

use crate::exit::{CommandError, Exit};
use crate::fetch_cmd::company::Company;
use crate::out;
use crate::progress::Meter;
use crate::trust::{self, Trust};

/// Descriptors of the runtime itself: polling, waking, signals.
const RUNTIME_DESCRIPTORS: usize = 6;

const MORE_DESCRIPTORS: &str = "raise the limit: ulimit -n 1024";

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Providers (http://host:8080) or their manifests (http://host:8080/manifest.json); several are used at once
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// One more provider; may be repeated
    #[arg(long = "url", visible_alias = "provider", value_name = "URL")]
    more_urls: Vec<String>,
    /// Use this manifest file instead of fetching one; it is verified all the same
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
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
    /// Only go on with an earlier run: refuse when DIR has nothing of it. Without this flag, what is there is used too
    #[arg(long)]
    resume: bool,
    /// Failures in a row, without progress, that are tried again
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    retry: u32,
    /// Seconds for each file, all attempts together
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Bytes per second at most, all providers together: 500K, 10M, 1G
    #[arg(long, value_name = "RATE", value_parser = flags::rate)]
    limit_rate: Option<NonZeroU64>,
    /// Ask only the providers, not other machines that fetch the same
    #[arg(long)]
    no_peers: bool,
    /// Serve what is verified to others that fetch the same, until they need no more of it: a port, on all addresses, or
    /// one address and a port
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = flags::listen, conflicts_with = "no_peers")]
    share: Option<flags::Listen>,
    /// For https: believe the certificate authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    cacert: Option<PathBuf>,
    /// For https: believe only this certificate, or this public key (SHA-256)
    #[arg(long, value_name = "sha256:HEX", value_parser = flags::pin)]
    pin: Option<Digest>,
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

impl Args {
    /// Whether people are not told anything on the way.
    fn is_silent(&self) -> bool {
        self.quiet || self.json
    }

    /// Every provider that was named, in order, each once.
    fn providers(&self) -> Result<Vec<Url>, Failure> {
        let mut providers: Vec<Url> = Vec::new();
        for text in self.urls.iter().chain(&self.more_urls) {
            let url = text.parse().map_err(|error| not_a_url(text, error))?;
            if !providers.contains(&url) {
                providers.push(url);
            }
        }
        if providers.len() > fetch::SOURCES_MAX {
            let message = format!("more than {} providers were named", fetch::SOURCES_MAX);
            return Err(CommandError::usage(message).into());
        }
        if (self.cacert.is_some() || self.pin.is_some()) && !providers.iter().any(Url::is_https) {
            let message =
                "--cacert and --pin are about https, and no provider is named by an https URL";
            return Err(CommandError::usage(message).into());
        }
        Ok(providers)
    }

    fn fetcher(&self) -> Fetcher {
        let limits = Limits {
            total: Duration::from_secs(self.timeout),
            retries: self.retry,
            rate_max: self.limit_rate,
            ..Limits::default()
        };
        let trust = match (&self.cacert, self.pin) {
            (Some(file), _) => fetch::Trust::File(file.clone()),
            (None, Some(pin)) => fetch::Trust::Pin(pin),
            (None, None) => fetch::Trust::System,
        };
        Fetcher::with_tls_and_proxies(limits, trust)
    }
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
    /// What each source said, when there were several.
    sources: Vec<serde_json::Value>,
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self {
            code: "local",
            error,
            sources: Vec::new(),
        }
    }
}

impl From<FetchError> for Failure {
    fn from(from: FetchError) -> Self {
        let code = from.code();
        let message = from.to_string();
        let failed = match &from {
            FetchError::Sink(_) | FetchError::Local(_) => CommandError::local(message),
            FetchError::Url(_) => CommandError::usage(message),
            _ => CommandError::failed(message),
        };
        let error = match hint(&from) {
            Some(hint) => failed.hint(hint),
            None => failed,
        };
        let sources = tell::json_errors(&from);
        Self {
            code,
            error,
            sources,
        }
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
        FetchError::CutShort { .. } | FetchError::Busy { .. } => {
            "run the same command again: it goes on where it stopped"
        }
        FetchError::TooSlow { .. } | FetchError::TooLate { .. } => {
            "run the same command again: it goes on where it stopped; --timeout gives it more time"
        }
        FetchError::BadHash(_) | FetchError::TooShort { .. } | FetchError::TooLarge { .. } => {
            "the provider does not have the files this manifest names, or somebody changed them on the way: use another provider"
        }
        FetchError::Exhausted { errors, .. } => {
            if errors.iter().any(FetchError::is_transient) {
                "run the same command again: it goes on where it stopped"
            } else {
                "use other providers, or ask for another channel or architecture with -c and -A"
            }
        }
        FetchError::Tls { reason, .. }
            if [
                "certificate expired",
                "not valid yet",
                "Expired",
                "NotValidYet",
            ]
            .iter()
            .any(|part| reason.contains(part)) =>
        {
            "check this machine's clock; --pin sha256:HEX believes this one server whatever the dates say"
        }
        FetchError::Tls { .. } => {
            "--cacert FILE trusts the authority that signed the certificate, --pin sha256:HEX this one server; both are for https only"
        }
        FetchError::Local(message) if message.contains("certificates to check") => {
            "install the package ca-certificates, or use --cacert FILE or --pin sha256:HEX"
        }
        FetchError::Local(message) if message.contains("open more files") => MORE_DESCRIPTORS,
        FetchError::Roots { .. } => trust::ROOTS_HINT,
        FetchError::Refused { .. }
        | FetchError::Redirect { .. }
        | FetchError::Downgrade { .. }
        | FetchError::Local(_)
        | FetchError::NotHttp { .. }
        | FetchError::NoSuchArtifact { .. }
        | FetchError::NoSource { .. }
        | FetchError::Sink(_) => return None,
    })
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    check_descriptors()?;
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
                out::line(format_args!("{:#}", tell::json_failure(&failure)));
            }
            Err(failure.error)
        }
    }
}

/// The runtime panics when it cannot open what it needs; a person shall read a sentence instead.
fn check_descriptors() -> Result<(), CommandError> {
    let opened: std::io::Result<Vec<File>> = (0..RUNTIME_DESCRIPTORS)
        .map(|_| File::open("/dev/null"))
        .collect();
    opened.map(drop).map_err(|error| {
        let message = format!("this process may not open more files or connections: {error}");
        CommandError::local(message).hint(MORE_DESCRIPTORS)
    })
}

async fn fetch_all(args: &Args) -> Result<(), Failure> {
    let trust = args.trust.load()?;
    let mut fetcher = args.fetcher();
    let (led, providers) = obtain_manifest(args, &trust, &mut fetcher).await?;
    let (manifest, roots) = (Arc::new(led.manifest), led.roots);
    let wanted = wanted(&manifest, &args.artifact)?;
    tell::manifest(args, &trust, &manifest);
    if args.resume {
        has_something(&args.output, &wanted)?;
    }
    std::fs::create_dir_all(&args.output).map_err(|error| {
        CommandError::local(format!(
            "{}: cannot be made: {error}",
            args.output.display()
        ))
    })?;
    let folder = Folder::open(&args.output)?;
    let begun = begin(&wanted, &folder)?;
    let company = Company::start(args, &manifest, &begun)?;
    let done = fetch_parts(args, &mut fetcher, &manifest, &providers, &company, begun).await?;
    for one in &done {
        tell::artifact(args, one);
    }
    if let Some(roots) = &roots {
        // Whoever verifies or serves this folder needs what led to the keys.
        folder.write(&file_name(ROOTS_FILE)?, roots)?;
    }
    let path = folder.write(&file_name(MANIFEST_FILE)?, manifest.bytes())?;
    let shared = company.part().await;
    tell::shared(args, shared);
    if args.json {
        out::line(format_args!(
            "{:#}",
            tell::json_result(&trust, &manifest, &path, &done, shared)
        ));
    }
    Ok(())
}

fn file_name(name: &str) -> Result<FileName, CommandError> {
    name.parse()
        .map_err(|error| CommandError::local(format!("{name}: {error}")))
}

/// Refuses, for `--resume`, a directory where nothing of the artifacts is.
fn has_something(folder: &Path, wanted: &[&Artifact]) -> Result<(), CommandError> {
    let there = |artifact: &&Artifact| {
        let name = artifact.filename.as_str();
        folder.join(name).exists() || folder.join(format!(".{name}.partial")).exists()
    };
    if wanted.iter().any(there) {
        return Ok(());
    }
    let message = format!("{}: there is nothing to resume", folder.display());
    Err(CommandError::local(message)
        .hint("is -o the directory of the earlier run? To start afresh, leave --resume out"))
}

/// The verified manifest, and the providers that its files may come from.
async fn obtain_manifest(
    args: &Args,
    trust: &Trust,
    fetcher: &mut Fetcher,
) -> Result<(Led, Mirrors), Failure> {
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
    let providers = args.providers()?;
    let (led, mirrors) = match &args.manifest {
        Some(file) if providers.is_empty() => {
            let file = file.display();
            let message =
                format!("{file}: its files are named relative to a provider, and none is given");
            let hint = format!("phase-fetch -m {file} --provider http://HOST:8080");
            return Err(CommandError::usage(message).hint(hint).into());
        }
        Some(file) => manifest_of(file, trust, &expect, &providers)?,
        None if providers.is_empty() => {
            let error = CommandError::usage("no provider was named");
            return Err(error
                .hint(
                    "phase-fetch http://HOST:8080; phase-discover finds providers on this network",
                )
                .into());
        }
        None => newest_manifest(args, trust, fetcher, &expect, &providers).await?,
    };
    let manifest = &led.manifest;
    if manifest.expired() {
        tracing::warn!(expired_at = %manifest.expires_at, now = %expect.now, "an expired manifest is accepted because of --allow-expired");
    }
    Ok((led, Mirrors(mirrors)))
}

/// The manifest in a file. Its files are looked for as if it had come from where each provider keeps it.
fn manifest_of(
    file: &Path,
    trust: &Trust,
    expect: &Expect<'_>,
    providers: &[Url],
) -> Result<(Led, Vec<Mirror>), Failure> {
    let bytes = trust::read(file, MANIFEST_SIZE_MAX, "manifest")?;
    let roots = trust::roots_beside(file)?;
    let chained =
        verify_chained(&bytes, roots.as_deref(), &trust.root, expect).map_err(|error| Failure {
            code: error.code(),
            error: trust::refused(file, &error),
            sources: Vec::new(),
        })?;
    let Chained { manifest, root } = chained;
    let select = (manifest.channel.as_str(), manifest.arch.as_str());
    let mirrors = providers
        .iter()
        .map(|base| {
            let manifest = fetch::manifest_url(base, Some(select))?;
            let artifacts = None;
            Ok(Mirror {
                manifest,
                artifacts,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(FetchError::Url)?;
    let led = Led {
        manifest,
        root,
        roots,
    };
    Ok((led, mirrors))
}

/// The newest manifest that a provider has. Those that have none which verifies are not asked for anything else.
async fn newest_manifest(
    args: &Args,
    trust: &Trust,
    fetcher: &mut Fetcher,
    expect: &Expect<'_>,
    providers: &[Url],
) -> Result<(Led, Vec<Mirror>), Failure> {
    let arch = args.arch.unwrap_or(Arch::host());
    let channel = args.channel.as_ref().map_or("stable", Channel::as_str);
    let selected = args.channel.is_some() || args.arch.is_some();
    let select = selected.then_some((channel, arch.as_str()));
    let urls = providers
        .iter()
        .map(|base| fetch::manifest_url(base, select))
        .collect::<Result<Vec<Url>, _>>()
        .map_err(FetchError::Url)?;
    let Newest { led, offers } = fetcher.newest_manifest(&urls, &trust.root, expect).await?;
    let manifest = &led.manifest;
    let mut mirrors = Vec::new();
    for (url, offer) in urls.into_iter().zip(offers) {
        let artifacts = match offer {
            Offer::Failed(error) => {
                tracing::warn!(%error, "provider dropped: no manifest from it");
                continue;
            }
            Offer::Unknown => None,
            Offer::Manifest {
                generation,
                sequence,
                artifacts,
            } => {
                if (generation, sequence) < (manifest.generation, manifest.sequence) {
                    tracing::warn!(
                        %url, sequence, newest = manifest.sequence,
                        "an older release is there, and only what did not change is fetched from it"
                    );
                }
                Some(artifacts)
            }
        };
        mirrors.push(Mirror {
            manifest: url,
            artifacts,
        });
    }
    Ok((led, mirrors))
}

fn not_a_url(text: &str, error: fetch::UrlError) -> Failure {
    if Path::new(text).is_file() {
        let error = CommandError::usage(format!("{text}: is a file, not a URL")).hint(format!(
            "a manifest file is used with: -m {text} --provider http://HOST:8080"
        ));
        return Failure {
            code: "bad-url",
            error,
            sources: Vec::new(),
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

/// An artifact that was asked for, what of it can be given to others, and its partial file unless it is complete.
struct Begun {
    artifact: Artifact,
    path: PathBuf,
    view: PartialView,
    partial: Option<Arc<Partial>>,
}

/// Finds out what is there.
fn begin(wanted: &[&Artifact], folder: &Folder) -> Result<Vec<Begun>, WriteError> {
    let begin = |artifact: &&Artifact| {
        let (view, partial) = match folder.complete(artifact)? {
            Some(view) => (view, None),
            None => {
                let partial = folder.begin(artifact)?;
                (partial.view(), Some(Arc::new(partial)))
            }
        };
        Ok(Begun {
            artifact: (*artifact).clone(),
            path: folder.path().join(artifact.filename.as_str()),
            view,
            partial,
        })
    };
    wanted.iter().map(begin).collect()
}

/// Fetches what is missing, all of it together. What is complete gets its name, also when something else failed.
async fn fetch_parts(
    args: &Args,
    fetcher: &mut Fetcher,
    manifest: &Verified<Manifest>,
    providers: &Mirrors,
    company: &Company,
    begun: Vec<Begun>,
) -> Result<Vec<Done>, Failure> {
    let parts: Vec<(&str, Arc<Partial>)> = begun
        .iter()
        .filter_map(|one| {
            Some((
                one.artifact.name.as_str(),
                Arc::clone(one.partial.as_ref()?),
            ))
        })
        .collect();
    let name = match &parts[..] {
        [(name, _)] => *name,
        _ => "all",
    };
    let shown = !args.is_silent() && std::io::stderr().is_terminal();
    let mut meter = Meter::new(name, shown);
    let mut told: Vec<Option<Progress>> = vec![None; parts.len()];
    let progress = |progress: Progress| {
        told[progress.part] = Some(progress);
        let sum = |of: fn(&Progress) -> u64| told.iter().flatten().map(of).sum();
        meter.update(
            sum(|one| one.done),
            sum(|one| one.received),
            sum(|one| one.total),
        );
    };
    let swarm = company.swarm();
    let fetched = match parts.is_empty() {
        true => Ok(Vec::new()),
        false => {
            fetcher
                .artifacts(manifest, parts, providers, swarm, progress)
                .await
        }
    };
    meter.clear();
    let (mut reports, result) = match fetched {
        Ok(reports) => (reports.into_iter(), Ok(())),
        Err(error) => (Vec::new().into_iter(), Err(error)),
    };
    let mut done = Vec::new();
    for one in begun {
        let state = match one.partial {
            None => State::AlreadyThere,
            Some(partial) => {
                let report = reports.next();
                if partial.missing().is_empty() {
                    let partial = Arc::into_inner(partial);
                    let partial = partial.expect("every lane and every check has ended");
                    partial.commit()?;
                }
                match report {
                    Some(report) => State::Fetched(report),
                    None => continue,
                }
            }
        };
        done.push(Done {
            artifact: one.artifact,
            path: one.path,
            state,
        });
    }
    result?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_out_of_its_time_is_a_question_of_the_clock() {
        let hint_for = |error: rustls::CertificateError| {
            let url = "https://192.0.2.1/".parse().unwrap();
            let reason = rustls::Error::InvalidCertificate(error).to_string();
            hint(&FetchError::Tls { url, reason }).unwrap()
        };
        for error in [
            rustls::CertificateError::Expired,
            rustls::CertificateError::NotValidYet,
        ] {
            let text = hint_for(error);
            assert!(text.contains("this machine's clock"), "{text}");
        }
        let text = hint_for(rustls::CertificateError::UnknownIssuer);
        assert!(text.contains("--cacert"), "{text}");
    }
}
