//! Hashing files and comparing them with what a manifest names: several at a time, on all processors.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use boot_manifest::{Artifact, Digest, Hasher, Manifest};

use super::limits::{HASHERS_MAX, READ_SIZE};
use crate::exit::CommandError;
use crate::out::printable;
use crate::progress::Meter;

/// How often the line of progress is redrawn.
const REDRAW: Duration = Duration::from_millis(100);

/// A file that shall be an artifact.
pub(super) struct Wanted {
    pub(super) artifact: Artifact,
    pub(super) path: PathBuf,
    /// Whether a person named this very file. It may be a link then, which what a provider shall serve may not, and when it
    /// is missing the mistake is on the command line.
    pub(super) named: bool,
}

/// One file that was looked at.
pub(super) struct Checked {
    pub(super) artifact: Artifact,
    pub(super) path: PathBuf,
    pub(super) found: Found,
}

/// What was there.
pub(super) enum Found {
    /// A file, with its digest and size.
    Content(Digest, u64),
    /// Nothing.
    Missing,
    /// Something that cannot be read.
    Unreadable(String),
}

impl Checked {
    pub(super) fn good(&self) -> bool {
        match self.found {
            Found::Content(digest, size) => {
                digest == self.artifact.digest && size == self.artifact.size
            }
            Found::Missing | Found::Unreadable(_) => false,
        }
    }

    /// What is wrong with it, when something is.
    pub(super) fn problem(&self) -> Option<String> {
        let (path, name) = (shown(&self.path), &self.artifact.name);
        match &self.found {
            Found::Content(..) if self.good() => None,
            Found::Content(computed, size) => {
                let sizes = if *size == self.artifact.size {
                    String::new()
                } else {
                    format!(" ({size} bytes instead of {})", self.artifact.size)
                };
                let expected = self.artifact.digest;
                Some(format!(
                    "{path}: is not the {name} of this manifest{sizes}: expected {expected}, computed {computed}"
                ))
            }
            Found::Missing => Some(format!("{path}: the {name} of this manifest is missing")),
            Found::Unreadable(reason) => Some(format!("{path}: {reason}")),
        }
    }

    /// A stable name for what is wrong.
    pub(super) fn code(&self) -> Option<&'static str> {
        match &self.found {
            Found::Content(..) if self.good() => None,
            Found::Content(..) => Some("bad-hash"),
            Found::Missing => Some("missing-file"),
            Found::Unreadable(_) => Some("local"),
        }
    }
}

/// A path as text that cannot steer a terminal.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// The artifact that an argument means: `PATH`, found by its file name, or `NAME=PATH`.
pub(super) fn wanted(manifest: &Manifest, argument: &str) -> Result<Wanted, CommandError> {
    let (artifact, path) = matching(manifest, argument).ok_or_else(|| {
        let has: Vec<String> = manifest
            .artifacts
            .iter()
            .map(|artifact| format!("{} ({})", artifact.name, artifact.filename))
            .collect();
        CommandError::failed(format!(
            "{argument}: the manifest has no artifact of this file name; it has {}",
            has.join(", ")
        ))
        .hint(format!("say which one it is: kernel={argument}"))
    })?;
    Ok(Wanted {
        artifact: artifact.clone(),
        path: path.to_owned(),
        named: true,
    })
}

fn matching<'a>(manifest: &'a Manifest, argument: &'a str) -> Option<(&'a Artifact, &'a Path)> {
    if let Some((name, path)) = argument.split_once('=')
        && let Some(artifact) = manifest.artifact(name)
    {
        return Some((artifact, Path::new(path)));
    }
    let path = Path::new(argument);
    let file_name = path.file_name()?.to_str()?;
    let artifact = manifest
        .artifacts
        .iter()
        .find(|one| one.filename.as_str() == file_name)?;
    Some((artifact, path))
}

/// Looks at all files, as many at a time as there are processors. The order is kept. `meter` shows how far it is.
pub(super) fn check(wanted: Vec<Wanted>, mut meter: Meter) -> Vec<Checked> {
    let total: u64 = wanted.iter().map(|one| one.artifact.size).sum();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(HASHERS_MAX).min(wanted.len());
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    // The largest first, so that none of them is left alone at the end.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(wanted[*index].artifact.size));
    let mut found: Vec<Option<Found>> = wanted.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let sender = sender.clone();
            let (next, done, order, wanted) = (&next, &done, &order, &wanted);
            scope.spawn(move || {
                while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let looked = look(&wanted[*index], done);
                    if sender.send((*index, looked)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        loop {
            match results.recv_timeout(REDRAW) {
                Ok((index, looked)) => found[index] = Some(looked),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let done = done.load(Ordering::Relaxed);
            meter.update(done, done, total);
        }
    });
    meter.clear();
    let unseen = || Found::Unreadable("was not looked at".to_owned());
    let pairs = wanted.into_iter().zip(found);
    pairs
        .map(|(one, found)| Checked {
            artifact: one.artifact,
            path: one.path,
            found: found.unwrap_or_else(unseen),
        })
        .collect()
}

fn look(wanted: &Wanted, done: &AtomicU64) -> Found {
    match digest_of(wanted, done) {
        Ok(Some((digest, size))) => Found::Content(digest, size),
        Ok(None) => Found::Unreadable("is not a regular file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !wanted.named => Found::Missing,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            Found::Unreadable("is a symbolic link, and providers serve none".to_owned())
        }
        Err(error) => Found::Unreadable(format!("cannot be read: {error}")),
    }
}

/// The digest and size of a regular file.
fn digest_of(wanted: &Wanted, done: &AtomicU64) -> io::Result<Option<(Digest, u64)>> {
    let links = if wanted.named { 0 } else { libc::O_NOFOLLOW };
    // Without the first flag a pipe that nobody writes to would be waited for, for ever.
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | links)
        .open(&wanted.path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let (mut hasher, mut size) = (Hasher::new(), 0);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if read == 0 {
            return Ok(Some((hasher.finish(), size)));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
        done.fetch_add(read as u64, Ordering::Relaxed);
    }
}
