//! iPXE's own boot files, for machines whose ROM has no HTTP: those of `--ipxe-dir`, as the distribution's package has them.
//!
//! Read once, at the start, into memory: there are five small ones, and afterwards the process may read no other folder. A
//! file of the same name in the artifacts directory goes before them. No other file of that folder is ever served.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use boot_manifest::{Arch, Digest};
use bytes::Bytes;

use crate::exit::CommandError;
use crate::http::respond::{self, Content, Facts, Labels, Source};

/// Where Debian's package puts them.
const IPXE_DIR: &str = "/usr/lib/ipxe";

/// Bytes of one file: iPXE with every driver it has is 1.2 MB.
const IPXE_SIZE_MAX: u64 = 8 << 20;

/// What is served: the architecture it is for, the name it is asked for by, and the name in that folder.
const NAMES: &[(Arch, &str, &str)] = &[
    (Arch::X86_64, "undionly.kpxe", "undionly.kpxe"),
    (Arch::X86_64, "ipxe.pxe", "ipxe.pxe"),
    (Arch::X86_64, "snponly.efi", "snponly.efi"),
    (Arch::X86_64, "ipxe.efi", "ipxe.efi"),
    (Arch::Aarch64, "snponly.efi", "snponly-arm64.efi"),
    (Arch::Aarch64, "ipxe.efi", "ipxe-arm64.efi"),
];

/// Where iPXE is.
#[derive(clap::Args)]
pub(crate) struct IpxeArgs {
    /// Where iPXE's boot files are, unless they lie beside the artifacts [default: /usr/lib/ipxe, when it is there]
    #[arg(long, value_name = "DIR")]
    ipxe_dir: Option<PathBuf>,
}

/// The files that were there at the start.
#[derive(Debug, Default)]
pub(crate) struct IpxeFiles {
    files: Vec<(Arch, &'static str, Content)>,
}

impl IpxeFiles {
    /// Reads them; a folder that was named must be one, and have at least one of them.
    pub(crate) fn read(args: &IpxeArgs) -> Result<Self, CommandError> {
        let Some(folder) = &args.ipxe_dir else {
            let (files, problems) = Self::read_from(Path::new(IPXE_DIR));
            for problem in problems {
                tracing::warn!("not served: {problem}");
            }
            return Ok(files);
        };
        let (files, problems) = Self::read_from(folder);
        if let Some(problem) = problems.into_iter().next() {
            return Err(CommandError::local(format!("--ipxe-dir: {problem}")));
        }
        if files.files.is_empty() {
            let names: Vec<&str> = NAMES.iter().map(|(_, _, file)| *file).collect();
            return Err(CommandError::local(format!(
                "--ipxe-dir {}: there is none of {}",
                folder.display(),
                names.join(", ")
            ))
            .hint("install the package ipxe, or build them from ipxe.org"));
        }
        Ok(files)
    }

    fn read_from(folder: &Path) -> (Self, Vec<String>) {
        let mut found = Self::default();
        let mut problems = Vec::new();
        for (arch, name, file) in NAMES {
            let path = folder.join(file);
            match read(&path, name) {
                Ok(content) => found.files.push((*arch, name, content)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        (found, problems)
    }

    /// The file of this name.
    pub(crate) fn get(&self, arch: Arch, name: &str) -> Option<Content> {
        let is_it = |file: &&(Arch, &str, Content)| file.0 == arch && file.1 == name;
        Some(self.files.iter().find(is_it)?.2.clone())
    }
}

fn read(path: &Path, name: &str) -> io::Result<Content> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("is no file"));
    }
    let mut bytes = Vec::new();
    file.take(IPXE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    let size = bytes.len() as u64;
    if size == 0 || size > IPXE_SIZE_MAX {
        return Err(io::Error::other(format!(
            "has {size} bytes or more; iPXE has at least one and at most {IPXE_SIZE_MAX}"
        )));
    }
    let labels = Labels::new(Facts {
        digest: Digest::of(&bytes),
        size,
        modified: respond::past(facts.modified().unwrap_or(SystemTime::UNIX_EPOCH)),
        media_type: respond::media_type(name),
        is_artifact: true,
    });
    Ok(Content {
        source: Source::Bytes(Bytes::from(bytes)),
        labels: Arc::new(labels),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(folder: &Path) -> Result<IpxeFiles, CommandError> {
        IpxeFiles::read(&IpxeArgs {
            ipxe_dir: Some(folder.to_owned()),
        })
    }

    #[test]
    fn only_known_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("undionly.kpxe", "bios"),
            ("snponly-arm64.efi", "arm"),
            ("ipxe.iso", "no"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let files = named(folder.path()).unwrap();
        let text = |arch, name| match files.get(arch, name)?.source {
            Source::Bytes(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            Source::File(_) => None,
        };
        assert_eq!(text(Arch::X86_64, "undionly.kpxe").as_deref(), Some("bios"));
        assert_eq!(text(Arch::Aarch64, "snponly.efi").as_deref(), Some("arm"));
        for (arch, name) in [
            (Arch::X86_64, "snponly.efi"),
            (Arch::Aarch64, "undionly.kpxe"),
            (Arch::X86_64, "ipxe.iso"),
        ] {
            assert!(files.get(arch, name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_folder_that_was_named_must_have_some() {
        let folder = tempfile::tempdir().unwrap();
        assert!(named(folder.path()).is_err());
        assert!(named(&folder.path().join("none")).is_err());
        std::fs::write(folder.path().join("ipxe.efi"), "").unwrap();
        assert!(named(folder.path()).is_err());
        std::fs::write(folder.path().join("ipxe.efi"), "x").unwrap();
        assert!(named(folder.path()).is_ok());
        std::fs::create_dir(folder.path().join("undionly.kpxe")).unwrap();
        assert!(named(folder.path()).is_err());
    }
}
