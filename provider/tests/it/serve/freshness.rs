//! Freshness statements over HTTP, and the root chain beside a manifest.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use boot_manifest::{
    Arch, Channel, Digest, Nonce, Role, RoleName, SecretKey, TrustRoot, verify_freshness,
};

use super::manifest::{artifact, now, signed};
use crate::desk::fresh_image;
use crate::fetch::lay_out;
use crate::provider::{Provider, Tree};

const NONCE: &str = "00112233445566778899aabbccddeeff";

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn put(path: &Path, seed: u8) {
    fs::write(path, key(seed).to_pem().as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_provider_vouches_for_the_manifest_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fresh.key");
    put(&file, 21);
    let manifest = signed(vec![artifact("kernel", "vmlinuz", b"kernel")], now());
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/manifest.json", &manifest),
        ("stable/x86_64/roots.json", b"{\"any\":\"bytes\"}"),
    ]);
    let provider = Provider::start(tree.root(), &["--freshness-key", file.to_str().unwrap()]);
    let role = Role::new(1, vec![key(21).public()]).unwrap();
    let root = TrustRoot::single(key(42).public()).with_role(RoleName::Freshness, role);
    let nonce: Nonce = NONCE.parse().unwrap();
    let stable: Channel = "stable".parse().unwrap();
    for query in ["", "&channel=stable&arch=x86_64", "&arch=amd64"] {
        let answer = provider.get(&format!("/freshness?nonce={NONCE}{query}"));
        assert_eq!(answer.status, 200, "{query}");
        let said = verify_freshness(&answer.body, &root, &nonce, &stable, Arch::X86_64).unwrap();
        assert_eq!((said.generation, said.sequence), (1, 7));
        assert_eq!(said.digest, Digest::of(&manifest));
    }
    for (query, status) in [
        ("", 400),
        ("?nonce=00", 400),
        ("?nonce=00112233445566778899aabbccddeeff&x=1", 400),
        ("?nonce=00112233445566778899aabbccddeeff&channel=none", 404),
    ] {
        let answer = provider.get(&format!("/freshness{query}"));
        assert_eq!(answer.status, status, "{query}");
    }
    for path in ["/stable/x86_64/roots.json", "/roots.json", "/roots.json"] {
        let roots = provider.get(path);
        assert_eq!(
            (roots.status, &roots.body[..]),
            (200, &b"{\"any\":\"bytes\"}"[..]),
            "{path}"
        );
    }
}

#[test]
fn a_mirror_without_a_key_does_not_answer() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let provider = Provider::start(tree.root(), &[]);
    assert_eq!(
        provider.get(&format!("/freshness?nonce={NONCE}")).status,
        404
    );
}

#[test]
fn a_root_chain_is_listed_in_no_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signing.key");
    put(&file, 42);
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/roots.json", b"{}"),
    ]);
    let provider = Provider::start(tree.root(), &["--key", file.to_str().unwrap()]);
    let manifest = provider.get("/manifest.json").json();
    let names = manifest["artifacts"].as_object().unwrap();
    assert_eq!(names.keys().collect::<Vec<_>>(), ["kernel"]);
}

#[test]
fn health_follows_the_chain_as_machines_do() {
    let image = fresh_image().rotated(1);
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"")]);
    lay_out(&image, tree.root());
    let chain = tree.root().join("stable/x86_64/roots.json");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("trust-root.json");
    fs::write(&root, image.root().to_json()).unwrap();
    let flags = ["--arch", "x86_64", "--trust-root", root.to_str().unwrap()];
    let roots = image.roots.as_deref().unwrap();
    for (chain_bytes, status, problem) in [
        (Some(roots), 200, ""),
        (None, 503, "which is not trusted here"),
        (Some(&roots[..100]), 503, "the root chain cannot be read"),
    ] {
        match chain_bytes {
            Some(bytes) => fs::write(&chain, bytes).unwrap(),
            None => fs::remove_file(&chain).unwrap(),
        }
        let provider = Provider::start(tree.root(), &flags);
        let health = provider.get("/health");
        let text = String::from_utf8_lossy(&health.body).into_owned();
        assert_eq!(health.status, status, "{text}");
        assert!(text.contains(problem), "{text}");
    }
}
