//! What other projects made and the image carries for firmware that cannot fetch a kernel itself: iPXE, as Debian built it,
//! and the licences of everything in the image that is not of this tree.
//!
//! Nothing here is committed, changed or downloaded by us: the files are those of installed Debian packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where Debian's ipxe package puts its programs.
const IPXE: &str = "/usr/lib/ipxe";

/// The programs that firmware is given before iPXE can take a script over HTTP.
///
/// Both drive the network card through the firmware's own driver, so they work with every card that got this far:
/// `undionly.kpxe` is for BIOS ROMs, `snponly.efi` for UEFI profiles that ask for it.
pub const PROGRAMS: [&str; 2] = ["undionly.kpxe", "snponly.efi"];

/// A ROM's memory below 640 KiB has to hold the first, and no build of the second comes near this; a larger file is another.
const PROGRAM_SIZE_MAX: u64 = 1 << 20;

/// Packages whose files are in the image, and whose terms ask that copies carry them.
const LICENSED: [&str; 4] = [
    "grub-pc-bin",
    "ipxe",
    "linux-source-6.12",
    "systemd-boot-efi",
];

/// The licence that these files refer to instead of repeating it.
const COMMON: &str = "/usr/share/common-licenses/GPL-2";

/// A licence file with all its parts: the kernel's has 5 KiB, that of systemd 10.
const LICENCE_SIZE_MAX: u64 = 256 << 10;

/// One file and what it is called in the image.
pub struct BootFile {
    /// Name in the image: plain for a program, with a folder for a licence.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The programs, to lie beside the kernel.
///
/// # Errors
/// When one is missing, empty or too large.
pub fn programs() -> Result<Vec<BootFile>> {
    let programs = PROGRAMS.iter().map(|name| {
        let content = read(&Path::new(IPXE).join(name), PROGRAM_SIZE_MAX)?;
        Ok(BootFile {
            name: (*name).to_owned(),
            content,
        })
    });
    programs.collect()
}

/// The licences, for a folder of their own, and a list of the packages with the versions of their sources, which Debian
/// keeps for whoever asks.
///
/// # Errors
/// When one is missing, empty or too large.
pub fn licences() -> Result<Vec<BootFile>> {
    let copyrights = LICENSED.iter().map(|package| {
        let path = PathBuf::from(format!("/usr/share/doc/{package}/copyright"));
        (format!("licences/{package}"), path)
    });
    let common = ("licences/GPL-2".to_owned(), PathBuf::from(COMMON));
    let licences = copyrights.chain([common]).map(|(name, path)| {
        let content = read(&path, LICENCE_SIZE_MAX)?;
        Ok(BootFile { name, content })
    });
    let packages = BootFile {
        name: "licences/packages".to_owned(),
        content: versions()?,
    };
    licences.chain([Ok(packages)]).collect()
}

/// Package, version, and the same of its source, one package a line.
fn versions() -> Result<Vec<u8>> {
    let format = "${Package} ${Version} ${source:Package} ${source:Version}\n";
    let output = Command::new("dpkg-query")
        .arg("--show")
        .arg(format!("--showformat={format}"))
        .args(LICENSED)
        .output()
        .context("cannot run dpkg-query")?;
    ensure!(
        output.status.success() && !output.stdout.is_empty(),
        "dpkg-query does not know the packages: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

fn read(path: &Path, size_max: u64) -> Result<Vec<u8>> {
    let seen = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    ensure!(
        (1..=size_max).contains(&seen.len()),
        "{} has {} bytes: not the file that belongs there",
        path.display(),
        seen.len()
    );
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_impossible_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("undionly.kpxe");
        assert!(read(&file, 8).is_err(), "it is not there");
        for (content, fine) in [
            ("", false),
            ("x", true),
            ("12345678", true),
            ("123456789", false),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(read(&file, 8).is_ok(), fine, "{content:?}");
        }
    }
}
