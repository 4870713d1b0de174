//! QEMU's control socket (QMP), as much of it as a test needs: commands, and why the machine ended.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{Timespec, poll};
use serde_json::{Value, json};

/// An answer that takes longer than this will not come.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Attempts to connect are this far apart: QEMU makes the socket before it prints anything.
const CONNECT_STEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

/// A connection to one machine's QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    end: Option<String>,
    resets: usize,
}

impl Qmp {
    /// Connects to the socket at `path`, which QEMU is about to create.
    ///
    /// # Errors
    /// When it does not appear within `limit`, or does not speak QMP.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("connect to {}", path.display()));
                }
                Err(_) => poll(&mut [], Some(&CONNECT_STEP)).map(|_| ())?,
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
            end: None,
            resets: 0,
        };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("not a QMP greeting: {greeting}");
        }
        qmp.run("qmp_capabilities", json!({}))?;
        // Answered when the machine is complete: QEMU has opened every file by then.
        qmp.run("query-status", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// What QEMU says against it, or a lost connection.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self
                .read()
                .with_context(|| format!("answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn power_button(&mut self) -> Result<()> {
        self.run("system_powerdown", json!({})).map(|_| ())
    }

    /// Waits until the machine has ended and says why, in QEMU's words: `guest-shutdown` for a power-off,
    /// `guest-reset` for a reboot, `guest-panic`; or `gone` when QEMU said nothing.
    ///
    /// # Errors
    /// When it is still running at the end of `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("still running after {:.0} s", limit.as_secs_f32());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Ok(self.end.take().unwrap_or_else(|| "gone".to_owned())),
                Ok(_) => self.note_event(&serde_json::from_str(&line)?),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(self.end.take().unwrap_or_else(|| "gone".to_owned())),
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU closed its control socket");
        }
        let message: Value = serde_json::from_str(&line).context("a line that is not JSON")?;
        self.note_event(&message);
        Ok(message)
    }

    /// How many resets QEMU has told of.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.resets
    }

    fn note_event(&mut self, message: &Value) {
        if message["event"] == "RESET" {
            self.resets += 1;
        }
        if message["event"] == "SHUTDOWN" {
            self.end = message["data"]["reason"].as_str().map(str::to_owned);
        }
    }
}
