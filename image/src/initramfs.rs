//! The appliance's initramfs: two programs, the trust root, a handful of directories and two device nodes.
//!
//! There is no shell, no library and no writable configuration in it. What the running appliance keeps lives in /run.

use crate::cpio::{self, Entry};

/// How much time is spent on making the archive small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// It is built once and sent to every machine that boots.
    Best,
    /// It is tried once: a fifth larger, and packed in a second.
    Quick,
}

impl Effort {
    /// The level of zstd.
    fn level(self) -> i32 {
        match self {
            Self::Best => 19,
            Self::Quick => 3,
        }
    }
}

/// The window the kernel's decompressor accepts is at most 2^27 bytes; beyond it the machine does not boot.
pub const WINDOW_LOG_MAX: u32 = 27;

/// The window asked for: larger than the archive, so that every repetition is found, and small enough that unpacking it
/// leaves a machine with 256 MiB room to breathe.
const WINDOW_LOG: u32 = 24;

/// What goes into the archive.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// The program that becomes PID 1.
    pub init: &'a [u8],
    /// The daemon.
    pub plasmd: &'a [u8],
    /// The trust root's JSON.
    pub trust_root: &'a [u8],
    /// The root chain; empty when the keys were never replaced.
    pub roots: &'a [u8],
    /// The image's own facts: name, version, clock floor, version floor.
    pub image_info: &'a [u8],
}

/// Why an initramfs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tree is not one the kernel would unpack.
    #[error(transparent)]
    Archive(#[from] cpio::Error),
    /// The compressor failed.
    #[error("compress the initramfs")]
    Compress(#[source] std::io::Error),
}

/// The tree of the appliance, before it is packed.
pub fn tree(recipe: &Recipe<'_>) -> Vec<Entry> {
    let mut tree = vec![
        Entry::file("init", 0o755, recipe.init),
        Entry::directory("bin", 0o755),
        Entry::file("bin/plasmd", 0o755, recipe.plasmd),
        Entry::directory("dev", 0o755),
        // Rust's runtime aborts before main when it finds no standard streams and cannot open /dev/null.
        Entry::char_device("dev/console", 0o600, 5, 1),
        Entry::char_device("dev/null", 0o666, 1, 3),
        Entry::directory("etc", 0o755),
        Entry::file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
        Entry::file("etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
        // Written by the network role, which may write there only.
        Entry::symlink("etc/resolv.conf", "../run/phase/net/resolv.conf"),
        Entry::directory("etc/phase", 0o755),
        Entry::file("etc/phase/trust-root.json", 0o644, recipe.trust_root),
        Entry::file("etc/phase/image.json", 0o644, recipe.image_info),
        Entry::directory("proc", 0o555),
        Entry::directory("run", 0o755),
        Entry::directory("sys", 0o555),
        Entry::directory("tmp", 0o1777),
    ];
    if !recipe.roots.is_empty() {
        tree.push(Entry::file("etc/phase/roots.json", 0o644, recipe.roots));
    }
    tree
}

/// Packs and compresses the tree. The result's length is a multiple of four, so that further archives can be appended to it.
///
/// # Errors
/// See [`Error`]; the recipe's bytes are not looked into.
pub fn write(recipe: &Recipe<'_>) -> Result<Vec<u8>, Error> {
    pack(&tree(recipe), Effort::Best)
}

/// The same for any tree.
///
/// # Errors
/// See [`Error`].
pub fn pack(tree: &[Entry], effort: Effort) -> Result<Vec<u8>, Error> {
    let mut archive = Vec::new();
    cpio::write(tree, &mut archive)?;
    compress(&archive, effort).map_err(Error::Compress)
}

/// Compresses as the kernel can take it: one frame, a window within its limit, a checksum, the size in front.
fn compress(archive: &[u8], effort: Effort) -> std::io::Result<Vec<u8>> {
    use std::io::Write;
    use zstd::stream::raw::CParameter;

    let mut encoder = zstd::Encoder::new(Vec::new(), effort.level())?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(archive.len() as u64))?;
    encoder.write_all(archive)?;
    let mut bytes = encoder.finish()?;
    // The kernel skips zero bytes between archives and wants the next header on a four-byte boundary.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_one_the_kernel_accepts() {
        // A frame header: magic, descriptor, then (no single segment) the window byte: exponent in the top five bits.
        let noise: Vec<u8> = (0..40_000_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let frame = compress(&noise, Effort::Best).unwrap();
        assert_eq!(frame[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        let single_segment = frame[4] & 0x20 != 0;
        assert!(
            !single_segment,
            "40 MB do not fit one segment of this window"
        );
        let window_log = 10 + u32::from(frame[5] >> 3);
        assert!(
            window_log <= WINDOW_LOG && WINDOW_LOG <= WINDOW_LOG_MAX,
            "2^{window_log}"
        );
    }

    #[test]
    fn two_builds_give_the_same_bytes_and_they_unpack_to_the_tree() {
        let recipe = Recipe {
            init: b"init",
            plasmd: b"plasmd",
            trust_root: b"{}",
            roots: b"",
            image_info: b"{}",
        };
        let bytes = write(&recipe).unwrap();
        assert_eq!(bytes, write(&recipe).unwrap());
        assert_eq!(bytes.len() % 4, 0);
        let mut expected = Vec::new();
        cpio::write(&tree(&recipe), &mut expected).unwrap();
        let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes).unwrap();
        assert_eq!(zstd::decode_all(&bytes[..frame]).unwrap(), expected);
        assert!(bytes[frame..].iter().all(|byte| *byte == 0));
    }
}
