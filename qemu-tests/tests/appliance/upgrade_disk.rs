//! A machine that keeps its images on a disk: what it starts after power comes back, and what it does when that disk is
//! damaged, forgetful, slow or silent.
//!
//! The disks are made from outside, as an upgrade would leave them: version 1 is golden, version 2 lies in slot A and is
//! the default. Whatever is wrong, one of the two is served.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::nbd::{Fault, LoggedDisk, copy_sparse};
use qemu_tests::power::partition;
use qemu_tests::provider::Settings;
use qemu_tests::release::Release;
use qemu_tests::story::Scene;
use qemu_tests::{Disk, Images, Lan, Machine, Provider, Spec, Story, ledger, slots};
use upgrade::{ImageRef, Ledger, Outcome, Place, Reason, Slot};

use crate::people::{netbooted, serves_the_signed_manifest};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    // Fault 5.
    scene(
        "a_cold_start_leads_to_the_image_that_the_ledger_names",
        240,
        named,
    ),
    // Fault 6.
    scene("a_slot_that_rots_leads_back_to_golden", 120, rotten),
    scene("a_golden_that_rots_leads_to_the_slot", 150, rotten_golden),
    // Fault 3.
    scene(
        "a_ledger_that_cannot_be_written_stops_nobody",
        120,
        unwritable,
    ),
    // Fault 3: the kernel tells of an error once, and says that all is well when it is asked again.
    scene("a_slot_that_fails_once_is_not_believed", 150, fails_once),
    // Fault 43.
    scene("a_disk_that_falls_silent_stops_nobody", 150, silent),
];

/// How long a machine waits for a disk before it gives it up, and a boot.
const SILENCE_LIMIT: Duration = Duration::from_secs(110);

/// A disk with two versions.
struct TwoVersions {
    _folder: tempfile::TempDir,
    disk: PathBuf,
    second: Images,
}

impl TwoVersions {
    fn make(story: &Story) -> Result<Self> {
        let first = story.images()?;
        let folder = tempfile::tempdir()?;
        let second = Release::of(first, "2.0.0").make(folder.path().join("v2"))?;
        let disk = folder.path().join("disk.img");
        copy_sparse(&first.path("phase.img"), &disk)?;
        let image = slots::install(&disk, Place::A, &second)?;
        let remembered = Ledger {
            golden: Some(golden(first)?),
            default: Some(image.digest),
            seen: image.rank(),
            a: Slot::Valid {
                image,
                proved: true,
            },
            ..Ledger::default()
        };
        slots::remember(&disk, &remembered)?;
        story.note("a disk with version 1 as golden and version 2 in slot A, which is the default");
        Ok(Self {
            _folder: folder,
            disk,
            second,
        })
    }

    /// Firmware is left out: golden's kernel is started as firmware would.
    fn machine(story: &Story, disk: Disk) -> Result<Spec> {
        Ok(netbooted(story.images()?, "phase.upgrade=off").disk(disk))
    }
}

fn golden(images: &Images) -> Result<ImageRef> {
    let manifest = images.manifest()?;
    Ok(ImageRef {
        digest: boot_manifest::Digest::of(&images.bytes("manifest.json")?),
        place: Place::Golden,
        version: manifest.version,
        sequence: manifest.sequence,
        generation: manifest.generation,
        security_version: manifest.security_version,
    })
}

/// Waits until `images` are served, byte for byte.
fn serves(lan: &Lan, machine: &Machine, images: &Images, limit: Duration) -> Result<()> {
    let at = machine.wait_until_serving(limit)?;
    serves_the_signed_manifest(lan, images, &at)
}

fn named(story: &Story) -> Result<()> {
    let two = TwoVersions::make(story)?;
    let lan = story.lan()?;
    // A stick, which takes its time to appear: also after the jump, to the image that looks for the disk it came from.
    let disk = Disk::kept(&two.disk, Bus::Usb);
    let a = story.boot(&lan, "a", 1, &TwoVersions::machine(story, disk.clone())?)?;
    a.wait_for("from slot a", BOOT_LIMIT)?;
    serves(&lan, &a, &two.second, BOOT_LIMIT)?;
    let seen = ledger::read(&two.disk)?;
    ensure!(seen.starts == 1, "the start was not counted: {seen:?}");
    a.kill();

    slots::forget(&two.disk)?;
    story.note("both sectors of the ledger are overwritten");
    let b = story.boot(&lan, "b", 2, &TwoVersions::machine(story, disk)?)?;
    serves(&lan, &b, story.images()?, BOOT_LIMIT)?;
    ensure!(!b.said("from slot")?, "it started a slot that nobody named");
    Ok(())
}

fn rotten(story: &Story) -> Result<()> {
    let two = TwoVersions::make(story)?;
    slots::rot(&two.disk, Place::A, &two.second)?;
    let lan = story.lan()?;
    let disk = Disk::kept(&two.disk, Bus::Virtio);
    let a = story.boot(&lan, "a", 1, &TwoVersions::machine(story, disk)?)?;
    serves(&lan, &a, story.images()?, BOOT_LIMIT)?;
    let seen = ledger::read(&two.disk)?;
    let told = seen.history.iter().any(|entry| {
        entry.version == "2.0.0" && entry.outcome == Outcome::Failed(Reason::SlotDamaged)
    });
    ensure!(told, "the ledger does not say why: {seen:?}");
    Ok(())
}

/// Firmware still starts golden, but nothing says any more that what lies beside it may be served.
fn rotten_golden(story: &Story) -> Result<()> {
    let two = TwoVersions::make(story)?;
    slots::rot_golden(&two.disk)?;
    let lan = story.lan()?;
    let disk = Disk::kept(&two.disk, Bus::Virtio);
    let a = story.boot(&lan, "a", 1, &TwoVersions::machine(story, disk)?)?;
    a.wait_for("from slot a", BOOT_LIMIT)?;
    serves(&lan, &a, &two.second, BOOT_LIMIT)
}

/// The disk takes no write to the ledger: a start that is not counted may be one of an endless number, so golden serves.
fn unwritable(story: &Story) -> Result<()> {
    let two = TwoVersions::make(story)?;
    let disk = LoggedDisk::serve(&two.disk)?;
    disk.fail(partition(&two.disk, ledger::PARTITION)?, Fault::WriteError);
    let lan = story.lan()?;
    let spec = TwoVersions::machine(story, Disk::logged(&disk, Bus::Virtio))?;
    let a = story.boot(&lan, "a", 1, &spec)?;
    a.wait_for("the record on the disk could not be written", BOOT_LIMIT)?;
    serves(&lan, &a, story.images()?, BOOT_LIMIT)
}

/// The disk never answers a request for the ledger. The loop of PID 1 goes on, gives the disk up and serves golden, which
/// lies on the same disk.
fn silent(story: &Story) -> Result<()> {
    let two = TwoVersions::make(story)?;
    let disk = LoggedDisk::serve(&two.disk)?;
    disk.fail(partition(&two.disk, ledger::PARTITION)?, Fault::Silence);
    let lan = story.lan()?;
    let spec = Spec {
        // It would end the machine if the loop stood still for as long as the disk is waited for.
        watchdog: true,
        ..TwoVersions::machine(story, Disk::logged(&disk, Bus::Virtio))?
    };
    let a = story.boot(&lan, "a", 1, &spec)?;
    a.wait_for("the disk did not answer", SILENCE_LIMIT)?;
    serves(&lan, &a, story.images()?, BOOT_LIMIT)
}

/// One write of the whole slot fails: the image is not used, nothing is armed, and the machine serves on.
fn fails_once(story: &Story) -> Result<()> {
    let first = story.images()?;
    let folder = tempfile::tempdir()?;
    let second = Release::of(first, "2.0.0").make(folder.path().join("v2"))?;
    let image = folder.path().join("disk.img");
    copy_sparse(&first.path("phase.img"), &image)?;
    let disk = LoggedDisk::serve(&image)?;
    disk.fail(partition(&image, "phase-slot-a")?, Fault::WriteErrors(1));
    let lan = story.lan()?;
    let b = Provider::start(&lan, &second, &Settings::default())?;
    let words = format!(
        "phase.upgrade.from={} phase.upgrade.poll=5 phase.upgrade.alone=yes phase.upgrade.watchdog=no",
        b.url()
    );
    let spec = netbooted(first, &words).disk(Disk::logged(&disk, Bus::Virtio));
    let a = story.boot(&lan, "a", 1, &spec)?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    a.wait_for("the slot could not be written", BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, first, &at)?;
    let seen = ledger::read(&image)?;
    ensure!(
        seen.a == Slot::Dirty && seen.trial.is_none() && seen.default.is_none(),
        "the ledger believes the slot: {seen:?}"
    );
    ensure!(!a.said("phase: kexec into")?, "it jumped");
    Ok(())
}
