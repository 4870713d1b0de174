//! `phase-discover`: finds a provider on the local network and prints the URL of its manifest.
//!
//! Multicast DNS only. What is printed is a hint: whoever follows it verifies the manifest. A URL is printed only when
//! something accepts connections there; nothing is fetched.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use boot_manifest::{Arch, Channel};
use discovery::{Browser, Hint};
use serde_json::{Value, json};

use crate::exit::{CommandError, Exit};

/// After the first provider that can be reached, others have this long to be counted, for programs that ask.
const GATHER_TIME: Duration = Duration::from_millis(700);

/// Providers kept. A flood of advertisements must not fill the memory; 64 are a large LAN.
const PROVIDERS_MAX: usize = 64;

/// One attempt to connect; a machine on the same LAN answers within milliseconds.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(800);

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

    /// Print nothing but the result and errors
    #[arg(short, long)]
    quiet: bool,

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

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    if !args.bootstrap.is_empty() {
        return Err(CommandError::usage(
            "--bootstrap names a DHT node, and this version searches the local network only",
        )
        .hint("leave --bootstrap out, or give the provider's URL to phase-fetch"));
    }
    // Nothing to switch off: no key and no id is made for a search by multicast DNS.
    let _always = args.ephemeral;
    let browser = Browser::start()
        .map_err(|error| CommandError::local(format!("cannot search the network: {error}")))?;
    if !args.quiet {
        eprintln!(
            "searching the local network for {}/{} ...",
            args.channel, args.arch
        );
    }
    let mut search = Search::new(&args);
    let found = search.run(&browser, &args);
    drop(browser);
    match found {
        Some(provider) => {
            search.print(provider, args.format);
            Ok(Exit::Done)
        }
        None => Err(search.timed_out(&args)),
    }
}

/// A provider of the wanted channel and architecture.
struct Provider {
    hint: Hint,
    /// The address that accepted a connection.
    reached: Option<SocketAddr>,
    /// When it was last tried.
    tried_at: Instant,
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
    fn run(&mut self, browser: &Browser, args: &Args) -> Option<usize> {
        let mut end = Instant::now() + Duration::from_secs(args.timeout);
        let mut first = None;
        loop {
            let now = Instant::now();
            let left = end
                .checked_duration_since(now)
                .filter(|left| !left.is_zero());
            let Some(left) = left else {
                return first;
            };
            if let Some(index) = browser
                .next(left.min(RETRY_AFTER))
                .and_then(|hint| self.hear(hint, args))
                && let Some(provider) = self.providers.get_mut(index)
            {
                provider.reach();
            }
            for provider in &mut self.providers {
                if provider.reached.is_none() && provider.tried_at.elapsed() >= RETRY_AFTER {
                    provider.reach();
                }
            }
            if first.is_none() {
                first = self
                    .providers
                    .iter()
                    .position(|found| found.reached.is_some());
                match args.format {
                    Format::Text if first.is_some() => return first,
                    Format::Json if first.is_some() => end = end.min(Instant::now() + GATHER_TIME),
                    Format::Text | Format::Json => (),
                }
            }
        }
    }

    /// Notes a hint; gives the index of a provider whose addresses are worth a try.
    fn hear(&mut self, hint: Hint, args: &Args) -> Option<usize> {
        if hint.channel != args.channel || hint.arch != args.arch {
            let other = format!("{}/{}", hint.channel, hint.arch);
            if !self.others.contains(&other) && self.others.len() < PROVIDERS_MAX {
                self.others.push(other);
            }
            return None;
        }
        let known = self
            .providers
            .iter()
            .position(|found| found.hint.id == hint.id);
        match known {
            Some(index) => {
                let provider = self.providers.get_mut(index)?;
                provider.hint = hint;
                provider.reached.is_none().then_some(index)
            }
            None if self.providers.len() >= PROVIDERS_MAX => None,
            None => {
                self.providers.push(Provider {
                    hint,
                    reached: None,
                    tried_at: Instant::now(),
                });
                Some(self.providers.len() - 1)
            }
        }
    }

    fn print(&self, index: usize, format: Format) {
        let Some(provider) = self.providers.get(index) else {
            return;
        };
        let url = provider.url().unwrap_or_default();
        match format {
            Format::Text => println!("MANIFEST_URL={url}"),
            Format::Json => {
                let providers: Vec<Value> = self.providers.iter().map(Provider::to_json).collect();
                let result = json!({
                    "key": self.key,
                    "manifest_url": url,
                    "peer_id": provider.hint.id,
                    "provider_count": providers.len(),
                    "providers": providers,
                });
                println!("{result:#}");
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
    /// Looks for an address that accepts a connection.
    fn reach(&mut self) {
        self.tried_at = Instant::now();
        self.reached = self
            .hint
            .addresses
            .iter()
            .copied()
            .find(|address| TcpStream::connect_timeout(address, CONNECT_TIME_MAX).is_ok());
    }

    /// The URL to use: at the address that was reached, or else the best one.
    fn url(&self) -> Option<String> {
        let address = self.reached.or(self.hint.addresses.first().copied())?;
        Some(self.hint.url_at(address))
    }

    fn to_json(&self) -> Value {
        let hint = &self.hint;
        json!({
            "id": hint.id,
            "manifest_url": self.url(),
            "reachable": self.reached.is_some(),
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
            quiet: true,
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
        let index = search
            .hear(hint("a", "stable", addresses.clone()), &args("stable"))
            .unwrap();
        let provider = &mut search.providers[index];
        provider.reach();
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
