//! Starts a successor's kernel: memory rule, initrd, load, and never a half-armed state.
//!
//! `kexec_file_load` proves nothing about the file and can take the machine down when memory is short, so both were
//! checked before it is called. A failed load leaves an earlier kernel armed, so every way out unloads.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use boot_manifest::{Manifest, Verified};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::cpio::Archive;
use crate::limits;
use crate::memory::{self, Memory};
use crate::plan::{Refusal, Stop};
use crate::sys;
use crate::verify::{self, Handoff, Tick};

/// Sizes that matter for a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) kernel: u64,
    pub(crate) initrd: u64,
    /// Memory that the kernel occupies while it unpacks itself.
    pub(crate) runtime: u64,
}

/// Whether a load can be tried. A load that does not fit does not fail: it can take the machine down.
///
/// The kernel reads both files into buffers and then copies them into segments, so each is there twice, and it reserves
/// the whole run-time size of the new kernel. Beside that a reserve stays free: a sixteenth of the memory, at least 16 MiB
/// and at most 64 MiB. And what the new kernel finds in use when it starts must leave it room to work: at most 45 % of the
/// memory (a segment above half of it is refused by the kernel).
///
/// With 256 MiB (220 MiB usable, 150 MiB available) that passes 24 MiB of kernel and initrd: 2 * 24 + 40 + 16 = 104 MiB.
pub(crate) fn fits(load: Load, memory: Memory) -> Result<(), String> {
    let reserve = (memory.total / 16).clamp(limits::KEXEC_RESERVE_MIN, limits::KEXEC_RESERVE_MAX);
    let twice = load.kernel.saturating_add(load.initrd).saturating_mul(2);
    let needed = twice.saturating_add(load.runtime).saturating_add(reserve);
    if needed > memory.available {
        let (needed, available) = (needed.div_ceil(1 << 20), memory.available >> 20);
        return Err(format!(
            "starting the new kernel needs {needed} MiB of free memory; {available} MiB are free"
        ));
    }
    let held = load.runtime.saturating_add(load.initrd);
    if held > memory.total / 100 * 45 {
        let (held, total) = (held.div_ceil(1 << 20), memory.total >> 20);
        return Err(format!(
            "the new kernel would start with {held} MiB of {total} MiB in use; 45 % are allowed"
        ));
    }
    Ok(())
}

/// The run-time size in the header of a bzImage (`init_size`, boot protocol 2.10 and later).
fn runtime_size(kernel: &File) -> u64 {
    let mut header = [0; 0x264];
    if kernel.read_exact_at(&mut header, 0).is_err() {
        return limits::KERNEL_RUNTIME_DEFAULT;
    }
    parse_runtime_size(&header).unwrap_or(limits::KERNEL_RUNTIME_DEFAULT)
}

fn parse_runtime_size(header: &[u8]) -> Option<u64> {
    let version = u16::from_le_bytes(header.get(0x206..0x208)?.try_into().ok()?);
    let size = u32::from_le_bytes(header.get(0x260..0x264)?.try_into().ok()?);
    (header.get(0x202..0x206)? == b"HdrS" && version >= 0x020a && size > 0)
        .then_some(u64::from(size))
}

/// Loads the successor of a verified handoff. Afterwards `reboot(KEXEC)` starts it.
pub(crate) fn load(handoff: Handoff, command_line: &str, tick: Tick<'_>) -> Result<(), Stop> {
    if command_line.len() >= limits::KERNEL_CMDLINE_MAX {
        let reason = format!(
            "the command line has {} bytes; the kernel takes fewer than 2048",
            command_line.len()
        );
        return Err(Refusal::new("kexec-failed", reason).into());
    }
    let load = Load {
        kernel: verify::artifact(&handoff.manifest, "kernel")?.size,
        initrd: initrd_size(&handoff.manifest)?,
        runtime: runtime_size(&handoff.kernel),
    };
    let check =
        || fits(load, memory::now()).map_err(|reason| Refusal::new("not-enough-memory", reason));
    // Before the initrd is built, which takes about the memory that is given back when the handoff is closed: PID 1 has no
    // limit of its own, so an image that does not fit would take the machine down right here.
    check()?;
    let initrd = initrd(&handoff, tick)?;
    let kernel = only_kernel(handoff);
    check()?;
    tick()?;
    let result =
        sys::c_string(command_line).and_then(|line| sys::kexec_file_load(&kernel, &initrd, &line));
    result.map_err(|error| {
        unload();
        Refusal::new(
            "kexec-failed",
            format!("the kernel did not take its successor: {error}"),
        )
        .into()
    })
}

/// Closes all other files of the handoff, so that their memory is free again.
fn only_kernel(handoff: Handoff) -> File {
    handoff.kernel
}

/// Bytes of what [`initrd`] builds, but for the headers of a few files.
fn initrd_size(manifest: &Verified<Manifest>) -> Result<u64, Refusal> {
    let size = |name| verify::artifact(manifest, name).map(|artifact| artifact.size);
    let artifacts = size("initramfs")?.saturating_add(size("rootfs")?);
    Ok(artifacts.saturating_add(manifest.bytes().len() as u64))
}

/// Disarms whatever is loaded.
pub(crate) fn unload() {
    // An error means that this kernel cannot do it at all, and then nothing was loaded either.
    let _nothing_loaded = sys::kexec_file_unload();
}

/// The initramfs that was fetched, and behind it an archive with the manifest and the squashfs: the successor finds there
/// what it serves, and verifies it again.
fn initrd(handoff: &Handoff, tick: Tick<'_>) -> Result<File, Stop> {
    let failed = |error: &io::Error| verify::io("initrd", error);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("initrd", flags).map_err(|error| failed(&error.into()))?;
    let mut initrd = File::from(file);
    let initramfs = verify::artifact(&handoff.manifest, "initramfs")?;
    verify::for_each_step(
        "initramfs",
        &handoff.initramfs,
        0,
        initramfs.size,
        tick,
        |bytes| initrd.write_all(bytes).map_err(|error| failed(&error)),
    )?;
    let rootfs = verify::artifact(&handoff.manifest, "rootfs")?;
    let manifest = handoff.manifest.bytes();
    let begin = |initrd: File| -> io::Result<Archive<File>> {
        let mut archive = Archive::new(initrd, initramfs.size)?;
        archive.directory("phase")?;
        archive.file("phase/manifest.json", manifest.len() as u64)?;
        archive.data(manifest)?;
        archive.end_file()?;
        archive.file("phase/rootfs.squashfs", rootfs.size)?;
        Ok(archive)
    };
    let mut archive = begin(initrd).map_err(|error| failed(&error))?;
    verify::for_each_step("rootfs", &handoff.rootfs, 0, rootfs.size, tick, |bytes| {
        archive.data(bytes).map_err(|error| failed(&error))
    })?;
    let finish = |mut archive: Archive<File>| -> io::Result<File> {
        archive.end_file()?;
        let initrd = archive.finish()?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&initrd, seals)?;
        Ok(initrd)
    };
    Ok(finish(archive).map_err(|error| failed(&error))?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::fd::OwnedFd;

    use boot_manifest::TrustRoot;

    use super::*;
    use crate::verify::tests::{key, manifest_for, policy};

    const MIB: u64 = 1 << 20;

    #[track_caller]
    fn check(kernel: u64, initrd: u64, runtime: u64, total: u64, available: u64, expected: bool) {
        let load = Load {
            kernel: kernel * MIB,
            initrd: initrd * MIB,
            runtime: runtime * MIB,
        };
        let memory = Memory {
            total: total * MIB,
            available: available * MIB,
        };
        let result = fits(load, memory);
        assert_eq!(result.is_ok(), expected, "{load:?} {memory:?} {result:?}");
    }

    #[test]
    fn a_machine_of_256_mib_boots_the_appliance() {
        check(6, 18, 40, 220, 150, true);
        check(6, 18, 40, 220, 104, true);
        check(6, 18, 40, 220, 103, false);
    }

    #[test]
    fn a_load_that_does_not_fit_is_never_tried() {
        check(8, 64, 70, 490, 400, true);
        check(8, 64, 70, 490, 230, false);
        check(8, 200, 70, 490, 490, false);
        check(8, 180, 70, 490, 490, false);
        check(0, 0, 0, 0, 0, false);
        check(8, 64, 72, 16_384, 290, true);
        check(8, 64, 72, 16_384, 279, false);
        let huge = Load {
            kernel: u64::MAX,
            initrd: u64::MAX,
            runtime: u64::MAX,
        };
        assert!(
            fits(
                huge,
                Memory {
                    total: u64::MAX,
                    available: u64::MAX
                }
            )
            .is_err()
        );
    }

    #[test]
    fn the_run_time_size_comes_from_the_header() {
        let mut header = vec![0; 0x264];
        assert_eq!(parse_runtime_size(&header), None);
        header[0x202..0x206].copy_from_slice(b"HdrS");
        header[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        header[0x260..0x264].copy_from_slice(&(41_u32 << 20).to_le_bytes());
        assert_eq!(parse_runtime_size(&header), Some(41 * MIB));
        header[0x206..0x208].copy_from_slice(&0x0209_u16.to_le_bytes());
        assert_eq!(
            parse_runtime_size(&header),
            None,
            "older kernels have no such field"
        );
        assert_eq!(parse_runtime_size(&header[..0x100]), None);
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn handoff() -> Handoff {
        let manifest = manifest_for(b"kernel", b"initramfs", b"hsqs");
        let bytes = boot_manifest::sign(&manifest, &[&key()]).unwrap();
        let root = TrustRoot::single(key().public());
        Handoff {
            manifest: verify::manifest(&bytes, &policy(&root)).unwrap(),
            kernel: file(b"kernel"),
            initramfs: file(b"initramfs"),
            rootfs: file(b"hsqs"),
        }
    }

    #[test]
    fn only_the_kernel_stays_open_for_the_load() {
        let (mut initramfs_open, initramfs) = io::pipe().unwrap();
        let (mut rootfs_open, rootfs) = io::pipe().unwrap();
        let handoff = Handoff {
            initramfs: File::from(OwnedFd::from(initramfs)),
            rootfs: File::from(OwnedFd::from(rootfs)),
            ..handoff()
        };
        let kernel = only_kernel(handoff);
        assert_eq!(kernel.metadata().unwrap().len(), 6);
        // A pipe ends when its last writer is closed.
        for reader in [&mut initramfs_open, &mut rootfs_open] {
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn the_size_of_the_initrd_is_known_before_it_is_built() {
        let handoff = handoff();
        let built = initrd(&handoff, &mut || Ok(())).unwrap();
        let known = initrd_size(&handoff.manifest).unwrap();
        let headers = built.metadata().unwrap().len() - known;
        assert!((1..1024).contains(&headers), "{headers}");
    }

    #[test]
    fn the_initrd_carries_what_was_verified() {
        let handoff = handoff();
        let bytes = handoff.manifest.bytes().to_vec();
        let mut initrd = initrd(&handoff, &mut || Ok(())).unwrap();
        let seals = rustix::fs::fcntl_get_seals(&initrd).unwrap();
        assert!(
            seals
                .contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)
        );
        let mut content = Vec::new();
        initrd.rewind().unwrap();
        initrd.read_to_end(&mut content).unwrap();
        assert!(content.starts_with(b"initramfs\x00\x00\x00070701"));
        let text = String::from_utf8_lossy(&content);
        assert!(text.contains("phase/manifest.json") && text.contains("phase/rootfs.squashfs"));
        assert!(
            content.windows(bytes.len()).any(|window| window == bytes),
            "the signed bytes, unchanged"
        );
    }
}
