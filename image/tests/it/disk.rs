//! The disk image, read by mtools and sfdisk.

use std::path::{Path, PathBuf};

use image::disk;
use image::grub::{self, Loader};

use crate::{noise, run};

/// GRUB where it is installed, else something of its shape.
pub(crate) fn loader() -> Loader {
    if Path::new(grub::FOLDER).exists() {
        let folder = tempfile::tempdir().unwrap();
        return Loader::make("quiet", folder.path()).unwrap();
    }
    let mut boot = vec![0; 512];
    boot[0x66..0x68].copy_from_slice(&[0xeb, 0x05]);
    let mut core = vec![0; 1024];
    core[508] = 1;
    Loader::new(boot, core).unwrap()
}

fn disk_file(folder: &Path, uki: &[u8]) -> (PathBuf, Vec<u8>) {
    let squashfs = noise(700_000, 7);
    let loader = loader();
    let path = folder.join("phase.img");
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    disk::write(
        &disk::Recipe {
            uki,
            kernel: b"kernel",
            initramfs: b"initramfs",
            loader: &loader,
            manifest: b"{}\n",
            squashfs: &squashfs,
        },
        file,
    )
    .unwrap();
    (path, squashfs)
}

#[test]
fn mtools_read_the_efi_system_partition() {
    let folder = tempfile::tempdir().unwrap();
    let program = noise(2_500_000, 8);
    let (image, _) = disk_file(folder.path(), &program);
    let volume = format!("{}@@1M", image.display());
    let Some(read) = run("mtype", &["-i", &volume, "::/EFI/BOOT/BOOTX64.EFI"]) else {
        skip!(
            "mtools_read_the_efi_system_partition",
            "mtools are not installed"
        );
    };
    assert!(read.stdout == program, "mtype read something else");
    let kernel = run("mtype", &["-i", &volume, "::/phase/vmlinuz"]).unwrap();
    assert_eq!(kernel.stdout, b"kernel");
    let facts = run("minfo", &["-i", &volume, "::"]).unwrap();
    let facts = String::from_utf8_lossy(&facts.stdout).into_owned();
    assert!(
        facts.contains("FAT32") && facts.contains("serial number: 70686173"),
        "{facts}"
    );
}

#[test]
fn sfdisk_reads_the_partition_table() {
    let folder = tempfile::tempdir().unwrap();
    let (image, _) = disk_file(folder.path(), b"program");
    let Some(table) = run("/usr/sbin/sfdisk", &["--json", image.to_str().unwrap()]) else {
        skip!(
            "sfdisk_reads_the_partition_table",
            "sfdisk is not installed"
        );
    };
    assert!(
        table.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&table.stderr)
    );
    let table: serde_json::Value = serde_json::from_slice(&table.stdout).unwrap();
    let table = &table["partitiontable"];
    assert_eq!(table["label"], "gpt");
    let partitions = table["partitions"].as_array().unwrap();
    let names: Vec<_> = partitions
        .iter()
        .map(|partition| partition["name"].as_str().unwrap())
        .collect();
    let expected = [
        "phase-esp",
        disk::ARTIFACTS_PARTITION,
        disk::BIOS_PARTITION,
        disk::LEDGER_PARTITION,
        disk::SLOT_PARTITIONS[0],
        disk::SLOT_PARTITIONS[1],
    ];
    assert_eq!(names, expected);
    assert_eq!(
        partitions[2]["type"],
        "21686148-6449-6E6F-744E-656564454649"
    );
    assert_eq!(
        partitions[0]["type"],
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    );
    let size = |number: usize| partitions[number]["size"].as_u64().unwrap() * 512;
    assert_eq!(
        [size(3), size(4), size(5)],
        [disk::LEDGER_BYTES, disk::SLOT_BYTES, disk::SLOT_BYTES]
    );
    run("/usr/sbin/sfdisk", &["--verify", image.to_str().unwrap()]).unwrap();
}

/// Room for upgrades costs nothing in the file, but the sectors of the ledger are written: whoever skips holes must not leave
/// an older ledger on the disk.
#[test]
fn the_room_for_upgrades_is_a_hole_and_the_ledger_is_not() {
    use std::os::unix::fs::MetadataExt;

    let folder = tempfile::tempdir().unwrap();
    let (image, _) = disk_file(folder.path(), b"program");
    let file = std::fs::File::open(&image).unwrap();
    let metadata = file.metadata().unwrap();
    assert!(
        metadata.blocks() * 512 < disk::SLOT_BYTES,
        "the image takes {} bytes of the disk",
        metadata.blocks() * 512
    );
    let partitions = disk::read(open_for_the_table(&image)).unwrap();
    let ledger = &partitions[3];
    for sector in [ledger.start, ledger.start + ledger.bytes / 2] {
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(sector)).unwrap();
        assert_eq!(data, sector, "a sector of the ledger is a hole");
    }
    let slot = partitions[4].start;
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(slot)).unwrap();
    assert!(data >= slot + 2 * disk::SLOT_BYTES, "{data}");
}

/// The reader of tables asks for a file that can be written.
fn open_for_the_table(image: &Path) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).open(image).unwrap()
}
