//! Finding files: aliases, and everything that must not be found; digests that are never stale.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use artifact_store::{Depth, HashError, OpenError, OpenFile, Reason, Store};
use boot_manifest::{Arch, ArtifactHasher, Channel, Digest};

use crate::bytes;

struct Tree {
    dir: tempfile::TempDir,
    store: Store,
}

impl Tree {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Self {
            store: Store::open(dir.path()).unwrap(),
            dir,
        };
        for (path, content) in files {
            tree.write(path, content);
        }
        tree
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn find(&self, arch: &str, name: &str) -> Result<OpenFile, OpenError> {
        self.store.find(&stable(), arch, &name.parse().unwrap())
    }

    /// The content of what is found.
    fn read(&self, arch: &str, name: &str) -> Result<Vec<u8>, OpenError> {
        let file = self.find(arch, name)?;
        let mut content = vec![0; file.size() as usize];
        assert_eq!(file.read_at(&mut content, 0).unwrap(), content.len());
        Ok(content)
    }

    fn names(&self) -> Vec<(String, String)> {
        let scan = self.store.scan(&stable(), Arch::X86_64);
        scan.found
            .iter()
            .map(|found| (found.artifact.to_string(), found.file.name().to_string()))
            .collect()
    }

    fn problems(&self) -> Vec<String> {
        let scan = self.store.scan(&stable(), Arch::X86_64);
        scan.problems.iter().map(ToString::to_string).collect()
    }
}

fn stable() -> Channel {
    "stable".parse().unwrap()
}

/// Waits until the kernel's time stamps have moved on from those of `path`, so that digests are kept.
fn settle(path: &Path) {
    let file = fs::File::open(path).unwrap();
    let changed = Duration::new(
        file.metadata().unwrap().ctime() as u64,
        file.metadata().unwrap().ctime_nsec() as u32,
    );
    while SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH + changed)
        .unwrap_or_default()
        <= Duration::from_millis(25)
    {
        std::thread::yield_now();
    }
}

#[test]
fn names_and_architectures_have_aliases() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/initrd", b"initramfs"),
        ("stable/x86_64/rootfs.squashfs", b"rootfs"),
        ("stable/arm64/vmlinuz-arm64", b"arm kernel"),
        ("stable/arm64/initramfs-arm64.img", b"arm initramfs"),
    ]);
    for (arch, name, expected) in [
        ("x86_64", "vmlinuz", "kernel"),
        ("amd64", "vmlinuz", "kernel"),
        ("amd64", "kernel", "kernel"),
        ("x86_64", "initramfs", "initramfs"),
        ("x86_64", "rootfs", "rootfs"),
        ("aarch64", "kernel", "arm kernel"),
        ("arm64", "initramfs", "arm initramfs"),
    ] {
        assert_eq!(
            tree.read(arch, name).unwrap(),
            expected.as_bytes(),
            "{arch} {name}"
        );
    }
    assert_eq!(
        tree.find("amd64", "kernel").unwrap().name().as_str(),
        "vmlinuz"
    );
    for (arch, name) in [
        ("x86_64", "bzImage"),
        ("riscv64", "kernel"),
        ("x86_64", "dtb-x"),
        ("aarch64", "rootfs"),
    ] {
        assert_eq!(
            tree.find(arch, name).unwrap_err(),
            OpenError::NotFound,
            "{arch} {name}"
        );
    }
}

#[test]
fn the_asked_spelling_wins_when_both_folders_exist() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"one"),
        ("stable/amd64/vmlinuz", b"other"),
        ("stable/amd64/initrd", b"only here"),
    ]);
    assert_eq!(tree.read("x86_64", "kernel").unwrap(), b"one");
    assert_eq!(tree.read("amd64", "kernel").unwrap(), b"other");
    assert_eq!(tree.read("x86_64", "initrd").unwrap(), b"only here");
    assert_eq!(
        tree.problems(),
        ["stable/amd64/vmlinuz: is not the kernel, stable/x86_64/vmlinuz is"]
    );
}

#[test]
fn nothing_but_regular_files_beneath_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("elsewhere/x86_64/vmlinuz", b"x"),
    ]);
    let link = |target: &Path, name: &str| symlink(target, tree.path(name)).unwrap();
    link(&outside.path().join("secret"), "stable/x86_64/absolute");
    link(
        Path::new("../../../../../../etc/passwd"),
        "stable/x86_64/relative",
    );
    link(Path::new("vmlinuz"), "stable/x86_64/inside");
    link(outside.path(), "linked");
    fs::create_dir(tree.path("stable/x86_64/folder")).unwrap();
    let fifo = tree.path("stable/x86_64/fifo");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    std::os::unix::net::UnixListener::bind(tree.path("stable/x86_64/socket")).unwrap();
    for (name, expected) in [
        ("absolute", OpenError::Link),
        ("relative", OpenError::Link),
        ("inside", OpenError::Link),
        ("folder", OpenError::NotRegular("directory")),
        ("fifo", OpenError::NotRegular("FIFO")),
        ("socket", OpenError::NotRegular("socket or device")),
    ] {
        assert_eq!(tree.find("x86_64", name).unwrap_err(), expected, "{name}");
    }
    let linked = "linked".parse().unwrap();
    fs::create_dir(outside.path().join("x86_64")).unwrap();
    fs::write(outside.path().join("x86_64/vmlinuz"), b"x").unwrap();
    let name = "vmlinuz".parse().unwrap();
    assert_eq!(
        tree.store.find(&linked, "x86_64", &name).unwrap_err(),
        OpenError::Link
    );
    // A link in the place of a folder is a problem somebody must see.
    let scan = tree.store.scan(&linked, Arch::X86_64);
    assert!(
        matches!(scan.problems[0].reason, Reason::Open(OpenError::Link)),
        "{:?}",
        scan.problems
    );
}

#[test]
fn one_bad_file_leaves_the_others() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/initramfs.img", b""),
        ("stable/x86_64/dtb-board", b"dtb"),
        ("stable/x86_64/manifest.json", b"{}"),
        ("stable/x86_64/roots.json", b"{}"),
        ("stable/x86_64/README", b"no artifact name"),
        ("stable/x86_64/.vmlinuz.partial", b"half"),
    ]);
    fs::create_dir(tree.path("stable/x86_64/notes")).unwrap();
    symlink("vmlinuz", tree.path("stable/x86_64/rootfs.img")).unwrap();
    let expected = [("dtb-board", "dtb-board"), ("kernel", "vmlinuz")]
        .map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(tree.names(), expected);
    assert_eq!(
        tree.problems(),
        [
            "stable/x86_64/initramfs.img: is empty",
            "stable/x86_64/rootfs.img: is a symbolic link or leads out of the directory; links are not followed",
        ]
    );
}

#[test]
fn an_unreadable_file_is_named() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/initrd", b"x"),
    ]);
    fs::set_permissions(
        tree.path("stable/x86_64/initrd"),
        fs::Permissions::from_mode(0o0),
    )
    .unwrap();
    if fs::read(tree.path("stable/x86_64/initrd")).is_ok() {
        eprintln!("SKIPPED: an_unreadable_file_is_named: this user reads everything");
        return;
    }
    assert_eq!(
        tree.find("x86_64", "initrd").unwrap_err(),
        OpenError::Permission
    );
    assert_eq!(tree.problems(), ["stable/x86_64/initrd: permission denied"]);
}

#[test]
fn two_kernels_are_decided_by_name_or_not_at_all() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"now"),
        ("stable/x86_64/vmlinuz-6.1.old", b"old"),
    ]);
    assert_eq!(tree.read("x86_64", "kernel").unwrap(), b"now");
    assert_eq!(
        tree.problems(),
        ["stable/x86_64/vmlinuz-6.1.old: is not the kernel, stable/x86_64/vmlinuz is"]
    );

    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz-6.1", b"a"),
        ("stable/x86_64/vmlinuz-6.12", b"b"),
    ]);
    assert_eq!(
        tree.find("x86_64", "kernel").unwrap_err(),
        OpenError::NotFound
    );
    assert_eq!(tree.read("x86_64", "vmlinuz-6.1").unwrap(), b"a");
    assert!(tree.names().is_empty());
    assert_eq!(
        tree.problems(),
        [
            "stable/x86_64: no kernel, because vmlinuz-6.1, vmlinuz-6.12 could all be it; give one its usual name"
        ]
    );

    let tree = Tree::new(&[("stable/x86_64/vmlinuz-6.12", b"only")]);
    assert_eq!(tree.read("x86_64", "kernel").unwrap(), b"only");
    assert!(tree.problems().is_empty());
}

#[test]
fn a_folder_of_thousands_is_bounded() {
    let tree = Tree::new(&[]);
    for number in 0..300 {
        tree.write(&format!("stable/x86_64/dtb-{number:03}"), b"x");
    }
    assert_eq!(tree.names().len(), 128);
    assert!(tree.problems()[0].contains("more than 128 files"));
    assert_eq!(tree.read("x86_64", "dtb-299").unwrap(), b"x");
}

#[test]
fn a_digest_follows_the_content() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"first")]);
    let path = tree.path("stable/x86_64/vmlinuz");
    let digest = || {
        let file = tree.find("x86_64", "vmlinuz").unwrap();
        tree.store
            .hashes()
            .hash(&file, Depth::Whole)
            .unwrap()
            .digest
    };
    // The same length each time, and no waiting between the changes: time stamps may not have moved.
    for round in 0..200_u8 {
        let content = [round; 5];
        if round % 2 == 0 {
            fs::write(&path, content).unwrap();
        } else {
            fs::write(tree.path("new"), content).unwrap();
            fs::rename(tree.path("new"), &path).unwrap();
        }
        assert_eq!(digest(), Digest::of(&content), "round {round}");
    }
    // Setting the modification time back does not hide a change.
    settle(&path);
    let before = fs::metadata(&path).unwrap();
    digest();
    fs::write(&path, b"other").unwrap();
    fs::File::open(&path)
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
    assert_eq!(digest(), Digest::of(b"other"));
}

#[test]
fn an_opened_file_stays_what_it_was() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"first")]);
    let path = tree.path("stable/x86_64/vmlinuz");
    let file = tree.find("x86_64", "vmlinuz").unwrap();
    tree.write("new", b"second");
    fs::rename(tree.path("new"), &path).unwrap();
    assert_eq!(
        tree.store
            .hashes()
            .hash(&file, Depth::Whole)
            .unwrap()
            .digest,
        Digest::of(b"first")
    );
    settle(&path);
    let file = tree.find("x86_64", "vmlinuz").unwrap();
    assert!(file.unchanged().unwrap());
    fs::write(&path, b"third!").unwrap();
    assert!(!file.unchanged().unwrap());
    assert!(matches!(
        tree.store.hashes().hash(&file, Depth::Whole),
        Err(HashError::Changed)
    ));
}

#[test]
fn many_askers_one_pass() {
    let content = bytes(32 << 20, 9);
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &content)]);
    settle(&tree.path("stable/x86_64/vmlinuz"));
    let barrier = Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let file = tree.find("x86_64", "vmlinuz").unwrap();
                barrier.wait();
                assert_eq!(
                    tree.store
                        .hashes()
                        .hash(&file, Depth::Whole)
                        .unwrap()
                        .digest,
                    Digest::of(&content)
                );
            });
        }
    });
    assert_eq!(tree.store.hashes().passes_total(), 1);
    let file = tree.find("x86_64", "vmlinuz").unwrap();
    assert!(
        tree.store
            .hashes()
            .peek(&file.identity(), Depth::Whole)
            .is_some()
    );
}

#[test]
fn chunks_are_hashed_when_they_are_asked_for() {
    const MIB: usize = 1 << 20;
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 5 * MIB + 7] {
        let content = bytes(size, 5);
        let tree = Tree::new(&[
            ("stable/x86_64/vmlinuz", &content),
            ("stable/x86_64/initrd", &content),
        ]);
        settle(&tree.path("stable/x86_64/initrd"));
        settle(&tree.path("stable/x86_64/vmlinuz"));
        let hashes = tree.store.hashes();
        let expected = (size > 0).then(|| {
            let mut hasher = ArtifactHasher::new(size as u64).unwrap();
            hasher.update(&content);
            hasher.finish().unwrap().1
        });
        let check = |name: &str, depths: &[Depth], passes: u64| {
            let file = tree.find("x86_64", name).unwrap();
            let before = hashes.passes_total();
            for depth in depths {
                let hashed = hashes.hash(&file, *depth).unwrap();
                assert_eq!(hashed.digest, Digest::of(&content), "{name} {size}");
                let chunks = matches!(depth, Depth::Chunks).then_some(&expected);
                assert!(
                    chunks.is_none_or(|chunks| *chunks == hashed.chunks),
                    "{name} {size}"
                );
            }
            assert_eq!(hashes.passes_total() - before, passes, "{name} {size}");
        };
        // Both from one reading, or the chunks when the digest is known already.
        check("vmlinuz", &[Depth::Chunks, Depth::Whole, Depth::Chunks], 1);
        let readings = if size == 0 { 1 } else { 2 };
        check(
            "initrd",
            &[Depth::Whole, Depth::Whole, Depth::Chunks, Depth::Chunks],
            readings,
        );
    }
}

#[test]
fn a_directory_that_was_replaced_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("artifacts"), dir.path().join("other"));
    fs::create_dir(&path).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.is_replaced(), Ok(false));
    fs::rename(&path, &other).unwrap();
    assert_eq!(store.is_replaced(), Err(OpenError::NotFound));
    symlink(&other, &path).unwrap();
    assert_eq!(store.is_replaced(), Ok(false));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(store.is_replaced(), Ok(true));
}

#[test]
fn channels_are_directories_whose_names_could_be_one() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["stable", "beta-2", "Upper", ".git", "lost+found"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
    }
    std::fs::write(root.path().join("file"), "x").unwrap();
    std::os::unix::fs::symlink("stable", root.path().join("link")).unwrap();
    let store = Store::open(root.path()).unwrap();
    let names: Vec<String> = store.channels().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["beta-2", "stable"]);
}
