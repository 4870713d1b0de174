//! The loop closes: a machine serves version 1; version 2 is signed and published; the machine fetches it, jumps into it,
//! proves itself, commits and serves version 2; another machine boots version 2 from it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::provider::Settings;
use qemu_tests::story::Scene;
use qemu_tests::{Disk, Firmware, Images, Lan, Machine, Provider, Release, Spec, Story, ledger};
use rustix::event::{Timespec, poll};
use serde_json::Value;
use upgrade::{Outcome, Place, Slot};

use crate::people::{from_provider, netbooted, serves_the_signed_manifest};
use crate::{BOOT_LIMIT, CONSOLE, scene};

pub(crate) const SCENES: &[Scene] = &[scene(
    "a_machine_upgrades_itself_and_boots_another_with_what_it_has_become",
    600,
    the_loop,
)];

/// Fetching, writing and reading back a slot, the jump, the tests and a short soak, on a busy host under emulation.
pub(crate) const UPGRADE_LIMIT: Duration = Duration::from_secs(180);
/// What the machines of these scenes are told: to look often and to soak briefly; a watchdog that bites soon, and yet leaves
/// a busy emulator the time for a jump.
pub(crate) const WORDS: &str = "watchdog.stop_on_reboot=0 watchdog.open_timeout=120 i6300esb.nowayout=1 phase.watchdog=20 phase.upgrade.poll=5 phase.upgrade.soak=3";
/// Memory with room for a crash kernel.
pub(crate) const UPGRADE_MEMORY_MIB: u32 = 640;
/// A cold start goes through two kernels, and then soaks.
const COLD_LIMIT: Duration = Duration::from_secs(150);
/// A release of the tests is compressed in a hurry, so it needs a little more than the smallest machine has.
const NETBOOT_MEMORY_MIB: u32 = 384;
/// The machine that upgrades itself, and the one that boots from it: the numbers of their cards.
pub(crate) const A: u8 = 1;
const C: u8 = 3;
/// How often a status is asked for.
const ASK_STEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// What the loop leaves behind: the start of every scene about a failing third version.
pub(crate) struct Second {
    /// Version 2.0.
    pub(crate) images: Images,
    /// A disk whose machine runs version 2.0, committed and proved from cold; switched off.
    pub(crate) disk: PathBuf,
    _folder: tempfile::TempDir,
}

fn the_loop(story: &Story) -> Result<()> {
    second(story).map(|_| ())
}

/// The loop's outcome: the first scene that needs it plays it, for all.
pub(crate) fn second(story: &Story) -> Result<Arc<Second>> {
    static PLAYED: Mutex<Option<Result<Arc<Second>, String>>> = Mutex::new(None);
    let mut played = PLAYED.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = played.get_or_insert_with(|| {
        let outcome = close_the_loop(story).map(Arc::new);
        outcome.map_err(|error| format!("{error:#}"))
    });
    outcome.clone().map_err(|error| anyhow!(error))
}

fn close_the_loop(story: &Story) -> Result<Second> {
    let folder = tempfile::tempdir()?;
    let images = story.images()?;
    let second = Release::of(images, "2.0").make(folder.path().join("v2"))?;
    let lan = story.lan()?;
    let b = Provider::start(&lan, images, &Settings::default())?;
    let disk = own_disk(&images.path("phase.img"), folder.path())?;
    let a = story.boot(&lan, "a", A, &upgrading(images, &disk, &b, ""))?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)?;

    b.publish(&second)?;
    story.note("version 2.0 is signed and published on B");
    committed(story, &lan, &a, &second)?;
    serves_the_signed_manifest(&lan, &second, &served_by(&a, &second)?)?;
    ensure!(a.resets()? == 0, "A was reset on its way");
    remembers_the_commit(&disk, &second)?;

    // It has proved itself; B is no longer needed.
    drop(b);
    let at_a = format!("http://{}:8080", a.address());
    let spec = Spec {
        memory_mib: NETBOOT_MEMORY_MIB,
        ..netbooted(images, &from_provider(&at_a))
    };
    let c = story.boot(&lan, "c", C, &spec)?;
    c.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    let at_c = c.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, &second, &at_c)?;
    c.kill();

    a.reset()?;
    let proved = |status: &Value| status["running"]["proved"] == true;
    let status = until(&lan, &a, COLD_LIMIT, "a cold start proves it", proved)?;
    let expected = digest(&second)?.to_string();
    ensure!(
        status["running"]["digest"] == expected.as_str(),
        "{status:#}"
    );
    ensure!(status["running"]["place"] == "a", "{status:#}");
    serves_the_signed_manifest(&lan, &second, &served_by(&a, &second)?)?;
    story.note("after a reset golden starts version 2.0 again, and it is proved from cold");
    a.power_off(BOOT_LIMIT)?;
    let record = ledger::read(&disk)?;
    let slot = record.slot(Place::A);
    ensure!(
        matches!(slot, Some(Slot::Valid { proved: true, .. })),
        "the record: {record:?}"
    );
    Ok(Second {
        images: second,
        disk,
        _folder: folder,
    })
}

fn remembers_the_commit(disk: &Path, images: &Images) -> Result<()> {
    let record = ledger::read(disk)?;
    ensure!(
        record.default == Some(digest(images)?) && record.trial.is_none(),
        "the record: {record:?}"
    );
    let last = record.history.last().context("no history")?;
    ensure!(last.outcome == Outcome::Committed, "the record: {last:?}");
    Ok(())
}

/// A machine with a disk of its own, a watchdog, and B to upgrade from; started without firmware, as a cold start of golden.
pub(crate) fn upgrading(images: &Images, disk: &Path, b: &Provider, words: &str) -> Spec {
    let append = format!("{CONSOLE} {WORDS} phase.upgrade.from={} {words}", b.url());
    let firmware = Firmware::Kernel {
        kernel: images.path("vmlinuz"),
        initrd: images.path("initramfs.img"),
        append,
    };
    Spec {
        memory_mib: UPGRADE_MEMORY_MIB,
        watchdog: true,
        resets: true,
        ..Spec::new(firmware).disk(Disk::kept(disk, Bus::Virtio))
    }
}

/// A copy of a disk image that a machine may write to; what is a hole stays one.
pub(crate) fn own_disk(image: &Path, folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("disk.img");
    let mut cp = Command::new("cp");
    let status = cp.args(["--sparse=always", "--"]).arg(image).arg(&copy);
    ensure!(
        status.status()?.success(),
        "cannot copy {}",
        image.display()
    );
    Ok(copy)
}

/// The digest of the manifest of `images`.
pub(crate) fn digest(images: &Images) -> Result<boot_manifest::Digest> {
    Ok(boot_manifest::Digest::of(&images.bytes("manifest.json")?))
}

/// Waits until the machine runs `images`, committed, with nothing on trial.
pub(crate) fn committed(story: &Story, lan: &Lan, a: &Machine, images: &Images) -> Result<Value> {
    let wanted = digest(images)?.to_string();
    let status = until(lan, a, UPGRADE_LIMIT, "it runs committed", |status| {
        status["running"]["digest"] == wanted.as_str()
            && status["default"]["digest"] == wanted.as_str()
            && status["trial"].is_null()
    })?;
    story.note(format!(
        "A says that {} is committed",
        status["running"]["version"]
    ));
    Ok(status)
}

/// Asks for `/upgrade` until it is as wanted.
pub(crate) fn until(
    lan: &Lan,
    machine: &Machine,
    limit: Duration,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let url = format!("http://{}:8080/upgrade", machine.address());
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        let output = lan.run([
            "curl",
            "-gsS",
            "-f",
            "-H",
            "accept: application/json",
            "--max-time",
            "3",
            &url,
        ])?;
        // While it restarts it has no answer.
        if let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) {
            if wanted(&status) {
                return Ok(status);
            }
            last = Some(status);
        }
        if Instant::now() > deadline {
            let shown = last.map_or("no status".to_owned(), |status| format!("{status:#}"));
            bail!("waited for: {what}; the last status: {shown}");
        }
        poll(&mut [], Some(&ASK_STEP))?;
    }
}

pub(crate) fn served_by(
    machine: &Machine,
    images: &Images,
) -> Result<qemu_tests::machine::Serving> {
    let manifest = digest(images)?.to_string();
    let folder = images.manifest()?;
    let url = format!(
        "http://{}:8080/{}/{}",
        machine.address(),
        folder.channel,
        folder.arch
    );
    Ok(qemu_tests::machine::Serving { url, manifest })
}
