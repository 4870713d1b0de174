//! Work that a disk may hold up for ever, done in a copy of PID 1 so that PID 1 itself never waits for a disk; and work for
//! more than one processor.
//!
//! ```text
//! PID 1 ── fork ──► worker: reads, writes, flushes
//!   │  ◄── pipe ──── one byte per step, then the result, then the end
//!   └ turns the loop, feeds the watchdog, and gives the worker up when it stalls
//! ```
//!
//! A worker that was given up may still sit in the kernel with a write under way, so whoever gets [`Failed::Stuck`] must not
//! use that disk again before the next boot. Never decides anything.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::plan::{Refusal, Stop};
use crate::verify::Tick;
use crate::{limits, sys};

/// How long a worker may take, and whether the end of the machine ends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Between two steps.
    pub(crate) stall: Duration,
    /// In all.
    pub(crate) total: Duration,
    /// Whether it is broken off when a shutdown is asked for. Otherwise that waits for its result.
    pub(crate) is_broken_off: bool,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The work says so, or the machine ends.
    Stopped(Stop),
    /// No step was done for too long.
    Stuck(Refusal),
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Stopped(stop) => stop,
            Failed::Stuck(refusal) => refusal.into(),
        }
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Stopped(refusal.into())
    }
}

/// Called by the work after each step: it got on.
pub(crate) type Step<'a> = &'a mut dyn FnMut();

const STEP: u8 = b'.';
const GOOD: u8 = b'+';
const REFUSED: u8 = b'-';

/// Does `work` in a copy of this process in which only `files` are open.
pub(crate) fn run(
    patience: Patience,
    files: &[BorrowedFd<'_>],
    tick: Tick<'_>,
    work: impl FnOnce(Step<'_>) -> Result<Vec<u8>, Refusal>,
) -> Result<Vec<u8>, Failed> {
    begin(files, work)?.wait(patience, tick)
}

/// A copy of this process that works. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its number may be another process's by the time that it is killed: the loop reaps whatever ended.
    handle: Option<OwnedFd>,
    reader: File,
}

/// Starts `work` in a copy of this process in which only `files` are open.
pub(crate) fn begin(
    files: &[BorrowedFd<'_>],
    work: impl FnOnce(Step<'_>) -> Result<Vec<u8>, Refusal>,
) -> Result<Running, Refusal> {
    let failed = |error: &std::io::Error| Refusal::new("io", format!("worker: {error}"));
    let (reader, writer) = std::io::pipe().map_err(|error| failed(&error))?;
    let mut keep: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
    keep.push(writer.as_raw_fd());
    let pid = sys::fork(|| {
        sys::close_all_but(&keep);
        let mut writer = &writer;
        let result = work(&mut || {
            let _nobody_listens = writer.write_all(&[STEP]);
        });
        let answer = match result {
            Ok(bytes) => [&[GOOD], &bytes[..]].concat(),
            Err(Refusal { code, reason }) => {
                [&[REFUSED], code.as_bytes(), b"\0", reason.as_bytes()].concat()
            }
        };
        let _nobody_listens = writer.write_all(&answer);
    });
    let pid = pid.map_err(|error| failed(&error))?;
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
    // From here on the pipe ends when the worker does.
    drop(writer);
    Ok(Running {
        handle,
        reader: File::from(OwnedFd::from(reader)),
    })
}

impl Running {
    /// Turns the loop until it is done.
    pub(crate) fn wait(self, patience: Patience, tick: Tick<'_>) -> Result<Vec<u8>, Failed> {
        let answer = wait(patience, &self.reader, tick)?;
        Ok(understand(answer)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            let _ended_already = rustix::process::pidfd_send_signal(handle, Signal::KILL);
            // The loop reaps it too, whoever comes first.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _reaped_already = rustix::process::waitid(WaitId::PidFd(handle.as_fd()), options);
        }
    }
}

/// Reads the answer to its end.
fn wait(patience: Patience, reader: &File, tick: Tick<'_>) -> Result<Vec<u8>, Failed> {
    let started = Instant::now();
    let mut last = started;
    let mut answer = Vec::new();
    let mut piece = vec![0; limits::DISK_ANSWER_STEP];
    loop {
        if is_ready(reader.as_fd()) {
            let read = (&*reader).read(&mut piece);
            let read = read.map_err(|error| Refusal::new("io", format!("worker: {error}")))?;
            if read == 0 {
                return Ok(answer);
            }
            last = Instant::now();
            let is_step = |byte: &u8| answer.is_empty() && *byte == STEP;
            let steps = piece[..read]
                .iter()
                .take_while(|byte| is_step(byte))
                .count();
            answer.extend_from_slice(&piece[steps..read]);
        }
        if last.elapsed() > patience.stall || started.elapsed() > patience.total {
            let waited = started.elapsed().as_secs();
            let reason = format!("the disk did not answer; given up after {waited} s");
            return Err(Failed::Stuck(Refusal::new("disk-slow", reason)));
        }
        if let Err(stop) = tick()
            && patience.is_broken_off
        {
            return Err(Failed::Stopped(stop));
        }
    }
}

fn is_ready(reader: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(reader, PollFlags::IN)];
    let timeout = Timespec::try_from(limits::DISK_TURN).ok();
    let _turns_again = rustix::event::poll(&mut fds, timeout.as_ref());
    !fds[0].revents().is_empty()
}

fn understand(mut answer: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    match answer.first() {
        Some(&GOOD) => {
            answer.remove(0);
            Ok(answer)
        }
        Some(&REFUSED) => {
            let text = String::from_utf8_lossy(&answer[1..]);
            let (code, reason) = text.split_once('\0').unwrap_or(("io", &text));
            Err(Refusal::new(code, reason))
        }
        _ => Err(Refusal::new("io", "the worker ended without a result")),
    }
}

/// For tests and for workers that were given up.
#[cfg(test)]
pub(crate) const BRIEF: Patience = Patience {
    stall: Duration::from_secs(20),
    total: Duration::from_secs(60),
    is_broken_off: true,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn no_tick() -> impl FnMut() -> Result<(), Stop> {
        || Ok(())
    }

    #[test]
    fn a_result_comes_back_whole() {
        let long: Vec<u8> = (0..1_500_000_u32).map(|i| (i * 7) as u8).collect();
        for bytes in [Vec::new(), vec![STEP; 3], long] {
            let expected = bytes.clone();
            let result = run(BRIEF, &[], &mut no_tick(), |step| {
                (0..5).for_each(|_| step());
                Ok(bytes)
            });
            assert!(result.unwrap() == expected);
        }
    }

    #[test]
    fn a_refusal_comes_back_as_it_was() {
        let refusal = Refusal::new("too-large", "the slot is small: é");
        let given = refusal.clone();
        let result = run(BRIEF, &[], &mut no_tick(), |_| Err(given));
        let Err(Failed::Stopped(Stop::Refused(back))) = result else {
            panic!("{result:?}")
        };
        assert_eq!(back, refusal);
    }

    #[test]
    fn a_worker_that_dies_is_an_error() {
        let result = run(BRIEF, &[], &mut no_tick(), |step| {
            step();
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, Signal::KILL).unwrap();
            Ok(Vec::new())
        });
        assert!(
            matches!(&result, Err(Failed::Stopped(Stop::Refused(refusal))) if refusal.code == "io"),
            "{result:?}"
        );
    }

    /// Fault 43: the disk does not answer. The loop goes on turning, and the work is given up.
    #[test]
    fn a_stuck_disk_is_given_up_while_the_loop_turns() {
        let patience = Patience {
            stall: Duration::from_millis(300),
            ..BRIEF
        };
        let mut turns = 0;
        let mut tick = || {
            turns += 1;
            Ok(())
        };
        let (never, _writer) = std::io::pipe().unwrap();
        let result = run(patience, &[never.as_fd()], &mut tick, |step| {
            step();
            let mut byte = [0];
            // Nobody writes to it: the copy of the writing end in this process was closed.
            let _waits = rustix::event::poll(&mut [PollFd::new(&never, PollFlags::IN)], None);
            let _never = (&never).read(&mut byte);
            Ok(Vec::new())
        });
        assert!(matches!(&result, Err(Failed::Stuck(refusal)) if refusal.code == "disk-slow"));
        assert!(turns >= 2, "{turns}");
    }

    #[test]
    fn the_end_of_the_machine_breaks_off_what_may_be_broken_off() {
        let mut ending = || Err(Stop::Ending);
        let result = run(BRIEF, &[], &mut ending, |_| {
            loop {
                std::thread::park();
            }
        });
        assert!(matches!(result, Err(Failed::Stopped(Stop::Ending))));
        let patience = Patience {
            is_broken_off: false,
            ..BRIEF
        };
        let result = run(patience, &[], &mut ending, |_| Ok(vec![7]));
        assert_eq!(result.unwrap(), [7]);
    }

    #[test]
    fn a_worker_has_no_other_files() {
        let secret = tempfile::tempfile().unwrap();
        let number = secret.as_raw_fd();
        let kept = tempfile::tempfile().unwrap();
        let kept_number = kept.as_raw_fd();
        let result = run(BRIEF, &[kept.as_fd()], &mut no_tick(), |_| {
            let is_open =
                |fd: i32| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok() as u8;
            Ok(vec![is_open(number), is_open(kept_number)])
        });
        assert_eq!(result.unwrap(), [0, 1]);
    }
}
