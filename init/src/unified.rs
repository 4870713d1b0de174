//! The EFI program out of its parts: a head, the kernel, the initramfs.
//!
//! It holds the other two whole, so a squashfs with all three would be twice as large: to fetch, to hash, and to keep in
//! memory twice while a successor starts. The squashfs has the head only, and the program is put together where it is
//! served. Nothing here knows what an EFI program is: the signed manifest says which bytes come out.

use std::fs::File;
use std::io::Write;

use boot_manifest::{Artifact, Hasher};

use crate::plan::{Refusal, Stop};
use crate::verify::{self, Tick};

/// What stands behind the program's file name for its head.
pub(crate) const HEAD_SUFFIX: &str = ".head";

/// The artifact's name in the manifest.
pub(crate) const NAME: &str = "uki";

/// Sections of the program are whole sectors; zeros fill the last one. The image tool makes sure of it.
const SECTOR_BYTES: u64 = 512;

/// A file of the squashfs that goes into the program.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) file: File,
    pub(crate) size: u64,
}

/// Writes the program that `parts` make, and checks that it is the signed one.
pub(crate) fn assemble(
    artifact: &Artifact,
    parts: &[Part],
    mut out: impl Write,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    // Before the first byte is written: there is memory for just as many as the manifest says.
    let whole = |size: u64| size.checked_next_multiple_of(SECTOR_BYTES);
    let sum = parts
        .iter()
        .try_fold(0_u64, |sum, part| sum.checked_add(whole(part.size)?));
    if sum != Some(artifact.size) {
        let reason = format!(
            "{NAME}: its parts have other sizes than the {} bytes of the manifest",
            artifact.size
        );
        return Err(Refusal::new("bad-size", reason).into());
    }
    let mut hasher = Hasher::new();
    let mut take = |bytes: &[u8]| {
        hasher.update(bytes);
        out.write_all(bytes)
            .map_err(|error| verify::io(NAME, &error))
    };
    for part in parts {
        verify::for_each_step(part.name, &part.file, 0, part.size, tick, &mut take)?;
        let padding = part.size.next_multiple_of(SECTOR_BYTES) - part.size;
        take(&[0; SECTOR_BYTES as usize][..usize::try_from(padding).unwrap_or(0)])?;
    }
    verify::same_digest(NAME, hasher.finish(), artifact.digest)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use boot_manifest::ArtifactHasher;

    use super::*;

    fn part(name: &'static str, bytes: &[u8]) -> Part {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Part {
            name,
            file,
            size: bytes.len() as u64,
        }
    }

    fn signed(bytes: &[u8]) -> Artifact {
        let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
        hasher.update(bytes);
        let (digest, chunks) = hasher.finish().unwrap();
        Artifact {
            name: NAME.parse().unwrap(),
            filename: "phase.efi".parse().unwrap(),
            size: bytes.len() as u64,
            digest,
            chunks,
        }
    }

    #[track_caller]
    fn check(artifact: &Artifact, parts: [&[u8]; 3], expected: Result<(), &str>) -> Vec<u8> {
        let names = ["head", "kernel", "initramfs"];
        let parts: Vec<Part> = names
            .into_iter()
            .zip(parts)
            .map(|(n, b)| part(n, b))
            .collect();
        let mut out = Vec::new();
        let result = assemble(artifact, &parts, &mut out, &mut || Ok(()));
        let code = result.map_err(|stop| match stop {
            Stop::Refused(refusal) => refusal.code,
            Stop::Ending => "ending".to_owned(),
        });
        assert_eq!(code, expected.map_err(str::to_owned));
        out
    }

    #[test]
    fn the_parts_make_the_signed_program_or_nothing_is_believed() {
        let (head, kernel, initramfs) = ([1; 512], vec![2; 300_001], [3; 7]);
        let mut whole = head.to_vec();
        for bytes in [&kernel[..], &initramfs[..]] {
            whole.extend_from_slice(bytes);
            whole.resize(whole.len().next_multiple_of(512), 0);
        }
        let artifact = signed(&whole);
        let out = check(&artifact, [&head, &kernel, &initramfs], Ok(()));
        assert!(out == whole, "other bytes than the program's");
        let mut changed = kernel.clone();
        changed[200_000] ^= 1;
        check(&artifact, [&head, &changed, &initramfs], Err("bad-hash"));
        check(&artifact, [&kernel, &head, &initramfs], Err("bad-hash"));
        let long = vec![2; 301_000];
        let written = check(&artifact, [&head, &long, &initramfs], Err("bad-size"));
        assert_eq!(written, [0; 0], "more was written than there is room for");
    }
}
