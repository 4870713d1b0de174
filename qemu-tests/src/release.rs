//! New versions of the built images, by the tool that an owner uses: `cargo appliance release`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::artifacts::{Images, workspace};
use crate::proc;

/// The tool, where `cargo appliance test` runs the tests; without it cargo is asked.
const TOOL_VARIABLE: &str = "PHASE_APPLIANCE_TOOL";
/// A release takes a second; a busy machine and a tool that has to be compiled first take longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A version to be made.
#[derive(Clone, Debug)]
pub struct Release {
    arguments: Vec<OsString>,
}

impl Release {
    /// The next version of `images`, which people call `version`.
    #[must_use]
    pub fn of(images: &Images, version: &str) -> Self {
        let release = Self {
            arguments: vec!["release".into(), "--fast".into()],
        };
        release
            .with("--from", images.folder())
            .with("--version", version)
    }

    /// With the number that decides what is newer.
    #[must_use]
    pub fn sequence(self, sequence: u64) -> Self {
        self.with("--sequence", sequence.to_string())
    }

    /// With another PID 1.
    #[must_use]
    pub fn init(self, program: impl AsRef<Path>) -> Self {
        self.with("--init", program.as_ref())
    }

    /// With another kernel.
    #[must_use]
    pub fn kernel(self, kernel: impl AsRef<Path>) -> Self {
        self.with("--kernel", kernel.as_ref())
    }

    /// With a file in its initramfs.
    #[must_use]
    pub fn overlay(self, path: &str, file: impl AsRef<Path>) -> Self {
        let mut argument = OsString::from(format!("{path}="));
        argument.push(file.as_ref());
        self.with("--overlay", argument)
    }

    /// With more words on the kernel's command line.
    #[must_use]
    pub fn words(self, words: &str) -> Self {
        self.with("--cmdline-append", words)
    }

    fn with(mut self, flag: &str, value: impl Into<OsString>) -> Self {
        self.arguments.extend([flag.into(), value.into()]);
        self
    }

    /// Makes it in `folder`.
    ///
    /// # Errors
    /// What the tool says against it.
    pub fn make(self, folder: impl Into<PathBuf>) -> Result<Images> {
        let folder = folder.into();
        let release = self.with("--out", &folder);
        let (program, first) = tool();
        let arguments = first.into_iter().map(OsString::from);
        let output = proc::output(&program, arguments.chain(release.arguments), LIMIT)?;
        ensure!(
            output.status.success(),
            "appliance release: {}",
            proc::describe(&output)
        );
        Images::at(folder).context("the release is not complete")
    }
}

/// The tool and its first arguments.
fn tool() -> (String, Vec<String>) {
    if let Ok(tool) = std::env::var(TOOL_VARIABLE) {
        return (tool, Vec::new());
    }
    let manifest = workspace().join("Cargo.toml");
    let words = ["run", "--quiet", "--package", "image", "--bin", "appliance"];
    let mut words: Vec<String> = words.map(str::to_owned).to_vec();
    words.extend([
        "--manifest-path".to_owned(),
        manifest.display().to_string(),
        "--".to_owned(),
    ]);
    ("cargo".to_owned(), words)
}
