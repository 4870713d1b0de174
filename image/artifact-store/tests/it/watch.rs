//! Whatever happens to what was looked at, its stamp is not good any more; and nothing else ends it.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use artifact_store::{Stamp, Store, Watch};
use boot_manifest::{Arch, Channel};

const FILE: &str = "stable/x86_64/vmlinuz";

fn stable() -> Channel {
    "stable".parse().unwrap()
}

/// Looks at the kernel, at a manifest that is not there, and at the whole folder.
fn look(store: &Store, watch: &Watch, arch: Arch) -> Stamp {
    let (channel, kernel) = (stable(), "vmlinuz".parse().unwrap());
    let manifest = "manifest.json".parse().unwrap();
    let looking = watch.begin(&channel, arch);
    let mut folders = store
        .folders(&channel, arch, arch.as_str())
        .watched(&looking);
    let _ = folders.look(&kernel);
    let _ = folders.look(&manifest);
    drop(folders);
    store.scan_watched(&channel, arch, &looking);
    looking.stamp().unwrap()
}

/// Whether the stamp is good once all that was told is known.
fn is_good(watch: &Watch, stamp: &Stamp) -> bool {
    watch.tidy(|_| true);
    stamp.is_good()
}

#[test]
fn every_change_ends_the_stamp() {
    type Change = fn(&Path);
    let changes: &[(&str, Change)] = &[
        ("overwritten", |root| {
            fs::write(root.join(FILE), b"other").unwrap();
        }),
        ("one byte written in place", |root| {
            let file = fs::File::options().write(true).open(root.join(FILE));
            file.unwrap().write_all_at(b"K", 0).unwrap();
        }),
        ("truncated", |root| {
            let file = fs::File::options().write(true).open(root.join(FILE));
            file.unwrap().set_len(1).unwrap();
        }),
        ("removed", |root| {
            fs::remove_file(root.join(FILE)).unwrap();
        }),
        ("another file under the name", |root| {
            fs::write(root.join("new"), b"new").unwrap();
            fs::rename(root.join("new"), root.join(FILE)).unwrap();
        }),
        ("renamed away", |root| {
            fs::rename(root.join(FILE), root.join("aside")).unwrap();
        }),
        ("written through another name", |root| {
            fs::hard_link(root.join(FILE), root.join("link")).unwrap();
            fs::write(root.join("link"), b"other").unwrap();
        }),
        ("other permissions", |root| {
            fs::set_permissions(root.join(FILE), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("an old time stamp", |root| {
            let file = fs::File::options().write(true).open(root.join(FILE));
            file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("a manifest comes", |root| {
            fs::write(root.join("stable/x86_64/manifest.json"), b"{}").unwrap();
        }),
        ("another artifact comes", |root| {
            fs::write(root.join("stable/x86_64/initrd"), b"initrd").unwrap();
        }),
        ("the folder in the other spelling comes", |root| {
            fs::create_dir(root.join("stable/amd64")).unwrap();
        }),
        ("the folder is renamed", |root| {
            fs::rename(root.join("stable/x86_64"), root.join("stable/aside")).unwrap();
        }),
        ("a link in the place of the folder", |root| {
            fs::rename(root.join("stable/x86_64"), root.join("aside")).unwrap();
            symlink(root.join("aside"), root.join("stable/x86_64")).unwrap();
        }),
        ("the channel is renamed", |root| {
            fs::rename(root.join("stable"), root.join("aside")).unwrap();
        }),
        ("other permissions of the channel", |root| {
            fs::set_permissions(root.join("stable"), fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("everything is removed", |root| {
            fs::remove_dir_all(root.join("stable")).unwrap();
        }),
    ];
    for (name, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("stable/x86_64")).unwrap();
        fs::write(dir.path().join(FILE), b"kernel").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let watch = store.watch().unwrap();
        let stamp = look(&store, &watch, Arch::X86_64);
        assert!(is_good(&watch, &stamp), "{name}: nothing happened yet");
        change(dir.path());
        assert!(!is_good(&watch, &stamp), "{name}");
        // And the next look is watched again.
        let stamp = look(&store, &watch, Arch::X86_64);
        assert!(is_good(&watch, &stamp), "{name}: the look after it");
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        assert!(!is_good(&watch, &stamp), "{name}: the root is watched");
    }
}

#[test]
fn what_never_was_there_is_noticed_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let watch = store.watch().unwrap();
    for folder in ["stable", "stable/x86_64"] {
        let stamp = look(&store, &watch, Arch::X86_64);
        assert!(is_good(&watch, &stamp), "{folder}");
        fs::create_dir(dir.path().join(folder)).unwrap();
        assert!(!is_good(&watch, &stamp), "{folder}");
    }
}

#[test]
fn other_places_keep_their_stamps() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["stable/x86_64", "stable/aarch64"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("vmlinuz"), b"kernel").unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    let watch = store.watch().unwrap();
    let (x86, arm) = (Arch::X86_64, Arch::Aarch64);
    let stamps = [look(&store, &watch, x86), look(&store, &watch, arm)];
    fs::write(dir.path().join(FILE), b"other").unwrap();
    assert!(!is_good(&watch, &stamps[0]));
    assert!(is_good(&watch, &stamps[1]));
    // Reading is no change.
    fs::read(dir.path().join("stable/aarch64/vmlinuz")).unwrap();
    assert!(is_good(&watch, &stamps[1]));
    watch.end_all();
    assert!(!is_good(&watch, &stamps[1]));
}

#[test]
fn a_change_between_the_first_and_the_last_look_spoils_the_stamp() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("stable/x86_64")).unwrap();
    fs::write(dir.path().join(FILE), b"kernel").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let watch = store.watch().unwrap();
    let (channel, kernel) = (stable(), "vmlinuz".parse().unwrap());
    let looking = watch.begin(&channel, Arch::X86_64);
    let mut folders = store
        .folders(&channel, Arch::X86_64, "x86_64")
        .watched(&looking);
    folders.look(&kernel).unwrap();
    drop(folders);
    fs::write(dir.path().join(FILE), b"other").unwrap();
    let stamp = looking.stamp();
    assert!(stamp.is_none_or(|stamp| !is_good(&watch, &stamp)));
}

#[test]
fn watches_are_given_up_with_their_place_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("stable/x86_64")).unwrap();
    fs::write(dir.path().join(FILE), b"kernel").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let watch = store.watch().unwrap();
    let stamp = look(&store, &watch, Arch::X86_64);
    // Root, channel, folder, file.
    assert_eq!(watch.watches(), 4);
    // Looking again adds none, a new file takes the place of the old one.
    for content in ["a", "b", "c"] {
        fs::write(dir.path().join("new"), content).unwrap();
        fs::rename(dir.path().join("new"), dir.path().join(FILE)).unwrap();
        watch.tidy(|_| true);
        look(&store, &watch, Arch::X86_64);
        assert_eq!(watch.watches(), 4);
    }
    watch.tidy(|_| false);
    assert_eq!(watch.watches(), 0);
    assert!(!stamp.is_good());
    // More places than allowed.
    for number in 0..200 {
        let channel: Channel = format!("c{number}").parse().unwrap();
        fs::create_dir_all(dir.path().join(channel.as_str()).join("x86_64")).unwrap();
        let looking = watch.begin(&channel, Arch::X86_64);
        store.scan_watched(&channel, Arch::X86_64, &looking);
        assert!(looking.stamp().is_some());
        assert!(watch.watches() <= 130, "{}", watch.watches());
    }
}

#[test]
fn lost_events_end_everything() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("stable/x86_64")).unwrap();
    fs::write(dir.path().join(FILE), b"kernel").unwrap();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let watch = store.watch().unwrap();
    let stamps = [
        look(&store, &watch, Arch::X86_64),
        look(&store, &watch, Arch::Aarch64),
    ];
    // Different events in a row are not merged. The first is about one place only, the queue's overflow about all.
    let (a, b) = (dir.path().join(FILE), dir.path().join("stable/x86_64/b"));
    for _ in 0..=queue / 2 {
        fs::rename(&a, &b).unwrap();
        fs::rename(&b, &a).unwrap();
    }
    assert!(!is_good(&watch, &stamps[0]));
    assert!(!is_good(&watch, &stamps[1]));
}
