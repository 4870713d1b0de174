//! Images in the slots of a disk image, put there from outside: what an upgrade leaves behind, without one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use boot_manifest::Digest;
use upgrade::{ImageRef, Ledger, Place, sector};

use crate::artifacts::Images;
use crate::power::partition;

/// Where the root documents and the parts of an image begin in a slot.
const ROOTS: u64 = 1 << 20;
const PARTS: u64 = 2 << 20;
/// Parts begin at whole blocks.
const BLOCK: u64 = 4096;
/// The files of the parts, in the order they lie in.
const FILES: [&str; 3] = ["vmlinuz", "initramfs.img", "rootfs.squashfs"];

/// Writes an image into a slot of the disk image `disk`, and returns how the ledger calls it.
///
/// # Errors
/// When it does not fit, or something cannot be read or written.
pub fn install(disk: &Path, place: Place, images: &Images) -> Result<ImageRef> {
    let slot = partition(disk, &name(place))?;
    let file = writable(disk)?;
    let manifest = images.bytes("manifest.json")?;
    let mut padded = manifest.clone();
    padded.resize(usize::try_from(PARTS)?, 0);
    ensure!(manifest.len() as u64 <= ROOTS, "the manifest does not fit");
    file.write_all_at(&padded, slot.start)?;
    let mut offset = slot.start + PARTS;
    for name in FILES {
        let bytes = images.bytes(name)?;
        ensure!(
            offset + bytes.len() as u64 <= slot.end,
            "{name} does not fit"
        );
        file.write_all_at(&bytes, offset)?;
        offset = (offset + bytes.len() as u64).next_multiple_of(BLOCK);
    }
    let signed = images.manifest()?;
    Ok(ImageRef {
        digest: Digest::of(&manifest),
        place,
        version: signed.version,
        sequence: signed.sequence,
        generation: signed.generation,
        security_version: signed.security_version,
    })
}

/// Turns a bit in the middle of the last part of the image in a slot.
///
/// # Errors
/// When the disk image cannot be changed.
pub fn rot(disk: &Path, place: Place, images: &Images) -> Result<()> {
    let mut at = partition(disk, &name(place))?.start + PARTS;
    let [first, second, rootfs] = FILES;
    for name in [first, second] {
        at += (images.bytes(name)?.len() as u64).next_multiple_of(BLOCK);
    }
    at += images.bytes(rootfs)?.len() as u64 / 2;
    flip(disk, at)
}

fn flip(disk: &Path, at: u64) -> Result<()> {
    let file = writable(disk)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// Turns a bit of golden's manifest.
///
/// # Errors
/// When the disk image cannot be changed.
pub fn rot_golden(disk: &Path) -> Result<()> {
    let at = partition(disk, "phase-artifacts")?.start;
    flip(disk, at)
}

/// Writes a ledger as the next write of the machine would be.
///
/// # Errors
/// When it cannot be one, or the disk image cannot be changed.
pub fn remember(disk: &Path, ledger: &Ledger) -> Result<()> {
    let found = crate::ledger::find(disk)?;
    let bytes = sector::encode(ledger, found.counter + 1)?;
    let offset = sector::OFFSETS[found.write_next];
    let start = partition(disk, crate::ledger::PARTITION)?.start;
    writable(disk)?.write_all_at(&bytes, start + offset)?;
    Ok(())
}

/// Overwrites both sectors of the ledger, as `dd` would.
///
/// # Errors
/// When the disk image cannot be changed.
pub fn forget(disk: &Path) -> Result<()> {
    let start = partition(disk, crate::ledger::PARTITION)?.start;
    let file = writable(disk)?;
    for offset in sector::OFFSETS {
        file.write_all_at(&[0x5a; sector::SIZE], start + offset)?;
    }
    Ok(())
}

fn name(place: Place) -> String {
    format!("phase-slot-{}", place.as_str())
}

fn writable(disk: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(disk);
    file.with_context(|| format!("open {}", disk.display()))
}
