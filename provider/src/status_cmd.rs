//! Not in this build yet.

use crate::exit::{CommandError, Exit};

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show
    Show,
}

/// Runs the command.
pub(crate) fn run(_command: Command) -> Result<Exit, CommandError> {
    Err(CommandError::failed("this command is not in this build"))
}
