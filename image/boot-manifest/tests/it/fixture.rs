//! The manifest, keys and machine that the tests start from. The keys are public: they are in this file.

use std::path::PathBuf;
use std::sync::LazyLock;

use boot_manifest::{
    Arch, Artifact, ArtifactHasher, Channel, Expect, Expiry, Floor, Manifest, SecretKey, Timestamp,
    TrustRoot, Verified, VerifyError, verify,
};

/// When the fixture was made: 2026-11-21T10:00:00Z.
pub(crate) const CREATED_AT: Timestamp = Timestamp::from_unix(1_795_255_200);

/// A key made of one repeated byte.
pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// A trust root over the keys of `seeds`.
pub(crate) fn root(seeds: &[u8], threshold: u64) -> TrustRoot {
    let keys = seeds.iter().map(|seed| key(*seed).public()).collect();
    TrustRoot::new(1, threshold, keys, false).unwrap()
}

/// An artifact with made-up content of `size` bytes.
pub(crate) fn artifact(name: &str, filename: &str, size: usize) -> Artifact {
    let content: Vec<u8> = name.bytes().cycle().take(size).collect();
    let mut hasher = ArtifactHasher::new(size as u64).unwrap();
    hasher.update(&content);
    let (digest, chunks) = hasher.finish().unwrap();
    Artifact {
        name: name.parse().unwrap(),
        filename: filename.parse().unwrap(),
        size: size as u64,
        digest,
        chunks,
    }
}

/// The manifest of the golden vectors.
pub(crate) fn manifest() -> Manifest {
    static MANIFEST: LazyLock<Manifest> = LazyLock::new(make_manifest);
    MANIFEST.clone()
}

fn make_manifest() -> Manifest {
    Manifest {
        generation: 1,
        sequence: 7,
        security_version: 2,
        version: "0.1.0".to_owned(),
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        created_at: CREATED_AT,
        expires_at: CREATED_AT.plus_days(30),
        cmdline: "console=tty0 console=ttyS0,115200 panic=10".to_owned(),
        artifacts: vec![
            artifact("initramfs", "initramfs.img", 2_000),
            artifact("kernel", "vmlinuz", 1_000),
            artifact("rootfs", "rootfs.squashfs", (2 << 20) + 5),
        ],
    }
}

/// The file for [`manifest`], signed by the keys of `seeds`.
pub(crate) fn signed(seeds: &[u8]) -> Vec<u8> {
    let keys: Vec<SecretKey> = seeds.iter().map(|seed| key(*seed)).collect();
    boot_manifest::sign(&manifest(), &keys.iter().collect::<Vec<_>>()).unwrap()
}

/// What a machine an hour after [`CREATED_AT`] expects.
pub(crate) fn expect(channel: &Channel) -> Expect<'_> {
    Expect {
        now: CREATED_AT.plus_seconds(3_600),
        floor: Floor {
            security_version: 2,
            sequence: 7,
        },
        channel: Some(channel),
        arch: Some(Arch::X86_64),
        expiry: Expiry::Refuse,
    }
}

/// Verifies as that machine does.
pub(crate) fn check(bytes: &[u8], root: &TrustRoot) -> Result<Verified<Manifest>, VerifyError> {
    verify(bytes, root, &expect(&"stable".parse().unwrap()))
}

/// A path below `tests/data`.
pub(crate) fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

/// Writes a file of the test data anew when the environment asks for it by `BLESS=1`: only after a wanted change of the
/// format, and with a look at the difference before it is committed.
pub(crate) fn bless(path: &str, bytes: &[u8]) {
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        std::fs::write(data(path), bytes).unwrap();
    }
}
