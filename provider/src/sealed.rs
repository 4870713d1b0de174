//! Verified bytes in memory that nobody can change any more: a memfd, filled chunk by chunk and then sealed.
//!
//! The seals travel with the descriptor, so whoever receives it can check that the bytes they hash are the bytes they
//! will use.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use boot_manifest::{Artifact, ChunkCheck};
use fetch::{Sink, SinkChunk, SinkError};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// One artifact on its way into memory. Pages are used as chunks arrive. Clones are the same place.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    file: Arc<File>,
    artifact: Arc<Artifact>,
    present: Arc<Mutex<Vec<bool>>>,
}

impl Memory {
    /// An empty place for `artifact`.
    pub(crate) fn new(artifact: &Artifact) -> io::Result<Self> {
        let file = File::from(create(artifact.name.as_str())?);
        file.set_len(artifact.size)?;
        let present = vec![false; artifact.chunks.chunk_count()];
        Ok(Self {
            file: Arc::new(file),
            artifact: Arc::new(artifact.clone()),
            present: Arc::new(Mutex::new(present)),
        })
    }

    /// Seals the complete artifact.
    pub(crate) fn seal(&self) -> io::Result<OwnedFd> {
        if !self.missing().is_empty() {
            return Err(io::Error::other("an incomplete artifact cannot be sealed"));
        }
        let file = self.file.try_clone()?;
        seal(&file)?;
        Ok(file.into())
    }

    /// What is kept here.
    pub(crate) fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The memory, in which every chunk lies at its own offset. Only those that are there have the right bytes.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Which chunks are there, one flag for each.
    pub(crate) fn there(&self) -> Vec<bool> {
        self.present().clone()
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        // A list of flags is never half changed.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Memory {
    type Chunk<'a> = MemoryChunk<'a>;

    fn missing(&self) -> Vec<usize> {
        let present = self.present();
        (0..present.len())
            .filter(|&index| !present[index])
            .collect()
    }

    fn chunk(&self, index: usize) -> Result<MemoryChunk<'_>, SinkError> {
        let range = self.artifact.chunks.range(index);
        Ok(MemoryChunk {
            memory: self,
            index,
            at: range.start,
            end: range.end,
            check: self.artifact.chunks.check(index),
        })
    }
}

/// A chunk that is hashed on its way into memory.
pub(crate) struct MemoryChunk<'a> {
    memory: &'a Memory,
    index: usize,
    at: u64,
    end: u64,
    check: ChunkCheck,
}

impl SinkChunk for MemoryChunk<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.check.update(bytes);
        // Bytes behind the end are counted against the chunk, and would belong to the next one.
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        self.memory
            .file
            .write_all_at(bytes, self.at)
            .map_err(|error| SinkError::Failed(Box::new(error)))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<(), SinkError> {
        self.check
            .finish()
            .map_err(|computed| SinkError::WrongBytes { computed })?;
        if let Some(there) = self.memory.present().get_mut(self.index) {
            *there = true;
        }
        Ok(())
    }
}

/// Some bytes that are already verified, sealed.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(create(name)?);
    file.write_all_at(bytes, 0)?;
    seal(&file)?;
    Ok(file.into())
}

fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know that a memfd can be born without the right to be executed.
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        created => Ok(created?),
    }
}

fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(fcntl_add_seals(file, seals)?)
}

#[cfg(test)]
mod tests {
    use boot_manifest::ArtifactHasher;
    use rustix::fs::fcntl_get_seals;

    use super::*;

    fn artifact(bytes: &[u8]) -> Artifact {
        let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
        hasher.update(bytes);
        let (digest, chunks) = hasher.finish().unwrap();
        Artifact {
            name: "rootfs".parse().unwrap(),
            filename: "rootfs.squashfs".parse().unwrap(),
            size: bytes.len() as u64,
            digest,
            chunks,
        }
    }

    #[test]
    fn complete_memory_cannot_be_changed() {
        let bytes: Vec<u8> = (0..(2 << 20) + 5).map(|at: u32| (at / 7) as u8).collect();
        let memory = Memory::new(&artifact(&bytes)).unwrap();
        assert_eq!(memory.missing(), [0, 1, 2]);
        assert!(memory.seal().is_err(), "sealed while incomplete");
        let put = |index: usize, bytes: &[u8]| {
            let mut chunk = memory.chunk(index)?;
            for piece in bytes.chunks(100_000) {
                chunk.write(piece)?;
            }
            chunk.finish()
        };
        for wrong in [&bytes[1..=1 << 20], &bytes[..1 << 19], &bytes] {
            let refused = put(0, wrong);
            assert!(matches!(refused, Err(SinkError::WrongBytes { .. })));
        }
        assert_eq!(memory.missing(), [0, 1, 2]);
        for index in [2, 0, 1] {
            let range = memory.artifact.chunks.range(index);
            put(index, &bytes[range.start as usize..range.end as usize]).unwrap();
        }
        let file = File::from(memory.seal().unwrap());
        let seals = fcntl_get_seals(&file).unwrap();
        for seal in [
            SealFlags::SEAL,
            SealFlags::SHRINK,
            SealFlags::GROW,
            SealFlags::WRITE,
        ] {
            assert!(seals.contains(seal), "{seals:?}");
        }
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(file.set_len(1).is_err());
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn small_bytes_are_sealed_too() {
        let file = File::from(sealed("manifest", b"abc").unwrap());
        assert_eq!(file.metadata().unwrap().len(), 3);
        assert!(file.write_all_at(b"x", 0).is_err());
    }
}
