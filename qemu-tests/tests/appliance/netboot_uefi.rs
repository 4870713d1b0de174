//! UEFI machines that boot from the network: by PXE and by HTTP, over IPv4 and IPv6, through iPXE where a profile asks for
//! it; and what 64-bit Arm firmware fetches.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::efi;
use qemu_tests::firmware::Stack;
use qemu_tests::story::{Needs, Scene};
use qemu_tests::{Firmware, Machine, Spec, Story};

use crate::netboot::{
    ALONE, ALONE_WITH_IPV6, AT_PORT_4011, BEHIND_A_RELAY, BESIDE_A_ROUTER, BESIDE_AN_IPV6_ROUTER,
    FIRMWARE_LIMIT, Place, Scenery, is_known_to_serve,
};
use crate::scene;

pub(crate) const SCENES: &[Scene] = &[
    uefi("uefi_pxe_boots_beside_a_router", |story| {
        pxe(story, BESIDE_A_ROUTER)
    }),
    uefi("uefi_pxe_boots_without_another_dhcp_server", |story| {
        pxe(story, ALONE)
    }),
    uefi("uefi_pxe_boots_behind_a_relay", |story| {
        pxe(story, BEHIND_A_RELAY)
    }),
    uefi("uefi_pxe_boots_by_port_4011", |story| {
        pxe(story, AT_PORT_4011)
    }),
    uefi("uefi_http_boots_beside_a_router", |story| {
        http(story, BESIDE_A_ROUTER)
    }),
    uefi("uefi_http_boots_without_another_dhcp_server", |story| {
        http(story, ALONE)
    }),
    uefi("uefi_http_boots_behind_a_relay", |story| {
        http(story, BEHIND_A_RELAY)
    }),
    uefi("uefi_http_knows_no_port_4011", http_asks_once),
    uefi("uefi_boots_through_ipxe_beside_a_router", |story| {
        through_ipxe(story, BESIDE_A_ROUTER)
    }),
    uefi(
        "uefi_boots_through_ipxe_without_another_dhcp_server",
        |story| through_ipxe(story, ALONE),
    ),
    uefi("uefi_boots_through_ipxe_behind_a_relay", |story| {
        through_ipxe(story, BEHIND_A_RELAY)
    }),
    uefi("uefi_boots_through_ipxe_by_port_4011", |story| {
        through_ipxe(story, AT_PORT_4011)
    }),
    uefi("uefi_pxe_boots_over_ipv6_beside_a_router", pxe_over_ipv6),
    uefi(
        "uefi_pxe_boots_over_ipv6_without_another_dhcp_server",
        pxe_over_ipv6_alone,
    ),
    uefi("uefi_http_boots_over_ipv6_beside_a_router", http_over_ipv6),
    Scene {
        needs: Needs::ImagesAndArm,
        ..scene("arm_firmware_fetches_its_own_file_by_tftp", 200, arm_pxe)
    },
    Scene {
        needs: Needs::ImagesAndArm,
        ..scene("arm_firmware_fetches_its_own_file_by_http", 200, arm_http)
    },
];

/// Until what was on the wire is in the recording.
const RECORDING_LIMIT: Duration = Duration::from_secs(10);

/// The rows of the README's table.
const PXE: &str = "UEFI PXE, one file by TFTP";
const HTTP: &str = "UEFI HTTP boot";
const THROUGH_IPXE: &str = "UEFI PXE, then snponly.efi";
const PXE_OVER_IPV6: &str = "UEFI PXE over IPv6";
const HTTP_OVER_IPV6: &str = "UEFI HTTP boot over IPv6";

const fn uefi(name: &'static str, play: fn(&Story) -> Result<()>) -> Scene {
    Scene {
        needs: Needs::ImagesAndUefi,
        ..scene(name, 300, play)
    }
}

fn booted(
    story: &Story,
    scenery: &Scenery,
    row: &'static str,
    place: Place,
    stack: Stack,
) -> Result<Machine> {
    let spec = Spec::new(Firmware::UefiNetwork(stack));
    let machine = scenery.serves_in_the_end(story, row, place.column, &spec)?;
    is_known_to_serve(scenery, 1)?;
    Ok(machine)
}

/// C3, C9, C26, C27: the UKI is the only file by TFTP; the rest comes by HTTP, inside Linux.
fn pxe(story: &Story, place: Place) -> Result<()> {
    let scenery = Scenery::new(story, place)?;
    booted(story, &scenery, PXE, place, Stack::Pxe4)?;
    fetched_only(&scenery, "phase.efi")
}

/// Every request by TFTP is for the file `name`.
fn fetched_only(scenery: &Scenery, name: &str) -> Result<()> {
    // What the recorder saw is printed up to a second later.
    scenery.recorder.wait_for("RRQ", RECORDING_LIMIT)?;
    let requests = scenery.recorder.packets().lines_with("RRQ");
    let is_it = |line: &String| line.contains(name);
    ensure!(requests.iter().all(is_it), "more was fetched: {requests:?}");
    Ok(())
}

/// C2, C34, C35, C38, C39: an offer marked HTTPClient with an address as digits; HEAD and GET on one connection.
fn http(story: &Story, place: Place) -> Result<()> {
    let scenery = Scenery::new(story, place)?;
    let spec = Spec::new(Firmware::UefiNetwork(Stack::Http4));
    let machine = story.boot(&scenery.lan, "a", 1, &spec)?;
    machine.wait_for("Downloading...", FIRMWARE_LIMIT)?;
    connected_once(&scenery, "8080")?;
    scenery.goes_on(story, &machine, HTTP, place.column)?;
    is_known_to_serve(&scenery, 1)?;
    let requests = scenery.recorder.packets().lines_with("RRQ");
    ensure!(requests.is_empty(), "something came by TFTP: {requests:?}");
    Ok(())
}

/// The firmware, which is all that runs so far, opened one connection to this port.
fn connected_once(scenery: &Scenery, port: &str) -> Result<()> {
    scenery
        .recorder
        .wait_for(&format!(".{port}: Flags [S],"), RECORDING_LIMIT)?;
    let begun = scenery.recorder.packets().lines_with("Flags [S],");
    let to_port: Vec<_> = begun
        .iter()
        .filter(|line| line.contains(&format!(".{port}: Flags")))
        .collect();
    ensure!(
        to_port.len() == 1,
        "not one connection for HEAD and GET: {to_port:?}"
    );
    Ok(())
}

/// UEFI HTTP boot has no second question: what is not in an offer at port 67 never reaches it, so port 4011 alone cannot
/// boot it. It gets the LAN's offer, and asks again for a better one (C17).
fn http_asks_once(story: &Story) -> Result<()> {
    let scenery = Scenery::new(story, AT_PORT_4011)?;
    let spec = Spec::new(Firmware::UefiNetwork(Stack::Http4));
    let _machine = story.boot(&scenery.lan, "a", 1, &spec)?;
    for _ in 0..2 {
        scenery
            .lan
            .dhcp()?
            .wait_for("DHCPDISCOVER", FIRMWARE_LIMIT)?;
    }
    let asked = scenery.recorder.packets().lines_with(".4011");
    ensure!(asked.is_empty(), "it does ask at port 4011: {asked:?}");
    story.note("the firmware walks its ladder of questions, and port 4011 is not on it");
    Ok(())
}

/// C14, C52: a profile asks for iPXE with the firmware's driver, which then gets the script, once.
fn through_ipxe(story: &Story, place: Place) -> Result<()> {
    let profile = format!(
        "[machine.\"{}\"]\nloader = \"snponly\"\n",
        qemu_tests::lan::mac(1)
    );
    let scenery = Scenery::with(story, place, &place.settings().config(profile))?;
    booted(story, &scenery, THROUGH_IPXE, place, Stack::Pxe4)?;
    fetched_only(&scenery, "snponly.efi")
}

/// C24: beside the router's DHCPv6 server, an ADVERTISE without an address and an answer at port 4011.
fn pxe_over_ipv6(story: &Story) -> Result<()> {
    let place = BESIDE_AN_IPV6_ROUTER;
    let scenery = Scenery::new(story, place)?;
    booted(story, &scenery, PXE_OVER_IPV6, place, Stack::Pxe6)?;
    let asked = scenery.recorder.packets().lines_with("fd77::2.4011");
    ensure!(!asked.is_empty(), "it never asked at port 4011");
    let requests = scenery.recorder.packets().lines_with("RRQ");
    let over_ipv6 = |line: &String| line.contains("fd77::");
    ensure!(
        !requests.is_empty() && requests.iter().all(over_ipv6),
        "TFTP was not over IPv6: {requests:?}"
    );
    Ok(())
}

/// C24: the address comes from us too.
fn pxe_over_ipv6_alone(story: &Story) -> Result<()> {
    let place = ALONE_WITH_IPV6;
    let scenery = Scenery::new(story, place)?;
    booted(story, &scenery, PXE_OVER_IPV6, place, Stack::Pxe6)?;
    Ok(())
}

/// C24, C39: the address of the URL stands in brackets.
fn http_over_ipv6(story: &Story) -> Result<()> {
    let place = BESIDE_AN_IPV6_ROUTER;
    let scenery = Scenery::new(story, place)?;
    let spec = Spec::new(Firmware::UefiNetwork(Stack::Http6));
    let machine = story.boot(&scenery.lan, "a", 1, &spec)?;
    machine.wait_for("URI: http://[fd77::2]:8080/", FIRMWARE_LIMIT)?;
    scenery.goes_on(story, &machine, HTTP_OVER_IPV6, place.column)
}

/// Architecture 11 (C12): its own file of its own folder, and no other.
fn arm_pxe(story: &Story) -> Result<()> {
    let scenery = arm(story)?;
    let machine = arm_starts(story, &scenery, Stack::Pxe4)?;
    fetched_only(&scenery, "aarch64")?;
    ensure!(machine.said("Start PXE over IPv4")?, "it booted otherwise");
    Ok(())
}

/// Architecture 19.
fn arm_http(story: &Story) -> Result<()> {
    let scenery = arm(story)?;
    let machine = arm_starts(story, &scenery, Stack::Http4)?;
    ensure!(
        machine.said("/aarch64/phase.efi")?,
        "another file was fetched"
    );
    Ok(())
}

/// A boot server that has a boot file for Arm beside the images of this machine.
fn arm(story: &Story) -> Result<Scenery> {
    let place = BESIDE_A_ROUTER;
    let program = story.logs().join("arm.efi");
    std::fs::write(&program, efi::arm_program())?;
    let channel = story.images()?.manifest()?.channel;
    let settings = place
        .settings()
        .file(format!("{channel}/aarch64/phase.efi"), program);
    Scenery::with(story, place, &settings)
}

fn arm_starts(story: &Story, scenery: &Scenery, stack: Stack) -> Result<Machine> {
    let spec = Spec::new(Firmware::ArmNetwork(stack));
    let machine = story.boot(&scenery.lan, "arm", 1, &spec)?;
    machine.wait_for(efi::ARM_SAYS, FIRMWARE_LIMIT)?;
    Ok(machine)
}
