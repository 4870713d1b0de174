//! Found without being told: how long a machine that knows no provider takes to find one, by mDNS on its LAN, and by a DHT of 50
//! members of which it knows one. Then 30 % of the members vanish at one moment, as many others join, and it is asked again.
//!
//! ```text
//! hosts 0..40    members that provide something else
//! hosts 40..50   members that provide what is looked for
//! host 50        looks, again and again, each time as a new process that knows one member
//! ```

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::client;
use super::figure::{Figure, Goal, Samples, Unit, median};
use super::files::{Files, RELEASE};
use super::lan::Lan;
use super::limits::{
    ALL_SECONDS, COLD_DHT_S, COLD_DISCOVERIES, COLD_MDNS_S, COLD_PAUSE, DHT_ASKERS, DHT_CHURN,
    DHT_LOOKUP_S, DHT_LOOKUPS, DHT_NODES, DHT_PROVIDERS, DHT_START_LIMIT, DISCOVER_SECONDS,
    SMALL_BYTES,
};
use super::server::Running;
use crate::facts;

/// Where members listen.
const DHT_PORT: u16 = 4011;

/// Members every other one begins with. They stay.
const KNOWN: usize = 2;

/// Measures.
///
/// # Errors
/// When there can be no namespaces, or a program cannot be started, or nothing is found.
pub fn measure(bench: &Bench, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let plasmd = &bench.programs.plasmd;
    let (wanted, other) = (
        one_file(plasmd, facts::CHANNEL)?,
        one_file(plasmd, RELEASE)?,
    );
    let mut figures = Vec::new();
    bench.progress.note("discovery", "by mDNS");
    figures.extend(by_mdns(plasmd, &wanted)?);
    bench
        .progress
        .note("discovery", &format!("{DHT_NODES} members find each other"));
    let mut net = Net::start(plasmd, &wanted, &other)?;
    net.wait_until_found()?;
    bench.progress.note("discovery", "by the DHT");
    figures.push(row(
        "cold, by the DHT: first byte of the manifest",
        Unit::Seconds,
        Some(Goal::AtMost(COLD_DHT_S)),
        median(&net.cold()?),
    ));
    let before = net.lookups()?;
    figures.extend(quantiles(
        &format!("lookup among {DHT_NODES}, 99 of 100 within"),
        &before,
        Some(Goal::AtMost(DHT_LOOKUP_S)),
    ));
    figures.push(row(
        "  memory of a member",
        Unit::Bytes,
        None,
        median(&net.resident_bytes()),
    ));
    bench.progress.note(
        "discovery",
        &format!("{DHT_CHURN} of {DHT_NODES} vanish, others join"),
    );
    net.churn()?;
    let after = net.lookups()?;
    figures.extend(quantiles(
        &format!("  right after {DHT_CHURN} vanished, 99 of 100 within"),
        &after,
        None,
    ));
    let lost = before.failed.max(after.failed);
    figures.push(row(
        "  lookups that found nothing",
        Unit::Count,
        Some(Goal::AtMost(0.0)),
        lost as f64,
    ));
    figures.push(row(
        &format!("  of {DHT_PROVIDERS} records, still found"),
        Unit::Count,
        Some(Goal::AtLeast(DHT_PROVIDERS as f64)),
        // A search that finds nothing is an error, and a figure.
        net.records().unwrap_or_default().len() as f64,
    ));
    notes.push(format!(
        "every time is from the start of a new phase-discover process, which listens on the LAN alone for 1.25 s first; {DHT_LOOKUPS} lookups, {DHT_ASKERS} at a time; \
         links have no latency of their own; measured once, whatever the rounds"
    ));
    Ok(figures)
}

fn one_file(plasmd: &Path, channel: &str) -> Result<Files> {
    let files = Files::empty()?;
    files.make(channel, "vmlinuz", SMALL_BYTES)?;
    files.make_key(plasmd)?;
    Ok(files)
}

fn row(name: &str, unit: Unit, goal: Option<Goal>, value: f64) -> Figure {
    Figure {
        name: name.into(),
        unit,
        ours: Samples {
            name: "plasmd".into(),
            values: vec![value],
        },
        rivals: Vec::new(),
        goal,
    }
}

fn quantiles(name: &str, lookups: &Lookups, goal: Option<Goal>) -> [Figure; 2] {
    [
        row(name, Unit::Seconds, goal, lookups.within(0.99)),
        row("    median", Unit::Seconds, None, lookups.within(0.5)),
    ]
}

/// A provider on a LAN, found by its announcements.
fn by_mdns(plasmd: &Path, wanted: &Files) -> Result<[Figure; 2]> {
    let lan = Lan::new(2, None)?;
    let more = ["--channel", facts::CHANNEL];
    let _provider = Running::member_on(plasmd, wanted, (&lan, 0), &["--no-dht"], &more)?;
    let deadline = Instant::now() + DHT_START_LIMIT;
    // It may still be on its way to announce itself.
    while cold(&lan, 1, plasmd, &[]).is_err() {
        ensure!(Instant::now() < deadline, "nothing is found by mDNS");
    }
    let (mut silent, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..COLD_DISCOVERIES {
        thread::sleep(COLD_PAUSE);
        silent.push(cold(&lan, 1, plasmd, &[])?);
        asked.push(cold(&lan, 1, plasmd, &[])?);
    }
    let goal = Some(Goal::AtMost(COLD_MDNS_S));
    Ok([
        row(
            "cold, by mDNS: first byte of the manifest",
            Unit::Seconds,
            goal,
            median(&silent),
        ),
        row(
            "  right after somebody else asked",
            Unit::Seconds,
            None,
            median(&asked),
        ),
    ])
}

/// From nothing to a manifest's first bytes: `phase-discover`, then `curl` of what it says.
fn cold(lan: &Lan, host: usize, plasmd: &Path, more: &[&str]) -> Result<f64> {
    let started = Instant::now();
    let said = client::run(
        discover(lan, host, plasmd)
            .args(["--timeout", DISCOVER_SECONDS])
            .args(more),
    )?;
    let url = url(&said).with_context(|| format!("phase-discover says {said:?}"))?;
    let mut curl = lan.command(host, Path::new("curl"));
    client::run(curl.args(["-sSf", "-o", "/dev/null", url]))?;
    Ok(started.elapsed().as_secs_f64())
}

/// `phase-discover` on a host.
fn discover(lan: &Lan, host: usize, plasmd: &Path) -> Command {
    let mut command = lan.command(host, plasmd);
    command
        .args(["discover", "--quiet", "--ephemeral"])
        .args(["--channel", facts::CHANNEL]);
    command
}

/// The URL in a line of `phase-discover`.
fn url(line: &str) -> Option<&str> {
    line.split_whitespace()
        .find(|word| word.starts_with("http://"))
}

/// What lookups took, in order of length.
struct Lookups {
    seconds: Vec<f64>,
    failed: usize,
}

impl Lookups {
    /// The time that this part of all stayed under.
    fn within(&self, part: f64) -> f64 {
        let rank = (self.seconds.len() as f64 * part).ceil() as usize;
        let last = self.seconds.len().saturating_sub(1);
        let place = rank.saturating_sub(1).min(last);
        self.seconds.get(place).copied().unwrap_or_default()
    }
}

/// A DHT: its members, and a host that looks.
struct Net<'a> {
    lan: Lan,
    plasmd: &'a Path,
    other: &'a Files,
    members: Vec<Running>,
}

impl<'a> Net<'a> {
    /// Starts the members, those that provide what is looked for last.
    fn start(plasmd: &'a Path, wanted: &Files, other: &'a Files) -> Result<Self> {
        let mut net = Self {
            lan: Lan::new(DHT_NODES + 1, None)?,
            plasmd,
            other,
            members: Vec::with_capacity(DHT_NODES),
        };
        for host in 0..DHT_NODES {
            let provides = host >= DHT_NODES - DHT_PROVIDERS;
            let (files, channel) = if provides {
                (wanted, facts::CHANNEL)
            } else {
                (other, RELEASE)
            };
            let member = net.member(host, files, channel)?;
            net.members.push(member);
        }
        Ok(net)
    }

    fn member(&self, host: usize, files: &Files, channel: &str) -> Result<Running> {
        let state = files.folder().join(format!("state-{host}"));
        std::fs::create_dir_all(&state)?;
        let (state, port) = (state.to_string_lossy(), DHT_PORT.to_string());
        let known: Vec<String> = (0..KNOWN)
            .filter(|known| *known != host)
            .map(address)
            .collect();
        let mut more = vec![
            "--channel",
            channel,
            "--dht-port",
            &port,
            "--state-dir",
            &state,
        ];
        for known in &known {
            more.extend(["--bootstrap", known]);
        }
        Running::member_on(
            self.plasmd,
            files,
            (&self.lan, host),
            &["--no-mdns", "--dhcp", "off"],
            &more,
        )
    }

    /// A lookup by somebody who knows the member of this number, until it tells of the first provider.
    fn lookup(&self, known: usize) -> Result<f64> {
        let started = Instant::now();
        let mut child = self
            .search(known)
            .args(["--watch", "--timeout", DISCOVER_SECONDS])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run phase-discover")?;
        let mut line = String::new();
        // It ends by itself after its timeout, and the line with it.
        let read = match child.stdout.take() {
            Some(output) => BufReader::new(output).read_line(&mut line),
            None => Ok(0),
        };
        let took = started.elapsed();
        let _ = child.kill();
        child.wait()?;
        read?;
        ensure!(url(&line).is_some(), "nothing was found through {known}");
        Ok(took.as_secs_f64())
    }

    fn search(&self, known: usize) -> Command {
        let mut command = discover(&self.lan, DHT_NODES, self.plasmd);
        command.args(["--mode", "internet", "--bootstrap", &address(known)]);
        command
    }

    /// Many lookups, some at a time, each through another member.
    fn lookups(&self) -> Result<Lookups> {
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..DHT_ASKERS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= DHT_LOOKUPS {
                            return;
                        }
                        let lookup = self.lookup(number % self.members.len());
                        if let Ok(mut all) = all.lock() {
                            all.push(lookup.ok());
                        }
                    }
                });
            }
        });
        let Ok(all) = all.into_inner() else {
            bail!("a lookup broke off");
        };
        let failed = all.iter().filter(|lookup| lookup.is_none()).count();
        let mut seconds: Vec<f64> = all.into_iter().flatten().collect();
        seconds.sort_by(f64::total_cmp);
        Ok(Lookups { seconds, failed })
    }

    /// Cold discoveries, each through another member.
    fn cold(&self) -> Result<Vec<f64>> {
        (0..COLD_DISCOVERIES)
            .map(|number| {
                let known = address(number * 7 % self.members.len());
                let more = ["--mode", "internet", "--bootstrap", &known];
                cold(&self.lan, DHT_NODES, self.plasmd, &more)
            })
            .collect()
    }

    /// The URLs of all providers that a search to the end finds.
    fn records(&self) -> Result<BTreeSet<String>> {
        let said = client::run(self.search(0).args(["--all", "--timeout", ALL_SECONDS]))?;
        Ok(said.lines().filter_map(url).map(str::to_owned).collect())
    }

    /// Waits until every provider can be found.
    fn wait_until_found(&self) -> Result<()> {
        let deadline = Instant::now() + DHT_START_LIMIT;
        loop {
            // A search that finds nothing is an error like any other, and the next one may find more.
            let found = self.records().unwrap_or_default();
            if found.len() == DHT_PROVIDERS {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "after {} s no more of {DHT_PROVIDERS} providers are found than {found:?}",
                DHT_START_LIMIT.as_secs()
            );
        }
    }

    /// Some members vanish without a word, and as many others join in their places.
    fn churn(&mut self) -> Result<()> {
        for host in KNOWN..KNOWN + DHT_CHURN {
            // The identity goes with its folder: whoever joins is somebody else.
            std::fs::remove_dir_all(self.other.folder().join(format!("state-{host}")))?;
            let joined = self.members.remove(host);
            joined.cut();
            let joined = self.member(host, self.other, RELEASE)?;
            self.members.insert(host, joined);
        }
        Ok(())
    }

    fn resident_bytes(&self) -> Vec<f64> {
        let members = self.members.iter();
        members
            .map(|member| member.resident_bytes() as f64)
            .collect()
    }
}

impl Drop for Net<'_> {
    fn drop(&mut self) {
        // One after the other, their goodbyes would take a minute.
        self.members.drain(..).for_each(Running::cut);
    }
}

/// Where a member listens.
fn address(host: usize) -> String {
    format!("/ip4/{}/tcp/{DHT_PORT}", Lan::address(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_found_in_what_people_are_told() {
        let check = |line, expected| assert_eq!(url(line), expected);
        check(
            "http://10.0.0.1:8080/manifest.json\n",
            Some("http://10.0.0.1:8080/manifest.json"),
        );
        check("found http://10.0.0.1/x\n", Some("http://10.0.0.1/x"));
        check("nothing", None);
    }

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let lookups = Lookups {
            seconds: (1..=100).map(f64::from).collect(),
            failed: 0,
        };
        assert_eq!((lookups.within(0.5), lookups.within(0.99)), (50.0, 99.0));
        let none = Lookups {
            seconds: Vec::new(),
            failed: 3,
        };
        assert_eq!(none.within(0.99), 0.0);
    }

    #[test]
    fn a_member_is_told_by_its_address() {
        assert_eq!(address(49), "/ip4/10.79.50.1/tcp/4011");
    }
}
