//! Images: which one, where it lies, and which of two is newer.

use std::fmt;

use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

/// Where an image lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The image that firmware starts. It is never written in the field.
    Golden = 0,
    /// The first slot.
    A = 1,
    /// The second slot.
    B = 2,
    /// Nowhere but in memory: the machine has no slots.
    Memory = 3,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 4] = [Self::Golden, Self::A, Self::B, Self::Memory];

    /// The slots.
    pub const SLOTS: [Self; 2] = [Self::A, Self::B];

    /// The word for it, as `phase.place=` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Golden => "golden",
            Self::A => "a",
            Self::B => "b",
            Self::Memory => "memory",
        }
    }

    /// Reads what [`Place::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.as_str() == text)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The order of images: first the generation of the keys, then the sequence within it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Rank {
    /// Generation of the trust root.
    pub generation: u64,
    /// Sequence within the generation.
    pub sequence: u64,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageRef {
    /// The digest of its signed manifest: the name that counts.
    pub digest: Digest,
    /// Where it lies.
    pub place: Place,
    /// What people call it.
    pub version: String,
    /// Sequence within the generation.
    pub sequence: u64,
    /// Generation of the trust root.
    pub generation: u64,
    /// Security version.
    pub security_version: u64,
}

impl ImageRef {
    /// Its position in the order of images.
    pub fn rank(&self) -> Rank {
        Rank {
            generation: self.generation,
            sequence: self.sequence,
        }
    }
}

/// The lengths of an image's parts in bytes, from its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// The kernel.
    pub kernel: u64,
    /// The initramfs.
    pub initramfs: u64,
    /// The root file system.
    pub rootfs: u64,
    /// What all of it takes of a slot, with the gaps between the parts.
    pub slot: u64,
}

/// An image that was offered, from a manifest whose signatures are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What people call it.
    pub version: String,
    /// Sequence within the generation.
    pub sequence: u64,
    /// Generation of the trust root.
    pub generation: u64,
    /// Security version.
    pub security_version: u64,
    /// Lengths of its parts.
    pub sizes: Sizes,
    /// Whether its time is over.
    pub expired: bool,
    /// The URL it can be fetched from.
    pub origin: String,
}

impl Candidate {
    /// Its position in the order of images.
    pub fn rank(&self) -> Rank {
        Rank {
            generation: self.generation,
            sequence: self.sequence,
        }
    }

    /// The image it becomes at `place`.
    pub fn at(&self, place: Place) -> ImageRef {
        ImageRef {
            digest: self.digest,
            place,
            version: self.version.clone(),
            sequence: self.sequence,
            generation: self.generation,
            security_version: self.security_version,
        }
    }
}
