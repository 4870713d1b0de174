//! Stores and partial writes on a real file system.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod look;
mod partial;
mod store;
mod watch;

use boot_manifest::{Artifact, ArtifactHasher};

/// `size` bytes that differ from place to place and with `seed`.
fn bytes(size: usize, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ (at >> 16) as u8 ^ seed)
        .collect()
}

fn artifact(filename: &str, bytes: &[u8]) -> Artifact {
    let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
    hasher.update(bytes);
    let (digest, chunks) = hasher.finish().unwrap();
    Artifact {
        name: "kernel".parse().unwrap(),
        filename: filename.parse().unwrap(),
        size: bytes.len() as u64,
        digest,
        chunks,
    }
}
