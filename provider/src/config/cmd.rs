//! `plasmd config check` and `plasmd config show`: what a configuration says, before a provider is started with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::{self, DEFAULT_FILE, Places, Setting, variable_of};
use crate::exit::{CommandError, Exit};
use crate::{cli, out};

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Read a configuration file and report every problem in it
    Check(CheckArgs),
    /// Show every setting that `plasmd serve` would have now, and where it comes from
    Show(ShowArgs),
}

/// Which file.
#[derive(clap::Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    file: PathBuf,
}

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// The configuration file [default: /etc/phase/plasmd.toml, when it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Flags of `plasmd serve` that would be given, after `--`
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Runs a subcommand.
pub(crate) fn run(command: Command) -> Result<Exit, CommandError> {
    match command {
        Command::Check(args) => check(&args.file),
        Command::Show(args) => show(args),
    }
}

/// The environment is left out: the file is to be right wherever it is used.
fn check(file: &Path) -> Result<Exit, CommandError> {
    if let Err(error) = std::fs::metadata(file) {
        return Err(
            CommandError::local(format!("{}: {error}", file.display())).hint(
                "a provider needs no configuration file; `plasmd config show` lists what can stand in one",
            ),
        );
    }
    let places = Places {
        environment: Vec::new(),
        default_file: file.to_owned(),
    };
    let settings = config::settings(&cli::serve_command(), &[], &places)?;
    let count = settings
        .iter()
        .filter(|setting| setting.source != config::Source::Default)
        .count();
    out::line(format_args!(
        "{}: no problems; {count} settings",
        file.display()
    ));
    Ok(Exit::Done)
}

fn show(args: ShowArgs) -> Result<Exit, CommandError> {
    let mut flags = Vec::new();
    if let Some(file) = args.config {
        flags.extend([OsString::from("--config"), file.into_os_string()]);
    }
    flags.extend(args.flags);
    let places = Places::of_this_process();
    let settings = config::settings(&cli::serve_command(), &flags, &places)?;
    if args.json {
        out::line(json!({ "settings": settings }));
    } else {
        list(&settings);
    }
    Ok(Exit::Done)
}

/// One line for each setting, in the form of the file: what is not set is a remark.
fn list(settings: &[Setting]) {
    for setting in settings {
        let value = match setting.values.as_slice() {
            [] => None,
            [one] => Some(format!("{one:?}")),
            several => Some(format!("{several:?}")),
        };
        let line = match value {
            Some(value) => format!("{} = {value}", setting.key),
            None => format!("# {} is not set", setting.key),
        };
        let place = match &setting.source {
            config::Source::Default => format!("default; {}", variable_of(&setting.key)),
            source => source.to_string(),
        };
        out::line(format_args!("{line:<50} # {place}"));
    }
}
