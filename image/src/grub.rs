//! The way from a BIOS to our kernel: GRUB as Debian built it, with nothing to choose and nothing to configure.
//!
//! ```text
//! sector 0 (boot.img) ──> sectors of the BIOS boot partition (core.img) ──> /phase/{vmlinuz,initramfs.img} of the ESP
//! ```
//! `grub-mkimage` puts GRUB's core together with the modules that read a GPT and FAT and start Linux. What `grub-install`
//! would do on a disk, as root, is two numbers: where the core begins. They are written here. No part is signed: a BIOS
//! checks nothing, and `init` verifies everything beyond the kernel itself.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::stamp;

/// GRUB's modules and sector 0 for BIOS, in Debian's package grub-pc-bin.
pub const FOLDER: &str = "/usr/lib/grub/i386-pc";

/// The disk by its BIOS number, the partition table, the ESP, Linux, and what to do when that fails.
const MODULES: [&str; 7] = [
    "biosdisk", "echo", "fat", "linux", "part_gpt", "reboot", "sleep",
];

/// The first partition of the disk that the BIOS started.
const PREFIX: &str = "(,gpt1)/phase";

/// Where the kernel lies in the ESP.
pub const KERNEL_PATH: &str = "phase/vmlinuz";

/// Where the initramfs lies in the ESP.
pub const INITRAMFS_PATH: &str = "phase/initramfs.img";

/// Code in sector 0; behind it lie the disk's identifier and the partition table.
pub const BOOT_CODE_BYTES: usize = 440;

const SECTOR_BYTES: usize = 512;

/// In sector 0: the number of the core's first sector.
const CORE_SECTOR_AT: usize = 0x5c;

/// In sector 0: a jump over a repair for BIOSes that start a disk as if it were a floppy. Without the jump it is made.
const REPAIR_JUMP_AT: usize = 0x66;
const REPAIR_JUMP: [u8; 2] = [0xeb, 0x05];
const NO_JUMP: [u8; 2] = [0x90, 0x90];

/// At the end of the core's first sector: the number of the sector where the rest begins.
const REST_SECTOR_AT: usize = SECTOR_BYTES - 12;

/// How many sectors the rest has, as `grub-mkimage` wrote it.
const REST_COUNT_AT: usize = SECTOR_BYTES - 4;

/// The parts of GRUB before it is known where they will lie.
#[derive(Debug, Clone)]
pub struct Loader {
    boot: Vec<u8>,
    core: Vec<u8>,
}

/// GRUB as it lies on one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// For sector 0.
    pub boot_code: [u8; BOOT_CODE_BYTES],
    /// For the BIOS boot partition.
    pub core: Vec<u8>,
}

impl Loader {
    /// Has `grub-mkimage` make the core, with a configuration that starts the kernel with this command line; both
    /// are left in `folder`, for people.
    ///
    /// # Errors
    /// When the package is missing or its parts are not what is known of them.
    pub fn make(cmdline: &str, folder: &Path) -> Result<Self> {
        let boot = format!("{FOLDER}/boot.img");
        let boot = std::fs::read(&boot).with_context(|| format!("read {boot}"))?;
        let config = folder.join("grub.cfg");
        stamp::write(&config, configuration(cmdline).as_bytes())?;
        // It refuses to write into a pipe.
        let core = folder.join("grub.core");
        let output = Command::new("grub-mkimage")
            .args([
                "--format=i386-pc",
                "--directory",
                FOLDER,
                "--prefix",
                PREFIX,
            ])
            .arg("--config")
            .arg(&config)
            .arg("--output")
            .arg(&core)
            .args(MODULES)
            .output()
            .context("cannot run grub-mkimage")?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "grub-mkimage failed: {}",
            message.trim()
        );
        let core = std::fs::read(&core).context("read what grub-mkimage made")?;
        Self::new(boot, core)
    }

    /// A loader of these parts.
    ///
    /// # Errors
    /// When one is not what is known of it: numbers would be written into the wrong places.
    pub fn new(boot: Vec<u8>, mut core: Vec<u8>) -> Result<Self> {
        let found = boot.get(REPAIR_JUMP_AT..REPAIR_JUMP_AT + 2);
        ensure!(
            boot.len() == SECTOR_BYTES && found == Some(&REPAIR_JUMP),
            "boot.img is not the one of GRUB 2.06"
        );
        core.resize(core.len().next_multiple_of(SECTOR_BYTES), 0);
        let rest = core.get(REST_COUNT_AT..REST_COUNT_AT + 2);
        let rest = rest.map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
        ensure!(
            rest == Some((core.len() / SECTOR_BYTES).wrapping_sub(1)),
            "core.img does not say how long it is where GRUB 2.06 does"
        );
        Ok(Self { boot, core })
    }

    /// Its size on a disk, in bytes.
    pub fn core_len(&self) -> usize {
        self.core.len()
    }

    /// The bytes for a disk whose BIOS boot partition begins at this sector.
    ///
    /// # Panics
    /// Never: both parts have the sizes that [`Self::new`] checked.
    pub fn placed(&self, sector: u64) -> Placed {
        let (mut boot, mut core) = (self.boot.clone(), self.core.clone());
        boot[CORE_SECTOR_AT..CORE_SECTOR_AT + 8].copy_from_slice(&sector.to_le_bytes());
        boot[REPAIR_JUMP_AT..REPAIR_JUMP_AT + 2].copy_from_slice(&NO_JUMP);
        core[REST_SECTOR_AT..REST_SECTOR_AT + 8].copy_from_slice(&(sector + 1).to_le_bytes());
        let mut boot_code = [0; BOOT_CODE_BYTES];
        boot_code.copy_from_slice(&boot[..BOOT_CODE_BYTES]);
        Placed { boot_code, core }
    }

    /// Its bytes before they are placed, for comparisons.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.boot, &self.core]
    }
}

/// Starts Linux. What follows is reached only when that failed: it says so, and lets the firmware try again.
fn configuration(cmdline: &str) -> String {
    format!(
        "linux /{KERNEL_PATH} {cmdline}\n\
         initrd /{INITRAMFS_PATH}\n\
         boot\n\
         echo Phase does not start from this disk. The machine restarts in 30 s.\n\
         sleep 30\n\
         reboot\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> (Vec<u8>, Vec<u8>) {
        let mut boot = vec![0; SECTOR_BYTES];
        boot[REPAIR_JUMP_AT..REPAIR_JUMP_AT + 2].copy_from_slice(&REPAIR_JUMP);
        let mut core = vec![7; 3 * SECTOR_BYTES + 1];
        core[REST_COUNT_AT..REST_COUNT_AT + 2].copy_from_slice(&3_u16.to_le_bytes());
        (boot, core)
    }

    #[test]
    fn the_parts_name_the_sectors_where_they_lie() {
        let (boot, core) = parts();
        let loader = Loader::new(boot, core).unwrap();
        assert_eq!(loader.core_len(), 4 * SECTOR_BYTES);
        let Placed { boot_code, core } = loader.placed(34);
        assert_eq!(boot_code[0x5c..0x64], 34_u64.to_le_bytes());
        assert_eq!(boot_code[0x66..0x68], [0x90, 0x90]);
        assert_eq!(core[500..508], 35_u64.to_le_bytes());
        assert_eq!(core[508..510], 3_u16.to_le_bytes());
        assert_eq!(core[3 * SECTOR_BYTES], 7);
    }

    #[test]
    fn parts_of_another_shape_are_refused() {
        let (boot, core) = parts();
        let mut jump = boot.clone();
        jump[REPAIR_JUMP_AT] = 0;
        assert!(Loader::new(jump, core.clone()).is_err());
        assert!(Loader::new(boot[..511].to_vec(), core.clone()).is_err());
        assert!(Loader::new(boot.clone(), Vec::new()).is_err());
        assert!(Loader::new(boot.clone(), core[..SECTOR_BYTES].to_vec()).is_err());
        assert!(Loader::new(boot, core).is_ok());
    }

    #[test]
    fn the_configuration_is_the_command_line_and_a_way_out() {
        let text = configuration("console=ttyS0 quiet");
        assert!(
            text.starts_with(
                "linux /phase/vmlinuz console=ttyS0 quiet\ninitrd /phase/initramfs.img\nboot\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("reboot\n"));
    }
}
