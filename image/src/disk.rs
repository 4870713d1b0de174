//! The disk image a machine boots from: GPT, an EFI system partition with the unified kernel image, a partition with the
//! signed manifest and the squashfs, and room for what the machine replaces itself with.
//!
//! ```text
//! 0          1 MiB               65 MiB            66 MiB            +1 MiB   +64 MiB  +64 MiB
//! | GPT,GRUB | ESP: BOOTX64.EFI, | manifest.json   | squashfs, pad | ledger | slot A | slot B | GPT copy |
//! |          | kernel, initramfs |                 |               |        |        |        |          |
//!    '- 3      '- partition 1       '------- partition 2 -----------' '- 4     '- 5     '- 6
//! ```
//! UEFI starts the EFI program. A BIOS starts sector 0, which starts GRUB from partition 3, which starts the kernel beside
//! the EFI program (see `grub`). No running machine writes to partitions 1 to 3: they are what it can always go back to. A
//! new disk has an empty ledger, which means just that, and empty slots, which are holes of the file.
//!
//! The identifiers are fixed, so the same parts give the same bytes. Written sparsely, without root or loop devices.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use gpt::partition::{Partition, PartitionAttributes};
use gpt::partition_types::{OperatingSystem, Type};
use uuid::Uuid;

use crate::fat;
use crate::grub::{self, Loader};

/// Name of the partition that PID 1 looks for.
pub const ARTIFACTS_PARTITION: &str = "phase-artifacts";

/// Name of the partition that holds what a BIOS starts.
pub const BIOS_PARTITION: &str = "phase-bios";

/// Name of the partition that says which image a machine boots and why.
pub const LEDGER_PARTITION: &str = "phase-ledger";

/// Names of the partitions that hold newer images.
pub const SLOT_PARTITIONS: [&str; 2] = ["phase-slot-a", "phase-slot-b"];

/// Where the squashfs starts within its partition; the manifest has the space before it, padded with NUL bytes.
pub const SQUASHFS_OFFSET: u64 = 1 << 20;

/// Path of the unified kernel image: the one firmware tries on a medium it knows nothing about.
pub const BOOT_PATH: &str = "EFI/BOOT/BOOTX64.EFI";

const SECTOR_BYTES: u64 = 512;

/// Partitions start on whole MiB: whole erase blocks of flash media and whole sectors of every disk.
const ALIGNMENT: u64 = 1 << 20;

/// Size of the EFI system partition: twice what the image may take plus the tables, so that a second image fits beside it.
const ESP_BYTES: u64 = 64 << 20;

/// The BIOS boot partition: all sectors between the partition table, which ends with sector 33, and the first MiB.
const BIOS_BOOT_START: u64 = 34 * SECTOR_BYTES;
const BIOS_BOOT_BYTES: u64 = ALIGNMENT - BIOS_BOOT_START;

/// The ledger has two sectors, at its start and in its middle: far enough apart for no erase block to hold both.
pub const LEDGER_BYTES: u64 = 1 << 20;

/// Twice what an image takes, and 2 MiB in front of it for the manifest and the root documents.
pub const SLOT_BYTES: u64 = 64 << 20;

/// A sector of the ledger. Written with zeros, because whoever skips the holes of an image while writing it to a disk must
/// not leave an older ledger there.
const LEDGER_SECTOR_BYTES: usize = 4096;

const DISK_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6501);
const ESP_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6502);
const BIOS_BOOT_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6504);
const ARTIFACTS_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6503);
const LEDGER_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6505);
const SLOT_GUIDS: [Uuid; 2] = [
    Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6506),
    Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6507),
];

/// Types of our own, so that no other system mounts, formats or "repairs" the partitions.
const ARTIFACTS_TYPE: &str = "3D9A6C5E-70B1-4F62-9A51-7068617365AF";
const LEDGER_TYPE: &str = "3D9A6C5E-70B1-4F62-9A51-7068617365B0";
const SLOT_TYPE: &str = "3D9A6C5E-70B1-4F62-9A51-7068617365B1";

const VOLUME_ID: u32 = 0x7068_6173;

/// The parts of a disk image.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// The unified kernel image.
    pub uki: &'a [u8],
    /// The kernel, for a BIOS.
    pub kernel: &'a [u8],
    /// The initramfs, for a BIOS.
    pub initramfs: &'a [u8],
    /// What a BIOS starts.
    pub loader: &'a Loader,
    /// The signed manifest, exactly as it is served.
    pub manifest: &'a [u8],
    /// The squashfs.
    pub squashfs: &'a [u8],
}

/// Why a disk image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest does not fit in front of the squashfs.
    #[error("the manifest has {0} bytes, at most 1 MiB fits")]
    Manifest(usize),
    /// The loader does not fit in front of the first partition.
    #[error("the loader has {0} bytes, at most {BIOS_BOOT_BYTES} fit")]
    Loader(usize),
    /// The EFI system partition failed.
    #[error(transparent)]
    Esp(#[from] fat::Error),
    /// The partition table failed.
    #[error("write the partition table: {0}")]
    Table(String),
    /// The output failed.
    #[error("write the disk image")]
    Io(#[from] io::Error),
}

/// Where the partitions lie: first byte and length of each.
#[derive(Debug, Clone, Copy)]
struct Layout {
    esp: (u64, u64),
    artifacts: (u64, u64),
    ledger: (u64, u64),
    slots: [(u64, u64); 2],
    /// Of the whole disk.
    bytes: u64,
}

impl Layout {
    fn new(squashfs_bytes: u64) -> Self {
        let mut end = ALIGNMENT;
        let mut next = |bytes: u64| {
            let span = (end, bytes.next_multiple_of(ALIGNMENT));
            end = span.0 + span.1;
            span
        };
        let esp = next(ESP_BYTES);
        let artifacts = next(SQUASHFS_OFFSET + squashfs_bytes);
        let ledger = next(LEDGER_BYTES);
        let slots = [next(SLOT_BYTES), next(SLOT_BYTES)];
        // The copy of the table.
        let bytes = end + ALIGNMENT;
        Self {
            esp,
            artifacts,
            ledger,
            slots,
            bytes,
        }
    }
}

/// Writes the image to `out`, which must be empty. Returns its size in bytes.
///
/// # Errors
/// See [`Error`].
pub fn write<W: Read + Write + Seek + Debug>(
    recipe: &Recipe<'_>,
    mut out: W,
) -> Result<u64, Error> {
    if recipe.manifest.len() as u64 > SQUASHFS_OFFSET {
        return Err(Error::Manifest(recipe.manifest.len()));
    }
    if recipe.loader.core_len() as u64 > BIOS_BOOT_BYTES {
        return Err(Error::Loader(recipe.loader.core_len()));
    }
    let layout = Layout::new(recipe.squashfs.len() as u64);

    let mut esp = Cursor::new(vec![0; ESP_BYTES as usize]);
    let files = BTreeMap::from([
        (BOOT_PATH, recipe.uki),
        (grub::KERNEL_PATH, recipe.kernel),
        (grub::INITRAMFS_PATH, recipe.initramfs),
    ]);
    fat::write(
        &fat::Recipe {
            bytes: ESP_BYTES,
            label: "PHASE",
            volume_id: VOLUME_ID,
            files,
        },
        &mut esp,
    )?;

    // The last byte first: it gives the image its size, and the rest of the padding stays a hole.
    out.seek(SeekFrom::Start(layout.bytes - 1))?;
    out.write_all(&[0])?;
    let (artifacts, _) = layout.artifacts;
    write_sparse(&mut out, layout.esp.0, esp.get_ref())?;
    write_sparse(&mut out, artifacts, recipe.manifest)?;
    write_sparse(&mut out, artifacts + SQUASHFS_OFFSET, recipe.squashfs)?;
    for sector in [0, LEDGER_BYTES / 2] {
        out.seek(SeekFrom::Start(layout.ledger.0 + sector))?;
        out.write_all(&[0; LEDGER_SECTOR_BYTES])?;
    }
    let grub = recipe.loader.placed(BIOS_BOOT_START / SECTOR_BYTES);
    write_sparse(&mut out, BIOS_BOOT_START, &grub.core)?;
    write_table(&mut out, &layout).map_err(|error| Error::Table(error.to_string()))?;
    // The table's writer left zeros in front of the disk's identifier.
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&grub.boot_code)?;
    out.flush()?;
    Ok(layout.bytes)
}

fn write_table<W: Read + Write + Seek + Debug>(
    mut out: W,
    layout: &Layout,
) -> Result<(), Box<dyn std::error::Error>> {
    let sectors = u32::try_from(layout.bytes / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut out)?;
    let config = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(out, Some(DISK_GUID))?;
    let own = |guid: &str| -> Result<Type, Box<dyn std::error::Error>> {
        let os = OperatingSystem::None;
        Ok(Type {
            guid: guid.parse()?,
            os,
        })
    };
    let bios = (BIOS_BOOT_START, BIOS_BOOT_BYTES);
    let (efi, bios_boot) = (gpt::partition_types::EFI, gpt::partition_types::BIOS);
    let [slot_a, slot_b] = SLOT_PARTITIONS;
    let [guid_a, guid_b] = SLOT_GUIDS;
    let partitions = [
        partition(efi, ESP_GUID, "phase-esp", layout.esp),
        partition(
            own(ARTIFACTS_TYPE)?,
            ARTIFACTS_GUID,
            ARTIFACTS_PARTITION,
            layout.artifacts,
        ),
        partition(bios_boot, BIOS_BOOT_GUID, BIOS_PARTITION, bios),
        partition(
            own(LEDGER_TYPE)?,
            LEDGER_GUID,
            LEDGER_PARTITION,
            layout.ledger,
        ),
        partition(own(SLOT_TYPE)?, guid_a, slot_a, layout.slots[0]),
        partition(own(SLOT_TYPE)?, guid_b, slot_b, layout.slots[1]),
    ];
    table.update_partitions((1..).zip(partitions).collect())?;
    table.write()?.flush()?;
    Ok(())
}

fn partition(kind: Type, guid: Uuid, name: &str, (start, bytes): (u64, u64)) -> Partition {
    Partition {
        part_type_guid: kind,
        part_guid: guid,
        first_lba: start / SECTOR_BYTES,
        last_lba: (start + bytes) / SECTOR_BYTES - 1,
        flags: PartitionAttributes::empty().bits(),
        name: name.into(),
    }
}

/// Writes what is not zero, in blocks of the file systems' usual size; the rest stays a hole.
fn write_sparse(out: &mut (impl Write + Seek), start: u64, content: &[u8]) -> io::Result<()> {
    const BLOCK_BYTES: usize = 4096;
    for (index, block) in content.chunks(BLOCK_BYTES).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            out.seek(SeekFrom::Start(start + (index * BLOCK_BYTES) as u64))?;
            out.write_all(block)?;
        }
    }
    Ok(())
}

/// A partition as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Number in the table.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Type identifier.
    pub kind: String,
    /// First byte.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Reads the partition table of an image.
///
/// # Errors
/// When there is none, or its checksums are wrong.
pub fn read<D: Read + Write + Seek + Debug>(disk: D) -> Result<Vec<Listed>, Error> {
    let config = gpt::GptConfig::new()
        .logical_block_size(LogicalBlockSize::Lb512)
        .only_valid_headers(true);
    let table = config
        .open_from_device(disk)
        .map_err(|error| Error::Table(error.to_string()))?;
    let listed = table
        .partitions()
        .iter()
        .filter(|(_, partition)| partition.is_used())
        .map(|(number, partition)| Listed {
            number: *number,
            name: partition.name.clone(),
            kind: partition.part_type_guid.guid.to_string(),
            start: partition.first_lba * SECTOR_BYTES,
            bytes: (partition.last_lba - partition.first_lba + 1) * SECTOR_BYTES,
        });
    Ok(listed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(recipe: &Recipe<'_>) -> Result<Vec<u8>, Error> {
        let mut out = Cursor::new(Vec::new());
        write(recipe, &mut out).map(|_| out.into_inner())
    }

    /// Something of a loader's shape.
    fn loader(core_bytes: usize) -> Loader {
        let mut boot = vec![1; 512];
        boot[0x66..0x68].copy_from_slice(&[0xeb, 0x05]);
        let mut core = vec![2; core_bytes];
        let rest = u16::try_from(core_bytes.div_ceil(512) - 1).unwrap();
        core[508..510].copy_from_slice(&rest.to_le_bytes());
        Loader::new(boot, core).unwrap()
    }

    /// A disk of small parts with this manifest and loader.
    fn small<'a>(manifest: &'a [u8], loader: &'a Loader) -> Recipe<'a> {
        Recipe {
            uki: b"uki",
            kernel: b"kernel",
            initramfs: b"initramfs",
            loader,
            manifest,
            squashfs: b"squashfs",
        }
    }

    #[test]
    fn two_builds_give_the_same_bytes_and_every_part_reads_back() {
        let (uki, squashfs) = (vec![3; 200_000], vec![9; 1_500_000]);
        let (kernel, loader) = (vec![5; 100_000], loader(70_000));
        let recipe = Recipe {
            uki: &uki,
            kernel: &kernel,
            initramfs: b"initramfs",
            loader: &loader,
            manifest: b"{\"signed\":true}\n",
            squashfs: &squashfs,
        };
        let bytes = image(&recipe).unwrap();
        assert!(bytes == image(&recipe).unwrap(), "the two images differ");

        let partitions = read(Cursor::new(bytes.clone())).unwrap();
        let [esp, artifacts, bios, ledger, slots @ ..] = partitions.as_slice() else {
            panic!("six partitions, not {partitions:?}")
        };
        assert_eq!(artifacts.name, ARTIFACTS_PARTITION);
        assert_eq!(ledger.name, LEDGER_PARTITION);
        assert_eq!(ledger.bytes, LEDGER_BYTES);
        assert_eq!(slots.len(), SLOT_PARTITIONS.len());
        let mut end = artifacts.start + artifacts.bytes;
        for (partition, name) in [ledger].into_iter().chain(slots).zip([
            LEDGER_PARTITION,
            "phase-slot-a",
            "phase-slot-b",
        ]) {
            assert_eq!((partition.name.as_str(), partition.start), (name, end));
            end += partition.bytes;
            let content = &bytes[partition.start as usize..end as usize];
            assert!(content.iter().all(|byte| *byte == 0), "{name} is not empty");
        }
        assert_eq!(slots[0].bytes, SLOT_BYTES);
        assert_eq!(slots[0].kind, slots[1].kind);
        assert_eq!((esp.start % ALIGNMENT, artifacts.start % ALIGNMENT), (0, 0));
        let volume = &bytes[esp.start as usize..(esp.start + esp.bytes) as usize];
        let files = fat::read(volume).unwrap();
        assert_eq!(files[BOOT_PATH], uki);
        assert_eq!(files["phase/vmlinuz"], kernel);
        assert_eq!(files["phase/initramfs.img"], b"initramfs");
        let grub = loader.placed(bios.start / SECTOR_BYTES);
        assert_eq!(bytes[..grub::BOOT_CODE_BYTES], grub.boot_code);
        assert_eq!(bytes[510..512], [0x55, 0xaa]);
        assert!(bytes[bios.start as usize..].starts_with(&grub.core));
        assert_eq!((bios.start, bios.start + bios.bytes), (34 * 512, esp.start));
        let partition =
            &bytes[artifacts.start as usize..(artifacts.start + artifacts.bytes) as usize];
        assert!(partition.starts_with(recipe.manifest));
        assert!(
            partition[recipe.manifest.len()..SQUASHFS_OFFSET as usize]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert!(partition[SQUASHFS_OFFSET as usize..].starts_with(&squashfs));
    }

    #[test]
    fn a_manifest_that_would_reach_the_squashfs_is_refused() {
        let manifest = vec![b' '; SQUASHFS_OFFSET as usize + 1];
        let loader = loader(1024);
        let result = image(&small(&manifest, &loader));
        assert!(matches!(result, Err(Error::Manifest(_))));
        assert!(image(&small(&manifest[1..], &loader)).is_ok());
    }

    #[test]
    fn a_loader_that_would_reach_the_first_partition_is_refused() {
        let most = BIOS_BOOT_BYTES as usize;
        assert!(image(&small(b"{}", &loader(most))).is_ok());
        let result = image(&small(b"{}", &loader(most + 1)));
        assert!(matches!(result, Err(Error::Loader(_))));
    }

    #[test]
    fn a_damaged_table_is_noticed() {
        let mut bytes = image(&small(b"m", &loader(1024))).unwrap();
        bytes[1024] ^= 1;
        assert!(read(Cursor::new(bytes)).is_err());
        assert!(read(Cursor::new(vec![0; 1 << 20])).is_err());
    }
}
