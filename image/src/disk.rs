//! The disk image a machine boots from: GPT, an EFI system partition with the unified kernel image, and a partition with the
//! signed manifest and the squashfs.
//!
//! ```text
//! 0          1 MiB               65 MiB            66 MiB                    end
//! | GPT,GRUB | ESP: BOOTX64.EFI, | manifest.json   | squashfs     | padding | GPT copy |
//! |          | kernel, initramfs |                 |              |         |          |
//!    '- 3      '- partition 1       '------- partition 2 "phase-artifacts" -'
//! ```
//! UEFI starts the EFI program. A BIOS starts sector 0, which starts GRUB from partition 3, which starts the kernel beside
//! the EFI program (see `grub`).
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

const DISK_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6501);
const ESP_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6502);
const BIOS_BOOT_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6504);
const ARTIFACTS_GUID: Uuid = Uuid::from_u128(0x3d9a_6c5e_70b1_4f62_9a51_7068_6173_6503);

/// A type of our own, so that no other system mounts, formats or "repairs" the partition.
const ARTIFACTS_TYPE: &str = "3D9A6C5E-70B1-4F62-9A51-7068617365AF";

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
    let artifacts_start = ALIGNMENT + ESP_BYTES;
    let artifacts_bytes =
        (SQUASHFS_OFFSET + recipe.squashfs.len() as u64).next_multiple_of(ALIGNMENT);
    let bytes = artifacts_start + artifacts_bytes + ALIGNMENT;

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
    out.seek(SeekFrom::Start(bytes - 1))?;
    out.write_all(&[0])?;
    write_sparse(&mut out, ALIGNMENT, esp.get_ref())?;
    write_sparse(&mut out, artifacts_start, recipe.manifest)?;
    write_sparse(&mut out, artifacts_start + SQUASHFS_OFFSET, recipe.squashfs)?;
    let grub = recipe.loader.placed(BIOS_BOOT_START / SECTOR_BYTES);
    write_sparse(&mut out, BIOS_BOOT_START, &grub.core)?;
    let spans = [
        (ALIGNMENT, ESP_BYTES),
        (artifacts_start, artifacts_bytes),
        (BIOS_BOOT_START, BIOS_BOOT_BYTES),
    ];
    write_table(&mut out, bytes, spans).map_err(|error| Error::Table(error.to_string()))?;
    // The table's writer left zeros in front of the disk's identifier.
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&grub.boot_code)?;
    out.flush()?;
    Ok(bytes)
}

fn write_table<W: Read + Write + Seek + Debug>(
    mut out: W,
    bytes: u64,
    spans: [(u64, u64); 3],
) -> Result<(), Box<dyn std::error::Error>> {
    let sectors = u32::try_from(bytes / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut out)?;
    let config = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512);
    let mut table = config.create_from_device(out, Some(DISK_GUID))?;
    let artifacts_type = Type {
        guid: ARTIFACTS_TYPE.parse()?,
        os: OperatingSystem::None,
    };
    let [esp, artifacts, bios] = spans;
    table.update_partitions(BTreeMap::from([
        (
            1,
            partition(gpt::partition_types::EFI, ESP_GUID, "phase-esp", esp),
        ),
        (
            2,
            partition(
                artifacts_type,
                ARTIFACTS_GUID,
                ARTIFACTS_PARTITION,
                artifacts,
            ),
        ),
        (
            3,
            partition(
                gpt::partition_types::BIOS,
                BIOS_BOOT_GUID,
                BIOS_PARTITION,
                bios,
            ),
        ),
    ]))?;
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
        let [esp, artifacts, bios] = partitions.as_slice() else {
            panic!("three partitions, not {partitions:?}")
        };
        assert_eq!(artifacts.name, ARTIFACTS_PARTITION);
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
