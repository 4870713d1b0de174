//! Reads what children send: reports with descriptors, and lines of output. Bounded and never blocking.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use boot_manifest::handoff::{REPORT_SIZE_MAX, Report};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

use crate::limits;
use crate::screen;

/// What came out of the socket.
#[derive(Debug)]
pub(crate) enum Received {
    /// A report, with the files beside it.
    Report(Report, Vec<File>),
    /// A packet that is none; the text says why.
    Garbage(String),
    /// Nothing now.
    Nothing,
    /// The child closed its end.
    Closed,
}

/// Takes one packet.
pub(crate) fn receive(socket: impl AsFd) -> Received {
    // One byte more than allowed, so that a packet that is too long is seen as such.
    let mut packet = [0; REPORT_SIZE_MAX + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(limits::REPORT_FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut buffers = [IoSliceMut::new(&mut packet)];
    let message = match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, flags) {
        Ok(message) => message,
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        Err(error) => return Received::Garbage(error.to_string()),
    };
    let mut files = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            files.extend(fds.map(File::from));
        }
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Received::Garbage("a packet with too many bytes or files".to_owned());
    }
    if message.bytes == 0 && files.is_empty() {
        return Received::Closed;
    }
    match Report::decode(&packet[..message.bytes]) {
        Ok(report) => Received::Report(report, files),
        Err(error) => Received::Garbage(error.to_string()),
    }
}

/// How many lines a child may cause: not more than a console can bear. What it may not is counted.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    window: Option<Instant>,
    in_window: u32,
    dropped: u32,
}

impl Budget {
    /// Whether one more line may be shown. Otherwise it counts as dropped.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        self.turn_window(now);
        let allowed = self.in_window < limits::CHILD_LINES_MAX;
        if allowed {
            self.in_window += 1;
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
        allowed
    }

    /// Whether [`Self::allows`] would say yes. For a line that is only put off.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        self.turn_window(now);
        self.in_window < limits::CHILD_LINES_MAX
    }

    fn turn_window(&mut self, now: Instant) {
        let fresh = self
            .window
            .is_none_or(|start| now.duration_since(start) >= limits::CHILD_LINES_WINDOW);
        if fresh {
            self.window = Some(now);
            self.in_window = 0;
        }
    }

    /// How many lines were dropped in windows that are over: told once.
    pub(crate) fn take_dropped(&mut self, now: Instant) -> Option<u32> {
        self.turn_window(now);
        let is_over = self.in_window == 0;
        (is_over && self.dropped > 0).then(|| std::mem::take(&mut self.dropped))
    }
}

/// Makes clean lines of a child's output: printable, of bounded length, and within a budget.
#[derive(Debug)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The rest of a line that was too long is dropped.
    skipping: bool,
    budget: Budget,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self {
            partial: Vec::new(),
            skipping: false,
            budget: Budget::default(),
        }
    }

    /// Takes what the child printed and passes on the lines that are complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], now: Instant, mut show: impl FnMut(&str)) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(now, &mut show),
                b'\r' => {}
                _ if self.skipping => {}
                byte if self.partial.len() < limits::CHILD_LINE_MAX => self.partial.push(*byte),
                _ => {
                    self.partial.extend(b" [...]");
                    self.skipping = true;
                }
            }
        }
    }

    /// The child is gone: its last line may lack an end.
    pub(crate) fn finish(&mut self, now: Instant, mut show: impl FnMut(&str)) {
        self.end_line(now, &mut show);
        if self.budget.dropped > 0 {
            show(&more_lines(std::mem::take(&mut self.budget.dropped)));
        }
    }

    fn end_line(&mut self, now: Instant, show: &mut impl FnMut(&str)) {
        self.skipping = false;
        let line = std::mem::take(&mut self.partial);
        if line.is_empty() {
            return;
        }
        if let Some(dropped) = self.budget.take_dropped(now) {
            show(&more_lines(dropped));
        }
        if self.budget.allows(now) {
            show(&screen::printable(&without_priority(
                &String::from_utf8_lossy(&line),
            )));
        }
    }
}

fn more_lines(dropped: u32) -> String {
    format!("[{dropped} more lines]")
}

/// Drops the priority prefix `<3>` that programs write for a system log.
fn without_priority(line: &str) -> String {
    let rest = line
        .strip_prefix('<')
        .and_then(|rest| rest.strip_prefix(|c: char| ('0'..='7').contains(&c)));
    rest.and_then(|rest| rest.strip_prefix('>'))
        .unwrap_or(line)
        .to_owned()
}

/// Lets a value through at most once per interval, unless it is another one.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<(String, Instant)>,
}

impl Throttle {
    /// Whether `what` may be told now.
    pub(crate) fn allows(&mut self, what: &str, now: Instant, interval: Duration) -> bool {
        if let Some((last, at)) = &self.last
            && last == what
            && now.duration_since(*at) < interval
        {
            return false;
        }
        self.last = Some((what.to_owned(), now));
        true
    }
}

/// Reads output of a child that is available now.
pub(crate) fn read_output(
    fd: &OwnedFd,
    lines: &mut Lines,
    now: Instant,
    show: impl FnMut(&str),
) -> bool {
    let mut bytes = [0; limits::CHILD_READ_SIZE];
    match rustix::io::read(fd, &mut bytes) {
        Ok(0) => false,
        Ok(read) => {
            lines.feed(&bytes[..read], now, show);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use boot_manifest::handoff::HandoffRecord;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType,
    };

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn send(socket: &OwnedFd, packet: &[u8], files: &[&File]) {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        rustix::net::sendmsg(
            socket,
            &[IoSlice::new(packet)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .unwrap();
    }

    #[test]
    fn reports_arrive_with_their_files() {
        let (ours, theirs) = pair();
        assert!(matches!(receive(&ours), Received::Nothing));
        let file = tempfile::tempfile().unwrap();
        let record = HandoffRecord {
            origin: "http://a".to_owned(),
            fds: vec!["manifest".to_owned()],
        };
        send(&theirs, &Report::Handoff(record.clone()).encode(), &[&file]);
        send(&theirs, &Report::Ready {}.encode(), &[]);
        let Received::Report(Report::Handoff(found), files) = receive(&ours) else {
            panic!("no handoff")
        };
        assert_eq!((found, files.len()), (record, 1));
        let flags = rustix::io::fcntl_getfd(&files[0]).unwrap();
        assert!(
            flags.contains(rustix::io::FdFlags::CLOEXEC),
            "it must not leak into other children"
        );
        assert!(matches!(
            receive(&ours),
            Received::Report(Report::Ready {}, _)
        ));
        drop(theirs);
        assert!(matches!(receive(&ours), Received::Closed));
    }

    #[test]
    fn garbage_is_told_and_survived() {
        let (ours, theirs) = pair();
        let file = tempfile::tempfile().unwrap();
        send(&theirs, &vec![b'x'; REPORT_SIZE_MAX + 100], &[]);
        send(&theirs, b"{}", &[]);
        send(
            &theirs,
            &Report::Ready {}.encode(),
            &[&file; limits::REPORT_FDS_MAX + 5],
        );
        for _ in 0..3 {
            assert!(matches!(receive(&ours), Received::Garbage(_)));
        }
        assert!(matches!(receive(&ours), Received::Nothing));
    }

    #[track_caller]
    fn check(pieces: &[&[u8]], expected: &[&str]) {
        let now = Instant::now();
        let (mut lines, mut shown) = (Lines::new(), Vec::new());
        for piece in pieces {
            lines.feed(piece, now, |line| shown.push(line.to_owned()));
        }
        lines.finish(now, |line| shown.push(line.to_owned()));
        assert_eq!(shown, expected);
    }

    #[test]
    fn output_becomes_clean_lines() {
        check(
            &[b"one\ntw", b"o\r\n\n", b"three"],
            &["one", "two", "three"],
        );
        check(&[b"<3>error\n<9>x\n"], &["error", "<9>x"]);
        check(&[b"\x1b[31mred\x1b[0m \xff\xfe\n"], &["?[31mred?[0m ??"]);
        let long = vec![b'a'; 10_000];
        let cut = format!("{} [...]", "a".repeat(limits::CHILD_LINE_MAX));
        check(&[&long, b"\nnext\n"], &[&cut, "next"]);
    }

    #[test]
    fn a_flood_is_counted_instead_of_shown() {
        let now = Instant::now();
        let (mut lines, mut shown) = (Lines::new(), Vec::new());
        for _ in 0..1000 {
            lines.feed(b"flood\n", now, |line| shown.push(line.to_owned()));
        }
        assert_eq!(shown.len(), limits::CHILD_LINES_MAX as usize);
        lines.feed(b"calm\n", now + limits::CHILD_LINES_WINDOW, |line| {
            shown.push(line.to_owned())
        });
        let hidden = 1000 - limits::CHILD_LINES_MAX;
        assert_eq!(
            shown[shown.len() - 2..],
            [format!("[{hidden} more lines]"), "calm".to_owned()]
        );
    }

    #[test]
    fn repeated_progress_is_throttled() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut throttle = Throttle::default();
        assert!(throttle.allows("rootfs", now, second));
        assert!(!throttle.allows("rootfs", now, second));
        assert!(throttle.allows("kernel", now, second));
        assert!(throttle.allows("kernel", now + second, second));
    }
}
