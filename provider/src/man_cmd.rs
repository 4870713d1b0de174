//! `plasmd man`: the manual pages, made from the same definitions that parse the command line.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::cli::{NAMES, serve_command, shown_command_of};
use crate::config;
use crate::exit::{CommandError, Exit};
use crate::key::{files, unwritable};

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where plasmd.1, plasmd-serve.1 ..., phase-fetch.1 ... and plasmd.toml.5 go
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes one page for each name and each subcommand.
pub(crate) fn run(args: &Args) -> Result<Exit, CommandError> {
    for (name, _) in NAMES {
        let mut command = shown_command_of(name).disable_help_subcommand(true);
        command.build();
        write(args, &command, name)?;
    }
    let file = args.dir.join("plasmd.toml.5");
    let page = configuration(&serve_command());
    files::write_atomic(&file, page.as_bytes()).map_err(|error| unwritable(&file, &error))?;
    Ok(Exit::Done)
}

/// The page of the configuration file: its keys are the flags of `serve`.
fn configuration(serve: &clap::Command) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH plasmd.toml 5 \"\" \"plasmd {version}\" Phase\n\
         .SH NAME\nplasmd.toml \\- settings of plasmd serve\n\
         .SH SYNOPSIS\n/etc/phase/plasmd.toml\n\
         .SH DESCRIPTION\nA TOML file of the keys below, one a line. Flags go before variables of the environment, those \
         before this file, and the file before the defaults. Keys that do not exist are errors; plasmd config check \
         names every problem, plasmd config show what is in force and where it comes from.\n\
         .SH KEYS\n"
    );
    for (long, arg) in config::settings_of(serve) {
        let key = config::key_of(long);
        if arg.is_hide_set() || key == "config" {
            continue;
        }
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults = arg.get_default_values().iter();
        let defaults: Vec<String> = defaults
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        let default = match defaults.as_slice() {
            [] => String::new(),
            some => format!(" [default: {}]", some.join(", ")),
        };
        let variable = config::variable_of(&key);
        page += &format!(
            ".TP\n\\fB{}\\fR (\\-\\-{}, {})\n{}{}\n",
            roff(&key),
            roff(long),
            roff(&variable),
            roff(&help),
            roff(&default)
        );
    }
    page + ".SH SEE ALSO\nplasmd\\-serve(1), plasmd\\-config(1)\n"
}

/// A text that roff prints as it stands. None begins a line with a dot: each comes after a word of ours, or is help.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\n', " ")
}

/// Writes the page of `command` under its `title`, then those below it.
fn write(args: &Args, command: &clap::Command, title: &str) -> Result<(), CommandError> {
    let file = args.dir.join(format!("{title}.1"));
    let mut page = Vec::new();
    let failed = |error| unwritable(&file, &error);
    Man::new(command.clone())
        .title(title)
        .section("1")
        .manual("Phase")
        .source(concat!("plasmd ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)
        .map_err(failed)?;
    files::write_atomic(&file, &page).map_err(failed)?;
    for below in command.get_subcommands() {
        write(args, below, &format!("{title}-{}", below.get_name()))?;
    }
    Ok(())
}
