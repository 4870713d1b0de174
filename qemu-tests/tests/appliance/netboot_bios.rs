//! BIOS machines that boot from the network: by the iPXE in their card, and by the iPXE that plasmd gives
//! them.

use anyhow::{Result, ensure};
use qemu_tests::story::Scene;
use qemu_tests::{Firmware, Spec, Story};

use crate::netboot::{
    ALONE, AT_PORT_4011, BEHIND_A_RELAY, BESIDE_A_ROUTER, Place, Scenery, is_known_to_serve,
};
use crate::scene;

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
];

/// The row of the README's table.
const IPXE_IN_THE_CARD: &str = "BIOS, iPXE in the card";
const PLAIN_ROM: &str = "BIOS, PXE in the card, then undionly.kpxe";

/// C13 to C15: an iPXE that can fetch by HTTP gets the script at once, and no other iPXE first.
fn ipxe_in_the_card(story: &Story, place: Place) -> Result<()> {
    let scenery = Scenery::new(story, place)?;
    scenery.serves_in_the_end(
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
    scenery.serves_in_the_end(story, PLAIN_ROM, place.column, &spec)?;
    let asked = scenery.recorder.packets().lines_with("undionly.kpxe");
    ensure!(!asked.is_empty(), "it never asked for undionly.kpxe");
    let started = asked.iter().filter(|line| line.contains("RRQ")).count();
    // C27: a ROM may ask for the size first.
    ensure!(started <= 2, "it went in a circle: {asked:?}");
    Ok(())
}
