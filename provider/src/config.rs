//! The configuration of `plasmd serve`: one table of settings, four places they come from.
//!
//! ```text
//! flags  >  environment  >  file  >  defaults
//! --valid-days 7   PLASMD_VALID_DAYS=7   valid_days = 7
//! ```
//!
//! The table is the command line itself: every flag of `serve` is a setting, and its key and its variable follow from its
//! name, so no flag can be forgotten. What a lower place says is put in front of the arguments as a flag and goes through
//! the same parser; before that each value is tried alone, so that every problem is reported at once and with its place.
//!
//! | module | holds |
//! | --- | --- |
//! | `file` | TOML into entries with lines; pure |
//! | `nearest` | what somebody probably meant |
//! | `cmd` | `plasmd config check` and `plasmd config show` |

pub(crate) mod cmd;
pub(crate) mod file;
pub(crate) mod nearest;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde::Serialize;

use crate::config::file::{CONFIG_SIZE_MAX, Value};
use crate::config::nearest::nearest;
use crate::exit::CommandError;
use crate::machines::profiles::{self, Profiles};

/// The file that is read when none is named. It need not exist.
pub(crate) const DEFAULT_FILE: &str = "/etc/phase/plasmd.toml";

/// What the variables of the environment begin with.
pub(crate) const PREFIX: &str = "PLASMD_";

/// The flag that names the file; it cannot stand in the file.
const FILE_FLAG: &str = "config";

/// Flags that are no settings: what the process is, not what it does. Nothing but the command line may say it.
const NO_SETTINGS: [&str; 4] = ["appliance", "help", "upgrade-status", "version"];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line.
    Flag,
    /// A variable of the environment.
    Environment(String),
    /// A line of a file.
    File(PathBuf, usize),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A setting that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Its key in the file.
    pub(crate) key: String,
    /// Its values: none when it is not set, several when it may be given several times.
    pub(crate) values: Vec<String>,
    /// Where they come from.
    pub(crate) source: Source,
}

/// Something wrong in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    place: String,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// The places besides the command line.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The variables of the environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The file that is read when it is there and no other is named.
    pub(crate) default_file: PathBuf,
}

impl Places {
    /// Those of this process.
    pub(crate) fn of_this_process() -> Self {
        Self {
            environment: std::env::vars_os().collect(),
            default_file: PathBuf::from(DEFAULT_FILE),
        }
    }
}

/// What all places say together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layered {
    /// The arguments after the command's name, lower places first.
    pub(crate) args: Vec<OsString>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// What the file says about machines.
    pub(crate) profiles: Arc<Profiles>,
    sources: Vec<(String, Source)>,
}

/// The key of a flag.
pub(crate) fn key_of(long: &str) -> String {
    long.replace('-', "_")
}

/// The variable of a key.
pub(crate) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

/// The flags of `serve` that are settings.
pub(crate) fn settings_of(serve: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    serve.get_arguments().filter_map(|arg| {
        let long = arg.get_long()?;
        (!NO_SETTINGS.contains(&long)).then_some((long, arg))
    })
}

/// Switches that can be switched off again: `--no-mdns=false` on the command line overrules `no_mdns = true` in the file.
pub(crate) fn with_switches(serve: Command) -> Command {
    serve.mut_args(|arg| {
        let is_setting = arg
            .get_long()
            .is_some_and(|long| !NO_SETTINGS.contains(&long));
        if !is_setting || !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        arg.action(ArgAction::Set)
            .value_parser(BoolishValueParser::new())
            .value_name("true|false")
            .hide_possible_values(true)
            .hide_default_value(true)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
    })
}

/// Puts what the environment and the file say in front of `args`, the arguments after `serve`. Arguments that ask for help
/// come back as they are.
pub(crate) fn layer(
    serve: &Command,
    args: &[OsString],
    places: &Places,
) -> Result<Layered, Vec<Problem>> {
    let alone = Layered {
        args: args.to_vec(),
        ..Layered::default()
    };
    let command = serve.clone().no_binary_name(true);
    let Ok(given) = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(args)
    else {
        return Ok(alone);
    };
    // A role of the appliance is told everything by init, and may open nothing else.
    if is_given(&given, "appliance") {
        return Ok(alone);
    }
    let mut layers = Layers {
        command: &command,
        taken: settings_of(serve)
            .filter(|(_, arg)| is_given(&given, arg.get_id().as_str()))
            .map(|(long, _)| long.to_owned())
            .collect(),
        found: Vec::new(),
        profiles: Profiles::default(),
        problems: Vec::new(),
    };
    layers.environment(&places.environment);
    let named = given
        .get_one::<PathBuf>(FILE_FLAG)
        .filter(|_| is_given(&given, FILE_FLAG))
        .cloned()
        .or_else(|| layers.named_file());
    let file = named.clone().or_else(|| {
        // Whatever is wrong with a file that is there is said when it is read.
        let is_there = places.default_file.symlink_metadata().is_ok();
        is_there.then(|| places.default_file.clone())
    });
    if let Some(path) = &file {
        layers.file(path);
    }
    if !layers.problems.is_empty() {
        return Err(layers.problems);
    }
    let mut layered = Layered {
        file,
        profiles: Arc::new(layers.profiles),
        ..Layered::default()
    };
    for found in layers.found {
        layered.args.extend(found.args);
        layered.sources.push((found.long, found.source));
    }
    layered.args.extend_from_slice(args);
    Ok(layered)
}

/// What is in force for a provider with these arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct InForce {
    /// The arguments after `serve`, as they were typed.
    pub(crate) args: Vec<OsString>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// Every setting.
    pub(crate) settings: Vec<Setting>,
    /// What the file says about machines.
    pub(crate) profiles: Arc<Profiles>,
}

/// Reads all places for `plasmd serve` with `args` and parses the result.
pub(crate) fn parse<T: FromArgMatches>(
    serve: &Command,
    args: &[OsString],
    places: &Places,
) -> Result<(T, InForce), Failure> {
    let layered = layer(serve, args, places).map_err(Failure::Problems)?;
    let mut command = serve.clone().no_binary_name(true);
    let matches = command
        .try_get_matches_from_mut(&layered.args)
        .map_err(|error| Failure::Flags(Box::new(error.format(&mut command))))?;
    let settings = layered.settings(serve, &matches);
    let parsed = T::from_arg_matches(&matches)
        .map_err(|error| Failure::Flags(Box::new(error.format(&mut command))))?;
    let in_force = InForce {
        args: args.to_vec(),
        file: layered.file,
        settings,
        profiles: layered.profiles,
    };
    Ok((parsed, in_force))
}

/// Every setting of `plasmd serve` with `args`.
pub(crate) fn settings(
    serve: &Command,
    args: &[OsString],
    places: &Places,
) -> Result<Vec<Setting>, Failure> {
    parse::<Nothing>(serve, args, places).map(|(_, in_force)| in_force.settings)
}

/// Reads all places again for the arguments that were typed.
pub(crate) fn again(serve: &Command, args: &[OsString]) -> Result<InForce, Failure> {
    parse::<Nothing>(serve, args, &Places::of_this_process()).map(|(_, in_force)| in_force)
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The environment or the file says something wrong.
    Problems(Vec<Problem>),
    /// The flags do, or all of it together; or somebody asked for help.
    Flags(Box<clap::Error>),
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Problems(problems) => {
                let lines: Vec<String> = problems.iter().map(|one| format!("\n  {one}")).collect();
                Self::usage(format!("the configuration is wrong:{}", lines.concat()))
                    .hint("`plasmd config show` lists every setting")
            }
            Failure::Flags(error) => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                Self::usage(line.trim_start_matches("error: "))
            }
        }
    }
}

/// Settings are wanted, and nothing made of them.
struct Nothing;

impl FromArgMatches for Nothing {
    fn from_arg_matches(_matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _matches: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

/// What one place says about one setting.
struct Found {
    long: String,
    args: Vec<OsString>,
    source: Source,
}

/// Collects from the highest place to the lowest: what a higher one said is not asked again.
struct Layers<'a> {
    command: &'a Command,
    taken: HashSet<String>,
    found: Vec<Found>,
    profiles: Profiles,
    problems: Vec<Problem>,
}

impl Layers<'_> {
    fn environment(&mut self, variables: &[(OsString, OsString)]) {
        let mut ours: Vec<_> = variables
            .iter()
            .filter_map(|(name, value)| {
                let name = name.to_str()?;
                // An empty variable is how a service manager takes one away.
                (name.starts_with(PREFIX) && !value.is_empty()).then_some((name, value))
            })
            .collect();
        ours.sort_unstable();
        for (name, value) in ours {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let place = name.to_owned();
            let Some(value) = value.to_str() else {
                self.problem(place, "is not UTF-8".to_owned());
                continue;
            };
            let source = Source::Environment(name.to_owned());
            // A flag that may be repeated takes a list; the others get it as it is.
            let value = match value.split_once(',') {
                Some(_) if self.is_list(&key) => {
                    Value::Several(value.split(',').map(|one| one.trim().to_owned()).collect())
                }
                _ => Value::One(value.to_owned()),
            };
            self.take(&key, &value, source, place, variable_of);
        }
    }

    fn is_list(&self, key: &str) -> bool {
        settings_of(self.command).any(|(long, arg)| key_of(long) == key && takes_several(arg))
    }

    /// The file that the environment names.
    fn named_file(&self) -> Option<PathBuf> {
        let found = self.found.iter().find(|found| found.long == FILE_FLAG)?;
        let arg = found.args.first()?.to_str()?;
        arg.split_once('=').map(|(_, path)| PathBuf::from(path))
    }

    fn file(&mut self, path: &Path) {
        let place = |line: usize| match line {
            0 => path.display().to_string(),
            line => format!("{}:{line}", path.display()),
        };
        let text = match read(path) {
            Ok(text) => text,
            Err(reason) => return self.problem(place(0), reason),
        };
        let parsed = file::parse(&text);
        let before = self.problems.len();
        for bad in parsed.problems {
            self.problem(place(bad.line), bad.reason);
        }
        let (profiles, bad) = profiles::read(&parsed.sections);
        for bad in bad {
            self.problem(place(bad.line), bad.reason);
        }
        self.profiles = profiles;
        for entry in parsed.entries {
            if entry.key == FILE_FLAG {
                let text = "a file cannot name another file".to_owned();
                self.problem(place(entry.line), text);
                continue;
            }
            let source = Source::File(path.to_owned(), entry.line);
            self.take(
                &entry.key,
                &entry.value,
                source,
                place(entry.line),
                str::to_owned,
            );
        }
        // Stable, so that problems of the same line stay together.
        self.problems[before..].sort_by_key(|problem| line_number(&problem.place));
    }

    /// Tries one value, and keeps it when no higher place has said something else.
    fn take(
        &mut self,
        key: &str,
        value: &Value,
        source: Source,
        place: String,
        spelling: fn(&str) -> String,
    ) {
        let known = settings_of(self.command)
            .find(|(long, _)| key_of(long) == key)
            .map(|(long, arg)| (long.to_owned(), arg));
        let Some((long, arg)) = known else {
            let keys: Vec<String> = settings_of(self.command)
                .map(|(long, _)| key_of(long))
                .collect();
            let text = match nearest(key, keys.iter().map(String::as_str)) {
                Some(meant) => format!("unknown setting; did you mean `{}`?", spelling(meant)),
                None => "unknown setting; `plasmd config show` lists all of them".to_owned(),
            };
            let key = key.escape_debug();
            return self.problem(place, format!("{}: {text}", spelling(&key.to_string())));
        };
        match arguments(self.command, &long, arg, value) {
            Err(text) => self.problem(place, text),
            Ok(args) => {
                if self.taken.insert(long.clone()) {
                    self.found.push(Found { long, args, source });
                }
            }
        }
    }

    fn problem(&mut self, place: String, text: String) {
        self.problems.push(Problem { place, text });
    }
}

fn line_number(place: &str) -> usize {
    let line = place.rsplit_once(':').map(|(_, line)| line.parse());
    line.and_then(Result::ok).unwrap_or(0)
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches
        .try_contains_id(id)
        .is_ok_and(|_| matches.value_source(id) == Some(ValueSource::CommandLine))
}

fn takes_several(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// A value as flags, when the flag takes it.
fn arguments(
    command: &Command,
    long: &str,
    arg: &Arg,
    value: &Value,
) -> Result<Vec<OsString>, String> {
    let texts = match value {
        Value::Switch(switch) => vec![switch.to_string()],
        Value::One(text) => vec![text.clone()],
        Value::Several(texts) if takes_several(arg) => texts.clone(),
        Value::Several(_) => return Err(format!("{}: takes one value", key_of(long))),
    };
    let args: Vec<OsString> = texts
        .iter()
        .map(|text| OsString::from(format!("--{long}={text}")))
        .collect();
    for (arg, text) in args.iter().zip(&texts) {
        let Err(error) = command.clone().try_get_matches_from([arg]) else {
            continue;
        };
        // What belongs together is looked at when everything is known.
        if matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict
        ) {
            continue;
        }
        return Err(format!("{}: {}", key_of(long), why(&error, text)));
    }
    Ok(args)
}

/// The reason of clap without the usage lines around it.
fn why(error: &clap::Error, value: &str) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let reason = std::error::Error::source(error)
        .map(ToString::to_string)
        .or_else(|| line.rsplit_once("': ").map(|(_, reason)| reason.to_owned()));
    let mut said = format!("`{}` is not possible here", value.escape_debug());
    if let Some(reason) = reason {
        said.push_str(": ");
        said.push_str(&reason);
    } else if let Some(choices) = text.lines().find(|line| line.contains("[possible values")) {
        said.push(' ');
        said.push_str(choices.trim());
    }
    said
}

/// The text of a configuration file. One that everybody may write is refused: it says which key signs.
fn read(path: &Path) -> Result<String, String> {
    let io = |error: std::io::Error| format!("cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(io)?;
    let facts = file.metadata().map_err(io)?;
    if facts.is_file() && facts.mode() & 0o002 != 0 {
        return Err("everybody may write it; take that away with chmod o-w".to_owned());
    }
    let mut text = String::new();
    file.take(CONFIG_SIZE_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(io)?;
    Ok(text)
}

impl Layered {
    /// Every setting with its value and where it comes from, sorted by key. `matches` must come from [`Self::args`].
    pub(crate) fn settings(&self, serve: &Command, matches: &ArgMatches) -> Vec<Setting> {
        let mut settings: Vec<Setting> = settings_of(serve)
            .map(|(long, arg)| {
                let id = arg.get_id().as_str();
                let values = matches.get_raw(id).into_iter().flatten();
                let source = match matches.value_source(id) {
                    Some(ValueSource::CommandLine) => self
                        .sources
                        .iter()
                        .find(|(known, _)| known == long)
                        .map_or(Source::Flag, |(_, source)| source.clone()),
                    _ => Source::Default,
                };
                let key = key_of(long);
                let values = values.map(|value| shown(&key, value)).collect();
                Setting {
                    key,
                    values,
                    source,
                }
            })
            .collect();
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        settings
    }
}

/// A value as it may be shown. Files with secrets are named, never the secrets; a setting that holds one ends so.
fn shown(key: &str, value: &OsStr) -> String {
    let is_secret = ["token", "password", "secret"]
        .iter()
        .any(|end| key.ends_with(end));
    if is_secret {
        "(not shown)".to_owned()
    } else {
        value.to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests;
