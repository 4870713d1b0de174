//! What `dpkg` is told: the control file, which files are configuration, the scripts, the digests of all files.

use std::process::Command;

use anyhow::{Context, Result};

use crate::package::tree::{Tree, read};
use crate::package::{Recipe, run};

/// Who answers for the package. The name is the product's; whoever publishes packages puts their own.
const MAINTAINER: &str = "Phase <phase@localhost>";

/// Puts the folder `DEBIAN` into the tree, which must have everything else.
///
/// # Errors
/// When a script is missing.
pub fn write(tree: &mut Tree, recipe: &Recipe<'_>) -> Result<()> {
    let entries = tree.entries()?;
    let mut files = Vec::new();
    let mut kib = 0;
    for path in &entries {
        let seen = path.symlink_metadata()?;
        // As dpkg-gencontrol counts: each file rounded up, each folder and link as one.
        kib += if seen.is_file() {
            seen.len().div_ceil(1024)
        } else {
            1
        };
        if seen.is_file() {
            files.push(path.strip_prefix(tree.root())?.to_owned());
        }
    }
    let sums = run(Command::new("md5sum")
        .arg("--")
        .args(&files)
        .current_dir(tree.root()))?;
    let debian = recipe.root.join("provider/debian");
    for script in ["postinst", "prerm", "postrm"] {
        tree.file(
            &format!("DEBIAN/{script}"),
            0o755,
            &read(&debian.join(script))?,
        )?;
    }
    tree.file(
        "DEBIAN/control",
        0o644,
        control(recipe.version, kib).as_bytes(),
    )?;
    tree.file("DEBIAN/conffiles", 0o644, b"/etc/phase/plasmd.toml\n")?;
    tree.file("DEBIAN/md5sums", 0o644, &sums)
}

/// The program is static: it needs no library, and its scripts only what makes a user.
fn control(version: &str, kib: u64) -> String {
    format!(
        "Package: plasmd\n\
         Version: {version}\n\
         Architecture: amd64\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {kib}\n\
         Depends: systemd | passwd\n\
         Recommends: ipxe\n\
         Section: net\n\
         Priority: optional\n\
         Description: boot server for PXE and UEFI HTTP with signed boot images\n \
         plasmd answers machines that boot from the network, beside the DHCP server of the\n \
         network or as one, and serves them kernels, initramfs images and root file systems\n \
         over TFTP and HTTP, with a signed manifest that names every file by its digest.\n \
         phase-discover, phase-fetch and phase-verify find providers, fetch images and\n \
         verify every byte of them.\n"
    )
}

/// The changelog with the version and time of this build.
///
/// # Errors
/// When `date` cannot be run.
pub fn changelog(recipe: &Recipe<'_>, template: &[u8]) -> Result<String> {
    let date = run(Command::new("date")
        .args(["--utc", "--rfc-email"])
        .arg(format!("--date=@{}", recipe.time.unix()))
        .env("LC_ALL", "C"))?;
    let date = String::from_utf8(date).context("date")?;
    let template = String::from_utf8(template.to_vec()).context("changelog")?;
    Ok(template
        .replace("@VERSION@", recipe.version)
        .replace("@MAINTAINER@", MAINTAINER)
        .replace("@DATE@", date.trim()))
}
