//! `plasmd completions`: what a shell completes after `plasmd` and the `phase-*` names, made from the same definitions
//! that parse the command line.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::cli::{NAMES, shown_command_of};
use crate::exit::{CommandError, Exit};
use crate::key::{files, unwritable};
use crate::out;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// Write one file for each name into this directory, named as the shell wants them, instead of printing all
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes the completions of every name.
pub(crate) fn run(args: &Args) -> Result<Exit, CommandError> {
    for (name, _) in NAMES {
        let script = script(args.shell, name);
        match &args.dir {
            None => out::exactly(script),
            Some(dir) => write(dir, args.shell, name, &script)?,
        }
    }
    Ok(Exit::Done)
}

fn script(shell: Shell, name: &str) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut shown_command_of(name), name, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn write(dir: &Path, shell: Shell, name: &str, script: &str) -> Result<(), CommandError> {
    use clap_complete::Generator as _;

    // bash-completion looks for the bare name of the command.
    let file = match shell {
        Shell::Bash => dir.join(name),
        _ => dir.join(shell.file_name(name)),
    };
    files::write_atomic(&file, script.as_bytes()).map_err(|error| unwritable(&file, &error))
}
