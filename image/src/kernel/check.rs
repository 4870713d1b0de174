//! Whether the kernel's configuration tool kept what the fragments ask for.
//!
//! It drops an option silently when a dependency is missing, when the name was changed upstream, or when something else
//! selects what was to be off. Such a kernel builds, boots, and lacks a driver on one machine in a hundred: so every wish is
//! compared with the result, and one that was lost fails the build.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use super::fragment::{Value, Wanted, Wish};

/// A finished configuration (`.config`, `/proc/config.gz` unpacked).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads the text of a configuration; what is not set is not in it.
    pub fn parse(text: &str) -> Self {
        let settings = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.starts_with("CONFIG_")
                .then(|| (name.to_owned(), value.to_owned()))
        });
        Self(settings.collect())
    }

    /// The value of an option, or nothing when it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// How many options are built in.
    pub fn enabled(&self) -> usize {
        self.0.values().filter(|value| *value == "y").count()
    }

    /// Options that were to become loadable modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(|(_, value)| *value == "m")
            .map(|(name, _)| name.as_str())
    }
}

/// Every option this kernel source knows, with the place that defines it.
#[derive(Debug, Clone, Default)]
pub struct KnownOptions(BTreeMap<String, String>);

impl KnownOptions {
    /// Reads the `Kconfig*` files below `tree` that count for x86.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub fn of_source(tree: &Path) -> Result<Self> {
        let mut known = Self::default();
        known.walk(tree, tree)?;
        Ok(known)
    }

    fn walk(&mut self, tree: &Path, folder: &Path) -> Result<()> {
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            if kind.is_dir() {
                if counts(path.strip_prefix(tree).unwrap_or(&path)) {
                    self.walk(tree, &path)?;
                }
            } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with("Kconfig") {
                let bytes =
                    std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                let shown = path.strip_prefix(tree).unwrap_or(&path).display();
                self.add(&shown.to_string(), &String::from_utf8_lossy(&bytes));
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            if !matches!(words.next(), Some("config" | "menuconfig")) {
                continue;
            }
            if let (Some(name), None) = (words.next(), words.next()) {
                self.0
                    .entry(format!("CONFIG_{name}"))
                    .or_insert_with(|| format!("{file}:{}", index + 1));
            }
        }
    }

    /// Where an option is defined.
    pub fn place(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Whether a folder of the source can define options of ours: not those of other processors, nor examples for tests.
fn counts(folder: &Path) -> bool {
    let other_processor = folder.parent() == Some(Path::new("arch")) && !folder.ends_with("x86");
    !other_processor && folder != Path::new("scripts/kconfig/tests")
}

/// A wish that was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What was asked for.
    pub wish: Wish,
    /// What became of it.
    pub cause: Cause,
}

/// Why a wish was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// No such option in this kernel; also for options that were to be off, which would otherwise hide a misspelling.
    Unknown,
    /// It is off: something it depends on is missing. Holds the place of its definition, when known.
    Missing(Option<String>),
    /// It has another value, because another option selects or forces it.
    Differs(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wish = &self.wish;
        match &self.cause {
            Cause::Unknown => write!(f, "{wish}: this kernel has no such option"),
            Cause::Missing(None) => write!(f, "{wish}: is not set, a dependency is missing"),
            Cause::Missing(Some(place)) => write!(
                f,
                "{wish}: is not set, a dependency is missing (see {place})"
            ),
            Cause::Differs(value) => write!(f, "{wish}: is {value}, another option decides it"),
        }
    }
}

/// All wishes that were not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostOptions(pub Vec<Lost>);

impl fmt::Display for LostOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} wanted kernel options are not in the configuration:",
            self.0.len()
        )?;
        self.0.iter().try_for_each(|lost| write!(f, "\n  {lost}"))
    }
}

impl std::error::Error for LostOptions {}

/// Compares the finished `config` with what is `wanted`. Without `known`, misspelt options that are to be off go unnoticed.
///
/// # Errors
/// Every wish that was not fulfilled.
pub fn survived(
    wanted: &Wanted,
    config: &Config,
    known: Option<&KnownOptions>,
) -> Result<(), LostOptions> {
    let lost: Vec<Lost> = wanted
        .iter()
        .filter_map(|wish| {
            cause(wish, config, known).map(|cause| Lost {
                wish: wish.clone(),
                cause,
            })
        })
        .collect();
    if lost.is_empty() {
        Ok(())
    } else {
        Err(LostOptions(lost))
    }
}

fn cause(wish: &Wish, config: &Config, known: Option<&KnownOptions>) -> Option<Cause> {
    if known.is_some_and(|known| known.place(&wish.name).is_none()) {
        return Some(Cause::Unknown);
    }
    match (&wish.value, config.get(&wish.name)) {
        (Value::Off, None) => None,
        (Value::Off, Some(found)) => Some(Cause::Differs(found.into())),
        (wanted, Some(found)) if wanted.to_string() == found => None,
        (_, Some(found)) => Some(Cause::Differs(found.into())),
        (_, None) => {
            let place = known.and_then(|known| known.place(&wish.name));
            Some(Cause::Missing(place.map(str::to_owned)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str =
        "CONFIG_A=y  # a\nCONFIG_B=n  # b\nCONFIG_C=7  # c\nCONFIG_D=\"x\"  # d\n";
    const KCONFIG: &str = "menuconfig A\n\tbool \"a\"\nconfig B\n\tconfig C\n\thelp\n\t  config D is text\nconfig D\n";

    fn check(config: &str, expected: &[(&str, Cause)]) {
        let wanted = Wanted::parse([("base.config", FRAGMENT)]).unwrap();
        let mut known = KnownOptions::default();
        known.add("init/Kconfig", KCONFIG);
        let lost = survived(&wanted, &Config::parse(config), Some(&known));
        let lost = lost.err().map_or_else(Vec::new, |lost| lost.0);
        let lost: Vec<(&str, Cause)> = lost
            .iter()
            .map(|lost| (lost.wish.name.as_str(), lost.cause.clone()))
            .collect();
        assert_eq!(lost, expected);
    }

    #[test]
    fn each_way_to_lose_an_option_is_noticed() {
        let place = |line| Cause::Missing(Some(format!("init/Kconfig:{line}")));
        check("CONFIG_A=y\nCONFIG_C=7\nCONFIG_D=\"x\"\n", &[]);
        check(
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=7\nCONFIG_D=\"x\"\n",
            &[],
        );
        check(
            "# CONFIG_A is not set\nCONFIG_C=7\nCONFIG_D=\"x\"\n",
            &[("CONFIG_A", place(1))],
        );
        check(
            "CONFIG_A=m\nCONFIG_B=y\nCONFIG_C=8\n",
            &[
                ("CONFIG_A", Cause::Differs("m".into())),
                ("CONFIG_B", Cause::Differs("y".into())),
                ("CONFIG_C", Cause::Differs("8".into())),
                ("CONFIG_D", place(7)),
            ],
        );
    }

    #[test]
    fn options_of_other_processors_are_not_known() {
        let tree = tempfile::tempdir().unwrap();
        for (folder, option) in [("arch/x86/kvm", "KVM_INTEL"), ("arch/arm", "ARM_ONLY")] {
            let folder = tree.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("Kconfig"), format!("config {option}\n")).unwrap();
        }
        let known = KnownOptions::of_source(tree.path()).unwrap();
        assert_eq!(
            known.place("CONFIG_KVM_INTEL"),
            Some("arch/x86/kvm/Kconfig:1")
        );
        assert_eq!(known.place("CONFIG_ARM_ONLY"), None);
    }

    #[test]
    fn a_misspelt_option_that_is_to_be_off_is_noticed() {
        let wanted =
            Wanted::parse([("base.config", "CONFIG_DEVMMEM=n  # typing error\n")]).unwrap();
        let config = Config::default();
        assert_eq!(survived(&wanted, &config, None), Ok(()));
        let lost = survived(&wanted, &config, Some(&KnownOptions::default())).unwrap_err();
        assert_eq!(lost.0[0].cause, Cause::Unknown);
        assert_eq!(
            lost.to_string(),
            "1 wanted kernel options are not in the configuration:\n  \
             CONFIG_DEVMMEM=n (base.config:1): this kernel has no such option"
        );
    }

    #[test]
    fn modules_and_built_in_options_are_told_apart() {
        let config = Config::parse("CONFIG_A=m\nCONFIG_B=y\nCONFIG_C=3\n");
        assert_eq!(config.modules().collect::<Vec<_>>(), ["CONFIG_A"]);
        assert_eq!(config.enabled(), 1);
    }
}
