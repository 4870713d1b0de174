//! BIOS machines that boot from the network: by the iPXE in their card, and by the iPXE that plasmd gives
//! them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::firmware::Bus;
use qemu_tests::story::{INSTALLER, Needs, Scene};
use qemu_tests::{Disk, Firmware, Recorder, Spec, Story};
use serde_json::json;

use crate::netboot::{
    ALONE, AT_PORT_4011, BEHIND_A_RELAY, BESIDE_A_ROUTER, FIRMWARE_LIMIT, FRUITLESS, Place,
    Scenery, becomes_a_provider, is_known_to_serve,
};
use crate::people::{serves_the_signed_manifest, with_disk};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene("bios_boots_beside_a_router", 300, |story| {
        ipxe_in_the_card(story, BESIDE_A_ROUTER)
    }),
    scene("bios_boots_without_another_dhcp_server", 300, |story| {
        ipxe_in_the_card(story, ALONE)
    }),
    scene("bios_boots_behind_a_relay", 300, |story| {
        ipxe_in_the_card(story, BEHIND_A_RELAY)
    }),
    scene("bios_boots_by_port_4011", 300, |story| {
        ipxe_in_the_card(story, AT_PORT_4011)
    }),
    scene("bios_without_http_in_its_rom_gets_ipxe", 300, plain_rom),
    Scene {
        needs: Needs::ImagesAndInstaller,
        ..scene("bios_boots_the_installer_of_debian", 300, installer)
    },
    scene("a_machine_sent_to_its_disk_boots_it", 300, local_disk),
    scene("a_menu_shows_every_channel_and_obeys_a_key", 300, menu),
    scene(
        "an_appliance_boots_the_next_from_its_firmware",
        360,
        the_loop,
    ),
];

/// Memory of a machine that runs Debian's installer. With so little its first screen is a warning, which comes
/// much sooner than its first question.
const INSTALLER_MIB: u32 = 512;
/// A larger kernel, 40 MB of initrd and a whole system in it, on a busy host under emulation.
const INSTALLER_LIMIT: Duration = Duration::from_secs(240);
/// What stands beside the installer in its folder.
const INSTALLER_TOML: &str = "\
title = \"Debian 12 installer\"
kernel = \"linux\"
initrd = \"initrd.gz\"
cmdline = \"console=ttyS0,115200 quiet no_timer_check DEBIAN_FRONTEND=text\"
";
/// And beside a kernel that is told what nobody else tells one.
const RESCUE_TOML: &str = "\
title = \"Rescue by hand\"
cmdline = \"console=ttyS0,115200 chosen.by=hand\"
";
/// A menu that waits for a key, however long.
const MENU: &str = "\
[[profile]]
name = \"desk\"
match = [\"*\"]
menu = true
menu_seconds = 0
";
/// Everything boots the channel of the installer.
const INSTALL: &str = "\
[[profile]]
name = \"installers\"
match = [\"*\"]
channel = \"debian\"
";

/// The row of the README's table.
const IPXE_IN_THE_CARD: &str = "BIOS, iPXE in the card";
const FROM_AN_APPLIANCE: &str = "BIOS, iPXE in the card, from an appliance";
const PLAIN_ROM: &str = "BIOS, PXE in the card, then undionly.kpxe";

/// C13 to C15: an iPXE that can fetch by HTTP gets the script at once, and no other iPXE first.
fn ipxe_in_the_card(story: &Story, place: Place) -> Result<()> {
    let scenery = Scenery::new(story, place)?;
    // It runs on until it has told of itself.
    let _machine = scenery.serves_in_the_end(
        story,
        IPXE_IN_THE_CARD,
        place.column,
        &Spec::new(Firmware::BiosNetwork),
    )?;
    is_known_to_serve(&scenery, 1)?;
    let tftp = scenery.recorder.packets().lines_with(".69:");
    ensure!(tftp.is_empty(), "it was sent to TFTP: {tftp:?}");
    Ok(())
}

/// C14: a ROM that knows no HTTP is given our iPXE by TFTP, once, and that one gets the script.
fn plain_rom(story: &Story) -> Result<()> {
    let place = BESIDE_A_ROUTER;
    let scenery = Scenery::new(story, place)?;
    let spec = Spec {
        plain_rom_until: Some("undionly"),
        ..Spec::new(Firmware::BiosNetwork)
    };
    let _machine = scenery.serves_in_the_end(story, PLAIN_ROM, place.column, &spec)?;
    is_known_to_serve(&scenery, 1)?;
    let asked = scenery.recorder.packets().lines_with("undionly.kpxe");
    ensure!(!asked.is_empty(), "it never asked for undionly.kpxe");
    let started = asked.iter().filter(|line| line.contains("RRQ")).count();
    // C27: a ROM may ask for the size first.
    ensure!(started <= 2, "it went in a circle: {asked:?}");
    Ok(())
}

/// Somebody else's kernel and initrd, with their own arguments: no machine of ours comes out of it.
fn installer(story: &Story) -> Result<()> {
    let from = Path::new(INSTALLER);
    let toml = story.logs().join("boot.toml");
    std::fs::write(&toml, INSTALLER_TOML)?;
    let settings = BESIDE_A_ROUTER
        .settings()
        .config(INSTALL)
        .file("debian/x86_64/linux", from.join("linux"))
        .file("debian/x86_64/initrd.gz", from.join("initrd.gz"))
        .file("debian/x86_64/boot.toml", toml);
    let scenery = Scenery::with(story, BESIDE_A_ROUTER, &settings)?;
    let spec = Spec {
        memory_mib: INSTALLER_MIB,
        ..Spec::new(Firmware::BiosNetwork)
    };
    let machine = story.boot(&scenery.lan, "a", 1, &spec)?;
    // Line by line, which is what its arguments ask for.
    machine.wait_for_unless("Entering low memory mode", FRUITLESS, INSTALLER_LIMIT)?;
    Ok(())
}

/// C53: told so by command, the boot server hands the machine on to its disk, in the way its firmware takes.
fn local_disk(story: &Story) -> Result<()> {
    let images = story.images()?;
    let scenery = Scenery::new(story, BESIDE_A_ROUTER)?;
    scenery
        .provider
        .clients(&["local", &qemu_tests::lan::mac(1)])?;
    let disk = Disk::new(images.path("phase.img"), Bus::Sata);
    let spec = Spec::new(Firmware::BiosNetwork).disk(disk);
    let machine = story.boot(&scenery.lan, "a", 1, &spec)?;
    machine.wait_for_unless("phase: init ", FRUITLESS, FIRMWARE_LIMIT)?;
    let line = machine.wait_for("phase: mounted", BOOT_LIMIT)?;
    ensure!(
        line.text.contains("from disk"),
        "it did not boot from its disk: {}",
        line.text
    );
    // What came before was an answer, not silence: that would cost a whole ladder of retries (C17).
    let said = scenery.provider.log();
    said.wait_for_anywhere("local disk: it boots from its disk", BOOT_LIMIT)?;
    Ok(())
}

/// Two channels are two lines of a menu, and a key chooses the second.
fn menu(story: &Story) -> Result<()> {
    let images = story.images()?;
    let toml = story.logs().join("boot.toml");
    std::fs::write(&toml, RESCUE_TOML)?;
    let settings = BESIDE_A_ROUTER
        .settings()
        .config(MENU)
        .file("rescue/x86_64/vmlinuz", images.path("vmlinuz"))
        .file("rescue/x86_64/initramfs.img", images.path("initramfs.img"))
        .file("rescue/x86_64/boot.toml", toml);
    let scenery = Scenery::with(story, BESIDE_A_ROUTER, &settings)?;
    let machine = story.boot(&scenery.lan, "a", 1, &Spec::new(Firmware::BiosNetwork))?;
    // The script is fetched; keys wait in the BIOS until the menu reads them.
    scenery.recorder.wait_for(
        &format!("{}.8080: Flags [S]", scenery.provider.station().address),
        FIRMWARE_LIMIT,
    )?;
    for key in ["down", "ret"] {
        let keys = [json!({ "type": "qcode", "data": key })];
        machine.qmp("send-key", json!({ "keys": keys }))?;
    }
    let line = machine.wait_for_unless("Command line:", FRUITLESS, FIRMWARE_LIMIT)?;
    ensure!(
        line.text.contains("chosen.by=hand"),
        "another entry was booted: {}",
        line.text
    );
    ensure!(
        machine.said("Rescue by hand")?,
        "the menu does not show the title of the other channel"
    );
    Ok(())
}

/// From power-on: an appliance that serves is the boot server, without a setting, of the next one, and that
/// one of the third, when the first is switched off.
fn the_loop(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan_with(BESIDE_A_ROUTER.lan())?;
    let recorder = Recorder::start(&lan)?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    let at_a = a.wait_until_serving(BOOT_LIMIT)?;
    let b = story.boot(&lan, "b", 2, &Spec::new(Firmware::BiosNetwork))?;
    let at_b = becomes_a_provider(story, &b, FROM_AN_APPLIANCE, BESIDE_A_ROUTER.column)?;
    ensure!(
        at_b.manifest == at_a.manifest,
        "B serves another manifest than A"
    );
    a.kill();
    let c = story.boot(&lan, "c", 3, &Spec::new(Firmware::BiosNetwork))?;
    c.wait_for_unless("phase: init ", FRUITLESS, FIRMWARE_LIMIT)?;
    let at_c = c.wait_until_serving(2 * BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at_c)?;
    recorder.wait_for(
        &format!("{}.67 > 255.255.255.255.68", b.address()),
        BOOT_LIMIT,
    )?;
    Ok(())
}
