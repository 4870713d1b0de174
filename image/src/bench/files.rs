//! The files that are served: in memory, in a folder of our own, removed at the end.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use super::limits::{LARGE_BYTES, MEDIUM_BYTES, RANGE_BYTES, SMALL_BYTES};
use crate::facts;

/// How the folder of the files is called, before the number of the process.
const FOLDER: &str = "phase-bench-";

/// Where files are memory.
const MEMORY: &str = "/dev/shm";

/// The channel whose files have the sizes of a real release, so that its manifest has the size of a real one.
pub const RELEASE: &str = "beta";

/// Sizes of a real release's kernel, initramfs and root filesystem.
const RELEASE_BYTES: [(&str, u64); 3] = [
    ("vmlinuz", 7 << 20),
    ("initramfs.img", 2 << 20),
    ("rootfs.squashfs", 9 << 20),
];

/// Folders made by this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder in memory.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// An empty folder.
    ///
    /// # Errors
    /// When there is no memory to hold it.
    pub fn empty() -> Result<Self> {
        let memory = Path::new(MEMORY);
        remove_leftovers(memory, Path::new("/proc"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = memory.join(format!("{FOLDER}{}-{number}", std::process::id()));
        // Never a folder that is there already: everybody may make one in this place, and nginx is configured in it.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("create {}", folder.display()))?;
        let files = Self { folder };
        std::fs::create_dir(files.artifacts())?;
        Ok(files)
    }

    /// The files that servers are measured with, and a key to sign their manifests.
    ///
    /// # Errors
    /// When they do not fit into memory or the key cannot be made.
    pub fn to_serve(plasmd: &Path) -> Result<Self> {
        let files = Self::with_large(plasmd, LARGE_BYTES)?;
        files.make(facts::CHANNEL, "initramfs.img", MEDIUM_BYTES)?;
        Ok(files)
    }

    /// The same with another size of the large file, and no medium one.
    ///
    /// # Errors
    /// As [`Self::to_serve`].
    pub fn with_large(plasmd: &Path, large: u64) -> Result<Self> {
        let files = Self::empty()?;
        files.make(facts::CHANNEL, "vmlinuz", SMALL_BYTES)?;
        files.make(facts::CHANNEL, "rootfs.squashfs", large)?;
        for (name, bytes) in RELEASE_BYTES {
            files.make(RELEASE, name, bytes)?;
        }
        files.make_key(plasmd)?;
        std::fs::write(files.range_script(), range_script(large, RANGE_BYTES))?;
        Ok(files)
    }

    /// Makes a signing key beside the artifacts.
    ///
    /// # Errors
    /// When `plasmd key generate` fails.
    pub fn make_key(&self, plasmd: &Path) -> Result<()> {
        let output = Command::new(plasmd)
            .args(["key", "generate", "--out"])
            .arg(self.key())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "no key can be made: {}",
            said.trim()
        );
        Ok(())
    }

    /// Writes an artifact of `bytes` bytes that no compression and no table of zeros makes cheaper.
    ///
    /// # Errors
    /// When it does not fit into memory.
    pub fn make(&self, channel: &str, name: &str, bytes: u64) -> Result<PathBuf> {
        let folder = self.artifacts().join(channel).join(facts::ARCH.as_str());
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        let mut file = File::create(&path)?;
        let mut block: Vec<u8> = (0..1_u32 << 20)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        let mut left = bytes;
        while left > 0 {
            // No two blocks are the same, so that none stands in for another.
            block[..8].copy_from_slice(&left.to_le_bytes());
            let count = left.min(block.len() as u64);
            file.write_all(&block[..count as usize])
                .with_context(|| format!("{bytes} bytes do not fit into {MEMORY}"))?;
            left -= count;
        }
        Ok(path)
    }

    /// Copies a file to where an artifact of that name is served from.
    ///
    /// # Errors
    /// When it cannot be read or does not fit into memory.
    pub fn place(&self, channel: &str, name: &str, from: &Path) -> Result<()> {
        let folder = self.artifacts().join(channel).join(facts::ARCH.as_str());
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(from, folder.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    /// The folder itself, for logs and configurations.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The artifacts directory.
    pub fn artifacts(&self) -> PathBuf {
        self.folder.join("artifacts")
    }

    /// The signing key; its public half lies beside it.
    pub fn key(&self) -> PathBuf {
        self.folder.join("bench.key")
    }

    /// A manifest to be served as it is by those who make none.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    /// wrk's script that asks for ranges.
    pub fn range_script(&self) -> PathBuf {
        self.folder.join("range.lua")
    }

    /// The path of a file of a channel, as a URL has it.
    pub fn path(channel: &str, name: &str) -> String {
        format!("/{channel}/{}/{name}", facts::ARCH.as_str())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A script for wrk: each request is of another range of `length` bytes, the same ones for every server.
fn range_script(size: u64, length: u64) -> String {
    format!(
        "math.randomseed(1)\n\
         function request()\n\
         \x20  local first = math.random(0, {})\n\
         \x20  wrk.headers[\"Range\"] = string.format(\"bytes=%d-%d\", first, first + {})\n\
         \x20  return wrk.format(\"GET\")\n\
         end\n",
        size - length,
        length - 1
    )
}

/// Removes what benches left that were killed: more than 1 GiB of memory each.
fn remove_leftovers(memory: &Path, processes: &Path) {
    for entry in std::fs::read_dir(memory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(FOLDER));
        let process = rest.map(|rest| rest.split_once('-').map_or(rest, |(process, _)| process));
        if process.is_some_and(|process| !processes.join(process).exists()) {
            // What another user left is not ours to remove.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_a_killed_bench_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, processes) = (folder.path().join("shm"), folder.path().join("proc"));
        for name in [
            "phase-bench-1",
            "phase-bench-1-0",
            "phase-bench-2-0",
            "other-1",
        ] {
            std::fs::create_dir_all(memory.join(name).join("deep")).unwrap();
        }
        std::fs::create_dir_all(processes.join("2")).unwrap();
        remove_leftovers(&memory, &processes);
        let exist = |name: &str| memory.join(name).exists();
        assert!(!exist("phase-bench-1") && !exist("phase-bench-1-0"));
        assert!(exist("phase-bench-2-0") && exist("other-1"));
    }

    #[test]
    fn files_have_their_size_and_go_with_their_folder() {
        let files = Files::empty().unwrap();
        let path = files.make("stable", "vmlinuz", (1 << 20) + 5).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (1 << 20) + 5);
        assert!(path.ends_with("stable/x86_64/vmlinuz"));
        drop(files);
        assert!(!path.exists());
    }

    #[test]
    fn no_block_of_a_file_is_another_one() {
        let files = Files::empty().unwrap();
        let path = files.make("stable", "vmlinuz", 4 << 20).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let blocks: BTreeSet<&[u8]> = bytes.chunks(1 << 20).collect();
        assert_eq!(blocks.len(), 4);
    }

    #[test]
    fn ranges_stay_within_the_file() {
        let script = range_script(1000, 100);
        assert!(script.contains("math.random(0, 900)") && script.contains("first + 99"));
    }
}
