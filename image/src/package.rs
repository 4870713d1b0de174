//! `cargo appliance package`: plasmd as a Debian package.
//!
//! The files are staged below `target/appliance` and packed by `dpkg-deb`, Debian's own tool. The same source and
//! SOURCE_DATE_EPOCH give the same bytes. What goes where is in [`tree`]; what `dpkg` is told, in [`control`]; whose work is
//! in it, in [`notices`]. Scripts, the
//! configuration file and the copyright lie in `provider/debian`, the units in `provider/systemd`.

pub mod control;
pub mod notices;
pub mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use boot_manifest::{Digest, Timestamp};

use crate::package::tree::Tree;
use crate::paths::{self, Paths};
use crate::progress::{self, Progress};
use crate::{cli, facts, programs};

/// What goes into a package.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// The checkout, for scripts and units.
    pub root: &'a Path,
    /// The program; it also writes its manual pages and completions.
    pub plasmd: &'a Path,
    /// Version of the package.
    pub version: &'a str,
    /// The time of every file in it.
    pub time: Timestamp,
    /// How `dpkg-deb` compresses: `xz`, or for tests `none`.
    pub compression: &'a str,
}

/// Runs the command.
///
/// # Errors
/// When plasmd cannot be built or the package not be made.
pub fn command(paths: &Paths, arguments: &cli::Package, progress: &Progress) -> Result<ExitCode> {
    let started = Instant::now();
    let built;
    let plasmd = match &arguments.plasmd {
        Some(file) => file,
        None => {
            progress.begin("plasmd");
            built = programs::build(paths, programs::PLASMD)?;
            progress.end("plasmd", "built", started.elapsed());
            &built
        }
    };
    let recipe = Recipe {
        root: paths.root(),
        plasmd,
        version: facts::VERSION,
        time: facts::built_at(paths.root())?,
        compression: "xz",
    };
    let package = write(&recipe, paths.out())?;
    let bytes = std::fs::read(&package).with_context(|| format!("read {}", package.display()))?;
    progress.end("package", "done", started.elapsed());
    println!(
        "{}  {}  {}",
        paths::shown(&package),
        progress::size(bytes.len() as u64),
        Digest::of(&bytes)
    );
    Ok(ExitCode::SUCCESS)
}

/// Makes `plasmd_VERSION_amd64.deb` in `folder`.
///
/// # Errors
/// When a file is missing or `dpkg-deb` fails.
pub fn write(recipe: &Recipe<'_>, folder: &Path) -> Result<PathBuf> {
    let stage = folder.join(format!(".package-{}", std::process::id()));
    remove(&stage)?;
    let package = folder.join(format!("plasmd_{}_amd64.deb", recipe.version));
    let made = stage_and_pack(recipe, &stage, &package);
    let removed = remove(&stage);
    made?;
    removed?;
    Ok(package)
}

fn stage_and_pack(recipe: &Recipe<'_>, stage: &Path, package: &Path) -> Result<()> {
    let mut tree = Tree::new(stage)?;
    tree::fill(&mut tree, recipe)?;
    control::write(&mut tree, recipe)?;
    tree.set_times(recipe.time)?;
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--threads-max=1"])
        .arg(format!("-Z{}", recipe.compression))
        .arg("--build")
        .args([stage, package])
        .env("SOURCE_DATE_EPOCH", recipe.time.unix().to_string()))?;
    Ok(())
}

fn remove(stage: &Path) -> Result<()> {
    match std::fs::remove_dir_all(stage) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", stage.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a program to its end and gives what it printed.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{name} cannot be run"))?;
    ensure!(
        output.status.success(),
        "{name} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
