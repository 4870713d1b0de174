//! The `update` role of the appliance: finds newer images for this machine, and asks others for the turn to restart.
//!
//! ```text
//!              ┌── poll, with chance ──┐
//! init ──CheckNow──────────────────────┴──> look: named sources, neighbours ──> Neighbours, Freshness
//!                                            └─ newer, verified ──> Offer + manifest + roots ──> init
//!                                            └─ nothing newer ────> Checked
//! init ──AskTurn───> look, then own server and neighbours ──> Turn
//! init ──ReleaseTurn──> they are told
//! ```
//!
//! It only finds: init verifies every offer again, with the keys of its own image, and decides. It fetches no artifacts
//! (`stage` does), serves nothing, keeps nothing, and listens to multicast DNS only. One task does one thing at a time, so
//! commands wait for the end of a look, which is bounded ([`limits`]).
//!
//! Pure parts, tested without a network: [`places`] (whom to ask), [`look::judge`], [`fresh`], [`turn`]. A command to look
//! that no source answers ends with the machine's own manifest, fetched and verified through the same code: a new image
//! proves so that it can be replaced again.
//!
//! [`turn`] and [`shown`] (how people see an upgrade) are of use to the server and the command line as well.

mod courtesy;
mod fresh;
mod limits;
mod listen;
mod look;
mod places;
mod running;
pub(crate) mod shown;
pub(crate) mod turn;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boot_manifest::handoff::{Command, Report};
use boot_manifest::{Arch, Channel, Digest, RoleName};
use discovery::Change;
use fetch::Url;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use self::courtesy::Held;
use self::fresh::Verdict;
use self::limits::{FIRST_LOOK, FIRST_LOOK_JITTER_MAX, RETRY_MIN, TURN_RENEWAL};
use self::look::{Answer, Judgement};
use self::places::{Own, Places};
use self::running::Running;
use self::turn::Id;
use crate::exit::{CommandError, Exit};
use crate::init_link::{Commands, InitLink};
use crate::sealed::sealed;
use crate::stage::load_image_info;
use crate::trust;

/// Threads beside the one that works: one looks names up.
const BLOCKING_THREADS_MAX: usize = 2;

/// The flags of the role.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The channel that is looked for
    #[arg(long)]
    channel: Channel,
    /// Its architecture
    #[arg(long)]
    arch: Arch,
    /// The manifest of what runs; the chain of roots lies beside it
    #[arg(long, value_name = "FILE")]
    running: PathBuf,
    /// The keys that the running image came with
    #[arg(long, value_name = "FILE", default_value = trust::TRUST_ROOT_FILE)]
    trust_root: PathBuf,
    /// Build time of the running image
    #[arg(long, value_name = "FILE", default_value = "/etc/phase/image.json")]
    image_info: PathBuf,
    /// The provider this machine booted from
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// A provider that is asked too; can be given several times
    #[arg(long, value_name = "URL")]
    from: Vec<String>,
    /// The time between two looks, which chance makes a quarter longer or shorter
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    poll: u64,
    /// Do not listen for neighbours
    #[arg(long)]
    no_mdns: bool,
    /// The HTTP port of this machine's own server
    #[arg(long, value_name = "PORT")]
    http_port: u16,
}

/// The role at work.
struct Update {
    link: InitLink,
    running: Arc<Running>,
    places: Places,
    neighbours: Option<Receiver<Change>>,
    port: u16,
    poll: Duration,
    id: Id,
    held: Option<Held>,
    /// Looks in a row that nobody answered.
    unanswered: u32,
    /// When a freshness statement was heard last, or the role began.
    fresh_at: Instant,
}

/// What a look found, and who the neighbours are.
struct Looked {
    answers: Vec<Answer>,
    judgement: Judgement,
}

/// Runs the role until it is ended.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    let link = InitLink::from_env()
        .map_err(|error| CommandError::local(format!("cannot use the socket of init: {error}")))?;
    let built_at = load_image_info(&args.image_info)?.built_at;
    let running = Running::read(&args.running, &args.trust_root, built_at)?;
    let named = named(&args, &link);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("the runtime cannot be started: {error}")))?;
    let (channel, arch) = (args.channel.clone(), args.arch);
    let exit = runtime.block_on(async {
        let commands = link
            .commands()
            .map_err(|error| CommandError::local(format!("init cannot be heard: {error}")))?;
        let update = Update {
            link,
            running: Arc::new(running),
            places: Places::new(named, chance()),
            neighbours: (!args.no_mdns).then(|| listen::start(channel, arch)),
            port: args.http_port,
            poll: Duration::from_secs(args.poll),
            id: courtesy::id_of_machine(args.http_port),
            held: None,
            unanswered: 0,
            fresh_at: Instant::now(),
        };
        update.work(commands).await;
        Ok(Exit::Done)
    });
    // A name that is still looked up must not hold up the end.
    runtime.shutdown_background();
    exit
}

/// The manifests of those that were named. One that cannot be understood costs the others nothing.
fn named(args: &Args, link: &InitLink) -> Vec<Url> {
    let select = (args.channel.as_str(), args.arch.as_str());
    let url = |text: &String| {
        let parsed = text.parse();
        let url = parsed.and_then(|url| fetch::manifest_url(&url, Some(select)));
        url.map_err(|error| {
            let report = Report::Failed {
                code: "bad-url".to_owned(),
                reason: error.to_string(),
                retryable: false,
            };
            tell(link, &report);
        })
        .ok()
    };
    args.origin
        .iter()
        .chain(&args.from)
        .filter_map(url)
        .collect()
}

/// Sends a report; a link that fails is logged, for the work does not depend on it.
fn tell(link: &InitLink, report: &Report) {
    if let Err(error) = link.send(report) {
        tracing::warn!(%error, "init cannot be told");
    }
}

/// What nobody on the wire foresees.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers the machines of a hall look at the same time, and that is all.
    let _same = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_le_bytes(bytes)
}

/// When to look first: soon, and not everybody at once.
fn first_look(poll: Duration, chance: u64) -> Duration {
    let most = (poll / 4).min(FIRST_LOOK_JITTER_MAX);
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    FIRST_LOOK + Duration::from_millis(chance % millis.saturating_add(1))
}

/// When to look next, after so many looks in a row that nobody answered.
fn next_look(poll: Duration, unanswered: u32, chance: u64) -> Duration {
    let pause = match unanswered {
        0 => poll,
        failures => (RETRY_MIN * 2_u32.pow((failures - 1).min(16))).min(poll),
    };
    ::upgrade::jittered(pause, chance)
}

impl Update {
    async fn work(mut self, mut commands: Commands) {
        tell(&self.link, &Report::Ready {});
        let mut look_at = Instant::now() + first_look(self.poll, chance());
        loop {
            let renew_at = self.held.as_ref().map(|held| held.renew_at);
            let due = renew_at.map_or(look_at, |renew_at| renew_at.min(look_at));
            tokio::select! {
                command = commands.next() => match command {
                    None => return,
                    Some(Command::CheckNow {}) => {
                        self.check(true).await;
                        look_at = Instant::now() + self.next_look();
                    }
                    Some(Command::AskTurn { digest }) => self.ask_turn(&digest).await,
                    Some(Command::ReleaseTurn {}) => self.release_turn().await,
                },
                () = sleep_until(due) => {
                    if let Some(held) = self.held.as_mut().filter(|held| held.renew_at <= due) {
                        courtesy::renew(&self.id, held, TURN_RENEWAL).await;
                    }
                    if look_at <= due {
                        self.check(false).await;
                        look_at = Instant::now() + self.next_look();
                    }
                }
            }
        }
    }

    fn next_look(&self) -> Duration {
        next_look(self.poll, self.unanswered, chance())
    }

    /// Takes note of who came and went.
    fn hear(&mut self) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let now = std::time::Instant::now();
        while let Ok(change) = neighbours.try_recv() {
            match change {
                Change::There(hint) => {
                    let urls = hint.urls();
                    let urls = urls.iter().filter_map(|url| url.parse().ok());
                    self.places.heard(hint.id, urls.collect(), now);
                }
                Change::Gone(id) => self.places.gone(&id),
            }
        }
    }

    /// Asks everybody, and tells init who is there.
    async fn look(&mut self) -> (Looked, boot_manifest::TrustRoot) {
        self.hear();
        let own = own_addresses();
        let port = self.port;
        let is_own = |url: &Url| places::is_own(&own, port, url);
        let places = self.places.round(is_own, std::time::Instant::now());
        let (answers, root) = look::ask_all(&self.running, places).await;
        let found: Vec<_> = answers.iter().map(Answer::found).collect();
        let is_neighbour = |at: usize| {
            let answer = &answers[at];
            answer.place.is_heard || places::is_near(&own, &answer.url)
        };
        let running = (self.running.counters(), self.running.digest());
        let judgement = look::judge(running, &found, is_neighbour);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let report = Report::Neighbours {
            live: count(judgement.neighbours.len()),
            same: count(judgement.same),
        };
        tell(&self.link, &report);
        (Looked { answers, judgement }, root)
    }

    /// One look, and what init is told of it. `is_asked`: init waits for an answer, and a new image has to prove that it can
    /// be replaced again even where nobody else is.
    async fn check(&mut self, is_asked: bool) {
        let (looked, root) = self.look().await;
        let has_answer = looked.answers.iter().any(|answer| answer.result.is_ok());
        self.unanswered = match has_answer {
            true => 0,
            false => self.unanswered.saturating_add(1),
        };
        if has_answer {
            self.freshness(&looked, &root).await;
        }
        if self.offer(&looked) {
            return;
        }
        let report = match (has_answer, is_asked) {
            (false, true) => self.own_sample(&looked).await,
            _ => checked(&looked),
        };
        tell(&self.link, &report);
    }

    /// Offers what is newer; whether there was something.
    fn offer(&self, looked: &Looked) -> bool {
        let mut offered = false;
        for at in &looked.judgement.offers {
            let answer = &looked.answers[*at];
            let got = answer.result.as_ref().ok();
            let Some(got) = got.and_then(|found| found.got.as_ref()) else {
                continue;
            };
            let origin = format!("http://{}", answer.url.host_header());
            tracing::info!(
                origin,
                version = got.manifest.version,
                sequence = got.manifest.sequence,
                digest = %got.manifest.digest(),
                "a newer image"
            );
            match self.send_offer(origin, got) {
                Ok(_) => offered = true,
                Err(error) => tracing::error!(%error, "init did not take the offer"),
            }
        }
        offered
    }

    fn send_offer(&self, origin: String, got: &fetch::Led) -> std::io::Result<bool> {
        use std::os::fd::AsFd as _;
        let manifest = sealed("manifest", got.manifest.bytes())?;
        let roots = got.roots.as_ref().map(|roots| sealed("roots", roots));
        let roots = roots.transpose()?;
        let fds: Vec<_> = std::iter::once(&manifest).chain(&roots).collect();
        let fds: Vec<_> = fds.into_iter().map(|fd| fd.as_fd()).collect();
        self.link.send_with_fds(&Report::Offer { origin }, &fds)
    }

    /// The machine's own manifest through the same code, when there is nobody else to prove it with.
    async fn own_sample(&self, looked: &Looked) -> Report {
        let manifest = &self.running.manifest;
        let path = format!("/{}/{}/manifest.json", manifest.channel, manifest.arch);
        let url = self.own_server().join(&path);
        let Ok(url) = url else {
            return checked(looked);
        };
        match look::ask_at(&self.running, &url).await {
            Ok(_) => Report::Checked {
                origin: String::new(),
                code: "no-source".to_owned(),
                reason: format!(
                    "no provider answered ({}); the own manifest was fetched and verified",
                    looked.answers.len()
                ),
                ok: true,
            },
            // What is wrong with the sources says more than what is wrong here.
            Err(_) if !looked.answers.is_empty() => checked(looked),
            Err(error) => Report::Checked {
                origin: url.to_string(),
                code: error.code().to_owned(),
                reason: error.to_string(),
                ok: false,
            },
        }
    }

    fn own_server(&self) -> Url {
        let url = format!("http://127.0.0.1:{}", self.port);
        url.parse().expect("an address and a port are a URL")
    }

    /// Asks whether what was found is the newest, and tells init what it is worth.
    async fn freshness(&mut self, looked: &Looked, root: &boot_manifest::TrustRoot) {
        let mut answers: Vec<&Answer> = looked.answers.iter().collect();
        answers.retain(|answer| answer.result.is_ok());
        answers.sort_by_key(|answer| !answer.place.is_named);
        let urls: Vec<Url> = answers.iter().map(|answer| answer.url.clone()).collect();
        let manifest = &self.running.manifest;
        let wanted = (&manifest.channel, manifest.arch);
        let report = match fresh::ask(&urls, root, wanted, looked.judgement.newest).await {
            Verdict::Fresh { origin, sequence } => {
                self.fresh_at = Instant::now();
                Report::Freshness {
                    origin,
                    fresh: true,
                    sequence,
                    reason: "nothing newer exists".to_owned(),
                }
            }
            Verdict::HeldBack {
                origin,
                sequence,
                reason,
            } => Report::Freshness {
                origin,
                fresh: false,
                sequence,
                reason,
            },
            Verdict::Unknown => {
                let is_expected = root.has_own(RoleName::Freshness);
                if !fresh::is_overdue(self.fresh_at.elapsed(), is_expected) {
                    return;
                }
                // Once in each such time.
                self.fresh_at = Instant::now();
                Report::Freshness {
                    origin: String::new(),
                    fresh: false,
                    sequence: 0,
                    reason: "for a day nobody could say whether something newer exists".to_owned(),
                }
            }
        };
        tell(&self.link, &report);
    }

    async fn ask_turn(&mut self, digest: &str) {
        let report = match digest.parse::<Digest>() {
            Ok(digest) => self.turn(digest).await,
            Err(error) => Report::Turn {
                granted: false,
                by: String::new(),
                reason: format!("no turn can be asked for: {error}"),
            },
        };
        tell(&self.link, &report);
    }

    async fn turn(&mut self, digest: Digest) -> Report {
        // Who is there now, not at the last look.
        let (looked, _) = self.look().await;
        let neighbours = looked.judgement.neighbours.iter();
        let neighbours: Vec<Url> = neighbours
            .map(|at| looked.answers[*at].url.clone())
            .collect();
        let own = self.own_server();
        match courtesy::ask(&self.id, digest, &own, &neighbours, TURN_RENEWAL).await {
            Ok(held) => {
                let by = held.by();
                self.held = Some(held);
                Report::Turn {
                    granted: true,
                    by,
                    reason: "nobody else restarts".to_owned(),
                }
            }
            Err(refused) => Report::Turn {
                granted: false,
                by: refused.by,
                reason: refused.reason,
            },
        }
    }

    /// Tells all that are known, for the turn may have been asked for before a restart.
    async fn release_turn(&mut self) {
        self.hear();
        let own = own_addresses();
        let port = self.port;
        let is_own = |url: &Url| places::is_own(&own, port, url);
        let places = self.places.round(is_own, std::time::Instant::now());
        let mut all = vec![self.own_server()];
        // At each of their addresses: a turn belongs to the address it was asked for from.
        all.extend(places.into_iter().flat_map(|place| place.urls));
        let held = self.held.take();
        let digest = held.map_or_else(|| self.running.digest(), |held| held.digest());
        courtesy::release(&self.id, digest, &all).await;
    }
}

/// What a look without an offer came to.
fn checked(looked: &Looked) -> Report {
    let Looked { answers, judgement } = looked;
    let report = |origin: &Url, code: &str, reason: String, ok: bool| Report::Checked {
        origin: format!("http://{}", origin.host_header()),
        code: code.to_owned(),
        reason,
        ok,
    };
    if let Some((at, objection)) = &judgement.objection {
        let reason = format!("what it has may not follow: {objection}");
        return report(&answers[*at].url, objection.code(), reason, true);
    }
    let verified = answers.iter().filter(|answer| answer.result.is_ok());
    if let Some(first) = verified.clone().next() {
        let reason = match verified.count() {
            1 => "it has nothing newer".to_owned(),
            more => format!("it and {} others have nothing newer", more - 1),
        };
        return report(&first.url, "current", reason, true);
    }
    // Who was named says most to a person.
    let named = answers.iter().find(|answer| answer.place.is_named);
    let failed = named.or(answers.first());
    match failed.map(|answer| (answer, &answer.result)) {
        Some((answer, Err(error))) => report(&answer.url, error.code(), error.to_string(), false),
        _ => Report::Checked {
            origin: String::new(),
            code: "not-found".to_owned(),
            reason: "no provider is named, and none announces itself here".to_owned(),
            ok: false,
        },
    }
}

/// The addresses of this machine, as far as its interfaces are up.
fn own_addresses() -> Vec<Own> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let own = |interface: if_addrs::Interface| {
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(address) => address.prefixlen,
            if_addrs::IfAddr::V6(address) => address.prefixlen,
        };
        let address: IpAddr = interface.ip();
        (!address.is_loopback()).then_some(Own { address, prefix })
    };
    interfaces.into_iter().filter_map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_spread_by_chance() {
        const S: Duration = Duration::from_secs(1);
        let poll = 900 * S;
        for chance in [0, 1, 7_777, u64::MAX] {
            let first = first_look(poll, chance);
            assert!((2 * S..=32 * S).contains(&first), "{first:?}");
            assert!(first_look(4 * S, chance) <= 3 * S, "for who looks often");
            let next = next_look(poll, 0, chance);
            assert!((675 * S..=1_125 * S).contains(&next), "{next:?}");
            let again = next_look(poll, 1, chance);
            assert!(again <= 7 * S, "{again:?}");
            assert!(next_look(poll, u32::MAX, chance) <= 1_125 * S);
        }
        assert_ne!(next_look(poll, 0, 1), next_look(poll, 0, 2));
    }
}
