//! PID 1 believes nobody, and outlives everybody. Here its program was taken over: it hands over, with all
//! seals and in the right form, whatever the attacker likes, or it dies at once. PID 1 must find out by
//! itself, and go on.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use boot_manifest::SecretKey;
use qemu_tests::firmware::Bus;
use qemu_tests::story::Scene;
use qemu_tests::variant::{flipped, overlaid, signed_anew};
use qemu_tests::{Disk, Firmware, Images, Lan, Machine, Spec, Story};

use crate::{BOOT_LIMIT, CONSOLE, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene("init_boots_what_was_handed_over_honestly", 90, honest),
    scene(
        "init_refuses_a_kernel_that_was_handed_over_changed",
        60,
        kernel,
    ),
    scene(
        "init_refuses_a_squashfs_that_was_handed_over_changed",
        60,
        squashfs,
    ),
    scene(
        "init_refuses_a_manifest_of_a_stranger_that_was_handed_over",
        60,
        stranger,
    ),
    scene("init_refuses_files_that_can_still_be_changed", 60, unsealed),
    scene("a_program_that_crashes_is_started_again", 60, crashes),
    scene("a_program_that_was_taken_over_is_locked_in", 60, locked_in),
];

/// The program that lies, built beside this test.
const LIAR: &str = env!("CARGO_BIN_EXE_lying-plasmd");

/// What the liar hands over: the four files, and which of them it leaves unsealed.
struct Lies {
    manifest: Vec<u8>,
    kernel: Vec<u8>,
    rootfs: Vec<u8>,
    unsealed: Option<&'static str>,
}

impl Lies {
    fn none(images: &Images) -> Result<Self> {
        Ok(Self {
            manifest: images.bytes("manifest.json")?,
            kernel: images.bytes("vmlinuz")?,
            rootfs: images.bytes("rootfs.squashfs")?,
            unsealed: None,
        })
    }
}

fn boot(story: &Story, lan: &Lan, lies: &Lies) -> Result<Machine> {
    let images = story.images()?;
    let initramfs = images.bytes("initramfs.img")?;
    let mut files: Vec<(&str, u32, &[u8])> = vec![
        ("lies/manifest", 0o644, &lies.manifest),
        ("lies/kernel", 0o644, &lies.kernel),
        ("lies/initramfs", 0o644, &initramfs),
        ("lies/rootfs", 0o644, &lies.rootfs),
    ];
    let unsealed = lies.unsealed.map(|name| format!("lies/{name}.unsealed"));
    files.extend(unsealed.iter().map(|name| (name.as_str(), 0o644, &[][..])));
    let scratch = tempfile::tempdir()?;
    let words = "phase.source=provider phase.provider=http://liar phase.reboot_wait=600";
    // The lies are in memory twice.
    let spec = Spec {
        memory_mib: 512,
        ..taken_over(images, words, &files, scratch.path())?
    };
    story.boot(lan, "b", 1, &spec)
}

/// A machine whose `plasmd` is the liar, with its lies beside it.
fn taken_over(
    images: &Images,
    words: &str,
    files: &[(&str, u32, &[u8])],
    scratch: &Path,
) -> Result<Spec> {
    let liar = fs::read(LIAR)?;
    let mut files = files.to_vec();
    files.push(("bin/plasmd", 0o755, &liar));
    let initrd = overlaid(
        &images.path("initramfs.img"),
        &files,
        scratch.join("initrd"),
    )?;
    let append = format!("{CONSOLE} {words}");
    Ok(Spec::new(Firmware::Kernel {
        kernel: images.path("vmlinuz"),
        initrd,
        append,
    }))
}

fn must_refuse(story: &Story, code: &str, lies: &Lies) -> Result<()> {
    let lan = story.lan()?;
    boot(story, &lan, lies)?.must_refuse(code, BOOT_LIMIT)
}

/// The control: with nothing but the truth the same program gets the machine booted and serving.
fn honest(story: &Story) -> Result<()> {
    let lan = story.lan()?;
    let b = boot(story, &lan, &Lies::none(story.images()?)?)?;
    b.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    let at = b.wait_until_serving(BOOT_LIMIT)?;
    let served = lan.get(&format!("{}/manifest.json", at.url))?;
    ensure!(
        served == story.images()?.bytes("manifest.json")?,
        "it serves another manifest"
    );
    Ok(())
}

fn kernel(story: &Story) -> Result<()> {
    let truth = Lies::none(story.images()?)?;
    must_refuse(
        story,
        "bad-hash",
        &Lies {
            kernel: flipped(&truth.kernel),
            ..truth
        },
    )
}

fn squashfs(story: &Story) -> Result<()> {
    let truth = Lies::none(story.images()?)?;
    must_refuse(
        story,
        "bad-hash",
        &Lies {
            rootfs: flipped(&truth.rootfs),
            ..truth
        },
    )
}

fn stranger(story: &Story) -> Result<()> {
    let images = story.images()?;
    let manifest = signed_anew(images, &SecretKey::from_seed([7; 32]), |_| {})?;
    must_refuse(
        story,
        "unknown-key",
        &Lies {
            manifest,
            ..Lies::none(images)?
        },
    )
}

fn unsealed(story: &Story) -> Result<()> {
    let lies = Lies {
        unsealed: Some("rootfs"),
        ..Lies::none(story.images()?)?
    };
    must_refuse(story, "not-sealed", &lies)
}

/// Killed by a signal again and again: started again each time, after growing pauses, and PID 1 goes on.
fn crashes(story: &Story) -> Result<()> {
    let lan = story.lan()?;
    let a = with_disk_taken_over(story, &lan, "lies/crash")?;
    for pause in ["0.5", "1.0", "2.0"] {
        let text =
            format!("serve was ended by signal 6 (status 134); it starts again in {pause} s");
        a.wait_for(&text, BOOT_LIMIT)?;
    }
    a.power_off(BOOT_LIMIT)
}

/// Every role tries to break out; the kernel must say no each time.
fn locked_in(story: &Story) -> Result<()> {
    let lan = story.lan()?;
    let a = with_disk_taken_over(story, &lan, "lies/try-everything")?;
    for (role, ways) in [("net", 12), ("serve", 12), ("dht", 11)] {
        let tries = outcomes(story, &a, role)?;
        ensure!(
            tries.len() == ways,
            "{role} tried {} things: {tries:?}",
            tries.len()
        );
    }
    a.kill();
    let scratch = tempfile::tempdir()?;
    let words = "phase.source=provider phase.provider=http://10.77.0.1";
    let files: &[(&str, u32, &[u8])] = &[("lies/try-everything", 0o644, b"")];
    let spec = taken_over(story.images()?, words, files, scratch.path())?;
    let b = story.boot(&lan, "b", 2, &spec)?;
    let tries = outcomes(story, &b, "stage")?;
    ensure!(
        tries.len() == 11,
        "stage tried {} things: {tries:?}",
        tries.len()
    );
    Ok(())
}

/// What came of a role's tries: each must have failed for lack of permission, or because what it wanted cannot
/// even be seen from inside the role. Reaching a peer that refuses would mean that the kernel let it through.
fn outcomes(story: &Story, machine: &Machine, role: &str) -> Result<Vec<String>> {
    machine
        .serial()?
        .wait_for_anywhere(&format!("{role}: tried everything"), BOOT_LIMIT)?;
    let tries = machine.serial()?.lines_with(&format!("{role}: tries to "));
    let is_closed = |line: &&String| {
        [": PermissionDenied", ": NotFound"]
            .iter()
            .any(|end| line.ends_with(end))
    };
    let open: Vec<_> = tries.iter().filter(|line| !is_closed(line)).collect();
    ensure!(open.is_empty(), "not forbidden to {role}: {open:#?}");
    story.note(format!(
        "{role} tried {} ways out, and none is open",
        tries.len()
    ));
    Ok(tries)
}

fn with_disk_taken_over(story: &Story, lan: &Lan, lie: &str) -> Result<Machine> {
    let images = story.images()?;
    let scratch = tempfile::tempdir()?;
    let spec = taken_over(images, "", &[(lie, 0o644, b"")], scratch.path())?;
    let disk = Disk::new(images.path("phase.img"), Bus::Virtio);
    story.boot(lan, "a", 1, &spec.disk(disk))
}
