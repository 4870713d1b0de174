//! Runs the kernel's make: the same result on every machine with the same compiler, a log of everything, and signs of life.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::source::Tree;

/// What make and the C compiler see of the outside, besides PATH and TMPDIR. Part of the cache key.
pub const SETTINGS: [(&str, &str); 6] = [
    ("ARCH", "x86_64"),
    ("KBUILD_BUILD_USER", "phase"),
    ("KBUILD_BUILD_HOST", "phase"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// Programs whose version can change the bytes of the kernel.
const TOOLS: [&str; 3] = ["gcc", "ld", "zstd"];

/// Steps of a build whose number is not known yet: what these fragments took when this was written.
pub const STEPS_ESTIMATE: u32 = 3_200;

/// A line at least this often where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// And this often on a terminal.
const LIVE_EVERY: Duration = Duration::from_millis(200);

/// How much of the log an error quotes.
const LOG_LINES_QUOTED: usize = 12;

/// The first version line of each of the tools.
///
/// # Errors
/// When one is missing.
pub fn tool_versions() -> Result<Vec<String>> {
    TOOLS.iter().map(|tool| version(tool)).collect()
}

fn version(tool: &str) -> Result<String> {
    let output = Command::new(tool)
        .arg("--version")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!("building the kernel needs {tool}, which is not installed (Debian packages: build-essential, zstd)")
        })?;
    ensure!(output.status.success(), "{tool} --version failed");
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// One build in one tree.
#[derive(Debug)]
pub struct Make<'a> {
    /// The source.
    pub tree: &'a Tree,
    /// Everything make prints goes there.
    pub log: PathBuf,
}

impl Make<'_> {
    /// `make allnoconfig` with everything that `answers` says: all else is off.
    ///
    /// # Errors
    /// When the configuration tool fails.
    pub fn configure(&self, answers: &Path) -> Result<()> {
        let mut command = self.command(&["allnoconfig"]);
        command.env("KCONFIG_ALLCONFIG", answers);
        self.run(command, &mut Display::new(0)).map(|_| ())
    }

    /// `make bzImage` on all processors. Returns how many steps it took; `steps` is how many are expected.
    ///
    /// # Errors
    /// When the compiler fails; the error quotes the end of the log.
    pub fn image(&self, steps: u32) -> Result<u32> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let command = self.command(&[&format!("-j{jobs}"), "bzImage"]);
        self.run(command, &mut Display::new(steps))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("make");
        command.env_clear();
        for name in ["PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .envs(SETTINGS)
            .env("KBUILD_BUILD_TIMESTAMP", self.tree.made_at.to_string())
            .args(arguments)
            .current_dir(&self.tree.path)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, mut command: Command, display: &mut Display) -> Result<u32> {
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let words: Vec<&OsStr> = command.get_args().collect();
        let words = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        writeln!(log, "make {words}")?;

        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().context(
            "building the kernel needs make, which cannot be run (Debian package: build-essential)",
        )?;
        // The command holds the writing ends: without this the pipe would never end.
        drop(command);

        let (sender, lines) = mpsc::sync_channel(64);
        let copier = std::thread::spawn(move || -> std::io::Result<()> {
            for line in BufReader::new(reader).split(b'\n') {
                let line = line?;
                log.write_all(&line)?;
                log.write_all(b"\n")?;
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
            Ok(())
        });
        loop {
            match lines.recv_timeout(display.patience()) {
                Ok(line) => display.line(&line),
                Err(RecvTimeoutError::Timeout) => display.show(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait().context("cannot wait for make")?;
        display.clear();
        match copier.join() {
            Ok(written) => {
                written.with_context(|| format!("cannot write {}", self.log.display()))?
            }
            Err(_) => bail!("the log of make could not be written"),
        }
        self.success(status, &words)?;
        Ok(display.done)
    }

    fn success(&self, status: ExitStatus, words: &str) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        bail!(
            "make {words} failed ({status}); the log is {}, it ends with\n{}",
            self.log.display(),
            quoted(&log)
        )
    }
}

/// The end of a log; what went wrong stands above make's own messages, so these are left out.
fn quoted(log: &str) -> String {
    let told: Vec<&str> = log
        .lines()
        .filter(|line| !line.starts_with("make[") && step(line).is_none() && !line.is_empty())
        .collect();
    let from = told.len().saturating_sub(LOG_LINES_QUOTED);
    let lines: Vec<String> = told[from..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect();
    lines.join("\n")
}

/// The file that a line of make announces: `  CC      init/main.o`.
fn step(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ")?;
    let (word, file) = line.split_once(' ')?;
    let is_word = !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_word.then(|| file.trim())
}

/// The running count, on stderr.
#[derive(Debug)]
struct Display {
    live: bool,
    started: Instant,
    shown: Instant,
    expected: u32,
    done: u32,
    current: String,
}

impl Display {
    fn new(expected: u32) -> Self {
        let now = Instant::now();
        Self {
            live: std::io::stderr().is_terminal(),
            started: now,
            shown: now,
            expected,
            done: 0,
            current: String::new(),
        }
    }

    fn every(&self) -> Duration {
        if self.live { LIVE_EVERY } else { PLAIN_EVERY }
    }

    fn patience(&self) -> Duration {
        self.every().saturating_sub(self.shown.elapsed())
    }

    fn line(&mut self, line: &str) {
        if let Some(file) = step(line) {
            self.done = self.done.saturating_add(1);
            self.current = file.to_owned();
        }
        if self.shown.elapsed() >= self.every() {
            self.show();
        }
    }

    fn show(&mut self) {
        self.shown = Instant::now();
        if self.expected == 0 {
            return;
        }
        let text = progress_text(
            self.done,
            self.expected,
            self.started.elapsed(),
            &self.current,
        );
        if self.live {
            eprint!("\r\x1b[K  {:<12} {text}", "kernel");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("  {:<12} {text}", "kernel");
        }
    }

    fn clear(&self) {
        if self.live && self.expected > 0 {
            eprint!("\r\x1b[K");
        }
    }
}

/// ` 12 %, step 310 of about 2600, 0:45, drivers/net/...`, short enough for 80 columns.
fn progress_text(done: u32, expected: u32, took: Duration, current: &str) -> String {
    // The number of steps is an estimate: never claim to be ready before make is.
    let percent = (u64::from(done) * 100 / u64::from(expected.max(1))).min(99);
    let seconds = took.as_secs();
    let head = format!(
        "{percent:>2} %, step {done} of about {}, {}:{:02}, ",
        expected.max(done),
        seconds / 60,
        seconds % 60
    );
    let room = 64_usize.saturating_sub(head.len());
    let skip = current.chars().count().saturating_sub(room);
    head + &current.chars().skip(skip).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_other_lines() {
        let check = |line, expected| assert_eq!(step(line), expected, "{line}");
        check("  CC      init/main.o", Some("init/main.o"));
        check("  VDSO2C  arch/x86/vdso.c", Some("arch/x86/vdso.c"));
        check("  LD      vmlinux.o", Some("vmlinux.o"));
        check("init/main.c:3: warning: odd", None);
        check("make[2]: *** [Makefile:1] Error 1", None);
        check("  note: lower case", None);
        check("", None);
    }

    #[test]
    fn progress_never_claims_to_be_ready_and_fits_a_terminal() {
        let long = "drivers/net/ethernet/mellanox/mlx5/core/steering/hws/mlx5hws_bwc_complex.o";
        let text = progress_text(310, 2600, Duration::from_secs(75), long);
        assert!(text.starts_with("11 %, step 310 of about 2600, 1:15, "));
        assert!(text.ends_with("complex.o"));
        assert!(text.len() <= 64, "{text}");
        let over = progress_text(3000, 2600, Duration::from_secs(600), "vmlinux");
        assert_eq!(over, "99 %, step 3000 of about 3000, 10:00, vmlinux");
    }

    #[test]
    fn an_error_quotes_what_the_compiler_said() {
        let log = "  CC      a.o\na.c:1:2: error: odd\n  CC      b.o\nmake[1]: *** [a.o] Error 1\n\nmake: *** failed\n";
        assert_eq!(quoted(log), "  a.c:1:2: error: odd\n  make: *** failed");
        let many = (0..50).map(|n| format!("line {n}\n")).collect::<String>();
        assert_eq!(quoted(&many).lines().count(), LOG_LINES_QUOTED);
        assert!(quoted(&many).ends_with("line 49"));
    }
}
