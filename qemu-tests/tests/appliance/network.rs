//! Networks as they are: without a DHCP server, with short leases, with two cards, with IPv6.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::lan::{Dhcp, LanSpec, address};
use qemu_tests::story::Scene;
use qemu_tests::{Spec, Story};

use crate::people::{serves_the_signed_manifest, with_disk};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene(
        "without_a_dhcp_server_it_serves_at_a_link_local_address",
        90,
        link_local,
    ),
    scene("a_lease_is_renewed", 90, renewal),
    scene("an_address_that_is_taken_is_declined", 90, conflict),
    scene("a_pulled_cable_is_survived", 90, cable),
    scene("two_cards_both_serve", 60, two_cards),
    scene("ipv6_by_router_advertisement_serves", 60, ipv6),
];

fn link_local(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan_with(LanSpec {
        dhcp: Dhcp::Nobody,
        ..LanSpec::default()
    })?;
    lan.add_address("169.254.1.1/16")?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    ensure!(
        at.url.starts_with("http://169.254."),
        "it serves at {}",
        at.url
    );
    serves_the_signed_manifest(&lan, images, &at)
}

/// The server asks for a renewal every few seconds; the address stays and serving goes on.
fn renewal(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan_with(LanSpec {
        renew_after_s: Some(5),
        ..LanSpec::default()
    })?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    let acknowledged = format!("DHCPACK(br0) {}", a.address());
    let discovers = || {
        lan.dhcp()
            .map(|log| log.lines_with("DHCPDISCOVER(br0)").len())
    };
    lan.dhcp()?.wait_for(&acknowledged, BOOT_LIMIT)?;
    let before = discovers()?;
    for which in ["first", "second"] {
        lan.dhcp()?
            .wait_for(&acknowledged, Duration::from_secs(30))?;
        story.note(format!("the DHCP server acknowledges the {which} renewal"));
    }
    let after = discovers()?;
    ensure!(
        before == after,
        "a renewal must not start over: {before} and then {after} discovers"
    );
    serves_the_signed_manifest(&lan, images, &at)
}

fn two_cards(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let a = story.boot(
        &lan,
        "a",
        1,
        &Spec {
            cards: 2,
            ..with_disk(images, "")
        },
    )?;
    let mut at = a.wait_until_serving(BOOT_LIMIT)?;
    for card in [1, 2] {
        lan.dhcp()?
            .wait_for_anywhere(&format!("DHCPACK(br0) {}", address(card)), BOOT_LIMIT)?;
        at.url = format!("http://{}:8080", address(card));
        lan.get_eventually(&format!("{}/manifest.json", at.url), BOOT_LIMIT)?;
        serves_the_signed_manifest(&lan, images, &at)?;
        story.note(format!("card {card} serves"));
    }
    Ok(())
}

fn ipv6(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan_with(LanSpec {
        dhcp: Dhcp::Nobody,
        router: true,
        ..LanSpec::default()
    })?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    let line = a.wait_for("serving   http://[fd77:", BOOT_LIMIT)?;
    let url = line
        .text
        .split_whitespace()
        .find(|word| word.starts_with("http://"));
    let served = lan.get_eventually(url.context("no URL")?, BOOT_LIMIT)?;
    ensure!(
        served == images.bytes("manifest.json")?,
        "the served manifest is not the signed one"
    );
    Ok(())
}

/// Somebody has the address that the server offers: the machine must find out, say so, and take another.
fn conflict(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    lan.add_neighbour(&format!("{}/24", address(1)))?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    lan.dhcp()?
        .wait_for(&format!("DHCPDECLINE(br0) {}", address(1)), BOOT_LIMIT)?;
    story.note("the machine declines an address that somebody has");
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    ensure!(
        at.url != format!("http://{}:8080", address(1)),
        "it took the address all the same"
    );
    serves_the_signed_manifest(&lan, images, &at)
}

fn cable(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, ""))?;
    let at = a.wait_until_serving(BOOT_LIMIT)?;
    a.qmp(
        "set_link",
        serde_json::json!({ "name": "net0", "up": false }),
    )?;
    ensure!(
        !lan.answers(&a.address(), 8080)?,
        "it answers without a cable"
    );
    story.note("the cable is pulled, and plugged in again");
    a.qmp(
        "set_link",
        serde_json::json!({ "name": "net0", "up": true }),
    )?;
    lan.get_eventually(&format!("{}/manifest.json", at.url), BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)
}
