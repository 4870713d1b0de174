//! What a machine does with a provider or a disk that lies: it names the check that failed, and nothing
//! unverified is mounted, served or booted.

use std::time::Duration;

use anyhow::{Result, ensure};
use boot_manifest::SecretKey;
use qemu_tests::firmware::Bus;
use qemu_tests::hostile::{Answer, Answers};
use qemu_tests::story::Scene;
use qemu_tests::variant::{
    damaged_disk, flipped, flipped_behind, honest, overlaid, replace, signed_anew,
};
use qemu_tests::{Disk, Firmware, Images, Story, artifacts};

use crate::people::{from_provider, netbooted, provider};
use crate::{BOOT_LIMIT, CONSOLE, scene};

pub(crate) const SCENES: &[Scene] = &[
    scene("an_honest_provider_is_believed", 90, |story| {
        believes(story)
    }),
    scene("a_provider_that_falls_silent_is_waited_out", 150, |s| {
        waits_out(s, "too-slow", "vmlinuz", silent)
    }),
    scene("a_body_that_is_cut_short_is_waited_out", 90, |s| {
        waits_out(s, "cut-short", "vmlinuz", cut)
    }),
    scene("a_provider_without_the_artifacts_is_waited_out", 90, |s| {
        waits_out(s, "not-found", "initramfs.img", nothing)
    }),
    scene("one_flipped_bit_in_the_kernel_is_refused", 60, |s| {
        refuses(s, "bad-hash", |_, a| flip(a, "vmlinuz"))
    }),
    scene("one_flipped_bit_in_the_initramfs_is_refused", 60, |s| {
        refuses(s, "bad-hash", |_, a| flip(a, "initramfs.img"))
    }),
    scene("one_flipped_bit_in_the_squashfs_is_refused", 60, |s| {
        refuses(s, "bad-hash", |_, a| flip(a, "rootfs.squashfs"))
    }),
    scene(
        "one_flipped_bit_in_the_signed_payload_is_refused",
        60,
        |s| refuses(s, "bad-signature", payload),
    ),
    scene("one_flipped_bit_in_the_signature_is_refused", 60, |s| {
        refuses(s, "bad-signature", signature)
    }),
    scene("a_changed_view_beside_the_payload_is_refused", 60, |s| {
        refuses(s, "view-differs", view)
    }),
    scene("a_manifest_signed_by_a_stranger_is_refused", 60, |s| {
        refuses(s, "unknown-key", stranger)
    }),
    scene("an_expired_manifest_is_refused", 60, |s| {
        refuses(s, "expired", expired)
    }),
    scene("a_manifest_from_the_future_is_refused", 60, |s| {
        refuses(s, "not-yet-valid", future)
    }),
    scene("a_manifest_below_the_floor_is_refused", 60, |s| {
        refuses(s, "version-too-low", too_old)
    }),
    scene("a_manifest_of_another_channel_is_refused", 60, |s| {
        refuses(s, "wrong-channel", channel)
    }),
    scene("a_manifest_that_never_ends_is_refused", 60, |s| {
        refuses(s, "too-large", endless_manifest)
    }),
    scene("a_kernel_that_never_ends_is_refused", 60, |s| {
        refuses(s, "too-large", endless_kernel)
    }),
    scene(
        "a_disk_with_one_flipped_bit_is_refused",
        60,
        damaged_squashfs_on_disk,
    ),
    scene(
        "a_machine_that_trusts_another_key_refuses_the_disk",
        60,
        other_trust_root,
    ),
    scene("a_refused_machine_restarts_after_its_wait", 60, restarts),
];

type Change = fn(&Images, &mut Answers) -> Result<()>;

/// The control: the same provider without a lie. What the other scenes see is due to their change alone.
fn believes(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let provider = provider(&lan, honest(images)?)?;
    let b = story.boot(
        &lan,
        "b",
        1,
        &netbooted(images, &from_provider(provider.url())),
    )?;
    b.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    b.wait_until_serving(BOOT_LIMIT)?;
    Ok(())
}

fn refuses(story: &Story, code: &str, change: Change) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let mut answers = honest(images)?;
    change(images, &mut answers)?;
    let provider = provider(&lan, answers)?;
    let b = story.boot(
        &lan,
        "b",
        1,
        &netbooted(images, &from_provider(provider.url())),
    )?;
    b.must_refuse(code, BOOT_LIMIT)?;
    ensure!(!provider.asked().is_empty(), "the provider was never asked");
    ensure!(
        !lan.answers(&b.address(), 8080)?,
        "it serves in spite of its refusal"
    );
    Ok(())
}

/// What may pass is no reason to give up: the machine says what is wrong, has used nothing until then, and goes
/// on when the provider has come to its senses.
fn waits_out(story: &Story, code: &str, file: &str, change: Change) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let mut answers = honest(images)?;
    change(images, &mut answers)?;
    let provider = provider(&lan, answers)?;
    provider.change_after(file, honest(images)?);
    let b = story.boot(
        &lan,
        "b",
        1,
        &netbooted(images, &from_provider(provider.url())),
    )?;
    // The slowest judgement is that on slowness: half a minute of it.
    let limit = BOOT_LIMIT + Duration::from_secs(30);
    b.wait_for_unless(
        &format!("[{code}]"),
        &["phase: mounted", "phase: kexec"],
        limit,
    )?;
    b.wait_for("phase: kexec into sha256:", BOOT_LIMIT)?;
    b.wait_until_serving(BOOT_LIMIT)?;
    Ok(())
}

fn flip(answers: &mut Answers, file: &str) -> Result<()> {
    replace(answers, file, |bytes| Answer::bytes(flipped(bytes)))
}

fn manifest(answers: &mut Answers, bytes: Vec<u8>) -> Result<()> {
    replace(answers, "manifest.json", |_| Answer::bytes(bytes))
}

fn payload(images: &Images, answers: &mut Answers) -> Result<()> {
    let changed = flipped_behind(&images.bytes("manifest.json")?, r#""payload":"#, 40)?;
    manifest(answers, changed)
}

fn signature(images: &Images, answers: &mut Answers) -> Result<()> {
    let changed = flipped_behind(&images.bytes("manifest.json")?, r#""sig":"#, 10)?;
    manifest(answers, changed)
}

fn view(images: &Images, answers: &mut Answers) -> Result<()> {
    let text = String::from_utf8(images.bytes("manifest.json")?)?;
    let version = images.manifest()?.version;
    let changed = text.replacen(&version, "9.9.9", 1);
    ensure!(changed != text, "no version in the view");
    manifest(answers, changed.into_bytes())
}

fn stranger(images: &Images, answers: &mut Answers) -> Result<()> {
    let bytes = signed_anew(images, &SecretKey::from_seed([7; 32]), |_| {})?;
    manifest(answers, bytes)
}

fn expired(images: &Images, answers: &mut Answers) -> Result<()> {
    let now = artifacts::now()?;
    let bytes = signed_anew(images, &images.development_key()?, |manifest| {
        manifest.created_at = now.plus_seconds(-2 * 86_400);
        manifest.expires_at = now.plus_seconds(-60);
    })?;
    manifest(answers, bytes)
}

fn future(images: &Images, answers: &mut Answers) -> Result<()> {
    let now = artifacts::now()?;
    let bytes = signed_anew(images, &images.development_key()?, |manifest| {
        manifest.created_at = now.plus_days(10);
        manifest.expires_at = now.plus_days(20);
    })?;
    manifest(answers, bytes)
}

fn too_old(images: &Images, answers: &mut Answers) -> Result<()> {
    let key = images.development_key()?;
    let bytes = signed_anew(images, &key, |manifest| manifest.security_version = 0)?;
    manifest(answers, bytes)
}

fn channel(images: &Images, answers: &mut Answers) -> Result<()> {
    let key = images.development_key()?;
    let other = "beta".parse()?;
    let bytes = signed_anew(images, &key, |manifest| manifest.channel = other)?;
    manifest(answers, bytes)
}

fn cut(_: &Images, answers: &mut Answers) -> Result<()> {
    replace(answers, "vmlinuz", |bytes| Answer::Cut {
        bytes: bytes.into(),
        at: bytes.len() / 3,
    })
}

fn silent(_: &Images, answers: &mut Answers) -> Result<()> {
    replace(answers, "vmlinuz", |bytes| Answer::Stall {
        bytes: bytes.into(),
        at: 100,
    })
}

fn nothing(_: &Images, answers: &mut Answers) -> Result<()> {
    replace(answers, "initramfs.img", |_| Answer::Nothing)
}

fn endless_manifest(_: &Images, answers: &mut Answers) -> Result<()> {
    replace(answers, "manifest.json", |_| {
        Answer::Endless(Vec::new().into())
    })
}

fn endless_kernel(_: &Images, answers: &mut Answers) -> Result<()> {
    // All of the right bytes, and then more: only the length is wrong.
    replace(answers, "vmlinuz", |bytes| Answer::Endless(bytes.into()))
}

fn damaged_squashfs_on_disk(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let scratch = tempfile::tempdir()?;
    let size = images.bytes("rootfs.squashfs")?.len() as u64;
    let disk = damaged_disk(
        &images.path("phase.img"),
        size,
        scratch.path().join("damaged.img"),
    )?;
    let spec = netbooted(images, "phase.source=disk phase.reboot_wait=600");
    let a = story.boot(&lan, "a", 1, &spec.disk(Disk::new(disk, Bus::Virtio)))?;
    a.must_refuse("bad-hash", BOOT_LIMIT)
}

/// The image decides whom it trusts: the same disk, and an initramfs with another trust root.
fn other_trust_root(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let scratch = tempfile::tempdir()?;
    let root = boot_manifest::TrustRoot::single(SecretKey::from_seed([7; 32]).public()).to_json();
    let files: &[(&str, u32, &[u8])] = &[("etc/phase/trust-root.json", 0o644, root.as_bytes())];
    let initrd = overlaid(
        &images.path("initramfs.img"),
        files,
        scratch.path().join("initrd"),
    )?;
    let append = format!("{CONSOLE} phase.source=disk phase.reboot_wait=600");
    let firmware = Firmware::Kernel {
        kernel: images.path("vmlinuz"),
        initrd,
        append,
    };
    let disk = Disk::new(images.path("phase.img"), Bus::Virtio);
    let a = story.boot(&lan, "a", 1, &qemu_tests::Spec::new(firmware).disk(disk))?;
    a.must_refuse("unknown-key", BOOT_LIMIT)
}

/// A machine that nobody looks after tries again by itself.
fn restarts(story: &Story) -> Result<()> {
    let images = story.images()?;
    let lan = story.lan()?;
    let words = "phase.source=disk phase.disk_wait=1 phase.reboot_wait=2";
    let a = story.boot(&lan, "a", 1, &netbooted(images, words))?;
    a.wait_for("phase: fatal: not-found:", BOOT_LIMIT)?;
    let ended = a.wait_for_end(BOOT_LIMIT)?;
    ensure!(
        ended == "guest-reset",
        "it ended by {ended} instead of a restart"
    );
    Ok(())
}
