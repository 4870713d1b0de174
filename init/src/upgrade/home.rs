//! The disk that a machine keeps its images on: which partitions of which disk belong together.
//!
//! The home disk holds a ledger and two slots beside the artifacts. Partitions are found by their GPT names through `/sys`,
//! like the artifacts themselves; every stick has the same names and identifiers, so what tells two disks apart is what
//! lies on them (see `disk`). A disk of an older version has no ledger and is no home. Opens no device.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use upgrade::Place;

use crate::{limits, source};

/// GPT names of the partitions, in the order of [`Home`]'s fields.
const LEDGER: &str = "phase-ledger";
const SLOT_A: &str = "phase-slot-a";
const SLOT_B: &str = "phase-slot-b";

/// Where the parts of a home disk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    /// Name of the disk, for the console: `vda`.
    pub(crate) name: String,
    pub(crate) artifacts: PathBuf,
    pub(crate) ledger: PathBuf,
    slots: [PathBuf; 2],
    /// Bytes of the smaller slot.
    pub(crate) slot_size: u64,
}

/// A partition of a disk.
struct Part {
    path: PathBuf,
    bytes: u64,
}

impl Home {
    /// The partition at a place.
    pub(crate) fn partition(&self, place: Place) -> Option<&Path> {
        match place {
            Place::Golden => Some(&self.artifacts),
            Place::A => Some(&self.slots[0]),
            Place::B => Some(&self.slots[1]),
            Place::Memory => None,
        }
    }
}

#[cfg(test)]
impl Home {
    /// Files of `folder` in the place of partitions.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            name: "vda".to_owned(),
            artifacts: folder.join("artifacts"),
            ledger: folder.join("ledger"),
            slots: [folder.join("a"), folder.join("b")],
            slot_size: 4 << 20,
        }
    }
}

/// Every disk that has all four partitions, in the order of their names.
pub(crate) fn all(class_block: &Path, dev: &Path) -> Vec<Home> {
    let mut disks: BTreeMap<String, BTreeMap<String, Part>> = BTreeMap::new();
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
        let part = Part {
            path: dev.join(device),
            bytes: size_of(&entry.path()),
        };
        let parts = disks.entry(disk).or_default();
        // Two partitions of one name on a disk are nobody's work but a stranger's: the order of names decides.
        if parts.get(name).is_none_or(|known| part.path < known.path) {
            parts.insert(name.to_owned(), part);
        }
    }
    let homes = disks.into_iter().filter_map(|(name, mut parts)| {
        let slots = [parts.remove(SLOT_A)?, parts.remove(SLOT_B)?];
        Some(Home {
            name,
            artifacts: parts.remove(source::PARTITION_NAME)?.path,
            ledger: parts.remove(LEDGER)?.path,
            slot_size: slots[0].bytes.min(slots[1].bytes),
            slots: slots.map(|part| part.path),
        })
    });
    homes.take(limits::DISKS_MAX).collect()
}

/// The disk of a partition. In `/sys` the folder of a partition lies in that of its disk.
fn disk_of(entry: &Path) -> Option<String> {
    let folder = fs::canonicalize(entry).ok()?;
    Some(folder.parent()?.file_name()?.to_str()?.to_owned())
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
                let text = format!("DEVNAME={device}\nDEVTYPE=partition\nPARTNAME={name}\n");
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
        let partition = |place| home.partition(place).map(|path| path.to_str().unwrap());
        assert_eq!(partition(Place::Golden), Some("/dev/nvme0n1p2"));
        assert_eq!(home.ledger, Path::new("/dev/nvme0n1p4"));
        assert_eq!(partition(Place::A), Some("/dev/nvme0n1p5"));
        assert_eq!(partition(Place::B), Some("/dev/nvme0n1p6"));
        assert_eq!(partition(Place::Memory), None);
        assert_eq!(home.slot_size, 5 << 20, "the smaller one counts");
    }

    #[test]
    fn of_two_partitions_with_one_name_the_first_counts() {
        let mut twice = WHOLE.to_vec();
        twice.push("phase-slot-a");
        let sys = sys(&[("vda", &twice)]);
        let found = all(&sys.path().join("class"), Path::new("/dev"));
        assert_eq!(found[0].partition(Place::A), Some(Path::new("/dev/vda5")));
    }
}
