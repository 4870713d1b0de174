//! Writing an artifact whose digests are known, so that unverified bytes are never visible under its name.
//!
//! ```text
//! begin ──> .NAME.partial ──chunk (write, hash), verified──> all chunks there ──commit──> NAME
//!   ^            │                                                              fsync, rename, fsync folder
//!   └── resume ──┘  every chunk that is already there is hashed again
//! ```
//!
//! A chunk is hashed while it is written, because chunks of 64 MiB must not pass through memory as a whole. Bytes of a chunk
//! that turns out wrong, or is never finished, lie in the partial file only, and count as missing for ever after.
//!
//! What survives a power cut: before `commit`, the partial file with any of its chunks (`begin` finds out which are
//! whole); after `commit` returned, the complete file under its name. In between, one of the two.
//!
//! The digest of the whole file is not computed again on commit: whole and chunk digests stand under one signature, and
//! every chunk was checked.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boot_manifest::{Artifact, ChunkCheck, Digest, FileName, Hasher};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::Errno;

use crate::beneath::{self, OpenError};
use crate::limits::READ_SIZE;

/// A directory that verified artifacts are written into.
#[derive(Debug)]
pub struct Folder {
    dir: OwnedFd,
    path: PathBuf,
}

/// Why writing an artifact failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder or the partial file cannot be opened.
    #[error("{}: {reason}", path.display())]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: OpenError,
    },
    /// Another process writes the same artifact.
    #[error("{}: another process is writing this artifact", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The partial file has another owner or a second name, so others could change it after it was verified.
    #[error("{}: was not made by this user alone; remove it to go on", path.display())]
    Foreign {
        /// The partial file.
        path: PathBuf,
    },
    /// The file system has no room.
    #[error("{}: no space left ({needed} bytes are needed)", path.display())]
    Full {
        /// The partial file.
        path: PathBuf,
        /// Size of the artifact.
        needed: u64,
    },
    /// The bytes are not the chunk the manifest names. The chunk is still missing.
    #[error("chunk {index} of {name} does not have the digest the manifest names")]
    WrongBytes {
        /// The artifact's file name.
        name: FileName,
        /// Number of the chunk.
        index: usize,
        /// The digest that the bytes have.
        computed: Digest,
    },
    /// Somebody else writes this chunk, or it is there already: a second writer could spoil what the first one verified.
    #[error("chunk {index} of {name} cannot be written now")]
    Taken {
        /// The artifact's file name.
        name: FileName,
        /// Number of the chunk.
        index: usize,
    },
    /// Committed too early.
    #[error("{name}: {missing} chunks are still missing")]
    Incomplete {
        /// The artifact's file name.
        name: FileName,
        /// How many.
        missing: usize,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Folder {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> Result<Self, WriteError> {
        let dir = beneath::root(path).map_err(|errno| WriteError::Open {
            path: path.to_owned(),
            reason: errno.into(),
        })?;
        Ok(Self {
            dir,
            path: path.to_owned(),
        })
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The complete artifact, when it is already there under its name: every byte is hashed. Unlike that of an artifact
    /// being written, the file is one that others may write to.
    pub fn complete(&self, artifact: &Artifact) -> Result<Option<PartialView>, WriteError> {
        let path = self.path.join(artifact.filename.as_str());
        let (file, stat) = match beneath::regular(&self.dir, artifact.filename.as_str()) {
            Ok(found) => found,
            Err(OpenError::NotFound) => return Ok(None),
            Err(reason) => return Err(WriteError::Open { path, reason }),
        };
        if u64::try_from(stat.st_size) != Ok(artifact.size) {
            return Ok(None);
        }
        let file = File::from(file);
        let digest =
            digest_of(&file, 0..artifact.size).map_err(|source| WriteError::Io { path, source })?;
        if digest != Some(artifact.digest) {
            return Ok(None);
        }
        let chunks = vec![ChunkState::There; artifact.chunks.chunk_count()];
        Ok(Some(PartialView {
            artifact: Arc::new(artifact.clone()),
            file: Arc::new(file),
            chunks: Arc::new(Mutex::new(chunks)),
        }))
    }

    /// Starts or resumes writing `artifact`. Only one process can at a time.
    pub fn begin(&self, artifact: &Artifact) -> Result<Partial, WriteError> {
        let Temporary { name, path, file } = self.temporary(&artifact.filename)?;
        let failed = |errno: Errno| WriteError::Io {
            path: path.clone(),
            source: errno.into(),
        };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        // One length for every partial file of this artifact: what lies behind it is not ours.
        if u64::try_from(stat.st_size).is_ok_and(|size| size > artifact.size) {
            rustix::fs::ftruncate(&file, artifact.size).map_err(failed)?;
        }
        match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, artifact.size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                if stat.st_size == 0 {
                    // Nothing is in it that a next run could use.
                    rustix::fs::unlinkat(&self.dir, &name, rustix::fs::AtFlags::empty())
                        .map_err(failed)?;
                }
                return Err(WriteError::Full {
                    path,
                    needed: artifact.size,
                });
            }
            Err(errno) => return Err(failed(errno)),
        }
        let dir = self.dir.try_clone().map_err(|source| WriteError::Io {
            path: path.clone(),
            source,
        })?;
        let folder = Self {
            dir,
            path: self.path.clone(),
        };
        Partial::resume(folder, name, file, artifact.clone())
    }

    /// Opens the partial file of `name` for this process alone, and makes sure that nobody else can change it.
    fn temporary(&self, name: &FileName) -> Result<Temporary, WriteError> {
        let temp = format!(".{name}.partial");
        let path = self.path.join(&temp);
        let (file, stat) =
            beneath::writable(&self.dir, &temp).map_err(|reason| WriteError::Open {
                path: path.clone(),
                reason,
            })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(WriteError::Busy { path }),
            Err(errno) => {
                let source = errno.into();
                return Err(WriteError::Io { path, source });
            }
        }
        // The lock may have been taken on a file that its first writer has just committed or discarded.
        match beneath::regular(&self.dir, &temp) {
            Ok((_, now)) if (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino) => {}
            Ok(_) | Err(OpenError::NotFound) => return Err(WriteError::Busy { path }),
            Err(reason) => return Err(WriteError::Open { path, reason }),
        }
        if stat.st_nlink != 1 || stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(WriteError::Foreign { path });
        }
        let (name, file) = (temp, File::from(file));
        Ok(Temporary { name, path, file })
    }

    /// Writes a small file, such as a manifest that was verified, in one step: it is there completely or not at all.
    pub fn write(&self, name: &FileName, bytes: &[u8]) -> Result<PathBuf, WriteError> {
        let Temporary {
            name: temp,
            path,
            file,
        } = self.temporary(name)?;
        let failed = |source: io::Error| write_failed(source, &path, bytes.len() as u64);
        rustix::fs::ftruncate(&file, 0).map_err(|errno| failed(errno.into()))?;
        file.write_all_at(bytes, 0).map_err(failed)?;
        self.publish(&file, &temp, name)
    }

    /// Makes `file` durable, gives it its name, and makes the name durable.
    fn publish(&self, file: &File, temp: &str, name: &FileName) -> Result<PathBuf, WriteError> {
        let path = self.path.join(name.as_str());
        let failed = |source: io::Error| WriteError::Io {
            path: path.clone(),
            source,
        };
        file.sync_all().map_err(failed)?;
        rustix::fs::renameat(&self.dir, temp, &self.dir, name.as_str())
            .map_err(|errno| failed(errno.into()))?;
        rustix::fs::fsync(&self.dir).map_err(|errno| failed(errno.into()))?;
        Ok(path)
    }
}

/// A partial file that only this process writes.
struct Temporary {
    /// In its folder.
    name: String,
    path: PathBuf,
    file: File,
}

/// An artifact being written. Dropping it keeps what was written, for the next [`Folder::begin`].
#[derive(Debug)]
pub struct Partial {
    folder: Folder,
    temp: String,
    view: PartialView,
    resumed: u64,
    written: AtomicU64,
}

/// A look at an artifact while it is being written, and afterwards: which chunks were verified, and the file they lie in.
/// What is there once is not written again, so it can be read without asking anybody. Clones share everything, and keep the
/// file after it got its name or was removed.
#[derive(Clone, Debug)]
pub struct PartialView {
    artifact: Arc<Artifact>,
    file: Arc<File>,
    chunks: Arc<Mutex<Vec<ChunkState>>>,
}

/// Where a chunk is on its way. A chunk that is there is never written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Missing,
    /// By one [`ChunkWriter`].
    BeingWritten,
    There,
}

/// One chunk on its way into the partial file. Dropping it before [`ChunkWriter::finish`] leaves the chunk missing.
#[derive(Debug)]
pub struct ChunkWriter<'a> {
    partial: &'a Partial,
    index: usize,
    at: u64,
    end: u64,
    check: Option<ChunkCheck>,
}

impl Partial {
    /// Finds out which chunks of `file` are whole, by hashing them.
    fn resume(
        folder: Folder,
        temp: String,
        file: File,
        artifact: Artifact,
    ) -> Result<Self, WriteError> {
        let path = folder.path.join(&temp);
        let failed = |source: io::Error| WriteError::Io {
            path: path.clone(),
            source,
        };
        let length = file.metadata().map_err(failed)?.len();
        let mut chunks = vec![ChunkState::Missing; artifact.chunks.chunk_count()];
        let mut resumed = 0;
        for (index, state) in chunks.iter_mut().enumerate() {
            let range = artifact.chunks.range(index);
            if range.end > length || is_hole(&file, range.start, range.end) {
                continue;
            }
            let size = range.end - range.start;
            if digest_of(&file, range).map_err(failed)? == artifact.chunks.digest(index) {
                *state = ChunkState::There;
                resumed += size;
            }
        }
        let written = AtomicU64::new(resumed);
        let view = PartialView {
            artifact: Arc::new(artifact),
            file: Arc::new(file),
            chunks: Arc::new(Mutex::new(chunks)),
        };
        Ok(Self {
            folder,
            temp,
            view,
            resumed,
            written,
        })
    }

    /// What is being written.
    pub fn artifact(&self) -> &Artifact {
        &self.view.artifact
    }

    /// What of it is there, for others, from now on.
    pub fn view(&self) -> PartialView {
        self.view.clone()
    }

    /// Bytes that were already there, verified, when writing began.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed
    }

    /// Verified bytes there now.
    pub fn verified_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The numbers of the chunks that are not there yet, ascending.
    pub fn missing(&self) -> Vec<usize> {
        let chunks = self.lock();
        chunks
            .iter()
            .enumerate()
            .filter(|(_, state)| **state != ChunkState::There)
            .map(|(index, _)| index)
            .collect()
    }

    /// Starts to write chunk `index`. Several threads may write different chunks at once; each chunk has one writer.
    pub fn chunk(&self, index: usize) -> Result<ChunkWriter<'_>, WriteError> {
        let mut chunks = self.lock();
        match chunks.get_mut(index) {
            Some(state @ ChunkState::Missing) => *state = ChunkState::BeingWritten,
            _ => {
                let name = self.artifact().filename.clone();
                return Err(WriteError::Taken { name, index });
            }
        }
        let range = self.artifact().chunks.range(index);
        Ok(ChunkWriter {
            partial: self,
            index,
            at: range.start,
            end: range.end,
            check: Some(self.artifact().chunks.check(index)),
        })
    }

    /// Gives the complete artifact its name. When this returns, it survives a power cut.
    pub fn commit(self) -> Result<PathBuf, WriteError> {
        let missing = self.missing().len();
        let name = &self.artifact().filename;
        if missing > 0 {
            return Err(WriteError::Incomplete {
                name: name.clone(),
                missing,
            });
        }
        self.folder.publish(&self.view.file, &self.temp, name)
    }

    /// Gives up and removes the partial file.
    pub fn discard(self) -> Result<(), WriteError> {
        rustix::fs::unlinkat(
            &self.folder.dir,
            self.temp.as_str(),
            rustix::fs::AtFlags::empty(),
        )
        .map_err(|errno| WriteError::Io {
            path: self.folder.path.join(&self.temp),
            source: errno.into(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ChunkState>> {
        self.view.lock()
    }

    fn set(&self, index: usize, state: ChunkState) {
        if let Some(chunk) = self.lock().get_mut(index) {
            *chunk = state;
        }
    }
}

impl PartialView {
    /// What is being written.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The file, in which every chunk lies at its own offset. Only those that are there have the right bytes.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Which chunks are there, one flag for each.
    pub fn there(&self) -> Vec<bool> {
        let chunks = self.lock();
        let is_there = |state: &ChunkState| *state == ChunkState::There;
        chunks.iter().map(is_there).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ChunkState>> {
        // A list of states is never half changed, so a panic elsewhere does not spoil it.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkWriter<'_> {
    /// Writes and hashes the next bytes of the chunk. Bytes behind its end are counted against it and not written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(check) = &mut self.check {
            check.update(bytes);
        }
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        let partial = self.partial;
        partial
            .view
            .file
            .write_all_at(bytes, self.at)
            .map_err(|source| {
                let path = partial.folder.path.join(&partial.temp);
                write_failed(source, &path, partial.artifact().size)
            })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Keeps the chunk, if it is the one that the manifest names.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let (partial, index) = (self.partial, self.index);
        // Taken, so that dropping this leaves the verdict alone.
        let Some(check) = self.check.take() else {
            return Ok(());
        };
        match check.finish() {
            Ok(()) => {
                let range = partial.artifact().chunks.range(index);
                partial
                    .written
                    .fetch_add(range.end - range.start, Ordering::Relaxed);
                partial.set(index, ChunkState::There);
                Ok(())
            }
            Err(computed) => {
                partial.set(index, ChunkState::Missing);
                let name = partial.artifact().filename.clone();
                Err(WriteError::WrongBytes {
                    name,
                    index,
                    computed,
                })
            }
        }
    }
}

impl Drop for ChunkWriter<'_> {
    fn drop(&mut self) {
        if self.check.is_some() {
            self.partial.set(self.index, ChunkState::Missing);
        }
    }
}

fn write_failed(source: io::Error, path: &Path, needed: u64) -> WriteError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            WriteError::Full { path, needed }
        }
        _ => WriteError::Io { path, source },
    }
}

/// Whether no byte of the range was ever written. File systems that cannot tell say no.
fn is_hole(file: &File, start: u64, end: u64) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Ok(data) => data >= end,
        Err(errno) => errno == Errno::NXIO,
    }
}

/// The digest of a range of `file`; nothing when the file is shorter.
fn digest_of(file: &File, range: std::ops::Range<u64>) -> io::Result<Option<Digest>> {
    let mut buffer = vec![0; READ_SIZE];
    let mut hasher = Hasher::new();
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = match file.read_at(&mut buffer[..want], at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if got == 0 {
            return Ok(None);
        }
        hasher.update(&buffer[..got]);
        at += got as u64;
    }
    Ok(Some(hasher.finish()))
}
