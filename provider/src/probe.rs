//! The `probe` role: a machine on trial uses its own services as others would, and tells init of each whether it works.
//!
//! | check | what is asked, at the machine's own address of the LAN | what must come back |
//! | --- | --- | --- |
//! | `manifest` | `/manifest.json` and that of the folder | the bytes of the manifest that was installed, which must verify |
//! | `ranges` | the first, the middle and the last chunk of every artifact | bytes with the digests that the manifest names |
//! | `tftp` | the first chunk of the kernel | the same |
//! | `dhcp` | an offer, as the firmware of a PC does, and the rest that follows | the name of a file that is here, and its first block |
//! | `mdns` | who serves this channel | this machine, with this manifest |
//!
//! Each check goes on until it succeeds or its time is over, for the services may have started just now; bytes that are wrong
//! end it at once. What is switched off counts as working, and says so. Never writes anything, never asks another machine,
//! opens nothing that listens but the port of a DHCP client, and ends by itself.

mod boot;
mod http;
mod mdns;
mod tftp;

use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use artifact_store::ROOTS_FILE;
use boot_manifest::handoff::Report;
use boot_manifest::{
    Arch, Channel, Expect, Expiry, Floor, MANIFEST_SIZE_MAX, Manifest, ROOT_CHAIN_SIZE_MAX,
    TrustRoot, Verified, verify_chained,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::exit::{CommandError, Exit};
use crate::init_link::InitLink;
use crate::question::runtime;
use crate::trust;

/// Time for each check in seconds, all its attempts together. `serve` has answered init before; a slow machine needs some
/// more to hash its files, and to be heard by multicast.
const CHECK_SECONDS: u64 = 60;

/// Between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Channel that this machine serves
    #[arg(long)]
    channel: Channel,
    /// Architecture that it serves
    #[arg(long)]
    arch: Arch,
    /// The manifest that was installed
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// The keys that are believed
    #[arg(long, value_name = "FILE", default_value = trust::TRUST_ROOT_FILE)]
    trust_root: PathBuf,
    /// The HTTP port
    #[arg(long, value_name = "PORT")]
    port: NonZeroU16,
    /// Machines that boot from the network are not answered, nor is TFTP
    #[arg(long)]
    no_dhcp: bool,
    /// Nothing is announced by multicast DNS
    #[arg(long)]
    no_mdns: bool,
    /// How long each check may take
    #[arg(long, value_name = "SECONDS", default_value_t = CHECK_SECONDS)]
    time: u64,
}

/// Why a check does not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// It may, in a moment.
    NotYet(String),
    /// It will not: something wrong came back.
    Wrong(String),
}

impl Problem {
    fn not_yet(error: impl ToString) -> Self {
        Self::NotYet(error.to_string())
    }
}

/// What works, in words.
type Outcome = Result<String, Problem>;

/// What is checked, and where.
#[derive(Debug)]
struct Subject {
    channel: Channel,
    arch: Arch,
    manifest: Verified<Manifest>,
    port: u16,
    has_dhcp: bool,
    has_mdns: bool,
    /// For each check.
    time: Duration,
}

/// Runs the role.
pub(crate) fn run(args: Args) -> Result<Exit, CommandError> {
    let link = InitLink::from_env().map_err(|error| CommandError::local(error.to_string()))?;
    let subject = Subject {
        manifest: installed(&args)?,
        channel: args.channel,
        arch: args.arch,
        port: args.port.get(),
        has_dhcp: !args.no_dhcp,
        has_mdns: !args.no_mdns,
        time: Duration::from_secs(args.time),
    };
    let runtime = runtime()?;
    runtime.block_on(all(&subject, &link));
    // A thread that still listens must not hold up the end.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// The manifest as other machines would judge it, whatever the clock says.
fn installed(args: &Args) -> Result<Verified<Manifest>, CommandError> {
    let bytes = trust::read(&args.manifest, MANIFEST_SIZE_MAX, "manifest")?;
    let root: TrustRoot = trust::load_root(&args.trust_root)?;
    // The root chain lies beside the manifest, when the keys were replaced since this image was made.
    let beside = args.manifest.with_file_name(ROOTS_FILE);
    let roots = match beside.exists() {
        true => Some(trust::read(&beside, ROOT_CHAIN_SIZE_MAX, "root chain")?),
        false => None,
    };
    let expect = Expect {
        now: trust::now(),
        floor: Floor::default(),
        channel: Some(&args.channel),
        arch: Some(args.arch),
        expiry: Expiry::Report,
    };
    verify_chained(&bytes, roots.as_deref(), &root, &expect)
        .map(|chained| chained.manifest)
        .map_err(|error| CommandError::failed(format!("{}: {error}", args.manifest.display())))
}

/// All checks side by side; each is told as soon as it is known.
async fn all(subject: &Subject, link: &InitLink) {
    tokio::join!(
        check((link, subject.time), "manifest", async || http::manifest(
            subject
        )
        .await),
        check((link, subject.time), "ranges", async || http::ranges(
            subject
        )
        .await),
        check((link, subject.time), "tftp", async || {
            match subject.has_dhcp {
                true => tftp::kernel(subject).await,
                false => Ok("switched off".to_owned()),
            }
        }),
        check((link, subject.time), "dhcp", async || {
            match subject.has_dhcp {
                true => boot::offer(subject).await,
                false => Ok("switched off".to_owned()),
            }
        }),
        check((link, subject.time), "mdns", async || {
            match subject.has_mdns {
                true => mdns::resolves(subject).await,
                false => Ok("switched off".to_owned()),
            }
        }),
    );
}

/// Repeats an attempt until there is an answer, and tells init.
async fn check<F: Future<Output = Outcome>>(
    (link, time): (&InitLink, Duration),
    name: &str,
    attempt: impl FnMut() -> F,
) {
    let (ok, reason) = match patiently(attempt, time).await {
        Ok(reason) => (true, reason),
        Err(reason) => (false, reason),
    };
    tracing::info!(check = name, ok, reason, "self-test");
    let report = Report::Check {
        name: name.to_owned(),
        ok,
        reason,
    };
    if let Err(error) = link.send(&report) {
        tracing::error!(%error, "init cannot be told");
    }
}

async fn patiently<F: Future<Output = Outcome>>(
    mut attempt: impl FnMut() -> F,
    time: Duration,
) -> Result<String, String> {
    let end = Instant::now() + time;
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(end, attempt()).await {
            Ok(Ok(reason)) => return Ok(reason),
            Ok(Err(Problem::Wrong(reason))) => return Err(reason),
            Ok(Err(Problem::NotYet(reason))) => last = reason,
            Err(_) => {}
        }
        if Instant::now() + ATTEMPT_PAUSE >= end {
            return Err(format!("{last} (for {} s)", time.as_secs()));
        }
        sleep(ATTEMPT_PAUSE).await;
    }
}

/// The address where other machines reach this one: of IPv4 if there is one, and one that a router or a server gave rather
/// than a link-local one.
fn own_address() -> Result<IpAddr, Problem> {
    let all = if_addrs::get_if_addrs().map_err(Problem::not_yet)?;
    let reached = all
        .iter()
        .filter(|one| !one.is_loopback())
        .map(|one| one.ip());
    best(reached).ok_or_else(|| Problem::NotYet("this machine has no address".to_owned()))
}

fn best(addresses: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let rank = |address: &IpAddr| match address {
        IpAddr::V4(address) if !address.is_link_local() => Some(0),
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(1),
        IpAddr::V4(_) => Some(2),
        // No address without its link.
        IpAddr::V6(_) => None,
    };
    let ranked = addresses.filter_map(|address| Some((rank(&address)?, address)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_address_is_asked() {
        let best = |all: &[&str]| {
            let found = super::best(all.iter().map(|text| text.parse().unwrap()));
            found.map(|address: IpAddr| address.to_string())
        };
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(
            best(&["169.254.1.2", "fe80::1", "10.0.2.15"]),
            found("10.0.2.15")
        );
        assert_eq!(best(&["169.254.1.2", "fd00::1"]), found("fd00::1"));
        assert_eq!(best(&["fe80::1", "169.254.1.2"]), found("169.254.1.2"));
        assert_eq!(best(&["fe80::1"]), None);
    }

    #[tokio::test]
    async fn what_is_wrong_is_not_waited_for() {
        let mut attempts = 0;
        let time = Duration::from_secs(3600);
        let attempt = || {
            attempts += 1;
            let outcome = match attempts {
                1 => Err(Problem::NotYet("not there".to_owned())),
                _ => Err(Problem::Wrong("other bytes".to_owned())),
            };
            async { outcome }
        };
        assert_eq!(
            patiently(attempt, time).await,
            Err("other bytes".to_owned())
        );
        assert_eq!(attempts, 2);
        let never = || std::future::pending();
        let over = patiently(never, Duration::from_millis(1)).await;
        assert_eq!(over, Err("no answer (for 0 s)".to_owned()));
    }
}
