//! A client that never stops downloading, and what it saw of the change from one version to the next.
//!
//! It fetches the squashfs in pieces, each over a connection of its own as any client of any kind would, and compares every
//! byte with the file that the piece's ETag names. What it notes is enough to say how long nobody was served:
//!
//! ```text
//! old old old | lost lost lost | new new
//!           '--- the gap -----'
//!  last byte of the old        first byte of the new
//! ```
//! [`Seen`] decides without a clock or a socket; the thread only collects.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use boot_manifest::Digest;

use crate::facts;

/// What one request asks for: a piece of swarms, and fast enough even from an emulated machine.
const PIECE_BYTES: u64 = 256 << 10;

/// A server that is there has begun to answer by then. Who is not there must not hold us up: the next try may find it.
const FIRST_BYTE_LIMIT: Duration = Duration::from_millis(200);

/// A whole piece, from a machine that is busy with its upgrade.
const PIECE_LIMIT: Duration = Duration::from_secs(10);

/// Between tries that fail at once.
const PAUSE: Duration = Duration::from_millis(5);

/// An answer's head is never longer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The versions the client knows: the squashfs of each.
#[derive(Debug, Clone)]
pub struct Known {
    /// Digest and bytes, the old one first.
    pub files: [(Digest, Arc<Vec<u8>>); 2],
}

impl Known {
    /// The squashfs of the old and of the new version.
    pub fn new(old: Vec<u8>, new: Vec<u8>) -> Self {
        Self {
            files: [old, new].map(|bytes| (Digest::of(&bytes), Arc::new(bytes))),
        }
    }
}

/// One piece that came whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// 0 for the old version, 1 for the new one.
    pub version: usize,
    /// When its first byte came.
    pub first: Instant,
    /// When its last byte came.
    pub last: Instant,
    /// How long it is.
    pub bytes: u64,
}

/// What happened to one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It came.
    Came(Piece),
    /// It did not.
    Lost,
}

/// What a client has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of each version.
    pub bytes: [u64; 2],
    /// Tries that failed.
    pub lost: u64,
    /// The last byte of the old version.
    pub last_of_old: Option<Instant>,
    /// The first byte of the new version.
    pub first_of_new: Option<Instant>,
    /// The old version answered after the new one had: it went back.
    pub returned: bool,
}

impl Seen {
    /// Notes one event.
    pub fn note(&mut self, event: Event) {
        match event {
            Event::Lost => self.lost += 1,
            Event::Came(piece) => {
                self.bytes[piece.version] += piece.bytes;
                if piece.version == 0 {
                    self.last_of_old = Some(piece.last);
                    self.returned |= self.first_of_new.is_some();
                } else {
                    self.first_of_new.get_or_insert(piece.first);
                }
            }
        }
    }

    /// How long nobody was served while the versions changed.
    pub fn gap(&self) -> Option<Duration> {
        let first = self.first_of_new.filter(|_| !self.returned)?;
        Some(first.saturating_duration_since(self.last_of_old?))
    }
}

/// A running client. Dropping it ends it.
#[derive(Debug)]
pub struct Client {
    events: Receiver<Result<Event>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    seen: Seen,
}

impl Client {
    /// Starts to download from `port` on 127.0.0.1.
    pub fn start(port: u16, known: Known) -> Self {
        let (sender, events) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let size = known.files.iter().map(|(_, bytes)| bytes.len()).min();
            let pieces = (size.unwrap_or_default() as u64 / PIECE_BYTES).max(1);
            let mut number = 0;
            while !told.load(Ordering::Relaxed) {
                let event = piece(port, &known, number % pieces);
                match event {
                    Ok(Event::Came(_)) => number += 1,
                    _ => thread::sleep(PAUSE),
                }
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            events,
            stop,
            thread: Some(thread),
            seen: Seen::default(),
        }
    }

    /// What it has seen so far.
    ///
    /// # Errors
    /// When bytes came that no version has.
    pub fn seen(&mut self) -> Result<&Seen> {
        for event in self.events.try_iter() {
            self.seen.note(event?);
        }
        Ok(&self.seen)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Tries to get one piece. What is lost on the way is an event, wrong bytes are an error.
fn piece(port: u16, known: &Known, number: u64) -> Result<Event> {
    let from = number * PIECE_BYTES;
    let Some((answer, first, last)) = ask(port, from, from + PIECE_BYTES - 1) else {
        return Ok(Event::Lost);
    };
    let Some((etag, body)) = split(&answer) else {
        return Ok(Event::Lost);
    };
    let version = known
        .files
        .iter()
        .position(|(digest, _)| digest.hex() == etag);
    let version = version.with_context(|| format!("a version nobody made was served: {etag}"))?;
    let file = &known.files[version].1;
    let start = usize::try_from(from)?.min(file.len());
    let end = usize::try_from(from + PIECE_BYTES)?.min(file.len());
    if body.len() < end - start {
        return Ok(Event::Lost);
    }
    ensure!(
        body == &file[start..end],
        "wrong bytes were served at {from} of version {version}"
    );
    Ok(Event::Came(Piece {
        version,
        first,
        last,
        bytes: body.len() as u64,
    }))
}

/// The whole answer to one request, with the times of its first and last byte; nothing when there was none in time.
fn ask(port: u16, from: u64, to: u64) -> Option<(Vec<u8>, Instant, Instant)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, FIRST_BYTE_LIMIT).ok()?;
    stream.set_write_timeout(Some(FIRST_BYTE_LIMIT)).ok()?;
    stream.set_read_timeout(Some(FIRST_BYTE_LIMIT)).ok()?;
    // HTTP/1.0: the answer ends with the connection.
    let (channel, arch) = (facts::CHANNEL, facts::ARCH.as_str());
    let request = format!(
        "GET /{channel}/{arch}/rootfs.squashfs HTTP/1.0\r\nHost: 127.0.0.1\r\nRange: bytes={from}-{to}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
    let first = Instant::now();
    answer.extend_from_slice(&buffer[..count]);
    stream.set_read_timeout(Some(PIECE_LIMIT)).ok()?;
    let mut last = first;
    while first.elapsed() < PIECE_LIMIT {
        match stream.read(&mut buffer) {
            Ok(0) => return Some((answer, first, last)),
            Ok(count) => {
                last = Instant::now();
                answer.extend_from_slice(&buffer[..count]);
                if answer.len() as u64 > PIECE_BYTES + HEAD_BYTES_MAX as u64 {
                    return None;
                }
            }
            Err(_) => return None,
        }
    }
    None
}

/// The digest that the ETag names, and the body; only of a partial answer.
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let (status, fields) = head.split_once("\r\n")?;
    if !status.contains(" 206 ") {
        return None;
    }
    let etag = fields.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("etag")
            .then_some(value.trim().trim_matches('"'))
    })?;
    Some((etag, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn seen(start: Instant, story: &[(Option<usize>, u64, u64)]) -> Seen {
        let mut seen = Seen::default();
        for (version, first, last) in story {
            let at = |ms: &u64| start + Duration::from_millis(*ms);
            seen.note(version.map_or(Event::Lost, |version| {
                Event::Came(Piece {
                    version,
                    first: at(first),
                    last: at(last),
                    bytes: 10,
                })
            }));
        }
        seen
    }

    #[test]
    fn the_gap_is_from_the_last_byte_of_the_old_to_the_first_of_the_new() {
        let start = Instant::now();
        let (old, new, lost) = (Some(0), Some(1), None);
        let check = |story: &[_], expected: Option<u64>| {
            let gap = seen(start, story).gap();
            assert_eq!(gap, expected.map(Duration::from_millis), "{story:?}");
        };
        let change = [(old, 0, 5), (old, 6, 9), (lost, 0, 0), (new, 709, 720)];
        check(&change, Some(700));
        check(&change[..3], None);
        check(&change[2..], None);
        check(&[(old, 0, 5), (new, 9, 10), (old, 20, 25)], None);
        let seen = seen(start, &change);
        assert_eq!((seen.bytes, seen.lost, seen.returned), ([20, 10], 1, false));
    }

    #[test]
    fn only_a_partial_answer_with_a_name_counts() {
        let answer = b"HTTP/1.1 206 Partial Content\r\nETag: \"abcd\"\r\n\r\nbody";
        assert_eq!(split(answer), Some(("abcd", &b"body"[..])));
        for bad in [
            &b"HTTP/1.1 200 OK\r\nETag: \"abcd\"\r\n\r\nbody"[..],
            b"HTTP/1.1 206 Partial Content\r\nX: y\r\n\r\nbody",
            b"HTTP/1.1 206 Partial",
            b"",
        ] {
            assert_eq!(split(bad), None);
        }
    }

    #[test]
    fn lost_answers_are_counted_and_wrong_bytes_are_an_error() {
        let known = Known::new(vec![1; 1000], vec![2; 1000]);
        let etag = known.files[1].0.hex();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            for body in ["", "cut", "right", "wrong"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let count = stream.read(&mut request).unwrap();
                assert!(request[..count].starts_with(b"GET /stable/x86_64/rootfs.squashfs "));
                let bytes = match body {
                    "" => continue,
                    "cut" => vec![2; 10],
                    "right" => vec![2; 1000],
                    _ => vec![3; 1000],
                };
                let head = format!("HTTP/1.1 206 Partial Content\r\nETag: \"{etag}\"\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
            }
        });
        assert_eq!(piece(port, &known, 0).unwrap(), Event::Lost);
        assert_eq!(piece(port, &known, 0).unwrap(), Event::Lost);
        let Event::Came(came) = piece(port, &known, 0).unwrap() else {
            panic!("the right bytes came");
        };
        assert_eq!((came.version, came.bytes), (1, 1000));
        let error = piece(port, &known, 0).unwrap_err();
        assert!(error.to_string().contains("wrong bytes"), "{error}");
        server.join().unwrap();
        // Nobody listens there now.
        assert_eq!(piece(port, &known, 0).unwrap(), Event::Lost);
    }
}
