//! Results on stdout.
//!
//! A reader that has seen enough (`| head -1`) is no error: what was asked for goes on. Any other failure, such as a full
//! disk behind a redirect, is logged.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints one line, or several.
pub(crate) fn line(text: impl Display) {
    exactly(format_args!("{text}\n"));
}

/// Prints one line of many; whether somebody still reads them.
pub(crate) fn is_read(text: impl Display) -> bool {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    if let Err(error) = &written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        tracing::error!(%error, "stdout cannot be written");
    }
    written.is_ok()
}

/// Prints a text that has its line ends.
pub(crate) fn exactly(text: impl Display) {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => tracing::error!(%error, "stdout cannot be written"),
    }
}

/// A text of others, without what could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { '?' } else { c })
        .collect()
}

/// Whether a character steers a terminal, or changes in which order or where others are shown.
pub(crate) fn steers(c: char) -> bool {
    let is_format = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    c.is_control() || is_format
}
