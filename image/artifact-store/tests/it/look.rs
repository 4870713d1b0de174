//! Looking at files without opening them.

use std::fs;
use std::os::unix::fs::symlink;

use artifact_store::{OpenError, Store};
use boot_manifest::{Arch, Channel, FileName};

#[test]
fn what_is_seen_is_what_is_there_at_that_moment() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("stable/amd64");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("vmlinuz"), b"kernel").unwrap();
    symlink("vmlinuz", folder.join("link")).unwrap();
    fs::create_dir(folder.join("folder")).unwrap();
    let store = Store::open(root.path()).unwrap();
    let channel: Channel = "stable".parse().unwrap();
    let name = |name: &str| -> FileName { name.parse().unwrap() };
    let mut folders = store.folders(&channel, Arch::X86_64, "x86_64");

    // By an alias, in the other spelling of the folder.
    let kernel = name("kernel");
    let seen = folders.look(&kernel).unwrap();
    assert_eq!(seen.name(), "vmlinuz");
    let identity = seen.identity().unwrap();
    assert_eq!(seen.open().unwrap().identity(), identity);
    fs::write(folder.join("new"), b"another").unwrap();
    fs::rename(folder.join("new"), folder.join("vmlinuz")).unwrap();
    let opened = seen.open().unwrap();
    assert!(opened.identity() != identity && opened.size() == 7);

    for (odd, expected) in [
        ("link", OpenError::Link),
        ("folder", OpenError::NotRegular("directory")),
    ] {
        let odd = name(odd);
        let seen = folders.look(&odd).unwrap();
        assert_eq!(seen.identity(), None);
        assert_eq!(seen.open().unwrap_err(), expected);
    }
    assert_eq!(
        folders.look(&name("absent")).unwrap_err(),
        OpenError::NotFound
    );
    // A folder that is a link is not looked into, whatever lies behind it.
    symlink("amd64", root.path().join("stable/x86_64")).unwrap();
    let mut folders = store.folders(&channel, Arch::X86_64, "x86_64");
    assert_eq!(folders.look(&kernel).unwrap_err(), OpenError::Link);
}
