//! What is kept in memory is never served for something else: whatever happens to a small file, its folders or their
//! manifest, the next request sees it.

use std::fs;
use std::os::unix::fs::symlink;

use boot_manifest::Digest;

use super::manifest::{artifact, now, signed};
use crate::provider::{Provider, Tree};

const FILE: &str = "stable/x86_64/board.dtb";
const OLD: &[u8] = b"the content of old";
const NEW: &[u8] = b"the content of new";

/// A provider that has answered with the file, and answers from memory.
fn primed(content: &[u8]) -> (Tree, Provider) {
    let tree = Tree::new(&[(FILE, content), ("stable/x86_64/vmlinuz", b"kernel")]);
    let provider = Provider::start(tree.root(), &[]);
    for _ in 0..3 {
        check(&provider, content);
    }
    (tree, provider)
}

/// The next answer has this content, and says nothing else about it.
fn check(provider: &Provider, content: &[u8]) {
    let answer = provider.get("/stable/x86_64/board.dtb");
    assert_eq!((answer.status, &answer.body[..]), (200, content));
    let digest = Digest::of(content);
    assert_eq!(answer.field("etag"), format!("\"{}\"", digest.hex()));
    assert_eq!(answer.field("x-artifact-hash"), digest.to_string());
    assert_eq!(answer.field("content-length"), content.len().to_string());
}

fn check_status(provider: &Provider, status: u16) {
    assert_eq!(provider.get("/stable/x86_64/board.dtb").status, status);
}

#[test]
fn a_file_that_changed() {
    let (tree, provider) = primed(OLD);
    tree.replace(FILE, NEW);
    check(&provider, NEW);
    // In place and of the same length, with the old modification time.
    let modified = fs::metadata(tree.path(FILE)).unwrap().modified().unwrap();
    tree.write(FILE, OLD);
    let file = fs::File::options()
        .write(true)
        .open(tree.path(FILE))
        .unwrap();
    file.set_modified(modified).unwrap();
    check(&provider, OLD);
    tree.write(FILE, b"");
    check(&provider, b"");
    fs::remove_file(tree.path(FILE)).unwrap();
    check_status(&provider, 404);
    tree.write(FILE, NEW);
    check(&provider, NEW);
    check(&provider, NEW);
    // The limit of what is kept, and one byte above it.
    for size in [64 * 1024, 64 * 1024 + 1] {
        let large = vec![7; size];
        tree.replace(FILE, &large);
        check(&provider, &large);
        check(&provider, &large);
    }
}

#[test]
fn a_link_in_the_place_of_a_known_file_or_folder() {
    let (tree, provider) = primed(OLD);
    // Every link leads to the very file that is known.
    for moved in [FILE, "stable/x86_64", "stable"] {
        let aside = tree.path("aside");
        fs::rename(tree.path(moved), &aside).unwrap();
        check_status(&provider, 404);
        symlink(&aside, tree.path(moved)).unwrap();
        check_status(&provider, 403);
        fs::remove_file(tree.path(moved)).unwrap();
        fs::rename(&aside, tree.path(moved)).unwrap();
        check(&provider, OLD);
    }
}

#[test]
fn a_folder_in_the_place_of_another() {
    let (tree, provider) = primed(OLD);
    for folder in ["stable/x86_64", "stable"] {
        let before = tree.path("before");
        let other = FILE.replace(folder, "other");
        tree.write(&other, NEW);
        fs::rename(tree.path(folder), &before).unwrap();
        fs::rename(tree.path("other"), tree.path(folder)).unwrap();
        check(&provider, NEW);
        fs::remove_dir_all(tree.path(folder)).unwrap();
        check_status(&provider, 404);
        fs::rename(&before, tree.path(folder)).unwrap();
        check(&provider, OLD);
    }
    // Another spelling of the folder counts as soon as the asked one has no such file.
    tree.write("stable/amd64/board.dtb", NEW);
    check(&provider, OLD);
    fs::remove_file(tree.path(FILE)).unwrap();
    check(&provider, NEW);
}

#[test]
fn a_manifest_that_comes_changes_and_goes() {
    let (tree, provider) = primed(OLD);
    let naming = |content| signed(vec![artifact("kernel", "board.dtb", content)], now());
    for path in ["stable/x86_64/manifest.json", "stable/amd64/manifest.json"] {
        tree.write(path, &naming(NEW));
        check_status(&provider, 500);
        tree.replace(path, &naming(OLD));
        check(&provider, OLD);
        tree.write(path, &naming(NEW));
        check_status(&provider, 500);
        fs::remove_file(tree.path(path)).unwrap();
        check(&provider, OLD);
    }
}

#[test]
fn one_content_under_two_names() {
    let (tree, provider) = primed(OLD);
    fs::hard_link(tree.path(FILE), tree.path("stable/x86_64/loader.efi")).unwrap();
    for _ in 0..3 {
        check(&provider, OLD);
        let answer = provider.get("/stable/x86_64/loader.efi");
        assert_eq!(answer.field("content-type"), "application/efi");
        assert_eq!(answer.body, OLD);
    }
}
