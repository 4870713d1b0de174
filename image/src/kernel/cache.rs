//! Finished kernels by the hash of everything that went into them, shared by all checkouts of one user.
//!
//! ```text
//! <cache>/kernel/<key>/{bzImage,config,build.json}   a finished kernel; appears whole, by one rename
//! <cache>/kernel/lock                                held while building
//! <cache>/kernel/work.<process>/                     source and objects while building
//! <cache>/kernel/<key>.log                           what make said last
//! ```
//! An entry is used only when its bytes are those its `build.json` names, so a cut-off copy or a full disk cannot end in an
//! image. Work folders that lie there when the lock is taken are left over from builds that were killed, and are removed.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};
use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

/// Kernels kept; an entry is about 7 MB.
const ENTRIES_MAX: usize = 8;

/// What the names of work folders begin with.
const WORK: &str = "work.";

/// How often a build that waits for another one says so.
const WAITING_EVERY: Duration = Duration::from_secs(15);

/// What was built and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What the kernel calls itself (`uname -r`).
    pub version: String,
    /// Digest of the source tarball.
    pub source: Digest,
    /// First version lines of the compiler and other tools.
    pub tools: Vec<String>,
    /// How long make took.
    pub seconds: f64,
    /// How many steps it took.
    pub steps: u32,
    /// Options that are built in.
    pub options: usize,
    /// Size of the kernel in bytes.
    pub size: u64,
    /// Digest of the kernel.
    pub bzimage: Digest,
    /// Digest of the configuration.
    pub config: Digest,
}

/// A finished kernel.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The kernel.
    pub bzimage: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// What is known about it.
    pub facts: Facts,
}

/// The folder of finished kernels.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Held while building; ends with the value or the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Cache {
    /// A cache in `folder`.
    pub fn at(folder: &Path) -> Self {
        Self {
            root: folder.join("kernel"),
        }
    }

    /// The log of the last build of `key`.
    pub fn log(&self, key: &str) -> PathBuf {
        self.root.join(format!("{key}.log"))
    }

    /// The kernel of `key`, when it is there and undamaged.
    pub fn entry(&self, key: &str) -> Option<Entry> {
        let folder = self.root.join(key);
        let facts = std::fs::read(folder.join("build.json")).ok()?;
        let facts: Facts = serde_json::from_slice(&facts).ok()?;
        let holds = |name: &str, digest: Digest| {
            std::fs::read(folder.join(name)).is_ok_and(|bytes| Digest::of(&bytes) == digest)
        };
        let whole = holds("bzImage", facts.bzimage) && holds("config", facts.config);
        whole.then(|| Entry {
            bzimage: folder.join("bzImage"),
            config: folder.join("config"),
            facts,
        })
    }

    /// How many steps the last build took: what the next one will need, more or less.
    pub fn steps(&self) -> Option<u32> {
        let newest = self.keys().into_iter().next_back()?;
        let facts = std::fs::read(self.root.join(newest).join("build.json")).ok()?;
        serde_json::from_slice::<Facts>(&facts)
            .ok()
            .map(|facts| facts.steps)
    }

    /// Waits until no other build runs, and keeps others out until the lock is dropped.
    ///
    /// # Errors
    /// When the folder cannot be made or the lock not be taken.
    pub fn lock(&self) -> Result<Lock> {
        std::fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot make {}", self.root.display()))?;
        let path = self.root.join("lock");
        let lock = || -> std::io::Result<File> {
            let file = File::options().create(true).append(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            wait_for(file)
        };
        let file = lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Lock(file))
    }

    /// An empty folder to build in.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn work(&self, _lock: &Lock) -> Result<Work> {
        self.clean();
        let path = self.root.join(format!("{WORK}{}", std::process::id()));
        remove(&path)?;
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Work { path })
    }

    /// Removes what killed builds left. A compiler of theirs may still be dying and writing there, so each has a folder of its
    /// own, and one that cannot be removed now is removed by the next build.
    fn clean(&self) {
        let entries = std::fs::read_dir(&self.root);
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORK)
                && let Err(error) = remove(&entry.path())
            {
                eprintln!("warning: {error:#}");
            }
        }
    }

    /// Makes a finished kernel visible under `key`, and forgets the oldest ones.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(
        &self,
        key: &str,
        bzimage: &[u8],
        config: &[u8],
        facts: &Facts,
        work: &Work,
    ) -> Result<Entry> {
        let new = work.path.join("entry");
        let write = || -> Result<()> {
            std::fs::create_dir(&new)?;
            let facts = serde_json::to_vec_pretty(facts)?;
            for (name, bytes) in [
                ("bzImage", bzimage),
                ("config", config),
                ("build.json", &facts),
            ] {
                let mut file = File::create_new(new.join(name))?;
                file.write_all(bytes)?;
                file.sync_all()?;
            }
            let target = self.root.join(key);
            remove(&target)?;
            std::fs::rename(&new, &target)?;
            File::open(&self.root)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("cannot keep the kernel in {}", self.root.display()))?;
        self.forget_oldest()?;
        self.entry(key).with_context(|| {
            format!(
                "the kernel just written to {} is damaged",
                self.root.display()
            )
        })
    }

    fn forget_oldest(&self) -> Result<()> {
        let keys = self.keys();
        let surplus = keys.len().saturating_sub(ENTRIES_MAX);
        for key in &keys[..surplus] {
            remove(&self.root.join(key))?;
            let _ = std::fs::remove_file(self.log(key));
        }
        Ok(())
    }

    /// The keys of all entries, the oldest first.
    fn keys(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let mut keys: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let written = entry.path().join("build.json").metadata().ok()?;
                let name = entry.file_name().into_string().ok()?;
                Some((written.modified().ok()?, name))
            })
            .collect();
        keys.sort();
        keys.into_iter().map(|(_, name)| name).collect()
    }
}

/// Waits for the lock in a thread, so that this one can say what it waits for.
fn wait_for(file: File) -> std::io::Result<File> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        let _ = sender.send(locked);
    });
    loop {
        eprintln!("  {:<12} waiting for another build of the kernel", "kernel");
        match receiver.recv_timeout(WAITING_EVERY) {
            Ok(locked) => return locked,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(std::io::Error::other("the waiting thread ended"));
            }
        }
    }
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The folder of a running build, removed with all its 2 GiB when the build ends: another configuration would compile
/// nearly everything again anyway, and unpacking costs seconds.
#[derive(Debug)]
pub struct Work {
    path: PathBuf,
}

impl Work {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // 85,000 files: minutes on a slow disk.
        eprintln!("  {:<12} removing the unpacked source", "kernel");
        if let Err(error) = remove(&self.path) {
            eprintln!("warning: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(bzimage: &[u8], config: &[u8]) -> Facts {
        Facts {
            version: "6.12.0-phase".into(),
            source: Digest::of(b"source"),
            tools: vec!["gcc 12".into()],
            seconds: 1.5,
            steps: 3,
            options: 1,
            size: 7,
            bzimage: Digest::of(bzimage),
            config: Digest::of(config),
        }
    }

    fn publish(cache: &Cache, key: &str) -> Entry {
        let lock = cache.lock().unwrap();
        let work = cache.work(&lock).unwrap();
        let facts = facts(b"kernel", b"config");
        cache
            .publish(key, b"kernel", b"config", &facts, &work)
            .unwrap()
    }

    #[test]
    fn a_published_kernel_is_found_and_the_work_folder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        assert!(cache.entry("k").is_none());
        assert_eq!(cache.steps(), None);
        let entry = publish(&cache, "k");
        assert_eq!(std::fs::read(&entry.bzimage).unwrap(), b"kernel");
        assert_eq!(cache.entry("k").unwrap().facts, entry.facts);
        assert_eq!(cache.steps(), Some(3));
        let mut left: Vec<_> = std::fs::read_dir(folder.path().join("kernel"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["k", "lock"]);
    }

    #[test]
    fn a_damaged_kernel_is_not_used() {
        for (name, bytes) in [
            ("bzImage", b"kerne".as_slice()),
            ("config", b"confug"),
            ("build.json", b"{}"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::at(folder.path());
            publish(&cache, "k");
            std::fs::write(folder.path().join("kernel/k").join(name), bytes).unwrap();
            assert!(cache.entry("k").is_none(), "{name}");
            publish(&cache, "k");
            assert!(cache.entry("k").is_some(), "{name}");
        }
    }

    #[test]
    fn what_a_killed_build_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let left = folder.path().join("kernel/work.1/entry");
        std::fs::create_dir_all(&left).unwrap();
        let lock = cache.lock().unwrap();
        let work = cache.work(&lock).unwrap();
        assert!(!left.exists());
        assert!(work.path().exists());
    }

    #[test]
    fn only_the_newest_kernels_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        for n in 0..=ENTRIES_MAX {
            publish(&cache, &format!("k{n}"));
        }
        assert_eq!(cache.keys().len(), ENTRIES_MAX);
        assert!(cache.entry("k0").is_none());
        assert!(cache.entry(&format!("k{ENTRIES_MAX}")).is_some());
    }
}
