//! What other projects made and the image carries for firmware that cannot fetch a kernel itself: iPXE, as Debian built it,
//! and the licences of everything in the image that is not of this tree.
//!
//! Nothing here is committed, changed or downloaded by us: the files are those of installed Debian packages.

use std::collections::BTreeSet;
use std::path::Path;
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

/// Where the licences lie that these files refer to instead of repeating them.
const COMMON: &str = "/usr/share/common-licenses/";

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
    let mut all = Vec::new();
    let mut common = BTreeSet::new();
    for package in LICENSED {
        let path = format!("/usr/share/doc/{package}/copyright");
        let content = read(Path::new(&path), LICENCE_SIZE_MAX)?;
        common.extend(referred(&String::from_utf8_lossy(&content)));
        all.push((package.to_owned(), content));
    }
    for name in common {
        let content = read(&Path::new(COMMON).join(&name), LICENCE_SIZE_MAX)?;
        all.push((name, content));
    }
    all.push(("packages".to_owned(), versions()?));
    let files = all.into_iter().map(|(name, content)| BootFile {
        name: format!("licences/{name}"),
        content,
    });
    Ok(files.collect())
}

/// The names of the common licences that a text refers to.
fn referred(text: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-.".contains(letter);
    let names = text.split(COMMON).skip(1).map(|rest| {
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        // A full stop ends a sentence.
        rest[..end].trim_end_matches('.').to_owned()
    });
    names.filter(|name| !name.is_empty()).collect()
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
    fn every_licence_that_is_referred_to_comes_along() {
        let text = "see `/usr/share/common-licenses/GPL-3'. Or /usr/share/common-licenses/LGPL-2.1.\n\
                    again /usr/share/common-licenses/GPL-3, and /usr/share/common-licenses/";
        let expected = ["GPL-3", "LGPL-2.1"].map(str::to_owned);
        assert_eq!(referred(text), BTreeSet::from(expected));
    }

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
