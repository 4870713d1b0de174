//! Four machines with nothing but kernel, initramfs and trusted key are switched on at once, behind slow links, and boot from one
//! provider: with what they do by themselves, and with `phase.share=off`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use super::figure::{Figure, Goal, Samples, Unit};
use super::files::Files;
use super::lan::Lan;
use super::limits::{RACK_LIMIT, RACK_MACHINES, RACK_RATE, RACK_RATIO_MAX};
use super::machines::{MEMORY_MIB, SERVING, folder, wait_for};
use super::server::Running;
use crate::accel::{self, Acceleration};
use crate::build::Images;
use crate::qemu::{Boot, Machine, Recipe};
use crate::{cli, facts};

const SHARING: &str = "sharing";
const ALONE: &str = "phase.share=off";

/// The provider's host; the machines are those after it.
const PROVIDER: usize = 0;

/// What the machines fetch, and what says so.
const ARTIFACTS: [&str; 4] = [
    "vmlinuz",
    "initramfs.img",
    "rootfs.squashfs",
    "manifest.json",
];

/// What one switching-on gave.
struct Round {
    /// Until the first and the last machine served, in seconds.
    first_s: f64,
    last_s: f64,
    /// What the provider put on its cable.
    sent_bytes: f64,
}

/// Measures.
///
/// # Errors
/// When there can be no namespaces, or a machine does not get as far as it should.
pub fn measure(
    bench: &Bench,
    images: Option<&Images>,
    accel: cli::Accel,
    notes: &mut Vec<String>,
) -> Result<Vec<Figure>> {
    let images = images.context("the images were not built")?;
    let acceleration = accel::choose(bench.paths, accel, images.path("vmlinuz"), bench.progress)?;
    let files = Files::empty()?;
    for name in ARTIFACTS {
        files.place(facts::CHANNEL, name, images.path(name))?;
    }
    let rack = Rack {
        bench,
        images,
        files: &files,
        acceleration,
    };
    bench.progress.note("rack", ALONE);
    let alone = rack.switch_on(" phase.share=off")?;
    bench.progress.note("rack", SHARING);
    let sharing = rack.switch_on("")?;
    notes.push(format!(
        "{RACK_MACHINES} machines and the provider on links of {RACK_RATE}; switched on once, whatever the rounds"
    ));
    Ok(figures(&sharing, &alone, acceleration))
}

fn figures(sharing: &Round, alone: &Round, how: Acceleration) -> Vec<Figure> {
    let row = |name: String, unit, goal, of: fn(&Round) -> f64| {
        let sample = |name: &str, round: &Round| Samples {
            name: name.into(),
            values: vec![of(round)],
        };
        Figure {
            name,
            unit,
            ours: sample(SHARING, sharing),
            rivals: vec![sample(ALONE, alone)],
            goal,
        }
    };
    let how = how.as_str();
    let goal = Some(Goal::RatioAtMost(RACK_RATIO_MAX));
    vec![
        row(
            format!("{RACK_MACHINES} machines at once: the last serves ({how})"),
            Unit::Seconds,
            goal,
            |round| round.last_s,
        ),
        row("  the first serves".into(), Unit::Seconds, None, |round| {
            round.first_s
        }),
        row(
            "  sent by the provider".into(),
            Unit::Bytes,
            None,
            |round| round.sent_bytes,
        ),
    ]
}

struct Rack<'a> {
    bench: &'a Bench<'a>,
    images: &'a Images,
    files: &'a Files,
    acceleration: Acceleration,
}

impl Rack<'_> {
    /// Switches all machines on, each with `more` on its kernel's command line, and waits until the last serves.
    fn switch_on(&self, more: &str) -> Result<Round> {
        let lan = Lan::new(RACK_MACHINES + 1, Some(RACK_RATE))?;
        let plasmd = &self.bench.programs.plasmd;
        let provider =
            Running::plasmd_on(plasmd, self.files, (&lan, PROVIDER), &["--dhcp", "off"])?;
        let _addresses = addresses(&lan, self.files)?;
        let url = format!("http://{}:{}", Lan::address(PROVIDER), provider.port());
        let before = lan.sent_bytes(PROVIDER)?;
        let started = Instant::now();
        let machines = (1..=RACK_MACHINES).map(|number| {
            let boot = Boot::Kernel {
                kernel: self.images.path("vmlinuz").to_owned(),
                initramfs: Some(self.images.path("initramfs.img").to_owned()),
                cmdline: format!(
                    "console=ttyS0,115200 panic=10 quiet no_timer_check phase.provider={url}{more}"
                ),
                disk: None,
            };
            Machine::start(&Recipe {
                boot,
                memory_mib: MEMORY_MIB,
                acceleration: self.acceleration,
                network: lan.machine_port(number)?,
                upgrades: false,
                folder: folder(self.bench.paths, &format!("rack-{number}")),
            })
        });
        let mut machines = machines.collect::<Result<Vec<_>>>()?;
        let mut serving = Vec::new();
        for machine in &mut machines {
            // The one that runs now serves nothing; its successor does. Lines carry the moment they came.
            let left = RACK_LIMIT.saturating_sub(started.elapsed());
            wait_for(machine, "phase: kexec into ", left)?;
            let left = RACK_LIMIT.saturating_sub(started.elapsed());
            serving.push(wait_for(machine, SERVING, left)?.at - started);
        }
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        Ok(Round {
            first_s: seconds(serving.iter().min().copied()),
            last_s: seconds(serving.iter().max().copied()),
            sent_bytes: (lan.sent_bytes(PROVIDER)? - before) as f64,
        })
    }
}

/// A DHCP server beside the provider, for addresses alone.
fn addresses(lan: &Lan, files: &Files) -> Result<Running> {
    let mut command: Command = lan.command(PROVIDER, Path::new("dnsmasq"));
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
        .args([
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--no-ping",
            "--bind-interfaces",
            "--interface=cable",
            "--dhcp-range=10.79.200.1,10.79.200.99,255.255.0.0,1h",
            "--dhcp-authoritative",
        ])
        .arg(format!(
            "--dhcp-leasefile={}",
            files.folder().join("leases").display()
        ));
    Running::start_dnsmasq(command, "DHCP, IP range", files)
}
