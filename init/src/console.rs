//! The console: log lines, the status screen, the fatal screen.
//!
//! Every console that the kernel uses (`/sys/class/tty/console/active`) gets the same text: a serial line gets lines and
//! status blocks, a screen is drawn in place. All writes are non-blocking and bounded, because a serial line may be
//! absent, slow or stopped by flow control, and PID 1 must go on. Every line also goes to the kernel's log.
//!
//! # Lines that programs may rely on
//!
//! Each starts a line with `phase: `; nothing else that `init` or a child prints does.
//!
//! ```text
//! phase: init <version> starting
//! phase: network <interface> <address/prefix>[ <address/prefix>...] (<dhcp|link-local|static|ra>)
//! phase: mounted <version> <channel>/<arch> sequence <n> from <source> manifest sha256:<64 hex>
//! phase: serving <url of the manifest> manifest sha256:<64 hex> after <seconds> s
//! phase: memory init <KiB> KiB net <KiB> KiB serve <KiB> KiB available <KiB> of <KiB> KiB      once, soon after the first serving line
//! phase: refused: <code>: <reason>                 a source was there and did not verify
//! phase: not-found: <source>: <reason>             a source was not there
//! phase: kexec into sha256:<64 hex>[ from slot <a|b>| on trial <id>]
//!                                                  the digest of the manifest of the successor
//! phase: fatal: <code>: <reason>                   nothing can be served; restart after phase.reboot_wait
//! phase: warning: <text>
//! phase: powering off | phase: restarting
//! ```
//!
//! Codes are those of `boot_manifest::VerifyError::code`, those that `plasmd stage` reports, and those of `init`:
//! `not-found`, `io`, `bad-size`, `bad-hash`, `not-sealed`, `bad-handoff`, `not-enough-memory`, `mount-failed`,
//! `kexec-failed`, `no-trust-root`; of the disk with the slots `readback`, `too-large`, `disk-slow`, `disk-lost`.
//!
//! Output of a child starts with its role: `net: ...`, `serve: ...`, `stage: ...`.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::limits;
use crate::screen::{self, COLUMNS_MIN, Status};

/// How bad it is, as the kernel's log counts: one step milder than the names, because the kernel prints errors on the
/// same consoles that they were written to already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Error = 4,
    Warning = 5,
    Info = 6,
}

/// One place that text goes to.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    is_screen: bool,
    queue: VecDeque<u8>,
    dropped: u32,
}

impl Output {
    fn push(&mut self, text: &str) {
        if self.queue.len() + text.len() > limits::CONSOLE_QUEUE_MAX {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            if self.dropped > 0 && self.queue.is_empty() {
                let note = format!(
                    "console: {} lines did not fit\n",
                    std::mem::take(&mut self.dropped)
                );
                self.queue.extend(note.bytes());
            }
            self.queue.extend(text.bytes());
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.queue.is_empty() {
            let (front, _) = self.queue.as_slices();
            match rustix::io::write(&self.fd, front) {
                Ok(0) => return,
                Ok(written) => drop(self.queue.drain(..written)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // A console that is gone takes nothing any more; the text is in the kernel's log.
                Err(_) => return self.queue.clear(),
            }
        }
    }

    fn columns_and_rows(&self) -> (usize, usize) {
        let size = rustix::termios::tcgetwinsize(&self.fd)
            .ok()
            .filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 25), |size| {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        })
    }
}

/// All consoles of the machine.
#[derive(Debug)]
pub(crate) struct Console {
    outputs: Vec<Output>,
    kernel_log: Option<OwnedFd>,
    log: VecDeque<String>,
    shown: Vec<String>,
    changed: Option<Instant>,
    drawn: Option<Instant>,
    /// The fatal screen is never drawn over.
    is_final: bool,
}

impl Console {
    /// Opens every active console; none is fine.
    pub(crate) fn open(active: &Path, dev: &Path) -> Self {
        let names = fs::read_to_string(active).unwrap_or_default();
        let mut outputs: Vec<Output> = names
            .split_ascii_whitespace()
            .filter_map(|name| open_output(&dev.join(name), name))
            .collect();
        if outputs.is_empty() {
            outputs.extend(open_output(&dev.join("console"), "console"));
        }
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let kernel_log = rustix::fs::open(dev.join("kmsg"), flags, Mode::empty()).ok();
        Self {
            outputs,
            kernel_log,
            log: VecDeque::new(),
            shown: Vec::new(),
            changed: None,
            drawn: None,
            is_final: false,
        }
    }

    /// A line of `init` itself.
    pub(crate) fn say(&mut self, level: Level, text: &str) {
        self.line(level, &format!("phase: {}", screen::printable(text)));
    }

    /// A line of a child; `text` is printed as it is, so the caller has cleaned it.
    pub(crate) fn child(&mut self, role: &str, text: &str) {
        self.line(Level::Info, &format!("{role}: {text}"));
    }

    fn line(&mut self, level: Level, line: &str) {
        if let Some(kernel_log) = &self.kernel_log {
            // Facility "daemon" (3): the kernel never mixes them up with its own. Losing one is better than waiting.
            let record = format!("<{}>{line}\n", 3 << 3 | level as u32);
            let _lost = rustix::io::write(kernel_log, record.as_bytes());
        }
        let drawn = self.drawn.is_some();
        for output in &mut self.outputs {
            if !(output.is_screen && drawn) {
                output.push(&format!("{line}\n"));
            }
        }
        self.log.push_back(line.to_owned());
        while self.log.len() > limits::LOG_LINES_KEPT {
            self.log.pop_front();
        }
    }

    /// Notes that the status may have changed; it is shown by [`Self::tick`].
    pub(crate) fn touch(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// Shows the status where it is due.
    pub(crate) fn tick(&mut self, now: Instant, uptime: Duration, status: &Status) {
        for output in &mut self.outputs {
            output.flush();
        }
        if self.is_final {
            return;
        }
        let settled = self
            .changed
            .is_some_and(|at| now.duration_since(at) >= limits::STATUS_SETTLE);
        let stale = self
            .drawn
            .is_some_and(|at| now.duration_since(at) >= limits::SCREEN_REFRESH);
        if settled {
            self.changed = None;
            let block = status.block();
            if block != self.shown {
                let text = framed(&block);
                self.outputs
                    .iter_mut()
                    .filter(|output| !output.is_screen)
                    .for_each(|output| output.push(&text));
                self.shown = block;
            }
        }
        if settled || stale {
            self.draw(&status.screen(uptime));
            self.drawn = Some(now);
        }
    }

    /// When [`Self::tick`] wants to be called next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        if self.is_final {
            return None;
        }
        let settles = self.changed.map(|at| at + limits::STATUS_SETTLE);
        let has_screen = self.outputs.iter().any(|output| output.is_screen);
        let refresh = self
            .drawn
            .filter(|_| has_screen)
            .map(|at| at + limits::SCREEN_REFRESH);
        settles.into_iter().chain(refresh).min()
    }

    /// Shows the last screen there will be.
    pub(crate) fn fatal(&mut self, lines: &[String]) {
        let lines: Vec<String> = lines.iter().map(|line| screen::printable(line)).collect();
        let text = framed(&lines);
        self.outputs
            .iter_mut()
            .filter(|output| !output.is_screen)
            .for_each(|output| output.push(&text));
        self.draw(&lines);
        self.is_final = true;
    }

    /// Draws `lines`, and the log below them.
    fn draw(&mut self, lines: &[String]) {
        for output in self.outputs.iter_mut().filter(|output| output.is_screen) {
            let (columns, rows) = output.columns_and_rows();
            // A screen that did not take the last picture does not need this one either.
            if output.queue.is_empty() {
                output.push(&picture(lines, &self.log, columns, rows));
            }
        }
    }

    /// Consoles that still have text to write.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs
            .iter()
            .filter(|output| !output.queue.is_empty())
            .map(|output| output.fd.as_fd())
    }
}

fn open_output(path: &Path, name: &str) -> Option<Output> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    // Virtual terminals are tty0, tty1, ...; serial lines are ttyS0, ttyAMA0, hvc0, ...
    let is_screen = name
        .strip_prefix("tty")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    Some(Output {
        fd,
        is_screen,
        queue: VecDeque::new(),
        dropped: 0,
    })
}

/// A block that stands out among log lines, without control sequences.
fn framed(lines: &[String]) -> String {
    let rule = "-".repeat(72);
    format!("\n{rule}\n{}\n{rule}\n", lines.join("\n"))
}

/// Draws over the old picture line by line, which flickers less than clearing first. Lines of the status go on in the
/// next row, because a digest that is cut is worth nothing; lines of the log are cut.
fn picture(lines: &[String], log: &VecDeque<String>, columns: usize, rows: usize) -> String {
    let width = columns.max(COLUMNS_MIN) - 1;
    let rows = rows.saturating_sub(1);
    let mut picture: Vec<String> = lines.iter().flat_map(|line| wrap(line, width)).collect();
    let room = rows.saturating_sub(picture.len() + 1);
    if room > 0 {
        picture.push(String::new());
        let last = log.iter().skip(log.len().saturating_sub(room));
        picture.extend(last.map(|line| line.chars().take(width).collect()));
    }
    // The cursor has nothing to say here.
    let mut text = String::from("\x1b[?25l\x1b[H");
    for line in picture.iter().take(rows) {
        text.push_str(line);
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J");
    text
}

/// Rows of at most `width` characters; the second and later ones stand below the first one's value.
fn wrap(line: &str, width: usize) -> Vec<String> {
    const INDENT: usize = 12;
    let characters: Vec<char> = line.chars().collect();
    let (first, rest) = characters.split_at(characters.len().min(width));
    let rest = rest.chunks(width - INDENT);
    let rest = rest.map(|row| " ".repeat(INDENT) + &String::from_iter(row));
    std::iter::once(String::from_iter(first))
        .chain(rest)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A console whose outputs are files in a folder.
    fn console(folder: &Path, names: &str) -> Console {
        fs::write(folder.join("active"), names).unwrap();
        for name in names.split_ascii_whitespace() {
            fs::write(folder.join(name), "").unwrap();
        }
        Console::open(&folder.join("active"), folder)
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn a_burst_of_changes_prints_one_block() {
        let folder = tempfile::tempdir().unwrap();
        let mut console = console(folder.path(), "tty0 ttyS0");
        let mut status = Status {
            product: "Phase".to_owned(),
            ..Status::default()
        };
        let start = Instant::now();
        for number in 0..50 {
            status.host = format!("host{number}");
            console.touch(start);
            console.tick(start, Duration::ZERO, &status);
        }
        assert_eq!(read(folder.path(), "ttyS0"), "");
        assert_eq!(console.next_tick(), Some(start + limits::STATUS_SETTLE));
        console.tick(start + limits::STATUS_SETTLE, Duration::ZERO, &status);
        let text = read(folder.path(), "ttyS0");
        assert_eq!(text.matches("Phase   host").count(), 1);
        assert!(text.contains("host49") && !text.contains('\x1b'), "{text}");
        assert!(read(folder.path(), "tty0").starts_with("\x1b[?25l\x1b[H"));

        // The same content again prints nothing more on the serial line.
        let later = start + Duration::from_secs(60);
        console.touch(later);
        console.tick(later + limits::STATUS_SETTLE, Duration::ZERO, &status);
        assert_eq!(read(folder.path(), "ttyS0"), text);
    }

    #[test]
    fn lines_reach_every_console_and_cannot_steer_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut console = console(folder.path(), "tty0 ttyS0 hvc0");
        console.say(Level::Info, "hello\x1b[2J\nphase: fatal: x");
        for name in ["tty0", "ttyS0", "hvc0"] {
            assert_eq!(
                read(folder.path(), name),
                "phase: hello?[2J?phase: fatal: x\n"
            );
        }
    }

    #[test]
    fn a_blocked_console_never_blocks_and_holds_little() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let output = Output {
            fd: writer.into(),
            is_screen: false,
            queue: VecDeque::new(),
            dropped: 0,
        };
        let folder = tempfile::tempdir().unwrap();
        let mut console = console(folder.path(), "");
        console.outputs = vec![output];
        for number in 0..100_000 {
            console.say(Level::Info, &format!("line {number}"));
        }
        let output = &mut console.outputs[0];
        assert!(output.queue.len() <= limits::CONSOLE_QUEUE_MAX && output.dropped > 0);
        assert_eq!(console.waiting().count(), 1);
        // Once it is read again, it says how much is missing.
        let mut text = vec![0; 1 << 20];
        while !console.outputs[0].queue.is_empty() {
            assert!(reader.read(&mut text).unwrap() > 0);
            console.outputs[0].flush();
        }
        console.say(Level::Info, "again");
        drop(console);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("lines did not fit\nphase: again\n"), "{rest}");
    }

    #[test]
    fn the_fatal_screen_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut console = console(folder.path(), "ttyS0");
        console.fatal(&["cannot start".to_owned()]);
        let now = Instant::now();
        console.touch(now);
        console.tick(
            now + Duration::from_secs(10),
            Duration::ZERO,
            &Status::default(),
        );
        let text = read(folder.path(), "ttyS0");
        assert!(
            text.contains("\ncannot start\n") && text.matches("----\n").count() == 2,
            "{text}"
        );
    }

    #[test]
    fn pictures_fit_the_screen() {
        let log: VecDeque<String> = (0..100)
            .map(|n| format!("{n} {}", "y".repeat(200)))
            .collect();
        for lines in [vec!["x".repeat(200); 100], vec!["x".repeat(200)]] {
            let picture = picture(&lines, &log, 80, 25);
            let picture = picture.strip_prefix("\x1b[?25l\x1b[H").unwrap();
            assert_eq!(picture.matches('\n').count(), 24);
            assert!(picture.split("\x1b[K\n").all(|line| line.len() <= 79));
        }
        let picture = picture(&["short".to_owned()], &log, 80, 25);
        assert!(
            picture.contains("\n99 y"),
            "the end of the log is what counts"
        );
    }

    #[test]
    fn long_values_go_on_in_the_next_row() {
        let digest = "0".repeat(60);
        let rows = wrap(&format!("  manifest  {digest}"), 40);
        assert_eq!(rows.concat().replace(' ', ""), format!("manifest{digest}"));
        assert_eq!(
            rows.iter().map(String::len).collect::<Vec<_>>(),
            [40, 40, 16]
        );
        assert_eq!(wrap("", 40), [""]);
    }
}
