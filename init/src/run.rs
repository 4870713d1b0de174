//! The boot of PID 1, from the first mount to the loop that never ends.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use self::obtain::Boot;
use crate::children::{self, Role};
use crate::cmdline;
use crate::console::{Console, Level};
use crate::identity::Identity;
use crate::machine::{Ending, Machine};
use crate::mounts::{self, Need};
use crate::plan::{self, Facts, Outcome, Refusal, Stop};
use crate::upgrade::{self, Upgrade};
use crate::watchdog::Watchdog;
use crate::{limits, memory, root, screen, settings, shutdown, source, sys, verify};

mod obtain;

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
    let (outcome, upgrade) = match fatal {
        Some(refusal) => (Outcome::Fatal(refusal), None),
        None => boot(&mut machine),
    };
    if let Outcome::Fatal(refusal) = outcome {
        stand_fatal(&mut machine, &refusal);
    }
    let ending = serve(&mut machine, upgrade);
    shutdown::leave(machine, ending)
}

/// The rest of the machine's life. Returns how it is left.
fn serve(machine: &mut Machine, mut upgrade: Option<Upgrade>) -> Ending {
    loop {
        if let Some(ending) = machine.ending() {
            if let Some(upgrade) = &mut upgrade
                && ending != Ending::Kexec
            {
                upgrade.ending(machine);
            }
            return ending;
        }
        let patience = upgrade
            .as_ref()
            .map_or(limits::HEARTBEAT, Upgrade::patience);
        // An error only says that somebody asked for an end, which the next look finds.
        let _ending = machine.turn(patience);
        if let Some(upgrade) = &mut upgrade {
            upgrade.work(machine);
        }
    }
}

/// A byte that is no UTF-8 spoils its word and not the whole line.
pub(crate) fn own_command_line() -> String {
    let line = std::fs::read("/proc/cmdline").unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
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

fn boot(machine: &mut Machine) -> (Outcome, Option<Upgrade>) {
    let sysctls = settings::apply_sysctls(Path::new("/proc/sys"));
    let port = settings::allow_port(Path::new("/proc/sys"), machine.options.port);
    let limits = settings::apply_limits();
    let crash = settings::earlier_crash(Path::new("/sys/fs/pstore"));
    warn(
        machine,
        sysctls.into_iter().chain(port).chain(limits).chain(crash),
    );
    let identity = match Identity::read() {
        Ok(identity) => identity,
        Err(refusal) => return (Outcome::Fatal(refusal), None),
    };
    let behind = settings::raise_clock(identity.image.built_at);
    if let Some(behind) = behind {
        let text = format!(
            "warning: the clock was {} s behind the image and was set to its build time",
            behind.as_secs()
        );
        machine.console.say(Level::Warning, &text);
    }
    name_machine(machine, &identity);
    warn(machine, children::make_cgroups(memory::now().total));
    if let Err(error) = prepare_directories() {
        return (Outcome::Fatal(verify::io("/run/phase", &error)), None);
    }
    let mut upgrade = Upgrade::new(identity, behind.is_none());
    if upgrade::take_over(&mut upgrade, machine) == Err(Stop::Ending) {
        return (Outcome::Ending, Some(upgrade));
    }
    let options = machine.options.clone();
    let facts = Facts {
        options: &options,
        initramfs_has_artifacts: source::initramfs_has_artifacts(),
    };
    let mut boot = Boot {
        machine,
        upgrade,
        offer: None,
        unfinished: None,
    };
    let mut outcome = plan::follow(&plan::plan(&facts), &mut boot);
    match boot.finish() {
        Ok(()) => {}
        Err(Stop::Ending) => outcome = Outcome::Ending,
        Err(Stop::Refused(refusal)) => outcome = Outcome::Fatal(refusal),
    }
    let mut upgrade = boot.upgrade;
    match &outcome {
        Outcome::Serving => upgrade.mounted(machine),
        Outcome::Fatal(Refusal { code, reason })
            if upgrade.failed_to_mount(machine, &format!("{code}: {reason}")) =>
        {
            return (Outcome::Ending, Some(upgrade));
        }
        Outcome::Fatal(_) | Outcome::Ending => {}
    }
    (outcome, Some(upgrade))
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
    warn(machine, identity.problem.clone());
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
