//! Why something is not served, in words for clients.

use artifact_store::OpenError;
use boot_manifest::{Arch, Channel, Digest};

use crate::serve::metrics::Reason;

/// Why something is not served. The text is for the client; it names no directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nothing has this name.
    #[error("{0}: not found")]
    NotFound(String),
    /// The folder has nothing to serve.
    #[error(
        "no artifacts found for {channel}/{arch}: expected <artifacts>/{channel}/{arch}/vmlinuz (required), \
         initramfs.img (recommended), rootfs.squashfs (optional){}", listed(.problems)
    )]
    NoArtifacts {
        /// The channel.
        channel: Channel,
        /// The architecture.
        arch: Arch,
        /// What was found wrong.
        problems: Vec<String>,
    },
    /// A manifest must have a kernel.
    #[error("manifest missing required artifact: kernel{}", listed(.0))]
    NoKernel(Vec<String>),
    /// A link, directory or special file.
    #[error("{0}: {1}")]
    NotAFile(String, OpenError),
    /// It is there and cannot be read.
    #[error("{0}: {1}")]
    Unreadable(String, String),
    /// It is not what the signed manifest names.
    #[error(
        "{file}: differs from the signed manifest, which names {expected}; this file is {found}; not served"
    )]
    Differs {
        /// File name.
        file: String,
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the file.
        found: Digest,
    },
    /// The manifest of the folder, or one made from it, is not usable.
    #[error("manifest.json: {0}")]
    BadManifest(String),
    /// It is being written.
    #[error("{0}: is being written; try again")]
    Busy(String),
    /// The machine has just started and puts it together.
    #[error("{0}: is being put together; try again")]
    NotYet(String),
    /// Nobody can have fetched it from here.
    #[error("{0}: no manifest that is served here")]
    UnknownManifest(Digest),
    /// The rest is for the other programs of this machine.
    #[error("too little memory is left on the provider: try again, or another one")]
    TooLittleMemory,
}

fn listed(problems: &[String]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n{problem}"))
        .collect()
}

impl Refusal {
    /// What it is counted as.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::NotFound(_) => Reason::NotFound,
            Self::NoArtifacts { .. } => Reason::NoArtifacts,
            Self::NoKernel(_) => Reason::NoKernel,
            Self::NotAFile(..) => Reason::NotAFile,
            Self::Unreadable(..) => Reason::Unreadable,
            Self::Differs { .. } => Reason::Differs,
            Self::BadManifest(_) => Reason::BadManifest,
            Self::Busy(_) | Self::NotYet(_) => Reason::Busy,
            Self::UnknownManifest(_) => Reason::UnknownManifest,
            Self::TooLittleMemory => Reason::TooLittleMemory,
        }
    }

    /// The file called `name` cannot be opened.
    pub(crate) fn of(name: &str, error: OpenError) -> Self {
        let name = name.to_owned();
        match error {
            OpenError::NotFound => Self::NotFound(name),
            OpenError::Link | OpenError::NotRegular(_) => Self::NotAFile(name, error),
            OpenError::Permission | OpenError::Io(_) => Self::Unreadable(name, error.to_string()),
        }
    }
}
