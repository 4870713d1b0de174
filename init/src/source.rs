//! Finds artifacts that are on this machine: a disk partition, or files of the initramfs.
//!
//! A partition is found by its GPT name, through `/sys`, and read directly: no file system of a disk is ever mounted.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boot_manifest::{MANIFEST_SIZE_MAX, Manifest, Verified};
use rustix::fs::{Mode, OFlags};

use crate::limits;
use crate::plan::Refusal;
use crate::root::Medium;
use crate::verify;

/// GPT name of the partition.
pub(crate) const PARTITION_NAME: &str = "phase-artifacts";

/// Where an archive that was appended to the initramfs unpacked its files.
const INITRAMFS: &str = "/phase";

/// A manifest that was not verified yet, and the squashfs beside it.
#[derive(Debug)]
pub(crate) struct Found {
    /// For the console.
    pub(crate) place: String,
    pub(crate) manifest: Vec<u8>,
    pub(crate) medium: Medium,
}

/// The same with its verified manifest. The squashfs is still to be verified.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) found: Found,
    pub(crate) manifest: Verified<Manifest>,
}

impl Judged {
    /// The device of a disk: the place without its kind.
    pub(crate) fn device(&self) -> &str {
        let place = &self.found.place;
        place.strip_prefix("disk ").unwrap_or(place)
    }

    /// Which one it is, for the console.
    pub(crate) fn label(&self) -> String {
        format!("{} (sequence {})", self.found.place, self.manifest.sequence)
    }
}

/// Puts the highest sequence first; the order of equal ones stays.
pub(crate) fn newest_first(judged: &mut [Judged]) {
    judged.sort_by_key(|judged| Reverse(judged.manifest.sequence));
}

/// Whether the initramfs brought artifacts along.
pub(crate) fn initramfs_has_artifacts() -> bool {
    Path::new(INITRAMFS).join("manifest.json").exists()
}

/// The artifacts of the initramfs.
pub(crate) fn in_initramfs() -> Result<Found, Refusal> {
    in_folder(Path::new(INITRAMFS))
}

/// The manifest of the initramfs alone.
pub(crate) fn manifest_of_initramfs() -> Result<Vec<u8>, Refusal> {
    manifest_in(Path::new(INITRAMFS))
}

fn open_in(folder: &Path, name: &str, flags: OFlags) -> Result<File, Refusal> {
    let path = folder.join(name);
    open_regular(&path, flags).map_err(|error| absent_or_broken(&path, &error))
}

fn manifest_in(folder: &Path) -> Result<Vec<u8>, Refusal> {
    let mut manifest = Vec::new();
    let limit = MANIFEST_SIZE_MAX as u64 + 1;
    open_in(folder, "manifest.json", OFlags::RDONLY)?
        .take(limit)
        .read_to_end(&mut manifest)
        .map_err(|error| verify::io("manifest", &error))?;
    Ok(manifest)
}

fn in_folder(folder: &Path) -> Result<Found, Refusal> {
    let manifest = manifest_in(folder)?;
    // Writable, because the memory behind it is given back while it is copied.
    let medium = Medium {
        file: open_in(folder, "rootfs.squashfs", OFlags::RDWR)?,
        offset: 0,
        consume: true,
    };
    Ok(Found {
        place: "initramfs".to_owned(),
        manifest,
        medium,
    })
}

/// Opens a regular file and nothing else: whoever packs an archive can put a pipe or a device there, which would be waited
/// for, or a link that leads elsewhere.
fn open_regular(path: &Path, flags: OFlags) -> std::io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::other("is not a regular file"))
    }
}

fn absent_or_broken(path: &Path, error: &std::io::Error) -> Refusal {
    if error.kind() == std::io::ErrorKind::NotFound {
        Refusal::new(
            Refusal::NOT_FOUND,
            format!("the initramfs has no {}", path.display()),
        )
    } else {
        verify::io(&path.display().to_string(), error)
    }
}

/// Deletes the artifacts that the initramfs brought: they were copied, or did not verify. What lies beside them for
/// upgrades is small, and is needed until a trial is over.
pub(crate) fn discard_initramfs() {
    for name in ["manifest.json", "rootfs.squashfs"] {
        let _gone_with_the_machine = fs::remove_file(Path::new(INITRAMFS).join(name));
    }
}

/// Opens an artifacts partition and reads the manifest at its start.
pub(crate) fn on_disk(device: &Path) -> Result<Found, Refusal> {
    let name = device.display().to_string();
    let file = File::open(device).map_err(|error| verify::io(&name, &error))?;
    let mut manifest =
        vec![0; usize::try_from(limits::DISK_SQUASHFS_OFFSET).unwrap_or(MANIFEST_SIZE_MAX)];
    let read =
        verify::read_up_to(&file, &mut manifest, 0).map_err(|error| verify::io(&name, &error))?;
    if read < manifest.len() {
        return Err(verify::ends_early(
            &name,
            read as u64,
            manifest.len() as u64,
        ));
    }
    let end = manifest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    manifest.truncate(end);
    manifest.shrink_to_fit();
    let medium = Medium {
        file,
        offset: limits::DISK_SQUASHFS_OFFSET,
        consume: false,
    };
    Ok(Found {
        place: format!("disk {name}"),
        manifest,
        medium,
    })
}

/// The partitions with our name, in the order of their device names.
pub(crate) fn partitions(class_block: &Path, dev: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(class_block) else {
        return Vec::new();
    };
    let mut devices: Vec<PathBuf> = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("uevent")).ok())
        .filter_map(|uevent| device_of(&uevent).map(str::to_owned))
        .map(|name| dev.join(name))
        .collect();
    devices.sort();
    devices.truncate(limits::DISKS_MAX);
    devices
}

/// The device name in a block device's `uevent` file, when it is a partition with our name.
fn device_of(uevent: &str) -> Option<&str> {
    let (device, name) = partition_of(uevent)?;
    (name == PARTITION_NAME).then_some(device)
}

/// Device name and GPT name in a block device's `uevent` file, when it is a partition that has one.
pub(crate) fn partition_of(uevent: &str) -> Option<(&str, &str)> {
    let value = |key: &str| {
        uevent
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let device = value("DEVNAME")?;
    // The kernel names devices; this only makes sure that a name stays below /dev.
    let plain = !device.is_empty()
        && !device
            .split('/')
            .any(|part| part.is_empty() || part == "..");
    let name = value("PARTNAME").filter(|_| plain && value("DEVTYPE") == Some("partition"))?;
    Some((device, name))
}

/// What the kernel has found so far; when this stops changing, it has found what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    names: BTreeSet<String>,
    has_usb_storage: bool,
}

/// Looks at the devices that disks appear on.
pub(crate) fn devices(class: &Path, usb: &Path) -> Devices {
    let mut found = Devices::default();
    for kind in ["block", "nvme", "scsi_host", "mmc_host"] {
        let entries = fs::read_dir(class.join(kind))
            .into_iter()
            .flatten()
            .flatten();
        found
            .names
            .extend(entries.map(|entry| format!("{kind}/{}", entry.file_name().to_string_lossy())));
    }
    for entry in fs::read_dir(usb).into_iter().flatten().flatten() {
        let interface_class =
            fs::read_to_string(entry.path().join("bInterfaceClass")).unwrap_or_default();
        // 08 is mass storage.
        found.has_usb_storage |= interface_class.trim() == "08";
        found
            .names
            .insert(format!("usb/{}", entry.file_name().to_string_lossy()));
    }
    found
}

/// Decides how long to wait for a disk. Pure: the clock and the devices are arguments.
#[derive(Debug)]
pub(crate) struct DiskWait {
    started: Instant,
    /// Nothing else can be tried: wait the whole time.
    only: bool,
    most: Duration,
    seen: Devices,
    since: Instant,
}

impl DiskWait {
    pub(crate) fn new(now: Instant, only: bool, most: Duration) -> Self {
        Self {
            started: now,
            only,
            most,
            seen: Devices::default(),
            since: now,
        }
    }

    /// Whether to go on waiting, after a look at the devices.
    pub(crate) fn goes_on(&mut self, now: Instant, devices: Devices) -> bool {
        let settle = if devices.has_usb_storage {
            limits::DISK_SETTLE_USB
        } else {
            limits::DISK_SETTLE
        };
        if devices != self.seen {
            self.seen = devices;
            self.since = now;
        }
        let settled = now.duration_since(self.since) >= settle;
        now.duration_since(self.started) < self.most && (self.only || !settled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    const OURS: &str = "MAJOR=254\nMINOR=2\nDEVNAME=vda2\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=2\nPARTNAME=phase-artifacts\n";

    #[test]
    fn partitions_are_found_by_name() {
        assert_eq!(device_of(OURS), Some("vda2"));
        assert_eq!(
            device_of(&OURS.replace("vda2", "mapper/x")),
            Some("mapper/x")
        );
        for other in [
            OURS.replace("phase-artifacts", "phase-artifacts2"),
            OURS.replace("PARTNAME=phase-artifacts", "PARTNAME="),
            OURS.replace("PARTNAME", "XPARTNAME"),
            OURS.replace("DEVTYPE=partition", "DEVTYPE=disk"),
            OURS.replace("vda2", "../etc/shadow"),
            OURS.replace("vda2", "/etc/shadow"),
            OURS.replace("DEVNAME=vda2\n", ""),
            String::new(),
        ] {
            assert_eq!(device_of(&other), None, "{other}");
        }
    }

    #[test]
    fn partitions_are_listed_in_order() {
        let sys = tempfile::tempdir().unwrap();
        for name in ["vdb2", "sda2", "vda1"] {
            fs::create_dir(sys.path().join(name)).unwrap();
            let uevent = OURS.replace("vda2", name);
            let uevent = if name == "vda1" {
                uevent.replace("phase-artifacts", "esp")
            } else {
                uevent
            };
            fs::write(sys.path().join(name).join("uevent"), uevent).unwrap();
        }
        let found = partitions(sys.path(), Path::new("/dev"));
        assert_eq!(
            found,
            [PathBuf::from("/dev/sda2"), PathBuf::from("/dev/vdb2")]
        );
        assert!(partitions(Path::new("/nonexistent"), Path::new("/dev")).is_empty());
    }

    #[test]
    fn the_initramfs_gives_regular_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let (manifest, rootfs) = (
            folder.path().join("manifest.json"),
            folder.path().join("rootfs.squashfs"),
        );
        let code = || in_folder(folder.path()).map(drop).map_err(|it| it.code);
        assert_eq!(code(), Err("not-found".to_owned()));
        fs::write(&manifest, "{}").unwrap();
        assert_eq!(code(), Err("not-found".to_owned()));
        fs::write(&rootfs, "hsqs").unwrap();
        assert_eq!(in_folder(folder.path()).unwrap().manifest, b"{}");

        for path in [&manifest, &rootfs] {
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            // Nobody writes to this pipe: opening it as a file would never return.
            rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_raw_mode(0o600)).unwrap();
            assert_eq!(code(), Err("io".to_owned()), "{}", path.display());
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
            assert_eq!(code(), Err("io".to_owned()), "{}", path.display());
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
        }
        assert_eq!(code(), Ok(()));
    }

    #[test]
    fn the_manifest_is_read_without_its_padding() {
        let mut disk = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = b"{\"a\":1}\n".to_vec();
        bytes.resize(1 << 20, 0);
        bytes.extend(b"hsqs");
        disk.write_all(&bytes).unwrap();
        let found = on_disk(disk.path()).unwrap();
        assert_eq!(found.manifest, b"{\"a\":1}\n");
        let mut squashfs = [0; 4];
        found
            .medium
            .file
            .read_exact_at(&mut squashfs, found.medium.offset)
            .unwrap();
        assert_eq!(&squashfs, b"hsqs");

        // A partition of zeroes gives an empty manifest, a short one an error.
        disk.as_file().set_len(0).unwrap();
        let short = on_disk(disk.path()).unwrap_err();
        assert_eq!(short.code, "bad-size");
        assert!(short.reason.ends_with(": ends after 0 of 1048576 bytes"));
        disk.as_file().set_len(1 << 20).unwrap();
        assert_eq!(on_disk(disk.path()).unwrap().manifest, b"");
    }

    #[test]
    fn the_highest_sequence_stands_first_and_equal_ones_in_their_order() {
        let root = boot_manifest::TrustRoot::single(verify::tests::key().public());
        let judged = |(place, sequence): (&str, u64)| {
            let mut manifest = verify::tests::manifest_for(b"k", b"i", b"r");
            manifest.sequence = sequence;
            let bytes = boot_manifest::sign(&manifest, &[&verify::tests::key()]).unwrap();
            let manifest = verify::manifest(&bytes, &verify::tests::policy(&root)).unwrap();
            let medium = Medium {
                file: tempfile::tempfile().unwrap(),
                offset: 0,
                consume: false,
            };
            let found = Found {
                place: place.to_owned(),
                manifest: bytes,
                medium,
            };
            Judged { found, manifest }
        };
        let mut all: Vec<Judged> = [("sda2", 5), ("sdb2", 9), ("sdc2", 10), ("sdd2", 9)]
            .into_iter()
            .map(judged)
            .collect();
        newest_first(&mut all);
        let order: Vec<String> = all.iter().map(Judged::label).collect();
        assert_eq!(
            order,
            [
                "sdc2 (sequence 10)",
                "sdb2 (sequence 9)",
                "sdd2 (sequence 9)",
                "sda2 (sequence 5)"
            ]
        );
    }

    fn seen(names: &[&str], has_usb_storage: bool) -> Devices {
        Devices {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            has_usb_storage,
        }
    }

    /// Plays a machine on which devices appear at given tenths of a second; returns when the wait ends.
    #[track_caller]
    fn wait(only: bool, appear: &[(u64, &str, bool)]) -> u64 {
        let start = Instant::now();
        let mut wait = DiskWait::new(start, only, Duration::from_secs(10));
        for tenth in 0.. {
            let here: Vec<_> = appear.iter().filter(|(at, ..)| *at <= tenth).collect();
            let names: Vec<&str> = here.iter().map(|(_, name, _)| *name).collect();
            let devices = seen(&names, here.iter().any(|(.., storage)| *storage));
            if !wait.goes_on(start + Duration::from_millis(tenth * 100), devices) {
                return tenth;
            }
        }
        unreachable!("the wait has an end")
    }

    #[test]
    fn the_wait_is_as_long_as_it_must_be() {
        assert_eq!(wait(false, &[]), 10, "a second without a device");
        assert_eq!(wait(false, &[(0, "block/vda", false)]), 10);
        assert_eq!(
            wait(false, &[(0, "usb/1-1", false), (8, "block/vda", false)]),
            18
        );
        assert_eq!(
            wait(false, &[(0, "usb/1-1:1.0", true)]),
            30,
            "USB storage comes late"
        );
        let endless: Vec<(u64, &str, bool)> = (0..40)
            .map(|n| (n * 5, NAMES[n as usize % 40], false))
            .collect();
        assert_eq!(
            wait(false, &endless),
            100,
            "devices that come and go do not stop the boot"
        );
        assert_eq!(
            wait(true, &[]),
            100,
            "without another source the whole time is waited"
        );
    }

    const NAMES: [&str; 40] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f", "g", "h",
        "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z",
        "A", "B", "C", "D",
    ];
}
