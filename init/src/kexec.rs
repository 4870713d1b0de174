//! Starts a successor's kernel: memory rule, initrd, load, and never a half-armed state.
//!
//! `kexec_file_load` proves nothing about the file and can take the machine down when memory is short, so both were
//! checked before it is called. A failed load leaves an earlier kernel armed, so every way out unloads.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use boot_manifest::{Manifest, Verified};
use rustix::fs::{MemfdFlags, SealFlags};
use upgrade::Place;

use crate::cpio::Archive;
use crate::limits;
use crate::memory::{self, Memory};
use crate::plan::{Refusal, Stop};
use crate::sys::{self, Start};
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

/// A file that a successor finds below `/phase` beside its artifacts.
#[derive(Debug)]
pub(crate) struct Extra {
    /// Below `/phase`; its directory is made.
    pub(crate) path: &'static str,
    pub(crate) content: Content,
}

/// What is in it.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// A whole file and its size.
    File(File, u64),
}

/// Where a successor finds its squashfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rootfs {
    /// Beside its initramfs, in memory.
    Carried,
    /// In its slot: what need not be copied, hashed and unpacked on the way makes the jump shorter.
    InSlot,
}

impl Rootfs {
    /// How an image at `place` is started.
    pub(crate) fn of(place: Place) -> Self {
        match place {
            Place::A | Place::B => Self::InSlot,
            Place::Golden | Place::Memory => Self::Carried,
        }
    }
}

impl Extra {
    /// The root chain, where there is one.
    pub(crate) fn roots(roots: &[u8]) -> Vec<Self> {
        let chain = (!roots.is_empty()).then(|| Self {
            path: "roots.json",
            content: Content::Bytes(roots.to_vec()),
        });
        chain.into_iter().collect()
    }
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }
}

/// What the memory rule says about the successor of a handoff.
pub(crate) fn check(handoff: &Handoff, rootfs: Rootfs, extras: &[Extra]) -> Result<(), Refusal> {
    let beside = extras.iter().map(|extra| extra.content.size());
    let load = Load {
        kernel: verify::artifact(&handoff.manifest, "kernel")?.size,
        initrd: beside.fold(initrd_size(&handoff.manifest, rootfs)?, u64::saturating_add),
        runtime: runtime_size(&handoff.kernel),
    };
    fits(load, memory::now()).map_err(|reason| Refusal::new("not-enough-memory", reason))
}

/// Refuses a command line that the kernel would cut.
fn check_line(command_line: &str) -> Result<(), Refusal> {
    if command_line.len() < limits::KERNEL_CMDLINE_MAX {
        return Ok(());
    }
    let reason = format!(
        "the command line has {} bytes; the kernel takes fewer than 2048",
        command_line.len()
    );
    Err(Refusal::new("kexec-failed", reason))
}

/// Loads the successor of a verified handoff. Afterwards `reboot(KEXEC)` starts it.
pub(crate) fn load(
    handoff: Handoff,
    rootfs: Rootfs,
    extras: &[Extra],
    command_line: &str,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    check_line(command_line)?;
    // Before the initrd is built, which takes about the memory that is given back when the handoff is closed: PID 1 has no
    // limit of its own, so an image that does not fit would take the machine down right here.
    check(&handoff, rootfs, extras)?;
    let load = Load {
        kernel: verify::artifact(&handoff.manifest, "kernel")?.size,
        initrd: 0,
        runtime: runtime_size(&handoff.kernel),
    };
    let initrd = initrd(&handoff, rootfs, extras, tick)?;
    let kernel = only_kernel(handoff);
    let load = Load {
        initrd: initrd.metadata().map_or(u64::MAX, |seen| seen.len()),
        ..load
    };
    fits(load, memory::now()).map_err(|reason| Refusal::new("not-enough-memory", reason))?;
    tick()?;
    load_files(&kernel, &initrd, command_line, Start::Asked)?;
    if is_loaded(LOADED) {
        return Ok(());
    }
    unload();
    let reason = "the kernel took its successor and does not have it";
    Err(Refusal::new("kexec-failed", reason).into())
}

/// Loads what takes over when this kernel crashes, into the memory that was reserved for it.
///
/// The rule about memory does not apply: the reservation is what is used, and a load that does not fit into it is refused
/// by the kernel.
pub(crate) fn load_for_crash(
    kernel: &File,
    initrd: &File,
    command_line: &str,
) -> Result<(), Refusal> {
    check_line(command_line)?;
    load_files(kernel, initrd, command_line, Start::Crash)
}

fn load_files(
    kernel: &File,
    initrd: &File,
    command_line: &str,
    start: Start,
) -> Result<(), Refusal> {
    let result = sys::c_string(command_line)
        .and_then(|line| sys::kexec_file_load(kernel, initrd, &line, start));
    result.map_err(|error| {
        // A failed load leaves an earlier kernel armed.
        let _nothing_loaded = sys::kexec_file_unload(start);
        let reason = match start {
            Start::Asked => format!("the kernel did not take its successor: {error}"),
            Start::Crash => format!("the kernel did not take its predecessor: {error}"),
        };
        Refusal::new("kexec-failed", reason)
    })
}

const LOADED: &str = "/sys/kernel/kexec_loaded";

/// Whether a successor is loaded.
pub(crate) fn is_ready() -> bool {
    is_loaded(LOADED)
}

/// Whether a file of the kernel says 1. One that is not there is not asked: some kernels do not show it.
fn is_loaded(path: &str) -> bool {
    std::fs::read_to_string(path).map_or(true, |text| text.trim() == "1")
}

/// Closes all other files of the handoff, so that their memory is free again.
fn only_kernel(handoff: Handoff) -> File {
    handoff.kernel
}

/// Bytes of what [`initrd`] builds, but for the headers of a few files.
fn initrd_size(manifest: &Verified<Manifest>, rootfs: Rootfs) -> Result<u64, Refusal> {
    let size = |name| verify::artifact(manifest, name).map(|artifact| artifact.size);
    let artifacts = match rootfs {
        Rootfs::Carried => size("initramfs")?.saturating_add(size("rootfs")?),
        Rootfs::InSlot => size("initramfs")?,
    };
    Ok(artifacts.saturating_add(manifest.bytes().len() as u64))
}

/// Forgets what was loaded for a crash, and gives its memory back.
pub(crate) fn release_crash_memory() -> std::io::Result<()> {
    if is_loaded("/sys/kernel/kexec_crash_loaded") {
        sys::kexec_file_unload(Start::Crash)?;
    }
    std::fs::write(CRASH_SIZE, "0")
}

const CRASH_SIZE: &str = "/sys/kernel/kexec_crash_size";

/// Bytes that are reserved for a kernel that takes over after a crash.
pub(crate) fn crash_memory() -> u64 {
    let text = std::fs::read_to_string(CRASH_SIZE).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Disarms whatever is loaded.
pub(crate) fn unload() {
    // An error means that this kernel cannot do it at all, and then nothing was loaded either.
    let _nothing_loaded = sys::kexec_file_unload(Start::Asked);
}

/// The initramfs that was fetched, and behind it an archive with the manifest, the extras and, unless it lies in a slot, the
/// squashfs: the successor
/// finds there what it serves, and verifies it again.
fn initrd(
    handoff: &Handoff,
    rootfs: Rootfs,
    extras: &[Extra],
    tick: Tick<'_>,
) -> Result<File, Stop> {
    let failed = |error: &io::Error| verify::io("initrd", error);
    let mut initrd = memory_file().map_err(|error| failed(&error))?;
    let initramfs = verify::artifact(&handoff.manifest, "initramfs")?;
    copy(
        "initramfs",
        &handoff.initramfs,
        initramfs.size,
        &mut initrd,
        tick,
    )?;
    let manifest = handoff.manifest.bytes();
    let begin = |initrd: File| -> io::Result<Archive<File>> {
        let mut archive = Archive::new(initrd, initramfs.size)?;
        archive.directory("phase")?;
        for directory in directories(extras) {
            archive.directory(&directory)?;
        }
        archive.file("phase/manifest.json", manifest.len() as u64)?;
        archive.data(manifest)?;
        archive.end_file()?;
        Ok(archive)
    };
    let mut archive = begin(initrd).map_err(|error| failed(&error))?;
    for Extra { path, content } in extras {
        let path = format!("phase/{path}");
        append(&mut archive, &path, content, tick)?;
    }
    if rootfs == Rootfs::Carried {
        let size = verify::artifact(&handoff.manifest, "rootfs")?.size;
        let name = "phase/rootfs.squashfs";
        append_file(&mut archive, name, &handoff.rootfs, size, tick)?;
    }
    Ok(archive
        .finish()
        .and_then(seal)
        .map_err(|error| failed(&error))?)
}

/// Directories that the extras lie in, each once.
fn directories(extras: &[Extra]) -> Vec<String> {
    let mut all: Vec<String> = extras
        .iter()
        .filter_map(|extra| extra.path.rsplit_once('/'))
        .map(|(directory, _)| format!("phase/{directory}"))
        .collect();
    all.dedup();
    all
}

/// An initramfs and behind it an archive with some files: what a kernel that takes over after a crash needs.
pub(crate) fn initrd_of(
    initramfs: &File,
    size: u64,
    extras: &[Extra],
    tick: Tick<'_>,
) -> Result<File, Stop> {
    let failed = |error: &io::Error| verify::io("initrd", error);
    let mut initrd = memory_file().map_err(|error| failed(&error))?;
    copy("initramfs", initramfs, size, &mut initrd, tick)?;
    let mut archive = Archive::new(initrd, size)
        .and_then(|mut archive| archive.directory("phase").map(|()| archive))
        .map_err(|error| failed(&error))?;
    for Extra { path, content } in extras {
        append(&mut archive, &format!("phase/{path}"), content, tick)?;
    }
    Ok(archive
        .finish()
        .and_then(seal)
        .map_err(|error| failed(&error))?)
}

fn append(
    archive: &mut Archive<File>,
    path: &str,
    content: &Content,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    match content {
        Content::File(file, size) => append_file(archive, path, file, *size, tick),
        Content::Bytes(bytes) => {
            let written = archive
                .file(path, bytes.len() as u64)
                .and_then(|()| archive.data(bytes))
                .and_then(|()| archive.end_file());
            Ok(written.map_err(|error| verify::io(path, &error))?)
        }
    }
}

fn append_file(
    archive: &mut Archive<File>,
    path: &str,
    file: &File,
    size: u64,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    archive
        .file(path, size)
        .map_err(|error| verify::io(path, &error))?;
    verify::for_each_step(path, file, 0, size, tick, |bytes| {
        archive
            .data(bytes)
            .map_err(|error| verify::io(path, &error))
    })?;
    Ok(archive
        .end_file()
        .map_err(|error| verify::io(path, &error))?)
}

fn copy(name: &str, from: &File, size: u64, to: &mut File, tick: Tick<'_>) -> Result<(), Stop> {
    verify::for_each_step(name, from, 0, size, tick, |bytes| {
        to.write_all(bytes)
            .map_err(|error| verify::io(name, &error))
    })
}

fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(File::from(rustix::fs::memfd_create("initrd", flags)?))
}

fn seal(file: File) -> io::Result<File> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
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
    fn judge(kernel: u64, initrd: u64, runtime: u64, total: u64, available: u64, expected: bool) {
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
        judge(6, 18, 40, 220, 150, true);
        judge(6, 18, 40, 220, 104, true);
        judge(6, 18, 40, 220, 103, false);
    }

    #[test]
    fn a_load_that_does_not_fit_is_never_tried() {
        judge(8, 64, 70, 490, 400, true);
        judge(8, 64, 70, 490, 230, false);
        judge(8, 200, 70, 490, 490, false);
        judge(8, 180, 70, 490, 490, false);
        judge(0, 0, 0, 0, 0, false);
        judge(8, 64, 72, 16_384, 290, true);
        judge(8, 64, 72, 16_384, 279, false);
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
            roots: Vec::new(),
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
        let built = initrd(&handoff, Rootfs::Carried, &[], &mut || Ok(())).unwrap();
        let known = initrd_size(&handoff.manifest, Rootfs::Carried).unwrap();
        let headers = built.metadata().unwrap().len() - known;
        assert!((1..1024).contains(&headers), "{headers}");
    }

    #[test]
    fn extras_lie_beside_the_artifacts() {
        let handoff = handoff();
        let extras = [
            Extra {
                path: "roots.json",
                content: Content::Bytes(b"[]".to_vec()),
            },
            Extra {
                path: "previous/vmlinuz",
                content: Content::File(file(b"old kernel"), 10),
            },
        ];
        let mut initrd = initrd(&handoff, Rootfs::InSlot, &extras, &mut || Ok(())).unwrap();
        let mut content = Vec::new();
        initrd.rewind().unwrap();
        initrd.read_to_end(&mut content).unwrap();
        let text = String::from_utf8_lossy(&content);
        let at = |wanted: &str| text.find(wanted).unwrap_or_else(|| panic!("no {wanted}"));
        assert!(
            at("phase/previous\0") < at("phase/previous/vmlinuz"),
            "the folder comes first"
        );
        assert!(at("phase/roots.json") < at("old kernel"));
        assert!(
            !text.contains("phase/rootfs.squashfs"),
            "that lies in the slot"
        );
    }

    #[test]
    fn the_initrd_carries_what_was_verified() {
        let handoff = handoff();
        let bytes = handoff.manifest.bytes().to_vec();
        let mut initrd = initrd(&handoff, Rootfs::Carried, &[], &mut || Ok(())).unwrap();
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
