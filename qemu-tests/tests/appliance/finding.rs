//! A machine that knows no provider, as one that firmware started from `phase.efi`: it finds one.

use anyhow::{Result, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::provider::Settings;
use qemu_tests::story::Scene;
use qemu_tests::{Disk, Story};
use serde_json::json;

use crate::netboot::{BESIDE_A_ROUTER, Scenery};
use crate::people::{netbooted, serves_the_signed_manifest};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene("a_boot_server_names_the_provider", 120, |story| {
        finds(story, &["--dhcp", "proxy", "--no-mdns"], "phase.mdns=off")
    }),
    scene("mdns_announces_the_provider", 120, |story| {
        finds(story, &["--dhcp", "off"], "")
    }),
    scene("a_disk_that_comes_late_is_taken", 90, late_disk),
];

fn finds(story: &Story, flags: &[&str], words: &str) -> Result<()> {
    let images = story.images()?;
    let scenery = Scenery::with(story, BESIDE_A_ROUTER, &Settings::flags(flags))?;
    let machine = story.boot(&scenery.lan, "a", 1, &netbooted(images, words))?;
    machine.wait_for("phase: looking for a provider on the network", BOOT_LIMIT)?;
    machine.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    let at = machine.wait_until_serving(BOOT_LIMIT)?;
    // The status screen tells where it comes from.
    let from = format!("fetched from {}", scenery.provider.url());
    machine.wait_for(&from, BOOT_LIMIT)?;
    serves_the_signed_manifest(&scenery.lan, images, &at)?;
    // What the squashfs has for the next machine's firmware is served too; what is put together of it a little later.
    for file in ["phase.efi", "undionly.kpxe", "snponly.efi"] {
        let served = scenery
            .lan
            .get_eventually(&format!("{}/stable/x86_64/{file}", at.url), BOOT_LIMIT)?;
        ensure!(served.len() > 10_000, "{file} has {} bytes", served.len());
    }
    Ok(())
}

/// Nobody is on the network, and somebody plugs a stick in.
fn late_disk(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let image = images.path("phase.img");
    let spec = netbooted(images, "").disk(Disk::new(&image, Bus::Usb));
    let machine = story.boot(&lan, "a", 1, &spec)?;
    machine.qmp("device_del", json!({ "id": "stick0" }))?;
    machine.wait_for("phase: looking for a provider on the network", BOOT_LIMIT)?;
    let file = json!({ "driver": "file", "filename": image, "read-only": true });
    let disk = json!({ "driver": "raw", "node-name": "late", "read-only": true, "file": file });
    machine.qmp("blockdev-add", disk)?;
    let stick = json!({ "driver": "usb-storage", "bus": "xhci0.0", "drive": "late", "id": "late" });
    machine.qmp("device_add", stick)?;
    story.note("a stick is plugged in");
    machine.wait_for("phase: source disk /dev/sd", BOOT_LIMIT)?;
    let at = machine.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)
}
