//! The harness itself, where no image is needed: LANs are private and go away, wires can be pulled,
//! machines switch off and die, and a failed wait says what the console said.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use qemu_tests::hostile::{Answer, Answers, Provider};
use qemu_tests::lan::{Dhcp, LanSpec};
use qemu_tests::story::{Needs, Scene, check, run};
use qemu_tests::{Firmware, Lan, Machine, Recorder, Spec, Story};

/// Firmware on a busy machine under emulation.
const LIMIT: Duration = Duration::from_secs(50);

fn main() -> ExitCode {
    let scene = |name, play| Scene {
        name,
        limit: Duration::from_secs(60),
        needs: Needs::Lan,
        play,
    };
    run(&[
        scene(
            "a_lan_reaches_its_own_and_goes_away",
            a_lan_reaches_its_own_and_goes_away,
        ),
        scene(
            "a_machine_without_anything_to_boot_can_be_ended",
            a_bare_machine_can_be_ended,
        ),
        scene("a_relay_stands_between_firmware_and_its_address", |story| {
            firmware_gets_an_address(story, Dhcp::BehindRelay, "10.77.0.1.67 > 10.78.0.2.67")
        }),
        scene("a_dhcp_server_sends_firmware_to_port_4011", |story| {
            firmware_gets_an_address(story, Dhcp::BesideBootServer, "10.77.0.2.4011")
        }),
        Scene {
            limit: Duration::from_secs(2),
            ..scene("a_late_story_is_stopped", a_late_story)
        },
    ])
}

fn a_lan_reaches_its_own_and_goes_away(story: &Story) -> Result<()> {
    let lan = story.lan_with(LanSpec {
        router: true,
        ..LanSpec::default()
    })?;
    let answers = Answers::from([("/hello".to_owned(), Answer::bytes(*b"hello"))]);
    let provider = Provider::serve(&lan, 8000, answers)?;
    let got = lan.get(&format!("{}/hello", provider.url()))?;
    check(got == b"hello", || format!("got {got:?}"))?;
    check(provider.asked() == ["GET /hello HTTP/1.1"], || {
        format!("{:?}", provider.asked())
    })?;
    check(!lan.answers(qemu_tests::lan::HOST, 8001)?, || {
        "something answers on 8001".to_owned()
    })?;
    story.note("a provider on the LAN answers, and only where it listens");

    let routes = lan.run(["ip", "route", "show", "default"])?;
    check(routes.stdout.is_empty(), || {
        "the LAN has a way out".to_owned()
    })?;

    let place = Path::new("/run/netns").join(lan.name());
    check(place.exists(), || format!("{} is missing", place.display()))?;
    drop(provider);
    drop(lan);
    check(!place.exists(), || format!("{} stays", place.display()))?;
    story.note("nothing of the LAN is left");
    Ok(())
}

fn bare(story: &Story, lan: &Lan) -> Result<Machine> {
    let nothing = story.logs().join("nothing");
    std::fs::write(&nothing, [0; 1024])?;
    let firmware = Firmware::Bios;
    let disk = qemu_tests::Disk::new(&nothing, qemu_tests::firmware::Bus::Virtio);
    story.boot(lan, "bare", 1, &Spec::new(firmware).disk(disk))
}

fn a_bare_machine_can_be_ended(story: &Story) -> Result<()> {
    let lan = story.lan()?;
    let machine = bare(story, &lan)?;
    let vain = machine.wait_for("phase: serving", Duration::from_millis(500));
    let text = vain
        .err()
        .map_or_else(String::new, |error| format!("{error:#}"));
    check(text.contains("no `phase: serving` within"), || {
        format!("the wait says: {text}")
    })?;
    machine.qmp("quit", serde_json::json!({}))?;
    let why = machine.wait_for_end(Duration::from_secs(10))?;
    check(why == "host-qmp-quit", || format!("ended by {why}"))?;
    bare(story, &lan)?.kill();
    Ok(())
}

/// The card's ROM takes its address from the server that stands as the LAN says, and the boot server's host
/// would be asked in this way.
fn firmware_gets_an_address(story: &Story, dhcp: Dhcp, asked: &str) -> Result<()> {
    let lan = story.lan_with(LanSpec {
        dhcp,
        ..LanSpec::default()
    })?;
    let recorder = if dhcp == Dhcp::BehindRelay {
        Recorder::behind_relay(&lan)?
    } else {
        Recorder::start(&lan)?
    };
    lan.boot_server()?;
    let machine = story.boot(&lan, "a", 1, &Spec::new(Firmware::BiosNetwork))?;
    lan.dhcp()?
        .wait_for(&format!("DHCPACK(eth0) {}", machine.address()), LIMIT)?;
    recorder.wait_for(asked, LIMIT)?;
    story.note("the ROM has its address, and asks the boot server's host");
    Ok(())
}

fn a_late_story(story: &Story) -> Result<()> {
    let lan = story.lan()?;
    let machine = bare(story, &lan)?;
    // Ends by the story's limit of two seconds, long before its own.
    let ended = machine.wait_for_end(Duration::from_secs(50))?;
    check(ended == "gone", || format!("ended by {ended}"))
}
