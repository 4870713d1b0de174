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
    let expected = ["phase-esp", disk::ARTIFACTS_PARTITION, disk::BIOS_PARTITION];
    assert_eq!(names, expected);
    assert_eq!(
        partitions[2]["type"],
        "21686148-6449-6E6F-744E-656564454649"
    );
    assert_eq!(
        partitions[0]["type"],
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    );
    run("/usr/sbin/sfdisk", &["--verify", image.to_str().unwrap()]).unwrap();
}
