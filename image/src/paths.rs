//! Where the checkout, cargo's outputs and the images lie. Nothing else in this crate puts these paths together.

use std::path::{Path, PathBuf};

/// The folders and files of one checkout.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    out: PathBuf,
}

impl Paths {
    /// The checkout this tool was built from, or the one cargo runs it in.
    pub fn of_this_checkout() -> Self {
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().unwrap_or(&package).to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.map_or_else(|| root.join("target"), |target| root.join(target));
        Self::new(root, target.join("appliance"))
    }

    /// A checkout at `root` whose images go to `out`.
    pub fn new(root: PathBuf, out: PathBuf) -> Self {
        Self { root, out }
    }

    /// The checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the images and everything about them goes.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// One of the outputs by its file name.
    pub fn output(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// The kernel fragments.
    pub fn kernel_config(&self) -> PathBuf {
        self.root.join("kernel-config")
    }

    /// Signing keys made here.
    pub fn keys(&self) -> PathBuf {
        self.out.join("keys")
    }

    /// Complete output of tests and machines, kept for reading after a failure.
    pub fn logs(&self) -> PathBuf {
        self.out.join("logs")
    }

    /// Notes of what each output was made from.
    pub fn stamps(&self) -> PathBuf {
        self.out.join("stamps")
    }
}

/// A path as people type it: relative to the current folder when it lies below it.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(path)
        .display()
        .to_string()
}
