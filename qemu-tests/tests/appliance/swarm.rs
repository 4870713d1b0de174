//! Machines that find each other, and go on when somebody they fetch from lies or is gone.

use std::net::TcpListener;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use boot_manifest::SecretKey;
use qemu_tests::hostile::{self, Answer};
use qemu_tests::lan::{HOST, LanSpec};
use qemu_tests::provider::Settings;
use qemu_tests::rogue::{announcement, announcement_with, nonsense};
use qemu_tests::story::Scene;
use qemu_tests::variant::{honest, replace, signed_anew};
use qemu_tests::{Provider, Recorder, Rogue, Story};

use crate::people::{netbooted, serves_the_signed_manifest, with_disk};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene(
        "another_provider_takes_over_from_one_that_loses_power",
        150,
        another_takes_over,
    ),
    scene(
        "rogue_announcements_do_not_keep_a_machine_from_booting",
        150,
        rogue_announcements,
    ),
];

/// A machine's line while something is to happen before it has everything: the image takes five seconds.
const LINE_MBIT: u32 = 32;
/// The host's address as bytes.
const HOST_BYTES: [u8; 4] = [10, 77, 0, 1];
/// Addresses that rogues announce and nobody has.
const SILENT: Range<u8> = 120..250;
/// Ports of the host that take connections and never answer.
const PITS: Range<u16> = 9_000..9_060;

/// A and C announce the same image; A's plug is pulled while B fetches from both.
fn another_takes_over(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan_with(LanSpec::default())?;
    let c = Provider::start(&lan, images, &Settings::flags(&["--dhcp", "off"]))?;
    let a = story.boot(&lan, "a", 1, &with_disk(images, "phase.dhcp=off"))?;
    a.wait_until_serving(BOOT_LIMIT)?;
    let recorder = Recorder::start(&lan)?;
    let b = story.boot(&lan, "b", 2, &netbooted(images, "phase.reboot_wait=600"))?;
    lan.slow_down(&b.taps()[0], LINE_MBIT)?;
    b.wait_for("phase: looking for a provider on the network", BOOT_LIMIT)?;
    b.wait_for("phase: fetching kernel", BOOT_LIMIT)?;
    for provider in [&a.address(), &c.station().address] {
        recorder
            .packets()
            .wait_for_anywhere(&format!(" > {provider}.8080: Flags [S]"), BOOT_LIMIT)?;
    }
    a.kill();
    b.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    let at = b.wait_until_serving(BOOT_LIMIT)?;
    serves_the_signed_manifest(&lan, images, &at)
}

/// Floods, packets that are no DNS, addresses that nobody has or may not have, and providers that lie: the honest one
/// among them is found.
fn rogue_announcements(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let stranger = signed_anew(images, &SecretKey::from_seed([7; 32]), |_| {})?;
    let signed = images.bytes("manifest.json")?;
    let silent = Answer::Stall {
        bytes: signed.into(),
        at: 10,
    };
    let lies = [
        Answer::bytes(stranger),
        silent,
        Answer::Endless(Vec::new().into()),
        Answer::Elsewhere(format!("http://{HOST}:1/manifest.json")),
    ];
    let mut liars = Vec::new();
    let mut packets = nonsense();
    for (port, lie) in (8081_u16..).zip(lies) {
        let mut answers = honest(images)?;
        replace(&mut answers, "manifest.json", |_| lie)?;
        liars.push(hostile::Provider::serve(&lan, port, answers)?);
        packets.push(announcement(&format!("liar-{port}"), HOST_BYTES, port));
    }
    for last in SILENT {
        packets.push(announcement(
            &format!("silent-{last}"),
            [10, 77, 0, last],
            8080,
        ));
    }
    // Their connections open, and then nothing comes.
    let pits = lan.inside(|| {
        let bind = |port| TcpListener::bind((HOST, port));
        PITS.map(bind).collect::<std::io::Result<Vec<_>>>()
    })?;
    for port in PITS {
        packets.push(announcement(&format!("pit-{port}"), HOST_BYTES, port));
    }
    let nowhere = [
        [127, 0, 0, 1],
        [0; 4],
        [224, 0, 0, 251],
        [255; 4],
        [240, 0, 0, 1],
    ];
    for address in nowhere {
        let name = format!("nowhere-{}", address[0]);
        packets.push(announcement(&name, address, 8080));
    }
    let odd = [
        ("channel", "../../etc"),
        ("arch", "vax"),
        ("http_port", "-1"),
    ];
    packets.push(announcement_with("odd", HOST_BYTES, 8081, &odd));
    let _rogue = Rogue::shout(&lan, packets)?;
    let provider = Provider::start(&lan, images, &Settings::flags(&["--dhcp", "off"]))?;
    story.note(format!(
        "{} is honest, among 200 who are not",
        provider.url()
    ));
    let machine = story.boot(&lan, "b", 1, &netbooted(images, "phase.reboot_wait=600"))?;
    machine.wait_for("phase: looking for a provider on the network", BOOT_LIMIT)?;
    machine.wait_for(
        "phase: kexec into sha256:",
        BOOT_LIMIT + Duration::from_secs(30),
    )?;
    let at = machine.wait_until_serving(BOOT_LIMIT)?;
    let asked = liars.iter().any(|liar| !liar.asked().is_empty());
    let fell = pits.iter().any(|pit| {
        // Nobody took what came, so it waits still.
        pit.set_nonblocking(true)
            .is_ok_and(|()| pit.accept().is_ok())
    });
    ensure!(
        asked || fell,
        "nobody was asked who lies: they were not heard"
    );
    serves_the_signed_manifest(&lan, images, &at)
}
