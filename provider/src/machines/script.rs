//! What a machine's iPXE is told when it asks `/boot.ipxe`: who it is first, then what it boots.
//!
//! The text is made by [`pxe::ipxe`]; here is decided which, by the same policy that answers its DHCP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use boot_manifest::{Arch, Channel, FileName};
use pxe::Mac;
use pxe::ipxe::{self, NotForIpxe, Target};

use crate::machines::Machines;
use crate::machines::event::Event;
use crate::machines::limits::{MENU_SECONDS, TEXT_MAX};
use crate::machines::orders::Order;
use crate::machines::plan::Known;
use crate::machines::policy::Verdict;
use crate::machines::profiles::Settings;
use crate::machines::query::{Query, encoded};
use crate::machines::record::{Facts, Quiet, Told, shortened};
use crate::machines::shelf::Folder;

/// A machine that asks, as its query says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asking {
    mac: Mac,
    arch: Option<Arch>,
    /// The number of iPXE's error, when its last try failed.
    failed: Option<String>,
    facts: Facts,
    /// Where it asked, without how its last try ended.
    again: String,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Script {
    /// This text.
    Text(String),
    /// These payloads, once the arguments that their manifests begin with are known.
    Boot(Choice),
}

/// What a machine boots, or may choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The payloads, the usual one first.
    pub(crate) payloads: Vec<Payload>,
    /// The seconds that a menu waits, when there is to be one; 0 waits for ever.
    menu_seconds: Option<u32>,
    /// Whose menu it is.
    title: String,
    again: String,
}

/// A kernel of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    /// The channel.
    pub(crate) channel: Channel,
    /// The architecture.
    pub(crate) arch: Arch,
    /// Arguments instead of those of the folder's manifest.
    pub(crate) own_cmdline: Option<String>,
    label: String,
    kernel: String,
    initrds: Vec<String>,
    /// What stands behind those arguments.
    cmdline: String,
}

impl Choice {
    /// The script; `firsts` are the first arguments of the payloads.
    ///
    /// # Errors
    /// When an argument cannot be told to iPXE.
    pub(crate) fn text(&self, firsts: &[String]) -> Result<String, NotForIpxe> {
        let nothing = String::new();
        let targets = self.payloads.iter().enumerate().map(|(at, payload)| {
            let first = firsts.get(at).unwrap_or(&nothing);
            let cmdline = format!("{first} {}", payload.cmdline);
            Target::linux(
                &payload.label,
                &payload.kernel,
                &payload.initrds,
                cmdline.trim(),
            )
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        match (self.menu_seconds, targets.as_slice()) {
            (None, [target, ..]) => ipxe::boot(&self.again, target),
            (None, []) => ipxe::nothing(&self.again, "there is nothing to boot"),
            (Some(seconds), targets) => {
                let wait = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                ipxe::menu(&self.again, &self.title, targets, wait)
            }
        }
    }
}

/// The script that says what is wrong and asks again.
fn nothing(again: &str, why: &str) -> String {
    // What asked is a URL.
    ipxe::nothing(again, why).unwrap_or_else(|_| ipxe::leave(why))
}

impl Asking {
    /// Reads a query. The other side, when it is a text: what iPXE has to be told before anything can be decided.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(query: &str, base: &str) -> Result<Result<Self, String>, String> {
        let query = Query::parse(query)?;
        let mac = query.get("mac").map(str::parse::<Mac>);
        let mac = mac.transpose().map_err(|error| format!("mac: {error}"))?;
        if mac.is_some_and(|mac| !mac.is_machine()) {
            return Err("mac: no machine has this address".to_owned());
        }
        let asked = format!("{base}/boot.ipxe");
        let Some(mac) = mac else {
            return Ok(Err(identify(&asked, None)?));
        };
        let Some(platform) = query.get("platform") else {
            return Ok(Err(identify(&asked, Some(mac))?));
        };
        let dashed = mac.to_string().replace(':', "-");
        let asked = format!("{asked}?mac={dashed}");
        let text = |name: &str| query.get(name).map(str::to_owned);
        let mut again = asked;
        for name in [
            "uuid",
            "platform",
            "buildarch",
            "manufacturer",
            "product",
            "serial",
        ] {
            if let Some(value) = query.get(name) {
                // What is remembered of it, so that the next question is no longer than this one.
                let value = encoded(&shortened(value, TEXT_MAX));
                again.push_str(&format!("&{name}={value}"));
            }
        }
        let buildarch = query.get("buildarch").unwrap_or_default();
        Ok(Ok(Self {
            mac,
            // The ROM of a BIOS is 32-bit code on every machine.
            arch: match (platform, buildarch) {
                (_, "x86_64") | ("pcbios", _) => Some(Arch::X86_64),
                (_, "arm64") => Some(Arch::Aarch64),
                _ => None,
            },
            failed: text("failed").filter(|code| is_error(code)),
            facts: Facts {
                firmware: Some(match platform {
                    "efi" => "iPXE (UEFI)".to_owned(),
                    _ => "iPXE".to_owned(),
                }),
                uuid: text("uuid"),
                manufacturer: text("manufacturer"),
                product: text("product"),
                serial: text("serial"),
                ..Facts::default()
            },
            again,
        }))
    }
}

fn identify(url: &str, mac: Option<Mac>) -> Result<String, String> {
    ipxe::identify(url, mac).map_err(|error| format!("Host: {error}"))
}

/// Whether iPXE has such an error; eight zeros are none.
fn is_error(code: &str) -> bool {
    let is_digits = code.len() == 8 && code.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digits && code.bytes().any(|byte| byte != b'0')
}

impl Machines {
    /// The script of a machine that asks from an address, over a connection on which our URLs begin with `base`.
    pub(crate) fn script(&self, asking: Asking, peer: IpAddr, base: &str) -> Script {
        self.script_at(asking, peer, base, SystemTime::now())
    }

    fn script_at(&self, asking: Asking, peer: IpAddr, base: &str, now: SystemTime) -> Script {
        let Asking { mac, again, .. } = &asking;
        let known = self.heard_ipxe(*mac, asking.arch, asking.facts.clone(), now);
        self.claims(*mac, peer, now);
        self.note_at(*mac, Event::ScriptSent, now);
        if let Some(code) = &asking.failed {
            let why = format!("iPXE could not boot what it was told: https://ipxe.org/{code}");
            self.note_at(*mac, Event::Failed(why), now);
        }
        let Some(arch) = asking.arch else {
            let why = "there are no files for this processor".to_owned();
            self.tell(*mac, Told::Nothing(Quiet::Cannot(why.clone())), now);
            return Script::Text(ipxe::leave(&why));
        };
        match self.decide(&known, arch, false) {
            Verdict::Nothing(quiet) => {
                let text = match &quiet {
                    Quiet::Unknown => {
                        let why =
                            format!("this machine has to be allowed: plasmd clients allow {mac}");
                        nothing(again, &why)
                    }
                    Quiet::Denied | Quiet::Cannot(_) => {
                        ipxe::leave("this machine is not to be booted from here")
                    }
                };
                self.tell(*mac, Told::Nothing(quiet), now);
                Script::Text(text)
            }
            Verdict::LocalDisk(why) => {
                self.tell_local(*mac, why, now);
                Script::Text(ipxe::local_disk())
            }
            Verdict::Network(channel) => {
                self.tell(*mac, Told::Network, now);
                self.network_script(&asking, channel, arch, &known, base)
            }
        }
    }

    fn network_script(
        &self,
        asking: &Asking,
        channel: Channel,
        arch: Arch,
        known: &Known,
        base: &str,
    ) -> Script {
        let (in_force, order) = (&known.in_force, &known.order);
        let settings = &in_force.settings;
        let again = &asking.again;
        let payload = |(channel, folder): (Channel, Arc<Folder>)| {
            payload(&folder, channel, arch, settings, base)
        };
        let name = in_force.name.clone();
        let mut choice = Choice {
            payloads: Vec::new(),
            menu_seconds: None,
            title: format!("Phase: {}", name.unwrap_or_else(|| asking.mac.to_string())),
            again: again.clone(),
        };
        if self.wants_menu(settings, order) {
            let channels = self.shelf.channels(&channel, arch).into_iter();
            choice.payloads = channels
                .filter_map(payload)
                .take(ipxe::MENU_ENTRIES_MAX)
                .collect();
            let is_asked_for = settings.menu == Some(true);
            if choice.payloads.len() > 1 || is_asked_for && !choice.payloads.is_empty() {
                choice.menu_seconds = Some(settings.menu_seconds.unwrap_or(MENU_SECONDS));
                return Script::Boot(choice);
            }
        }
        let folder = self.shelf.folder(&channel, arch);
        choice.payloads = payload((channel.clone(), Arc::clone(&folder)))
            .into_iter()
            .collect();
        if choice.payloads.is_empty() {
            let why = folder.problem.clone();
            let why = why.unwrap_or_else(|| format!("{channel}/{arch} has no kernel"));
            let told = Told::Nothing(Quiet::Cannot(why.clone()));
            self.tell(asking.mac, told, SystemTime::now());
            return Script::Text(nothing(again, &why));
        }
        Script::Boot(choice)
    }

    /// Whether there is a choice: the profile says so, or nobody has chosen for this machine.
    fn wants_menu(&self, settings: &Settings, order: &Order) -> bool {
        let is_chosen = settings.channel.is_some() || order.once.is_some();
        settings.menu.unwrap_or(!is_chosen)
    }
}

/// What iPXE is told of a folder; nothing when there is no kernel.
fn payload(
    folder: &Folder,
    channel: Channel,
    arch: Arch,
    settings: &Settings,
    base: &str,
) -> Option<Payload> {
    let url = |file: &FileName| format!("{base}/{channel}/{arch}/{file}");
    let title = folder.boot.title.clone();
    Some(Payload {
        own_cmdline: folder.boot.cmdline.clone(),
        label: title.unwrap_or_else(|| format!("{channel}/{arch}")),
        kernel: url(folder.kernel.as_ref()?),
        initrds: folder.initrds.iter().map(url).collect(),
        cmdline: arguments(folder, &channel, settings, base),
        channel,
        arch,
    })
}

/// What stands behind the arguments of the manifest or the `boot.toml`.
fn arguments(folder: &Folder, channel: &Channel, settings: &Settings, base: &str) -> String {
    let mut arguments = Vec::new();
    if folder.is_phase {
        // Linux fetches by plain HTTP; who has its script by another way looks for its provider.
        if base.starts_with("http://") {
            arguments.push(format!("phase.provider={base}"));
        }
        // An image fetches `stable` unless it is told another.
        arguments.push(format!("phase.channel={channel}"));
    }
    arguments.extend(settings.cmdline.clone());
    arguments.join(" ")
}
