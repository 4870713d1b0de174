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

/// What stands behind a program's file name for its head; `init` knows it too.
pub const HEAD_SUFFIX: &str = ".head";

/// Sections begin and end with whole sectors, so the program's parts can be put together again without knowing its format.
const SECTOR_BYTES: usize = 512;

/// What stands in front of the kernel in a program that [`write`] made: whoever has the kernel and the initramfs needs only
/// this to make the rest of it, each part filled up to whole sectors with zeros.
///
/// # Errors
/// When that would give other bytes: the stub aligns its sections in another way.
pub fn head<'a>(uki: &'a [u8], kernel: &[u8], initramfs: &[u8]) -> Result<&'a [u8], pe::Error> {
    let other = pe::Error::Stub("it does not align its sections to 512 bytes");
    let whole = |part: &[u8]| part.len().next_multiple_of(SECTOR_BYTES);
    let kernel_at = uki.len().checked_sub(whole(kernel) + whole(initramfs));
    let Some((head, rest)) = kernel_at.and_then(|at| uki.split_at_checked(at)) else {
        return Err(other);
    };
    let mut expected = kernel.to_vec();
    expected.resize(whole(kernel), 0);
    expected.extend_from_slice(initramfs);
    expected.resize(whole(kernel) + whole(initramfs), 0);
    match head.len().is_multiple_of(SECTOR_BYTES) && rest == expected {
        true => Ok(head),
        false => Err(other),
    }
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
