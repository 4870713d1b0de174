//! Another signing key is taken into force while clients ask: none of them is refused, cut off or told something that does
//! not verify, and a key that cannot be used changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use boot_manifest::{Arch, Expect, Expiry, Floor, SecretKey, TrustRoot, verify};
use rustix::process::Signal;

use super::manifest::now;
use crate::provider::{Provider, Tree, wait_until};
use crate::serve::asking::Asking;

/// A key in the place of another, as a careful operator puts it there.
fn put(path: &Path, pem: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, pem).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// The sequence number of a manifest and which of the keys signed it.
fn read(manifest: &[u8]) -> (u64, u8) {
    let expect = Expect {
        now: now(),
        floor: Floor::default(),
        channel: None,
        arch: Some(Arch::X86_64),
        expiry: Expiry::Refuse,
    };
    (1..=3)
        .find_map(|seed| {
            let root = TrustRoot::single(key(seed).public());
            let verified = verify(manifest, &root, &expect).ok()?;
            Some((verified.sequence, seed))
        })
        .unwrap()
}

#[test]
fn another_key_while_clients_ask() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signing.pem");
    put(&file, key(1).to_pem().as_bytes());
    let content = vec![9; 3 << 20];
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/rootfs.img", &content),
    ]);
    let mut provider = Provider::start(tree.root(), &["--key", file.to_str().unwrap()]);
    let (first, seed) = read(&provider.get("/manifest.json").body);
    assert_eq!(seed, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..3)
            .map(|_| {
                let mut asking = Asking::new(&provider);
                let done = &done;
                scope.spawn(move || {
                    let mut seen = BTreeSet::new();
                    while !done.load(Ordering::Relaxed) {
                        let manifest = asking.get("/manifest.json");
                        assert_eq!(manifest.status, 200);
                        seen.insert(read(&manifest.body));
                        assert_eq!(asking.get("/stable/x86_64/vmlinuz").body, b"kernel");
                    }
                    (seen, asking.connections())
                })
            })
            .collect();
        let mut asking = Asking::new(&provider);
        for seed in [2, 3] {
            put(&file, key(seed).to_pem().as_bytes());
            provider.signal(Signal::HUP);
            wait_until("a manifest with the other key", || {
                (read(&asking.get("/manifest.json").body).1 == seed).then_some(())
            });
        }
        done.store(true, Ordering::Relaxed);
        for asker in askers {
            let (seen, connections) = asker.join().unwrap();
            // Numbers grow with the keys, and there is one manifest for each key.
            let seeds: Vec<u8> = seen.iter().map(|(_, seed)| *seed).collect();
            assert!(seeds.is_sorted(), "{seen:?}");
            assert!(seen.len() <= 3 && seen.iter().all(|(sequence, _)| *sequence >= first));
            assert_eq!(connections, 1, "no connection was closed");
        }
    });
    // The same key once more makes nothing new; neither does one that cannot be used.
    let last = provider.get("/manifest.json").body;
    for (number, pem) in [key(3).to_pem().as_bytes(), b"no key", b""]
        .iter()
        .enumerate()
    {
        put(&file, pem);
        provider.signal(Signal::HUP);
        wait_until("the reload", || {
            let done = Asking::new(&provider).metric("plasmd_reloads_total");
            let failed = Asking::new(&provider).metric("plasmd_reload_failures_total");
            (done + failed == 3 + number as u64).then_some(())
        });
        assert_eq!(provider.get("/manifest.json").body, last);
    }
    provider.wait_for_log("the old one stays");
    assert_eq!(provider.get("/health").status, 200);
    // One manifest for each key, and each file was read once for all of them.
    for (name, expected) in [
        ("plasmd_manifests_signed_total", 3),
        ("plasmd_manifest_failures_total", 0),
        ("plasmd_hashing_files_total", 2),
        ("plasmd_hashing_bytes_total", content.len() as u64 + 6),
        ("plasmd_hashing_queue_files", 0),
    ] {
        assert_eq!(Asking::new(&provider).metric(name), expected, "{name}");
    }
}

#[test]
fn another_directory_in_the_place_of_the_artifacts() {
    let tree = Tree::new(&[
        ("a/stable/x86_64/vmlinuz", b"old"),
        ("b/stable/x86_64/vmlinuz", b"new"),
    ]);
    let mut provider = Provider::start(&tree.path("a"), &[]);
    fs::rename(tree.path("a"), tree.path("c")).unwrap();
    fs::rename(tree.path("b"), tree.path("a")).unwrap();
    provider.signal(Signal::HUP);
    provider.wait_for_log("is another directory by now");
    assert_eq!(provider.get("/stable/x86_64/vmlinuz").body, b"old");
}
