//! What people do on the LAN: start machines the usual ways, and look at what a machine serves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use boot_manifest::Digest;
use qemu_tests::firmware::Bus;
use qemu_tests::hostile::Provider;
use qemu_tests::machine::Serving;
use qemu_tests::proc::describe;
use qemu_tests::{Disk, Firmware, Images, Lan, Machine, Spec, Story};

use crate::{BOOT_LIMIT, CONSOLE};

/// A machine that got only kernel and initramfs, with these words on its command line.
pub(crate) fn netbooted(images: &Images, words: &str) -> Spec {
    let firmware = Firmware::Kernel {
        kernel: images.path("vmlinuz"),
        initrd: images.path("initramfs.img"),
        append: format!("{CONSOLE} {words}"),
    };
    Spec::new(firmware)
}

/// A machine with the disk image, started without firmware: the quick way to one that serves.
pub(crate) fn with_disk(images: &Images, words: &str) -> Spec {
    netbooted(images, words).disk(Disk::new(images.path("phase.img"), Bus::Virtio))
}

/// The words that make a machine boot from another one.
pub(crate) fn from_provider(url: &str) -> String {
    // The reason of a refusal stays on the screen until the test has read it.
    format!("phase.source=provider phase.provider={url} phase.reboot_wait=600")
}

/// A served manifest must be the signed one, byte for byte, and be what the console says.
pub(crate) fn serves_the_signed_manifest(lan: &Lan, images: &Images, at: &Serving) -> Result<()> {
    let served = lan.get(&format!("{}/manifest.json", at.url))?;
    ensure!(
        served == images.bytes("manifest.json")?,
        "the served manifest is not the signed one"
    );
    let digest = Digest::of(&served).to_string();
    ensure!(
        digest == at.manifest,
        "the console says {}, served is {digest}",
        at.manifest
    );
    Ok(())
}

/// Fetches everything with `phase-fetch`, checks it with `phase-verify`, and compares it with what was built.
pub(crate) fn clients_agree(story: &Story, lan: &Lan, at: &Serving) -> Result<()> {
    let images = story.images()?;
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    let key = images.path("keys/dev.key.pub");
    let fetch = tool(images, folder.path(), "phase-fetch")?;
    run(
        lan,
        &[
            fetch.as_os_str(),
            at.url.as_ref(),
            "-k".as_ref(),
            key.as_ref(),
            "-o".as_ref(),
            out.as_ref(),
        ],
    )?;

    let verify = tool(images, folder.path(), "phase-verify")?;
    let files = [
        "manifest.json",
        "vmlinuz",
        "initramfs.img",
        "rootfs.squashfs",
    ];
    let fetched: Vec<PathBuf> = files.iter().map(|file| out.join(file)).collect();
    let mut command = vec![verify.as_os_str()];
    command.extend(fetched.iter().map(|path| path.as_os_str()));
    command.extend(["-k".as_ref(), key.as_os_str()]);
    run(lan, &command)?;

    for file in files {
        let same = std::fs::read(out.join(file))? == images.bytes(file)?;
        ensure!(same, "{file} arrived with other bytes than were built");
    }
    story.note(format!(
        "phase-fetch and phase-verify agree with {}, byte for byte",
        at.url
    ));
    Ok(())
}

/// `phase-discover` must find a provider on the LAN without being told anything, and it must be this one.
pub(crate) fn discovery_finds(story: &Story, lan: &Lan, at: &Serving) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let discover = tool(story.images()?, folder.path(), "phase-discover")?;
    let output = lan.run([discover.as_os_str(), "--timeout".as_ref(), "30".as_ref()])?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && found.contains(&at.url),
        "phase-discover: {}",
        describe(&output)
    );
    story.note(format!("phase-discover finds {}", found.trim()));
    Ok(())
}

/// The memory the machine says it uses must leave room to work in.
pub(crate) fn has_memory_left(machine: &Machine) -> Result<()> {
    let line = machine.wait_for("phase: memory ", BOOT_LIMIT)?;
    let words: Vec<&str> = line.text.split_whitespace().collect();
    let figure = |name: &str| -> Result<u64> {
        let at = words.iter().position(|word| *word == name);
        let word = at.and_then(|at| words.get(at + 1));
        word.and_then(|word| word.parse().ok())
            .with_context(|| format!("no {name} in: {}", line.text))
    };
    ensure!(
        figure("init")? < 8 << 10,
        "PID 1 takes more than 8 MiB: {}",
        line.text
    );
    // The line names the roles that run.
    for role in ["net", "serve", "dht"] {
        ensure!(
            figure(role)? < 24 << 10,
            "{role} takes more than 24 MiB: {}",
            line.text
        );
    }
    ensure!(
        figure("available")? > 64 << 10,
        "less than 64 MiB are left: {}",
        line.text
    );
    Ok(())
}

/// `plasmd` under one of its other names.
fn tool(images: &Images, folder: &Path, name: &str) -> Result<PathBuf> {
    let link = folder.join(name);
    std::os::unix::fs::symlink(images.path("plasmd"), &link).context("link plasmd")?;
    Ok(link)
}

fn run(lan: &Lan, command: &[&std::ffi::OsStr]) -> Result<()> {
    let output = lan.run(command)?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command[0].display(),
        describe(&output)
    );
    Ok(())
}

/// Everything of the built images at an honest or altered provider on the LAN's host side.
pub(crate) fn provider(lan: &Lan, answers: qemu_tests::hostile::Answers) -> Result<Provider> {
    Provider::serve(lan, 8080, answers)
}
