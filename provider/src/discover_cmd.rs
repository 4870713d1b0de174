//! `phase-discover`: finds the nearest provider and prints the URL of its manifest.
//!
//! ```text
//! multicast DNS ──┐
//!                 ├──> table (bounded) ──> near: who accepts a connection, how soon ──> show
//! DHT ────────────┘ asked when the local network was silent
//! ```
//! What is printed is a hint: whoever follows it verifies the manifest. A URL is printed only when something accepts
//! connections there; nothing is fetched.

mod lan;
mod near;
mod show;
mod table;
mod wide;

use std::time::Duration;

use boot_manifest::{Arch, Channel};
use discovery::Hint;
use discovery::dht::Bootstrap;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::discover_cmd::near::Measure;
use crate::discover_cmd::show::Watched;
use crate::discover_cmd::table::{Near, Number, Table, Via};
use crate::discover_cmd::wide::Wide;
use crate::exit::{CommandError, Exit};
use crate::out;

/// How long is searched when nobody says it.
const SEARCH_SECONDS: u64 = 30;

/// After the first provider that can be reached, a nearer one has this long to show up: answers to one question come
/// spread over 120 ms (RFC 6762 section 6). Whoever shows up later is not worth the wait of everybody.
const NEARER_TIME: Duration = Duration::from_millis(120);

/// The same for programs, which want to know how many there are.
const GATHER_TIME: Duration = Duration::from_millis(700);

/// The local network has this long to name a provider that can be reached; then the DHT is asked. A provider answers within
/// 120 ms, but not within a second of having said the same to somebody else (RFC 6762 section 6): then it answers our
/// second question, which comes after a second.
const LAN_FIRST: Duration = Duration::from_millis(1_250);

/// Between two looks at what is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// News on their way; who sends more waits.
const NEWS_MAX: usize = 64;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architecture wanted (amd64 and arm64 are understood)
    #[arg(short, long, default_value_t = Arch::host())]
    arch: Arch,

    /// Channel wanted
    #[arg(short, long, default_value = "stable")]
    channel: Channel,

    /// Give up after this many seconds (30; with --watch never)
    #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Print nothing but the bare URL (with --format json the object) and errors
    #[arg(short, long)]
    quiet: bool,

    /// Search until the timeout and list every provider, the nearest first
    #[arg(long)]
    all: bool,

    /// Go on, and tell of each provider that comes, changes or goes: one line each, or one object
    #[arg(long, conflicts_with = "all")]
    watch: bool,

    /// Where to search [default: the local network, then the DHT if a node of it is known]
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// Keep no list of DHT nodes for the next search; the identity is a new one each time anyway
    #[arg(long)]
    ephemeral: bool,

    /// A DHT node to begin with: HOST[:PORT], /ip4/ADDRESS/tcp/PORT[/p2p/ID], /dns/NAME/tcp/PORT, or @FILE with one a line;
    /// may be given several times [default: `bootstrap` of plasmd's configuration]
    #[arg(short, long, value_name = "NODE")]
    bootstrap: Vec<String>,
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// `MANIFEST_URL=...`, for shells.
    Text,
    /// For programs: one object.
    Json,
}

/// Where to search. A machine that boots says the same with `phase.mode=`.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// The local network first, then the DHT, for which a node must be known.
    #[value(alias = "wan")]
    Internet,
    /// The local network only, by multicast DNS.
    #[value(alias = "lan")]
    Local,
    /// As without --mode, and leaves nothing behind (--ephemeral).
    Private,
}

impl Args {
    /// Whether nothing is kept for the next search.
    fn leaves_nothing(&self) -> bool {
        self.ephemeral || self.mode == Some(Mode::Private)
    }
}

/// Something that was heard on the local network.
enum News {
    /// Somebody serves something.
    There(Hint),
    /// Whoever has this id on the local network said goodbye.
    Gone(String),
}

/// Runs the command.
pub(crate) fn run(mut args: Args) -> Result<Exit, CommandError> {
    if args.json {
        args.format = Format::Json;
    }
    let peers = match args.mode {
        Some(Mode::Local) if !args.bootstrap.is_empty() => {
            return Err(CommandError::usage(
                "--mode local asks no DHT node: leave out --bootstrap, or --mode",
            ));
        }
        Some(Mode::Local) => Vec::new(),
        Some(Mode::Internet | Mode::Private) | None => wide::peers(&args)?,
    };
    if args.mode == Some(Mode::Internet) && peers.is_empty() {
        return Err(CommandError::usage(
            "--mode internet needs a DHT node to begin with: --bootstrap HOST, or --mode local, or the provider's URL: \
             phase-fetch URL",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("the runtime cannot be started: {error}")))?;
    let result = runtime.block_on(search(&args, peers));
    // A listening thread that is in the way of nobody ends with the process.
    runtime.shutdown_background();
    result
}

async fn search(args: &Args, peers: Vec<Bootstrap>) -> Result<Exit, CommandError> {
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let lan = lan::start(sender);
    let wide_at = match lan {
        Ok(()) => Instant::now() + LAN_FIRST,
        Err(_) => Instant::now(),
    };
    let wide = Wide::new(args, peers, wide_at);
    match lan {
        Err(error) if wide.is_possible() => {
            tracing::warn!(%error, "cannot search the local network");
        }
        Err(error) => {
            let message = format!("cannot search the local network: {error}");
            return Err(CommandError::local(message));
        }
        Ok(()) if !args.quiet => eprintln!(
            "searching the local network for {}/{} ...",
            args.channel, args.arch
        ),
        Ok(()) => {}
    }
    let mut search = Search::new(args, news, wide);
    let result = search.run().await;
    search.wide.end().await;
    result
}

/// A search that goes on.
struct Search<'a> {
    args: &'a Args,
    table: Table,
    news: Receiver<News>,
    wide: Wide,
    measure: Measure,
    /// Measurements under way, each of the provider with this number.
    measuring: JoinSet<(Number, Option<Near>)>,
    started_at: Instant,
    end: Option<Instant>,
    watched: Watched,
}

impl<'a> Search<'a> {
    fn new(args: &'a Args, news: Receiver<News>, wide: Wide) -> Self {
        let started_at = Instant::now();
        let seconds = args
            .timeout
            .or_else(|| (!args.watch).then_some(SEARCH_SECONDS));
        Self {
            args,
            table: Table::new(args.channel.clone(), args.arch),
            news,
            wide,
            measure: Measure::new(),
            measuring: JoinSet::new(),
            started_at,
            end: seconds.map(|seconds| started_at + Duration::from_secs(seconds)),
            watched: Watched::default(),
        }
    }

    async fn run(&mut self) -> Result<Exit, CommandError> {
        let mut was_found = false;
        while self.end.is_none_or(|end| Instant::now() < end) {
            self.look_wide()?;
            self.step().await;
            let is_found = self.table.nearest().is_some();
            if is_found && !was_found && !self.args.all && !self.args.watch {
                let more = match self.args.format {
                    Format::Text => NEARER_TIME,
                    Format::Json => GATHER_TIME,
                };
                let soon = Instant::now() + more;
                self.end = Some(self.end.map_or(soon, |end| end.min(soon)));
            }
            was_found |= is_found;
            if self.args.watch && !self.tell() {
                return Ok(Exit::Done);
            }
        }
        if self.args.watch && was_found {
            return Ok(Exit::Done);
        }
        let Some(nearest) = self.table.nearest() else {
            return Err(self.timed_out());
        };
        show::found(&self.table, nearest, self.args);
        Ok(Exit::Done)
    }

    /// Asks the DHT when the local network was silent, or when everything is wanted.
    fn look_wide(&mut self) -> Result<(), CommandError> {
        let had_begun = self.wide.has_begun();
        let wants_all = self.args.all || self.args.watch;
        self.wide
            .look(!wants_all && self.table.nearest().is_some())?;
        if self.wide.has_begun() && !had_begun && !self.args.quiet {
            eprintln!("searching in the DHT as well ...");
        }
        Ok(())
    }

    /// Waits for something to happen, not for long, and takes note of it.
    async fn step(&mut self) {
        let look = Instant::now() + LOOK_INTERVAL;
        let until = self.end.map_or(look, |end| end.min(look));
        tokio::select! {
            Some(news) = self.news.recv() => match news {
                News::There(hint) => self.table.hear(hint, Via::Mdns),
                News::Gone(id) => self.table.gone(&id),
            },
            hint = self.wide.next() => self.table.hear(hint, Via::Dht),
            Some(Ok((number, near))) = self.measuring.join_next() => {
                self.table.measured(number, near, self.started_at.elapsed());
            }
            () = tokio::time::sleep_until(until) => {}
        }
        let now = self.started_at.elapsed();
        for (number, hint) in self.table.due(now, self.args.watch) {
            let measure = self.measure.clone();
            self.measuring
                .spawn(async move { (number, measure.nearest(hint.addresses).await) });
        }
    }

    /// Prints what is new; whether somebody still reads it.
    fn tell(&mut self) -> bool {
        let lines = self.watched.news(&self.table, self.args);
        lines.into_iter().all(out::is_read)
    }

    fn timed_out(&self) -> CommandError {
        let Args { channel, arch, .. } = self.args;
        let places = match self.wide.has_begun() {
            true => "by multicast DNS on the local network or in the DHT",
            false => "by multicast DNS on the local network",
        };
        let message = format!(
            "discovery timeout after {} s: no provider of {channel}/{arch} {places}",
            self.started_at.elapsed().as_secs(),
        );
        let silent = self.table.ranked();
        let hint = if let Some(first) = silent.first() {
            let ids: Vec<&str> = silent.iter().map(|provider| provider.id()).collect();
            let addresses = first.hint.addresses.iter().map(ToString::to_string);
            format!(
                "{} advertised itself but does not answer at {}: check routes and firewalls",
                ids.join(", "),
                addresses.collect::<Vec<_>>().join(", ")
            )
        } else if !self.table.others().is_empty() {
            format!(
                "providers of {} were found: check --channel and --arch",
                self.table.others().join(", ")
            )
        } else {
            let wider = match (self.wide.is_possible(), self.wide.is_connected()) {
                (true, true) => "that a provider of it uses the same DHT",
                (true, false) => "that the DHT nodes to begin with can be reached: none answered",
                (false, _) => "beyond it, name a DHT node with --bootstrap",
            };
            format!(
                "check that plasmd serve runs without --no-mdns in the same network and that UDP port 5353 is not blocked; \
                 {wider}; or give its URL to phase-fetch"
            )
        };
        CommandError::failed(message).hint(hint)
    }
}
