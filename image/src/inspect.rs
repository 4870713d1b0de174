//! `cargo appliance inspect`: what an image contains, recognised by its first bytes.
//!
//! For files one has built oneself: nothing shown here has been verified, and the output says so.

use std::io::Cursor;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use boot_manifest::Digest;
use upgrade::{Slot, sector};

use crate::cli;
use crate::paths::Paths;
use crate::progress::size;
use crate::{disk, fat, pe, squashfs, uki};

/// Runs the command.
///
/// # Errors
/// When the file cannot be read or is of no kind this tool makes.
pub fn command(paths: &Paths, arguments: &cli::Inspect) -> Result<ExitCode> {
    let file = arguments
        .file
        .clone()
        .unwrap_or_else(|| paths.output("phase.img"));
    let bytes = std::fs::read(&file).with_context(|| {
        format!(
            "read {} (build the images with: cargo appliance build)",
            file.display()
        )
    })?;
    let mut text = String::new();
    describe(&file.display().to_string(), &bytes, 0, &mut text)?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Appends a description of `bytes` to `text`, indented by `depth`.
fn describe(name: &str, bytes: &[u8], depth: usize, text: &mut String) -> Result<()> {
    let kind = match name.ends_with(uki::HEAD_SUFFIX) {
        true => Kind::Head,
        false => Kind::of(bytes),
    };
    let digest = Digest::of(bytes);
    line(
        text,
        depth,
        &format!(
            "{name}: {}, {}, {digest}",
            kind.name(),
            size(bytes.len() as u64)
        ),
    );
    let inner = depth + 1;
    match kind {
        Kind::Disk => describe_disk(bytes, inner, text),
        Kind::Program => describe_program(bytes, inner, text),
        Kind::Squashfs => {
            for file in squashfs::read(bytes)? {
                describe(&file.path, &file.content, inner, text)?;
            }
            Ok(())
        }
        Kind::Initramfs => describe_initramfs(bytes, inner, text),
        Kind::Manifest => describe_manifest(bytes, inner, text),
        Kind::Unknown if depth > 0 => Ok(()),
        Kind::Kernel | Kind::Head => Ok(()),
        Kind::Unknown => {
            bail!("{name} is no disk image, EFI program, squashfs, initramfs or manifest")
        }
    }
}

enum Kind {
    Disk,
    Program,
    Head,
    Kernel,
    Squashfs,
    Initramfs,
    Manifest,
    Unknown,
}

impl Kind {
    fn of(bytes: &[u8]) -> Self {
        if bytes.get(512..520) == Some(b"EFI PART") {
            Self::Disk
        } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
            Self::Kernel
        } else if bytes.starts_with(b"MZ") {
            Self::Program
        } else if bytes.starts_with(b"hsqs") {
            Self::Squashfs
        } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Initramfs
        } else if bytes.starts_with(b"{") {
            Self::Manifest
        } else {
            Self::Unknown
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Disk => "disk image",
            Self::Program => "EFI program",
            Self::Head => "head of an EFI program",
            Self::Kernel => "Linux kernel",
            Self::Squashfs => "squashfs",
            Self::Initramfs => "initramfs",
            Self::Manifest => "manifest",
            Self::Unknown => "data",
        }
    }
}

fn line(text: &mut String, depth: usize, what: &str) {
    text.push_str(&"  ".repeat(depth));
    text.push_str(what);
    text.push('\n');
}

fn describe_disk(bytes: &[u8], depth: usize, text: &mut String) -> Result<()> {
    for partition in disk::read(Cursor::new(bytes.to_vec()))? {
        let end = partition.start.saturating_add(partition.bytes);
        let range = usize::try_from(partition.start)?..usize::try_from(end)?;
        let content = bytes
            .get(range)
            .context("a partition lies beyond the image's end")?;
        line(
            text,
            depth,
            &format!(
                "partition {} {:?}: type {}, {} at {}",
                partition.number,
                partition.name,
                partition.kind,
                size(partition.bytes),
                size(partition.start)
            ),
        );
        if partition.name == disk::ARTIFACTS_PARTITION {
            let split = usize::try_from(disk::SQUASHFS_OFFSET)?.min(content.len());
            let (manifest, squashfs) = content.split_at(split);
            let manifest = manifest.split(|byte| *byte == 0).next().unwrap_or_default();
            describe("manifest", manifest, depth + 1, text)?;
            describe("squashfs", squashfs_bytes(squashfs)?, depth + 1, text)?;
        } else if disk::SLOT_PARTITIONS.contains(&partition.name.as_str()) {
            let split = usize::try_from(disk::SQUASHFS_OFFSET)?.min(content.len());
            let manifest = content[..split].split(|byte| *byte == 0).next();
            match manifest.unwrap_or_default() {
                [] => line(text, depth + 1, "empty"),
                manifest => describe("manifest", manifest, depth + 1, text)?,
            }
        } else if partition.name == disk::LEDGER_PARTITION {
            describe_ledger(content, depth + 1, text);
        } else if partition.name != disk::BIOS_PARTITION {
            for (path, file) in fat::read(content)? {
                describe(&path, &file, depth + 1, text)?;
            }
        }
    }
    Ok(())
}

/// What a machine remembers of its images.
fn describe_ledger(partition: &[u8], depth: usize, text: &mut String) {
    let [first, second] = sector::OFFSETS.map(|offset| {
        let start = usize::try_from(offset).ok()?;
        partition.get(start..start.checked_add(sector::SIZE)?)
    });
    let found = sector::newest([first, second]);
    let Some(ledger) = found.ledger else {
        let state = "empty: the machine boots what the medium brought";
        return line(text, depth, state);
    };
    line(text, depth, &format!("write {}", found.counter));
    let default = match ledger.default.as_ref().map(|it| (it, ledger.stored(it))) {
        None => "what the medium brought".to_owned(),
        Some((_, Some((image, _)))) => format!("{} in slot {}", image.version, image.place),
        Some((digest, None)) => digest.to_string(),
    };
    line(text, depth, &format!("boots {default}"));
    for (name, slot) in [("a", &ledger.a), ("b", &ledger.b)] {
        let holds = match slot {
            Slot::Dirty => "nothing that may be started".to_owned(),
            Slot::Valid { image, proved } => {
                let proved = if *proved { ", proved from cold" } else { "" };
                format!("{}, sequence {}{proved}", image.version, image.sequence)
            }
        };
        line(text, depth, &format!("slot {name}: {holds}"));
    }
    if let Some(trial) = &ledger.trial {
        let (version, phase) = (&trial.image.version, trial.phase);
        line(text, depth, &format!("on trial: {version}, phase {phase}"));
    }
    for failed in &ledger.quarantine {
        let (digest, failure) = (failed.digest, &failed.failure);
        line(
            text,
            depth,
            &format!("failed: {digest}: {}", failure.reason),
        );
    }
}

/// Cuts the padding of the partition off: the superblock says how long the image is, rounded up to 4 KiB.
fn squashfs_bytes(partition: &[u8]) -> Result<&[u8]> {
    let used = partition.get(40..48).context("the squashfs is cut short")?;
    let used = u64::from_le_bytes(used.try_into()?).next_multiple_of(4096);
    partition
        .get(..usize::try_from(used)?)
        .context("the squashfs is cut short")
}

fn describe_program(bytes: &[u8], depth: usize, text: &mut String) -> Result<()> {
    for section in pe::sections(bytes)? {
        match section.name.as_str() {
            ".cmdline" | ".osrel" => {
                let content = String::from_utf8_lossy(section.content);
                line(text, depth, &format!("{}: {:?}", section.name, content));
            }
            ".linux" | ".initrd" => describe(&section.name, section.content, depth, text)?,
            name => line(
                text,
                depth,
                &format!("{name}: {}", size(section.content.len() as u64)),
            ),
        }
    }
    Ok(())
}

fn describe_initramfs(bytes: &[u8], depth: usize, text: &mut String) -> Result<()> {
    let frame = zstd::zstd_safe::find_frame_compressed_size(bytes).map_err(|code| {
        anyhow::anyhow!(
            "the initramfs is damaged: {}",
            zstd::zstd_safe::get_error_name(code)
        )
    })?;
    let archive = zstd::decode_all(&bytes[..frame]).context("unpack the initramfs")?;
    for member in crate::cpio::read(&archive)? {
        line(text, depth, &member.to_string());
    }
    Ok(())
}

fn describe_manifest(bytes: &[u8], depth: usize, text: &mut String) -> Result<()> {
    let view = boot_manifest::view(bytes).context("read the manifest")?;
    let keys = view
        .key_ids
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    line(
        text,
        depth,
        &format!(
            "{} {} {}, sequence {}",
            view.channel, view.arch, view.version, view.sequence
        ),
    );
    line(
        text,
        depth,
        &format!("valid from {} to {}", view.created_at, view.expires_at),
    );
    line(
        text,
        depth,
        &format!("signed by {keys} (signatures not checked here)"),
    );
    for artifact in &view.artifacts {
        line(
            text,
            depth,
            &format!(
                "{}: {}, {}, {}",
                artifact.name,
                artifact.filename,
                size(artifact.size),
                artifact.digest
            ),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_described_down_to_its_parts() {
        let kernel = vec![7; 9000];
        let mut archive = Vec::new();
        crate::cpio::write(
            &[crate::cpio::Entry::file("init", 0o755, b"#!".to_vec())],
            &mut archive,
        )
        .unwrap();
        let initramfs = zstd::encode_all(archive.as_slice(), 1).unwrap();
        let recipe = squashfs::Recipe::from([
            ("stable/x86_64/vmlinuz".to_owned(), kernel.as_slice()),
            (
                "stable/x86_64/initramfs.img".to_owned(),
                initramfs.as_slice(),
            ),
            ("stable/x86_64/phase.efi.head".to_owned(), b"MZ".as_slice()),
        ]);
        let mut image = Cursor::new(Vec::new());
        squashfs::write(&recipe, &mut image).unwrap();
        let mut text = String::new();
        describe("rootfs.squashfs", image.get_ref(), 0, &mut text).unwrap();
        assert!(text.contains("stable/x86_64/vmlinuz: data"), "{text}");
        assert!(text.contains("head of an EFI program"), "{text}");
        assert!(text.contains("-rwxr-xr-x"), "{text}");
        assert!(text.contains(" init"), "{text}");
    }

    #[test]
    fn a_ledger_is_told_as_people_ask_for_it() {
        let mut partition = vec![0; usize::try_from(disk::LEDGER_BYTES).unwrap()];
        let mut text = String::new();
        describe_ledger(&partition, 0, &mut text);
        assert_eq!(text, "empty: the machine boots what the medium brought\n");
        let image = upgrade::ImageRef {
            digest: Digest::of(b"2"),
            place: upgrade::Place::B,
            version: "2.0".to_owned(),
            sequence: 7,
            generation: 1,
            security_version: 1,
        };
        let ledger = upgrade::Ledger {
            default: Some(image.digest),
            b: Slot::Valid {
                image,
                proved: true,
            },
            ..upgrade::Ledger::default()
        };
        let bytes = sector::encode(&ledger, 4).unwrap();
        let at = usize::try_from(sector::OFFSETS[1]).unwrap();
        partition[at..at + sector::SIZE].copy_from_slice(&bytes);
        text.clear();
        describe_ledger(&partition, 0, &mut text);
        assert_eq!(
            text,
            "write 4\nboots 2.0 in slot b\nslot a: nothing that may be started\n\
             slot b: 2.0, sequence 7, proved from cold\n"
        );
        describe_ledger(b"short", 0, &mut text);
    }

    #[test]
    fn unknown_and_damaged_files_are_errors() {
        let mut text = String::new();
        assert!(describe("x", b"?", 0, &mut text).is_err());
        assert!(describe("x", b"hsqs and nothing more", 0, &mut text).is_err());
        assert!(describe("x", b"MZ", 0, &mut text).is_err());
        assert!(describe("x", b"{}", 0, &mut text).is_err());
        assert!(describe("x", &[0x28, 0xb5, 0x2f, 0xfd, 0xff], 0, &mut text).is_err());
        let mut disk = vec![0; 4096];
        disk[512..520].copy_from_slice(b"EFI PART");
        assert!(describe("x", &disk, 0, &mut text).is_err());
    }
}
