//! The loop: one image boots, serves signed artifacts, and boots the next machine, which serves them in turn.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::story::{Needs, Scene};
use qemu_tests::variant::honest;
use qemu_tests::{Disk, Firmware, Images, Lan, Machine, Spec, Story};

use crate::people::{
    clients_agree, discovery_finds, from_provider, has_memory_left, netbooted, provider,
    serves_the_signed_manifest, with_disk,
};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        needs: Needs::ImagesAndUefi,
        ..scene(
            "a_machine_boots_the_next_and_can_then_be_switched_off",
            150,
            the_loop,
        )
    },
    scene(
        "a_machine_with_too_little_memory_says_so",
        60,
        too_little_memory,
    ),
    scene(
        "a_provider_that_loses_power_meanwhile_can_come_back",
        90,
        provider_comes_back,
    ),
];

/// An orderly power-off: roles drain for at most eight seconds, and the kernel ends.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(20);

fn the_loop(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;

    let disk = Disk::new(images.path("phase.img"), Bus::Virtio);
    let a = story.boot(&lan, "a", 1, &Spec::new(Firmware::Uefi).disk(disk))?;
    a.wait_for("phase: mounted", BOOT_LIMIT)?;
    let at_a = a.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at_a)?;
    clients_agree(story, &lan, &at_a)?;
    discovery_finds(story, &lan, &at_a)?;
    has_memory_left(&a)?;

    let b = story.boot(&lan, "b", 2, &netbooted(images, &from_provider(&at_a.url)))?;
    let at_b = becomes_a_provider(&b)?;
    ensure!(
        at_b.manifest == at_a.manifest,
        "B serves another manifest than A"
    );
    serves_the_signed_manifest(&lan, images, &at_b)?;
    has_memory_left(&b)?;

    a.power_off(POWER_OFF_LIMIT)?;
    ensure!(a.said("phase: powering off")?, "A went off without a word");
    ensure!(
        !lan.answers(&a.address(), 8080)?,
        "A answers although it is off"
    );

    let c = story.boot(&lan, "c", 3, &netbooted(images, &from_provider(&at_b.url)))?;
    let at_c = becomes_a_provider(&c)?;
    serves_the_signed_manifest(&lan, images, &at_c)?;
    clients_agree(story, &lan, &at_c)?;
    story.note("C's manifest is byte for byte the one A had, and its artifacts hash the same");
    b.power_off(POWER_OFF_LIMIT)?;
    c.power_off(POWER_OFF_LIMIT)
}

/// Fetches, verifies, kexecs, mounts, serves: in this order, on the console.
fn becomes_a_provider(machine: &Machine) -> Result<qemu_tests::machine::Serving> {
    machine.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    machine.wait_for("from initramfs", BOOT_LIMIT)?;
    machine.wait_until_serving(BOOT_LIMIT)
}

/// B asks while A is not there yet: it must wait for it rather than fail.
fn provider_comes_back(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let url = format!("http://{}:8080", qemu_tests::lan::address(1));
    let b = story.boot(&lan, "b", 2, &netbooted(images, &from_provider(&url)))?;
    b.wait_for("phase: network", BOOT_LIMIT)?;
    let a = serving_from_disk(story, images, &lan)?;
    let at_b = becomes_a_provider(&b)?;
    a.kill();
    serves_the_signed_manifest(&lan, images, &at_b)
}

fn serving_from_disk(story: &Story, images: &Images, lan: &Lan) -> Result<Machine> {
    let a = story.boot(lan, "a", 1, &with_disk(images, ""))?;
    a.wait_until_serving(BOOT_LIMIT)?;
    Ok(a)
}

/// Loading a successor beside the running system takes memory; without it the machine must say so, not die.
fn too_little_memory(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let provider = provider(&lan, honest(images)?)?;
    let spec = Spec {
        memory_mib: 128,
        ..netbooted(images, &from_provider(provider.url()))
    };
    let b = story.boot(&lan, "b", 2, &spec)?;
    b.must_refuse("not-enough-memory", BOOT_LIMIT)
}
