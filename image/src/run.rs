//! `cargo appliance run`: build, boot the disk image in QEMU, wait until it serves, say what to try, end it cleanly.
//!
//! "Serves" means that the manifest came over HTTP and was verified with the trust root of the image, not that a port is open.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use boot_manifest::{Manifest, TrustRoot, Verified};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::announce::{self, Announcement, Facts};
use crate::build::{self, Images};
use crate::packages::{self, Purpose};
use crate::paths::{self, Paths};
use crate::progress::{Progress, size};
use crate::qemu::{Boot, Machine, Network, Recipe};
use crate::{accel, cli, facts, http, trust};

/// Emulated firmware and kernel on a busy machine; with virtualisation it is ten times less.
const SERVING_LIMIT: Duration = Duration::from_secs(180);

/// How long a machine may take to switch itself off before it is killed.
pub const POWER_OFF_LIMIT: Duration = Duration::from_secs(20);

/// Runs the command.
///
/// # Errors
/// When something is missing, does not build, does not boot, or serves what cannot be verified.
pub fn command(paths: &Paths, arguments: &cli::Run, progress: &Progress) -> Result<ExitCode> {
    check_port(arguments.port)?;
    packages::ensure_installed(&[Purpose::Build, Purpose::Run], progress)?;
    let images = build::build(paths, &arguments.options, progress)?;
    let acceleration = accel::choose(paths, arguments.accel, images.path("vmlinuz"), progress)?;
    let folder = RunFolder::new(paths, arguments.keep)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut machine = Machine::start(&Recipe {
        boot: Boot::Disk(images.path("phase.img").to_owned()),
        memory_mib: arguments.memory,
        acceleration,
        network: Network::Alone(Some(arguments.port)),
        upgrades: false,
        folder: folder.path.clone(),
    })?;
    progress.announce(
        "machine",
        &format!(
            "started with {} MiB, booting {}",
            arguments.memory, "phase.img"
        ),
    );

    let root = TrustRoot::parse(&std::fs::read(images.path("trust-root.json"))?)?;
    let served = match wait_for_manifest(&mut machine, arguments.port, &root, &stop, true) {
        Ok(served) => served,
        Err(error) => {
            folder.keep();
            return Err(error).context(format!(
                "the serial log is {}",
                paths::shown(&machine.serial_log())
            ));
        }
    };
    let Some(served) = served else {
        return finish(&mut machine, &stop, progress);
    };
    present(
        paths,
        &images,
        arguments,
        &served,
        machine.started().elapsed(),
    );
    // Until the machine is told to switch off. Nobody would have the time to look at one that ends at once.
    let announced = (!arguments.once).then(|| announce(&served, arguments.port, progress));
    while !arguments.once && !stop.load(Ordering::Relaxed) {
        if let Some(status) = machine.ended()? {
            bail!(
                "the machine has ended by itself ({status}); its serial log is {}",
                {
                    folder.keep();
                    paths::shown(&machine.serial_log())
                }
            );
        }
        machine.line(Duration::from_millis(200));
    }
    drop(announced);
    finish(&mut machine, &stop, progress)
}

/// Refuses early when the port is taken: after minutes of building it would be worse news.
fn check_port(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    listener.map(drop).with_context(|| {
        format!("port {port} on 127.0.0.1 cannot be used; choose another one with --port")
    })
}

/// The folder of one machine, removed at the end unless it is worth keeping.
struct RunFolder {
    path: PathBuf,
    keep: std::cell::Cell<bool>,
}

impl RunFolder {
    fn new(paths: &Paths, keep: bool) -> Result<Self> {
        let path = paths.output("run").join(std::process::id().to_string());
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self {
            path,
            keep: keep.into(),
        })
    }

    fn keep(&self) {
        self.keep.set(true);
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.keep.get() {
            eprintln!("  kept         {}", paths::shown(&self.path));
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A verified manifest and when it had come.
pub struct Served {
    /// The manifest.
    pub manifest: Verified<Manifest>,
    /// When the whole answer was there.
    pub at: Instant,
}

/// Shows the console until the machine serves a manifest that verifies. `None` when `stop` was set before.
///
/// # Errors
/// When the machine ends, takes too long, or serves a manifest that does not verify.
pub fn wait_for_manifest(
    machine: &mut Machine,
    port: u16,
    root: &TrustRoot,
    stop: &AtomicBool,
    show_console: bool,
) -> Result<Option<Served>> {
    /// Long enough for an emulated machine under load to answer, short enough to notice everything else.
    const ANSWER_LIMIT: Duration = Duration::from_millis(700);
    const PAUSE: Duration = Duration::from_millis(100);

    let deadline = machine.started() + SERVING_LIMIT;
    loop {
        let pause_ends = Instant::now() + PAUSE;
        while let Some(line) = machine.line(pause_ends.saturating_duration_since(Instant::now())) {
            if show_console && !line.text.is_empty() {
                let at = line.at.duration_since(machine.started()).as_secs_f64();
                eprintln!("  {at:>6.1} s | {}", line.text);
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(status) = machine.ended()? {
            bail!(
                "the machine ended before it served ({status}) {}",
                machine.complaint()
            );
        }
        if let Ok(answer) = http::get(port, "/manifest.json", ANSWER_LIMIT)
            && answer.status == 200
        {
            let at = Instant::now();
            let verified = trust::verify_image(&answer.body, root, facts::signing_time()?);
            let manifest =
                verified.context("the machine serves a manifest that is not to be believed")?;
            return Ok(Some(Served { manifest, at }));
        }
        if Instant::now() > deadline {
            bail!(
                "the machine served nothing within {} s",
                SERVING_LIMIT.as_secs()
            );
        }
    }
}

/// Says where it serves and what to try next.
fn present(paths: &Paths, images: &Images, arguments: &cli::Run, served: &Served, took: Duration) {
    let manifest = &served.manifest;
    let url = format!("http://127.0.0.1:{}", arguments.port);
    let signers = manifest
        .signers()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    let file = |name: &str| paths::shown(images.path(name));
    let tool = |name: &str| paths::shown(&paths.output(name));
    println!();
    println!(
        "Phase {} serves {url}/ ({:.1} s after power on)",
        manifest.version,
        took.as_secs_f64()
    );
    println!(
        "  manifest   sequence {}, {}, expires {}",
        manifest.sequence,
        manifest.digest(),
        manifest.expires_at
    );
    for artifact in &manifest.artifacts {
        println!(
            "  {:<10} {:>9}  {}",
            artifact.name.as_str(),
            size(artifact.size),
            artifact.digest
        );
    }
    let development = if images.development {
        " (a development key: anybody with this folder can sign)"
    } else {
        ""
    };
    println!("  verified   with the key {signers}{development}");
    println!("\nTry, from another terminal:");
    println!("  curl {url}/manifest.json");
    println!(
        "  {} {url}/manifest.json -a all -o /tmp/phase --trust-root {}",
        tool("phase-fetch"),
        file("trust-root.json")
    );
    println!(
        "  {} {} {} --trust-root {}",
        tool("phase-verify"),
        file("manifest.json"),
        file("vmlinuz"),
        file("trust-root.json")
    );
    println!("\nBoot a second machine from this one:");
    println!("  {}", second_machine(images, arguments.port));
    println!("\nWrite a USB stick (everything on it is lost) and boot a real machine from it:");
    println!(
        "  sudo dd if={} of=/dev/sdX bs=4M conv=fsync status=progress",
        file("phase.img")
    );
}

/// Announces it to this host's programs, if that can be done, and says what else there is to say while it serves.
fn announce(served: &Served, port: u16, progress: &Progress) -> Option<Announcement> {
    let announced = Announcement::start(&Facts::of(&served.manifest, port));
    match &announced {
        Ok(announced) => println!(
            "\nAnnounced as {} to the programs of this host (multicast DNS on the loopback interface); see it:\n  {}",
            announced.instance(),
            announce::BROWSE
        ),
        Err(error) => {
            progress.announce("warning", &format!("not announced on this host: {error:#}"))
        }
    }
    println!("\nCtrl-C switches it off.");
    announced.ok()
}

/// The command that starts a machine which has nothing but kernel and initramfs. QEMU's user network shows this host as 10.0.2.2.
fn second_machine(images: &Images, port: u16) -> String {
    let file = |name: &str| paths::shown(images.path(name));
    format!(
        "{} -M q35 -m 256 -cpu max -nographic -nic user,model=virtio-net-pci \\\n      -kernel {} -initrd {} \\\n      \
         -append 'console=ttyS0 panic=10 no_timer_check phase.provider=http://10.0.2.2:{port}'",
        crate::qemu::QEMU,
        file("vmlinuz"),
        file("initramfs.img"),
    )
}

/// Switches the machine off and waits for it; a second Ctrl-C waits no longer.
fn finish(machine: &mut Machine, stop: &AtomicBool, progress: &Progress) -> Result<ExitCode> {
    let started = Instant::now();
    stop.store(false, Ordering::Relaxed);
    progress.begin("power off");
    let clean = machine.power_off(POWER_OFF_LIMIT, stop)?;
    progress.end(
        "power off",
        if clean {
            "clean"
        } else {
            "did not answer, killed"
        },
        started.elapsed(),
    );
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Puts the names under which the daemon is a client tool beside it.
///
/// # Errors
/// When a link cannot be made.
pub fn link_tools(plasmd: &Path) -> Result<()> {
    for name in ["phase-discover", "phase-fetch", "phase-verify"] {
        let link = plasmd.with_file_name(name);
        if std::fs::read_link(&link).is_ok_and(|target| target == Path::new("plasmd")) {
            continue;
        }
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("plasmd", &link)
            .with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}
