//! How a machine starts: a kernel loaded straight into memory (what a network boot ROM ends in), firmware
//! that finds a disk by itself, or firmware that boots from the network; and the disks it may find.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::nbd::LoggedDisk;

/// OVMF's code, and the variables every machine gets a fresh copy of.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The same for 64-bit Arm.
const AAVMF_CODE: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
const AAVMF_VARS: &str = "/usr/share/AAVMF/AAVMF_VARS.fd";

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
    /// The same BIOS, which boots from the network first: by the ROM on its first card (iPXE, part of QEMU).
    BiosNetwork,
    /// OVMF, which boots from the network first, by its own drivers and with this of its stacks only.
    UefiNetwork(Stack),
    /// The same on a 64-bit Arm machine.
    ArmNetwork(Stack),
}

/// What QEMU is told about a machine before everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Board {
    /// The program.
    pub(crate) program: &'static str,
    /// Its model of a machine.
    pub(crate) model: &'static str,
    /// Its model of a processor.
    pub(crate) processor: &'static str,
}

/// The ways in which UEFI firmware boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// PXE (TFTP) over IPv4.
    Pxe4,
    /// PXE (TFTP) over IPv6.
    Pxe6,
    /// HTTP over IPv4.
    Http4,
    /// HTTP over IPv6.
    Http6,
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

/// What becomes of a machine's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// They are forgotten with the machine: the file never changes.
    Snapshot,
    /// They stay in the file: of a test's own copy of an image.
    Kept,
    /// They go to the server on the socket (see [`crate::nbd`]).
    Nbd,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raw image, or the socket of a server.
    pub image: PathBuf,
    /// How it is attached.
    pub bus: Bus,
    /// What becomes of writes.
    pub backing: Backing,
}

impl Disk {
    /// `image` on `bus`, copy-on-write.
    pub fn new(image: impl Into<PathBuf>, bus: Bus) -> Self {
        Self {
            image: image.into(),
            bus,
            backing: Backing::Snapshot,
        }
    }

    /// `image` on `bus`; what the machine writes stays in it.
    pub fn kept(image: impl Into<PathBuf>, bus: Bus) -> Self {
        Self {
            backing: Backing::Kept,
            ..Self::new(image, bus)
        }
    }

    /// A disk whose writes are logged.
    #[must_use]
    pub fn logged(disk: &LoggedDisk, bus: Bus) -> Self {
        Self {
            backing: Backing::Nbd,
            ..Self::new(disk.socket(), bus)
        }
    }

    /// QEMU's arguments for the disk with this number.
    #[must_use]
    pub fn args(&self, number: usize) -> Vec<String> {
        let id = format!("disk{number}");
        let image = self.image.display();
        let file = match self.backing {
            Backing::Snapshot => format!("snapshot=on,file={image}"),
            Backing::Kept => format!("file={image}"),
            Backing::Nbd => {
                format!("file.driver=nbd,file.server.type=unix,file.server.path={image}")
            }
        };
        let drive = format!("if=none,id={id},format=raw,{file}");
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

impl Stack {
    /// Switches OVMF's PXE stacks off but for this one. HTTP has no such switch: it is tried behind PXE.
    fn args(self) -> Vec<String> {
        [
            (Self::Pxe4, "IPv4PXESupport"),
            (Self::Pxe6, "IPv6PXESupport"),
        ]
        .into_iter()
        .filter(|(stack, _)| *stack != self)
        .flat_map(|(_, switch)| {
            let value = format!("name=opt/org.tianocore/{switch},string=no");
            ["-fw_cfg".to_owned(), value]
        })
        .collect()
    }
}

/// Firmware in flash: code that nobody writes, and a copy of empty variables.
fn flash(code: &str, variables: &str, scratch: &Path) -> Result<Vec<String>> {
    let vars = scratch.join("vars.fd");
    std::fs::copy(variables, &vars).with_context(|| format!("copy {variables}"))?;
    let flash = "if=pflash,unit=";
    Ok(vec![
        "-drive".to_owned(),
        format!("{flash}0,format=raw,readonly=on,file={code}"),
        "-drive".to_owned(),
        format!("{flash}1,format=raw,file={}", vars.display()),
    ])
}

impl Firmware {
    /// The machine it runs on.
    pub(crate) fn board(&self) -> Board {
        let pc = Board {
            program: "qemu-system-x86_64",
            model: "q35",
            processor: "max",
        };
        match self {
            // Without graphics SeaBIOS, and what it starts, talks to the serial port.
            Self::Bios | Self::BiosNetwork => Board {
                model: "q35,graphics=off",
                ..pc
            },
            Self::Kernel { .. } | Self::Uefi | Self::UefiNetwork(_) => pc,
            Self::ArmNetwork(_) => Board {
                program: "qemu-system-aarch64",
                model: "virt",
                processor: "cortex-a57",
            },
        }
    }

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
            Self::Bios | Self::BiosNetwork => Ok(Vec::new()),
            Self::UefiNetwork(stack) => {
                let mut args = Self::Uefi.args(scratch)?;
                args.extend(stack.args());
                Ok(args)
            }
            Self::ArmNetwork(stack) => {
                let mut args = flash(AAVMF_CODE, AAVMF_VARS, scratch)?;
                args.extend(stack.args());
                Ok(args)
            }
            Self::Uefi => {
                let mut args = flash(OVMF_CODE, OVMF_VARS, scratch)?;
                // The firmware's and the appliance's screen: a failing test keeps a picture of it.
                args.extend(["-vga", "std"].map(str::to_owned));
                Ok(args)
            }
        }
    }

    /// Whether it boots from the network before it looks at disks.
    #[must_use]
    pub fn boots_from_network(&self) -> bool {
        matches!(
            self,
            Self::BiosNetwork | Self::UefiNetwork(_) | Self::ArmNetwork(_)
        )
    }

    /// What the first network card needs for it, behind the card's other properties.
    #[must_use]
    pub fn card_properties(&self) -> &'static str {
        match self {
            // QEMU's own choice for the card's model: iPXE, for BIOS and for UEFI.
            Self::BiosNetwork => ",bootindex=1",
            // UEFI has a driver of its own; a ROM would take its place.
            Self::UefiNetwork(_) | Self::ArmNetwork(_) => ",romfile=,bootindex=1",
            Self::Kernel { .. } | Self::Uefi | Self::Bios => ",romfile=",
        }
    }

    /// What is said about it on a timeline.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel { .. } => "kernel and initramfs in memory",
            Self::Uefi => "UEFI",
            Self::Bios => "BIOS",
            Self::BiosNetwork => "BIOS from the network",
            Self::ArmNetwork(_) => "UEFI on Arm, from the network",
            Self::UefiNetwork(Stack::Pxe4) => "UEFI from the network, PXE over IPv4",
            Self::UefiNetwork(Stack::Pxe6) => "UEFI from the network, PXE over IPv6",
            Self::UefiNetwork(Stack::Http4) => "UEFI from the network, HTTP over IPv4",
            Self::UefiNetwork(Stack::Http6) => "UEFI from the network, HTTP over IPv6",
        }
    }

    /// Whether the UEFI firmware for 64-bit Arm is installed.
    #[must_use]
    pub fn arm_is_installed() -> bool {
        [AAVMF_CODE, AAVMF_VARS]
            .iter()
            .all(|file| Path::new(file).exists())
    }

    /// Whether the UEFI firmware is installed.
    #[must_use]
    pub fn uefi_is_installed() -> bool {
        [OVMF_CODE, OVMF_VARS]
            .iter()
            .all(|file| Path::new(file).exists())
    }
}
