//! From the sections of a configuration file to profiles.

use std::time::Duration;

use pxe::Mac;
use pxe::boot::Style;
use pxe::ipxe::Target;

use crate::config::file::{Section, Value};
use crate::config::nearest::nearest;
use crate::machines::limits::{
    BOOT_GAP, CMDLINE_MAX, DELAY_MS_MAX, LOOP_WINDOW, MENU_SECONDS_MAX, NAMED_MAX, PATTERNS_MAX,
    PROFILES_MAX, TEXT_MAX,
};
use crate::machines::orders::Way;
use crate::machines::profiles::{Loader, Named, Pattern, Profile, Profiles, Settings};

/// The most boots that `boots_max` can ask for: more do not fit into the window in which they are counted.
const BOOTS_LIMIT: u32 = (LOOP_WINDOW.as_secs() / BOOT_GAP.as_secs()) as u32 * 4;

/// The keys of every section, in the order of the guide.
const KEYS: [&str; 10] = [
    "boot",
    "channel",
    "loader",
    "file",
    "cmdline",
    "menu",
    "menu_seconds",
    "delay_ms",
    "style",
    "boots_max",
];

/// What somebody may have forgotten.
const ABOVE: &str = "settings of the provider itself stand above the first section";

/// Something wrong in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadSetting {
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) reason: String,
}

/// Reads the sections of a file, and reports every problem in them.
pub(crate) fn read(sections: &[Section]) -> (Profiles, Vec<BadSetting>) {
    let mut reading = Reading::default();
    for section in sections {
        match section.path.as_slice() {
            [kind] if kind == "profile" => reading.profile(section),
            [kind, mac] if kind == "machine" => reading.machine(mac, section),
            // The file lets no others through.
            _ => reading.bad(section.line, "is no section of this file".to_owned()),
        }
    }
    reading.check_names(sections);
    (reading.profiles, reading.problems)
}

#[derive(Default)]
struct Reading {
    profiles: Profiles,
    problems: Vec<BadSetting>,
}

impl Reading {
    fn profile(&mut self, section: &Section) {
        let (mut name, mut patterns) = (None, Vec::new());
        let settings = self.settings(section, &["name", "match"], |key, value| {
            match key {
                "name" => name = Some(label(value)?),
                _ => patterns = pattern_list(value)?,
            }
            Ok(())
        });
        let Some(name) = name else {
            let said = section.entries.iter().any(|entry| entry.key == "name");
            if !said {
                self.bad(section.line, "[[profile]]: needs a name".to_owned());
            }
            return;
        };
        if self.profiles.get(&name).is_some() {
            return self.bad(
                section.line,
                format!("there are two profiles called {name}"),
            );
        }
        if self.profiles.profiles.len() >= PROFILES_MAX {
            return self.bad(
                section.line,
                format!("there are more than {PROFILES_MAX} profiles"),
            );
        }
        self.profiles.profiles.push(Profile {
            name,
            patterns,
            settings,
        });
    }

    fn machine(&mut self, mac: &str, section: &Section) {
        let (mut name, mut profile) = (None, None);
        let settings = self.settings(section, &["name", "profile"], |key, value| {
            match key {
                "name" => name = Some(label(value)?),
                _ => profile = Some(label(value)?),
            }
            Ok(())
        });
        let mac: Mac = match mac.parse() {
            Ok(mac) => mac,
            Err(error) => {
                return self.bad(section.line, format!("[machine.{mac:?}]: {error}"));
            }
        };
        if self.profiles.machines.len() >= NAMED_MAX {
            return self.bad(
                section.line,
                format!("there are more than {NAMED_MAX} machines; use profiles for many"),
            );
        }
        let named = Named {
            name,
            profile,
            settings,
        };
        if self.profiles.machines.insert(mac, named).is_some() {
            self.bad(
                section.line,
                format!("there are two tables for the machine {mac}"),
            );
        }
    }

    /// Reads the keys that every section may have; `own` reads those called in `names`.
    fn settings(
        &mut self,
        section: &Section,
        names: &[&str],
        mut own: impl FnMut(&str, &Value) -> Result<(), String>,
    ) -> Settings {
        let mut settings = Settings::default();
        for entry in &section.entries {
            let key = entry.key.as_str();
            let done = if names.contains(&key) {
                own(key, &entry.value)
            } else if KEYS.contains(&key) {
                set(&mut settings, key, &entry.value)
            } else {
                let known = names.iter().chain(&KEYS).copied();
                Err(match nearest(key, known) {
                    Some(meant) => format!("unknown here; did you mean `{meant}`? {ABOVE}"),
                    None => format!("unknown here; {ABOVE}"),
                })
            };
            if let Err(reason) = done {
                let key = key.escape_debug();
                self.bad(entry.line, format!("{key}: {reason}"));
            }
        }
        settings
    }

    /// Machines name profiles that exist.
    fn check_names(&mut self, sections: &[Section]) {
        for section in sections.iter().filter(|one| one.path.len() == 2) {
            for entry in section.entries.iter().filter(|one| one.key == "profile") {
                let Value::One(name) = &entry.value else {
                    continue;
                };
                if self.profiles.get(name).is_none() {
                    let name = name.escape_debug();
                    self.bad(
                        entry.line,
                        format!("profile: there is no profile called {name}"),
                    );
                }
            }
        }
    }

    fn bad(&mut self, line: usize, reason: String) {
        self.problems.push(BadSetting { line, reason });
    }
}

fn set(settings: &mut Settings, key: &str, value: &Value) -> Result<(), String> {
    match key {
        "boot" => {
            let way = Way::named(text(value)?);
            settings.way = Some(way.ok_or("one of network, local and none")?);
        }
        "channel" => {
            let channel = text(value)?.parse();
            settings.channel = Some(channel.map_err(|error| format!("{error}"))?);
        }
        "loader" => {
            let name = text(value)?;
            let loader = Loader::ALL.into_iter().find(|one| one.label() == name);
            settings.loader = Some(loader.ok_or("one of auto, uki, snponly and ipxe")?);
        }
        "file" => {
            let file = text(value)?.parse();
            settings.file = Some(file.map_err(|error| format!("{error}"))?);
        }
        "cmdline" => settings.cmdline = Some(cmdline(text(value)?)?),
        "menu" => match value {
            Value::Switch(switch) => settings.menu = Some(*switch),
            _ => return Err("true or false".to_owned()),
        },
        "menu_seconds" => settings.menu_seconds = Some(number(value, MENU_SECONDS_MAX)?),
        "delay_ms" => {
            let millis = number(value, DELAY_MS_MAX)?;
            settings.delay = Some(Duration::from_millis(millis.into()));
        }
        "style" => {
            let name = text(value)?;
            let style = Style::ALL.into_iter().find(|one| one.name() == name);
            let names = Style::ALL.map(Style::name).join(", ");
            settings.style = Some(style.ok_or_else(|| format!("one of {names}"))?);
        }
        // The list of keys has no other.
        _ => settings.boots_max = Some(number(value, BOOTS_LIMIT)?.max(1)),
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::One(text) => Ok(text),
        Value::Switch(_) | Value::Several(_) => Err("takes one text in quotes".to_owned()),
    }
}

fn number(value: &Value, max: u32) -> Result<u32, String> {
    let wrong = || format!("a number from 0 to {max}");
    let Value::One(text) = value else {
        return Err(wrong());
    };
    let number: u32 = text.parse().map_err(|_| wrong())?;
    if number > max {
        Err(wrong())
    } else {
        Ok(number)
    }
}

/// A name for people and scripts.
fn label(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    let is_plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > TEXT_MAX || !text.chars().all(is_plain) {
        return Err(format!(
            "1 to {TEXT_MAX} letters, digits and `._-`, without spaces"
        ));
    }
    Ok(text.to_owned())
}

fn pattern_list(value: &Value) -> Result<Vec<Pattern>, String> {
    let texts = match value {
        Value::One(text) => std::slice::from_ref(text),
        Value::Several(texts) => texts,
        Value::Switch(_) => return Err("a list of patterns like \"52:54:00:*\"".to_owned()),
    };
    if texts.len() > PATTERNS_MAX {
        return Err(format!("more than {PATTERNS_MAX} patterns"));
    }
    texts.iter().map(|text| text.parse()).collect()
}

/// Kernel arguments. What would mean something to iPXE, which passes them on, is refused.
pub(crate) fn cmdline(text: &str) -> Result<String, String> {
    if text.len() > CMDLINE_MAX {
        return Err(format!("has more than {CMDLINE_MAX} bytes"));
    }
    let is_printable = |byte: u8| (0x20..0x7f).contains(&byte);
    if !text.bytes().all(is_printable) {
        return Err("kernel arguments are printable ASCII in one line".to_owned());
    }
    match Target::linux("", "http://x/k", &[], text) {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
