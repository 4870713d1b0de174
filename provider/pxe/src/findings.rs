//! The packet doctor: what each machine wanted, what it got, which rule of netboot failed, and what to change. Pure: packets
//! go in, words come out.
//!
//! | module | holds |
//! | --- | --- |
//! | `watch` | sorts packets into one story for each machine |
//! | `story`, `tftp`, `http`, `six` | what is known of a machine, of a transfer, of a connection, of its questions over IPv6 |
//! | `rules` | the table of rules: what each looks for and why it matters |
//! | `words` | what a machine wanted, got and did, in a line each |
//! | `limits` | every number with its reason |
//!
//! A rule fails on what was seen, never on what was not looked at: a capture that begins late, ends early or sees one direction
//! only gives fewer findings, not wrong ones. Nothing is changed on the network, and nobody is asked.

mod http;
mod limits;
mod rules;
mod six;
mod story;
mod tftp;
mod watch;
mod words;

use serde::Serialize;

pub use rules::{RULES, Rule};
pub use story::Story;
pub use watch::Watch;
pub use words::Summary;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It works, or may work, and somebody should know this.
    Warn,
    /// This keeps the machine from booting.
    Bad,
}

/// A rule that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which rule; stays the same for ever.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub message: String,
    /// What the rule is.
    pub rule: &'static str,
    /// What to change.
    pub advice: String,
}

#[cfg(test)]
mod tests;
