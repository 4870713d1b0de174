//! What a machine is to be given. Who decides that knows machines, profiles and artifacts; who carries it out knows firmware.
//! Between them stand these types.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is done for a machine that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It is booted over the network.
    Netboot(Offer),
    /// It is told, in the way its firmware understands, to boot from its own disk (C53).
    LocalDisk,
    /// It gets no answer.
    Silence(Reason),
}

/// Where a machine finds what it is to boot. What is not there cannot be offered to firmware that would need it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// The name of the boot file at our TFTP server, for firmware that knows nothing else.
    pub tftp_file: Option<String>,
    /// The URL of an EFI program, with the address as digits and `.efi` at its end (C35, C39).
    pub http_url: Option<String>,
    /// The URL of the iPXE script of this machine.
    pub script_url: Option<String>,
    /// The URL of the manifest, for a Linux of ours that looks for its provider.
    pub manifest_url: Option<String>,
    /// Waited before each answer, for ROMs that miss instant ones (C16).
    pub delay: Duration,
    /// The style of answer somebody decided on; else it is found out.
    pub style: Option<Style>,
}

/// In which style PXE firmware is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// The offer names us only; the client asks for the file at port 4011.
    Binl,
    /// The offer has it all, and discovery control 8: use the file named here (PXE 1.0).
    Direct,
    /// The offer is a menu with one entry that chooses itself; the client asks for it at port 4011.
    Menu,
    /// The offer has the file, but no PXE vendor options, as a plain DHCP server with a boot file gives it.
    Plain,
}

impl Style {
    /// All styles.
    pub const ALL: [Self; 4] = [Self::Binl, Self::Direct, Self::Menu, Self::Plain];

    /// As it is written in settings and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binl => "binl",
            Self::Direct => "direct",
            Self::Menu => "menu",
            Self::Plain => "plain",
        }
    }
}

/// Why a machine gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Somebody denied it.
    Denied,
    /// Only known machines are answered, and it is not one.
    Unknown,
    /// There is nothing here that its firmware can start.
    NothingToBoot,
    /// It was booted once, as was asked, and again would be a loop (C54).
    Loop,
    /// Another server answers for it (C23).
    Elsewhere,
}

impl Reason {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Unknown => "not known yet, and only known machines are answered",
            Self::NothingToBoot => "nothing here that it can start",
            Self::Loop => "booted already, as asked; again would be a loop",
            Self::Elsewhere => "left to another server",
        }
    }
}
