//! The boot of PID 1, from the first mount to the loop that never ends.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use boot_manifest::{Channel, Expiry, Floor, Manifest, Timestamp, TrustRoot, Verified};
use serde::Deserialize;

use crate::children::{self, Offer, Role};
use crate::cmdline;
use crate::console::{Console, Level};
use crate::machine::{Ending, Machine, Staged};
use crate::mounts::{self, Need};
use crate::plan::{self, Facts, Kernel, Outcome, Refusal, Source, Stop};
use crate::root;
use crate::screen::{self, Artifacts};
use crate::source::{self, DiskWait, Found};
use crate::verify::{self, Policy};
use crate::watchdog::Watchdog;
use crate::{kexec, limits, memory, settings, shutdown, sys};

/// What the image says about itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageInfo {
    name: String,
    version: String,
    /// Seconds since the epoch: no clock may stand before it.
    built_at: u64,
    floor: ImageFloor,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageFloor {
    security_version: u64,
    sequence: u64,
}

/// What the image brings to judge by.
#[derive(Debug)]
struct Identity {
    image: ImageInfo,
    trust: TrustRoot,
}

/// PID 1. Never returns.
pub(crate) fn run() -> ! {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let missing = mounts::mount_all();
    let descriptors = sane_descriptors();
    let signals = sys::signals();
    let (options, complaints) = cmdline::parse(&own_command_line());
    let (watchdog, watchdog_note) = match options.watchdog_seconds {
        0 => (None, None),
        seconds => Watchdog::open(Path::new("/dev/watchdog0"), seconds, Instant::now()),
    };
    let mut console = Console::open(
        Path::new("/sys/class/tty/console/active"),
        Path::new("/dev"),
    );
    console.say(
        Level::Info,
        &format!("init {} starting", env!("CARGO_PKG_VERSION")),
    );
    let signals = match (descriptors, signals) {
        (Ok(()), Ok(signals)) => signals,
        (Err(error), _) | (_, Err(error)) => {
            // Without descriptors or signals there is no loop to wait in.
            console.say(
                Level::Error,
                &format!("fatal: io: the first steps failed: {error}"),
            );
            std::thread::sleep(Duration::from_secs(u64::from(options.reboot_wait_seconds)));
            shutdown::last_resort()
        }
    };
    report_panics();
    let mut machine = Machine::new(options, console, signals, watchdog);
    machine.status.watchdog = machine.watchdog.as_ref().map(Watchdog::timeout_seconds);
    machine.status.product = concat!("Phase ", env!("CARGO_PKG_VERSION")).to_owned();
    let fatal = missing.iter().find(|missing| missing.need == Need::Must);
    let fatal = fatal.map(|missing| {
        Refusal::new(
            "mount-failed",
            format!("{}: {}", missing.target, missing.error),
        )
    });
    let soft = missing.iter().filter(|missing| missing.need != Need::Must);
    let soft = soft.map(|missing| format!("{} is not mounted: {}", missing.target, missing.error));
    warn(
        &mut machine,
        complaints.into_iter().chain(soft).chain(watchdog_note),
    );
    let outcome = match fatal {
        Some(refusal) => Outcome::Fatal(refusal),
        None => boot(&mut machine),
    };
    if let Outcome::Fatal(refusal) = outcome {
        stand_fatal(&mut machine, &refusal);
    }
    let ending = loop {
        if let Some(ending) = machine.ending() {
            break ending;
        }
        // An error only says that somebody asked for an end, which the next look finds.
        let _ending = machine.turn(limits::HEARTBEAT);
    };
    shutdown::leave(machine, ending)
}

fn own_command_line() -> String {
    std::fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

/// Descriptors 0 to 2 lead somewhere harmless whatever the kernel opened, and 3 stays occupied: see
/// [`children::REPORT_FD`].
fn sane_descriptors() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let log = File::options()
        .write(true)
        .open("/dev/kmsg")
        .or_else(|_| null.try_clone())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    // Descriptors are given out from the lowest free number, so the first copies fill 3.
    let placeholder: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&null, children::REPORT_FD)?;
    std::mem::forget(placeholder);
    Ok(())
}

/// A panic ends PID 1 and with it the kernel, which restarts the machine (`panic=`). Its text must reach the console.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let mut console = Console::open(
            Path::new("/sys/class/tty/console/active"),
            Path::new("/dev"),
        );
        console.say(Level::Error, &format!("fatal: panic: {panic}"));
    }));
}

fn warn(machine: &mut Machine, texts: impl IntoIterator<Item = String>) {
    for text in texts {
        machine
            .console
            .say(Level::Warning, &format!("warning: {text}"));
    }
}

fn boot(machine: &mut Machine) -> Outcome {
    let sysctls = settings::apply_sysctls(Path::new("/proc/sys"));
    let port = settings::allow_port(Path::new("/proc/sys"), machine.options.port);
    let limits = settings::apply_limits();
    warn(machine, sysctls.into_iter().chain(port).chain(limits));
    let identity = match read_identity() {
        Ok(identity) => identity,
        Err(refusal) => return Outcome::Fatal(refusal),
    };
    if let Some(behind) = settings::raise_clock(identity.image.built_at) {
        let text = format!(
            "warning: the clock was {} s behind the image and was set to its build time",
            behind.as_secs()
        );
        machine.console.say(Level::Warning, &text);
    }
    name_machine(machine, &identity);
    warn(machine, children::make_cgroups(memory::now().total));
    if let Err(error) = prepare_directories() {
        return Outcome::Fatal(verify::io("/run/phase", &error));
    }
    let options = machine.options.clone();
    let facts = Facts {
        options: &options,
        initramfs_has_artifacts: source::initramfs_has_artifacts(),
    };
    let mut boot = Boot {
        machine,
        identity,
        offer: None,
    };
    plan::follow(&plan::plan(&facts), &mut boot)
}

fn read_identity() -> Result<Identity, Refusal> {
    let read = |path: &str| {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| {
                file.take(limits::IMAGE_INFO_MAX + 1)
                    .read_to_end(&mut bytes)
            })
            .map_err(|error| Refusal::new("no-trust-root", format!("{path}: {error}")))?;
        Ok::<_, Refusal>(bytes)
    };
    let unreadable =
        |path: &str, error: String| Refusal::new("no-trust-root", format!("{path}: {error}"));
    let trust = TrustRoot::parse(&read(root::TRUST_ROOT)?)
        .map_err(|error| unreadable(root::TRUST_ROOT, error.to_string()))?;
    let image = serde_json::from_slice(&read(root::IMAGE_INFO)?)
        .map_err(|error| unreadable(root::IMAGE_INFO, error.to_string()))?;
    Ok(Identity { image, trust })
}

fn name_machine(machine: &mut Machine, identity: &Identity) {
    let private = machine.options.mode == cmdline::Mode::Private;
    let mac = settings::first_mac(Path::new("/sys/class/net"));
    let host = settings::choose_host_name(machine.options.name.as_deref(), private, mac.as_deref());
    if let Err(error) = rustix::system::sethostname(host.as_bytes()) {
        warn(machine, [format!("the host name cannot be set: {error}")]);
    }
    machine.status.product = format!(
        "{} {}",
        screen::printable(&identity.image.name),
        screen::printable(&identity.image.version)
    );
    machine.status.host = host;
    machine.status.keys = identity
        .trust
        .key_ids()
        .iter()
        .map(ToString::to_string)
        .collect();
    machine.status.development = identity.trust.is_development();
    machine.status.activity = "starting".to_owned();
    machine.console.touch(Instant::now());
}

/// Directories of the roles, and the names under which the kernel looks for helpers.
fn prepare_directories() -> std::io::Result<()> {
    for path in [root::STATE, root::NETWORK, "/sbin", "/etc"] {
        mounts::make_directory(Path::new(path))?;
    }
    let owner = |role: Role| {
        (
            rustix::fs::Uid::from_raw(role.id()),
            rustix::fs::Gid::from_raw(role.id()),
        )
    };
    let (uid, gid) = owner(Role::Net);
    rustix::fs::chown(root::NETWORK, Some(uid), Some(gid))?;
    let links = [
        ("/init", "/sbin/poweroff"),
        ("/init", "/sbin/reboot"),
        ("/init", "/sbin/shutdown"),
        ("/run/phase/net/resolv.conf", "/etc/resolv.conf"),
    ];
    for (target, link) in links {
        match rustix::fs::symlink(target, link) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Does what the plan says.
struct Boot<'m> {
    machine: &'m mut Machine,
    identity: Identity,
    offer: Option<Offer>,
}

impl Kernel for Boot<'_> {
    fn start_network(&mut self) {
        self.machine.supervise(Role::Net, None);
    }

    fn obtain(&mut self, source: Source) -> Result<(), Stop> {
        self.machine.status.activity = match (source, &self.machine.options.provider) {
            (Source::Provider, Some(provider)) => format!("fetching from {provider}"),
            _ => format!("looking for artifacts: {}", source.name()),
        };
        self.machine.console.touch(Instant::now());
        match source {
            Source::Disk { only } => self.obtain_from_disk(only),
            Source::Initramfs => {
                let found = source::in_initramfs()?;
                let result = self.install(&found);
                source::discard_initramfs();
                result
            }
            Source::Provider => self.obtain_from_provider(),
        }
    }

    fn report(&mut self, source: Source, refusal: &Refusal) {
        let Refusal { code, reason } = refusal;
        if refusal.is_absence() {
            self.machine
                .console
                .say(Level::Info, &format!("{code}: {}: {reason}", source.name()));
        } else {
            self.machine.console.say(
                Level::Error,
                &format!("refused: {code}: {}: {reason}", source.name()),
            );
        }
    }

    fn start_serving(&mut self) {
        self.machine.supervise(Role::Serve, self.offer.as_ref());
    }
}

impl Boot<'_> {
    fn obtain_from_disk(&mut self, only: bool) -> Result<(), Stop> {
        let most = Duration::from_secs(u64::from(self.machine.options.disk_wait_seconds));
        let mut wait = DiskWait::new(Instant::now(), only, most);
        let (block, dev) = (Path::new("/sys/class/block"), Path::new("/dev"));
        loop {
            let partitions = source::partitions(block, dev);
            if !partitions.is_empty() {
                return self.obtain_from_partitions(&partitions);
            }
            let devices =
                source::devices(Path::new("/sys/class"), Path::new("/sys/bus/usb/devices"));
            if !wait.goes_on(Instant::now(), devices) {
                return Err(Refusal::new(
                    Refusal::NOT_FOUND,
                    "no partition is named phase-artifacts",
                )
                .into());
            }
            self.machine.turn(limits::DISK_POLL)?;
        }
    }

    fn obtain_from_partitions(&mut self, partitions: &[std::path::PathBuf]) -> Result<(), Stop> {
        let mut last = Refusal::new(Refusal::NOT_FOUND, "no partition is named phase-artifacts");
        for (index, partition) in partitions.iter().enumerate() {
            let result = source::on_disk(partition)
                .map_err(Stop::from)
                .and_then(|found| self.install(&found));
            match result {
                Err(Stop::Refused(refusal)) => {
                    let reason = format!("{}: {}", partition.display(), refusal.reason);
                    last = Refusal::new(refusal.code, reason);
                    if index + 1 < partitions.len() {
                        self.report(Source::Disk { only: false }, &last);
                    }
                }
                other => return other,
            }
        }
        Err(last.into())
    }

    /// Verifies, copies, mounts.
    fn install(&mut self, found: &Found) -> Result<(), Stop> {
        let Self {
            machine,
            identity,
            offer,
        } = self;
        let channel = machine.options.channel.clone();
        // Expiry stops upgrading, never serving.
        let policy = identity.policy(channel.as_ref(), Expiry::Report);
        let manifest = verify::manifest(&found.manifest, &policy)?;
        machine.console.say(
            Level::Info,
            &format!("source {}: version {}", found.place, manifest.version),
        );
        let available = memory::now().available;
        root::install(&manifest, &found.medium, available, &mut || {
            machine.turn(Duration::ZERO)
        })?;
        *offer = Some(Offer {
            channel: manifest.channel.as_str().to_owned(),
            arch: manifest.arch.as_str().to_owned(),
        });
        tell_mounted(machine, &manifest, &found.place);
        Ok(())
    }

    /// Waits for what `stage` brings, and loads it.
    fn obtain_from_provider(&mut self) -> Result<(), Stop> {
        self.machine.supervise(Role::Stage, None);
        let staged = loop {
            if let Some(staged) = self.machine.take_staged() {
                break staged;
            }
            self.machine.turn(limits::HEARTBEAT)?;
        };
        self.machine.dismiss(Role::Stage);
        match staged {
            Staged::Failed(refusal) => Err(refusal.into()),
            Staged::Handoff(record, files) => {
                let result = self.boot_into(&record, files);
                if result.is_err() {
                    kexec::unload();
                }
                result?;
                self.machine.end(Ending::Kexec);
                Err(Stop::Ending)
            }
        }
    }

    fn boot_into(
        &mut self,
        record: &boot_manifest::handoff::HandoffRecord,
        files: Vec<File>,
    ) -> Result<(), Stop> {
        let Self {
            machine, identity, ..
        } = self;
        let channel = machine
            .options
            .channel
            .clone()
            .or_else(|| "stable".parse().ok());
        let policy = identity.policy(channel.as_ref(), Expiry::Refuse);
        let handoff =
            verify::handoff(record, files, &policy, &mut || machine.turn(Duration::ZERO))?;
        let digest = handoff.manifest.digest();
        // What the child says about the origin is not believed: this is the address that it was told to use.
        let origin = machine.options.provider.clone().unwrap_or_default();
        let line = cmdline::successor(&handoff.manifest.cmdline, &own_command_line(), &origin);
        kexec::load(handoff, &line, &mut || machine.turn(Duration::ZERO))?;
        machine
            .console
            .say(Level::Info, &format!("kexec into {digest}"));
        Ok(())
    }
}

impl Identity {
    fn policy<'a>(&'a self, channel: Option<&'a Channel>, expiry: Expiry) -> Policy<'a> {
        let ImageFloor {
            security_version,
            sequence,
        } = self.image.floor;
        Policy {
            root: &self.trust,
            now: Timestamp::from_unix(settings::now(self.image.built_at)),
            floor: Floor {
                security_version,
                sequence,
            },
            channel,
            expiry,
        }
    }
}

fn tell_mounted(machine: &mut Machine, manifest: &Verified<Manifest>, place: &str) {
    let source = match &machine.options.origin {
        Some(origin) => format!("{place}, fetched from {origin}"),
        None => place.to_owned(),
    };
    let artifacts = Artifacts {
        version: manifest.version.clone(),
        channel: manifest.channel.to_string(),
        arch: manifest.arch.to_string(),
        sequence: manifest.sequence,
        digest: manifest.digest().to_string(),
        expires_at: manifest.expires_at.to_string(),
        expired: manifest.expired(),
        source,
    };
    let Artifacts {
        version,
        channel,
        arch,
        sequence,
        digest,
        expires_at,
        ..
    } = &artifacts;
    let text = format!(
        "mounted {version} {channel}/{arch} sequence {sequence} from {place} manifest {digest}"
    );
    machine.console.say(Level::Info, &text);
    if artifacts.expired {
        let text = format!(
            "warning: the manifest expired at {expires_at}; it is served on, but nobody can upgrade to it"
        );
        machine.console.say(Level::Warning, &text);
    }
    machine.status.artifacts = Some(artifacts);
    machine.console.touch(Instant::now());
}

/// Shows why nothing works, for as long as `phase.reboot_wait` says, and then asks for a restart.
fn stand_fatal(machine: &mut Machine, refusal: &Refusal) {
    let wait = Duration::from_secs(u64::from(machine.options.reboot_wait_seconds));
    machine.console.say(
        Level::Error,
        &format!("fatal: {}: {}", refusal.code, refusal.reason),
    );
    let lines = screen::fatal(&machine.status.product, refusal, wait);
    machine.console.fatal(&lines);
    let until = Instant::now() + wait;
    while Instant::now() < until {
        if machine
            .turn(until.saturating_duration_since(Instant::now()))
            .is_err()
        {
            return;
        }
    }
    machine.end(Ending::Restart);
}
