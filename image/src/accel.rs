//! Whether QEMU can use the processor's virtualisation: found out by booting the kernel with it, in bounded time.
//!
//! A machine can have /dev/kvm and hang under it, so neither the device nor its version is asked. The answer is kept for this
//! kernel, this QEMU and this boot of the machine.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

use crate::cli::Accel;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::qemu::{self, Boot, Machine, Network};
use crate::stamp;

/// How QEMU runs the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// Hardware virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Acceleration {
    /// The name as QEMU has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// What QEMU's `-accel` takes.
    ///
    /// Translated code gets 64 MiB instead of QEMU's 1 GiB: a successor's kernel overwrites the pages that its predecessor's
    /// programs ran from, and every write to a page with translated code is slow until that code is forgotten. What the whole
    /// appliance runs fits; with the default a kexec takes twice as long.
    pub fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,tb-size=64",
        }
    }
}

/// With virtualisation the trial boot takes about a second. A machine ten times slower gains nothing by it.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);

/// The kernel has no root to mount, says so and restarts, which ends QEMU: everything up to there has worked.
const TRIAL_CMDLINE: &str = "console=ttyS0 panic=-1";
const TRIAL_MARK: &str = "Kernel panic - not syncing: ";

#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    asked: Digest,
    acceleration: Acceleration,
    reason: String,
}

/// Settles what to use. `kernel` is the kernel to try it with.
///
/// # Errors
/// When kvm is asked for by name and does not work.
pub fn choose(
    paths: &Paths,
    wish: Accel,
    kernel: &Path,
    progress: &Progress,
) -> Result<Acceleration> {
    if wish == Accel::Tcg {
        return Ok(Acceleration::Tcg);
    }
    let verdict = verdict(paths, kernel)?;
    progress.announce(
        "processor",
        &format!("{} ({})", verdict.acceleration.as_str(), verdict.reason),
    );
    if wish == Accel::Kvm && verdict.acceleration != Acceleration::Kvm {
        bail!(
            "kvm does not work here: {}; leave --accel out or use --accel tcg",
            verdict.reason
        );
    }
    Ok(verdict.acceleration)
}

/// The verdict of an earlier trial under the same circumstances, or of a new one.
fn verdict(paths: &Paths, kernel: &Path) -> Result<Verdict> {
    let file = paths.output("accel.json");
    let asked = circumstances(kernel)?;
    let old = std::fs::read(&file).ok();
    let old = old.and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    if let Some(old) = old.filter(|old| old.asked == asked) {
        return Ok(old);
    }
    let (acceleration, reason) = match trial(paths, kernel) {
        Ok(took) => (
            Acceleration::Kvm,
            format!("a trial boot took {:.1} s", took.as_secs_f64()),
        ),
        Err(error) => (Acceleration::Tcg, format!("no kvm: {error:#}")),
    };
    let verdict = Verdict {
        asked,
        acceleration,
        reason,
    };
    stamp::write(&file, &serde_json::to_vec_pretty(&verdict)?)?;
    Ok(verdict)
}

/// Everything the verdict depends on: this machine since it started, whether we may use the device, QEMU, the kernel.
fn circumstances(kernel: &Path) -> Result<Digest> {
    let version = std::process::Command::new(qemu::QEMU)
        .arg("--version")
        .output();
    let version = version.map(|output| output.stdout).unwrap_or_default();
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let usable = open_device().is_ok();
    let inputs = stamp::Inputs::new()
        .with("boot", &boot)
        .with("usable", &[u8::from(usable)])
        .with("qemu", &version)
        .with("kernel", &std::fs::read(kernel)?);
    Ok(inputs.digest())
}

fn open_device() -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
}

/// Boots the kernel with kvm until it stops for want of a root file system.
fn trial(paths: &Paths, kernel: &Path) -> Result<Duration> {
    if let Err(error) = open_device() {
        bail!("/dev/kvm cannot be opened ({error})");
    }
    let started = Instant::now();
    let mut machine = Machine::start(&qemu::Recipe {
        boot: Boot::Kernel {
            kernel: kernel.into(),
            initramfs: None,
            cmdline: TRIAL_CMDLINE.into(),
            disk: None,
        },
        memory_mib: 256,
        acceleration: Acceleration::Kvm,
        network: Network::Alone(None),
        upgrades: false,
        folder: paths.output("accel-trial"),
    })?;
    let mut reached = false;
    while started.elapsed() < TRIAL_LIMIT {
        reached |= machine
            .line(Duration::from_millis(100))
            .is_some_and(|line| line.text.contains(TRIAL_MARK));
        if reached {
            return Ok(started.elapsed());
        }
        if machine.ended()?.is_some() {
            let rest = std::iter::from_fn(|| machine.line(Duration::from_millis(10)));
            if rest.into_iter().any(|line| line.text.contains(TRIAL_MARK)) {
                return Ok(started.elapsed());
            }
            bail!("the trial boot ended early: {}", machine.complaint());
        }
    }
    bail!("the trial boot got nowhere in {} s", TRIAL_LIMIT.as_secs())
}
