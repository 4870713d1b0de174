//! What the configuration says about machines: `[[profile]]` for groups, `[machine."MAC"]` for single ones. Pure: TOML comes
//! in, and every problem of it goes out with its line.
//!
//! ```toml
//! [[profile]]
//! name = "rack-a"
//! match = ["52:54:00:*", "vendor=Dell arch=x86_64"]   # any of them; all words of one
//! channel = "beta"
//!
//! [machine."52:54:00:12:34:56"]
//! name = "db1"
//! profile = "rack-a"
//! cmdline = "console=ttyS1"
//! ```
//!
//! A machine has one profile: the one it was given by command, else the one its table names, else the first that matches.
//! What its table says itself stands above that.

mod pattern;
mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use boot_manifest::{Channel, FileName};
use pxe::Mac;
use pxe::boot::Style;
use serde_json::{Value, json};

use crate::machines::orders::Way;
pub(crate) use crate::machines::profiles::pattern::{Pattern, Subject};
pub(crate) use crate::machines::profiles::read::{cmdline, read};

/// What UEFI firmware is given to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loader {
    /// The UKI, unless kernel arguments or a menu are wanted, which only iPXE can give.
    Auto,
    /// The UKI.
    Uki,
    /// iPXE with the driver of the firmware.
    Snponly,
    /// iPXE with its own drivers.
    Ipxe,
}

impl Loader {
    const ALL: [Self; 4] = [Self::Auto, Self::Uki, Self::Snponly, Self::Ipxe];

    /// As it is written.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uki => "uki",
            Self::Snponly => "snponly",
            Self::Ipxe => "ipxe",
        }
    }
}

/// What can be said about a machine or a group. Nothing has to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// From where it boots.
    pub(crate) way: Option<Way>,
    /// The channel.
    pub(crate) channel: Option<Channel>,
    /// What UEFI firmware starts.
    pub(crate) loader: Option<Loader>,
    /// A file of the channel's folder that firmware starts instead of everything else.
    pub(crate) file: Option<FileName>,
    /// Kernel arguments behind those of the payload.
    pub(crate) cmdline: Option<String>,
    /// Whether a menu of the channels is shown.
    pub(crate) menu: Option<bool>,
    /// Seconds until it chooses.
    pub(crate) menu_seconds: Option<u32>,
    /// Waited before an offer.
    pub(crate) delay: Option<Duration>,
    /// The style of answers.
    pub(crate) style: Option<Style>,
    /// After so many boots that were never heard of again, the disk.
    pub(crate) boots_max: Option<u32>,
}

impl Settings {
    /// These, and what they leave open as `below` says it.
    fn over(self, below: &Self) -> Self {
        Self {
            way: self.way.or(below.way),
            channel: self.channel.or_else(|| below.channel.clone()),
            loader: self.loader.or(below.loader),
            file: self.file.or_else(|| below.file.clone()),
            cmdline: self.cmdline.or_else(|| below.cmdline.clone()),
            menu: self.menu.or(below.menu),
            menu_seconds: self.menu_seconds.or(below.menu_seconds),
            delay: self.delay.or(below.delay),
            style: self.style.or(below.style),
            boots_max: self.boots_max.or(below.boots_max),
        }
    }
}

/// A group of machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Its name.
    pub(crate) name: String,
    /// Whom it is for. Nobody, when it is only given by command or by name.
    pub(crate) patterns: Vec<Pattern>,
    /// What it says.
    pub(crate) settings: Settings,
}

/// A machine with a table of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// What people call it.
    pub(crate) name: Option<String>,
    /// Its profile.
    pub(crate) profile: Option<String>,
    /// What it says.
    pub(crate) settings: Settings,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Profiles {
    /// In the order of the file.
    pub(crate) profiles: Vec<Profile>,
    /// By MAC.
    pub(crate) machines: BTreeMap<Mac, Named>,
}

/// What is in force for one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InForce {
    /// What people call it.
    pub(crate) name: Option<String>,
    /// Its profile.
    pub(crate) profile: Option<String>,
    /// Everything that is said about it.
    pub(crate) settings: Settings,
    /// Whether the configuration means this very machine: by a table, or by a pattern with its address.
    pub(crate) is_named: bool,
}

impl Profiles {
    /// What is in force for a machine to which `assigned` was given by command.
    pub(crate) fn of(&self, subject: &Subject<'_>, assigned: Option<&str>) -> InForce {
        let own = self.machines.get(&subject.mac);
        let named = assigned
            .and_then(|name| self.get(name))
            .or_else(|| own.and_then(|own| self.get(own.profile.as_deref()?)));
        let matching = || {
            self.profiles
                .iter()
                .find(|profile| profile.patterns.iter().any(|one| one.matches(subject)))
        };
        let profile = named.or_else(matching);
        let nothing = Settings::default();
        let below = profile.map_or(&nothing, |profile| &profile.settings);
        let own_settings = own.map(|own| own.settings.clone()).unwrap_or_default();
        let by_address = profile.is_some_and(|profile| {
            let mut patterns = profile.patterns.iter();
            patterns.any(|one| one.names_address() && one.matches(subject))
        });
        InForce {
            name: own.and_then(|own| own.name.clone()),
            profile: profile.map(|profile| profile.name.clone()),
            settings: own_settings.over(below),
            is_named: own.is_some() || by_address,
        }
    }

    /// The profile of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }

    /// As the control socket shows them.
    pub(crate) fn facts(&self) -> Value {
        let profile = |profile: &Profile| {
            let patterns: Vec<String> = profile.patterns.iter().map(ToString::to_string).collect();
            json!({ "name": profile.name, "match": patterns })
        };
        json!(self.profiles.iter().map(profile).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests;
