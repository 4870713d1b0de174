//! How every command of this binary ends: one table of exit codes and one shape of error.
//!
//! Nothing here prints, except [`finish`], which only `main` calls, and [`report`].

use std::fmt;
use std::process::ExitCode;

/// The exit codes. Scripts rely on them: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: what was asked for was done.
    Done = 0,
    /// 1: what was asked for failed: it did not verify, was not found, was unreachable, or took too long.
    Failed = 1,
    /// 2: the command line or the configuration cannot be understood (clap uses the same number).
    Usage = 2,
    /// 3: this machine is in the way: a file, directory, port or permission.
    Local = 3,
}

/// A failed command: what happened and where, and what to try.
#[derive(Clone, Debug)]
pub(crate) struct CommandError {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl CommandError {
    /// The thing asked for failed (exit code 1).
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            message: message.into(),
            hint: None,
        }
    }

    /// The arguments contradict each other (exit code 2).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
            hint: None,
        }
    }

    /// A local file, port or permission is in the way (exit code 3).
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Local,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds the `hint:` line: what the person can try.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CommandError {}

/// Prints the error, if there is one, and gives the exit code of the process.
pub(crate) fn finish(result: Result<Exit, CommandError>) -> ExitCode {
    let exit = match result {
        Ok(exit) => exit,
        Err(error) => {
            report(&error);
            error.exit
        }
    };
    ExitCode::from(exit as u8)
}

/// Prints an error for people.
pub(crate) fn report(error: &CommandError) {
    eprintln!("error: {}", error.message);
    if let Some(hint) = &error.hint {
        eprintln!("hint: {hint}");
    }
}
