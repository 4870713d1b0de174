//! Skips what is unchanged: each output has a stamp that names the bytes it was made from and the bytes it became.
//!
//! Contents are compared, never times, so a fresh clone, a `touch` or a `git checkout` rebuild nothing, and an output that
//! somebody damaged is made again.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use boot_manifest::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::progress::Outcome;

/// Raised when a writer changes what it makes of the same inputs.
const FORMAT: u32 = 1;

/// What an output was made from.
#[derive(Debug, Default)]
pub struct Inputs {
    parts: Vec<(String, Digest)>,
}

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one input under a name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, bytes: &[u8]) -> Self {
        self.parts.push((name.into(), Digest::of(bytes)));
        self
    }

    /// One digest of all inputs and their names.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(&FORMAT.to_le_bytes());
        for (name, digest) in &self.parts {
            hasher.update(name.as_bytes());
            hasher.update(&[0]);
            hasher.update(digest.as_bytes());
        }
        hasher.finish()
    }
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Stamp {
    inputs: Digest,
    output: Digest,
}

/// Makes `output` by `make` unless its stamp in `stamps` says that it is what `inputs` give.
///
/// `make` writes to a temporary path beside the output, which takes the output's place when it is complete.
///
/// # Errors
/// Whatever `make` fails with, and failures to write.
pub fn unless_unchanged(
    output: &Path,
    stamps: &Path,
    inputs: &Inputs,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<Outcome> {
    let name = output
        .file_name()
        .context("an output has a file name")?
        .to_string_lossy();
    let stamp_path = stamps.join(format!("{name}.json"));
    let inputs = inputs.digest();
    let old = std::fs::read(&stamp_path).ok();
    let old = old.and_then(|bytes| serde_json::from_slice::<Stamp>(&bytes).ok());
    if old.is_some_and(|old| old.inputs == inputs && digest_of(output).ok() == Some(old.output)) {
        return Ok(Outcome::Unchanged);
    }
    let temporary = temporary(output);
    let _ = std::fs::remove_file(&temporary);
    make(&temporary)?;
    let stamp = Stamp {
        inputs,
        output: digest_of(&temporary)?,
    };
    // Without the old stamp a power cut between the two renames leaves an output that is made again.
    let _ = std::fs::remove_file(&stamp_path);
    std::fs::rename(&temporary, output).with_context(|| format!("write {}", output.display()))?;
    write(&stamp_path, &serde_json::to_vec_pretty(&stamp)?)?;
    Ok(Outcome::Done)
}

/// The digest of a file.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of(path: &Path) -> Result<Digest> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Digest::of(&bytes))
}

/// Writes a file whole or not at all, making its folder first.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with_mode(path, bytes, 0o644)
}

/// As [`write`], with the permissions the file has from its first byte on.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let temporary = temporary(path);
        let _ = std::fs::remove_file(&temporary);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Removes the temporary files of builds that were killed before they could be renamed.
pub fn remove_leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_suffix(".new")?.rsplit('.').next());
        let process = process.and_then(|process| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // What cannot be removed now is removed by the next build.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_made_again_when_an_input_or_the_output_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (output, stamps) = (folder.path().join("out"), folder.path().join("stamps"));
        let build = |input: &[u8]| {
            unless_unchanged(
                &output,
                &stamps,
                &Inputs::new().with("input", input),
                |path| Ok(std::fs::write(path, input)?),
            )
            .unwrap()
        };
        assert_eq!(build(b"one"), Outcome::Done);
        assert_eq!(build(b"one"), Outcome::Unchanged);
        assert_eq!(build(b"two"), Outcome::Done);
        assert_eq!(std::fs::read(&output).unwrap(), b"two");
        std::fs::write(&output, b"damaged").unwrap();
        assert_eq!(build(b"two"), Outcome::Done);
        std::fs::remove_file(&output).unwrap();
        assert_eq!(build(b"two"), Outcome::Done);
        assert_eq!(build(b"two"), Outcome::Unchanged);
    }

    #[test]
    fn a_failed_step_leaves_the_old_output() {
        let folder = tempfile::tempdir().unwrap();
        let (output, stamps) = (folder.path().join("out"), folder.path().join("stamps"));
        let inputs = |bytes: &[u8]| Inputs::new().with("input", bytes);
        let good = unless_unchanged(&output, &stamps, &inputs(b"1"), |p| {
            Ok(std::fs::write(p, b"1")?)
        });
        assert_eq!(good.unwrap(), Outcome::Done);
        let bad = unless_unchanged(&output, &stamps, &inputs(b"2"), |p| {
            std::fs::write(p, b"half")?;
            anyhow::bail!("the disk is full")
        });
        assert!(bad.is_err());
        assert_eq!(std::fs::read(&output).unwrap(), b"1");
    }

    #[test]
    fn what_a_killed_build_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let running = format!("phase.img.{}.new", std::process::id());
        // No process has a number beyond the kernel's limit of 2^22.
        let killed = "phase.img.4194305.new";
        for name in [killed, &running, "phase.img", "notes.new"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        remove_leftovers(folder.path());
        assert!(!folder.path().join(killed).exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn inputs_cannot_be_confused() {
        let one = Inputs::new().with("a", b"x").with("b", b"");
        let two = Inputs::new().with("a", b"").with("b", b"x");
        assert_ne!(one.digest(), two.digest());
    }
}
