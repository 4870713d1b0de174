//! `plasmd man`: the manual pages, made from the same definitions that parse the command line.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::cli::{NAMES, shown_command_of};
use crate::exit::{CommandError, Exit};
use crate::key::{files, unwritable};

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where plasmd.1, plasmd-serve.1 ... and phase-fetch.1 ... go
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
    Ok(Exit::Done)
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
