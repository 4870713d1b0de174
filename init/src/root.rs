//! From a source to the directory that `serve` offers: copy, verify, mount, bind.
//!
//! ```text
//! /run/phase/images/rootfs.squashfs           the verified copy, on a memory file system of just its size
//! /run/phase/rootfs                           that copy, mounted through a read-only loop device
//! /run/phase/unified/phase.efi                put together from files of it, on a memory file system of just its size
//! /run/phase/artifacts/<channel>/<arch>/      manifest.json: the signed bytes
//!                                             roots.json: the root chain, where there is one
//!                                             vmlinuz, initramfs.img: binds of files of the mounted squashfs
//!                                             phase.efi: a bind of the file below
//!                                             undionly.kpxe, ...: the same, for firmware, where the squashfs has them
//!                                             rootfs.squashfs: a bind of the copy
//! ```
//!
//! The copy is made even when the source is in memory already, so that nothing but `init` can ever write to what was
//! verified. A source that is itself in memory is given back while it is copied, so the peak is one image, not two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use boot_manifest::{Artifact, Manifest, Verified};
use rustix::fs::FallocateFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};

use crate::plan::{Refusal, Stop};
use crate::sys;
use crate::unified::{self, Part};
use crate::verify::{self, Tick};
use crate::{chunked, limits, memory};

/// What the image trusts.
pub(crate) const TRUST_ROOT: &str = "/etc/phase/trust-root.json";
/// The root chain of the image, where its keys were ever replaced.
pub(crate) const ROOTS: &str = "/etc/phase/roots.json";
/// The one that the kernel before brought along, with the manifest it started.
pub(crate) const ROOTS_BROUGHT: &str = "/phase/roots.json";
/// What the image is.
pub(crate) const IMAGE_INFO: &str = "/etc/phase/image.json";
/// What `serve` offers.
pub(crate) const ARTIFACTS: &str = "/run/phase/artifacts";
/// What the predecessor's `net` held, so that this one's goes on with it.
pub(crate) const LEASE_BROUGHT: &str = "/phase/network.json";
/// Everything of this product below `/run`.
pub(crate) const STATE: &str = "/run/phase";
/// Owned by the `net` role.
pub(crate) const NETWORK: &str = "/run/phase/net";
/// Programs for firmware that the squashfs may hold beside what its manifest lists. No digest of their own: they are part of
/// the squashfs, which was verified whole.
const BOOT_PROGRAMS: [&str; 3] = ["undionly.kpxe", "snponly.efi", "ipxe.efi"];
const IMAGES: &str = "/run/phase/images";
const ROOTFS: &str = "/run/phase/rootfs";
const UNIFIED: &str = "/run/phase/unified";
/// The same for an image that is only looked into.
const OTHER_IMAGES: &str = "/run/phase/other-images";
const OTHER_ROOTFS: &str = "/run/phase/other-rootfs";

/// Where a squashfs is read from.
#[derive(Debug)]
pub(crate) struct Medium {
    pub(crate) file: File,
    pub(crate) offset: u64,
    /// The memory behind it is given back as it is copied: the source is a file of the initramfs.
    pub(crate) consume: bool,
}

/// When the files inside the squashfs are checked one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inner {
    /// Before anything is served: another source can still be tried.
    Checked,
    /// By [`finish`], while the squashfs is served already. For an image whose predecessor checked them.
    Later,
}

/// Copies, verifies and mounts the squashfs of `manifest`, and builds the directory of artifacts.
///
/// On an error everything is taken down again, so that another source can be tried.
pub(crate) fn install(
    manifest: &Verified<Manifest>,
    roots: &[u8],
    medium: &Medium,
    inner: Inner,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let result =
        try_install(manifest, medium, inner, tick).and_then(|()| Ok(offer_roots(manifest, roots)?));
    if result.is_err() {
        take_down();
    }
    result
}

fn try_install(
    manifest: &Verified<Manifest>,
    medium: &Medium,
    inner: Inner,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let memory_available = memory::now().available;
    let rootfs = verify::artifact(manifest, "rootfs")?;
    let unified = manifest.artifact(unified::NAME);
    let unified = unified.map_or(0, |artifact| artifact.size);
    fits(rootfs.size, unified, memory_available, medium.consume)?;
    let image = copy_image(rootfs, medium, IMAGES, tick)?;
    mount_squashfs(&image, ROOTFS).map_err(|error| mount_failed("squashfs", &error))?;
    build_artifacts(manifest, &image, inner, tick)
}

/// Kernel and initramfs out of a squashfs that is not served. The memory that it takes is given back when both are closed.
pub(crate) fn look_into(
    manifest: &Verified<Manifest>,
    medium: &Medium,
    tick: Tick<'_>,
) -> Result<[File; 2], Stop> {
    let rootfs = verify::artifact(manifest, "rootfs")?;
    fits(rootfs.size, 0, memory::now().available, medium.consume)?;
    let result = copy_image(rootfs, medium, OTHER_IMAGES, tick).and_then(|image| {
        mount_squashfs(&image, OTHER_ROOTFS).map_err(|error| mount_failed("squashfs", &error))?;
        Ok([
            open_inside(manifest, "kernel", tick)?,
            open_inside(manifest, "initramfs", tick)?,
        ])
    });
    // What is open keeps both alive, and nobody finds them any more.
    for place in [OTHER_ROOTFS, OTHER_IMAGES] {
        let _not_mounted = rustix::mount::unmount(place, UnmountFlags::DETACH);
    }
    result
}

fn open_inside(manifest: &Manifest, name: &str, tick: Tick<'_>) -> Result<File, Stop> {
    let artifact = verify::artifact(manifest, name)?;
    let path = Path::new(OTHER_ROOTFS)
        .join(manifest.channel.as_str())
        .join(manifest.arch.as_str())
        .join(artifact.filename.as_str());
    let file = File::open(&path).map_err(|error| verify::io(name, &error))?;
    verify::same_bytes(name, &file, artifact, tick)?;
    Ok(file)
}

fn mount_failed(what: &str, error: &io::Error) -> Refusal {
    Refusal::new("mount-failed", format!("{what}: {error}"))
}

/// The copy, and the program that is put together from it, must leave room for the programs that serve them.
fn fits(size: u64, unified: u64, available: u64, consume: bool) -> Result<(), Refusal> {
    // One step is copied before it is given back.
    let copied = if consume {
        limits::STEP_SIZE as u64
    } else {
        size
    };
    let needed = copied.saturating_add(unified);
    if needed.saturating_add(limits::IMAGE_RESERVE) <= available {
        return Ok(());
    }
    let reason = format!(
        "rootfs: {} MiB do not fit: {} MiB of memory are free and {} MiB of them are kept for the programs",
        size.saturating_add(unified) >> 20,
        available >> 20,
        limits::IMAGE_RESERVE >> 20
    );
    Err(Refusal::new("not-enough-memory", reason))
}

fn copy_image(
    rootfs: &Artifact,
    medium: &Medium,
    place: &str,
    tick: Tick<'_>,
) -> Result<PathBuf, Stop> {
    let path = Path::new(place).join("rootfs.squashfs");
    let mut copy =
        create_in_memory(place, rootfs.size, &path).map_err(|error| mount_failed(place, &error))?;
    let mut done = 0;
    verify::for_each_step(
        "rootfs",
        &medium.file,
        medium.offset,
        rootfs.size,
        tick,
        |bytes| {
            copy.write_all(bytes)
                .map_err(|error| verify::io("rootfs", &error))?;
            if medium.consume {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Where holes cannot be made the memory comes back later, when the file is deleted.
                let _later = rustix::fs::fallocate(
                    &medium.file,
                    hole,
                    medium.offset + done,
                    bytes.len() as u64,
                );
            }
            done += bytes.len() as u64;
            Ok(())
        },
    )?;
    drop(copy);
    make_read_only(place)?;
    // What is checked is the copy that is used, when nobody can write to it any more.
    let copy = File::open(&path).map_err(|error| verify::io("rootfs", &error))?;
    chunked::check("rootfs", &copy, rootfs, tick)?;
    Ok(path)
}

/// From here on not even init can write to it by accident.
fn make_read_only(place: &str) -> Result<(), Refusal> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount(place, flags, c"")
        .map_err(|error| mount_failed(place, &error.into()))
}

/// A file at `path`, on a file system in memory at `place` that holds exactly it: nothing else in it can grow.
fn create_in_memory(place: &str, size: u64, path: &Path) -> io::Result<File> {
    crate::mounts::make_directory(Path::new(place))?;
    let size = size.next_multiple_of(1 << 16);
    let data = sys::c_string(&format!(
        "size={size},nr_inodes={},mode=0755",
        limits::IMAGE_INODES
    ))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", place, "tmpfs", flags, Some(&*data))?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
}

/// Mounts the copy; the mount becomes visible only when it is complete.
fn mount_squashfs(image: &Path, target: &str) -> io::Result<()> {
    crate::mounts::make_directory(Path::new(target))?;
    let device = attach_loop(image)?;
    let context = rustix::mount::fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Without the flag the kernel asks for a writable device and answers EACCES.
    rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", &device.path)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let here: BorrowedFd<'_> = rustix::fs::CWD;
    rustix::mount::move_mount(
        mount.as_fd(),
        "",
        here,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    // The mount holds the device now; with the last user gone it clears itself.
    drop(device);
    Ok(())
}

struct LoopDevice {
    path: PathBuf,
    _open: File,
}

fn attach_loop(image: &Path) -> io::Result<LoopDevice> {
    let backing = File::open(image)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let path = PathBuf::from(format!("/dev/loop{}", sys::free_loop_device(&control)?));
    let device = File::open(&path)?;
    sys::configure_loop(&device, &backing)?;
    Ok(LoopDevice {
        path,
        _open: device,
    })
}

/// Builds the directory that is served. The kernel and the initramfs inside the squashfs are checked against the manifest
/// too, now or by [`finish`]: the squashfs was signed, but only this proves that it holds the files the manifest promises.
fn build_artifacts(
    manifest: &Verified<Manifest>,
    image: &Path,
    inner: Inner,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let place = Path::new(manifest.channel.as_str()).join(manifest.arch.as_str());
    let inside = Path::new(ROOTFS).join(&place);
    let served = Path::new(ARTIFACTS).join(&place);
    fs::create_dir_all(&served).map_err(|error| verify::io("artifacts", &error))?;
    write_file(&served.join("manifest.json"), manifest.bytes())
        .map_err(|error| verify::io("manifest", &error))?;
    for artifact in &manifest.artifacts {
        let file = artifact.filename.as_str();
        if artifact.name.as_str() == "rootfs" {
            bind(image, &served.join(file)).map_err(|error| mount_failed(file, &error))?;
        } else if inner == Inner::Checked {
            check_inner(manifest, artifact, tick)?;
            offer_inner(artifact, &inside, &served)?;
        } else if is_plain_file(&inside.join(file)) {
            offer_inner(artifact, &inside, &served)?;
        }
    }
    let listed = |name: &str| {
        let mut artifacts = manifest.artifacts.iter();
        artifacts.any(|artifact| artifact.filename.as_str() == name)
    };
    for name in BOOT_PROGRAMS {
        let from = inside.join(name);
        if is_plain_file(&from) && !listed(name) {
            bind(&from, &served.join(name)).map_err(|error| mount_failed(name, &error))?;
        }
    }
    Ok(())
}

/// Does what [`Inner::Later`] put off: checks what lies inside the squashfs, and puts the EFI program together.
pub(crate) fn finish(manifest: &Verified<Manifest>, tick: Tick<'_>) -> Result<(), Stop> {
    let place = Path::new(manifest.channel.as_str()).join(manifest.arch.as_str());
    let inside = Path::new(ROOTFS).join(&place);
    let served = Path::new(ARTIFACTS).join(&place);
    for artifact in &manifest.artifacts {
        if artifact.name.as_str() == "rootfs" {
            continue;
        }
        check_inner(manifest, artifact, tick)?;
        if !served.join(artifact.filename.as_str()).exists() {
            offer_inner(artifact, &inside, &served)?;
        }
    }
    Ok(())
}

/// Whether an artifact is put together from others instead of lying in the squashfs.
fn is_put_together(artifact: &Artifact, inside: &Path) -> bool {
    artifact.name.as_str() == unified::NAME && is_plain_file(&head_of(artifact, inside))
}

fn head_of(artifact: &Artifact, inside: &Path) -> PathBuf {
    let file = artifact.filename.as_str();
    inside.join(format!("{file}{}", unified::HEAD_SUFFIX))
}

fn check_inner(
    manifest: &Verified<Manifest>,
    artifact: &Artifact,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let place = Path::new(manifest.channel.as_str()).join(manifest.arch.as_str());
    let inside = Path::new(ROOTFS).join(&place);
    if is_put_together(artifact, &inside) {
        let head = head_of(artifact, &inside);
        return put_together(manifest, artifact, &head, tick);
    }
    let name = format!("{} in the rootfs", artifact.name.as_str());
    let opened = File::open(inside.join(artifact.filename.as_str()))
        .map_err(|error| verify::io(&name, &error))?;
    verify::same_bytes(&name, &opened, artifact, tick)
}

fn offer_inner(artifact: &Artifact, inside: &Path, served: &Path) -> Result<(), Refusal> {
    let file = artifact.filename.as_str();
    let from = if is_put_together(artifact, inside) {
        Path::new(UNIFIED).join(file)
    } else {
        inside.join(file)
    };
    bind(&from, &served.join(file)).map_err(|error| mount_failed(file, &error))
}

/// Others that trust an older root need the chain that leads to the keys of this manifest.
fn offer_roots(manifest: &Manifest, roots: &[u8]) -> Result<(), Refusal> {
    if roots.is_empty() {
        return Ok(());
    }
    let place = Path::new(manifest.channel.as_str()).join(manifest.arch.as_str());
    let path = Path::new(ARTIFACTS).join(place).join("roots.json");
    write_file(&path, roots).map_err(|error| verify::io("roots", &error))
}

/// Puts the EFI program together in memory.
fn put_together(
    manifest: &Verified<Manifest>,
    artifact: &Artifact,
    head: &Path,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let folder = head.parent().unwrap_or(Path::new(ROOTFS));
    let mut parts = vec![part("its head", head)?];
    for name in ["kernel", "initramfs"] {
        let file = verify::artifact(manifest, name)?.filename.as_str();
        parts.push(part(name, &folder.join(file))?);
    }
    let path = Path::new(UNIFIED).join(artifact.filename.as_str());
    let out = create_in_memory(UNIFIED, artifact.size, &path)
        .map_err(|error| mount_failed(UNIFIED, &error))?;
    unified::assemble(artifact, &parts, &out, tick)?;
    drop(out);
    make_read_only(UNIFIED)?;
    Ok(())
}

fn part(name: &'static str, path: &Path) -> Result<Part, Refusal> {
    let file = File::open(path).map_err(|error| verify::io(name, &error))?;
    let size = file
        .metadata()
        .map_err(|error| verify::io(name, &error))?
        .len();
    Ok(Part { name, file, size })
}

/// A regular file and nothing that leads elsewhere.
fn is_plain_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|seen| seen.is_file())
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)?
        .write_all(bytes)
}

/// Makes `from` visible at `to`, read-only.
fn bind(from: &Path, to: &Path) -> io::Result<()> {
    drop(
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o444)
            .open(to)?,
    );
    rustix::mount::mount_bind(from, to)?;
    let flags = MountFlags::BIND
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    rustix::mount::mount_remount(to, flags, c"")?;
    Ok(())
}

/// Takes everything down again, innermost first. What is busy is detached: it goes when its last user does.
pub(crate) fn take_down() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in ours_innermost_first(&mounts) {
        if rustix::mount::unmount(&target, UnmountFlags::NOFOLLOW).is_err() {
            let _gone_at_power_off = rustix::mount::unmount(&target, UnmountFlags::DETACH);
        }
    }
    let _nothing_there = fs::remove_dir_all(ARTIFACTS);
}

/// The mount points below `/run/phase`, the last mounted first. Names with spaces cannot occur there.
fn ours_innermost_first(mounts: &str) -> Vec<String> {
    let targets = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(1));
    targets
        .filter(|target| target.starts_with("/run/phase/"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_do_not_fit_are_refused_before_they_are_copied() {
        let mib = |count: u64| count << 20;
        assert!(fits(mib(13), 0, mib(120), false).is_ok());
        assert!(fits(mib(100), 0, mib(120), false).is_err());
        assert!(
            fits(mib(100), 0, mib(120), true).is_ok(),
            "memory of the source is given back meanwhile"
        );
        assert!(
            fits(mib(100), mib(100), mib(120), true).is_err(),
            "that of the program is not"
        );
        assert!(fits(mib(13), 0, mib(32), true).is_err());
        assert!(fits(u64::MAX, u64::MAX, mib(120), false).is_err());
    }

    #[test]
    fn mounts_are_undone_innermost_first() {
        let mounts = "proc /proc proc rw 0 0\n\
                      tmpfs /run tmpfs rw 0 0\n\
                      tmpfs /run/phase/images tmpfs rw 0 0\n\
                      /dev/loop0 /run/phase/rootfs squashfs ro 0 0\n\
                      /dev/loop0 /run/phase/artifacts/stable/x86_64/vmlinuz squashfs ro 0 0\n\
                      x /run/phases tmpfs rw 0 0\n";
        assert_eq!(
            ours_innermost_first(mounts),
            [
                "/run/phase/artifacts/stable/x86_64/vmlinuz",
                "/run/phase/rootfs",
                "/run/phase/images"
            ]
        );
    }
}
