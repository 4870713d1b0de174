//! Running stories: what each needs, how long it may take, and what is kept of it.
//!
//! A story that lacks something it needs counts as ignored and says why in a line `SKIPPED: name: reason`.
//! Where `CI=true`, missing images and missing programs are failures: they can be had, and a test that
//! never runs proves nothing. A story over its limit loses all processes of its LANs, so every wait in it
//! fails, and with it the story.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::artifacts::Images;
use crate::firmware::Firmware;
use crate::lan::{self, Lan, LanSpec};
use crate::machine::{Machine, Spec};
use crate::timeline::Timeline;

/// Machines are slow under emulation and busy: more stories at once only make each other late.
const STORIES_AT_ONCE: usize = 2;
/// Programs without which no story runs, and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("curl", "curl"),
    ("setpriv", "util-linux"),
    ("sysctl", "procps"),
    ("tcpdump", "tcpdump"),
];

/// Kernel and initrd of Debian's installer, in the package debian-installer-12-netboot-amd64.
pub const INSTALLER: &str = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64";

/// A test: its name, its limits and what happens in it.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What holds if it passes, as a sentence in snake case.
    pub name: &'static str,
    /// After this it has failed.
    pub limit: Duration,
    /// What it needs besides a LAN.
    pub needs: Needs,
    /// The story.
    pub play: fn(&Story) -> Result<()>,
}

/// What a scene needs besides a LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Lan,
    /// The built images.
    Images,
    /// The built images and UEFI firmware.
    ImagesAndUefi,
    /// The built images and Debian's installer for network boot.
    ImagesAndInstaller,
    /// The built images, a 64-bit Arm machine and its UEFI firmware.
    ImagesAndArm,
}

/// A running test: makes LANs and machines, and keeps its timeline and logs.
#[derive(Debug)]
pub struct Story {
    images: Option<Images>,
    logs: PathBuf,
    timeline: Timeline,
    lans: Arc<Mutex<Vec<String>>>,
}

impl Story {
    /// The built images.
    ///
    /// # Errors
    /// When the scene does not say that it needs them.
    pub fn images(&self) -> Result<&Images> {
        self.images
            .as_ref()
            .context("this scene does not declare that it needs images")
    }

    /// A new LAN with a DHCP server.
    ///
    /// # Errors
    /// See [`Lan::new`].
    pub fn lan(&self) -> Result<Lan> {
        self.lan_with(LanSpec::default())
    }

    /// A new LAN with what `spec` says.
    ///
    /// # Errors
    /// See [`Lan::with`].
    pub fn lan_with(&self, spec: LanSpec) -> Result<Lan> {
        let lan = Lan::with(&self.logs, spec)?;
        self.lans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(lan.name().to_owned());
        Ok(lan)
    }

    /// Switches a machine on; see [`Machine::boot`].
    ///
    /// # Errors
    /// See [`Machine::boot`].
    pub fn boot(&self, lan: &Lan, name: &str, card: u8, spec: &Spec) -> Result<Machine> {
        Machine::boot(lan, &self.timeline, name, card, spec)
    }

    /// Notes on the timeline what people on the LAN did or saw.
    pub fn note(&self, what: impl Into<String>) {
        self.timeline.mark("lan", what);
    }

    /// The folder of the logs.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }
}

/// Plays the scenes that the command line asks for; the `main` of a test.
#[must_use]
pub fn run(scenes: &[Scene]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        arguments.test_threads = Some(cores.min(STORIES_AT_ONCE));
    }
    let trial = |scene: &Scene| {
        let scene = *scene;
        Trial::ignorable_test(scene.name, move || perform(&scene))
    };
    libtest_mimic::run(&arguments, scenes.iter().map(trial).collect()).exit_code()
}

/// Why a story cannot be told here.
enum Lacking {
    /// The machine does not allow it.
    Permission(String),
    /// Somebody forgot to install or build it.
    Provision(String),
}

fn perform(scene: &Scene) -> Result<Completion, Failed> {
    let images = match provisions(scene.needs) {
        Ok(images) => images,
        Err(Lacking::Provision(reason))
            if std::env::var_os("CI").is_some_and(|ci| ci == "true") =>
        {
            return Err(format!("{reason} (a failure, because CI=true)").into());
        }
        Err(Lacking::Provision(reason) | Lacking::Permission(reason)) => {
            eprintln!("SKIPPED: {}: {reason}", scene.name);
            return Ok(Completion::ignored());
        }
    };
    let story = Story {
        images,
        logs: Images::logs(scene.name).map_err(|error| format!("{error:#}"))?,
        timeline: Timeline::default(),
        lans: Arc::default(),
    };
    let timed_out = Arc::new(OnceLock::new());
    let watch = watch(scene.limit, Arc::clone(&story.lans), Arc::clone(&timed_out));
    let outcome = (scene.play)(&story);
    drop(watch);
    let seconds = story.timeline.elapsed().as_secs_f64();
    eprintln!("{} ({seconds:.1} s)\n{}", scene.name, story.timeline);
    outcome.map(|()| Completion::Completed).map_err(|error| {
        let limit = scene.limit.as_secs();
        let late = timed_out
            .get()
            .map_or(String::new(), |()| format!("stopped after {limit} s: "));
        Failed::from(format!("{late}{error:#}\n  logs: {}", story.logs.display()))
    })
}

/// Kills everything in `lans` when the sender that is returned still lives after `limit`.
fn watch(
    limit: Duration,
    lans: Arc<Mutex<Vec<String>>>,
    timed_out: Arc<OnceLock<()>>,
) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            timed_out.get_or_init(|| ());
            for name in lans.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                lan::kill_inside(name);
            }
        }
    });
    sender
}

fn provisions(needs: Needs) -> Result<Option<Images>, Lacking> {
    static LAN: OnceLock<Result<(), String>> = OnceLock::new();
    for (program, package) in PROGRAMS {
        if !is_on_path(program) {
            return Err(Lacking::Provision(format!(
                "{program} is not installed (package {package})"
            )));
        }
    }
    LAN.get_or_init(|| lan::possible().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(Lacking::Permission)?;
    if needs == Needs::Lan {
        return Ok(None);
    }
    if needs == Needs::ImagesAndUefi && !Firmware::uefi_is_installed() {
        return Err(Lacking::Provision(
            "UEFI firmware is not installed (package ovmf)".to_owned(),
        ));
    }
    if needs == Needs::ImagesAndInstaller && !Path::new(INSTALLER).exists() {
        return Err(Lacking::Provision(
            "Debian's installer is not there (package debian-installer-12-netboot-amd64)"
                .to_owned(),
        ));
    }
    if needs == Needs::ImagesAndArm
        && !(Firmware::arm_is_installed() && is_on_path("qemu-system-aarch64"))
    {
        return Err(Lacking::Provision(
            "64-bit Arm is not installed (packages qemu-system-arm, qemu-efi-aarch64)".to_owned(),
        ));
    }
    Images::find()
        .map(Some)
        .map_err(|error| Lacking::Provision(format!("{error:#}")))
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Root's tools are not on everybody's path, but they are in the same places everywhere.
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(also)
        .any(|folder| folder.join(program).exists())
}

/// Fails a story with a sentence unless `holds`.
///
/// # Errors
/// The sentence.
pub fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(anyhow!(otherwise()))
    }
}
