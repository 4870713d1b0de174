//! Power cuts, fault rows 1 and 2: an upgrade is run once on a disk that logs every write and flush; then the power is cut
//! at random moments of that log, over a cache that loses, reorders and tears what was not flushed, and the appliance is
//! switched on with what the disk holds then.
//!
//! Each time it must serve the very image that the ledger on the disk names, and be stable at the end; after the medium has
//! lied about a flush it must serve a committed one. `PHASE_SEED=N` repeats a run, `PHASE_LONG=1` makes a thousand cuts;
//! `cargo appliance test` has `--seed` and `--long` for it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::ledger;
use qemu_tests::nbd::{self, LoggedDisk, Op};
use qemu_tests::paper::Paper;
use qemu_tests::power::{Cut, Loss, Rng, partition};
use qemu_tests::provider::Settings;
use qemu_tests::story::Scene;
use qemu_tests::{Disk, Firmware, Images, Lan, Machine, Provider, Release, Spec, Story, Timeline};
use upgrade::Ledger;

use crate::{COMMITTED, CONSOLE, PROVED, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene(
        "power_may_be_cut_at_any_moment_of_an_upgrade",
        LIMIT_S,
        upgrade_that_commits,
    ),
    scene(
        "power_may_be_cut_at_any_moment_of_an_upgrade_that_fails",
        LIMIT_S,
        upgrade_that_fails,
    ),
];

/// What makes it a thousand cuts instead of some fifty.
const LONG: &str = "PHASE_LONG";
/// Where the random choices begin.
const SEED: &str = "PHASE_SEED";

/// Cuts of each of the two scenes.
const CUTS: usize = 26;
const CUTS_LONG: usize = 500;
/// For the long run. Every wait in it has its own limit, and the tool holds an ordinary run to that of its suite.
const LIMIT_S: u64 = 5 * 3600;

/// An upgrade under emulation, with everything it waits for.
const UPGRADE_LIMIT: Duration = Duration::from_secs(400);
/// A machine that upgrades itself keeps its old image as a way back.
const MEMORY_MIB: u32 = 512;
/// It proves itself as shortly as can be.
const QUICK: &str = "phase.upgrade.soak=2 phase.upgrade.poll=5 phase.upgrade.alone=yes";
/// A cold start of golden and a kexec behind it, and then the last writes.
const START_LIMIT: Duration = Duration::from_secs(180);
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// What it says when its record of that is on the disk.
const STABLE: &str = "upgrade: stable ";

/// A disk from its first switching-on to the end of what was recorded.
struct Recording {
    base: PathBuf,
    log: Vec<Op>,
    ledger: Range<u64>,
    /// Images that may be served after a cut, golden first; and their digests.
    images: Vec<Images>,
    committed: Vec<String>,
    /// Images that may lie in a slot, and never become the default.
    others: Vec<Images>,
}

/// Version 2 comes, proves itself, is committed, and is started again from a cold machine.
fn upgrade_that_commits(story: &Story) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let first = story.images()?;
    let second = Release::of(first, "2").make(scratch.path().join("2"))?;
    let lan = story.lan()?;
    let recorder = Recorder::new(first, scratch.path())?;
    let provider = Provider::start(&lan, first, &Settings::flags(&["--dhcp", "off"]))?;
    let a = recorder.switch_on(story, &lan, first, &provider)?;
    provider.publish(&second)?;
    a.wait_for(COMMITTED, UPGRADE_LIMIT)?;
    a.kill();
    recorder.disk.mark("off and on again");
    let a = recorder.switch_on(story, &lan, first, &provider)?;
    a.wait_for(PROVED, START_LIMIT)?;
    a.kill();
    drop(provider);
    let recording = recorder.end(&[first, &second], &[])?;
    cut_again_and_again(story, &lan, &recording)
}

/// Version 2 is committed; version 3 dies before its first process, and version 2 is back.
fn upgrade_that_fails(story: &Story) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let first = story.images()?;
    let second = Release::of(first, "2").make(scratch.path().join("2"))?;
    let third = Release::of(&second, "3")
        .words("rdinit=/nothing panic=1")
        .make(scratch.path().join("3"))?;
    let lan = story.lan()?;
    let recorder = Recorder::new(first, scratch.path())?;
    let provider = Provider::start(&lan, first, &Settings::flags(&["--dhcp", "off"]))?;
    let a = recorder.switch_on(story, &lan, first, &provider)?;
    provider.publish(&second)?;
    a.wait_for(COMMITTED, UPGRADE_LIMIT)?;
    recorder.disk.mark("version 3 appears");
    provider.publish(&third)?;
    a.wait_for_unless("Kernel panic", &[], UPGRADE_LIMIT)?;
    let back = a.wait_until_serving(UPGRADE_LIMIT)?;
    ensure!(
        back.manifest == digest(&second)?,
        "version 2 is not back: {back:?}"
    );
    settled(&recorder.image, &a)?;
    a.kill();
    drop(provider);
    let recording = recorder.end(&[first, &second], &[&third])?;
    cut_again_and_again(story, &lan, &recording)
}

/// A disk that logs, with the machine it belongs to.
struct Recorder {
    base: PathBuf,
    image: PathBuf,
    disk: LoggedDisk,
}

impl Recorder {
    fn new(images: &Images, scratch: &Path) -> Result<Self> {
        let file = scratch.join("disk.img");
        nbd::copy_sparse(&images.path("phase.img"), &file)?;
        Ok(Self {
            base: images.path("phase.img"),
            disk: LoggedDisk::serve(&file)?,
            image: file,
        })
    }

    /// The machine with this disk, serving.
    fn switch_on(
        &self,
        story: &Story,
        lan: &Lan,
        images: &Images,
        provider: &Provider,
    ) -> Result<Machine> {
        let words = format!("{QUICK} phase.upgrade.from={}", provider.url());
        let spec = Spec {
            watchdog: true,
            resets: true,
            ..golden(images, &words).disk(Disk::logged(&self.disk, Bus::Virtio))
        };
        let a = story.boot(lan, "a", 1, &spec)?;
        a.wait_until_serving(START_LIMIT)?;
        Ok(a)
    }

    fn end(&self, committed: &[&Images], others: &[&Images]) -> Result<Recording> {
        let digests = committed.iter().map(|images| digest(images));
        let owned = |images: &[&Images]| images.iter().map(|images| (*images).clone()).collect();
        Ok(Recording {
            base: self.base.clone(),
            log: self.disk.log(),
            ledger: partition(&self.base, "phase-ledger")?,
            images: owned(committed),
            committed: digests.collect::<Result<_>>()?,
            others: owned(others),
        })
    }
}

/// What firmware does with the disk, without the firmware: golden's kernel and initramfs in memory.
fn golden(images: &Images, words: &str) -> Spec {
    let mut spec = Spec::new(Firmware::Kernel {
        kernel: images.path("vmlinuz"),
        initrd: images.path("initramfs.img"),
        append: format!("{CONSOLE} watchdog.stop_on_reboot=0 {words}"),
    });
    spec.memory_mib = MEMORY_MIB;
    spec
}

fn digest(images: &Images) -> Result<String> {
    let bytes = images.bytes("manifest.json")?;
    Ok(boot_manifest::Digest::of(&bytes).to_string())
}

/// Cuts the power of `recording` as often as asked for, and boots what is left each time.
fn cut_again_and_again(story: &Story, lan: &Lan, recording: &Recording) -> Result<()> {
    let cuts = if std::env::var_os(LONG).is_some() {
        CUTS_LONG
    } else {
        CUTS
    };
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("{SEED}={text}"))?,
        Err(_) => u64::from(std::process::id()) ^ recording.log.len() as u64,
    };
    let writes = recording
        .log
        .iter()
        .filter(|op| matches!(op, Op::Write { .. }));
    story.note(format!(
        "{cuts} power cuts of {} writes, {SEED}={seed}",
        writes.count()
    ));
    ensure!(
        recording.log.iter().any(|op| recording.touches_ledger(op)),
        "nothing was written to the ledger"
    );
    let [committed, others] = [&recording.images, &recording.others].map(|all| all.iter());
    let (committed, others): (Vec<_>, Vec<_>) = (committed.collect(), others.collect());
    let mut paper = Paper::new(&recording.base, &recording.log, &committed, &others)?;
    let on_paper = paper.judge(&recording.ledger, seed);
    let on_paper = on_paper.with_context(|| format!("on paper, {SEED}={seed}"))?;
    story.note(format!(
        "{on_paper} cuts at writes to the ledger leave what they should"
    ));
    let mut rng = Rng::new(seed);
    let mut met = [0usize; 2];
    for number in 0..cuts {
        let cut = Cut::any(&recording.log, &recording.ledger, &mut rng);
        let served = one(lan, recording, &cut, number);
        let served = served.with_context(|| format!("cut {number}, {SEED}={seed}: {cut:?}"))?;
        met[usize::from(served == recording.committed[0])] += 1;
    }
    story.note(format!(
        "each time back and stable, {} times with the first image and {} times with the second",
        met[1], met[0]
    ));
    Ok(())
}

impl Recording {
    fn touches_ledger(&self, op: &Op) -> bool {
        matches!(op, Op::Write { offset, .. } if self.ledger.contains(offset))
    }

    /// The digest of the image that a ledger leads to.
    fn default_of(&self, ledger: Option<&Ledger>) -> Result<String> {
        match ledger.and_then(|ledger| ledger.default) {
            Some(digest) => Ok(digest.to_string()),
            None => Ok(self.committed[0].clone()),
        }
    }
}

/// Cuts once; returns what is served then.
fn one(lan: &Lan, recording: &Recording, cut: &Cut, number: usize) -> Result<String> {
    let scratch = tempfile::tempdir()?;
    let image = scratch.path().join("disk.img");
    cut.image(&recording.base, &recording.log, &image)?;
    let left = ledger::find(&image)?.ledger;
    let expected = recording.default_of(left.as_ref())?;
    let spec = Spec {
        watchdog: true,
        resets: true,
        ..golden(&recording.images[0], QUICK).disk(Disk::kept(&image, Bus::Virtio))
    };
    // Its story is told only if it fails.
    let timeline = Timeline::default();
    let a = Machine::boot(lan, &timeline, &format!("cut-{number}"), 2, &spec)?;
    let told = |error: anyhow::Error| error.context(format!("left was {left:?}\n{timeline}"));
    let serving = a.wait_until_serving(START_LIMIT).map_err(told)?;
    // A slot may be gone after a lie; and an image that no cold start has proved gets few tries.
    let may_be_left = cut.loss == Loss::Lied || left.as_ref().is_some_and(is_on_its_last_try);
    let instead = may_be_left && recording.committed.contains(&serving.manifest);
    if serving.manifest != expected && !instead {
        bail!(
            "{} is served instead of {expected}; left was {left:?}",
            serving.manifest
        );
    }
    let after = settled(&image, &a).map_err(told)?;
    a.kill();
    let default = recording.default_of(Some(&after))?;
    ensure!(
        default == serving.manifest,
        "{} is served, and the ledger has {after:?}",
        serving.manifest
    );
    Ok(serving.manifest)
}

/// Whether the default was started before without being stable, and no cold start has proved it.
fn is_on_its_last_try(ledger: &Ledger) -> bool {
    let stored = ledger.default.and_then(|digest| ledger.stored(&digest));
    ledger.starts > 0 && stored.is_some_and(|(_, is_proved)| !is_proved)
}

/// What the machine remembers once it has been stable: no trial is open, and this start is no failed one.
fn settled(image: &Path, machine: &Machine) -> Result<Ledger> {
    machine.wait_for(STABLE, SETTLE_LIMIT)?;
    let ledger = ledger::read(image)?;
    ensure!(ledger.trial.is_none(), "a trial is open: {ledger:?}");
    ensure!(ledger.starts == 0, "it is not stable: {ledger:?}");
    Ok(ledger)
}
