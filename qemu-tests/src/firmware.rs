//! How a machine starts: a kernel loaded straight into memory (what a network boot ROM ends in), or
//! UEFI firmware that finds a disk by itself; and the disks it may find.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// OVMF's code, and the variables every machine gets a fresh copy of.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What hands over to the kernel.
#[derive(Clone, Debug)]
pub enum Firmware {
    /// Kernel and initramfs in memory, with a command line.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initramfs.
        initrd: PathBuf,
        /// The kernel's command line.
        append: String,
    },
    /// OVMF, with empty variables as on a new machine: it boots the removable-media path of a disk.
    Uefi,
    /// The PC's old BIOS (SeaBIOS, part of QEMU), which looks for a boot sector on the disks.
    Bios,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// A USB stick on an xHCI port.
    Usb,
    /// NVMe.
    Nvme,
    /// SATA on AHCI.
    Sata,
}

/// A disk image. Machines write to it copy-on-write: the file never changes.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raw image.
    pub image: PathBuf,
    /// How it is attached.
    pub bus: Bus,
}

impl Disk {
    /// `image` on `bus`.
    pub fn new(image: impl Into<PathBuf>, bus: Bus) -> Self {
        Self {
            image: image.into(),
            bus,
        }
    }

    /// QEMU's arguments for the disk with this number.
    #[must_use]
    pub fn args(&self, number: usize) -> Vec<String> {
        let id = format!("disk{number}");
        let drive = format!(
            "if=none,id={id},format=raw,snapshot=on,file={}",
            self.image.display()
        );
        let device = match self.bus {
            Bus::Virtio => vec![format!("virtio-blk-pci,drive={id}")],
            Bus::Usb => vec![
                format!("qemu-xhci,id=xhci{number}"),
                format!("usb-storage,bus=xhci{number}.0,drive={id},removable=on,id=stick{number}"),
            ],
            Bus::Nvme => vec![format!("nvme,drive={id},serial={id}")],
            Bus::Sata => vec![format!("ide-hd,drive={id}")],
        };
        let mut args = vec!["-drive".to_owned(), drive];
        args.extend(
            device
                .into_iter()
                .flat_map(|device| ["-device".to_owned(), device]),
        );
        args
    }
}

impl Firmware {
    /// QEMU's arguments; files of the machine's own go to `scratch`.
    ///
    /// # Errors
    /// When OVMF is not installed.
    pub fn args(&self, scratch: &Path) -> Result<Vec<String>> {
        match self {
            Self::Kernel {
                kernel,
                initrd,
                append,
            } => Ok(vec![
                "-kernel".to_owned(),
                kernel.display().to_string(),
                "-initrd".to_owned(),
                initrd.display().to_string(),
                "-append".to_owned(),
                append.clone(),
            ]),
            Self::Bios => Ok(Vec::new()),
            Self::Uefi => {
                let vars = scratch.join("vars.fd");
                std::fs::copy(OVMF_VARS, &vars).with_context(|| format!("copy {OVMF_VARS}"))?;
                let flash = "if=pflash,unit=";
                Ok(vec![
                    "-drive".to_owned(),
                    format!("{flash}0,format=raw,readonly=on,file={OVMF_CODE}"),
                    "-drive".to_owned(),
                    format!("{flash}1,format=raw,file={}", vars.display()),
                    // The firmware's and the appliance's screen: a failing test keeps a picture of it.
                    "-vga".to_owned(),
                    "std".to_owned(),
                ])
            }
        }
    }

    /// Whether the UEFI firmware is installed.
    #[must_use]
    pub fn uefi_is_installed() -> bool {
        [OVMF_CODE, OVMF_VARS]
            .iter()
            .all(|file| Path::new(file).exists())
    }
}
