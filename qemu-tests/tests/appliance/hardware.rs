//! Firmware, disks, watchdogs and consoles: what a machine may have or lack.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::story::{Needs, Scene};
use qemu_tests::{Disk, Firmware, Spec, Story};
use serde_json::json;

use crate::netboot::serves_from_disk;
use crate::people::{netbooted, serves_the_signed_manifest, with_disk};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        needs: Needs::ImagesAndUefi,
        ..scene("uefi_boots_the_image_from_a_usb_stick", 240, |story| {
            usb_stick(story, Firmware::Uefi, "UEFI, USB stick")
        })
    },
    scene("bios_boots_the_image_from_a_usb_stick", 240, |story| {
        usb_stick(story, Firmware::Bios, "BIOS, USB stick")
    }),
    scene("a_bios_boots_the_image_from_a_disk", 240, |story| {
        bios_disk(story, Bus::Sata)
    }),
    scene("a_fed_watchdog_lets_the_machine_live", 90, watchdog),
    scene("a_machine_without_any_console_serves", 90, no_console),
    scene("ctrl_alt_del_restarts_in_order", 60, ctrl_alt_del),
    scene("a_clock_at_1970_does_not_stop_the_boot", 60, |story| {
        clock(story, "1970-01-01")
    }),
    scene("a_clock_at_2040_does_not_stop_serving", 60, |story| {
        clock(story, "2040-01-01")
    }),
    scene("an_intel_card_works", 60, |story| card(story, "e1000e")),
    scene("a_vmware_card_works", 60, |story| card(story, "vmxnet3")),
    scene("an_nvme_disk_is_found", 60, |story| disk(story, Bus::Nvme)),
    scene("a_sata_disk_is_found", 60, |story| disk(story, Bus::Sata)),
];

fn usb_stick(story: &Story, firmware: Firmware, row: &'static str) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let stick = Disk::new(images.path("phase.img"), Bus::Usb);
    let a = story.boot(&lan, "a", 1, &Spec::new(firmware).disk(stick))?;
    let at = serves_from_disk(story, &a, row)?;
    serves_the_signed_manifest(&lan, images, &at)?;
    // The stick may be pulled out: everything served is in memory.
    a.qmp("device_del", json!({ "id": "stick0" }))?;
    story.note("the stick is pulled out");
    let whole = lan.get(&format!("{}/stable/x86_64/rootfs.squashfs", at.url))?;
    ensure!(
        whole == images.bytes("rootfs.squashfs")?,
        "the squashfs changed with the stick"
    );
    Ok(())
}

/// Sector 0, GRUB, the kernel beside the EFI program: without UEFI the same image boots.
fn bios_disk(story: &Story, bus: Bus) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let disk = Disk::new(images.path("phase.img"), bus);
    let a = story.boot(&lan, "a", 1, &Spec::new(Firmware::Bios).disk(disk))?;
    let at = serves_from_disk(story, &a, "BIOS, disk")?;
    serves_the_signed_manifest(&lan, images, &at)
}

/// The shortest time-out, and a life several times as long.
fn watchdog(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let spec = Spec {
        watchdog: true,
        ..with_disk(images, "phase.watchdog=10")
    };
    let a = story.boot(&lan, "a", 1, &spec)?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    a.wait_for("watchdog  10 s", BOOT_LIMIT)?;
    a.must_live(Duration::from_secs(25))?;
    serves_the_signed_manifest(&lan, images, &at)
}

fn no_console(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let mut spec = with_disk(images, "");
    spec.serial = false;
    let Firmware::Kernel { append, .. } = &mut spec.firmware else {
        unreachable!("no firmware")
    };
    "panic=10 no_timer_check".clone_into(append);
    let a = story.boot(&lan, "a", 1, &spec)?;
    let url = format!("http://{}:8080/manifest.json", a.address());
    let served = lan.get_eventually(&url, BOOT_LIMIT)?;
    story.note("it serves");
    ensure!(
        served == images.bytes("manifest.json")?,
        "the served manifest is not the signed one"
    );
    a.power_off(Duration::from_secs(20))
}

fn disk(story: &Story, bus: Bus) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let spec =
        netbooted(images, "phase.source=disk").disk(Disk::new(images.path("phase.img"), bus));
    let a = story.boot(&lan, "a", 1, &spec)?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)
}

fn ctrl_alt_del(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    a.wait_until_serving(BOOT_LIMIT)?;
    let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
    a.qmp("send-key", json!({ "keys": keys }))?;
    a.wait_for("phase: restarting", BOOT_LIMIT)?;
    let ended = a.wait_for_end(BOOT_LIMIT)?;
    ensure!(
        ended == "guest-reset",
        "it ended by {ended} instead of a restart"
    );
    Ok(())
}

/// Expiry and clocks stop upgrades, never serving.
fn clock(story: &Story, clock: &'static str) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let a = story.boot(
        &lan,
        "a",
        1,
        &Spec {
            clock: Some(clock),
            ..with_disk(images, "")
        },
    )?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)
}

fn card(story: &Story, model: &'static str) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let a = story.boot(
        &lan,
        "a",
        1,
        &Spec {
            card_model: model,
            ..with_disk(images, "")
        },
    )?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)
}
