//! Images as a whole: the same twice, and what `cargo appliance build` left.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::grub::{self, Loader};
use image::{boot_files, cpio, disk, initramfs, squashfs, uki};

use crate::disk::loader;
use crate::noise;
#[cfg(feature = "squashfs-ng")]
use crate::squashfs::ng;
use crate::squashfs::squashfs_file;
use crate::uki::{check_uki, stub, uki_of};

/// Everything from parts to disk image, in a folder of its own.
fn build_all(folder: &Path, stub: &[u8]) -> Vec<u8> {
    let kernel = noise(900_000, 9);
    let recipe = initramfs::Recipe {
        init: b"init",
        plasmd: b"plasmd",
        trust_root: b"{}",
        roots: b"",
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
            kernel: &kernel,
            initramfs: &initramfs,
            loader: &loader(),
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
    let mut expected = BTreeMap::from([
        ("stable/x86_64/initramfs.img".to_owned(), initramfs.clone()),
        (
            "stable/x86_64/phase.efi.head".to_owned(),
            uki::head(&uki, &kernel, &initramfs).unwrap().to_vec(),
        ),
        ("stable/x86_64/vmlinuz".to_owned(), kernel.clone()),
    ]);
    for program in boot_files::programs().unwrap() {
        expected.insert(format!("stable/x86_64/{}", program.name), program.content);
    }
    for licence in boot_files::licences().unwrap() {
        expected.insert(licence.name, licence.content);
    }
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
        ("uki", &uki),
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
    let esp = image::fat::read(part(0)).unwrap();
    for (path, bytes) in [
        (disk::BOOT_PATH, &uki),
        (grub::KERNEL_PATH, &kernel),
        (grub::INITRAMFS_PATH, &initramfs),
    ] {
        assert!(esp[path] == *bytes, "the ESP holds another {path}");
    }
    let grub_cfg = tempfile::tempdir().unwrap();
    let loader = Loader::make(image::facts::CMDLINE, grub_cfg.path()).unwrap();
    let placed = loader.placed(partitions[2].start / 512);
    assert!(image.starts_with(&placed.boot_code) && part(2).starts_with(&placed.core));
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
        roots: b"",
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
