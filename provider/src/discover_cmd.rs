//! Not in this build yet.

use crate::exit::{CommandError, Exit};

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: Args) -> Result<Exit, CommandError> {
    Err(CommandError::failed("this command is not in this build"))
}
