//! A newer version is broken, each time in another way, and signed all the same: the machine is back on the old one, serving,
//! with the reason on record. Every way back is walked at least once: the watchdog, `panic=`, the crash kernel, the restart by
//! choice. Most begin with the image of the disk; those that begin with version 2 in a slot come back through golden.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::provider::Settings;
use qemu_tests::story::Scene;
use qemu_tests::{Images, Provider, Release, Story, ledger};

use crate::people::serves_the_signed_manifest;
use crate::scene;
use crate::upgrade::{A, Second, digest, own_disk, second, served_by, until, upgrading};

pub(crate) const SCENES: &[Scene] = &[
    // Fault 7: signed as it is, so no check stops it.
    scene("a_kernel_cut_in_half_leaves_the_old_one", 900, |s| {
        comes_back(s, DEAD_KERNEL, cut_kernel)
    }),
    // Fault 12, before PID 1.
    scene("a_flipped_kernel_leaves_the_old_one", 900, |s| {
        comes_back(s, DEAD_KERNEL, flipped_kernel)
    }),
    // Faults 8 and 13, early: no crash image is loaded yet.
    scene(
        "a_first_process_that_ends_at_once_leaves_the_old_one",
        900,
        |s| comes_back(s, EARLY, |old, folder| sabotaged(old, folder, "exit now")),
    ),
    scene(
        "a_first_process_that_panics_at_once_leaves_the_old_one",
        900,
        |s| comes_back(s, EARLY, |old, folder| sabotaged(old, folder, "panic now")),
    ),
    // Fault 13, late.
    scene(
        "a_first_process_that_faults_is_caught_by_the_crash_kernel",
        900,
        |s| {
            comes_back_to_a_slot(s, &["panic"], |old, folder| {
                sabotaged(old, folder, &format!("fault {CRASH_KERNEL_READY}"))
            })
        },
    ),
    scene("a_machine_out_of_memory_leads_back", 900, |s| {
        comes_back_with(s, LONG_SOAK, OUT_OF_MEMORY, |old, folder| {
            sabotaged(old, folder, &format!("eat-memory {CRASH_KERNEL_READY}"))
        })
    }),
    // Fault 12, in PID 1, and 14: the watchdog's driver must not have stopped it.
    scene(
        "a_first_process_that_hangs_at_once_is_ended_by_the_watchdog",
        900,
        |s| {
            comes_back(s, &["hang"], |old, folder| {
                sabotaged(old, folder, "freeze now")
            })
        },
    ),
    // Fault 12, behind P3.
    scene(
        "a_first_process_that_freezes_in_its_tests_is_ended_by_the_watchdog",
        900,
        |s| {
            comes_back(s, &["hang"], |old, folder| {
                sabotaged(old, folder, "freeze file /run/phase/upgrade.json \"serve\"")
            })
        },
    ),
    // Fault 15.
    scene(
        "a_network_card_that_is_gone_after_the_jump_leads_back",
        900,
        |s| comes_back(s, &["hardware", "network"], no_card),
    ),
    scene(
        "a_successor_that_could_not_upgrade_itself_again_leads_back",
        900,
        |s| {
            comes_back(s, &["updater", "restarts"], |old, folder| {
                sabotaged(old, folder, "kill update now")
            })
        },
    ),
    // Fault 17.
    scene("a_successor_that_dies_in_its_soak_leads_back", 900, |s| {
        comes_back(s, &["restarts"], |old, folder| {
            sabotaged(
                old,
                folder,
                "kill serve file /run/phase/upgrade.json \"soak\"",
            )
        })
    }),
];

/// The program that becomes PID 1 and has an enemy beside it, built beside this test.
const SABOTEUR: &str = env!("CARGO_BIN_EXE_saboteur");
/// When the predecessor has been loaded as crash kernel.
const CRASH_KERNEL_READY: &str = "file /sys/kernel/kexec_crash_loaded 1";
/// Fetching, a trial, its end, one more trial where the first may have been an accident, and the way back.
const FAILURE_LIMIT: Duration = Duration::from_secs(600);
/// First the roles die, which the soak does not forgive; where that comes too late, the kernel gives up.
const OUT_OF_MEMORY: &[&str] = &["restarts", "panic"];
/// An emulator needs its time to fill the memory; by then nothing must be committed.
const LONG_SOAK: &str = "phase.upgrade.soak=300";
/// What is known of a kernel that does not come up: it hangs, or the processor gives up and resets the machine at once.
const DEAD_KERNEL: &[&str] = &["hang", "unknown"];
/// What is known of a machine that came back by `panic=`: where nothing keeps the kernel's last words, not why; and on a busy
/// host the watchdog may be faster than the ten seconds for which people may read them.
const EARLY: &[&str] = &["panic", "unknown", "power", "hang"];

type Make = fn(&Images, &Path) -> Result<Images>;

/// What is there before the broken version, and where a failure must lead back to.
struct Old {
    images: Images,
    disk: PathBuf,
    place: &'static str,
    /// More words for its command line.
    words: &'static str,
    /// What keeps both.
    _kept: Option<Arc<Second>>,
}

/// Plays one broken version against the image of the disk.
fn comes_back(story: &Story, reasons: &[&str], make: Make) -> Result<()> {
    comes_back_with(story, "", reasons, make)
}

/// The same with more words on the command line.
fn comes_back_with(story: &Story, words: &'static str, reasons: &[&str], make: Make) -> Result<()> {
    let images = story.images()?.clone();
    let old = Old {
        disk: images.path("phase.img"),
        images,
        place: "golden",
        words,
        _kept: None,
    };
    play(story, &old, reasons, make)
}

/// The same against version 2, which the machine had upgraded itself to and lies in a slot.
fn comes_back_to_a_slot(story: &Story, reasons: &[&str], make: Make) -> Result<()> {
    let second = second(story)?;
    let old = Old {
        disk: second.disk.clone(),
        images: second.images.clone(),
        place: "a",
        words: "",
        _kept: Some(second),
    };
    play(story, &old, reasons, make)
}

/// The broken version is tried, and the old one is back, serving, with one of these reasons on record.
fn play(story: &Story, old: &Old, reasons: &[&str], make: Make) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broken = make(&old.images, folder.path())?;
    let (before, failed) = (digest(&old.images)?, digest(&broken)?);
    let lan = story.lan()?;
    let b = Provider::start(&lan, &broken, &Settings::default())?;
    let disk = own_disk(&old.disk, folder.path())?;
    let spec = upgrading(story.images()?, &disk, &b, old.words);
    let a = story.boot(&lan, "a", A, &spec)?;

    let (running, quarantined) = (before.to_string(), failed.to_string());
    let status = until(&lan, &a, FAILURE_LIMIT, "it is back", |status| {
        let mut all = status["quarantine"].as_array().into_iter().flatten();
        let is_failed = all.any(|one| one["digest"] == quarantined.as_str());
        is_failed && status["running"]["digest"] == running.as_str() && status["trial"].is_null()
    })?;
    ensure!(status["running"]["place"] == old.place, "{status:#}");
    ensure!(
        status["default"]["digest"] == running.as_str(),
        "{status:#}"
    );
    let failure = &status["quarantine"][0]["failure"];
    story.note(format!("A is back on the old version and says: {failure}"));
    let reason = failure["reason"].as_str().context("no reason")?;
    ensure!(
        reasons.contains(&reason),
        "another reason is on record: {status:#}"
    );
    serves_the_signed_manifest(&lan, &old.images, &served_by(&a, &old.images)?)?;
    let record = ledger::read(&disk)?;
    ensure!(
        record.quarantine.iter().any(|one| one.digest == failed),
        "the record: {record:?}"
    );
    ensure!(
        record.default == (old.place != "golden").then_some(before),
        "the record: {record:?}"
    );
    Ok(())
}

/// Half a kernel: it is loaded without complaint, and cannot be unpacked.
fn cut_kernel(old: &Images, folder: &Path) -> Result<Images> {
    let kernel = old.bytes("vmlinuz")?;
    let file = folder.join("vmlinuz");
    fs::write(&file, &kernel[..kernel.len() / 2])?;
    Release::of(old, "3.0")
        .kernel(&file)
        .make(folder.join("v3"))
}

/// Some bytes of the packed kernel are others.
fn flipped_kernel(old: &Images, folder: &Path) -> Result<Images> {
    let mut kernel = old.bytes("vmlinuz")?;
    let middle = kernel.len() / 2;
    for byte in &mut kernel[middle..middle + 64] {
        *byte ^= 0xff;
    }
    let file = folder.join("vmlinuz");
    fs::write(&file, kernel)?;
    Release::of(old, "3.0")
        .kernel(&file)
        .make(folder.join("v3"))
}

/// A version whose first process does what `orders` say (see the program).
fn sabotaged(old: &Images, folder: &Path, orders: &str) -> Result<Images> {
    let file = folder.join("sabotage");
    fs::write(&file, orders)?;
    Release::of(old, "3.0")
        .init(SABOTEUR)
        .overlay("init.real", old.path("init"))
        .overlay("sabotage", &file)
        .make(folder.join("v3"))
}

/// A version whose kernel never starts the driver of the only network card.
fn no_card(old: &Images, folder: &Path) -> Result<Images> {
    Release::of(old, "3.0")
        .words("initcall_blacklist=virtio_net_driver_init")
        .make(folder.join("v3"))
}
