//! Checks a file against the chunk digests of its artifact, on all processors at once.
//!
//! Hashing the squashfs is most of what stands between a start and the first byte served. The chunks are signed as the whole
//! is, and none waits for another. `init` is a program of one thread, and stays one: these threads live inside one call, read
//! a file that nobody writes, touch nothing else, and hold no lock when another process is started meanwhile. The calling
//! thread goes on to turn the loop.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use boot_manifest::Artifact;

use crate::limits;
use crate::plan::{Refusal, Stop};
use crate::verify::{self, Tick};

/// Checks all of `file`, and ticks meanwhile. The first chunk that is wrong decides.
pub(crate) fn check(
    name: &str,
    file: &File,
    artifact: &Artifact,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = processors.min(limits::HASHING_THREADS_MAX);
    let work = Work {
        name,
        file,
        artifact,
        next: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        refusal: Mutex::new(None),
    };
    let result = thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..threads {
            // Where no thread can be had the work takes longer.
            others.extend(
                thread::Builder::new()
                    .spawn_scoped(scope, || work.go_on(&mut || Ok(())))
                    .ok(),
            );
        }
        let result = work.go_on(tick);
        if result.is_err() {
            work.is_over.store(true, Ordering::Relaxed);
        }
        result
    });
    result?;
    let refusal = work.refusal.into_inner();
    // A thread that panicked has ended the process.
    match refusal.unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// What the threads share.
struct Work<'a> {
    name: &'a str,
    file: &'a File,
    artifact: &'a Artifact,
    next: AtomicUsize,
    is_over: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

impl Work<'_> {
    /// Takes chunk after chunk until none is left, one is wrong, or the machine ends.
    fn go_on(&self, tick: Tick<'_>) -> Result<(), Stop> {
        let mut step = vec![0; limits::STEP_SIZE];
        while !self.is_over.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.artifact.chunks.chunk_count() {
                break;
            }
            match self.chunk(index, &mut step, tick) {
                Ok(()) => {}
                Err(Stop::Ending) => return Err(Stop::Ending),
                Err(Stop::Refused(refusal)) => {
                    self.is_over.store(true, Ordering::Relaxed);
                    let mut first = self
                        .refusal
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    first.get_or_insert(refusal);
                    break;
                }
            }
        }
        Ok(())
    }

    fn chunk(&self, index: usize, step: &mut [u8], tick: Tick<'_>) -> Result<(), Stop> {
        let name = self.name;
        let range = self.artifact.chunks.range(index);
        let mut check = self.artifact.chunks.check(index);
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let length = left.min(step.len());
            let bytes = &mut step[..length];
            let read = verify::read_up_to(self.file, bytes, at)
                .map_err(|error| verify::io(name, &error))?;
            if read < length {
                return Err(verify::ends_early(name, at + read as u64, self.artifact.size).into());
            }
            check.update(bytes);
            at += length as u64;
            tick()?;
        }
        check.finish().map_err(|found| {
            let reason =
                format!("{name}: the bytes of chunk {index} are not the signed ones ({found})");
            Refusal::new("bad-hash", reason).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use boot_manifest::ArtifactHasher;

    use super::*;

    const SIZE: usize = (5 << 20) + 77;

    fn bytes() -> Vec<u8> {
        (0..SIZE).map(|at| (at / 251) as u8 ^ at as u8).collect()
    }

    fn artifact() -> Artifact {
        let mut hasher = ArtifactHasher::new(SIZE as u64).unwrap();
        hasher.update(&bytes());
        let (digest, chunks) = hasher.finish().unwrap();
        Artifact {
            name: "rootfs".parse().unwrap(),
            filename: "rootfs.squashfs".parse().unwrap(),
            size: SIZE as u64,
            digest,
            chunks,
        }
    }

    fn checked(bytes: &[u8], tick: Tick<'_>) -> Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check("rootfs", &file, &artifact(), tick).map_err(|stop| match stop {
            Stop::Refused(refusal) => refusal.code,
            Stop::Ending => "ending".to_owned(),
        })
    }

    #[test]
    fn every_byte_counts_and_the_loop_goes_on() {
        let mut ticks = 0;
        let fine = checked(&bytes(), &mut || {
            ticks += 1;
            Ok(())
        });
        assert_eq!(fine, Ok(()));
        assert!(ticks > 0);
        for at in [0, (1 << 20) - 1, 1 << 20, 3 << 20, SIZE - 1] {
            let mut changed = bytes();
            changed[at] ^= 1;
            assert_eq!(
                checked(&changed, &mut || Ok(())),
                Err("bad-hash".to_owned()),
                "{at}"
            );
        }
        let short = checked(&bytes()[..SIZE - 1], &mut || Ok(()));
        assert!(short.is_err(), "{short:?}");
    }

    #[test]
    fn the_end_of_the_machine_ends_it() {
        let ended = checked(&bytes(), &mut || Err(Stop::Ending));
        assert_eq!(ended, Err("ending".to_owned()));
    }
}
