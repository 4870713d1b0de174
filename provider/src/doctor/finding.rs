//! One thing that was looked at: how it is, and what to do.

use std::path::PathBuf;

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Nothing to do.
    Ok,
    /// It works, and somebody should know this.
    Warn,
    /// It does not work.
    Bad,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Which check.
    pub(super) check: &'static str,
    /// How it is.
    pub(super) level: Level,
    /// What was seen.
    pub(super) message: String,
    /// What to do; always there when it is not good.
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            message: message.into(),
            advice: None,
        }
    }

    pub(super) fn warn(
        check: &'static str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level: Level::Warn,
            message: message.into(),
            advice: Some(advice.into()),
        }
    }

    pub(super) fn bad(
        check: &'static str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level: Level::Bad,
            message: message.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Where the files that tell about a machine are: `/`, or a folder that looks like it, in tests.
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine this runs on.
    pub(super) fn this() -> Self {
        Self { root: "/".into() }
    }

    /// A text below the root; none when it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    /// A number that stands alone in a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    /// The names in a folder, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join(path));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// A machine that consists of these files.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = dir.path().to_owned();
        (dir, Self { root })
    }
}
