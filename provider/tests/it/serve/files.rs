//! Everything that can lie under a name, and every way to spell one. Each case is asked for several times, because a first
//! answer comes from a look and later ones from what is at hand; nothing outside the directory ever appears.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use boot_manifest::Digest;
use rustix::fs::{CWD, FileType, Mode};

use crate::lan::skip;
use crate::provider::{Provider, Tree, wait_until};
use crate::serve::asking::{Asking, notice};

const FOLDER: &str = "stable/x86_64";
const SECRET: &[u8] = b"the secret outside";

/// The answer to a case, by its status; 200 comes with the content.
enum Expected {
    Content(&'static [u8]),
    Refused(u16),
}
use Expected::{Content, Refused};

/// Makes something of the name `thing` in the folder; there is a file with a secret outside. False: this machine cannot.
type Make = fn(thing: &Path, outside: &Path) -> bool;

const KINDS: &[(&str, Make, Expected)] = &[
    (
        "a file",
        |thing, _| fs::write(thing, b"plain").is_ok(),
        Content(b"plain"),
    ),
    (
        "an empty file",
        |thing, _| fs::write(thing, b"").is_ok(),
        Content(b""),
    ),
    (
        "a hard link to a file outside: a name as good as any other",
        |thing, outside| fs::hard_link(outside.join("secret"), thing).is_ok(),
        Content(SECRET),
    ),
    ("nothing", |_, _| true, Refused(404)),
    (
        "a link to the file beside it",
        |thing, _| symlink("vmlinuz", thing).is_ok(),
        Refused(403),
    ),
    (
        "a link to a file outside",
        |thing, outside| symlink(outside.join("secret"), thing).is_ok(),
        Refused(403),
    ),
    (
        "a link upwards",
        |thing, _| symlink("../../top", thing).is_ok(),
        Refused(403),
    ),
    (
        "a link to nothing",
        |thing, _| symlink("nothing", thing).is_ok(),
        Refused(403),
    ),
    (
        "a link to itself",
        |thing, _| symlink("thing.bin", thing).is_ok(),
        Refused(403),
    ),
    (
        "a link into /proc",
        |thing, _| symlink("/proc/self/environ", thing).is_ok(),
        Refused(403),
    ),
    (
        "a folder",
        |thing, _| fs::create_dir(thing).is_ok(),
        Refused(403),
    ),
    (
        "a FIFO that nobody writes to",
        |thing, _| node(thing, FileType::Fifo, 0),
        Refused(403),
    ),
    (
        "a socket",
        |thing, _| UnixListener::bind(thing).is_ok(),
        Refused(403),
    ),
    (
        "a device: /dev/zero",
        |thing, _| node(thing, FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
        Refused(403),
    ),
    (
        "a device without a driver",
        |thing, _| node(thing, FileType::BlockDevice, rustix::fs::makedev(250, 250)),
        Refused(403),
    ),
];

fn node(thing: &Path, kind: FileType, device: u64) -> bool {
    rustix::fs::mknodat(CWD, thing, kind, Mode::from_raw_mode(0o666), device).is_ok()
}

#[test]
fn whatever_lies_under_a_name() {
    let outside = tempfile::tempdir().unwrap();
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel"), ("top", SECRET)]);
    fs::write(outside.path().join("secret"), SECRET).unwrap();
    let provider = Provider::start(tree.root(), &[]);
    let mut asking = Asking::new(&provider);
    let thing = tree.path(FOLDER).join("thing.bin");
    for (name, make, expected) in KINDS {
        if !make(&thing, outside.path()) {
            skip(name, "it cannot be made here");
            continue;
        }
        notice();
        for path in ["/stable/x86_64/thing.bin", "/stable/amd64/thing.bin"] {
            for _ in 0..3 {
                let answer = asking.get(path);
                match expected {
                    Content(content) => {
                        assert_eq!((answer.status, &answer.body[..]), (200, *content), "{name}");
                        let digest = Digest::of(content).to_string();
                        assert_eq!(answer.field("x-artifact-hash"), digest, "{name}");
                    }
                    Refused(status) => {
                        assert_eq!(answer.status, *status, "{name}: {}", answer.text());
                        assert!(!answer.text().contains("secret"), "{name}");
                    }
                }
            }
        }
        // Nothing that lies there spoils the others.
        assert_eq!(
            asking.get("/stable/x86_64/vmlinuz").body,
            b"kernel",
            "{name}"
        );
        assert_eq!(asking.get("/manifest.json").status, 200, "{name}");
        let _ = fs::remove_dir(&thing).or_else(|_| fs::remove_file(&thing));
    }
    // Nor do names that no path can spell.
    for odd in [
        &b"\xff\xfe.bin"[..],
        b"a\nb",
        b" ",
        b".hidden",
        b"%2e",
        b"CON",
        b"-rf",
    ] {
        fs::write(tree.path(FOLDER).join(OsStr::from_bytes(odd)), b"odd").unwrap();
    }
    assert_eq!(asking.get("/stable/x86_64/vmlinuz").body, b"kernel");
    assert_eq!(asking.get("/manifest.json").status, 200);
}

#[test]
fn every_spelling_of_a_path() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/Vmlinuz.EFI", b"upper"),
        ("stable/x86_64/a..b", b"dots"),
        ("stable/x86_64/...", b"dots only"),
        ("top", SECRET),
    ]);
    fs::write(tree.path("stable/x86_64/a%2fb"), SECRET).unwrap();
    fs::write(tree.path("stable/x86_64/ü.bin"), SECRET).unwrap();
    let provider = Provider::start(tree.root(), &[]);
    let mut asking = Asking::new(&provider);
    for (path, status) in [
        ("/stable/x86_64/vmlinuz", 200),
        ("//stable/x86_64/vmlinuz", 200),
        ("/stable//x86_64///vmlinuz", 200),
        ("/%73table/x86%5F64/%76mlinuz", 200),
        ("/%73table/x86%5f64/%76mlinuz", 200),
        ("/stable/amd64/kernel", 200),
        ("/stable/x86_64/vmlinuz?", 200),
        ("/stable/x86_64/vmlinuz?a=/../b", 200),
        ("/stable/x86_64/a..b", 200),
        // Case counts, in every part.
        ("/stable/x86_64/Vmlinuz.EFI", 200),
        ("/stable/x86_64/vmlinuz.efi", 404),
        ("/stable/x86_64/VMLINUZ", 404),
        ("/Stable/x86_64/vmlinuz", 404),
        ("/stable/X86_64/vmlinuz", 404),
        // What is encoded twice is decoded once.
        ("/stable/x86_64/%2576mlinuz", 404),
        ("/stable/x86_64/%252e%252e", 404),
        ("/stable/x86_64/%252e%252e%252f%252e%252e%252ftop", 404),
        ("/stable/x86_64/a%252fb", 404),
        ("/stable/x86_64/vmlinuz%20", 404),
        ("/stable/x86_64/%20vmlinuz", 404),
        ("/stable/x86_64/vmlinuz;a=b", 404),
        ("/stable/x86_64/%C3%BC.bin", 404),
        ("/stable/x86_64/...", 404),
        ("/stable/x86_64/vmlinuz/", 404),
        ("/stable/x86_64/vmlinuz/manifest.json", 404),
        ("/top", 404),
        ("/x86_64/vmlinuz", 404),
        // Ways out, and what no name may hold.
        ("/stable/x86_64/..", 400),
        ("/stable/x86_64/.", 400),
        ("/stable/x86_64/../../top", 400),
        ("/stable/x86_64/%2e%2e/%2e%2e/top", 400),
        ("/stable/x86_64/.%2e/.%2E/top", 400),
        ("/stable/%2e%2e%2ftop", 400),
        ("/stable/x86_64/a%2fb", 400),
        ("/stable/x86_64/a%2Fb", 400),
        ("/stable/x86_64/..%5c..%5ctop", 400),
        ("/stable/x86_64/vmlinuz%00", 400),
        ("/stable/x86_64/%00vmlinuz", 400),
        ("/stable/x86_64/vmlinuz%00.efi", 400),
        ("/stable%00/x86_64/vmlinuz", 400),
        ("/stable/x86_64/vmlinuz%0a", 400),
        ("/stable/x86_64/vmlinuz%0d%0aX-Evil:%201", 400),
        ("/stable/x86_64/vmlinuz%7f", 400),
        // Not UTF-8: a lone byte, an overlong slash, an overlong NUL, a surrogate.
        ("/stable/x86_64/%ff", 400),
        ("/stable/x86_64/%c0%af", 400),
        ("/stable/x86_64/%c0%80", 400),
        ("/stable/x86_64/%ed%a0%80", 400),
        // No encoding at all.
        ("/stable/x86_64/%", 400),
        ("/stable/x86_64/%7", 400),
        ("/stable/x86_64/%zz", 400),
        ("/stable/x86_64/%u0076mlinuz", 400),
    ] {
        for _ in 0..2 {
            let answer = asking.get(path);
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
            assert!(!answer.text().contains("secret"), "{path}");
            assert!(!answer.head.contains("X-Evil"), "{path}");
        }
    }
    // A name, a path and a path of many parts longer than any that exists.
    for length in [129, 255, 256, 4_096, 8_000] {
        let path = format!("/stable/x86_64/{}", "a".repeat(length));
        assert_eq!(asking.get(&path).status, 404, "{length}");
    }
    assert_eq!(asking.get(&"/a".repeat(2_000)).status, 404);
}

#[test]
fn what_was_asked_for_once_is_at_hand() {
    let large = vec![5; 100_000];
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz-6.12.9", b"kernel"),
        ("stable/x86_64/small.bin", b"small"),
        ("stable/x86_64/large.bin", &large),
        ("stable/arm64/Image", b"arm"),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    let mut asking = Asking::new(&provider);
    for (path, is_kept) in [
        ("/manifest.json", true),
        ("/stable/x86_64/manifest.json", true),
        ("/stable/amd64/manifest.json", true),
        ("/stable/aarch64/manifest.json", true),
        ("/stable/x86_64/small.bin", true),
        ("/stable/amd64/small.bin", true),
        ("//stable/amd64/small.bin", true),
        ("/stable/x86_64/large.bin", true),
        ("/stable/x86_64/vmlinuz-6.12.9", true),
        ("/stable/x86_64/kernel", true),
        ("/stable/arm64/kernel", true),
        ("/stable/aarch64/Image", true),
        ("/stable//x86_64/small.bin", false),
        ("/stable/x86_64/sm%61ll.bin", false),
        ("/stable/x86_64/nothing", false),
        ("/health", false),
    ] {
        asking.get(path);
        let fast = |asking: &mut Asking| asking.metric("plasmd_fast_answers_total");
        let mut kept_of_20 = || {
            let before = fast(&mut asking);
            for _ in 0..20 {
                asking.get(path);
            }
            fast(&mut asking) - before
        };
        if is_kept {
            // A busy machine may need so long for them that each finds the one before too old.
            let mut kept = (0..50).map(|_| kept_of_20());
            assert!(kept.any(|kept| kept >= 10), "{path}");
        } else {
            assert_eq!(kept_of_20(), 0, "{path}");
        }
    }
}

#[test]
fn a_folder_that_may_be_searched_but_not_read() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/manifest.json", b"{}"),
    ]);
    let folder = tree.path(FOLDER);
    let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o711);
    let mut provider = Provider::start_unprivileged(tree.root());
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(
            "a_folder_that_may_be_searched_but_not_read",
            "needs root: owners may read",
        );
        mode(0o755);
        return;
    }
    // It cannot be watched, so every request looks, and an operator is told once.
    let mut asking = Asking::new(&provider);
    for round in 0..20 {
        let content = format!("kernel {round}");
        tree.replace("stable/x86_64/vmlinuz", content.as_bytes());
        assert_eq!(asking.get("/stable/x86_64/vmlinuz").text(), content);
    }
    provider.wait_for_log("cannot be watched");
    // Neither searched nor read, and back again.
    mode(0o000);
    assert_eq!(asking.get("/stable/x86_64/vmlinuz").status, 500);
    mode(0o755);
    for _ in 0..3 {
        assert_eq!(asking.get("/stable/x86_64/vmlinuz").text(), "kernel 19");
    }
    mode(0o000);
    wait_until("the permissions to count", || {
        (asking.get("/stable/x86_64/vmlinuz").status == 500).then_some(())
    });
    mode(0o755);
    provider.signal(rustix::process::Signal::TERM);
    assert_eq!(provider.whole_log().matches("cannot be watched").count(), 1);
}

#[test]
fn a_hundred_thousand_files_in_a_folder() {
    const FILES: usize = 100_000;
    const ASKED: usize = 2_000;
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let folder = fs::File::open(tree.path(FOLDER)).unwrap();
    for number in 0..FILES {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        let name = format!("f{number}");
        let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644)).unwrap();
        if number % (FILES / ASKED) == 0 {
            fs::File::from(file)
                .write_all(number.to_string().as_bytes())
                .unwrap();
        }
    }
    let provider = Provider::start(tree.root(), &[]);
    let mut asking = Asking::new(&provider);
    assert_eq!(asking.get("/stable/x86_64/vmlinuz").body, b"kernel");
    let manifest = asking.get("/manifest.json");
    assert!([200, 404].contains(&manifest.status), "{}", manifest.text());
    assert!(manifest.body.len() < 1 << 20);
    let before = provider.resident_bytes();
    // Each of them would be worth keeping; all of them are not.
    for number in (0..FILES).step_by(FILES / ASKED) {
        let answer = asking.get(&format!("/stable/x86_64/f{number}"));
        assert_eq!(answer.text(), number.to_string());
    }
    let grown = provider.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{ASKED} small files cost {grown} bytes");
}
