//! The initramfs, read by cpio and zstd.

use image::{cpio, initramfs};

use crate::{noise, run};

#[test]
fn cpio_lists_and_unpacks_the_initramfs() {
    let recipe = initramfs::Recipe {
        init: b"init",
        plasmd: b"plasmd",
        trust_root: b"{}",
        roots: b"",
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
        roots: b"",
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
