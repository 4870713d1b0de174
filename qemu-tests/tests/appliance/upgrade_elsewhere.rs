//! Upgrades under the conditions that machines really have: started by UEFI firmware, with little memory, and two of them
//! that clients boot from meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::ledger;
use qemu_tests::machine::MEMORY_MIB as MEMORY_MIB_MIN;
use qemu_tests::nbd::copy_sparse;
use qemu_tests::power::Rng;
use qemu_tests::provider::Settings;
use qemu_tests::story::{Needs, Scene};
use qemu_tests::{Disk, Firmware, Images, Lan, Machine, Provider, Release, Spec, Story};
use upgrade::Outcome;

use crate::{COMMITTED, CONSOLE, PROVED, scene};

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        needs: Needs::ImagesAndUefi,
        ..scene(
            "uefi_starts_what_was_committed_and_what_it_left_again",
            900,
            uefi,
        )
    },
    scene(
        "machines_take_turns_and_no_client_fails_to_boot",
        900,
        rolling,
    ),
    scene(
        "a_small_machine_upgrades_itself_and_refuses_what_is_too_large",
        900,
        little,
    ),
    scene(
        "larger_machines_upgrade_themselves_to_larger_versions",
        900,
        more,
    ),
];

/// An upgrade under emulation, beside other machines.
const UPGRADE_LIMIT: Duration = Duration::from_secs(400);
/// It proves itself as shortly as can be.
const QUICK: &str = "phase.upgrade.soak=2 phase.upgrade.poll=5";
/// It may leave its segment unserved for a moment.
const ALONE: &str = "phase.upgrade.alone=yes";
/// With it there is room for the old image as a way back.
const MEMORY_MIB: u32 = 512;
/// The client fetches a version that was compressed in a hurry.
const CLIENT_MEMORY_MIB: u32 = 384;
/// What must never be said where memory is little.
const HOPELESS: &[&str] = &["Kernel panic", "phase: fatal:", "deadlocked on memory"];

fn digest(images: &Images) -> Result<String> {
    let bytes = images.bytes("manifest.json")?;
    Ok(boot_manifest::Digest::of(&bytes).to_string())
}

/// A machine's own copy of the disk image.
fn disk(images: &Images, scratch: &Path, name: &str) -> Result<PathBuf> {
    let file = scratch.join(format!("{name}.img"));
    copy_sparse(&images.path("phase.img"), &file)?;
    Ok(file)
}

/// A machine that upgrades itself from this disk.
fn with_disk(firmware: Firmware, disk: &Path) -> Spec {
    Spec {
        memory_mib: MEMORY_MIB,
        watchdog: true,
        resets: true,
        ..Spec::new(firmware).disk(Disk::kept(disk, Bus::Virtio))
    }
}

/// What firmware does with the disk, without the firmware.
fn in_memory(images: &Images, words: &str) -> Firmware {
    Firmware::Kernel {
        kernel: images.path("vmlinuz"),
        initrd: images.path("initramfs.img"),
        append: format!("{CONSOLE} watchdog.stop_on_reboot=0 {words}"),
    }
}

/// The provider of new versions, which nobody finds who was not told of it.
fn hidden_provider(lan: &Lan, images: &Images) -> Result<Provider> {
    let flags = ["--dhcp", "off", "--no-mdns", "--no-dht"];
    Provider::start(lan, images, &Settings::flags(&flags))
}

/// The firmware starts the same program on the disk for ever; the ledger decides what becomes of that.
fn uefi(story: &Story) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let lan = story.lan()?;
    let server = &lan.boot_server()?.address;
    let words = format!("{QUICK} {ALONE} phase.upgrade.from=http://{server}:8080");
    let first = Release::of(story.images()?, "1").words(&words);
    let first = first.make(scratch.path().join("1"))?;
    let second = Release::of(&first, "2").make(scratch.path().join("2"))?;
    let third = Release::of(&second, "3").words("rdinit=/nothing panic=1");
    let third = third.make(scratch.path().join("3"))?;
    let provider = hidden_provider(&lan, &first)?;
    let image = disk(&first, scratch.path(), "disk")?;
    let spec = with_disk(Firmware::Uefi, &image);

    let a = story.boot(&lan, "a", 1, &spec)?;
    a.wait_until_serving(UPGRADE_LIMIT)?;
    provider.publish(&second)?;
    a.wait_for(COMMITTED, UPGRADE_LIMIT)?;
    a.kill();
    story.note("version 2 is started cold");
    let a = story.boot(&lan, "a-again", 1, &spec)?;
    serves(&a, &second)?;
    a.wait_for(PROVED, UPGRADE_LIMIT)?;
    provider.publish(&third)?;
    a.wait_for_unless("Kernel panic", &[], UPGRADE_LIMIT)?;
    serves(&a, &second)?;
    a.kill();
    let remembered = ledger::read(&image)?;
    let third = digest(&third)?;
    let failed = remembered.history.iter().any(|entry| {
        entry.digest.to_string() == third && matches!(entry.outcome, Outcome::Failed(_))
    });
    ensure!(failed, "version 3 is not on record: {remembered:?}");
    story.note("and once more, after the failure");
    let a = story.boot(&lan, "a-once-more", 1, &spec)?;
    serves(&a, &second)
}

fn serves(machine: &Machine, images: &Images) -> Result<()> {
    let serving = machine.wait_until_serving(UPGRADE_LIMIT)?;
    let expected = digest(images)?;
    ensure!(
        serving.manifest == expected,
        "{} is served instead of {expected}",
        serving.manifest
    );
    Ok(())
}

/// Two appliances replace themselves one after the other; a client that has nothing boots from them all the time.
fn rolling(story: &Story) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let first = story.images()?;
    let second = Release::of(first, "2").make(scratch.path().join("2"))?;
    let lan = story.lan()?;
    let provider = hidden_provider(&lan, first)?;
    let words = format!("{QUICK} phase.upgrade.from={}", provider.url());
    let machines = [("a", 1), ("b", 2)].map(|(name, card)| {
        let image = disk(first, scratch.path(), name)?;
        let spec = with_disk(in_memory(first, &words), &image);
        story.boot(&lan, name, card, &spec)
    });
    let [a, b] = machines;
    let machines = [a?, b?];
    for machine in &machines {
        machine.wait_until_serving(UPGRADE_LIMIT)?;
    }
    provider.publish(&second)?;
    let known = [digest(first)?, digest(&second)?];
    let committed = |machine: &Machine| machine.said(COMMITTED);
    let started = Instant::now();
    let mut boots = 0;
    while !(committed(&machines[0])? && committed(&machines[1])?) {
        ensure!(
            started.elapsed() < UPGRADE_LIMIT,
            "not both are upgraded after {boots} boots of clients"
        );
        let spec = Spec {
            memory_mib: CLIENT_MEMORY_MIB,
            ..Spec::new(in_memory(first, "phase.source=provider phase.upgrade=off"))
        };
        let client = story.boot(&lan, &format!("client-{boots}"), 3, &spec)?;
        client.wait_for("phase: kexec into ", UPGRADE_LIMIT)?;
        let serving = client.wait_until_serving(UPGRADE_LIMIT)?;
        ensure!(known.contains(&serving.manifest), "it booted {serving:?}");
        client.kill();
        boots += 1;
    }
    story.note(format!("{boots} clients booted meanwhile, and none failed"));
    ensure!(boots > 1, "the clients were too slow to see anything");
    Ok(())
}

/// Twice what the kernel and the initramfs of a version weigh has to be free; in the memory below it is not.
const BALLAST_BYTES: usize = 12 << 20;

/// Less than the appliance promises to run on: with 256 MiB every version that fits into a slot is taken.
const TOO_LITTLE_MIB: u32 = 192;

/// The smallest machine there is takes a version of the usual size; one with less refuses a heavy version before it is loaded.
fn little(story: &Story) -> Result<()> {
    ensure!(with_memory(story, MEMORY_MIB_MIN, 0)?, "it refused");
    let heavy = with_memory(story, TOO_LITTLE_MIB, BALLAST_BYTES)?;
    ensure!(!heavy, "a heavy version found room: the limit was not met");
    Ok(())
}

fn more(story: &Story) -> Result<()> {
    for (mib, ballast) in [(384, 0), (1024, BALLAST_BYTES)] {
        ensure!(
            with_memory(story, mib, ballast)?,
            "with {mib} MiB it refused"
        );
    }
    Ok(())
}

/// Fault row 9: a new version appears for a machine of `mib` MiB. It becomes that version, or it refuses and goes on
/// serving; it never dies of it. Returns whether it upgraded itself.
fn with_memory(story: &Story, mib: u32, ballast: usize) -> Result<bool> {
    let scratch = tempfile::tempdir()?;
    let first = story.images()?;
    let file = scratch.path().join("ballast");
    let mut rng = Rng::new(1);
    let bytes: Vec<u8> = (0..ballast / 8)
        .flat_map(|_| rng.next_u64().to_le_bytes())
        .collect();
    std::fs::write(&file, bytes)?;
    let second = Release::of(first, "2").overlay("etc/ballast", &file);
    let second = second.make(scratch.path().join("2"))?;
    let lan = story.lan()?;
    let provider = hidden_provider(&lan, first)?;
    let words = format!("{QUICK} {ALONE} phase.upgrade.from={}", provider.url());
    let image = disk(first, scratch.path(), "disk")?;
    let spec = Spec {
        memory_mib: mib,
        ..with_disk(in_memory(first, &words), &image)
    };
    let a = story.boot(&lan, &format!("a-{mib}-{ballast}"), 1, &spec)?;
    let at = a.wait_until_serving(UPGRADE_LIMIT)?;
    provider.publish(&second)?;
    let upgraded = loop {
        let line = a.wait_for_unless("phase: upgrade: ", HOPELESS, UPGRADE_LIMIT)?;
        if line.text.contains(COMMITTED) {
            break true;
        }
        if line.text.contains("upgrade: refused ") {
            ensure!(line.text.contains("memory"), "refused: {}", line.text);
            break false;
        }
        if line.text.contains("upgrade: failed ") {
            bail!("{}", line.text);
        }
    };
    let expected = if upgraded { &second } else { first };
    let served = lan.get(&format!("{}/manifest.json", at.url))?;
    ensure!(
        served == expected.bytes("manifest.json")?,
        "it does not serve the version it should"
    );
    let what = if upgraded {
        "upgrades itself"
    } else {
        "says no"
    };
    story.note(format!(
        "with {mib} MiB and {ballast} bytes of ballast it {what}"
    ));
    Ok(upgraded)
}
