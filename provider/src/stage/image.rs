//! The parts of an image in memory: as much of them as was verified so far, and sealed when that is all.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use boot_manifest::{Artifact, Manifest, Verified};
use fetch::{FetchError, Sink as _};

use super::Failure;
use crate::memory;
use crate::sealed::{Memory, sealed};
use crate::share::Held;

/// What init needs of an image, in the order of the descriptors after the manifest.
const PARTS: [&str; 3] = ["kernel", "initramfs", "rootfs"];

/// Memory that must stay free beside the image: chunks on their way, socket buffers, and the other roles at work.
const MEMORY_RESERVE: u64 = 32 << 20;

/// An image on its way into memory.
pub(super) struct Image {
    manifest: Arc<Verified<Manifest>>,
    parts: Vec<Arc<Memory>>,
}

impl Image {
    /// An empty place for everything that init needs of this image, if there is room.
    pub(super) fn new(manifest: &Arc<Verified<Manifest>>) -> Result<Self, Failure> {
        let artifacts = PARTS
            .iter()
            .map(|name| fetch::named(manifest, name))
            .collect::<Result<Vec<&Artifact>, FetchError>>()?;
        check_room(&artifacts)?;
        let parts = artifacts.into_iter().map(|artifact| {
            let memory = Memory::new(artifact).map_err(no_memory)?;
            Ok(Arc::new(memory))
        });
        Ok(Self {
            manifest: Arc::clone(manifest),
            parts: parts.collect::<Result<Vec<_>, Failure>>()?,
        })
    }

    pub(super) fn manifest(&self) -> &Arc<Verified<Manifest>> {
        &self.manifest
    }

    /// The places to fill, by name.
    pub(super) fn sinks(&self) -> Vec<(&'static str, Arc<Memory>)> {
        PARTS.into_iter().zip(self.parts.iter().cloned()).collect()
    }

    /// What can be given to others, as far as it is there.
    pub(super) fn held(&self) -> Vec<Arc<dyn Held>> {
        let parts = self.parts.iter().cloned();
        parts.map(|part| part as Arc<dyn Held>).collect()
    }

    /// Chunks that are missing.
    pub(super) fn missing(&self) -> usize {
        self.parts.iter().map(|part| part.missing().len()).sum()
    }

    /// The size of each part.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let parts = self.parts.iter();
        parts.map(|part| part.artifact().size).collect()
    }

    /// Everything, sealed: what each part is, and the parts.
    pub(super) fn seal(&self) -> Result<(Vec<String>, Vec<OwnedFd>), Failure> {
        let mut names = vec!["manifest".to_owned()];
        let mut fds = vec![sealed("manifest", self.manifest.bytes()).map_err(no_memory)?];
        for (name, part) in PARTS.iter().zip(&self.parts) {
            names.push((*name).to_owned());
            fds.push(part.seal().map_err(no_memory)?);
        }
        Ok((names, fds))
    }
}

pub(super) fn no_memory(error: std::io::Error) -> Failure {
    Failure {
        code: "not-enough-memory",
        reason: format!("the image cannot be kept in memory: {error}"),
    }
}

/// Refuses an image that does not fit into memory, before its first byte is fetched.
fn check_room(parts: &[&Artifact]) -> Result<(), Failure> {
    let needed = parts
        .iter()
        .fold(MEMORY_RESERVE, |sum, part| sum.saturating_add(part.size));
    let available = memory::available().ok_or_else(|| Failure {
        code: "not-enough-memory",
        reason: "/proc/meminfo does not tell how much memory is available".to_owned(),
    })?;
    // Above the limit of its cgroup the role would be killed, and start over for ever.
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_memory_max(&cgroups, Path::new("/sys/fs/cgroup"));
    let available = available.min(limit.unwrap_or(u64::MAX));
    if needed > available {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(Failure {
            code: "not-enough-memory",
            reason: format!(
                "the image needs {} MiB of memory, {} MiB are available: give this machine more memory",
                mib(needed),
                available >> 20,
            ),
        });
    }
    Ok(())
}

/// The memory limit of this process's cgroup, if it has one; `cgroups` is what /proc/self/cgroup says.
fn cgroup_memory_max(cgroups: &str, root: &Path) -> Option<u64> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = std::fs::read_to_string(root.join(path).join("memory.max")).ok()?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_cgroup() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("stage")).unwrap();
        for (text, expected) in [("138412032\n", Some(132 << 20)), ("max\n", None)] {
            std::fs::write(root.path().join("stage/memory.max"), text).unwrap();
            let found = cgroup_memory_max("1:name=x:/\n0::/stage\n", root.path());
            assert_eq!(found, expected, "{text:?}");
        }
        assert_eq!(cgroup_memory_max("0::/other\n", root.path()), None);
        assert_eq!(cgroup_memory_max("", root.path()), None);
    }
}
