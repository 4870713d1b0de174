//! Verified writing: what is visible when, what is resumed, what is refused.

use std::fs;
use std::os::unix::fs::symlink;

use artifact_store::{Folder, OpenError, Partial, WriteError};
use boot_manifest::Artifact;

use crate::{artifact, bytes};

const MIB: usize = 1 << 20;

fn chunk<'a>(artifact: &Artifact, content: &'a [u8], index: usize) -> &'a [u8] {
    let range = artifact.chunks.range(index);
    &content[range.start as usize..range.end as usize]
}

fn put(partial: &Partial, content: &[u8], index: usize) {
    write(partial, index, chunk(partial.artifact(), content, index)).unwrap();
}

/// Writes a chunk in pieces, as it comes from the network.
fn write(partial: &Partial, index: usize, bytes: &[u8]) -> Result<(), WriteError> {
    let mut chunk = partial.chunk(index)?;
    for piece in bytes.chunks(300_000) {
        chunk.write(piece)?;
    }
    chunk.finish()
}

#[test]
fn the_name_appears_when_everything_is_there_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(3 * MIB + 5, 1);
    let artifact = artifact("vmlinuz", &content);
    let folder = Folder::open(dir.path()).unwrap();
    assert!(folder.complete(&artifact).unwrap().is_none());
    let partial = folder.begin(&artifact).unwrap();
    assert_eq!(partial.missing(), [0, 1, 2, 3]);
    for index in [3, 0, 2] {
        put(&partial, &content, index);
        assert!(!dir.path().join("vmlinuz").exists());
    }
    assert_eq!(partial.missing(), [1]);
    put(&partial, &content, 1);
    assert!(
        matches!(partial.chunk(1), Err(WriteError::Taken { index: 1, .. })),
        "a chunk that is there could be written again"
    );
    assert_eq!(partial.verified_bytes(), content.len() as u64);
    assert!(!dir.path().join("vmlinuz").exists());
    assert_eq!(partial.commit().unwrap(), dir.path().join("vmlinuz"));
    assert_eq!(fs::read(dir.path().join("vmlinuz")).unwrap(), content);
    assert!(folder.complete(&artifact).unwrap().is_some());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn committing_too_early_is_refused_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(2 * MIB, 2);
    let artifact = artifact("vmlinuz", &content);
    let folder = Folder::open(dir.path()).unwrap();
    let partial = folder.begin(&artifact).unwrap();
    put(&partial, &content, 1);
    assert!(matches!(
        partial.commit(),
        Err(WriteError::Incomplete { missing: 1, .. })
    ));
    assert!(!dir.path().join("vmlinuz").exists());
    assert_eq!(folder.begin(&artifact).unwrap().missing(), [0]);
}

#[test]
fn wrong_bytes_are_never_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(2 * MIB, 3);
    let artifact = artifact("vmlinuz", &content);
    let folder = Folder::open(dir.path()).unwrap();
    let partial = folder.begin(&artifact).unwrap();
    let mut flipped = chunk(&artifact, &content, 0).to_vec();
    flipped[MIB - 1] ^= 0x80;
    put(&partial, &content, 1);
    for wrong in [
        &content[MIB..],
        &content[..MIB - 1],
        &content[..MIB + 1],
        &[],
        &flipped[..],
    ] {
        assert!(matches!(
            write(&partial, 0, wrong),
            Err(WriteError::WrongBytes { index: 0, computed, .. })
                if computed == boot_manifest::Digest::of(wrong)
        ));
        assert_eq!(partial.missing(), [0]);
    }
    for beyond in [2, usize::MAX] {
        assert!(matches!(
            partial.chunk(beyond),
            Err(WriteError::Taken { .. })
        ));
    }
    // What lies in the file was written and does not count, now or after a restart.
    drop(partial);
    let partial = folder.begin(&artifact).unwrap();
    assert_eq!(partial.missing(), [0]);
    put(&partial, &content, 0);
    partial.commit().unwrap();
    assert_eq!(fs::read(dir.path().join("vmlinuz")).unwrap(), content);
}

#[test]
fn a_chunk_has_one_writer_and_an_abandoned_one_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(2 * MIB, 5);
    let artifact = artifact("vmlinuz", &content);
    let partial = Folder::open(dir.path()).unwrap().begin(&artifact).unwrap();
    let mut first = partial.chunk(0).unwrap();
    first.write(&content[..MIB / 2]).unwrap();
    assert!(matches!(partial.chunk(0), Err(WriteError::Taken { .. })));
    assert_eq!(partial.missing(), [0, 1]);
    drop(first);
    assert_eq!(
        (partial.missing(), partial.verified_bytes()),
        (vec![0, 1], 0)
    );
    put(&partial, &content, 0);
    assert_eq!(partial.missing(), [1]);
}

#[test]
fn a_resume_believes_only_what_it_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(4 * MIB + 100, 4);
    let artifact = artifact("rootfs.squashfs", &content);
    let temp = dir.path().join(".rootfs.squashfs.partial");
    let folder = Folder::open(dir.path()).unwrap();
    let partial = folder.begin(&artifact).unwrap();
    for index in [0, 1, 3, 4] {
        put(&partial, &content, index);
    }
    drop(partial);
    let mut on_disk = fs::read(&temp).unwrap();
    on_disk[MIB + 17] ^= 1;
    on_disk.extend_from_slice(b"behind the end");
    fs::write(&temp, &on_disk).unwrap();
    let partial = folder.begin(&artifact).unwrap();
    assert_eq!(partial.missing(), [1, 2]);
    assert_eq!(partial.resumed_bytes(), 2 * MIB as u64 + 100);
    put(&partial, &content, 1);
    put(&partial, &content, 2);
    partial.commit().unwrap();
    assert_eq!(
        fs::read(dir.path().join("rootfs.squashfs")).unwrap(),
        content
    );
}

#[test]
fn a_cut_off_last_chunk_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(MIB + 10, 5);
    let artifact = artifact("vmlinuz", &content);
    fs::write(dir.path().join(".vmlinuz.partial"), &content[..MIB + 9]).unwrap();
    let partial = Folder::open(dir.path()).unwrap().begin(&artifact).unwrap();
    assert_eq!(partial.missing(), [1]);
}

#[test]
fn a_newer_artifact_starts_over_where_it_differs() {
    let dir = tempfile::tempdir().unwrap();
    let old = bytes(2 * MIB, 6);
    let mut new = old.clone();
    new[MIB + 1] ^= 1;
    let folder = Folder::open(dir.path()).unwrap();
    let old_artifact = artifact("vmlinuz", &old);
    let partial = folder.begin(&old_artifact).unwrap();
    put(&partial, &old, 0);
    put(&partial, &old, 1);
    drop(partial);
    assert_eq!(
        folder.begin(&artifact("vmlinuz", &new)).unwrap().missing(),
        [1]
    );
}

#[test]
fn only_one_writer_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let content = bytes(100, 7);
    let artifact = artifact("vmlinuz", &content);
    let folder = Folder::open(dir.path()).unwrap();
    let first = folder.begin(&artifact).unwrap();
    assert!(matches!(
        folder.begin(&artifact),
        Err(WriteError::Busy { .. })
    ));
    put(&first, &content, 0);
    first.commit().unwrap();
    folder.begin(&artifact).unwrap().discard().unwrap();
    assert!(!dir.path().join(".vmlinuz.partial").exists());
}

#[test]
fn a_planted_partial_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact("vmlinuz", b"content");
    let folder = Folder::open(dir.path()).unwrap();
    let temp = dir.path().join(".vmlinuz.partial");
    let other = dir.path().join("other");
    fs::write(&other, b"mine").unwrap();

    symlink(&other, &temp).unwrap();
    let refused = folder.begin(&artifact);
    assert!(
        matches!(
            refused,
            Err(WriteError::Open {
                reason: OpenError::Link,
                ..
            })
        ),
        "{refused:?}"
    );
    fs::remove_file(&temp).unwrap();

    fs::hard_link(&other, &temp).unwrap();
    assert!(matches!(
        folder.begin(&artifact),
        Err(WriteError::Foreign { .. })
    ));
    fs::remove_file(&temp).unwrap();

    fs::create_dir(&temp).unwrap();
    assert!(matches!(
        folder.begin(&artifact),
        Err(WriteError::Open { .. })
    ));
    assert_eq!(fs::read(&other).unwrap(), b"mine");
}

#[test]
fn a_small_file_has_one_writer_and_no_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let name = "manifest.json".parse().unwrap();
    let (temp, other) = (
        dir.path().join(".manifest.json.partial"),
        dir.path().join("other"),
    );
    fs::write(&other, b"mine").unwrap();
    fs::hard_link(&other, &temp).unwrap();
    let refused = folder.write(&name, b"manifest");
    assert!(
        matches!(refused, Err(WriteError::Foreign { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(&other).unwrap(), b"mine");
    fs::remove_file(&temp).unwrap();

    // Another writer of the same name is at work.
    let partial = folder
        .begin(&artifact("manifest.json", b"content"))
        .unwrap();
    let refused = folder.write(&name, b"manifest");
    assert!(
        matches!(refused, Err(WriteError::Busy { .. })),
        "{refused:?}"
    );
    drop(partial);
    folder.write(&name, b"manifest").unwrap();
}

#[test]
fn what_lies_under_the_name_is_hashed_before_it_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact("vmlinuz", b"content");
    let folder = Folder::open(dir.path()).unwrap();
    for (found, expected) in [
        (&b"content"[..], true),
        (b"contenT", false),
        (b"conten", false),
        (b"", false),
    ] {
        fs::write(dir.path().join("vmlinuz"), found).unwrap();
        assert_eq!(
            folder.complete(&artifact).unwrap().is_some(),
            expected,
            "{found:?}"
        );
    }
}

#[test]
fn a_small_file_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let name = "manifest.json".parse().unwrap();
    folder.write(&name, b"a longer first content").unwrap();
    folder.write(&name, b"second").unwrap();
    assert_eq!(
        fs::read(dir.path().join("manifest.json")).unwrap(),
        b"second"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_missing_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Folder::open(&dir.path().join("nowhere")).unwrap_err();
    assert!(error.to_string().contains("nowhere: not found"), "{error}");
}
