//! Every kind of image, read back by programs that others wrote: cpio, unsquashfs, squashfs-ng, mtools, sfdisk, `object`.
//!
//! With `PHASE_APPLIANCE_DIR` set, the images of `cargo appliance build` are read back too.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{cpio, disk, initramfs, squashfs, uki};
use object::{Object, ObjectSection};

/// Says why a test cannot do its work here; `cargo appliance test` counts it as skipped.
macro_rules! skip {
    ($name:literal, $($reason:tt)*) => {{
        println!("SKIPPED: {}: {}", $name, format_args!($($reason)*));
        return;
    }};
}

/// Runs a program that must succeed; `None` when it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
    {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {errors}");
            Some(output)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Bytes that do not compress, the same in every run.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next)
        .flatten()
        .take(length)
        .collect()
}

fn recipe_of(parts: &BTreeMap<String, Vec<u8>>) -> squashfs::Recipe<'_> {
    parts
        .iter()
        .map(|(path, content)| (path.clone(), content.as_slice()))
        .collect()
}

/// Files around every border of the format: empty, a fragment, exactly a block, a block and a byte, many blocks, zeros.
fn squashfs_parts() -> BTreeMap<String, Vec<u8>> {
    const BLOCK: usize = 128 * 1024;
    BTreeMap::from([
        ("stable/x86_64/vmlinuz".to_owned(), noise(5 * BLOCK + 77, 1)),
        ("stable/x86_64/initramfs.img".to_owned(), noise(BLOCK, 2)),
        ("stable/x86_64/one-more".to_owned(), noise(BLOCK + 1, 3)),
        ("stable/empty".to_owned(), Vec::new()),
        ("stable/small".to_owned(), b"a fragment\n".to_vec()),
        ("zeros".to_owned(), vec![0; 3 * BLOCK]),
        ("text".to_owned(), b"compressible ".repeat(40_000)),
    ])
}

fn squashfs_file(folder: &Path, parts: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let path = folder.join("rootfs.squashfs");
    squashfs::write(&recipe_of(parts), std::fs::File::create(&path).unwrap()).unwrap();
    path
}

#[test]
fn cpio_lists_and_unpacks_the_initramfs() {
    let recipe = initramfs::Recipe {
        init: b"init",
        plasmd: b"plasmd",
        trust_root: b"{}",
        image_info: b"{}",
    };
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tree.cpio");
    cpio::write(
        &initramfs::tree(&recipe),
        std::fs::File::create(&archive).unwrap(),
    )
    .unwrap();
    let file = format!("--file={}", archive.display());
    let arguments = ["--list", "--verbose", "--numeric-uid-gid", "--quiet", &file];
    let Some(listing) = run("cpio", &arguments) else {
        skip!(
            "cpio_lists_and_unpacks_the_initramfs",
            "cpio is not installed"
        );
    };
    let listing = String::from_utf8(listing.stdout).unwrap();
    let lines: Vec<String> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for expected in [
        "drwxr-xr-x 2 0 0 0 Jan 1 1970 bin",
        "-rwxr-xr-x 1 0 0 6 Jan 1 1970 bin/plasmd",
        "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
        "crw-rw-rw- 1 0 0 1, 3 Jan 1 1970 dev/null",
        "lrwxrwxrwx 1 0 0 28 Jan 1 1970 etc/resolv.conf -> ../run/phase/net/resolv.conf",
        "-rwxr-xr-x 1 0 0 4 Jan 1 1970 init",
        "drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
    ] {
        assert!(
            lines.iter().any(|line| line == expected),
            "{expected:?} is not in\n{listing}"
        );
    }
    assert_eq!(lines.len(), initramfs::tree(&recipe).len());
}

#[test]
fn zstd_unpacks_the_initramfs() {
    let program = noise(300_000, 4);
    let recipe = initramfs::Recipe {
        init: &program,
        plasmd: b"p",
        trust_root: b"{}",
        image_info: b"{}",
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initramfs.img");
    let bytes = initramfs::write(&recipe).unwrap();
    let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes).unwrap();
    std::fs::write(&path, &bytes[..frame]).unwrap();
    let Some(unpacked) = run(
        "zstd",
        &[
            "--decompress",
            "--stdout",
            "--memory=128MB",
            path.to_str().unwrap(),
        ],
    ) else {
        skip!("zstd_unpacks_the_initramfs", "zstd is not installed");
    };
    let mut expected = Vec::new();
    cpio::write(&initramfs::tree(&recipe), &mut expected).unwrap();
    assert!(unpacked.stdout == expected, "zstd unpacked something else");
}

#[test]
fn unsquashfs_unpacks_the_squashfs() {
    let folder = tempfile::tempdir().unwrap();
    let parts = squashfs_parts();
    let image = squashfs_file(folder.path(), &parts);
    let image = image.to_str().unwrap();
    let tree = folder.path().join("tree");
    let Some(facts) = run("unsquashfs", &["-stat", image]) else {
        skip!(
            "unsquashfs_unpacks_the_squashfs",
            "unsquashfs is not installed"
        );
    };
    let facts = String::from_utf8(facts.stdout).unwrap();
    for expected in [
        "Compression zstd",
        "Block size 131072",
        "Thu Jan  1 00:00:00 1970",
    ] {
        assert!(facts.contains(expected), "{expected:?} is not in\n{facts}");
    }
    run(
        "unsquashfs",
        &[
            "-quiet",
            "-no-progress",
            "-dest",
            tree.to_str().unwrap(),
            image,
        ],
    )
    .unwrap();
    for (path, content) in &parts {
        assert!(
            std::fs::read(tree.join(path)).unwrap() == *content,
            "{path} differs"
        );
    }
    let listing = run("unsquashfs", &["-lln", image]).unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    let nodes = listing
        .lines()
        .filter(|line| line.contains("squashfs-root"));
    assert!(
        nodes
            .clone()
            .all(|line| line.contains(" 0/0 ") && line.contains("1970-01-01 00:00")),
        "{listing}"
    );
    // The root, two directories, the files.
    assert_eq!(nodes.count(), 3 + parts.len());
}

#[cfg(feature = "squashfs-ng")]
mod ng {
    use std::io::Read;

    use squashfs_ng::read::{Archive, Data, Node};

    use super::*;

    fn walk(node: &Node<'_>, found: &mut BTreeMap<String, Vec<u8>>) {
        match node.data().unwrap() {
            Data::Dir(directory) => {
                assert_eq!(node.mode() & 0o7777, 0o755);
                for child in directory {
                    walk(&child.unwrap(), found);
                }
            }
            Data::File(mut file) => {
                assert_eq!(node.mode() & 0o7777, 0o644);
                assert_eq!(
                    (node.uid().unwrap(), node.gid().unwrap(), node.mtime()),
                    (0, 0, 0)
                );
                let mut content = Vec::new();
                file.read_to_end(&mut content).unwrap();
                let path = node
                    .path()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .trim_start_matches('/')
                    .to_owned();
                found.insert(path, content);
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(super) fn read(image: &Path) -> BTreeMap<String, Vec<u8>> {
        let archive = Archive::open(image).unwrap();
        let mut found = BTreeMap::new();
        walk(&archive.get_exists("/").unwrap(), &mut found);
        found
    }

    #[test]
    fn squashfs_ng_reads_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let parts = squashfs_parts();
        let image = squashfs_file(folder.path(), &parts);
        let found = read(&image);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            parts.keys().collect::<Vec<_>>()
        );
        for (path, content) in &parts {
            assert!(found[path] == *content, "{path} differs");
        }
        let ours = squashfs::read(&std::fs::read(&image).unwrap()).unwrap();
        assert!(
            ours.into_iter()
                .map(|file| (file.path, file.content))
                .eq(found),
            "the two readers differ"
        );
    }

    #[test]
    fn squashfs_ng_notices_a_damaged_table() {
        let folder = tempfile::tempdir().unwrap();
        let image = squashfs_file(folder.path(), &squashfs_parts());
        let mut bytes = std::fs::read(&image).unwrap();
        // The offset of the inode table, in the superblock.
        bytes[64..72].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&image, &bytes).unwrap();
        let opened = Archive::open(&image);
        assert!(opened.is_err() || opened.unwrap().get_exists("/").is_err());
        assert!(squashfs::read(&bytes).is_err());
    }
}

/// The stub of the installed systemd, which the images are made with.
fn stub() -> Option<Vec<u8>> {
    std::fs::read(uki::STUB).ok()
}

fn uki_of<'a>(stub: &'a [u8], kernel: &'a [u8], initramfs: &'a [u8]) -> uki::Recipe<'a> {
    uki::Recipe {
        stub,
        os_release: "ID=phase\n",
        cmdline: "console=ttyS0",
        kernel,
        initramfs,
    }
}

fn check_uki(bytes: &[u8], sections: &[(&str, &[u8])]) {
    let program = object::read::pe::PeFile64::parse(bytes).unwrap();
    for (name, content) in sections {
        let section = program
            .section_by_name(name)
            .unwrap_or_else(|| panic!("no section {name}"));
        let data = section.data().unwrap();
        assert!(data.starts_with(content), "{name} differs");
        assert!(
            data[content.len()..].iter().all(|byte| *byte == 0),
            "{name} has something behind it"
        );
    }
    let mut spans: Vec<_> = program
        .sections()
        .map(|section| section.address()..section.address() + section.size())
        .collect();
    spans.sort_by_key(|span| span.start);
    for pair in spans.windows(2) {
        assert!(
            pair[0].end <= pair[1].start,
            "sections overlap in memory: {pair:x?}"
        );
    }
    let header = program.nt_headers().optional_header;
    let end = spans.last().unwrap().end - header.image_base.get(object::LittleEndian);
    let image = u64::from(header.size_of_image.get(object::LittleEndian));
    assert!(
        image >= end && image % 4096 == 0,
        "SizeOfImage {image:#x}, sections end at {end:#x}"
    );
}

#[test]
fn object_reads_the_unified_kernel_image() {
    let Some(stub) = stub() else {
        skip!(
            "object_reads_the_unified_kernel_image",
            "{} is not installed",
            uki::STUB
        );
    };
    let (kernel, initramfs) = (noise(1_000_001, 5), noise(333, 6));
    let bytes = uki::write(&uki_of(&stub, &kernel, &initramfs)).unwrap();
    check_uki(
        &bytes,
        &[
            (".osrel", b"ID=phase\n"),
            (".cmdline", b"console=ttyS0"),
            (".linux", &kernel),
            (".initrd", &initramfs),
        ],
    );
    let old = object::read::pe::PeFile64::parse(stub.as_slice()).unwrap();
    let new = object::read::pe::PeFile64::parse(bytes.as_slice()).unwrap();
    for section in old.sections() {
        let kept = new.section_by_name(section.name().unwrap()).unwrap();
        assert_eq!(kept.address(), section.address());
        assert_eq!(kept.data().unwrap(), section.data().unwrap());
    }
    assert_eq!(new.entry(), old.entry());
}

fn disk_file(folder: &Path, uki: &[u8]) -> (PathBuf, Vec<u8>) {
    let squashfs = noise(700_000, 7);
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
    assert_eq!(names, ["phase-esp", disk::ARTIFACTS_PARTITION]);
    assert_eq!(
        partitions[0]["type"],
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    );
    run("/usr/sbin/sfdisk", &["--verify", image.to_str().unwrap()]).unwrap();
}

/// Everything from parts to disk image, in a folder of its own.
fn build_all(folder: &Path, stub: &[u8]) -> Vec<u8> {
    let kernel = noise(900_000, 9);
    let recipe = initramfs::Recipe {
        init: b"init",
        plasmd: b"plasmd",
        trust_root: b"{}",
        image_info: b"{}",
    };
    let initramfs = initramfs::write(&recipe).unwrap();
    let parts = BTreeMap::from([
        ("stable/x86_64/vmlinuz".to_owned(), kernel.clone()),
        ("stable/x86_64/initramfs.img".to_owned(), initramfs.clone()),
    ]);
    let squashfs = std::fs::read(squashfs_file(folder, &parts)).unwrap();
    let uki = uki::write(&uki_of(stub, &kernel, &initramfs)).unwrap();
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
            uki: &uki,
            manifest: b"{}\n",
            squashfs: &squashfs,
        },
        file,
    )
    .unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn two_builds_in_two_folders_give_the_same_disk() {
    let Some(stub) = stub() else {
        skip!(
            "two_builds_in_two_folders_give_the_same_disk",
            "{} is not installed",
            uki::STUB
        );
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (build_all(one.path(), &stub), build_all(two.path(), &stub));
    assert!(one == two, "the two disks differ");
}

#[test]
fn the_built_images_hold_what_was_built() {
    let Some(folder) = std::env::var_os("PHASE_APPLIANCE_DIR").map(PathBuf::from) else {
        skip!(
            "the_built_images_hold_what_was_built",
            "PHASE_APPLIANCE_DIR is not set"
        );
    };
    let read = |name: &str| {
        std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let (kernel, initramfs) = (read("vmlinuz"), read("initramfs.img"));
    let (manifest, rootfs, uki) = (
        read("manifest.json"),
        read("rootfs.squashfs"),
        read("phase.efi"),
    );

    check_uki(&uki, &[(".linux", &kernel), (".initrd", &initramfs)]);
    let expected = BTreeMap::from([
        ("stable/x86_64/initramfs.img".to_owned(), initramfs.clone()),
        ("stable/x86_64/vmlinuz".to_owned(), kernel.clone()),
    ]);
    let ours: BTreeMap<_, _> = squashfs::read(&rootfs)
        .unwrap()
        .into_iter()
        .map(|file| (file.path, file.content))
        .collect();
    assert!(ours == expected, "the squashfs holds {:?}", ours.keys());
    #[cfg(feature = "squashfs-ng")]
    assert!(
        ng::read(&folder.join("rootfs.squashfs")) == expected,
        "squashfs-ng reads something else"
    );

    let root = boot_manifest::TrustRoot::parse(&read("trust-root.json")).unwrap();
    let now = image::facts::signing_time().unwrap();
    let verified = image::trust::verify_image(&manifest, &root, now).unwrap();
    for (name, bytes) in [
        ("kernel", &kernel),
        ("initramfs", &initramfs),
        ("rootfs", &rootfs),
    ] {
        let artifact = verified
            .artifact(name)
            .unwrap_or_else(|| panic!("no {name} in the manifest"));
        assert_eq!(artifact.digest, boot_manifest::Digest::of(bytes), "{name}");
        assert_eq!(artifact.size, bytes.len() as u64, "{name}");
    }

    let image = read("phase.img");
    let partitions = disk::read(Cursor::new(image.clone())).unwrap();
    let part = |number: usize| {
        let partition = &partitions[number];
        &image[partition.start as usize..(partition.start + partition.bytes) as usize]
    };
    assert!(
        image::fat::read(part(0)).unwrap()[disk::BOOT_PATH] == uki,
        "the ESP holds another program"
    );
    assert!(
        part(1).starts_with(&manifest) && part(1)[manifest.len()] == 0,
        "another manifest"
    );
    assert!(
        part(1)[disk::SQUASHFS_OFFSET as usize..].starts_with(&rootfs),
        "another squashfs"
    );

    let frame = zstd::zstd_safe::find_frame_compressed_size(&initramfs).unwrap();
    let archive = zstd::decode_all(&initramfs[..frame]).unwrap();
    let recipe = initramfs::Recipe {
        init: &read("init"),
        plasmd: &read("plasmd"),
        trust_root: &read("trust-root.json"),
        image_info: b"",
    };
    let members: BTreeMap<_, _> = cpio::read(&archive)
        .unwrap()
        .into_iter()
        .map(|member| (member.path, member.size))
        .collect();
    for entry in initramfs::tree(&recipe) {
        if let cpio::Kind::File(content) = &entry.kind
            && entry.path != "etc/phase/image.json"
        {
            assert_eq!(
                members[&entry.path] as usize,
                content.len(),
                "{}",
                entry.path
            );
        }
    }
}
