//! The command line of `cargo appliance`.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::bench::tftp::getter;
use crate::bench::{boots, crowd, limits};
use crate::{build, release};

/// Builds, boots, tests and measures the appliance.
#[derive(Debug, Parser)]
#[command(
    name = "cargo appliance",
    bin_name = "cargo appliance",
    version,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build kernel, programs and images, and print each with its size and sha256
    Build(Build),
    /// Boot the appliance in QEMU and forward its HTTP port to this machine
    Run(Run),
    /// Run all tests, those that boot machines included
    Test(Test),
    /// Measure speed, cost and memory beside nginx, curl and openssl, and sizes and boot times
    Bench(Bench),
    /// Hold many connections for the bench
    #[command(hide = true)]
    Crowd(crowd::Arguments),
    /// Boot many machines at once for the bench
    #[command(hide = true)]
    Boots(boots::Arguments),
    /// Fetch a file over TFTP for the bench
    #[command(hide = true)]
    TftpGet(getter::Arguments),
    /// Make a Debian package of plasmd and the client tools
    Package(Package),
    /// Make a new signed version out of a built image, without compiling anything
    Release(release::Options),
    /// Show what an image contains
    Inspect(Inspect),
    /// Show an appliance that replaces itself while a client keeps downloading, and how long nobody was served
    UpgradeDemo(UpgradeDemo),
}

/// How QEMU runs the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// kvm when a short trial boot works with it, else tcg
    Auto,
    /// Hardware virtualisation
    Kvm,
    /// Emulation
    Tcg,
}

/// `cargo appliance build`
#[derive(Debug, clap::Args)]
pub struct Build {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would print it; the options describe themselves"
    )]
    pub options: build::Options,
    /// Print the outputs as JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo appliance run`
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would print it; the options describe themselves"
    )]
    pub options: build::Options,
    /// Port on 127.0.0.1 that leads to the appliance
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Memory of the machine in MiB
    #[arg(long, default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    pub memory: u32,
    /// How QEMU runs the processor
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Keep the machine's folder (serial log, UEFI variables) when it has ended
    #[arg(long)]
    pub keep: bool,
    /// Power off and exit 0 once the served manifest has been verified and shown
    #[arg(long)]
    pub once: bool,
}

/// `cargo appliance test`
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Run only this suite; repeat for several
    #[arg(long, value_name = "NAME")]
    pub suite: Vec<String>,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// How QEMU runs the processor
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Write the times of the boot paths into the README
    #[arg(long, conflicts_with = "filter")]
    pub readme: bool,
    /// Cut the power a thousand times instead of some fifty; takes about an hour more
    #[arg(long)]
    pub long: bool,
    /// Where the random choices begin, as a run that failed has printed it; a new number each time when left out
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// plasmd beside nginx: throughput, requests, ranges, CPU time, memory
    Serving,
    /// phase-fetch beside curl and sha256sum or openssl
    Fetching,
    /// Cold manifests beside openssl
    Hashing,
    /// Ten thousand idle connections and a thousand slow readers, plasmd beside nginx
    Load,
    /// A thousand machines that boot at the same moment, plasmd beside dnsmasq
    Storm,
    /// TFTP beside dnsmasq, tftpd-hpa and atftpd, in windows and with lost packets
    Tftp,
    /// Up to 32 machines that fetch 64 MiB at once over 100 Mbit/s links and share, beside curl from nginx
    Swarm,
    /// Providers found by mDNS and by a DHT of 50 members, a third of which vanish
    Discovery,
    /// Ten thousand machines in racks, simulated with the very schedule that real ones run
    Simulate,
    /// Instructions of the hot paths, counted by callgrind
    Instructions,
    /// Sizes, boot times and memory of the appliance in QEMU
    Machines,
    /// Four machines in QEMU that boot at once from one provider, with and without sharing
    Rack,
    /// How long nobody is served while an appliance in QEMU replaces itself
    Upgrade,
}

impl Part {
    /// As people type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Fetching => "fetching",
            Self::Hashing => "hashing",
            Self::Load => "load",
            Self::Storm => "storm",
            Self::Tftp => "tftp",
            Self::Swarm => "swarm",
            Self::Discovery => "discovery",
            Self::Simulate => "simulate",
            Self::Instructions => "instructions",
            Self::Machines => "machines",
            Self::Rack => "rack",
            Self::Upgrade => "upgrade",
        }
    }
}

/// `cargo appliance bench`
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What to measure; everything when left out
    #[arg(value_enum)]
    pub part: Vec<Part>,
    /// Rounds; each measures every contender once, and the middle counts
    #[arg(long, value_name = "N", default_value_t = limits::ROUNDS, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=limits::ROUNDS_MAX as u64))]
    pub rounds: usize,
    /// Measure this plasmd instead of building one
    #[arg(long, value_name = "FILE")]
    pub plasmd: Option<PathBuf>,
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would print it; the options describe themselves"
    )]
    pub options: build::Options,
    /// How QEMU runs the processor
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Print the figures as JSON
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print the block of the README
    #[arg(long)]
    pub markdown: bool,
    /// Replace what the README says of these parts, and the curves in docs/
    #[arg(long)]
    pub readme: bool,
}

impl Bench {
    /// The parts asked for, each once, in the order they run.
    pub fn parts(&self) -> Vec<Part> {
        let all = Part::value_variants().iter().copied();
        all.filter(|part| self.part.is_empty() || self.part.contains(part))
            .collect()
    }
}

/// `cargo appliance upgrade-demo`
#[derive(Debug, clap::Args)]
pub struct UpgradeDemo {
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would print it; the options describe themselves"
    )]
    pub options: build::Options,
    /// How QEMU runs the processor
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
}

/// `cargo appliance package`
#[derive(Debug, clap::Args)]
pub struct Package {
    /// Pack this plasmd instead of building one
    #[arg(long, value_name = "FILE")]
    pub plasmd: Option<PathBuf>,
}

/// `cargo appliance inspect`
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Disk image, EFI program, squashfs, initramfs or manifest; the built disk image when left out
    pub file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser as _, ValueEnum as _};

    use super::Part;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn parts_run_once_and_in_order() {
        let parts = |arguments: &[&str]| {
            let all = ["appliance", "bench"].iter().chain(arguments);
            match super::Cli::try_parse_from(all).unwrap().command {
                super::Command::Bench(bench) => bench.parts(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            parts(&["machines", "serving", "machines"]),
            [Part::Serving, Part::Machines]
        );
        assert_eq!(parts(&[]), Part::value_variants());
    }
}
