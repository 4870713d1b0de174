//! Every bound the format has, with the reason for its size. Sizes are checked before anything is parsed.

/// Largest `manifest.json` that is looked at. Three artifacts with full chunk lists take about 300 KiB; one MiB is also
/// the room the disk image reserves for the manifest.
pub const MANIFEST_SIZE_MAX: usize = 1 << 20;

/// Largest trust root that is looked at: four roles of sixteen keys take about 12 KiB.
pub const TRUST_ROOT_SIZE_MAX: usize = 16 << 10;

/// Largest key file that is looked at. A PEM key is about 120 bytes; a comment may stand above it.
pub const KEY_FILE_SIZE_MAX: usize = 8 << 10;

/// Nesting of JSON values. The deepest path of the format has four levels.
pub const JSON_DEPTH_MAX: u32 = 8;

/// Largest integer in any JSON file: above 2^53 readers that use floats disagree with us.
pub const INTEGER_MAX: u64 = 1 << 53;

/// Artifacts in one manifest: kernel, initramfs, root file system and a few dozen device trees.
pub const ARTIFACTS_MAX: usize = 64;

/// Signatures in one manifest, and keys in one trust root. Each costs one curve operation before anything is trusted.
pub const SIGNATURES_MAX: usize = 16;

/// Kernel command line. x86 Linux cuts at 2,047 bytes; the start of a successor appends a few local parameters, which
/// the starter checks against the kernel's own limit.
pub const CMDLINE_SIZE_MAX: usize = 2_000;

/// Length of the human-readable version of an image.
pub const VERSION_SIZE_MAX: usize = 64;

/// Length of a channel name.
pub const CHANNEL_SIZE_MAX: usize = 32;

/// Length of an artifact's name.
pub const ARTIFACT_NAME_SIZE_MAX: usize = 64;

/// Length of an artifact's file name.
pub const FILE_NAME_SIZE_MAX: usize = 128;

/// Smallest chunk: below it the list of digests grows and nothing is caught noticeably earlier.
pub const CHUNK_SIZE_MIN: u64 = 1 << 20;

/// Largest chunk: a bad mirror wastes at most this much transfer.
pub const CHUNK_SIZE_MAX: u64 = 64 << 20;

/// Chunks of one artifact: the list then takes at most 80 KiB of JSON.
pub const CHUNKS_MAX: u64 = 1_024;

/// Largest artifact: the largest chunk times the longest list (64 GiB).
pub const ARTIFACT_SIZE_MAX: u64 = CHUNK_SIZE_MAX * CHUNKS_MAX;

/// How far in the future `created_at` may lie. A day forgives a clock in the wrong time zone on either machine.
pub const CLOCK_SKEW_SECONDS_MAX: i64 = 24 * 60 * 60;

/// One report between a role and its parent.
pub const REPORT_SIZE_MAX: usize = 4_096;

/// Links of one chain of trust roots: a rotation every month for five years. A machine whose root is older than that is
/// given a new image.
pub const ROOT_LINKS_MAX: usize = 64;

/// One signed trust root. A usual one, with five root keys and three of each other role, takes 5 KiB.
pub const ROOT_LINK_SIZE_MAX: usize = 16 << 10;

/// A whole chain: what a slot of the disk reserves for it. Usual chains take some KiB.
pub const ROOT_CHAIN_SIZE_MAX: usize = 1 << 20;

/// Signatures on one link: those of the old root and those of the new.
pub const LINK_SIGNATURES_MAX: usize = 2 * SIGNATURES_MAX;

/// One freshness statement: a payload of about 250 bytes, and up to sixteen signatures of 160.
pub const FRESHNESS_SIZE_MAX: usize = 4 << 10;

/// One order. As large as a link so that one buffer suits both; a usual one has 500 bytes.
pub const ORDER_SIZE_MAX: usize = 16 << 10;

/// How far the sequence may grow from one image to the next: a hundred years of seconds, so that sequences made of the
/// time pass and those that count from 1 may change to them, while a thief of the release keys cannot use up 2^53 in
/// less than two million images.
pub const SEQUENCE_JUMP_MAX: u64 = 1 << 32;
