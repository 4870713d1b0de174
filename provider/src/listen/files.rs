//! The boot files, by the names firmware asks for: the one list of what TFTP serves, which HTTP shares.
//!
//! ```text
//! phase.efi                      the file of the default channel and architecture
//! stable/aarch64/phase.efi       the file of that folder
//! boot/x/phase.efi               as phase.efi: folders that are none of ours lead nowhere
//! undionly.kpxe                  a file of that name in the folder, or else iPXE's own ([`ipxe`])
//! ```
//!
//! A name never becomes a path: it is three checked names or one, and the artifact store opens them beneath its root. Bytes
//! that a signed manifest names with another digest are not given out. Nothing is ever written.

pub(crate) mod ipxe;

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use artifact_store::OpenFile;
use boot_manifest::{Arch, Channel, Digest, FileName};

use crate::http::respond::{Content, Source};
use crate::http::target::ArtifactTarget;
use crate::listen::files::ipxe::IpxeFiles;
use crate::serve::catalog::Catalog;
use crate::serve::refusal::Refusal;

/// A file somebody may fetch. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    content: Content,
}

/// Why a name is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotServed {
    /// There is no such file here.
    #[error("not found")]
    NotFound,
    /// It is there, and this is wrong with it.
    #[error("{0}")]
    Unusable(String),
}

/// A file that is being opened: its bytes may have to be hashed first.
pub(crate) type Opening<'a> = Pin<Box<dyn Future<Output = Result<Opened, NotServed>> + Send + 'a>>;

/// Who knows files by the names that boot clients ask for.
pub(crate) trait Library: Send + Sync {
    /// Opens what `peer` calls `name`.
    fn open<'a>(&'a self, name: &'a str, peer: SocketAddr) -> Opening<'a>;
}

/// The boot files of this provider.
pub(crate) struct Files {
    catalog: Arc<Catalog>,
    channel: Channel,
    arch: Arch,
    ipxe: IpxeFiles,
}

impl Opened {
    /// What a request's answer would be made of.
    pub(crate) fn new(content: Content) -> Self {
        Self { content }
    }

    /// How many bytes it has.
    pub(crate) fn size(&self) -> u64 {
        self.content.labels.size
    }

    /// The digest of its bytes.
    pub(crate) fn digest(&self) -> Digest {
        self.content.labels.digest
    }

    /// Fills all of `parts`, one after the other, with the bytes at `offset`.
    pub(crate) fn read_blocks(
        &self,
        parts: &mut [IoSliceMut<'_>],
        mut offset: u64,
    ) -> io::Result<()> {
        let file = match &self.content.source {
            Source::Bytes(bytes) => return copy_blocks(bytes, parts, offset),
            Source::File(file) => file,
        };
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        if wanted == 0 || rustix::io::preadv(file, parts, offset).is_ok_and(|read| read == wanted) {
            return Ok(());
        }
        // Interrupted, or not all at once.
        for part in parts {
            read_exact_at(file, part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Whether the bytes are still those with the digest; memory never changes.
    pub(crate) fn is_unchanged(&self) -> io::Result<bool> {
        match &self.content.source {
            Source::Bytes(_) => Ok(true),
            Source::File(file) => file.unchanged(),
        }
    }
}

fn copy_blocks(bytes: &[u8], parts: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| bytes.get(offset..))
        .ok_or_else(gone)?;
    for part in parts {
        let (now, later) = rest.split_at_checked(part.len()).ok_or_else(gone)?;
        part.copy_from_slice(now);
        rest = later;
    }
    Ok(())
}

fn read_exact_at(file: &OpenFile, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                buffer = &mut buffer[length..];
                offset += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Files {
    /// The files of a catalog; names without a folder are those of `channel` and `arch`.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        channel: Channel,
        arch: Arch,
        ipxe: IpxeFiles,
    ) -> Self {
        Self {
            catalog,
            channel,
            arch,
            ipxe,
        }
    }

    /// Whether there is such a file, without a look at its content.
    pub(crate) fn has(&self, channel: &Channel, arch: Arch, file: &str) -> bool {
        let Ok(name) = file.parse::<FileName>() else {
            return false;
        };
        let found = self.catalog.store().find(channel, arch.as_str(), &name);
        found.is_ok() || self.ipxe.get(arch, file).is_some()
    }

    /// The content of a file of a folder: the folder's own, or else iPXE's.
    pub(crate) async fn content(
        &self,
        target: &ArtifactTarget,
        path: Option<&str>,
    ) -> Result<Content, Refusal> {
        match self.catalog.artifact(target, path).await {
            Err(Refusal::NotFound(name)) => self
                .ipxe
                .get(target.arch, target.name.as_str())
                .ok_or(Refusal::NotFound(name)),
            other => other,
        }
    }

    /// Opens the first of the places that `name` stands for.
    async fn find(&self, name: &str) -> Result<Opened, NotServed> {
        for target in places(name, &self.channel, self.arch) {
            match self.content(&target, None).await {
                Ok(content) => return Ok(Opened::new(content)),
                Err(Refusal::NotFound(_)) => {}
                Err(refusal) => return Err(NotServed::Unusable(refusal.to_string())),
            }
        }
        Err(NotServed::NotFound)
    }
}

impl Library for Files {
    fn open<'a>(&'a self, name: &'a str, _peer: SocketAddr) -> Opening<'a> {
        Box::pin(self.find(name))
    }
}

/// What a name stands for, best first: the second is for firmware that asks in capitals.
fn places(name: &str, channel: &Channel, arch: Arch) -> Vec<ArtifactTarget> {
    let mut found: Vec<ArtifactTarget> = Vec::new();
    for spelling in [name.to_owned(), name.to_ascii_lowercase()] {
        let parts: Vec<&str> = spelling
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let place = match parts.as_slice() {
            [asked, folder, file] => {
                folder_file(asked, folder, file).or_else(|| own_file(file, channel, arch))
            }
            [.., file] => own_file(file, channel, arch),
            [] => None,
        };
        found.extend(place.filter(|place| !found.contains(place)));
    }
    found
}

fn folder_file(channel: &str, folder: &str, file: &str) -> Option<ArtifactTarget> {
    Some(ArtifactTarget {
        channel: channel.parse().ok()?,
        arch: folder.parse().ok()?,
        spelling: folder.to_owned(),
        name: file.parse().ok()?,
    })
}

fn own_file(file: &str, channel: &Channel, arch: Arch) -> Option<ArtifactTarget> {
    Some(ArtifactTarget {
        channel: channel.clone(),
        arch,
        spelling: arch.as_str().to_owned(),
        name: file.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // C32
    #[test]
    fn names_lead_to_files_and_nowhere_else() {
        let check = |name: &str, expected: &[&str]| {
            let found = places(name, &"stable".parse().unwrap(), Arch::X86_64);
            let found: Vec<String> = found
                .iter()
                .map(|place| format!("{}/{}/{}", place.channel, place.spelling, place.name))
                .collect();
            assert_eq!(found, expected, "{name}");
        };
        check("phase.efi", &["stable/x86_64/phase.efi"]);
        check(
            "PHASE.EFI",
            &["stable/x86_64/PHASE.EFI", "stable/x86_64/phase.efi"],
        );
        check("testing/arm64/phase.efi", &["testing/arm64/phase.efi"]);
        check(
            "Testing/ARM64/Phase.efi",
            &["stable/x86_64/Phase.efi", "testing/arm64/phase.efi"],
        );
        check("boot/x/phase.efi", &["stable/x86_64/phase.efi"]);
        check("a/b/c/d/undionly.kpxe", &["stable/x86_64/undionly.kpxe"]);
        check("/boot//phase.efi", &["stable/x86_64/phase.efi"]);
        for nothing in [
            "",
            "/",
            "..",
            "a/..",
            ".hidden",
            "stable/x86_64/..",
            "a b",
            "phase.efi/..",
        ] {
            check(nothing, &[]);
        }
    }
}
