//! What a liar would hand out: built images with something changed, and manifests signed anew.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use boot_manifest::{Manifest, SecretKey, sign};

use crate::artifacts::Images;
use crate::hostile::{Answer, Answers};

/// The partition of the disk image that holds manifest and squashfs.
const ARTIFACTS_PARTITION: &str = "phase-artifacts";
/// Where the squashfs begins in it.
const SQUASHFS_OFFSET: u64 = 1 << 20;
const SECTOR: usize = 512;
/// File types in the mode of an archive's entry.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// The answers of an honest provider of the built images: manifest and artifacts where the manifest says.
///
/// # Errors
/// When an image cannot be read.
pub fn honest(images: &Images) -> Result<Answers> {
    let manifest = images.manifest()?;
    let place = |file: &str| {
        format!(
            "/{}/{}/{file}",
            manifest.channel.as_str(),
            manifest.arch.as_str()
        )
    };
    let mut answers = Answers::new();
    for file in [
        "manifest.json",
        "vmlinuz",
        "initramfs.img",
        "rootfs.squashfs",
    ] {
        answers.insert(place(file), Answer::bytes(images.bytes(file)?));
    }
    Ok(answers)
}

/// Changes the answer for the file with this name, wherever it is served.
///
/// # Errors
/// When no such file is served.
pub fn replace(
    answers: &mut Answers,
    file: &str,
    with: impl FnOnce(&[u8]) -> Answer,
) -> Result<()> {
    let answer = answers
        .iter_mut()
        .find(|(path, _)| path.ends_with(&format!("/{file}")));
    let (_, answer) = answer.with_context(|| format!("no {file} is served"))?;
    let Answer::Bytes(bytes) = answer else {
        anyhow::bail!("{file} was replaced before")
    };
    *answer = with(bytes);
    Ok(())
}

/// `bytes` with one bit changed, in the middle.
#[must_use]
pub fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// `text` with the `n`-th character behind the last `mark` replaced by another base64 character.
///
/// # Errors
/// When `mark` does not occur.
pub fn flipped_behind(text: &[u8], mark: &str, n: usize) -> Result<Vec<u8>> {
    let mut text = String::from_utf8(text.to_vec())?;
    let at = text.rfind(mark).with_context(|| format!("no {mark}"))? + mark.len() + n;
    let other = if text[at..].starts_with('A') {
        "B"
    } else {
        "A"
    };
    text.replace_range(at..=at, other);
    Ok(text.into_bytes())
}

/// The manifest with `change` applied, signed by `key`.
///
/// # Errors
/// When what came out is no manifest.
pub fn signed_anew(
    images: &Images,
    key: &SecretKey,
    change: impl FnOnce(&mut Manifest),
) -> Result<Vec<u8>> {
    let mut manifest = images.manifest()?;
    change(&mut manifest);
    sign(&manifest, &[key]).context("sign the variant")
}

/// An initramfs that has `files` laid over it: the kernel unpacks archives one behind the other, and the
/// last word on a path counts.
///
/// # Errors
/// When it cannot be written.
pub fn overlaid(initramfs: &Path, files: &[(&str, u32, &[u8])], out: PathBuf) -> Result<PathBuf> {
    let mut bytes = std::fs::read(initramfs)?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    for (name, mode, content) in files {
        if let Some((folder, _)) = name.rsplit_once('/') {
            // One that is there already is left as it is.
            append_entry(&mut bytes, folder, FOLDER | 0o755, &[]);
        }
        append_entry(&mut bytes, name, FILE | mode, content);
    }
    append_entry(&mut bytes, "TRAILER!!!", 0, &[]);
    std::fs::write(&out, bytes)?;
    Ok(out)
}

/// A copy of the disk image with one bit changed in the middle of its squashfs.
///
/// # Errors
/// When the image has no such partition.
pub fn damaged_disk(image: &Path, squashfs_size: u64, out: PathBuf) -> Result<PathBuf> {
    let mut bytes = std::fs::read(image)?;
    let start = partition_start(&bytes)?;
    let at = usize::try_from(start + SQUASHFS_OFFSET + squashfs_size / 2)?;
    ensure!(at < bytes.len(), "the squashfs ends behind the image");
    bytes[at] ^= 1;
    std::fs::write(&out, bytes)?;
    Ok(out)
}

fn partition_start(disk: &[u8]) -> Result<u64> {
    let name: Vec<u8> = ARTIFACTS_PARTITION
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    // The entries of a GPT begin in the third sector, 128 bytes each: LBA of the start at 32, name at 56.
    let table = disk
        .get(2 * SECTOR..34 * SECTOR)
        .context("no partition table")?;
    let entry = table
        .chunks_exact(128)
        .find(|entry| entry[56..].starts_with(&name));
    let entry = entry.with_context(|| format!("no partition {ARTIFACTS_PARTITION}"))?;
    let first = u64::from_le_bytes(entry[32..40].try_into()?);
    Ok(first * SECTOR as u64)
}

/// One entry of a newc archive; what the kernel's documentation calls "New ASCII".
fn append_entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len())
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_bit_is_flipped() {
        let before = [7; 9];
        let after = flipped(&before);
        let differing: u32 = before
            .iter()
            .zip(&after)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!(differing, 1);
    }

    #[test]
    fn the_last_mark_counts() {
        let flipped = flipped_behind(br#"{"sig":"xx","sig":"yy"}"#, r#""sig":""#, 1).unwrap();
        assert_eq!(flipped, br#"{"sig":"xx","sig":"yA"}"#);
        assert!(flipped_behind(b"{}", "sig", 0).is_err());
    }

    #[test]
    fn an_overlay_is_an_archive_that_cpio_reads() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::write(&base, b"").unwrap();
        let files: &[(&str, u32, &[u8])] = &[("etc/a", 0o644, b"hello"), ("bin/b", 0o755, b"x")];
        let overlay = overlaid(&base, files, folder.path().join("out")).unwrap();
        let bytes = std::fs::read(overlay).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("07070100000000000041ED"), "{text}");
        assert!(
            text.contains("etc/a\0") && text.contains("hello\0") && text.contains("TRAILER!!!\0")
        );
    }

    #[test]
    fn a_partition_is_found_by_name() {
        let mut disk = vec![0; 34 * SECTOR];
        assert!(partition_start(&disk).is_err());
        let entry = 2 * SECTOR + 128;
        disk[entry + 32..entry + 40].copy_from_slice(&2048u64.to_le_bytes());
        for (place, unit) in ARTIFACTS_PARTITION.encode_utf16().enumerate() {
            disk[entry + 56 + 2 * place..][..2].copy_from_slice(&unit.to_le_bytes());
        }
        assert_eq!(partition_start(&disk).unwrap(), 2048 * 512);
    }
}
