//! The access log: one line for each answer, in a file or on stdout.
//!
//! ```text
//! answering threads ──lines, never waiting──> bounded queue ──> one thread ──> file
//! ```
//!
//! Whoever answers formats a line and leaves it in the queue; when the queue is full, or the file cannot be written, the
//! line is counted as dropped and nobody waits. [`AccessLog::reopen`] opens the file by its name again, so that it can be
//! renamed away: rotation is `mv` and SIGHUP. What clients say is escaped; long fields are cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::http::answered::Answered;
use crate::serve::limits::{
    LOG_BATCH_SIZE, LOG_FIELD_MAX, LOG_GOODBYE_MAX, LOG_QUEUE_MAX, LOG_TARGET_MAX,
};
use crate::serve::metrics::{Metrics, add};

/// The name that means stdout.
const STDOUT: &str = "-";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// As Apache and nginx write it, with the request's id and its milliseconds at the end
    Combined,
    /// The same without Referer, User-Agent, id and time
    Common,
    /// One JSON object a line
    Json,
}

enum Message {
    Line(String),
    Reopen(SyncSender<io::Result<()>>),
    End,
}

/// The writing end of the queue.
pub(crate) struct AccessLog {
    format: Format,
    path: PathBuf,
    queue: SyncSender<Message>,
    metrics: Arc<Metrics>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl AccessLog {
    /// Opens the file, which is made when it is not there, and starts the thread that writes it. `-` is stdout.
    ///
    /// # Errors
    /// When the file cannot be opened for writing, or no thread can be started.
    pub(crate) fn open(path: &Path, format: Format, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, messages) = sync_channel(LOG_QUEUE_MAX);
        let writer = Writer {
            path: path.to_owned(),
            out: open(path)?,
            metrics: Arc::clone(&metrics),
            batch: Batch::default(),
            is_failing: false,
        };
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&messages))?;
        Ok(Self {
            format,
            path: path.to_owned(),
            queue,
            metrics,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Where it is written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has no name to open again.
    pub(crate) fn is_stdout(&self) -> bool {
        self.path == Path::new(STDOUT)
    }

    /// Leaves a line in the queue. Never waits.
    pub(crate) fn answered(&self, answered: &Answered<'_>, id: &str) {
        let line = line(self.format, answered, id, SystemTime::now());
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                add(&self.metrics.access_log_dropped_total, 1);
            }
        }
    }

    /// Opens the file again by its name. What was logged before is in the old one. Waits for the disk.
    ///
    /// # Errors
    /// When the file cannot be opened; the old one is kept.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let (done, outcome) = sync_channel(1);
        let gone = || io::Error::other("the thread that writes it has ended");
        self.queue.send(Message::Reopen(done)).map_err(|_| gone())?;
        outcome.recv().map_err(|_| gone())?
    }

    /// Writes what is in the queue, for a bounded time.
    pub(crate) fn finish(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.take() else { return };
        let deadline = Instant::now() + LOG_GOODBYE_MAX;
        let mut is_told = false;
        // With a disk that hangs the rest is lost.
        while !writer.is_finished() && Instant::now() < deadline {
            is_told = is_told || self.queue.try_send(Message::End).is_ok();
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    if path == Path::new(STDOUT) {
        return Ok(None);
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        // What was fetched by whom is not for everybody.
        .mode(0o640)
        // A pipe that nobody reads must not stop the start.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map(Some)
}

/// Lines that are written with one call.
#[derive(Default)]
struct Batch {
    text: String,
    lines: u64,
}

struct Writer {
    path: PathBuf,
    /// Nothing is stdout.
    out: Option<File>,
    metrics: Arc<Metrics>,
    batch: Batch,
    is_failing: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            let mut next = Some(message);
            while let Some(message) = next.take() {
                match message {
                    Message::Line(line) => {
                        self.batch.text.push_str(&line);
                        self.batch.lines += 1;
                    }
                    Message::Reopen(done) => {
                        self.write();
                        let reopened = open(&self.path).map(|out| self.out = out);
                        // Whoever asked may have gone.
                        let _ = done.send(reopened);
                    }
                    Message::End => return self.write(),
                }
                if self.batch.text.len() < LOG_BATCH_SIZE {
                    next = messages.try_recv().ok();
                }
            }
            self.write();
        }
    }

    fn write(&mut self) {
        let Batch { text, lines } = &mut self.batch;
        if text.is_empty() {
            return;
        }
        let written = match &mut self.out {
            Some(file) => file.write_all(text.as_bytes()),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
        let counter = match &written {
            Ok(()) => &self.metrics.access_log_lines_total,
            Err(_) => &self.metrics.access_log_dropped_total,
        };
        add(counter, *lines);
        // Never the same failure twice.
        if let (Err(error), false) = (&written, self.is_failing) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the access log cannot be written; its lines are dropped and counted");
        }
        self.is_failing = written.is_err();
        text.clear();
        *lines = 0;
    }
}

/// A line as JSON.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    client: std::net::IpAddr,
    method: &'a str,
    target: &'a str,
    status: u16,
    bytes: u64,
    complete: bool,
    seconds: f64,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'static str>,
    fast: bool,
}

fn line(format: Format, answered: &Answered<'_>, id: &str, now: SystemTime) -> String {
    let Answered {
        client,
        method,
        target,
        status,
        sent,
        took,
        ..
    } = *answered;
    if format == Format::Json {
        let text = |field: Option<&[u8]>| {
            field.map(|field| String::from_utf8_lossy(cut(field, LOG_FIELD_MAX)).into_owned())
        };
        let line = JsonLine {
            time: rfc3339(now),
            client,
            method: method.as_str(),
            target: &String::from_utf8_lossy(cut(target.as_bytes(), LOG_TARGET_MAX)),
            status,
            bytes: sent,
            complete: answered.is_whole(),
            seconds: took.as_secs_f64(),
            id,
            agent: text(answered.agent),
            referer: text(answered.referer),
            refused: answered
                .request_id
                .and_then(|id| id.refused)
                .map(crate::serve::metrics::Reason::label),
            fast: answered.is_fast,
        };
        // Text and numbers only: this cannot fail.
        return serde_json::to_string(&line).map_or_else(|_| String::new(), |line| line + "\n");
    }
    let mut line = format!(
        "{client} - - [{}] \"{} {} HTTP/1.1\" {status} {sent}",
        common_time(now),
        escaped(method.as_str().as_bytes(), LOG_FIELD_MAX),
        escaped(target.as_bytes(), LOG_TARGET_MAX),
    );
    if format == Format::Combined {
        let field = |field: Option<&[u8]>| {
            field.map_or_else(|| "-".to_owned(), |field| escaped(field, LOG_FIELD_MAX))
        };
        let (referer, agent) = (field(answered.referer), field(answered.agent));
        let millis = took.as_secs_f64() * 1e3;
        line.push_str(&format!(" \"{referer}\" \"{agent}\" {id} {millis:.3}"));
    }
    line.push('\n');
    line
}

fn cut(field: &[u8], size_max: usize) -> &[u8] {
    field.get(..size_max).unwrap_or(field)
}

/// Text inside quotes: nothing in it ends them, or the line, or steers a terminal.
fn escaped(field: &[u8], size_max: usize) -> String {
    cut(field, size_max).escape_ascii().to_string()
}

/// `10/Oct/2026:13:55:36 +0000`
fn common_time(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // 1994-11-06T08:49:37.123Z
    let date = rfc3339(time);
    let part = |from: usize, to: usize| date.get(from..to).unwrap_or_default();
    let month: usize = part(5, 7).parse().unwrap_or(1);
    let month = MONTHS[month.clamp(1, MONTHS.len()) - 1];
    format!(
        "{}/{month}/{}:{} +0000",
        part(8, 10),
        part(0, 4),
        part(11, 19)
    )
}

/// `2026-10-10T13:55:36.123Z`
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let text = boot_manifest::Timestamp::from_unix(seconds).to_string();
    format!(
        "{}.{:03}Z",
        text.trim_end_matches('Z'),
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests;
