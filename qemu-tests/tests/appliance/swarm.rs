//! Machines that find each other, and go on when somebody they fetch from lies or is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use boot_manifest::{Digest, SecretKey};
use qemu_tests::hostile::{self, Answer};
use qemu_tests::lan::{HOST, LanSpec};
use qemu_tests::proc::describe;
use qemu_tests::provider::Settings;
use qemu_tests::rogue::{announcement, announcement_with, nonsense};
use qemu_tests::story::Scene;
use qemu_tests::variant::{honest, replace, signed_anew};
use qemu_tests::{Images, Lan, Machine, Provider, Recorder, Rogue, Story};

use crate::people::{from_provider, netbooted, serves_the_signed_manifest, with_disk};
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
    scene(
        "the_table_leads_to_a_provider_where_multicast_is_filtered",
        150,
        by_the_table,
    ),
    scene(
        "machines_that_boot_at_once_go_on_without_their_provider",
        300,
        without_their_provider,
    ),
    scene("lying_peers_cost_time_only", 150, lying_peers),
];

/// A machine's line while something is to happen before it has everything: the image takes five seconds.
const LINE_MBIT: u32 = 32;
/// The host's address as bytes.
const HOST_BYTES: [u8; 4] = [10, 77, 0, 1];
/// The uplink of a provider that several machines fetch from at once.
const UPLINK_MBIT: u32 = 24;
/// The line of each of those machines.
const RACK_LINE_MBIT: u32 = 10;
/// Machines that boot at once.
const RACK: u8 = 3;
/// Until all of the image is somewhere in the rack: half a minute of that uplink, on a busy host.
const UNION_LIMIT: Duration = Duration::from_secs(120);
/// The last numbers of the addresses of peers that lie, nine for the one that does not.
const LIARS: Range<u8> = 60..69;
/// Where peers share.
const PEER_PORT: u16 = 8080;
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
    b.wait_for("phase: fetching image", BOOT_LIMIT)?;
    for provider in [&a.address(), &c.station().address] {
        recorder
            .packets()
            .wait_for_anywhere(&format!(" > {provider}.8080: Flags [S]"), BOOT_LIMIT)?;
    }
    a.kill();
    has_it(&b, BOOT_LIMIT)
}

/// Waits until a machine has everything and its init has verified all of it again; from there on it is the same as in every
/// other boot.
fn has_it(machine: &Machine, limit: Duration) -> Result<()> {
    machine.wait_for("phase: kexec into sha256:", limit)?;
    ensure!(machine.said("image verified")?, "nothing was verified");
    Ok(())
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
    let (mut liars, mut lies_told) = (Vec::new(), Vec::new());
    let mut packets = nonsense();
    for (port, lie) in (8081_u16..).zip(lies) {
        let mut answers = honest(images)?;
        replace(&mut answers, "manifest.json", |_| lie)?;
        liars.push(hostile::Provider::serve(&lan, port, answers)?);
        lies_told.push(announcement(&format!("liar-{port}"), HOST_BYTES, port));
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
    let machine = story.boot(&lan, "b", 1, &netbooted(images, "phase.reboot_wait=600"))?;
    machine.wait_for("phase: looking for a provider on the network", BOOT_LIMIT)?;
    let rogue = Rogue::shout(&lan, lies_told.clone())?;
    // It asks the liars, and says on its screen what is wrong with them.
    machine.wait_for("nothing yet: trying again: ", BOOT_LIMIT)?;
    ensure!(
        liars.iter().any(|liar| !liar.asked().is_empty()),
        "no liar was asked"
    );
    drop(rogue);
    packets.extend(lies_told);
    let _rogue = Rogue::shout(&lan, packets)?;
    let provider = Provider::start(&lan, images, &Settings::flags(&["--dhcp", "off"]))?;
    story.note(format!(
        "{} is honest, among 200 who are not",
        provider.url()
    ));
    has_it(&machine, BOOT_LIMIT + Duration::from_secs(30))?;
    drop(pits);
    Ok(())
}

/// Multicast reaches nobody, no boot server names anybody, and B knows one member of the table in another network. That
/// member has another image; the one B needs is published by A.
fn by_the_table(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan_with(LanSpec {
        elsewhere: true,
        no_multicast: true,
        ..LanSpec::default()
    })?;
    let member = lan.elsewhere(3)?;
    let at = member.address.clone();
    let quiet = ["--dhcp", "off", "--no-mdns"];
    let other = Settings::flags(&[&quiet[..], &["--channel", "beta"]].concat());
    let _member = Provider::start_on(member, &lan, images, &other)?;
    let published = Settings::flags(&["--dhcp", "off", "--bootstrap", &at]);
    let a = Provider::start(&lan, images, &published)?;
    story.note(format!("{} publishes through {at}", a.url()));
    let words = format!("phase.bootstrap={at} phase.reboot_wait=600");
    let b = story.boot(&lan, "b", 1, &netbooted(images, &words))?;
    b.wait_for("found in the distributed table", BOOT_LIMIT)?;
    b.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    let served = b.wait_until_serving(BOOT_LIMIT)?;
    ensure!(
        !b.said("somebody else has the same")?,
        "multicast was not filtered"
    );
    serves_the_signed_manifest(&lan, images, &served)
}

/// A rack boots from one slow provider, which is switched off as soon as the machines together have everything.
fn without_their_provider(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let provider = Provider::start(&lan, images, &Settings::flags(&["--dhcp", "off"]))?;
    lan.slow_down_uplink(provider.station(), UPLINK_MBIT)?;
    let spec = netbooted(images, "phase.dhcp=off phase.reboot_wait=600");
    let names = ["a", "b", "c"];
    let rack: Vec<_> = (1..=RACK)
        .zip(names)
        .map(|(card, name)| story.boot(&lan, name, card, &spec))
        .collect::<Result<_>>()?;
    // So slow that the rack has everything together long before one of them has.
    for machine in &rack {
        lan.slow_down(&machine.taps()[0], RACK_LINE_MBIT)?;
    }
    let digest = Digest::of(&images.bytes("manifest.json")?).to_string();
    together_they_have_everything(&lan, images, &rack, &digest)?;
    drop(provider);
    story.note("the machines have everything together; the provider is switched off");
    // On a busy host one may be done by the time that this is noticed; what counts is that somebody still needs the others.
    let mut done = 0;
    for machine in &rack {
        done += usize::from(machine.said("image verified")?);
    }
    ensure!(
        done < rack.len(),
        "every machine had everything before the provider was switched off"
    );
    rack.iter()
        .try_for_each(|machine| has_it(machine, BOOT_LIMIT * 2))
}

/// Waits until every chunk of what machines need is at one of them; asks all that answer for their maps.
fn together_they_have_everything(
    lan: &Lan,
    images: &Images,
    rack: &[Machine],
    digest: &str,
) -> Result<()> {
    let manifest = images.manifest()?;
    let needed = manifest
        .artifacts
        .iter()
        .filter(|artifact| ["kernel", "initramfs", "rootfs"].contains(&artifact.name.as_str()));
    let needed: Vec<_> = needed
        .map(|artifact| (artifact.digest.to_string(), artifact.chunks.chunk_count()))
        .collect();
    let deadline = Instant::now() + UNION_LIMIT;
    let mut sizes = Vec::new();
    while Instant::now() < deadline {
        // Who went on to its next kernel has nothing for the others any more.
        let mut there: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for machine in rack {
            let url = format!(
                "http://{}:{PEER_PORT}/have?manifest={digest}",
                machine.address()
            );
            let Ok(map) = lan.get(&url) else {
                continue;
            };
            let map: serde_json::Value = serde_json::from_slice(&map)?;
            for (digest, count) in &needed {
                let own = there.entry(digest.clone()).or_default();
                own.extend(chunks_there(&map, digest, *count)?);
            }
        }
        let is_complete = |(digest, count): &(String, usize)| {
            there.get(digest).is_some_and(|own| own.len() == *count)
        };
        if needed.iter().all(is_complete) {
            return Ok(());
        }
        sizes = there.values().map(BTreeSet::len).collect();
    }
    bail!("the machines together have {sizes:?} chunks of {needed:?}")
}

/// The chunks of an artifact that a map says are there: bits in hexadecimal digits, the highest first.
fn chunks_there(map: &serde_json::Value, digest: &str, count: usize) -> Result<Vec<usize>> {
    let rows = map["artifacts"].as_array().into_iter().flatten();
    let Some(row) = rows.into_iter().find(|row| row["digest"] == digest) else {
        return Ok(Vec::new());
    };
    let digits = row["have"].as_str().context("a map without bits")?;
    let digits: Vec<u32> = digits
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    let is_there = |chunk: &usize| {
        let digit = digits.get(chunk / 4).copied().unwrap_or(0);
        digit & (8 >> (chunk % 4)) != 0
    };
    Ok((0..count).filter(is_there).collect())
}

/// Nine of ten that are in the list of peers give wrong bytes, and say that they have everything.
fn lying_peers(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let provider = Provider::start(
        &lan,
        images,
        &Settings::flags(&["--dhcp", "off", "--no-mdns"]),
    )?;
    lan.slow_down_uplink(provider.station(), UPLINK_MBIT)?;
    let digest = Digest::of(&images.bytes("manifest.json")?).to_string();
    let have = format!("/have?manifest={digest}");
    let mut answers = honest(images)?;
    for file in ["vmlinuz", "initramfs.img", "rootfs.squashfs"] {
        replace(&mut answers, file, |bytes| {
            Answer::bytes(bytes.iter().map(|byte| !byte).collect::<Vec<u8>>())
        })?;
    }
    let map = lan.get(&format!("{}{have}", provider.url()))?;
    answers.insert(have, Answer::bytes(map));
    let register = |from: &[&str]| -> Result<()> {
        let url = format!(
            "{}/peers?manifest={digest}&port={PEER_PORT}&complete=true",
            provider.url()
        );
        let curl = ["curl", "-gfsS", "-o", "/dev/null", "-X", "POST", &url];
        let output = lan.run(curl.iter().chain(from))?;
        ensure!(output.status.success(), "{}", describe(&output));
        Ok(())
    };
    let mut liars = Vec::new();
    for last in LIARS {
        let address = format!("10.77.0.{last}");
        lan.add_address(&format!("{address}/24"))?;
        liars.push(hostile::Provider::serve_at(
            &lan,
            &address,
            PEER_PORT,
            answers.clone(),
        )?);
        register(&["--interface", &address])?;
    }
    let b = story.boot(
        &lan,
        "b",
        1,
        &netbooted(images, &from_provider(&provider.url())),
    )?;
    has_it(&b, BOOT_LIMIT * 2)?;
    let lied = liars.iter().filter(|liar| {
        let asked = liar.asked();
        asked.iter().any(|line| line.starts_with("GET /stable/"))
    });
    let lied = lied.count();
    ensure!(lied > 0, "no liar was ever asked for a piece");
    story.note(format!("{lied} of {} liars gave wrong bytes", liars.len()));
    Ok(())
}
