//! The disk that a machine keeps its images on: which partitions of which disk belong together.
//!
//! The home disk holds a ledger and two slots beside the artifacts. Partitions are found by their GPT names through `/sys`,
//! like the artifacts themselves; every stick has the same names and identifiers, so what tells two disks apart is what
//! lies on them (see `disk`). A disk of an older version has no ledger and is no home.
//!
//! A stick may be pulled out and another one put in, which then has the same names below `/dev`. The kernel counts the
//! disks it sees, and a partition is used only while it is of the very disk that was found. Opens no device.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use upgrade::Place;

use crate::{limits, source};

/// GPT names of the partitions, in the order of [`Home`]'s fields.
const LEDGER: &str = "phase-ledger";
const SLOT_A: &str = "phase-slot-a";
const SLOT_B: &str = "phase-slot-b";

/// A partition of one certain disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) path: PathBuf,
    /// What `/sys` says of it, and which disk that was. None of kernels that do not count disks.
    seen: Option<(PathBuf, String)>,
    bytes: u64,
}

impl Partition {
    /// Whether the name still means that disk. To be asked after the device was opened: what is open stays what it was.
    pub(crate) fn is_same(&self) -> bool {
        self.seen.as_ref().is_none_or(|(uevent, number)| {
            let now = fs::read_to_string(uevent).unwrap_or_default();
            number_of(&now) == Some(number)
        })
    }
}

/// Where the parts of a home disk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    /// Name of the disk, for the console: `vda`.
    pub(crate) name: String,
    pub(crate) artifacts: Partition,
    pub(crate) ledger: Partition,
    slots: [Partition; 2],
}

impl Home {
    /// The partition at a place.
    pub(crate) fn partition(&self, place: Place) -> Option<&Partition> {
        match place {
            Place::Golden => Some(&self.artifacts),
            Place::A => Some(&self.slots[0]),
            Place::B => Some(&self.slots[1]),
            Place::Memory => None,
        }
    }

    /// Bytes of the smaller slot.
    pub(crate) fn slot_size(&self) -> u64 {
        self.slots[0].bytes.min(self.slots[1].bytes)
    }
}

#[cfg(test)]
impl Home {
    /// Files of `folder` in the place of partitions.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        let part = |name: &str| Partition {
            path: folder.join(name),
            seen: None,
            bytes: 4 << 20,
        };
        Self {
            name: "vda".to_owned(),
            artifacts: part("artifacts"),
            ledger: part("ledger"),
            slots: [part("a"), part("b")],
        }
    }
}

/// Every disk that has all four partitions, in the order of their names.
pub(crate) fn all(class_block: &Path, dev: &Path) -> Vec<Home> {
    let mut disks: BTreeMap<String, BTreeMap<String, Partition>> = BTreeMap::new();
    for entry in fs::read_dir(class_block).into_iter().flatten().flatten() {
        let uevent = fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
        let Some((device, name)) = source::partition_of(&uevent) else {
            continue;
        };
        if ![source::PARTITION_NAME, LEDGER, SLOT_A, SLOT_B].contains(&name) {
            continue;
        }
        let Some(disk) = disk_of(&entry.path()) else {
            continue;
        };
        let number = number_of(&uevent).map(str::to_owned);
        let part = Partition {
            path: dev.join(device),
            seen: number.map(|number| (entry.path().join("uevent"), number)),
            bytes: size_of(&entry.path()),
        };
        let parts = disks.entry(disk).or_default();
        // Two partitions of one name on a disk are nobody's work but a stranger's: the order of names decides.
        if parts.get(name).is_none_or(|known| part.path < known.path) {
            parts.insert(name.to_owned(), part);
        }
    }
    let homes = disks.into_iter().filter_map(|(name, mut parts)| {
        Some(Home {
            name,
            artifacts: parts.remove(source::PARTITION_NAME)?,
            ledger: parts.remove(LEDGER)?,
            slots: [parts.remove(SLOT_A)?, parts.remove(SLOT_B)?],
        })
    });
    homes.take(limits::DISKS_MAX).collect()
}

/// The disk of a partition: an entry is a link to the partition's folder, which lies in that of its disk.
fn disk_of(entry: &Path) -> Option<String> {
    let folder = fs::read_link(entry).ok()?;
    Some(folder.parent()?.file_name()?.to_str()?.to_owned())
}

/// The number under which the kernel has seen the disk of a partition.
fn number_of(uevent: &str) -> Option<&str> {
    let mut lines = uevent.lines();
    lines.find_map(|line| line.strip_prefix("DISKSEQ="))
}

/// Bytes of a partition; `/sys` counts sectors of 512 whatever the disk has.
fn size_of(entry: &Path) -> u64 {
    let sectors = fs::read_to_string(entry.join("size")).unwrap_or_default();
    let sectors: u64 = sectors.trim().parse().unwrap_or_default();
    sectors.saturating_mul(512)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What `/sys` shows of disks and the names of their partitions.
    pub(crate) fn sys(disks: &[(&str, &[&str])]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let class = sys.path().join("class");
        fs::create_dir_all(&class).unwrap();
        for (disk, partitions) in disks {
            for (number, name) in (1_u64..).zip(*partitions) {
                let device = format!("{disk}{number}");
                let folder = sys.path().join("devices").join(disk).join(&device);
                fs::create_dir_all(&folder).unwrap();
                let text =
                    format!("DEVNAME={device}\nDEVTYPE=partition\nDISKSEQ=4\nPARTNAME={name}\n");
                fs::write(folder.join("uevent"), text).unwrap();
                fs::write(folder.join("size"), format!("{}\n", number * 2048)).unwrap();
                std::os::unix::fs::symlink(&folder, class.join(device)).unwrap();
            }
        }
        sys
    }

    const WHOLE: &[&str] = &[
        "phase-esp",
        "phase-artifacts",
        "phase-bios",
        "phase-ledger",
        "phase-slot-a",
        "phase-slot-b",
    ];

    #[track_caller]
    fn check(disks: &[(&str, &[&str])], expected: &[&str]) {
        let sys = sys(disks);
        let found = all(&sys.path().join("class"), Path::new("/dev"));
        let names: Vec<&str> = found.iter().map(|home| home.name.as_str()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_home_has_all_of_its_parts() {
        check(&[], &[]);
        check(&[("vda", WHOLE)], &["vda"]);
        check(&[("vdb", WHOLE), ("sda", WHOLE)], &["sda", "vdb"]);
        // That of an older version, and one that somebody repartitioned.
        check(&[("sda", &WHOLE[..3]), ("vdb", WHOLE)], &["vdb"]);
        check(&[("sda", &WHOLE[..5])], &[]);
        // Parts of two disks are no home.
        check(&[("sda", &WHOLE[..4]), ("sdb", &WHOLE[4..])], &[]);
    }

    #[test]
    fn every_place_has_its_partition() {
        let sys = sys(&[("nvme0n1p", WHOLE)]);
        let found = all(&sys.path().join("class"), Path::new("/dev"));
        let home = &found[0];
        let partition = |place| {
            let found = home.partition(place);
            found.map(|partition| partition.path.to_str().unwrap())
        };
        assert_eq!(partition(Place::Golden), Some("/dev/nvme0n1p2"));
        assert_eq!(home.ledger.path, Path::new("/dev/nvme0n1p4"));
        assert_eq!(partition(Place::A), Some("/dev/nvme0n1p5"));
        assert_eq!(partition(Place::B), Some("/dev/nvme0n1p6"));
        assert_eq!(partition(Place::Memory), None);
        assert_eq!(home.slot_size(), 5 << 20, "the smaller one counts");
    }

    #[test]
    fn of_two_partitions_with_one_name_the_first_counts() {
        let mut twice = WHOLE.to_vec();
        twice.push("phase-slot-a");
        let sys = sys(&[("vda", &twice)]);
        let found = all(&sys.path().join("class"), Path::new("/dev"));
        let slot = found[0].partition(Place::A).unwrap();
        assert_eq!(slot.path, Path::new("/dev/vda5"));
    }

    /// One stick is pulled out and another put in: it gets the same names, and is not the one that was found.
    #[test]
    fn another_disk_under_the_same_name_is_not_the_same() {
        let sys = sys(&[("sda", WHOLE)]);
        let found = all(&sys.path().join("class"), Path::new("/dev"));
        let ledger = &found[0].ledger;
        assert!(ledger.is_same());
        let uevent = sys.path().join("class/sda4/uevent");
        let text = fs::read_to_string(&uevent).unwrap();
        fs::write(&uevent, text.replace("DISKSEQ=4", "DISKSEQ=5")).unwrap();
        assert!(!ledger.is_same());
        fs::remove_file(&uevent).unwrap();
        assert!(!ledger.is_same(), "pulled out");
    }
}
