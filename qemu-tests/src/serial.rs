//! The lines something prints, as they come: a machine's serial console or a server's log.
//!
//! A reader thread takes the bytes, writes each line with its time to a log file and wakes whoever waits.
//! Waiting is like reading: each wait goes on after the line the last one found, so that a story told by
//! the console can be checked in its order.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines shown of the end of a transcript when a wait fails.
const TAIL_LINES: usize = 25;
/// A line longer than this is cut: a console that prints garbage must not eat the memory of the test.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// Lines kept; the log file has them all.
const LINES_MAX: usize = 50_000;

/// A line that was waited for.
#[derive(Clone, Debug)]
pub struct Line {
    /// When its last byte arrived.
    pub at: Instant,
    /// The text without control sequences.
    pub text: String,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    next: usize,
    ended: bool,
}

/// The growing transcript of one stream.
#[derive(Debug)]
pub struct Transcript {
    name: String,
    log: PathBuf,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Transcript {
    /// Reads `source` to its end on a thread of its own and copies it, with times, to the file `log`.
    ///
    /// # Errors
    /// When the log file cannot be created.
    pub fn of(name: &str, source: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            copy_lines(source, file, &theirs);
            lock(&theirs.0).ended = true;
            theirs.1.notify_all();
        });
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            shared,
        })
    }

    /// Waits for the next line that contains `wanted`, after the last line a wait has found.
    ///
    /// # Errors
    /// When the time is up, or the stream ends first; the text has the end of the transcript.
    pub fn wait_for(&self, wanted: &str, limit: Duration) -> Result<Line> {
        self.wait_for_unless(wanted, &[], limit)
    }

    /// Like [`Self::wait_for`], but gives up at once when a line contains one of `never`.
    ///
    /// # Errors
    /// As [`Self::wait_for`], and when such a line comes first.
    pub fn wait_for_unless(&self, wanted: &str, never: &[&str], limit: Duration) -> Result<Line> {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.shared.0);
        loop {
            while let Some(line) = state.lines.get(state.next).cloned() {
                state.next += 1;
                if line.text.contains(wanted) {
                    return Ok(line);
                }
                if let Some(bad) = never.iter().find(|bad| line.text.contains(**bad)) {
                    let (text, name) = (&line.text, &self.name);
                    bail!(
                        "{name}: waited for `{wanted}` and met `{bad}`: {text}{}",
                        self.tail(&state)
                    );
                }
            }
            if state.ended {
                bail!(
                    "{}: ended without `{wanted}`{}",
                    self.name,
                    self.tail(&state)
                );
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (name, seconds) = (&self.name, limit.as_secs_f32());
                bail!(
                    "{name}: no `{wanted}` within {seconds:.0} s{}",
                    self.tail(&state)
                );
            }
            state = self
                .shared
                .1
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Waits until any line contains `wanted`, also one before the last line a wait has found.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_anywhere(&self, wanted: &str, limit: Duration) -> Result<Line> {
        lock(&self.shared.0).next = 0;
        self.wait_for(wanted, limit)
    }

    /// All lines so far that contain `wanted`, wherever the last wait stopped.
    #[must_use]
    pub fn lines_with(&self, wanted: &str) -> Vec<String> {
        let state = lock(&self.shared.0);
        state
            .lines
            .iter()
            .filter(|l| l.text.contains(wanted))
            .map(|l| l.text.clone())
            .collect()
    }

    /// Whether any line so far contains `wanted`.
    #[must_use]
    pub fn said(&self, wanted: &str) -> bool {
        lock(&self.shared.0)
            .lines
            .iter()
            .any(|line| line.text.contains(wanted))
    }

    fn tail(&self, state: &State) -> String {
        let from = state.lines.len().saturating_sub(TAIL_LINES);
        let mut text = format!("\n  the end of {}:", self.log.display());
        for line in &state.lines[from..] {
            text.push_str("\n  | ");
            text.push_str(&line.text);
        }
        text
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy_lines(source: impl Read, mut log: File, shared: &(Mutex<State>, Condvar)) {
    let start = Instant::now();
    let mut source = BufReader::new(source);
    let mut raw = Vec::new();
    loop {
        raw.clear();
        match source
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut raw)
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = printable(&String::from_utf8_lossy(&raw));
        // A full disk must not stop the test from reading on: the lines in memory are what it judges by.
        let _ = writeln!(log, "[{:9.3}] {text}", start.elapsed().as_secs_f64());
        let mut state = lock(&shared.0);
        if state.lines.len() < LINES_MAX {
            state.lines.push(Line {
                at: Instant::now(),
                text,
            });
        }
        drop(state);
        shared.1.notify_all();
    }
}

/// `text` without terminal control sequences, carriage returns and other control characters.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars
                    .next()
                    .is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c))
                {}
            } else {
                chars.next();
            }
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(text: &'static str) -> (tempfile::TempDir, Transcript) {
        let folder = tempfile::tempdir().unwrap();
        let transcript =
            Transcript::of("t", text.as_bytes(), &folder.path().join("t.log")).unwrap();
        (folder, transcript)
    }

    #[test]
    fn waits_follow_the_order_of_the_lines() {
        let (_folder, t) = transcript("one\ntwo\none again\n");
        let second = Duration::from_secs(5);
        assert_eq!(t.wait_for("one", second).unwrap().text, "one");
        assert_eq!(t.wait_for("one", second).unwrap().text, "one again");
        let error = t.wait_for("one", second).unwrap_err().to_string();
        assert!(
            error.contains("ended without `one`") && error.contains("| two"),
            "{error}"
        );
        assert!(t.said("two"));
    }

    #[test]
    fn a_forbidden_line_ends_the_wait_at_once() {
        let (_folder, t) = transcript("phase: refused: expired: too old\nphase: serving\n");
        let error = t
            .wait_for_unless("serving", &["phase: refused"], Duration::from_secs(5))
            .unwrap_err()
            .to_string();
        assert!(error.contains("met `phase: refused`"), "{error}");
    }

    #[test]
    fn a_silent_stream_runs_into_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        let t = Transcript::of("t", reader, &folder.path().join("t.log")).unwrap();
        let error = t
            .wait_for("x", Duration::from_millis(20))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no `x` within"), "{error}");
    }

    #[test]
    fn control_sequences_are_not_text() {
        assert_eq!(printable("\u{1b}[2J\u{1b}[1;1Hphase\u{1b}c\r\n"), "phase");
    }
}
