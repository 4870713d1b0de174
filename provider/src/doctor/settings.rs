//! The settings of the provider: whether they can be understood, and which directory and port they name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use discovery::dht::DEFAULT_PORT;

use crate::cli::serve_command;
use crate::config::{self, Places, Setting, Source};
use crate::doctor::finding::Finding;
use crate::exit::CommandError;
use crate::out::printable;

/// What the other checks are about.
pub(super) struct InForce {
    pub(super) artifacts: PathBuf,
    pub(super) port: u16,
    /// Where members of the DHT connect, unless there is to be no DHT.
    pub(super) dht_port: Option<u16>,
    /// Whether the provider signs what has no manifest.
    pub(super) signs: bool,
}

/// Reads the settings as `plasmd serve` would. Where they are wrong, the defaults are gone on with.
pub(super) fn check(file: Option<&Path>) -> (Finding, InForce) {
    let mut flags: Vec<OsString> = Vec::new();
    if let Some(file) = file {
        flags.extend(["--config".into(), file.as_os_str().to_owned()]);
    }
    judge(&flags, &Places::of_this_process())
}

fn judge(flags: &[OsString], places: &Places) -> (Finding, InForce) {
    let serve = serve_command();
    match config::settings(&serve, flags, places) {
        Ok(settings) => {
            // The name of the file is no setting in it.
            let is_set =
                |setting: &&Setting| setting.source != Source::Default && setting.key != "config";
            let count = settings.iter().filter(is_set).count();
            let finding = Finding::ok("settings", format!("{count} are not the default"));
            (finding, in_force(&settings))
        }
        Err(failure) => {
            let error = CommandError::from(failure).to_string();
            let message = error.lines().map(str::trim).collect::<Vec<_>>().join(" ");
            let finding = Finding::bad(
                "settings",
                printable(&message),
                "plasmd does not start with these: plasmd config check, and plasmd config show",
            );
            let nothing = Places {
                environment: Vec::new(),
                default_file: PathBuf::new(),
            };
            let defaults = config::settings(&serve, &[], &nothing).unwrap_or_default();
            (finding, in_force(&defaults))
        }
    }
}

fn in_force(settings: &[Setting]) -> InForce {
    let value = |key: &str| {
        let setting = settings.iter().find(|setting| setting.key == key)?;
        setting.values.first().cloned()
    };
    InForce {
        artifacts: value("artifacts").unwrap_or_default().into(),
        port: value("port")
            .and_then(|port| port.parse().ok())
            .unwrap_or_default(),
        dht_port: (value("no_dht").as_deref() != Some("true")).then(|| {
            let port = value("dht_port").and_then(|port| port.parse().ok());
            port.unwrap_or(DEFAULT_PORT)
        }),
        signs: value("key").is_some_and(|file| !file.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn wrong_settings_are_bad_and_good_ones_decide_what_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plasmd.toml");
        let places = Places {
            environment: Vec::new(),
            default_file: file.clone(),
        };
        for (text, signs) in [("key = \"/etc/phase/release.key\"\n", true), ("", false)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(judge(&[], &places).1.signs, signs, "{text}");
        }
        for (text, port) in [
            ("", Some(DEFAULT_PORT)),
            ("dht_port = 5000\n", Some(5000)),
            ("no_dht = true\ndht_port = 5000\n", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(judge(&[], &places).1.dht_port, port, "{text}");
        }
        for (text, level, port, artifacts) in [
            (
                "port = 9000\n",
                Level::Ok,
                9_000,
                "/var/lib/plasm/artifacts",
            ),
            ("artifacts = \"/srv\"\n", Level::Ok, 8_080, "/srv"),
            (
                "prot = 9000\n",
                Level::Bad,
                8_080,
                "/var/lib/plasm/artifacts",
            ),
            ("", Level::Ok, 8_080, "/var/lib/plasm/artifacts"),
        ] {
            std::fs::write(&file, text).unwrap();
            let (finding, found) = judge(&[], &places);
            assert_eq!(finding.level, level, "{text}: {finding:?}");
            assert_eq!(
                (found.port, found.artifacts),
                (port, artifacts.into()),
                "{text}"
            );
        }
    }
}
