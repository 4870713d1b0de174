//! The kernel fragments: which options the appliance wants, and why.
//!
//! One option per line, `CONFIG_NAME=value  # reason`. The kernel's own tools know no comment behind a value, so this
//! module reads the lines and writes what they read. It is strict on purpose: a fragment is refused when an option has no
//! reason, stands twice, contradicts another, or asks for a module. All problems are reported at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context;

/// The fragments, in the order in which they are read. Every build takes all of them.
pub const FRAGMENTS: [&str; 3] = ["base.config", "virtual.config", "bare-metal.config"];

/// What an option is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`: built in.
    On,
    /// `n`: not there at all.
    Off,
    /// A number or a quoted text, as it stands in a configuration.
    Literal(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "y",
            Self::Off => "n",
            Self::Literal(text) => text,
        })
    }
}

/// One option of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its name, with `CONFIG_`.
    pub name: String,
    /// What it is to be.
    pub value: Value,
    /// Why.
    pub reason: String,
    /// The fragment it stands in.
    pub fragment: String,
    /// The line there, from 1.
    pub line: usize,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            fragment,
            line,
            ..
        } = self;
        write!(f, "{name}={value} ({fragment}:{line})")
    }
}

/// All options of all fragments, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(BTreeMap<String, Wish>);

/// Why a line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No comment behind the value.
    #[error("has no reason: write `CONFIG_NAME=value  # why it is there`")]
    NoReason,
    /// Neither a comment nor an option.
    #[error("is no option: write `CONFIG_NAME=value  # why it is there`")]
    NoOption,
    /// `# CONFIG_X is not set`, which looks like an option and is a comment.
    #[error("would be taken for a comment: write `CONFIG_NAME=n  # why it is off`")]
    NotSet,
    /// `=m`.
    #[error("asks for a module: this kernel has none, write y or n")]
    Module,
    /// Neither y, n, a number nor a quoted text.
    #[error("has a value that is neither y, n, a number nor a text in quotes")]
    BadValue,
    /// The same option and value stand elsewhere.
    #[error("stands already in {0}")]
    Duplicate(String),
    /// The same option stands elsewhere with another value.
    #[error("contradicts {0}")]
    Contradiction(String),
}

/// A refused line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fragment}:{line}: `{text}` {fault}")]
pub struct Problem {
    /// The fragment.
    pub fragment: String,
    /// The line there, from 1.
    pub line: usize,
    /// What stands there, without its comment.
    pub text: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Every refused line of all fragments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel fragments have mistakes:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

impl Wanted {
    /// Reads the [`FRAGMENTS`] in `folder`.
    ///
    /// # Errors
    /// When one cannot be read, and [`Problems`].
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut texts = Vec::new();
        for name in FRAGMENTS {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the kernel fragment {}", path.display()))?;
            texts.push((name, text));
        }
        Ok(Self::parse(
            texts.iter().map(|(name, text)| (*name, text.as_str())),
        )?)
    }

    /// Reads fragments given as (name, text).
    ///
    /// # Errors
    /// Every line that is not as the module's documentation says.
    pub fn parse<'a>(
        fragments: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Problems> {
        let mut wanted = Self::default();
        let mut problems = Vec::new();
        for (fragment, text) in fragments {
            for (index, line) in text.lines().enumerate() {
                let result = parse_line(line).and_then(|parsed| match parsed {
                    None => Ok(()),
                    Some((name, value, reason)) => wanted.add(Wish {
                        name: name.into(),
                        value,
                        reason: reason.into(),
                        fragment: fragment.into(),
                        line: index + 1,
                    }),
                });
                if let Err(fault) = result {
                    problems.push(Problem {
                        fragment: fragment.into(),
                        line: index + 1,
                        text: without_comment(line).into(),
                        fault,
                    });
                }
            }
        }
        if problems.is_empty() {
            Ok(wanted)
        } else {
            Err(Problems(problems))
        }
    }

    fn add(&mut self, wish: Wish) -> Result<(), Fault> {
        match self.0.get(&wish.name) {
            Some(first) if first.value == wish.value => Err(Fault::Duplicate(first.to_string())),
            Some(first) => Err(Fault::Contradiction(first.to_string())),
            None => {
                self.0.insert(wish.name.clone(), wish);
                Ok(())
            }
        }
    }

    /// All options, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Wish> {
        self.0.values()
    }

    /// One option by its name, with `CONFIG_`.
    pub fn get(&self, name: &str) -> Option<&Wish> {
        self.0.get(name)
    }

    /// How many options stand in one fragment.
    pub fn count_in(&self, fragment: &str) -> usize {
        self.iter().filter(|wish| wish.fragment == fragment).count()
    }

    /// The options as the kernel's tools read them, sorted by name: the same wishes give the same text, whatever their
    /// order and reasons.
    pub fn to_config(&self) -> String {
        let line = |wish: &Wish| match &wish.value {
            Value::Off => format!("# {} is not set\n", wish.name),
            value => format!("{}={value}\n", wish.name),
        };
        self.iter().map(line).collect()
    }
}

/// One line: nothing, or (name, value, reason).
fn parse_line(line: &str) -> Result<Option<(&str, Value, &str)>, Fault> {
    let line = line.trim();
    if let Some(comment) = line.strip_prefix('#') {
        let comment = comment.trim_start_matches(['#', ' ']);
        let looks_like_an_option = comment.starts_with("CONFIG_")
            && (comment.ends_with(" is not set") || comment.contains("is not set  #"));
        return if looks_like_an_option {
            Err(Fault::NotSet)
        } else {
            Ok(None)
        };
    }
    if line.is_empty() {
        return Ok(None);
    }
    let (name, rest) = line.split_once('=').ok_or(Fault::NoOption)?;
    if !is_name(name) {
        return Err(Fault::NoOption);
    }
    let (value, comment) = split_value(rest);
    let value = parse_value(value.trim_end())?;
    let reason = comment.strip_prefix('#').map(str::trim).unwrap_or_default();
    if !reason.contains(char::is_alphabetic) {
        return Err(Fault::NoReason);
    }
    Ok(Some((name, value, reason)))
}

/// Splits behind the closing quote, or before the first `#`.
fn split_value(rest: &str) -> (&str, &str) {
    let from = match rest.strip_prefix('"').and_then(|inner| inner.find('"')) {
        Some(closing) => closing + 2,
        None => 0,
    };
    let at = rest[from..].find('#').map_or(rest.len(), |at| from + at);
    rest.split_at(at)
}

fn parse_value(text: &str) -> Result<Value, Fault> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text {
        "y" => Ok(Value::On),
        "n" => Ok(Value::Off),
        "m" => Err(Fault::Module),
        _ if digits(text.strip_prefix('-').unwrap_or(text)) => Ok(Value::Literal(text.into())),
        _ if text.strip_prefix("0x").is_some_and(hex) => Ok(Value::Literal(text.into())),
        _ => {
            let inner = text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'));
            let plain = inner.is_some_and(|inner| !inner.contains(['"', '\\']));
            if plain {
                Ok(Value::Literal(text.into()))
            } else {
                Err(Fault::BadValue)
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("CONFIG_").unwrap_or_default();
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return line;
    }
    split_value(line).0.trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        crate::paths::Paths::of_this_checkout().kernel_config()
    }

    fn one(text: &str) -> Result<Wanted, Problems> {
        Wanted::parse([("base.config", text)])
    }

    #[test]
    fn options_have_values_reasons_and_places() {
        let text = "# about\n\n## Menu\nCONFIG_A=y  # first\nCONFIG_B=n # second\nCONFIG_C=0x0b0  # mask\n\
                    CONFIG_D=-1  # below zero\nCONFIG_E=\"a # b\"  # text with a hash\n";
        let wanted = one(text).unwrap();
        assert_eq!(
            wanted.to_config(),
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=0x0b0\nCONFIG_D=-1\nCONFIG_E=\"a # b\"\n"
        );
        let e = wanted.get("CONFIG_E").unwrap();
        assert_eq!(
            (e.reason.as_str(), e.fragment.as_str(), e.line),
            ("text with a hash", "base.config", 8)
        );
        assert_eq!(wanted.count_in("base.config"), 5);
        assert_eq!(wanted.count_in("virtual.config"), 0);
    }

    #[test]
    fn a_line_that_is_not_an_option_with_a_reason_is_refused() {
        let check = |line: &str, fault: Fault| {
            let problems = one(&format!("# head\n{line}\n")).unwrap_err().0;
            assert_eq!(problems.len(), 1, "{line}");
            assert_eq!(
                (problems[0].line, &problems[0].fault),
                (2, &fault),
                "{line}"
            );
        };
        check("CONFIG_A=y", Fault::NoReason);
        check("CONFIG_A=y #", Fault::NoReason);
        check("CONFIG_A=y  # !", Fault::NoReason);
        check("CONFIG_A=\"x # y\"", Fault::NoReason);
        check("CONFIG_A=m  # loadable", Fault::Module);
        check("CONFIG_A=yes  # spelled out", Fault::BadValue);
        check("CONFIG_A=  # nothing", Fault::BadValue);
        check("CONFIG_A=\"open  # not closed", Fault::BadValue);
        check("CONFIG_A=\"a\\b\"  # escape", Fault::BadValue);
        check("CONFIG_=y  # no name", Fault::NoOption);
        check("CONFIG_A-B=y  # odd name", Fault::NoOption);
        check("A=y  # no prefix", Fault::NoOption);
        check("CONFIG_A  # no value", Fault::NoOption);
        check("# CONFIG_A is not set", Fault::NotSet);
        check("# CONFIG_A is not set  # reason", Fault::NotSet);
    }

    #[test]
    fn an_option_stands_once_in_all_fragments() {
        let check = |second: &str, fault: Fault| {
            let fragments = [
                ("base.config", "CONFIG_A=y  # first\n"),
                ("virtual.config", second),
            ];
            let problems = Wanted::parse(fragments).unwrap_err().0;
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].fault, fault);
        };
        let first = || "CONFIG_A=y (base.config:1)".to_owned();
        check("CONFIG_A=y  # again\n", Fault::Duplicate(first()));
        check("CONFIG_A=n  # not\n", Fault::Contradiction(first()));
        let twice = one("CONFIG_A=1  # one\nCONFIG_A=2  # two\n").unwrap_err();
        assert!(
            twice
                .to_string()
                .contains("base.config:2: `CONFIG_A=2` contradicts CONFIG_A=1 (base.config:1)")
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let problems = one("CONFIG_A=y\nCONFIG_B=m  # b\nnonsense\n").unwrap_err();
        assert_eq!(problems.0.len(), 3);
        assert_eq!(problems.to_string().lines().count(), 4);
    }

    #[test]
    fn the_fragments_of_this_checkout_are_well_formed() {
        let wanted = Wanted::read(&folder()).unwrap_or_else(|error| panic!("{error:#}"));
        for fragment in FRAGMENTS {
            assert!(wanted.count_in(fragment) >= 50, "{fragment}");
        }
    }

    #[test]
    fn every_fragment_in_the_folder_is_read() {
        let mut found: Vec<String> = std::fs::read_dir(folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".config"))
            .collect();
        found.sort();
        let mut read = FRAGMENTS.map(str::to_owned);
        read.sort();
        assert_eq!(found, read);
    }

    #[test]
    fn the_appliance_has_no_modules_and_no_window_into_memory() {
        let wanted = Wanted::read(&folder()).unwrap();
        for name in [
            "CONFIG_MODULES",
            "CONFIG_DEVMEM",
            "CONFIG_DEVPORT",
            "CONFIG_PROC_KCORE",
            "CONFIG_KEXEC",
            "CONFIG_X86_MSR",
            "CONFIG_X86_IOPL_IOPERM",
        ] {
            let value = wanted.get(name).map(|wish| &wish.value);
            assert_eq!(value, Some(&Value::Off), "{name}");
        }
    }
}
