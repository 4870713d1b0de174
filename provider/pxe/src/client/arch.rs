//! Architecture codes of option 93 (RFC 4578, IANA's list; C12).

use std::fmt;

/// A code as it came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientArch(pub u16);

/// The kind of processor behind a code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cpu {
    /// 32-bit x86. A BIOS says no more, and may well be a 64-bit machine.
    X86,
    /// 64-bit x86.
    X86_64,
    /// 32-bit Arm.
    Arm,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit RISC-V.
    Riscv32,
    /// 64-bit RISC-V.
    Riscv64,
    /// 32-bit LoongArch.
    Loongarch32,
    /// 64-bit LoongArch.
    Loongarch64,
}

/// How the firmware behind a code boots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Bios,
    Efi,
    EfiHttp,
    BiosHttp,
    UBoot,
    RaspberryPi,
}

impl ClientArch {
    /// A PC with a BIOS; Raspberry Pi says so too (C55).
    pub const BIOS: Self = Self(0);
    /// 32-bit UEFI.
    pub const EFI_X86: Self = Self(6);
    /// 64-bit UEFI.
    pub const EFI_X64: Self = Self(7);
    /// Meant for EFI byte code; firmware that sends it is 64-bit UEFI, because RFC 4578 swapped 7 and 9.
    pub const EFI_BC: Self = Self(9);
    /// 64-bit Arm UEFI.
    pub const EFI_ARM64: Self = Self(11);
    /// 64-bit UEFI booting by HTTP.
    pub const EFI_X64_HTTP: Self = Self(16);
    /// 64-bit Arm UEFI booting by HTTP.
    pub const EFI_ARM64_HTTP: Self = Self(19);
    /// Raspberry Pi's boot program.
    pub const RPIBOOT: Self = Self(41);

    fn row(self) -> Option<(Cpu, Way, &'static str)> {
        Some(match self.0 {
            0 => (Cpu::X86, Way::Bios, "BIOS"),
            6 => (Cpu::X86, Way::Efi, "x86 UEFI"),
            7 | 9 => (Cpu::X86_64, Way::Efi, "x86_64 UEFI"),
            10 => (Cpu::Arm, Way::Efi, "arm UEFI"),
            11 => (Cpu::Aarch64, Way::Efi, "aarch64 UEFI"),
            15 => (Cpu::X86, Way::EfiHttp, "x86 UEFI HTTP"),
            16 | 17 => (Cpu::X86_64, Way::EfiHttp, "x86_64 UEFI HTTP"),
            18 => (Cpu::Arm, Way::EfiHttp, "arm UEFI HTTP"),
            19 => (Cpu::Aarch64, Way::EfiHttp, "aarch64 UEFI HTTP"),
            20 => (Cpu::X86, Way::BiosHttp, "BIOS HTTP"),
            21 | 23 => (Cpu::Arm, Way::UBoot, "arm U-Boot"),
            22 | 24 => (Cpu::Aarch64, Way::UBoot, "aarch64 U-Boot"),
            25 => (Cpu::Riscv32, Way::Efi, "riscv32 UEFI"),
            26 => (Cpu::Riscv32, Way::EfiHttp, "riscv32 UEFI HTTP"),
            27 => (Cpu::Riscv64, Way::Efi, "riscv64 UEFI"),
            28 => (Cpu::Riscv64, Way::EfiHttp, "riscv64 UEFI HTTP"),
            37 => (Cpu::Loongarch32, Way::Efi, "loongarch32 UEFI"),
            38 => (Cpu::Loongarch32, Way::EfiHttp, "loongarch32 UEFI HTTP"),
            39 => (Cpu::Loongarch64, Way::Efi, "loongarch64 UEFI"),
            40 => (Cpu::Loongarch64, Way::EfiHttp, "loongarch64 UEFI HTTP"),
            41 => (Cpu::Aarch64, Way::RaspberryPi, "Raspberry Pi"),
            _ => return None,
        })
    }

    fn way(self) -> Option<Way> {
        self.row().map(|(_, way, _)| way)
    }

    /// Whether the code is one of the list.
    pub fn is_known(self) -> bool {
        self.row().is_some()
    }

    /// The kind of processor.
    pub fn cpu(self) -> Option<Cpu> {
        self.row().map(|(cpu, _, _)| cpu)
    }

    /// Whether it starts EFI programs.
    pub fn is_efi(self) -> bool {
        matches!(self.way(), Some(Way::Efi | Way::EfiHttp))
    }

    /// Whether the code itself says that it boots by HTTP.
    pub fn is_http(self) -> bool {
        matches!(self.way(), Some(Way::EfiHttp | Way::BiosHttp))
    }

    /// Whether it is U-Boot.
    pub fn is_uboot(self) -> bool {
        self.way() == Some(Way::UBoot)
    }

    /// The name of its artifacts' folder, if such artifacts exist. A BIOS is given those of 64-bit x86, the only PC there
    /// still is.
    pub fn folder(self) -> Option<&'static str> {
        match (self.cpu()?, self.way()?) {
            (Cpu::X86, Way::Bios | Way::BiosHttp) | (Cpu::X86_64, _) => Some("x86_64"),
            (Cpu::Aarch64, _) => Some("aarch64"),
            _ => None,
        }
    }
}

impl fmt::Display for ClientArch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some((_, _, name)) => out.write_str(name),
            None => write!(out, "architecture {}", self.0),
        }
    }
}

impl Cpu {
    /// As artifacts and kernels name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::X86_64 => "x86_64",
            Self::Arm => "arm",
            Self::Aarch64 => "aarch64",
            Self::Riscv32 => "riscv32",
            Self::Riscv64 => "riscv64",
            Self::Loongarch32 => "loongarch32",
            Self::Loongarch64 => "loongarch64",
        }
    }
}
