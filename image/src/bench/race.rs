//! Many clients started at the same moment: how long until the last one is done.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::limits::LOOK_PERIOD;

/// Clients that are killed when this is dropped.
struct Runners(Vec<Child>);

impl Drop for Runners {
    fn drop(&mut self) {
        for runner in &mut self.0 {
            // Ended ones cannot be killed, which is all right.
            let _ = runner.kill();
            let _ = runner.wait();
        }
    }
}

/// Starts all of them and waits until every one has ended well; from the first start to the last end.
///
/// # Errors
/// When one cannot be started or fails, or they take longer than `limit`.
pub fn last(commands: Vec<Command>, limit: Duration) -> Result<Duration> {
    let started = Instant::now();
    let mut runners = Runners(Vec::with_capacity(commands.len()));
    for mut command in commands {
        let runner = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // What a client says fits into a pipe.
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        runners.0.push(runner);
    }
    let all = runners.0.len();
    while !runners.0.is_empty() {
        ensure!(
            started.elapsed() < limit,
            "{} of {all} clients are not done after {} s",
            runners.0.len(),
            limit.as_secs()
        );
        std::thread::sleep(LOOK_PERIOD);
        // Those that still run stay where they are killed if one of the others failed.
        while let Some(ended) = ended(&mut runners.0)? {
            judge(runners.0.swap_remove(ended))?;
        }
    }
    Ok(started.elapsed())
}

/// The place of one that has ended.
fn ended(runners: &mut [Child]) -> Result<Option<usize>> {
    for (place, runner) in runners.iter_mut().enumerate() {
        if runner.try_wait()?.is_some() {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn judge(runner: Child) -> Result<()> {
    let output = runner.wait_with_output()?;
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

    fn shells(scripts: &[&str]) -> Vec<Command> {
        let shell = |script: &&str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
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
