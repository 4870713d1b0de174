//! From what is known and decided about a machine to what it is given. Pure: everything it looks at comes in.
//!
//! ```text
//! denied? ──> nothing      only known ones, and it is not? ──> nothing, until somebody allows it
//! its next boot is special? ──> that
//! its command, else its profile says local? ──> its disk      none? ──> nothing
//! booted again and again, or installed already? ──> its disk
//! otherwise ──> the channel's folder, in the form its firmware can start
//! ```

use std::net::{IpAddr, SocketAddr};

use boot_manifest::{Arch, Channel};
use pxe::Mac;
use pxe::boot::Offer;
use pxe::client::Firmware;

use crate::machines::orders::{Order, Way};
use crate::machines::profiles::{InForce, Loader};
use crate::machines::record::Quiet;
use crate::machines::shelf::{Folder, Shelf};

/// iPXE for a BIOS, on the driver of the ROM.
pub(crate) const UNDIONLY: &str = "undionly.kpxe";

/// iPXE for UEFI, on the driver of the firmware.
pub(crate) const SNPONLY: &str = "snponly.efi";

/// iPXE for UEFI with drivers of its own.
pub(crate) const IPXE_EFI: &str = "ipxe.efi";

/// The first file that a Raspberry Pi needs; it knows its name by itself.
pub(crate) const PI_CONFIG: &str = "config.txt";

/// What is known about a machine when it asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    /// What the operator decided about it.
    pub(crate) order: &'a Order,
    /// What the configuration says.
    pub(crate) in_force: &'a InForce,
    /// Whether only machines are answered that somebody knows.
    pub(crate) only_known: bool,
    /// Boots in a row that were never heard of again.
    pub(crate) mute_boots: u32,
    /// Whether Linux of an image of ours asks: it runs, so nothing keeps it from its image.
    pub(crate) is_linux: bool,
}

/// What is done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It boots from this channel.
    Network(Channel),
    /// It boots from its disk, for this reason.
    LocalDisk(Local),
    /// It is not answered.
    Nothing(Quiet),
}

/// Why a machine boots from its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// Somebody said so.
    Said,
    /// Its next boot only.
    Once,
    /// It boots again and again.
    Loop,
    /// It was sent an installer before.
    Installed,
}

impl Local {
    /// For people.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Said => "it boots from its disk",
            Self::Once => "it boots from its disk this time",
            Self::Loop => "it booted again and again; now its disk",
            Self::Installed => "it was installed; `plasmd clients once` installs it again",
        }
    }
}

/// Decides. `folder` finds what a channel has for the machine's architecture.
pub(crate) fn decide(
    case: &Case<'_>,
    default: &Channel,
    arch: Arch,
    folder: impl Fn(&Channel) -> std::sync::Arc<Folder>,
) -> Verdict {
    let (order, settings) = (case.order, &case.in_force.settings);
    let is_allowed = order.is_allowed == Some(true);
    if order.is_allowed == Some(false) {
        return Verdict::Nothing(Quiet::Denied);
    }
    let is_known = is_allowed || case.in_force.is_named || has_decision(order);
    if case.only_known && !is_known {
        return Verdict::Nothing(Quiet::Unknown);
    }
    let once = order.once.as_ref();
    let way = match (once, order.way.or(settings.way)) {
        (Some(once), _) => once.way,
        (None, Some(Way::None)) if is_allowed => Way::Network,
        (None, way) => way.unwrap_or(Way::Network),
    };
    match way {
        Way::None => return Verdict::Nothing(Quiet::Denied),
        Way::Local if case.is_linux => {}
        Way::Local if once.is_some() => return Verdict::LocalDisk(Local::Once),
        Way::Local => return Verdict::LocalDisk(Local::Said),
        Way::Network => {}
    }
    let is_looping = settings.boots_max.is_some_and(|max| case.mute_boots >= max);
    if is_looping && once.is_none() && !case.is_linux {
        return Verdict::LocalDisk(Local::Loop);
    }
    let channel = once
        .and_then(|once| once.channel.as_ref())
        .or(settings.channel.as_ref())
        .unwrap_or(default);
    let is_installed = || order.installed == Some(format!("{channel}/{arch}"));
    if once.is_none() && !case.is_linux && is_installed() && folder(channel).boot.once {
        return Verdict::LocalDisk(Local::Installed);
    }
    Verdict::Network(channel.clone())
}

/// Whether somebody decided about this very machine, so that it is no stranger.
fn has_decision(order: &Order) -> bool {
    order.way.is_some() || order.once.is_some() || order.profile.is_some()
}

/// Where things are for one machine.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    /// The machine.
    pub(crate) mac: Mac,
    /// Its channel.
    pub(crate) channel: &'a Channel,
    /// Its architecture.
    pub(crate) arch: Arch,
    /// Our address as it reaches it.
    pub(crate) server: IpAddr,
    /// The port of plain HTTP, when that is spoken.
    pub(crate) port: Option<u16>,
}

impl Place<'_> {
    /// What URLs of ours begin with.
    pub(crate) fn base(&self) -> Option<String> {
        let port = self.port?;
        // Firmware gets the usual port in the usual spelling.
        Some(match (port, self.server) {
            (80, IpAddr::V4(server)) => format!("http://{server}"),
            (80, IpAddr::V6(server)) => format!("http://[{server}]"),
            (port, server) => format!("http://{}", SocketAddr::new(server, port)),
        })
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{}/{file}", self.channel, self.arch)
    }

    /// The iPXE script of this machine.
    pub(crate) fn script_url(&self) -> Option<String> {
        let mac = self.mac.to_string().replace(':', "-");
        Some(format!("{}/boot.ipxe?mac={mac}", self.base()?))
    }
}

/// What a machine of `channel` is told, or what is missing for that.
pub(crate) fn offer(
    shelf: &Shelf,
    folder: &Folder,
    in_force: &InForce,
    firmware: Firmware,
    place: &Place<'_>,
) -> Result<Offer, String> {
    let settings = &in_force.settings;
    let mut offer = Offer {
        delay: settings.delay.unwrap_or_default(),
        style: settings.style,
        ..Offer::default()
    };
    let has = |file: &str| shelf.has(place.channel, place.arch, file);
    let base = place.base();
    let wants_script = folder.has_kernel();
    if wants_script {
        offer.script_url = place.script_url();
    }
    let file = match &settings.file {
        Some(file) if !matches!(firmware, Firmware::Phase | Firmware::Ipxe { .. }) => {
            if !has(file.as_str()) {
                return Err(format!(
                    "{} is missing, which its profile names",
                    place.path(file.as_str())
                ));
            }
            Some(file.as_str())
        }
        _ => boot_file(folder, in_force, firmware, has)?,
    };
    if let Some(file) = file {
        let path = place.path(file);
        offer.http_url = base
            .as_ref()
            .filter(|_| file.ends_with(".efi"))
            .map(|base| format!("{base}/{path}"));
        offer.tftp_file = Some(path);
    }
    let missing = |what: &str| Err(format!("{}: {what}", place.path("")));
    match firmware {
        Firmware::Phase => {
            offer.manifest_url = base.map(|base| format!("{base}/{}", place.path("manifest.json")));
            if offer.manifest_url.is_none() {
                return missing("it fetches by plain HTTP, which is not spoken here");
            }
        }
        Firmware::UefiHttp if offer.http_url.is_none() => {
            return missing("UEFI HTTP boot needs an EFI program and plain HTTP");
        }
        Firmware::Ipxe { http: true, .. } if offer.script_url.is_none() => {
            return missing("iPXE needs a kernel here, and plain HTTP");
        }
        _ => {}
    }
    Ok(offer)
}

/// The program that firmware starts. None for those that fetch a script or a manifest.
fn boot_file<'a>(
    folder: &'a Folder,
    in_force: &InForce,
    firmware: Firmware,
    has: impl Fn(&str) -> bool,
) -> Result<Option<&'a str>, String> {
    let ipxe = |name: &'static str| match (has(name), folder.has_kernel()) {
        (true, true) => Ok(Some(name)),
        (false, _) => Err(format!(
            "no {name}: install the package ipxe, or name its folder with --ipxe-dir"
        )),
        (true, false) => Err("no kernel for iPXE to boot".to_owned()),
    };
    let efi = || {
        let settings = &in_force.settings;
        let wants_ipxe = settings.cmdline.is_some() || settings.menu == Some(true);
        match (settings.loader.unwrap_or(Loader::Auto), &folder.uki) {
            (Loader::Snponly, _) => ipxe(SNPONLY),
            (Loader::Ipxe, _) => ipxe(IPXE_EFI),
            (Loader::Auto, _) if wants_ipxe && has(SNPONLY) && folder.has_kernel() => ipxe(SNPONLY),
            (Loader::Auto | Loader::Uki, Some(uki)) => Ok(Some(uki.as_str())),
            (Loader::Uki, None) => Err("no phase.efi, and its profile wants no other".to_owned()),
            (Loader::Auto, None) => ipxe(SNPONLY),
        }
    };
    match firmware {
        Firmware::BiosPxe => ipxe(UNDIONLY),
        Firmware::UefiPxe | Firmware::UefiHttp => efi(),
        // U-Boot starts EFI programs by its own file name rules; iPXE is not built for it.
        Firmware::UBoot => match &folder.uki {
            Some(uki) => Ok(Some(uki.as_str())),
            None => Err("U-Boot needs phase.efi".to_owned()),
        },
        Firmware::RaspberryPi if has(PI_CONFIG) => Ok(Some(PI_CONFIG)),
        Firmware::RaspberryPi => Err(format!(
            "a Raspberry Pi needs its own files, {PI_CONFIG} first"
        )),
        // One that is too old for HTTP is given ours first.
        Firmware::Ipxe {
            http: false,
            efi: true,
        } => ipxe(SNPONLY),
        Firmware::Ipxe {
            http: false,
            efi: false,
        } => ipxe(UNDIONLY),
        Firmware::Ipxe { http: true, .. } | Firmware::Phase => Ok(None),
    }
}

#[cfg(test)]
mod tests;
