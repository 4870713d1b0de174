//! Manifests: signed elsewhere and served unchanged, signed here, or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use boot_manifest::{
    Arch, Artifact, ArtifactHasher, Channel, Expect, Expiry, Floor, Manifest, SecretKey, Timestamp,
    TrustRoot, Verified, sign, verify,
};

use crate::provider::{Provider, Tree, wait_until};

fn key() -> SecretKey {
    SecretKey::from_seed([42; 32])
}

fn stable() -> Channel {
    "stable".parse().unwrap()
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::from_unix(since.as_secs() as i64)
}

pub(crate) fn artifact(name: &str, filename: &str, bytes: &[u8]) -> Artifact {
    let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
    hasher.update(bytes);
    let (digest, chunks) = hasher.finish().unwrap();
    let (name, filename) = (name.parse().unwrap(), filename.parse().unwrap());
    Artifact {
        name,
        filename,
        size: bytes.len() as u64,
        digest,
        chunks,
    }
}

pub(crate) fn signed(artifacts: Vec<Artifact>, created_at: Timestamp) -> Vec<u8> {
    let manifest = Manifest {
        generation: 1,
        sequence: 7,
        security_version: 1,
        version: "1.2.3".to_owned(),
        channel: stable(),
        arch: Arch::X86_64,
        created_at,
        expires_at: created_at.plus_days(30),
        cmdline: "panic=10".to_owned(),
        artifacts,
    };
    sign(&manifest, &[&key()]).unwrap()
}

fn verified(bytes: &[u8]) -> Verified<Manifest> {
    let channel = stable();
    let expect = Expect {
        now: now(),
        floor: Floor::default(),
        channel: Some(&channel),
        arch: Some(Arch::X86_64),
        expiry: Expiry::Refuse,
    };
    verify(bytes, &TrustRoot::single(key().public()), &expect).unwrap()
}

fn write_key(path: &Path) {
    fs::write(path, key().to_pem().as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_manifest_signed_elsewhere_is_served_byte_for_byte() {
    let (kernel, initramfs) = (b"kernel bytes", b"initramfs bytes");
    let manifest = signed(
        vec![
            artifact("initramfs", "initramfs.img", initramfs),
            artifact("kernel", "vmlinuz", kernel),
        ],
        now(),
    );
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", kernel),
        ("stable/x86_64/initramfs.img", initramfs),
        ("stable/x86_64/manifest.json", &manifest),
    ]);
    let root = tree.path("root.pub");
    fs::write(&root, key().public().to_pem()).unwrap();
    let mut provider = Provider::start(tree.root(), &["--trust-root", root.to_str().unwrap()]);
    provider.wait_for_log("manifest.json is served as it was signed elsewhere");
    for path in [
        "/manifest.json",
        "/stable/x86_64/manifest.json",
        "/stable/amd64/manifest.json",
    ] {
        let answer = provider.get(path);
        assert_eq!((answer.status, &answer.body), (200, &manifest), "{path}");
        assert_eq!(answer.field("content-type"), "application/json");
    }
    verified(&provider.get("/manifest.json").body);
    let tag = provider.get("/manifest.json").field("etag");
    assert_eq!(
        provider
            .curl("/manifest.json", &["-H", &format!("If-None-Match: {tag}")])
            .status,
        304
    );
    wait_until("health without remarks", || {
        let health = provider.get("/health");
        (health.status == 200 && health.json()["notes"] == serde_json::json!([])).then_some(())
    });

    // One flipped byte in the initramfs: it is refused, the rest goes on.
    tree.replace("stable/x86_64/initramfs.img", b"initramfs byteS");
    let refused = provider.get("/stable/x86_64/initramfs.img");
    assert_eq!(refused.status, 500);
    assert!(
        refused
            .text()
            .contains("initramfs.img: differs from the signed manifest"),
        "{}",
        refused.text()
    );
    assert_eq!(provider.get("/stable/amd64/initramfs").status, 500);
    assert_eq!(provider.get("/stable/x86_64/vmlinuz").body, kernel);
    assert_eq!(provider.get("/manifest.json").body, manifest);
    let health = provider.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["checks"]["artifacts_readable"], false);
    assert!(
        health.text().contains("the signed manifest names"),
        "{}",
        health.text()
    );
    provider.wait_for_log("initramfs.img: differs from the signed manifest");

    // Another manifest for the new files, put there while it runs.
    let newer = signed(
        vec![
            artifact("initramfs", "initramfs.img", b"initramfs byteS"),
            artifact("kernel", "vmlinuz", kernel),
        ],
        now(),
    );
    tree.replace("stable/x86_64/manifest.json", &newer);
    assert_eq!(provider.get("/manifest.json").body, newer);
    assert_eq!(
        provider.get("/stable/x86_64/initramfs.img").body,
        b"initramfs byteS"
    );
    assert_eq!(provider.get("/health").status, 200);
}

#[test]
fn health_says_what_is_wrong_with_a_signed_manifest() {
    let kernel = b"kernel bytes";
    let good = signed(vec![artifact("kernel", "vmlinuz", kernel)], now());
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", kernel),
        ("stable/x86_64/manifest.json", &good),
    ]);
    let other = tree.path("other.pub");
    fs::write(&other, SecretKey::from_seed([1; 32]).public().to_pem()).unwrap();
    let provider = Provider::start(tree.root(), &["--trust-root", other.to_str().unwrap()]);
    let health = provider.get("/health");
    assert_eq!(
        (health.status, &health.json()["checks"]["manifest_ok"]),
        (503, &serde_json::json!(false))
    );

    // Without a trust root only the form counts.
    let provider = Provider::start(tree.root(), &[]);
    assert_eq!(provider.get("/health").status, 200);
    let old = signed(
        vec![artifact("kernel", "vmlinuz", kernel)],
        now().plus_days(0).plus_seconds(-40 * 86_400),
    );
    tree.replace("stable/x86_64/manifest.json", &old);
    assert_eq!(
        provider.get("/manifest.json").body,
        old,
        "expiry never stops serving"
    );

    let names_more = signed(
        vec![
            artifact("initramfs", "initramfs.img", b"absent"),
            artifact("kernel", "vmlinuz", kernel),
        ],
        now(),
    );
    tree.replace("stable/x86_64/manifest.json", &names_more);
    let health = provider.get("/health");
    assert_eq!(health.status, 503);
    assert!(
        health
            .text()
            .contains("initramfs.img: named by the signed manifest, but not found"),
        "{}",
        health.text()
    );

    for (broken, said) in [
        (&b"{ not json"[..], "cannot be read"),
        (&vec![b' '; 2 << 20], "1048576 are allowed"),
    ] {
        tree.replace("stable/x86_64/manifest.json", broken);
        let answer = provider.get("/manifest.json");
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(said), "{}", answer.text());
        let health = provider.get("/health");
        assert_eq!(
            (health.status, &health.json()["checks"]["manifest_ok"]),
            (503, &serde_json::json!(false))
        );
        assert_eq!(provider.get("/stable/x86_64/vmlinuz").body, kernel);
    }
}

#[test]
fn with_a_key_what_lies_there_is_signed_and_only_again_when_it_changes() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel one"),
        ("stable/x86_64/initrd", b"initramfs"),
    ]);
    let keys = tempfile::tempdir().unwrap();
    let key_file = keys.path().join("signing.key");
    write_key(&key_file);
    let flags = [
        "--key",
        key_file.to_str().unwrap(),
        "--release",
        "9.9",
        "--cmdline",
        "console=ttyS0 panic=5",
    ];
    let mut provider = Provider::start(tree.root(), &flags);
    provider.wait_for_log("manifest signed");
    let first = provider.get("/manifest.json");
    let manifest = verified(&first.body);
    assert_eq!(
        (manifest.version.as_str(), manifest.cmdline.as_str()),
        ("9.9", "console=ttyS0 panic=5")
    );
    assert_eq!(manifest.sequence, manifest.created_at.unix() as u64);
    assert_eq!(manifest.expires_at, manifest.created_at.plus_days(30));
    assert_eq!(
        manifest.artifact("initramfs").unwrap().filename.as_str(),
        "initrd"
    );
    let view = first.json();
    assert_eq!(
        view["signatures"][0]["key_id"],
        key().public().key_id().to_string()
    );
    assert_eq!(
        view["artifacts"]["kernel"]["download_url"],
        "/stable/x86_64/vmlinuz"
    );
    assert_eq!(view["arch"], "x86_64");

    // The same bytes whoever asks, and also when the file is only touched.
    assert_eq!(provider.get("/stable/amd64/manifest.json").body, first.body);
    tree.replace("stable/x86_64/vmlinuz", b"kernel one");
    assert_eq!(provider.get("/manifest.json").body, first.body);

    tree.replace("stable/x86_64/vmlinuz", b"kernel two");
    let second = verified(&provider.get("/manifest.json").body);
    assert!(second.sequence > manifest.sequence);
    assert_eq!(
        second.artifact("kernel").unwrap().digest,
        boot_manifest::Digest::of(b"kernel two")
    );
    let status = provider.get("/status").json();
    assert_eq!(
        status["signing_key_id"],
        key().public().key_id().to_string()
    );
    let health = provider.get("/health");
    assert_eq!(
        (
            health.status,
            health.json()["notes"].as_array().unwrap().len()
        ),
        (200, 0)
    );

    let mut provider = Provider::start(
        tree.root(),
        &["--key", key_file.to_str().unwrap(), "--sequence", "5"],
    );
    provider.wait_for_log("manifest signed");
    assert_eq!(verified(&provider.get("/manifest.json").body).sequence, 5);
    tree.replace("stable/x86_64/vmlinuz", b"kernel three");
    assert_eq!(verified(&provider.get("/manifest.json").body).sequence, 6);
}

#[test]
fn without_a_key_the_manifest_says_that_it_is_unsigned() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/dtb-board", b"dtb"),
    ]);
    let mut provider = Provider::start(tree.root(), &[]);
    provider.wait_for_log("manifests are unsigned: clients will refuse them");
    let first = provider.get("/manifest.json");
    let view = first.json();
    assert_eq!(view["signatures"], serde_json::json!([]));
    assert!(view.get("envelope").is_none());
    let hash = boot_manifest::Digest::of(b"kernel").to_string();
    assert_eq!(view["artifacts"]["kernel"]["hash"], hash);
    assert_eq!(view["artifacts"]["kernel"]["size_bytes"], 6);
    assert_eq!(view["artifacts"]["dtb-board"]["filename"], "dtb-board");
    assert_eq!(provider.get("/manifest.json").body, first.body);
    assert_eq!(
        provider.get("/stable/amd64/manifest.json").json()["arch"],
        "x86_64"
    );
    assert!(
        provider.get("/health").json()["notes"][0]
            .as_str()
            .unwrap()
            .contains("unsigned")
    );
}
