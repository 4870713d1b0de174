//! Runs a program for a bounded time with everything it prints in a log file.
//!
//! The program has a process group of its own, so that all it started can be killed at the limit. Ctrl-C does not reach that
//! group: while a program runs, the signals that would end this process end the program and are then an error.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status; `None` when it took too long and was killed with everything it had started.
    pub status: Option<ExitStatus>,
    /// What it printed, on both streams in the order it came.
    pub output: String,
}

impl Ended {
    /// Whether it ended by itself and said so.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

/// Time between two looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Time between two signs of life of a program whose output is not shown.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// The signals that end this process, while a program runs and when none does.
struct Signals {
    /// No program runs: they do what they always do.
    idle: Arc<AtomicBool>,
    /// One came while a program ran.
    came: Arc<AtomicBool>,
}

static SIGNALS: LazyLock<Signals> = LazyLock::new(|| {
    let [idle, came] = [true, false].map(|value| Arc::new(AtomicBool::new(value)));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&idle))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&came)))
            .expect("these three signals can be caught");
    }
    Signals { idle, came }
});

/// Exists while a program runs.
struct Busy;

impl Busy {
    fn new() -> Self {
        SIGNALS.idle.store(false, Ordering::SeqCst);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        SIGNALS.idle.store(true, Ordering::SeqCst);
    }
}

/// Runs `command` for at most `limit`. Its output goes to `log`, and to stderr too when `show` is set.
///
/// # Errors
/// When it cannot be started, the log cannot be written, or a signal comes that ends this process.
pub fn run(mut command: Command, limit: Duration, log: &Path, show: bool) -> Result<Ended> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let (reader, writer) = std::io::pipe()?;
    let program = command.get_program().to_string_lossy().into_owned();
    let name = log.file_stem().unwrap_or_default().to_string_lossy();
    let _busy = Busy::new();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // The command holds the pipe's writing end as well; the reader would wait for it for ever.
    drop(command);

    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            // A full disk must not end the program; the output in memory is what counts.
            let _ = file.write_all(&line);
            if show {
                let _ = std::io::stderr().write_all(&line);
            }
            output.append(&mut line);
        }
        let _ = sender.send(output);
    });

    let started = Instant::now();
    let deadline = started + limit;
    let mut told = started;
    let output = loop {
        match done.recv_timeout(LOOK_EVERY) {
            Ok(output) => break Some(output),
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if SIGNALS.came.load(Ordering::SeqCst) || Instant::now() >= deadline {
            break None;
        }
        if !show && told.elapsed() >= SIGN_OF_LIFE {
            told = Instant::now();
            eprintln!("  {name:<12} runs for {} s", started.elapsed().as_secs());
        }
    };
    let group = Pid::from_child(&child);
    let status = match &output {
        Some(_) => wait_until(&mut child, deadline)?,
        // It may have ended and left somebody behind who holds the pipe.
        None => child.try_wait()?,
    };
    if status.is_none() || output.is_none() {
        // The group may be gone already; then there is nobody to kill.
        let _ = kill_process_group(group, Signal::KILL);
        child.wait()?;
    }
    if SIGNALS.came.load(Ordering::SeqCst) {
        bail!("interrupted; {program} was ended");
    }
    let output = output
        .or_else(|| done.recv_timeout(Duration::from_secs(5)).ok())
        .unwrap_or_default();
    Ok(Ended {
        status,
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

fn wait_until(child: &mut std::process::Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (Ended, String) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("deep/log");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ended = run(command, limit, &log, false).unwrap();
        (ended, std::fs::read_to_string(&log).unwrap())
    }

    #[test]
    fn both_streams_are_kept_in_order_and_the_status_is_told() {
        let (ended, log) = shell(
            "echo one; echo two >&2; echo three; exit 3",
            Duration::from_secs(20),
        );
        assert_eq!(ended.status.and_then(|status| status.code()), Some(3));
        assert_eq!(ended.output, "one\ntwo\nthree\n");
        assert_eq!(log, ended.output);
        assert!(!ended.success());
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let started = Instant::now();
        let (ended, _) = shell(
            "echo before; sleep 100 & sleep 100",
            Duration::from_millis(300),
        );
        assert!(ended.status.is_none() && !ended.success());
        assert_eq!(ended.output, "before\n");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it was not killed"
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let result = run(
            Command::new("no-such-program"),
            Duration::from_secs(1),
            &folder.path().join("l"),
            false,
        );
        assert!(format!("{:#}", result.unwrap_err()).contains("no-such-program"));
    }
}
