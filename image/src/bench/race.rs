//! Many clients started at the same moment: how long until the last one is done.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::limits::LOOK_PERIOD;

/// A client of a race.
pub struct Runner {
    /// What it is.
    pub command: Command,
    /// The file that is there when it is done, though it may go on for others; it is done when it ends where none is named.
    pub done: Option<PathBuf>,
}

/// Clients that are killed when this is dropped.
struct Runners(Vec<Running>);

struct Running {
    child: Child,
    /// Looked for until it is there.
    done: Option<PathBuf>,
    is_done: bool,
}

impl Drop for Runners {
    fn drop(&mut self) {
        for runner in &mut self.0 {
            // Ended ones cannot be killed, which is all right.
            let _ = runner.child.kill();
            let _ = runner.child.wait();
        }
    }
}

/// Starts all of them and waits until every one has ended well; from the first start until the last was done.
///
/// # Errors
/// When one cannot be started or fails, or they take longer than `limit`.
pub fn last(runners: Vec<Runner>, limit: Duration) -> Result<Duration> {
    let started = Instant::now();
    let mut running = Runners(Vec::with_capacity(runners.len()));
    for Runner { mut command, done } in runners {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // What a client says fits into a pipe.
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        running.0.push(Running {
            child,
            done,
            is_done: false,
        });
    }
    let all = running.0.len();
    let mut last = Duration::ZERO;
    while !running.0.is_empty() {
        ensure!(
            started.elapsed() < limit,
            "{} of {all} clients are not done after {} s",
            running.0.len(),
            limit.as_secs()
        );
        std::thread::sleep(LOOK_PERIOD);
        for runner in &mut running.0 {
            if runner.done.as_ref().is_some_and(|file| file.exists()) {
                last = started.elapsed();
                runner.done = None;
                runner.is_done = true;
            }
        }
        // Those that still run stay where they are killed if one of the others failed.
        while let Some(place) = ended(&mut running.0)? {
            let runner = running.0.swap_remove(place);
            if !runner.is_done {
                last = started.elapsed();
            }
            judge(runner.child)?;
        }
    }
    Ok(last)
}

/// The place of one that has ended.
fn ended(runners: &mut [Running]) -> Result<Option<usize>> {
    for (place, runner) in runners.iter_mut().enumerate() {
        if runner.child.try_wait()?.is_some() {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn judge(child: Child) -> Result<()> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "a client failed ({}): {}",
        output.status,
        said.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shells(scripts: &[&str]) -> Vec<Runner> {
        let shell = |script: &&str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Runner {
                command,
                done: None,
            }
        };
        scripts.iter().map(shell).collect()
    }

    #[test]
    fn the_last_one_counts() {
        let took = last(
            shells(&["true", "sleep 0.2", "true"]),
            Duration::from_secs(60),
        )
        .unwrap();
        assert!(took >= Duration::from_millis(200), "{took:?}");
    }

    #[test]
    fn who_goes_on_for_others_was_done_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("done");
        let script = format!("touch {}; sleep 0.5", file.display());
        let mut shells = shells(&[&script]);
        shells[0].done = Some(file);
        let started = Instant::now();
        let took = last(shells, Duration::from_secs(60)).unwrap();
        assert!(
            took + Duration::from_millis(300) < started.elapsed(),
            "{took:?}"
        );
    }

    #[test]
    fn one_that_fails_or_never_ends_fails_the_race() {
        let error = last(
            shells(&["true", "echo why >&2; exit 3"]),
            Duration::from_secs(60),
        );
        assert!(error.unwrap_err().to_string().contains("why"));
        let started = Instant::now();
        let error = last(shells(&["exec sleep 600"]), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("1 of 1 clients"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
