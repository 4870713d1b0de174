//! The kernel source: a tarball that a Debian package installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use boot_manifest::{Digest, Hasher, Timestamp};

/// The Debian package that brings the source.
pub const PACKAGE: &str = "linux-source-6.12";

/// Where it puts the tarball.
pub const TARBALL: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Free space a build needs: 1.6 GiB of source, 0.6 GiB of objects, and some room.
pub const FREE_BYTES_MIN: u64 = 3 << 30;

/// A kernel source tarball and what it holds, by hash.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub tarball: PathBuf,
    /// Its digest: a new package version is a new kernel.
    pub digest: Digest,
}

impl Source {
    /// Finds and hashes the tarball.
    ///
    /// # Errors
    /// When it is missing or unreadable.
    pub fn find(tarball: &Path) -> Result<Self> {
        use std::io::Read;

        let mut file = match std::fs::File::open(tarball) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "the kernel source {} is missing: install the Debian package {PACKAGE}",
                tarball.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", tarball.display()));
            }
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file
                .read(&mut buffer)
                .with_context(|| format!("cannot read {}", tarball.display()))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        Ok(Self {
            tarball: tarball.into(),
            digest: hasher.finish(),
        })
    }

    /// Unpacks the source into `folder`, which is made, and returns the tree.
    ///
    /// # Errors
    /// Too little disk space, or tar fails.
    pub fn unpack(&self, folder: &Path) -> Result<Tree> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        ensure_space(folder)?;
        let output = Command::new("tar")
            .arg("--extract")
            .arg("--no-same-owner")
            .arg("--strip-components=1")
            .arg("--directory")
            .arg(folder)
            .arg("--file")
            .arg(&self.tarball)
            .stdin(Stdio::null())
            .output()
            .context("cannot run tar")?;
        ensure!(
            output.status.success(),
            "tar cannot unpack {}: {}",
            self.tarball.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Tree::at(folder)
    }
}

fn ensure_space(folder: &Path) -> Result<()> {
    let space = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot ask for free space in {}", folder.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    ensure!(
        free >= FREE_BYTES_MIN,
        "building the kernel needs {:.0} GiB of free disk space below {}, there are {:.1} \
         (XDG_CACHE_HOME chooses another place)",
        gib(FREE_BYTES_MIN),
        folder.display(),
        gib(free)
    );
    Ok(())
}

/// An unpacked source.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Its top folder.
    pub path: PathBuf,
    /// When the source was made, as its own files say: the date the kernel shows as that of its build.
    pub made_at: Timestamp,
}

impl Tree {
    fn at(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;

        let makefile = std::fs::metadata(path.join("Makefile"))
            .context("the kernel source holds no Makefile at its top")?;
        Ok(Self {
            path: path.into(),
            made_at: Timestamp::from_unix(makefile.mtime()),
        })
    }

    /// What the kernel's `make tinyconfig` sets beyond saying no to everything, as configuration lines.
    ///
    /// # Errors
    /// When one of its files is missing.
    pub fn tiny_config(&self) -> Result<String> {
        const FILES: [&str; 3] = [
            "kernel/configs/tiny-base.config",
            "kernel/configs/tiny.config",
            "arch/x86/configs/tiny.config",
        ];
        FILES
            .iter()
            .map(|name| {
                let path = self.path.join(name);
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("the kernel source holds no {name}"))?;
                Ok(text + "\n")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_source_names_the_package() {
        let error = Source::find(Path::new("/nonexistent/linux.tar.xz")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel source /nonexistent/linux.tar.xz is missing: install the Debian package linux-source-6.12"
        );
    }

    #[test]
    fn a_damaged_source_is_refused_with_the_words_of_tar() {
        let folder = tempfile::tempdir().unwrap();
        let tarball = folder.path().join("linux.tar");
        std::fs::write(&tarball, b"this is no archive at all").unwrap();
        let source = Source::find(&tarball).unwrap();
        let error = source.unpack(&folder.path().join("tree")).unwrap_err();
        assert!(
            error.to_string().starts_with("tar cannot unpack "),
            "{error}"
        );
    }
}
