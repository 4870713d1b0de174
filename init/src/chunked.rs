//! Checks a file against the chunk digests of its artifact, on all processors at once.
//!
//! Hashing the squashfs is most of what stands between a start and the first byte served. The chunks are signed as the whole
//! is, and none waits for another. `init` has one thread, and its loop starts children while it hashes; so the other
//! processors are given to copies of the process (see `upgrade::worker`), each with every n-th chunk, and none to threads.
//! A copy is only believed when it says that all is well: what it did not check, PID 1 checks itself.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::thread;

use boot_manifest::Artifact;

use crate::limits;
use crate::plan::{Refusal, Stop};
use crate::upgrade::worker::{self, Patience};
use crate::verify::{self, Tick};

/// How long a copy is waited for: it reads memory, and does as much as PID 1 did meanwhile.
const FOR_MEMORY: Patience = Patience {
    stall: limits::DISK_STALL,
    total: limits::SLOT_TOTAL,
    is_broken_off: true,
};

/// Checks all of `file`, and ticks meanwhile.
pub(crate) fn check(
    name: &str,
    file: &File,
    artifact: &Artifact,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let processes = processors.min(limits::HASHING_PROCESSES_MAX);
    check_by(processes, name, file, artifact, tick)
}

fn check_by(
    processes: usize,
    name: &str,
    file: &File,
    artifact: &Artifact,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let share = |first: usize| Share {
        name,
        file,
        artifact,
        first,
        every: processes.max(1),
    };
    let begin = |first: usize| {
        let work = move |step: worker::Step<'_>| {
            let done = share(first).check(&mut || {
                step();
                Ok(())
            });
            match done {
                Ok(()) => Ok(Vec::new()),
                Err(Stop::Refused(refusal)) => Err(refusal),
                Err(Stop::Ending) => Err(Refusal::new("io", "ended")),
            }
        };
        (first, worker::begin(&[file.as_fd()], work))
    };
    // Dropping one ends it.
    let others: Vec<_> = (1..processes).map(begin).collect();
    share(0).check(tick)?;
    for (first, other) in others {
        let done = other.map_err(Stop::from);
        let done = done.and_then(|running| running.wait(FOR_MEMORY, tick).map_err(Stop::from));
        match done {
            Ok(_) => {}
            Err(Stop::Ending) => return Err(Stop::Ending),
            Err(Stop::Refused(_)) => share(first).check(tick)?,
        }
    }
    Ok(())
}

/// Every n-th chunk.
#[derive(Clone, Copy)]
struct Share<'a> {
    name: &'a str,
    file: &'a File,
    artifact: &'a Artifact,
    first: usize,
    every: usize,
}

impl Share<'_> {
    fn check(self, tick: Tick<'_>) -> Result<(), Stop> {
        let mut step = vec![0; limits::STEP_SIZE];
        let count = self.artifact.chunks.chunk_count();
        for index in (self.first..count).step_by(self.every) {
            self.chunk(index, &mut step, tick)?;
        }
        Ok(())
    }

    fn chunk(self, index: usize, step: &mut [u8], tick: Tick<'_>) -> Result<(), Stop> {
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

    /// Three chunks.
    const SIZE: usize = (2 << 20) + 77;

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

    fn checked(processes: usize, bytes: &[u8], tick: Tick<'_>) -> Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let result = check_by(processes, "rootfs", &file, &artifact(), tick);
        result.map_err(|stop| match stop {
            Stop::Refused(refusal) => refusal.code,
            Stop::Ending => "ending".to_owned(),
        })
    }

    #[test]
    fn every_byte_counts_and_the_loop_goes_on() {
        for processes in [1, 3] {
            let mut ticks = 0;
            let fine = checked(processes, &bytes(), &mut || {
                ticks += 1;
                Ok(())
            });
            assert_eq!(fine, Ok(()));
            assert!(ticks > 0);
            for at in [0, 1 << 20, SIZE - 1] {
                let mut changed = bytes();
                changed[at] ^= 1;
                assert_eq!(
                    checked(processes, &changed, &mut || Ok(())),
                    Err("bad-hash".to_owned()),
                    "{at}"
                );
            }
            let short = checked(processes, &bytes()[..SIZE - 1], &mut || Ok(()));
            assert!(short.is_err(), "{short:?}");
        }
    }

    #[test]
    fn the_end_of_the_machine_ends_it() {
        for processes in [1, 2, 4] {
            let ended = checked(processes, &bytes(), &mut || Err(Stop::Ending));
            assert_eq!(ended, Err("ending".to_owned()));
        }
    }

    /// The loop starts children while it hashes, and a fork beside other threads may find their locks held for ever.
    #[test]
    fn other_processors_are_given_to_processes() {
        // Those of this thread: other tests have threads and children of their own.
        let path = format!("/proc/self/task/{}/children", rustix::thread::gettid());
        let mut most = 0;
        let fine = checked(3, &bytes(), &mut || {
            let children = std::fs::read_to_string(&path).unwrap_or_default();
            most = most.max(children.split_whitespace().count());
            Ok(())
        });
        assert_eq!(fine, Ok(()));
        assert_eq!(most, 2);
    }

    /// Nobody can kill PID 1 for its memory; its copies can be.
    #[test]
    fn what_a_copy_did_not_check_is_checked_anyway() {
        let path = format!("/proc/self/task/{}/children", rustix::thread::gettid());
        let kill = || {
            let children = std::fs::read_to_string(&path).unwrap_or_default();
            for pid in children.split_whitespace() {
                let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            Ok(())
        };
        assert_eq!(checked(3, &bytes(), &mut || kill()), Ok(()));
        let mut changed = bytes();
        changed[(1 << 20) + 5] ^= 1;
        let found = checked(3, &changed, &mut || kill());
        assert_eq!(found, Err("bad-hash".to_owned()));
    }
}
