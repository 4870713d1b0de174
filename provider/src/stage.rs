//! The `stage` role: fetches a whole image into sealed memory and hands it to init.
//!
//! ```text
//! (search) ─> manifest ──verified──> room for it? ──yes──> kernel, initramfs, rootfs ──chunk by chunk──> sealed ──> Handoff to init
//!              ^   │                    │                     ^    │     │ ^  │
//!              └───┘ not there yet      └ no: Failed, end     └────┘     │ └──┴ others that fetch the same
//!                                                                        └ wrong bytes: Failed, end
//! ```
//!
//! What may pass (no network yet, a provider that restarts, a cut transfer) is waited out for ever, and init is told
//! each time. What will not (a check that failed) ends the role with the reason. Init believes none of it and verifies
//! everything again. Without `--provider` one is looked for ([`search`]), for a bounded time, and again when it is gone.
//! With `--want` just that manifest is fetched, from those of several providers that have it ([`wanted`]); a machine that
//! serves waits for it a bounded time only.
//! While it fetches it gives others what it has, and takes from them ([`company`]), so that a rack that boots at once does
//! not wait for one server. Never touches a disk, never follows a redirect: a provider must not send this machine elsewhere.

mod ask;
mod candidates;
mod company;
mod elsewhere;
mod image;
mod search;
mod wanted;

use std::num::{NonZeroU16, NonZeroU64};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boot_manifest::handoff::{HandoffRecord, Report};
use boot_manifest::{
    Arch, Channel, Digest, Expect, Expiry, Floor, Manifest, Timestamp, TrustRoot, Verified,
};
use fetch::{FetchError, Fetcher, Led, Limits, Providers, SOURCES_MAX, TooSlow, Url};
use serde::Deserialize;
use tokio::task::JoinSet;

use self::ask::Asker;
use self::company::{Company, Part};
use self::image::Image;
use self::search::{Search, Wanted};
use crate::boot_report;
use crate::exit::{CommandError, Exit};
use crate::init_link::InitLink;
use crate::net::PROVIDERS_FILE;
use crate::sealed::sealed;
use crate::trust;

/// First and longest pause between attempts. The first is short because the network gets its address within a second of
/// this role's start. A provider that starts is noticed within half a minute, and a hundred machines that wait for it
/// ask three times a second altogether.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The longest pause of a machine that shares with others: who left for its next kernel serves again within half a minute,
/// and is heard of before.
const COMPANY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A provider that was found, and not named by a person, may bring nothing for this long: then another one is looked for.
const STALL_TIME: Duration = Duration::from_secs(60);

/// What init calls the descriptor of a root chain.
const ROOTS: &str = "roots";

/// The code of such a failure. Init starts the role again, which looks again.
const LOST: &str = "provider-lost";

/// The code instead of it when only named providers are asked.
const GONE: &str = "unreachable";

/// What the last reports to the provider may take before the image is handed over.
const REPORTS_WAIT: Duration = Duration::from_secs(1);

/// Between two progress reports: what a person on the console can follow.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// `image.json` has a few short members.
const IMAGE_INFO_SIZE_MAX: usize = 4_096;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The provider, or the URL of a manifest; without it one is looked for on the local network. With --want it can be
    /// given several times
    #[arg(long, value_name = "URL")]
    provider: Vec<String>,
    /// Fetch the image of this manifest and no other
    #[arg(long, value_name = "DIGEST", requires = "provider")]
    want: Option<Digest>,
    /// Look in this file for providers that boot servers named
    #[arg(long, value_name = "FILE", default_value = PROVIDERS_FILE)]
    providers_file: PathBuf,
    /// Neither look for others by multicast DNS nor announce what is shared
    #[arg(long)]
    no_mdns: bool,
    /// Look in the distributed table too, beginning with this peer (HOST[:PORT] or a multiaddress); can be given several
    /// times
    #[arg(long, value_name = "PEER")]
    bootstrap: Vec<String>,
    /// Do not look in the distributed table
    #[arg(long)]
    no_dht: bool,
    /// Give others what was verified so far, at this port of all addresses
    #[arg(long, value_name = "PORT", conflicts_with = "no_peers")]
    share: Option<NonZeroU16>,
    /// Give them at most so many bytes per second, such as 500K or 10M
    #[arg(long, value_name = "RATE", value_parser = crate::fetch_cmd::flags::rate, requires = "share")]
    share_rate: Option<NonZeroU64>,
    /// Fetch from providers only, and not from others that fetch the same
    #[arg(long)]
    no_peers: bool,
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
pub(crate) struct ImageInfo {
    /// Unix seconds: the clock cannot be right before this.
    pub(crate) built_at: i64,
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
    /// Whether others that fetch the same are of use, and to them.
    has_company: bool,
    part: Part,
    reports: JoinSet<()>,
}

/// A manifest that verified, and who has what it names.
struct Found {
    manifest: Arc<Verified<Manifest>>,
    /// What led to the keys that signed it, if that was needed.
    roots: Option<Vec<u8>>,
    providers: Providers,
    /// What goes on to look for others that have it, if it does.
    search: Option<Search>,
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
    if args.want.is_none() && args.provider.len() > 1 {
        return Err(CommandError::usage(
            "several providers can be named with --want only",
        ));
    }
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
        has_company: !args.no_peers,
        part: Part {
            share: args.share,
            rate: args.share_rate,
            mdns: !args.no_mdns,
        },
        reports: JoinSet::new(),
    };
    let result = runtime.block_on(stage.work(place));
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => Err(give_up(&stage.link, &failure)),
    }
}

/// Where images are fetched: at providers that were named, or where one is found; and others that have the same.
struct Place {
    providers: Vec<Url>,
    /// Nothing else is fetched there.
    want: Option<Digest>,
    wanted: Wanted,
}

fn place(args: &Args) -> Result<Place, fetch::UrlError> {
    let named = args.provider.iter().take(SOURCES_MAX);
    Ok(Place {
        providers: named.map(|text| text.parse()).collect::<Result<_, _>>()?,
        want: args.want,
        wanted: Wanted {
            channel: args.channel.clone(),
            arch: args.arch,
            file: args.providers_file.clone(),
            mdns: !args.no_mdns,
            bootstrap: match args.no_dht {
                true => Vec::new(),
                false => args.bootstrap.clone(),
            },
        },
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

/// Reads what the running image says of itself.
pub(crate) fn load_image_info(file: &Path) -> Result<ImageInfo, CommandError> {
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
        let Place {
            mut providers,
            want,
            wanted,
        } = place;
        let mut found = match (want, providers.pop()) {
            (Some(digest), Some(last)) => {
                providers.push(last);
                let search = self.has_company.then(|| Search::start(wanted));
                self.those_that_have(&digest, &providers, search).await?
            }
            (_, Some(location)) => self.at_provider(location, wanted).await?,
            (_, None) => self.anywhere(wanted).await?,
        };
        let mut result = self.fetch(&mut found).await;
        if let (Err(Failure { code, .. }), Some(_)) = (&mut result, want)
            && *code == LOST
        {
            // There is no other one to look for.
            *code = GONE;
        }
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
    async fn fetch(&mut self, found: &mut Found) -> Result<(Vec<String>, Vec<OwnedFd>), Failure> {
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
        let image = Image::new(manifest)?;
        let company = found.search.take().map(|search| {
            let known = found.providers.0.clone();
            Company::join(&self.part, &image, search, known)
        });
        self.download(found, &image, company.as_ref()).await?;
        self.report(&found.origin, vec![boot_report::Stage::now("fetched")]);
        let (mut names, mut fds) = image.seal()?;
        if let Some(roots) = &found.roots {
            names.push(ROOTS.to_owned());
            fds.push(sealed(ROOTS, roots).map_err(image::no_memory)?);
        }
        if let Some(company) = company {
            company.leave().await;
        }
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
    async fn at_provider(&mut self, origin: Url, wanted: Wanted) -> Result<Found, Failure> {
        let select = (self.channel.as_str(), self.arch.as_str());
        let url = fetch::manifest_url(&origin, Some(select)).map_err(FetchError::Url)?;
        let mut pause = PAUSE_MIN;
        loop {
            let floor = self.info.floor();
            let expect = expect(self.info.built_at, floor, &self.channel, self.arch);
            match self.fetcher.led_manifest(&url, &self.root, &expect).await {
                Ok(led) => {
                    return Ok(Found {
                        manifest: Arc::new(led.manifest),
                        roots: led.roots,
                        providers: Providers(vec![url]),
                        search: self.has_company.then(|| Search::start(wanted)),
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
        let mut search = Search::start(wanted);
        let asker = Arc::new(self.asker());
        let answers = ask::newest(&mut search, &asker, |error| {
            tell_passing(&self.link, error);
        });
        let (led, providers) = answers
            .await
            .map_err(|last| last.map_or_else(nobody, Failure::from))?;
        let search = self.has_company.then_some(search);
        found(led, providers, search)
    }

    fn asker(&self) -> Asker {
        Asker {
            root: self.root.clone(),
            channel: self.channel.clone(),
            arch: self.arch,
            built_at: self.info.built_at,
            floor: self.info.floor(),
            expiry: Expiry::Refuse,
        }
    }

    /// All of the image in memory. Chunks that arrived are kept across interruptions.
    async fn download(
        &mut self,
        found: &Found,
        image: &Image,
        company: Option<&Company>,
    ) -> Result<(), Failure> {
        let total: u64 = image.sizes().iter().sum();
        let mut kept = vec![0; image.sizes().len()];
        let (mut pause, mut brought_at) = (PAUSE_MIN, Instant::now());
        loop {
            let (link, mut told) = (&self.link, None);
            let progress = |progress: fetch::Progress| {
                if let Some(kept) = kept.get_mut(progress.part) {
                    *kept = progress.done;
                }
                let (now, done) = (Instant::now(), kept.iter().sum());
                let due = told.is_none_or(|told| now - told >= PROGRESS_INTERVAL);
                if due || done == total {
                    told = Some(now);
                    let what = "image".to_owned();
                    tell(link, &Report::Progress { what, done, total });
                }
            };
            let before = image.missing();
            let swarm = company.map(Company::swarm);
            let (manifest, providers) = (&found.manifest, &found.providers);
            let fetched =
                self.fetcher
                    .artifacts(manifest, image.sinks(), providers, swarm, progress);
            match fetched.await {
                Ok(reports) => {
                    tell_fetched(&reports);
                    return Ok(());
                }
                Err(error) => {
                    if image.missing() < before {
                        (pause, brought_at) = (PAUSE_MIN, Instant::now());
                    } else if found.searched && brought_at.elapsed() >= STALL_TIME {
                        let reason = format!("{} brings nothing any more: {error}", found.origin);
                        return Err(Failure { code: LOST, reason });
                    }
                    self.wait(error, &mut pause).await?;
                    if company.is_some() {
                        pause = pause.min(COMPANY_PAUSE_MAX);
                    }
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

/// Says what came from whom.
fn tell_fetched(reports: &[fetch::Report]) {
    let sum = |bytes: fn(&fetch::Report) -> u64| reports.iter().map(bytes).sum::<u64>();
    let elapsed = reports.iter().map(|report| report.elapsed).max();
    let sources = reports.iter().flat_map(|report| &report.sources);
    let mut peers: Vec<String> = sources
        .filter(|source| source.is_peer && source.bytes_kept > 0)
        .map(|source| source.url.host_header())
        .collect();
    peers.sort_unstable();
    peers.dedup();
    tracing::info!(
        bytes = sum(|report| report.bytes_fetched),
        from_peers = sum(fetch::Report::bytes_from_peers),
        peers = peers.len(),
        wrong_chunks = sum(|report| report.bad_chunks.into()),
        elapsed = ?elapsed.unwrap_or_default(),
        "image verified"
    );
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
fn found(led: Led, providers: Vec<Url>, search: Option<Search>) -> Result<Found, Failure> {
    let origin = providers.first().ok_or_else(nobody)?;
    let origin = format!("http://{}", origin.host_header());
    let origin = origin.parse().map_err(FetchError::Url)?;
    Ok(Found {
        manifest: Arc::new(led.manifest),
        roots: led.roots,
        providers: Providers(providers),
        search,
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
