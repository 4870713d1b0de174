//! The `stage` role: fetches a whole image into sealed memory and hands it to init.
//!
//! ```text
//! (search) ─> manifest ──verified──> room for it? ──yes──> kernel, initramfs, rootfs ──chunk by chunk──> sealed ──> Handoff to init
//!              ^   │                    │                     ^    │     │
//!              └───┘ not there yet      └ no: Failed, end     └────┘     └ wrong bytes: Failed, end
//! ```
//!
//! What may pass (no network yet, a provider that restarts, a cut transfer) is waited out for ever, and init is told
//! each time. What will not (a check that failed) ends the role with the reason. Init believes none of it and verifies
//! everything again. Without `--provider` one is looked for ([`search`]), for a bounded time, and again when it is gone.
//! Never touches a disk, never follows a redirect: a provider must not send this machine elsewhere.

mod ask;
mod candidates;
mod elsewhere;
mod search;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boot_manifest::handoff::{HandoffRecord, Report};
use boot_manifest::{
    Arch, Artifact, Channel, Expect, Expiry, Floor, Manifest, Timestamp, TrustRoot, Verified,
};
use fetch::{FetchError, Fetcher, Limits, Providers, TooSlow, Url};
use serde::Deserialize;
use tokio::task::JoinSet;

use self::ask::Asker;
use self::search::{Search, Wanted};
use crate::boot_report;
use crate::exit::{CommandError, Exit};
use crate::init_link::InitLink;
use crate::memory;
use crate::net::PROVIDERS_FILE;
use crate::sealed::{Memory, sealed};
use crate::trust;

/// What init needs of an image, in the order of the descriptors after the manifest.
const PARTS: [&str; 3] = ["kernel", "initramfs", "rootfs"];

/// First and longest pause between attempts. The first is short because the network gets its address within a second of
/// this role's start. A provider that starts is noticed within half a minute, and a hundred machines that wait for it
/// ask three times a second altogether.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A provider that was found, and not named by a person, may bring nothing for this long: then another one is looked for.
const STALL_TIME: Duration = Duration::from_secs(60);

/// The code of such a failure. Init starts the role again, which looks again.
const LOST: &str = "provider-lost";

/// What the last reports to the provider may take before the image is handed over.
const REPORTS_WAIT: Duration = Duration::from_secs(1);

/// Between two progress reports: what a person on the console can follow.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Memory that must stay free beside the image: chunks on their way, socket buffers, and the other roles at work.
const MEMORY_RESERVE: u64 = 32 << 20;

/// `image.json` has a few short members.
const IMAGE_INFO_SIZE_MAX: usize = 4_096;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The provider, or the URL of a manifest; without it one is looked for on the local network
    #[arg(long, value_name = "URL")]
    provider: Option<String>,
    /// Look in this file for providers that boot servers named
    #[arg(long, value_name = "FILE", default_value = PROVIDERS_FILE, conflicts_with = "provider")]
    providers_file: PathBuf,
    /// Do not look for providers by multicast DNS
    #[arg(long, conflicts_with = "provider")]
    no_mdns: bool,
    /// Look in the distributed table too, beginning with this peer (HOST[:PORT] or a multiaddress); can be given several
    /// times
    #[arg(long, value_name = "PEER")]
    bootstrap: Vec<String>,
    /// Do not look in the distributed table
    #[arg(long)]
    no_dht: bool,
    /// Do not tell the provider how far the boot came
    #[arg(long)]
    no_reports: bool,
    /// Channel the manifest must be for
    #[arg(long)]
    channel: Channel,
    /// Architecture the manifest must be for
    #[arg(long)]
    arch: Arch,
    /// The keys that are believed
    #[arg(long, value_name = "FILE", default_value = trust::TRUST_ROOT_FILE)]
    trust_root: PathBuf,
    /// Build time and version floor of the running image
    #[arg(long, value_name = "FILE", default_value = "/etc/phase/image.json")]
    image_info: PathBuf,
}

/// The members of `image.json` that matter here.
#[derive(Deserialize)]
struct ImageInfo {
    /// Unix seconds: the clock cannot be right before this.
    built_at: i64,
    floor: ImageFloor,
}

#[derive(Deserialize)]
struct ImageFloor {
    security_version: u64,
    sequence: u64,
}

/// The role at work.
struct Stage {
    link: InitLink,
    fetcher: Fetcher,
    root: TrustRoot,
    info: ImageInfo,
    channel: Channel,
    arch: Arch,
    tells: bool,
    reports: JoinSet<()>,
}

/// A manifest that verified, and who has what it names.
struct Found {
    manifest: Verified<Manifest>,
    providers: Providers,
    /// Told to init, and the address of reports.
    origin: Url,
    /// Nobody named it: when it is gone there may be others.
    searched: bool,
}

/// Why the role gave up.
struct Failure {
    code: &'static str,
    reason: String,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self {
            code: error.code(),
            reason: error.to_string(),
        }
    }
}

/// Runs the role.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    let link = InitLink::from_env().map_err(|error| CommandError::local(error.to_string()))?;
    let root = trust::load_root(&args.trust_root)?;
    let info = load_image_info(&args.image_info)?;
    let place = place(&args).map_err(|error| give_up(&link, &FetchError::Url(error).into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("the runtime cannot be started: {error}")))?;
    let (channel, arch) = (args.channel, args.arch);
    let fetcher = Fetcher::new(limits());
    let mut stage = Stage {
        link,
        fetcher,
        root,
        info,
        channel,
        arch,
        tells: !args.no_reports,
        reports: JoinSet::new(),
    };
    let result = runtime.block_on(stage.work(place));
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => Err(give_up(&stage.link, &failure)),
    }
}

/// Where images are fetched.
enum Place {
    Provider(Url),
    Anywhere(Wanted),
}

fn place(args: &Args) -> Result<Place, fetch::UrlError> {
    Ok(match &args.provider {
        Some(provider) => Place::Provider(provider.parse()?),
        None => Place::Anywhere(Wanted {
            channel: args.channel.clone(),
            arch: args.arch,
            file: args.providers_file.clone(),
            mdns: !args.no_mdns,
            bootstrap: match args.no_dht {
                true => Vec::new(),
                false => args.bootstrap.clone(),
            },
        }),
    })
}

/// Patience is this module's: one attempt is short, the number of attempts is not limited.
fn limits() -> Limits {
    Limits {
        retries: 0,
        redirects: 0,
        // The smallest rate bounds a transfer; how long a whole image may take depends on its size.
        total: Duration::from_secs(24 * 60 * 60),
        ..Limits::default()
    }
}

fn load_image_info(file: &Path) -> Result<ImageInfo, CommandError> {
    let bytes = trust::read(file, IMAGE_INFO_SIZE_MAX, "image description")?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CommandError::local(format!("{}: {error}", file.display())))
}

/// Tells init, and makes the error the process ends with.
fn give_up(link: &InitLink, failure: &Failure) -> CommandError {
    let Failure { code, reason } = failure;
    tell(
        link,
        &Report::Failed {
            code: (*code).to_owned(),
            reason: reason.clone(),
            retryable: *code == LOST,
        },
    );
    CommandError::failed(format!("{code}: {reason}"))
}

/// Sends a report; a link that fails is logged, for the work does not depend on it.
fn tell(link: &InitLink, report: &Report) {
    if let Err(error) = link.send(report) {
        tracing::error!(%error, "init cannot be told");
    }
}

/// Tells init of something that may pass.
fn tell_passing(link: &InitLink, error: &FetchError) {
    let (code, reason) = (error.code().to_owned(), error.to_string());
    let retryable = true;
    tell(
        link,
        &Report::Failed {
            code,
            reason,
            retryable,
        },
    );
}

impl ImageInfo {
    fn floor(&self) -> Floor {
        Floor {
            security_version: self.floor.security_version,
            sequence: self.floor.sequence,
        }
    }
}

impl Stage {
    async fn work(&mut self, place: Place) -> Result<(), Failure> {
        let found = match place {
            Place::Provider(location) => self.at_provider(location).await?,
            Place::Anywhere(wanted) => self.anywhere(wanted).await?,
        };
        let result = self.fetch(&found).await;
        if let Err(Failure { code, reason }) = &result {
            let text = format!("{code}: {reason}");
            self.report(&found.origin, vec![boot_report::Stage::failed(&text)]);
        }
        // They are on their way already; nothing of the boot depends on them.
        let told = async { while self.reports.join_next().await.is_some() {} };
        let _too_slow = tokio::time::timeout(REPORTS_WAIT, told).await;
        let (names, fds) = result?;
        self.hand_over(&found.origin, names, &fds)
    }

    /// Everything in sealed memory: what each part is, and the parts.
    async fn fetch(&mut self, found: &Found) -> Result<(Vec<String>, Vec<OwnedFd>), Failure> {
        let manifest = &found.manifest;
        tracing::info!(
            origin = %found.origin,
            version = manifest.version,
            sequence = manifest.sequence,
            digest = %manifest.digest(),
            "manifest verified"
        );
        let started = boot_report::Stage {
            ago: boot_report::uptime().min(boot_report::AGO_MAX),
            ..boot_report::Stage::now("linux")
        };
        let verified = boot_report::Stage::now("manifest");
        self.report(&found.origin, vec![started, verified]);
        let parts = PARTS
            .iter()
            .map(|name| fetch::named(manifest, name))
            .collect::<Result<Vec<&Artifact>, FetchError>>()?;
        check_room(&parts)?;
        let memory = |error: std::io::Error| Failure {
            code: "not-enough-memory",
            reason: format!("the image cannot be kept in memory: {error}"),
        };
        let mut names = vec!["manifest".to_owned()];
        let mut fds: Vec<OwnedFd> = vec![sealed("manifest", manifest.bytes()).map_err(memory)?];
        for artifact in parts {
            let complete = self.wait_for_artifact(found, artifact).await?;
            fds.push(complete.seal().map_err(memory)?);
            names.push(artifact.name.to_string());
        }
        self.report(&found.origin, vec![boot_report::Stage::now("fetched")]);
        Ok((names, fds))
    }

    /// Tells the provider of these stages in turn, without waiting for it.
    fn report(&mut self, origin: &Url, stages: Vec<boot_report::Stage>) {
        if !self.tells {
            return;
        }
        let origin = origin.clone();
        self.reports.spawn(async move {
            for stage in stages {
                if let Err(error) = boot_report::tell(&origin, &stage).await {
                    tracing::debug!(%error, stage = stage.name, "the provider was not told");
                }
            }
        });
    }

    /// The verified manifest of a provider, however long it takes to appear.
    async fn at_provider(&mut self, origin: Url) -> Result<Found, Failure> {
        let select = (self.channel.as_str(), self.arch.as_str());
        let url = fetch::manifest_url(&origin, Some(select)).map_err(FetchError::Url)?;
        let mut pause = PAUSE_MIN;
        loop {
            let floor = self.info.floor();
            let expect = expect(self.info.built_at, floor, &self.channel, self.arch);
            match self.fetcher.manifest(&url, &self.root, &expect).await {
                Ok(manifest) => {
                    return Ok(Found {
                        manifest,
                        providers: Providers(vec![url]),
                        origin,
                        searched: false,
                    });
                }
                Err(error) => self.wait(error, &mut pause).await?,
            }
        }
    }

    /// The verified manifest of whoever says to have one.
    async fn anywhere(&mut self, wanted: Wanted) -> Result<Found, Failure> {
        let asker = Asker {
            root: self.root.clone(),
            channel: self.channel.clone(),
            arch: self.arch,
            built_at: self.info.built_at,
            floor: self.info.floor(),
        };
        let mut search = Search::start(wanted);
        let asker = Arc::new(asker);
        let answers = ask::newest(&mut search, &asker, |error| {
            tell_passing(&self.link, error);
        });
        let (manifest, providers) = answers
            .await
            .map_err(|last| last.map_or_else(nobody, Failure::from))?;
        found(manifest, providers)
    }

    /// All of an artifact in memory. Chunks that arrived are kept across interruptions.
    async fn wait_for_artifact(
        &mut self,
        found: &Found,
        artifact: &Artifact,
    ) -> Result<Arc<Memory>, Failure> {
        let memory = Memory::new(artifact).map_err(|error| Failure {
            code: "not-enough-memory",
            reason: format!("{}: no memory for it: {error}", artifact.name),
        })?;
        let memory = Arc::new(memory);
        let name = artifact.name.as_str();
        let (mut pause, mut brought_at) = (PAUSE_MIN, Instant::now());
        loop {
            let (link, mut told, mut kept) = (&self.link, None, 0);
            let progress = |progress: fetch::Progress| {
                kept = progress.done;
                let now = Instant::now();
                let due = told.is_none_or(|told| now - told >= PROGRESS_INTERVAL);
                if due || progress.done == progress.total {
                    told = Some(now);
                    let (what, done, total) = (name.to_owned(), progress.done, progress.total);
                    tell(link, &Report::Progress { what, done, total });
                }
            };
            let sink = Arc::clone(&memory);
            let before = missing(&memory);
            match self
                .fetcher
                .artifact(&found.manifest, name, &found.providers, sink, progress)
                .await
            {
                Ok((memory, report)) => {
                    tracing::info!(artifact = name, bytes = kept, elapsed = ?report.elapsed, "artifact verified");
                    return Ok(memory);
                }
                Err(error) => {
                    if missing(&memory) < before {
                        (pause, brought_at) = (PAUSE_MIN, Instant::now());
                    } else if found.searched && brought_at.elapsed() >= STALL_TIME {
                        let reason = format!("{} brings nothing any more: {error}", found.origin);
                        return Err(Failure { code: LOST, reason });
                    }
                    self.wait(error, &mut pause).await?;
                }
            }
        }
    }

    /// Waits, when the error may pass; gives it back as a failure when it will not.
    async fn wait(&self, error: FetchError, pause: &mut Duration) -> Result<(), Failure> {
        if !may_pass(&error) {
            return Err(error.into());
        }
        tracing::warn!(%error, ?pause, "trying again");
        tell_passing(&self.link, &error);
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    fn hand_over(
        &self,
        location: &Url,
        names: Vec<String>,
        fds: &[OwnedFd],
    ) -> Result<(), Failure> {
        let origin = location.to_string().trim_end_matches('/').to_owned();
        let report = Report::Handoff(HandoffRecord { origin, fds: names });
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        match self.link.send_with_fds(&report, &fds) {
            Ok(true) => {
                tracing::info!("handed over to init");
                Ok(())
            }
            Ok(false) => {
                tracing::warn!("everything verified; there is no init to hand it to");
                Ok(())
            }
            Err(error) => Err(Failure {
                code: "handoff",
                reason: format!("init did not take the image: {error}"),
            }),
        }
    }
}

/// What a manifest must be to be used.
fn expect(built_at: i64, floor: Floor, channel: &Channel, arch: Arch) -> Expect<'_> {
    Expect {
        now: trust::now().max(Timestamp::from_unix(built_at)),
        floor,
        channel: Some(channel),
        arch: Some(arch),
        expiry: Expiry::Refuse,
    }
}

/// The manifest, and the servers that have just that image; the first of them is told of the boot.
fn found(manifest: Verified<Manifest>, providers: Vec<Url>) -> Result<Found, Failure> {
    let origin = providers.first().ok_or_else(nobody)?;
    let origin = format!("http://{}", origin.host_header());
    let origin = origin.parse().map_err(FetchError::Url)?;
    Ok(Found {
        manifest,
        providers: Providers(providers),
        origin,
        searched: true,
    })
}

fn nobody() -> Failure {
    Failure {
        code: "not-found",
        reason: "no boot server named a provider, none is announced on the local network, and none is in the distributed table"
            .to_owned(),
    }
}

fn missing(memory: &Memory) -> usize {
    fetch::Sink::missing(memory).len()
}

/// Whether waiting may help: also a file that is not there yet, because a provider that starts serves nothing at first.
fn may_pass(error: &FetchError) -> bool {
    match error {
        FetchError::NotFound { .. } => true,
        FetchError::TooSlow {
            slow: TooSlow::Total { .. },
            ..
        } => true,
        other => other.is_transient(),
    }
}

/// Refuses an image that does not fit into memory, before its first byte is fetched.
fn check_room(parts: &[&Artifact]) -> Result<(), Failure> {
    let needed = parts
        .iter()
        .fold(MEMORY_RESERVE, |sum, part| sum.saturating_add(part.size));
    let available = memory::available().ok_or_else(|| Failure {
        code: "not-enough-memory",
        reason: "/proc/meminfo does not tell how much memory is available".to_owned(),
    })?;
    // Above the limit of its cgroup the role would be killed, and start over for ever.
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_memory_max(&cgroups, Path::new("/sys/fs/cgroup"));
    let available = available.min(limit.unwrap_or(u64::MAX));
    if needed > available {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(Failure {
            code: "not-enough-memory",
            reason: format!(
                "the image needs {} MiB of memory, {} MiB are available: give this machine more memory",
                mib(needed),
                available >> 20,
            ),
        });
    }
    Ok(())
}

/// The memory limit of this process's cgroup, if it has one; `cgroups` is what /proc/self/cgroup says.
fn cgroup_memory_max(cgroups: &str, root: &Path) -> Option<u64> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = std::fs::read_to_string(root.join(path).join("memory.max")).ok()?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_cgroup() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("stage")).unwrap();
        for (text, expected) in [("138412032\n", Some(132 << 20)), ("max\n", None)] {
            std::fs::write(root.path().join("stage/memory.max"), text).unwrap();
            let found = cgroup_memory_max("1:name=x:/\n0::/stage\n", root.path());
            assert_eq!(found, expected, "{text:?}");
        }
        assert_eq!(cgroup_memory_max("0::/other\n", root.path()), None);
        assert_eq!(cgroup_memory_max("", root.path()), None);
    }
}
