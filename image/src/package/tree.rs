//! The files of the package, staged in a folder with the modes they shall have. Owners are made root by `dpkg-deb`.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use boot_manifest::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::package::{Recipe, control, notices, run};

/// The names under which plasmd is a client tool.
const TOOLS: [&str; 3] = ["phase-discover", "phase-fetch", "phase-verify"];

/// Where each shell looks for completions of installed programs.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions"),
    ("zsh", "usr/share/zsh/vendor-completions"),
    ("fish", "usr/share/fish/vendor_completions.d"),
];

/// A folder that becomes the package.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty tree at `root`, which must not exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(root: &Path) -> Result<Self> {
        let tree = Self {
            root: root.to_owned(),
        };
        tree.folder("")?;
        Ok(tree)
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a folder, and those above it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, path: &str) -> Result<PathBuf> {
        let whole = self.root.join(path);
        let make = || -> std::io::Result<()> {
            std::fs::create_dir_all(&whole)?;
            // Whatever the umask of the person says.
            for above in whole
                .ancestors()
                .take_while(|one| one.starts_with(&self.root))
            {
                std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o755))?;
            }
            Ok(())
        };
        make().with_context(|| format!("make {}", whole.display()))?;
        Ok(whole)
    }

    /// Puts a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        let whole = self.root.join(path);
        std::fs::write(&whole, bytes)
            .and_then(|()| std::fs::set_permissions(&whole, std::fs::Permissions::from_mode(mode)))
            .with_context(|| format!("write {}", whole.display()))
    }

    /// Every file and link, relative to the root, sorted.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn entries(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut waiting = vec![self.root.clone()];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    waiting.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Gives everything the same time.
    ///
    /// # Errors
    /// When a file refuses it.
    pub fn set_times(&self, time: Timestamp) -> Result<()> {
        let moment = Timespec {
            tv_sec: time.unix(),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: moment,
            last_modification: moment,
        };
        let all = self.entries()?;
        for path in all.iter().chain([&self.root]) {
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| format!("set the time of {}", path.display()))?;
        }
        Ok(())
    }
}

/// Puts everything but what `dpkg` is told.
///
/// # Errors
/// When a file is missing, or plasmd does not write its documents.
pub fn fill(tree: &mut Tree, recipe: &Recipe<'_>) -> Result<()> {
    tree.file("usr/bin/plasmd", 0o755, &read(recipe.plasmd)?)?;
    for tool in TOOLS {
        symlink("plasmd", tree.root.join("usr/bin").join(tool))
            .with_context(|| format!("link {tool}"))?;
    }
    units(tree, &recipe.root.join("provider/systemd"))?;
    let debian = recipe.root.join("provider/debian");
    let sysusers = read(&debian.join("plasmd.sysusers"))?;
    tree.file("usr/lib/sysusers.d/plasmd.conf", 0o644, &sysusers)?;
    tree.file(
        "etc/phase/plasmd.toml",
        0o644,
        &read(&debian.join("plasmd.toml"))?,
    )?;
    tree.folder("var/lib/plasm/artifacts")?;
    completions(tree, recipe.plasmd)?;
    manual_pages(tree, recipe.plasmd)?;
    let doc = "usr/share/doc/plasmd";
    tree.file(
        &format!("{doc}/copyright"),
        0o644,
        &read(&debian.join("copyright"))?,
    )?;
    let changelog = control::changelog(recipe, &read(&debian.join("changelog"))?)?;
    tree.file(&format!("{doc}/changelog"), 0o644, changelog.as_bytes())?;
    let guide = read(&recipe.root.join("docs/operators-guide.md"))?;
    tree.file(&format!("{doc}/operators-guide.md"), 0o644, &guide)?;
    let notices = notices::collect(recipe.root)?;
    tree.file(
        &format!("{doc}/third-party-notices"),
        0o644,
        notices.as_bytes(),
    )?;
    compress(
        tree,
        doc,
        &["changelog", "operators-guide.md", "third-party-notices"],
    )
}

/// The units, whichever there are; the service must be.
fn units(tree: &mut Tree, folder: &Path) -> Result<()> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".service") || name.ends_with(".socket"))
        .collect();
    names.sort();
    ensure!(
        names.iter().any(|name| name == "plasmd.service"),
        "{}: there is no plasmd.service",
        folder.display()
    );
    for name in names {
        let unit = read(&folder.join(&name))?;
        tree.file(&format!("usr/lib/systemd/system/{name}"), 0o644, &unit)?;
    }
    Ok(())
}

fn completions(tree: &mut Tree, plasmd: &Path) -> Result<()> {
    for (shell, path) in COMPLETIONS {
        let folder = tree.folder(path)?;
        run(plasmd_command(plasmd)
            .args(["completions", shell, "--dir"])
            .arg(&folder))?;
        set_modes(&folder)?;
    }
    Ok(())
}

fn manual_pages(tree: &mut Tree, plasmd: &Path) -> Result<()> {
    let all = tree.folder("usr/share/man/man1")?;
    run(plasmd_command(plasmd).arg("man").arg(&all))?;
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for entry in std::fs::read_dir(&all)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let section = name.rsplit('.').next().unwrap_or("1").to_owned();
        let folder = format!("usr/share/man/man{section}");
        if section != "1" {
            let to = tree.folder(&folder)?.join(&name);
            std::fs::rename(all.join(&name), to)?;
        }
        match sections.iter_mut().find(|(known, _)| *known == folder) {
            Some((_, names)) => names.push(name),
            None => sections.push((folder, vec![name])),
        }
    }
    for (folder, names) in sections {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        compress(tree, &folder, &names)?;
        set_modes(&tree.root.join(folder))?;
    }
    Ok(())
}

/// plasmd without anything of this person's surroundings.
fn plasmd_command(plasmd: &Path) -> Command {
    let mut command = Command::new(plasmd);
    command.env_clear();
    command
}

fn set_modes(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
            .with_context(|| format!("set the mode of {}", path.display()))?;
    }
    Ok(())
}

/// As Debian wants its documents: the best compression, and neither name nor time inside.
fn compress(tree: &Tree, folder: &str, names: &[&str]) -> Result<()> {
    run(Command::new("gzip")
        .args(["-9", "--no-name", "--"])
        .args(names)
        .current_dir(tree.root.join(folder)))?;
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
