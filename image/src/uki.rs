//! The unified kernel image: one EFI program that holds kernel, initramfs and command line.
//!
//! systemd's EFI stub with four sections added. Firmware starts it by itself from `EFI/BOOT/BOOTX64.EFI`, so there is no
//! boot loader, no menu and no second file that could be missing.

use crate::pe::{self, Section};

/// Where Debian's systemd-boot-efi package puts the stub.
pub const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// What goes into the image.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// The EFI stub's bytes.
    pub stub: &'a [u8],
    /// os-release text that boot menus show.
    pub os_release: &'a str,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// The kernel (bzImage).
    pub kernel: &'a [u8],
    /// The initramfs.
    pub initramfs: &'a [u8],
}

/// Writes the image.
///
/// # Errors
/// When the stub is not one that sections can be added to.
pub fn write(recipe: &Recipe<'_>) -> Result<Vec<u8>, pe::Error> {
    pe::add_sections(
        recipe.stub,
        &[
            Section {
                name: ".osrel",
                content: recipe.os_release.as_bytes(),
            },
            Section {
                name: ".cmdline",
                content: recipe.cmdline.as_bytes(),
            },
            Section {
                name: ".linux",
                content: recipe.kernel,
            },
            Section {
                name: ".initrd",
                content: recipe.initramfs,
            },
        ],
    )
}
