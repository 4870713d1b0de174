//! Reading again what may change while serving, on SIGHUP or when the control socket says so.
//!
//! No connection notices: each part replaces one thing that is used from the next connection or request on. A part that
//! cannot be read leaves what is in force; the others are read all the same.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::serve::metrics::{Metrics, add};
use crate::serve::notify::Notifier;

/// What a part did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Something else is in force now.
    Changed,
    /// It is what it was.
    Same,
    /// Something else is wanted, which only a restart can do; this says what.
    NeedsRestart(String),
}

impl Outcome {
    /// By whether something changed.
    pub(crate) fn of(is_changed: bool) -> Self {
        if is_changed {
            Self::Changed
        } else {
            Self::Same
        }
    }
}

/// Reads one part again; the error is for people. May wait for the disk.
type Part = Box<dyn Fn() -> Result<Outcome, String> + Send + Sync>;

/// Everything that can be read again.
pub(crate) struct Reloads {
    parts: Vec<(&'static str, Part)>,
    metrics: Arc<Metrics>,
    notifier: Arc<Notifier>,
}

/// What came of a reload.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Reloaded {
    /// Parts that are something else now.
    pub(crate) changed: Vec<&'static str>,
    /// Parts that are what they were.
    pub(crate) same: Vec<&'static str>,
    /// What changed and needs a restart.
    pub(crate) restart: Vec<String>,
    /// Parts that could not be read, and why.
    pub(crate) problems: Vec<String>,
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.parts.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

impl Reloads {
    /// Nothing yet.
    pub(super) fn new(metrics: Arc<Metrics>, notifier: Arc<Notifier>) -> Self {
        Self {
            parts: Vec::new(),
            metrics,
            notifier,
        }
    }

    /// Adds a part. `name` is for people.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        part: impl Fn() -> Result<Outcome, String> + Send + Sync + 'static,
    ) {
        self.parts.push((name, Box::new(part)));
    }

    /// Reads everything again. Waits for the disk: not for a thread that answers requests.
    pub(crate) fn run(&self) -> Reloaded {
        self.notifier.reloading();
        let mut reloaded = Reloaded::default();
        for (name, part) in &self.parts {
            match part() {
                Ok(Outcome::Changed) => reloaded.changed.push(name),
                Ok(Outcome::Same) => reloaded.same.push(name),
                Ok(Outcome::NeedsRestart(what)) => {
                    tracing::warn!(part = name, what, "changed, and needs a restart");
                    reloaded.restart.push(what);
                }
                Err(problem) => {
                    tracing::error!(part = name, "not reloaded, the old one stays: {problem}");
                    reloaded.problems.push(format!("{name}: {problem}"));
                }
            }
        }
        let counter = if reloaded.problems.is_empty() {
            &self.metrics.reloads_total
        } else {
            &self.metrics.reload_failures_total
        };
        add(counter, 1);
        tracing::info!(
            changed = reloaded.changed.join(", "),
            same = reloaded.same.join(", "),
            problems = reloaded.problems.len(),
            "reloaded"
        );
        self.notifier.ready(match reloaded.problems.first() {
            Some(_) => "serving; the last reload failed in part, see the log",
            None => "serving",
        });
        reloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::get;

    #[test]
    fn a_part_that_fails_does_not_stop_the_others() {
        let metrics = Arc::new(Metrics::default());
        let notifier = Arc::new(Notifier::from_env());
        let mut reloads = Reloads::new(Arc::clone(&metrics), notifier);
        reloads.add("a", || Ok(Outcome::Changed));
        assert!(reloads.run().problems.is_empty());
        reloads.add("b", || Err("no such file".to_owned()));
        reloads.add("c", || Ok(Outcome::Same));
        let reloaded = reloads.run();
        assert_eq!(reloaded.changed, ["a"]);
        assert_eq!(reloaded.same, ["c"]);
        assert_eq!(reloaded.problems, ["b: no such file"]);
        assert_eq!(get(&metrics.reloads_total), 1);
        assert_eq!(get(&metrics.reload_failures_total), 1);
    }
}
