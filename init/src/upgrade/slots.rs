//! An image in a slot: where its parts lie, how they are written so that they are there, and how they are read.
//!
//! ```text
//! 0            1 MiB        2 MiB
//! | manifest   | roots      | kernel | initramfs | rootfs |
//! ```
//! Manifest and root documents are padded with NUL bytes; each part begins at the next 4 KiB, and the manifest says how long
//! it is. What may be started from a slot is for the ledger to say; the order here only makes a slot that was being written
//! when the power failed look empty too: the old manifest goes first and the new one comes last.
//!
//! | step | after a power cut the slot has |
//! | --- | --- |
//! | 1. erase the manifest, flush | the old image, or no manifest |
//! | 2. write roots and parts, flush | no manifest |
//! | 3. write the manifest, flush | no manifest, half of one (which does not verify), or the new image |
//! | 4. read everything back from the medium | the new image |
//!
//! Nothing here is believed: what is read is verified by whoever reads it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use boot_manifest::{Artifact, Digest, Hasher, Manifest};

use super::raw::{BLOCK, Buffer, Device};
use super::worker::Step;
use crate::limits;
use crate::plan::Refusal;
use crate::verify;

/// Where the first part begins.
const PARTS: u64 = limits::SLOT_MANIFEST_AREA + limits::SLOT_ROOTS_AREA;

const _: () = assert!(boot_manifest::ROOT_CHAIN_SIZE_MAX as u64 <= limits::SLOT_ROOTS_AREA);
const _: () = assert!(boot_manifest::MANIFEST_SIZE_MAX as u64 <= limits::SLOT_MANIFEST_AREA);

/// The parts of an image, in the order they lie in.
pub(crate) const NAMES: [&str; 3] = ["kernel", "initramfs", "rootfs"];

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// Where the parts of `manifest` lie.
pub(crate) fn spans(manifest: &Manifest) -> Result<[Span; 3], Refusal> {
    let mut offset = PARTS;
    let mut next = |name: &'static str| {
        let Artifact { size, digest, .. } = *verify::artifact(manifest, name)?;
        let span = Span {
            name,
            offset,
            size,
            digest,
        };
        offset = end_of(&span).unwrap_or(u64::MAX);
        Ok::<_, Refusal>(span)
    };
    let [kernel, initramfs, rootfs] = NAMES;
    Ok([next(kernel)?, next(initramfs)?, next(rootfs)?])
}

fn end_of(span: &Span) -> Option<u64> {
    span.offset
        .checked_add(span.size)?
        .checked_next_multiple_of(BLOCK as u64)
}

/// Bytes of a slot that `manifest` and its parts take.
pub(crate) fn needed(manifest: &Manifest) -> Result<u64, Refusal> {
    let spans = spans(manifest)?;
    Ok(spans.last().and_then(end_of).unwrap_or(u64::MAX))
}

/// What is written.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    pub(crate) manifest: &'a [u8],
    /// The root documents that lead to the keys of the manifest; none is an empty list or nothing.
    pub(crate) roots: &'a [u8],
    pub(crate) parts: [(Span, &'a File); 3],
}

/// Writes an image, flushes it and reads all of it back. Whatever fails, the slot must not be started.
pub(crate) fn write(device: &dyn Device, image: &Image<'_>, step: Step<'_>) -> Result<(), Refusal> {
    check_room(device, image)?;
    write_area(device, 0, limits::SLOT_MANIFEST_AREA, b"", step)?;
    flush(device, step)?;
    let roots = limits::SLOT_MANIFEST_AREA;
    write_area(device, roots, limits::SLOT_ROOTS_AREA, image.roots, step)?;
    for (span, file) in &image.parts {
        write_part(device, span, file, step)?;
    }
    flush(device, step)?;
    let area = limits::SLOT_MANIFEST_AREA;
    write_area(device, 0, area, image.manifest, step)?;
    flush(device, step)?;
    read_back(device, image, step)
}

/// Said before anything is written.
fn check_room(device: &dyn Device, image: &Image<'_>) -> Result<(), Refusal> {
    let has = device.size().map_err(|error| verify::io("slot", &error))?;
    let needs = image.parts.iter().map(|(span, _)| end_of(span)).max();
    let needs = needs.flatten().unwrap_or(u64::MAX);
    let fits = image.manifest.len() as u64 <= limits::SLOT_MANIFEST_AREA
        && image.roots.len() as u64 <= limits::SLOT_ROOTS_AREA
        && needs <= has;
    if fits {
        return Ok(());
    }
    let reason = format!("the image takes {needs} bytes of a slot that has {has}");
    Err(Refusal::new("too-large", reason))
}

/// Writes `content` and zeros up to `length`.
fn write_area(
    device: &dyn Device,
    offset: u64,
    length: u64,
    content: &[u8],
    step: Step<'_>,
) -> Result<(), Refusal> {
    let mut buffer = Buffer::new(limits::STEP_SIZE);
    let mut rest = content;
    for done in (0..length).step_by(limits::STEP_SIZE) {
        let (now, later) = rest.split_at(rest.len().min(buffer.len()));
        buffer.fill(0);
        buffer[..now.len()].copy_from_slice(now);
        device
            .write(offset + done, &buffer)
            .map_err(|error| verify::io("slot", &error))?;
        rest = later;
        step();
    }
    Ok(())
}

fn write_part(
    device: &dyn Device,
    span: &Span,
    file: &File,
    step: Step<'_>,
) -> Result<(), Refusal> {
    let failed = |error: &std::io::Error| verify::io(span.name, error);
    for (done, length) in steps(span.size) {
        // The last step is shorter, and zeros fill its last block.
        let mut buffer = Buffer::new(length);
        file.read_exact_at(&mut buffer[..length], done)
            .map_err(|error| failed(&error))?;
        device
            .write(span.offset + done, &buffer)
            .map_err(|error| failed(&error))?;
        step();
    }
    Ok(())
}

/// Where the steps through `size` bytes begin, and how long each is.
fn steps(size: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = limits::STEP_SIZE;
    (0..size).step_by(step).map(move |done| {
        let left = usize::try_from(size - done).unwrap_or(step);
        (done, left.min(step))
    })
}

/// An error here says that nothing is known of what was written: the kernel forgets what it could not write, and would
/// say that all is well when it is asked again.
fn flush(device: &dyn Device, step: Step<'_>) -> Result<(), Refusal> {
    device
        .flush()
        .map_err(|error| Refusal::new("io", format!("flush the slot: {error}")))?;
    step();
    Ok(())
}

/// The medium holds what was meant, every byte of it.
fn read_back(device: &dyn Device, image: &Image<'_>, step: Step<'_>) -> Result<(), Refusal> {
    let other = |name: &str| {
        let reason = format!("{name}: the disk gives back other bytes than were written");
        Refusal::new("readback", reason)
    };
    let areas = [
        ("manifest", manifest(device, step)?, image.manifest),
        ("roots", roots(device, step)?, image.roots),
    ];
    for (name, found, meant) in areas {
        if found != without_padding(meant) {
            return Err(other(name));
        }
    }
    for (span, _) in &image.parts {
        let mut hasher = Hasher::new();
        read_part(device, span, step, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        if hasher.finish() != span.digest {
            return Err(other(span.name));
        }
    }
    Ok(())
}

/// The manifest of a slot or of the artifacts partition, without its padding; empty where there is none.
pub(crate) fn manifest(device: &dyn Device, step: Step<'_>) -> Result<Vec<u8>, Refusal> {
    read_area(device, 0, limits::SLOT_MANIFEST_AREA, step)
}

/// The root documents of a slot.
pub(crate) fn roots(device: &dyn Device, step: Step<'_>) -> Result<Vec<u8>, Refusal> {
    let offset = limits::SLOT_MANIFEST_AREA;
    read_area(device, offset, limits::SLOT_ROOTS_AREA, step)
}

fn read_area(
    device: &dyn Device,
    offset: u64,
    length: u64,
    step: Step<'_>,
) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::new();
    let mut buffer = Buffer::new(limits::STEP_SIZE);
    for done in (0..length).step_by(limits::STEP_SIZE) {
        device
            .read(offset + done, &mut buffer)
            .map_err(|error| verify::io("slot", &error))?;
        content.extend_from_slice(&buffer);
        step();
    }
    content.truncate(without_padding(&content).len());
    Ok(content)
}

fn without_padding(bytes: &[u8]) -> &[u8] {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    &bytes[..last.map_or(0, |last| last + 1)]
}

/// Copies a part into a file in memory. Nothing is verified here.
pub(crate) fn copy_part(
    device: &dyn Device,
    span: &Span,
    out: &File,
    step: Step<'_>,
) -> Result<(), Refusal> {
    let mut done = 0;
    read_part(device, span, step, |bytes| {
        out.write_all_at(bytes, done)
            .map_err(|error| verify::io(span.name, &error))?;
        done += bytes.len() as u64;
        Ok(())
    })
}

fn read_part(
    device: &dyn Device,
    span: &Span,
    step: Step<'_>,
    mut use_step: impl FnMut(&[u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    for (done, length) in steps(span.size) {
        let mut buffer = Buffer::new(length);
        device
            .read(span.offset + done, &mut buffer)
            .map_err(|error| verify::io(span.name, &error))?;
        use_step(&buffer[..length])?;
        step();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::raw::tests::Faulty;
    use super::*;
    use crate::verify::tests::{key, manifest_for};

    const MIB: u64 = 1 << 20;

    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut state = u32::from(seed).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    struct Source {
        manifest: Manifest,
        bytes: Vec<u8>,
        parts: [Vec<u8>; 3],
        files: [File; 3],
    }

    fn source(seed: u8) -> Source {
        let parts = [
            noise(300_001, seed),
            noise(4096, seed + 1),
            noise(600_000, seed + 2),
        ];
        let [kernel, initramfs, rootfs] = &parts;
        let manifest = manifest_for(kernel, initramfs, rootfs);
        let files = parts.each_ref().map(|bytes| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file
        });
        Source {
            bytes: boot_manifest::sign(&manifest, &[&key()]).unwrap(),
            manifest,
            parts,
            files,
        }
    }

    impl Source {
        fn image(&self) -> Image<'_> {
            let [kernel, initramfs, rootfs] = spans(&self.manifest).unwrap();
            let [a, b, c] = &self.files;
            Image {
                manifest: &self.bytes,
                roots: b"[\"root\"]",
                parts: [(kernel, a), (initramfs, b), (rootfs, c)],
            }
        }
    }

    fn written(device: &Faulty, source: &Source) -> Result<(), Refusal> {
        write(device, &source.image(), &mut || {})
    }

    fn found_manifest(device: &Faulty) -> Vec<u8> {
        manifest(device, &mut || {}).unwrap()
    }

    #[test]
    fn parts_follow_each_other_at_whole_blocks() {
        let source = source(1);
        let spans = spans(&source.manifest).unwrap();
        let offsets: Vec<u64> = spans.iter().map(|span| span.offset).collect();
        assert_eq!(offsets, [2 * MIB, 2 * MIB + 303_104, 2 * MIB + 307_200]);
        assert_eq!(
            needed(&source.manifest).unwrap(),
            2 * MIB + 307_200 + 602_112
        );
        let mut huge = source.manifest.clone();
        huge.artifacts
            .iter_mut()
            .for_each(|artifact| artifact.size = u64::MAX - 1);
        assert_eq!(needed(&huge).unwrap(), u64::MAX);
        huge.artifacts
            .retain(|artifact| artifact.name.as_str() != "kernel");
        assert_eq!(needed(&huge).unwrap_err().code, "invalid-manifest");
    }

    #[test]
    fn an_image_comes_back_as_it_was_written() {
        let device = Faulty::of_size(4 * MIB);
        let source = source(2);
        written(&device, &source).unwrap();
        assert_eq!(found_manifest(&device), source.bytes);
        assert_eq!(roots(&device, &mut || {}).unwrap(), b"[\"root\"]");
        for (span, bytes) in spans(&source.manifest).unwrap().iter().zip(&source.parts) {
            let out = tempfile::tempfile().unwrap();
            copy_part(&device, span, &out, &mut || {}).unwrap();
            let mut back = vec![0; bytes.len()];
            out.read_exact_at(&mut back, 0).unwrap();
            assert!(back == *bytes, "another {}", span.name);
            assert_eq!(out.metadata().unwrap().len(), bytes.len() as u64);
        }
    }

    /// Fault 4: an image that does not fit is refused before the slot is touched.
    #[test]
    fn an_image_that_does_not_fit_leaves_the_slot_alone() {
        let source = source(3);
        let needed = needed(&source.manifest).unwrap();
        let device = Faulty::of_size(needed - 4096);
        assert_eq!(written(&device, &source).unwrap_err().code, "too-large");
        assert_eq!(device.writes.get(), 0);
        assert!(written(&Faulty::of_size(needed), &source).is_ok());
    }

    /// Faults 2, 3 and 6, at every single write, flush and read: an error is an error, a write that the disk swallows or
    /// tears and a bit that it turns are noticed, and while anything is wrong the slot shows no new manifest that whoever
    /// reads the error would believe.
    #[test]
    fn every_fault_of_the_disk_is_noticed() {
        let source = source(4);
        let device = Faulty::of_size(4 * MIB);
        written(&device, &source).unwrap();
        let (writes, flushes, reads) = (
            device.writes.get(),
            device.flushes.get(),
            device.reads.get(),
        );
        assert!(writes > 10 && flushes == 3 && reads > 10);

        let check = |arm: &dyn Fn(&Faulty), expected: &[&str]| {
            let device = Faulty::of_size(4 * MIB);
            arm(&device);
            let code = written(&device, &source).unwrap_err().code;
            assert!(expected.contains(&code.as_str()), "{code}");
        };
        for n in 1..=writes {
            check(&|device| device.fail_write.set(n), &["io"]);
            check(&|device| device.tear_write.set(n), &["io"]);
        }
        for n in 1..=flushes {
            check(&|device| device.fail_flush.set(n), &["io"]);
        }
        for n in 1..=reads {
            check(&|device| device.fail_read.set(n), &["io"]);
            check(&|device| device.flip_read.set(n), &["readback"]);
        }
        // A write that is dropped shows unless it would have changed nothing: the first ones erase what the last ones
        // overwrite, and all but one of the last write zeros over zeros.
        let area = u32::try_from(limits::SLOT_MANIFEST_AREA).unwrap()
            / u32::try_from(limits::STEP_SIZE).unwrap();
        for n in area + 1..=writes - area + 1 {
            check(&|device| device.drop_write.set(n), &["readback"]);
        }
    }

    /// Whatever step the power fails in: the slot has the old manifest, none, or the new one with all of its parts.
    #[test]
    fn a_cut_leaves_no_manifest_over_foreign_parts() {
        let (old, new) = (source(5), source(9));
        let device = Faulty::of_size(4 * MIB);
        written(&device, &old).unwrap();
        let before = device.bytes.borrow().clone();
        let writes = {
            device.writes.set(0);
            written(&device, &new).unwrap();
            device.writes.get()
        };
        for n in 1..=writes {
            let device = Faulty::of_size(4 * MIB);
            *device.bytes.borrow_mut() = before.clone();
            device.tear_write.set(n);
            written(&device, &new).unwrap_err();
            let manifest = found_manifest(&device);
            if manifest == new.bytes {
                for (span, _) in &new.image().parts {
                    let mut hasher = Hasher::new();
                    read_part(&device, span, &mut || {}, |bytes| {
                        hasher.update(bytes);
                        Ok(())
                    })
                    .unwrap();
                    assert_eq!(hasher.finish(), span.digest, "{} at cut {n}", span.name);
                }
            } else if manifest == old.bytes {
                assert_eq!(n, 1, "the old manifest stands over new parts");
            }
        }
    }
}
