//! The squashfs, read by unsquashfs and by squashfs-ng.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::squashfs;

use crate::{noise, run};

pub(crate) fn recipe_of(parts: &BTreeMap<String, Vec<u8>>) -> squashfs::Recipe<'_> {
    parts
        .iter()
        .map(|(path, content)| (path.clone(), content.as_slice()))
        .collect()
}

/// Files around every border of the format: empty, a fragment, exactly a block, a block and a byte, many blocks, zeros.
pub(crate) fn squashfs_parts() -> BTreeMap<String, Vec<u8>> {
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

pub(crate) fn squashfs_file(folder: &Path, parts: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let path = folder.join("rootfs.squashfs");
    squashfs::write(&recipe_of(parts), std::fs::File::create(&path).unwrap()).unwrap();
    path
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
pub(crate) mod ng {
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

    pub(crate) fn read(image: &Path) -> BTreeMap<String, Vec<u8>> {
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
