//! Which firmware a request comes from (C2, C12 to C14, C20, C55, C59).
//!
//! Only who says by option 60 that it boots over the network is a client here. Management controllers, telephones and
//! running systems are not, whatever else they send.

mod arch;

pub use arch::{ClientArch, Cpu};

use crate::Mac;
use crate::dhcp::{Kind, Request};

/// How option 60 of a PXE client begins.
pub const PXE_CLASS: &str = "PXEClient";
/// How option 60 of a UEFI HTTP boot client begins.
pub const HTTP_CLASS: &str = "HTTPClient";
/// How option 60 of our own Linux begins, when it looks for its provider.
pub const PHASE_CLASS: &str = "PhaseClient";

/// The user class of every iPXE that was not told another.
pub(crate) const IPXE_USER_CLASS: &str = "iPXE";

/// Makers' numbers of Raspberry Pi (IEEE's list), which say they are a BIOS (C55).
const RASPBERRY_PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];

/// A machine that wants to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub mac: Mac,
    /// What asks.
    pub firmware: Firmware,
    /// For what kind of machine.
    pub arch: ClientArch,
    /// The machine's identity without its type byte, unless it is missing or zero (C11).
    pub uuid: Option<[u8; 16]>,
    /// Option 60 as it came.
    pub class: String,
}

/// What asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// A BIOS with a PXE ROM.
    BiosPxe,
    /// UEFI, booting by PXE.
    UefiPxe,
    /// UEFI, booting by HTTP.
    UefiHttp,
    /// iPXE, in a card or started by us.
    Ipxe {
        /// Whether it can fetch by HTTP.
        http: bool,
        /// Whether it runs under UEFI.
        efi: bool,
    },
    /// A Raspberry Pi's own boot program.
    RaspberryPi,
    /// U-Boot, which takes a file but is not UEFI on the wire.
    UBoot,
    /// Our own Linux, looking for its provider.
    Phase,
}

impl Firmware {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BiosPxe => "BIOS PXE",
            Self::UefiPxe => "UEFI PXE",
            Self::UefiHttp => "UEFI HTTP",
            Self::Ipxe { efi: false, .. } => "iPXE",
            Self::Ipxe { efi: true, .. } => "iPXE (UEFI)",
            Self::RaspberryPi => "Raspberry Pi",
            Self::UBoot => "U-Boot",
            Self::Phase => "Phase",
        }
    }
}

/// Who asks, if it boots over the network.
pub fn classify(request: &Request) -> Option<Client> {
    let class = request.class.as_deref()?;
    let http = class.starts_with(HTTP_CLASS);
    let phase = class.starts_with(PHASE_CLASS);
    if !(http || phase || class.starts_with(PXE_CLASS)) || !request.mac.is_machine() {
        return None;
    }
    let arch = arch(request, class)?;
    let firmware = if phase {
        Firmware::Phase
    } else if let Some(ipxe) = ipxe(request, arch) {
        ipxe
    } else if http {
        Firmware::UefiHttp
    } else if arch == ClientArch::RPIBOOT
        || arch == ClientArch::BIOS && RASPBERRY_PI.contains(&request.mac.maker())
    {
        Firmware::RaspberryPi
    } else if arch.is_uboot() {
        Firmware::UBoot
    } else if arch.is_efi() {
        Firmware::UefiPxe
    } else {
        Firmware::BiosPxe
    };
    let arch = match firmware {
        // It says BIOS, and is none.
        Firmware::RaspberryPi => ClientArch::RPIBOOT,
        _ => arch,
    };
    Some(Client {
        mac: request.mac,
        firmware,
        arch,
        uuid: uuid(request),
        class: class.to_owned(),
    })
}

/// The first architecture that is known, of option 93 and then of option 60. A DISCOVER without any is no netboot (C20);
/// on the way to its boot file a ROM may leave it out, and those are the old BIOS ones (C6).
fn arch(request: &Request, class: &str) -> Option<ClientArch> {
    let named = class.split(':').skip_while(|part| *part != "Arch").nth(1);
    let named = named.and_then(|digits| digits.parse::<u16>().ok());
    let all = request.archs.iter().copied().chain(named);
    let all: Vec<_> = all.map(ClientArch).collect();
    let known = all.iter().find(|arch| arch.is_known()).or(all.first());
    match known {
        Some(arch) => Some(*arch),
        None if request.kind == Kind::Discover => None,
        None => Some(ClientArch::BIOS),
    }
}

/// iPXE says so by its own option or by its user class (C13, C14).
fn ipxe(request: &Request, arch: ClientArch) -> Option<Firmware> {
    let by_class = request
        .user_classes
        .iter()
        .any(|class| class == IPXE_USER_CLASS);
    if !by_class && request.ipxe.is_none() {
        return None;
    }
    let features = request.ipxe.as_ref();
    Some(Firmware::Ipxe {
        http: features.is_some_and(|features| features.http()),
        efi: features.is_some_and(|features| features.efi()) || arch.is_efi(),
    })
}

fn uuid(request: &Request) -> Option<[u8; 16]> {
    let [_, uuid @ ..] = request.uuid?;
    let plain = uuid != [0; 16] && uuid != [0xff; 16];
    plain.then_some(uuid)
}

#[cfg(test)]
mod tests;
