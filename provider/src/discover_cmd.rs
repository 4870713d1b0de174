//! `phase-discover`: finds a provider on the local network and prints the URL of its manifest.
//!
//! Multicast DNS only. What is printed is a hint: whoever follows it verifies the manifest. A URL is printed only when
//! something accepts connections there; nothing is fetched.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use boot_manifest::{Arch, Channel};
use discovery::{Browser, DiscoveryError, Hint};
use serde_json::{Value, json};

use crate::exit::{CommandError, Exit};
use crate::out;

/// After the first provider that can be reached, others have this long to be counted, for programs that ask.
const GATHER_TIME: Duration = Duration::from_millis(700);

/// Providers kept. A flood of advertisements must not fill the memory; 64 are a large LAN.
const PROVIDERS_MAX: usize = 64;

/// One attempt to connect; a machine on the same LAN answers within milliseconds.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);

/// How soon a successful connection is noticed.
const NOTICE_TIME: Duration = Duration::from_millis(20);

/// A provider that could not be reached is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architecture wanted (amd64 and arm64 are understood)
    #[arg(short, long, default_value_t = Arch::host())]
    arch: Arch,

    /// Channel wanted
    #[arg(short, long, default_value = "stable")]
    channel: Channel,

    /// Give up after this many seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Print nothing but the bare URL (with --format json the object) and errors
    #[arg(short, long)]
    quiet: bool,

    /// Search until the timeout and list every provider, not only the first
    #[arg(long)]
    all: bool,

    /// Where to search; only the local network can be searched in this version
    #[arg(long, value_enum, default_value_t = Mode::Local)]
    mode: Mode,

    /// Leave no identity behind; always so on the local network, where none is used
    #[arg(long)]
    ephemeral: bool,

    /// Address of a DHT node to ask; not in this version, which searches the local network only
    #[arg(short, long, value_name = "MULTIADDR")]
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
    /// The local network, by multicast DNS.
    #[value(alias = "lan")]
    Local,
    /// The same, leaving no identity behind; there is none to leave in this version.
    Private,
    /// Beyond the local network; refused, there is no DHT in this version.
    #[value(alias = "wan")]
    Internet,
}

/// Runs the command.
pub(crate) fn run(mut args: Args) -> Result<Exit, CommandError> {
    if args.json {
        args.format = Format::Json;
    }
    if !args.bootstrap.is_empty() {
        return Err(CommandError::usage(
            "--bootstrap names a DHT node, and this version searches the local network only: leave it out, or: phase-fetch URL",
        ));
    }
    if args.mode == Mode::Internet {
        return Err(CommandError::usage(
            "there is no DHT in this version: use --mode local, or give the provider's URL: phase-fetch URL",
        ));
    }
    // Nothing to switch off: no key and no id is made for a search by multicast DNS.
    let _always = args.ephemeral;
    let no_search =
        |error| CommandError::local(format!("cannot search the local network: {error}"));
    let mut browser = Browser::start().map_err(no_search)?;
    if !args.quiet {
        eprintln!(
            "searching the local network for {}/{} ...",
            args.channel, args.arch
        );
    }
    let mut search = Search::new(&args);
    let found = search.run(&mut browser, &args).map_err(no_search)?;
    drop(browser);
    match found {
        Some(provider) => {
            search.print(provider, &args);
            Ok(Exit::Done)
        }
        None => Err(search.timed_out(&args)),
    }
}

/// A provider of the wanted channel and architecture.
struct Provider {
    hint: Hint,
    /// The address that accepted a connection.
    reached: Arc<OnceLock<SocketAddr>>,
    /// The thread that tries its addresses, and when it started.
    attempt: Option<(JoinHandle<()>, Instant)>,
}

/// What was heard so far.
struct Search {
    key: String,
    providers: Vec<Provider>,
    /// `channel/arch` of providers of something else.
    others: Vec<String>,
}

impl Search {
    fn new(args: &Args) -> Self {
        Self {
            key: format!("/phase/{}/{}/manifest", args.channel, args.arch),
            providers: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Listens until a provider was reached, and a little longer to count others. Gives the index of the first one.
    fn run(&mut self, browser: &mut Browser, args: &Args) -> Result<Option<usize>, DiscoveryError> {
        let mut end = Instant::now() + Duration::from_secs(args.timeout);
        let mut first = None;
        while Instant::now() < end {
            if let Some(hint) = browser.next(NOTICE_TIME)? {
                self.hear(hint, args);
            }
            for provider in &mut self.providers {
                provider.reach();
            }
            if first.is_none() {
                first = self
                    .providers
                    .iter()
                    .position(|found| found.reached.get().is_some());
                match args.format {
                    Format::Text | Format::Json if args.all => (),
                    Format::Text if first.is_some() => break,
                    Format::Json if first.is_some() => end = end.min(Instant::now() + GATHER_TIME),
                    Format::Text | Format::Json => (),
                }
            }
        }
        Ok(first)
    }

    /// Notes a hint.
    fn hear(&mut self, hint: Hint, args: &Args) {
        if hint.channel != args.channel || hint.arch != args.arch {
            let other = format!("{}/{}", hint.channel, hint.arch);
            if !self.others.contains(&other) && self.others.len() < PROVIDERS_MAX {
                self.others.push(other);
            }
            return;
        }
        if let Some(known) = self
            .providers
            .iter_mut()
            .find(|found| found.hint.id == hint.id)
        {
            known.hint = hint;
        } else if self.providers.len() < PROVIDERS_MAX {
            self.providers.push(Provider {
                hint,
                reached: Arc::default(),
                attempt: None,
            });
        }
    }

    fn print(&self, index: usize, args: &Args) {
        let Some(provider) = self.providers.get(index) else {
            return;
        };
        let url = provider.url().unwrap_or_default();
        match args.format {
            Format::Text if args.all => self.print_all(args.quiet),
            Format::Text if args.quiet => out::line(url),
            Format::Text => out::line(format_args!("MANIFEST_URL={url}")),
            Format::Json => {
                let providers: Vec<Value> = self.providers.iter().map(Provider::to_json).collect();
                let result = json!({
                    "key": self.key,
                    "manifest_url": url,
                    "peer_id": provider.hint.id,
                    "provider_count": providers.len(),
                    "providers": providers,
                });
                out::line(format_args!("{result:#}"));
            }
        }
    }

    /// One line for each provider that can be reached. What they say of themselves is a hint, and cannot hold control
    /// characters: [`Hint`] refuses those.
    fn print_all(&self, quiet: bool) {
        let reached = self
            .providers
            .iter()
            .filter(|found| found.reached.get().is_some());
        for provider in reached {
            let url = provider.url().unwrap_or_default();
            if quiet {
                out::line(url);
            } else {
                let (id, version) = (&provider.hint.id, &provider.hint.version);
                out::line(format_args!("MANIFEST_URL={url}  {id}  version {version}"));
            }
        }
    }

    fn timed_out(&self, args: &Args) -> CommandError {
        let message = format!(
            "discovery timeout after {} s: no provider of {}/{} by multicast DNS on the local network",
            args.timeout, args.channel, args.arch
        );
        let hint = if let Some(silent) = self.providers.first() {
            let ids: Vec<&str> = self.providers.iter().map(|p| p.hint.id.as_str()).collect();
            format!(
                "{} advertised itself but does not answer at {}: check routes and firewalls",
                ids.join(", "),
                addresses(&silent.hint)
            )
        } else if !self.others.is_empty() {
            format!(
                "providers of {} were found: check --channel and --arch",
                self.others.join(", ")
            )
        } else {
            "check that plasmd serve runs without --no-mdns in the same network and that UDP port 5353 is not blocked; \
             or give its URL to phase-fetch"
                .to_owned()
        };
        CommandError::failed(message).hint(hint)
    }
}

impl Provider {
    /// Has a thread of its own look for an address that accepts a connection, again when the last one failed a while
    /// ago: an advertiser with dead addresses must not hold up the search for others.
    fn reach(&mut self) {
        let is_due = match &self.attempt {
            None => true,
            Some((thread, started_at)) => {
                thread.is_finished() && started_at.elapsed() >= RETRY_AFTER
            }
        };
        if !is_due || self.reached.get().is_some() {
            return;
        }
        let addresses = self.hint.addresses.clone();
        let reached = Arc::clone(&self.reached);
        let thread = std::thread::spawn(move || {
            let found = addresses
                .into_iter()
                .find(|address| TcpStream::connect_timeout(address, CONNECT_TIME_MAX).is_ok());
            if let Some(address) = found {
                // Only one attempt runs at a time, so the place is empty.
                let _first = reached.set(address);
            }
        });
        self.attempt = Some((thread, Instant::now()));
    }

    /// The URL to use: at the address that was reached, or else the best one.
    fn url(&self) -> Option<String> {
        let best = || self.hint.addresses.first();
        let address = self.reached.get().or_else(best)?;
        Some(self.hint.url_at(*address))
    }

    fn to_json(&self) -> Value {
        let hint = &self.hint;
        json!({
            "id": hint.id,
            "manifest_url": self.url(),
            "reachable": self.reached.get().is_some(),
            "version": hint.version,
            "manifest_digest": hint.manifest.as_ref().map(ToString::to_string),
            "key_ids": hint.key_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

fn addresses(hint: &Hint) -> String {
    let listed: Vec<String> = hint.addresses.iter().map(ToString::to_string).collect();
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn args(channel: &str) -> Args {
        Args {
            arch: Arch::X86_64,
            channel: channel.parse().unwrap(),
            timeout: 1,
            format: Format::Json,
            json: true,
            quiet: true,
            all: false,
            mode: Mode::Local,
            ephemeral: false,
            bootstrap: Vec::new(),
        }
    }

    fn hint(id: &str, channel: &str, addresses: Vec<SocketAddr>) -> Hint {
        Hint {
            id: id.to_owned(),
            addresses,
            channel: channel.parse().unwrap(),
            arch: Arch::X86_64,
            version: "1".to_owned(),
            manifest: None,
            key_ids: Vec::new(),
        }
    }

    #[test]
    fn the_url_is_at_the_address_that_answers() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![closed.local_addr().unwrap(), open.local_addr().unwrap()];
        drop(closed);
        let mut search = Search::new(&args("stable"));
        search.hear(hint("a", "stable", addresses.clone()), &args("stable"));
        let provider = &mut search.providers[0];
        provider.reach();
        provider.attempt.take().unwrap().0.join().unwrap();
        let expected = format!("http://{}/stable/x86_64/manifest.json", addresses[1]);
        assert_eq!(provider.url(), Some(expected));
    }

    #[test]
    fn one_provider_counts_once_and_others_are_named() {
        let args = args("stable");
        let mut search = Search::new(&args);
        let address = "192.0.2.1:8080".parse().unwrap();
        for _ in 0..3 {
            search.hear(hint("a", "stable", vec![address]), &args);
            search.hear(hint("b", "testing", vec![address]), &args);
        }
        assert_eq!(search.providers.len(), 1);
        assert_eq!(search.others, ["testing/x86_64"]);
    }

    #[test]
    fn a_flood_of_advertisements_is_cut_off() {
        let args = args("stable");
        let mut search = Search::new(&args);
        for number in 0..10_000 {
            search.hear(hint(&number.to_string(), "stable", Vec::new()), &args);
            search.hear(hint("x", &format!("c{number}"), Vec::new()), &args);
        }
        assert_eq!(search.providers.len(), PROVIDERS_MAX);
        assert_eq!(search.others.len(), PROVIDERS_MAX);
    }
}
