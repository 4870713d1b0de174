//! Child processes that cannot outlive the test, and commands that cannot outlast their limit.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A command that the kernel kills when the thread that started it ends, even when that ends badly.
pub fn leashed<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", program])
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end within `limit`; then it is killed, and that is an error.
///
/// # Errors
/// When it cannot be started or took too long. A failing exit status is the caller's to judge.
pub fn output<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
    limit: Duration,
) -> Result<Output> {
    // `timeout` reports 137 for a command it had to kill.
    let limit_s = limit.as_secs_f64().to_string();
    let mut command = leashed("timeout", ["--signal=KILL", &limit_s, program]);
    let output = command
        .args(args)
        .output()
        .with_context(|| format!("start {program}"))?;
    if output.status.code() == Some(137) || output.status.code().is_none() {
        bail!(
            "{program} was killed after {limit_s} s: {}",
            describe(&output)
        );
    }
    Ok(output)
}

/// Runs a command that must succeed, with `input` on its standard input, and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the text has what it said.
pub fn must<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String> {
    let mut child = leashed(program, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} failed: {}", describe(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Exit status and everything a command printed, for an error text.
#[must_use]
pub fn describe(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!(
        "{}\n  stdout: {}\n  stderr: {}",
        output.status,
        out.trim_end(),
        err.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed_at_its_limit() {
        let error = output("sleep", ["600"], Duration::from_millis(100)).unwrap_err();
        assert!(
            error.to_string().contains("was killed after 0.1 s"),
            "{error}"
        );
    }

    #[test]
    fn input_and_failure_text_are_passed_on() {
        assert_eq!(must("cat", [""; 0], "hello").unwrap(), "hello");
        let error = must("sh", ["-c", "echo why >&2; exit 3"], "")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("why"),
            "{error}"
        );
    }
}
