//! A provider that may lie: a small HTTP server on the LAN whose answers a test chooses byte by byte.
//!
//! It answers `GET` and `HEAD` with `Content-Length` and honours one byte range, so that an honest table
//! of answers behaves like a real provider; whatever differs is what the test is about. It counts what it
//! was asked, and everything it started ends when it is dropped.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};

use crate::lan::{HOST, Lan};

/// A client that sends or takes nothing for this long is gone.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// Most lines of a request's header that are read.
const HEADER_LINES_MAX: usize = 100;

/// What is answered to a request for one path.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These bytes, as a correct server would.
    Bytes(Arc<[u8]>),
    /// The full length is announced, but the connection closes after `at` bytes.
    Cut {
        /// The bytes promised.
        bytes: Arc<[u8]>,
        /// Where the connection closes.
        at: usize,
    },
    /// The full length is announced; after `at` bytes nothing comes any more, and the connection stays.
    Stall {
        /// The bytes promised.
        bytes: Arc<[u8]>,
        /// Where the silence begins.
        at: usize,
    },
    /// No length is announced; these bytes come, and then blanks for ever.
    Endless(Arc<[u8]>),
    /// Another place is named: `302 Found`.
    Elsewhere(String),
    /// `404 Not Found`.
    Nothing,
}

impl Answer {
    /// An honest answer.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Path to answer; a path that is not in it is not found.
pub type Answers = BTreeMap<String, Answer>;

/// A running provider. Dropping it closes every connection and ends its threads.
#[derive(Debug)]
pub struct Provider {
    url: String,
    shared: Arc<Shared>,
    stop: Option<PipeWriter>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<Answers>,
    later: Mutex<Option<(String, Answers)>>,
    asked: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Provider {
    /// Serves `answers` on the host's side of the LAN, at `port`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve(lan: &Lan, port: u16, answers: Answers) -> Result<Self> {
        Self::serve_at(lan, HOST, port, answers)
    }

    /// The same at another address of the host.
    ///
    /// # Errors
    /// When the port is taken, or the host has no such address.
    pub fn serve_at(lan: &Lan, address: &str, port: u16, answers: Answers) -> Result<Self> {
        let listener = lan.inside(|| TcpListener::bind((address, port)))?;
        Self::listen(listener, answers)
    }

    fn listen(listener: TcpListener, answers: Answers) -> Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            answers: Mutex::new(answers),
            ..Shared::default()
        });
        let (stopped, stop) = io::pipe()?;
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut connections = Vec::new();
            loop {
                let mut ready = [
                    PollFd::new(&listener, PollFlags::IN),
                    PollFd::new(&stopped, PollFlags::IN),
                ];
                let failed = poll(&mut ready, None).is_err();
                if failed || !ready[1].revents().is_empty() {
                    break;
                }
                let Ok((stream, _)) = listener.accept() else {
                    continue;
                };
                if let Ok(copy) = stream.try_clone() {
                    lock(&theirs.open).push(copy);
                }
                let shared = Arc::clone(&theirs);
                // A connection that breaks is the client's business; the test judges the client.
                connections.push(thread::spawn(move || {
                    drop(shared.talk(&stream));
                    // Its copy in `open` would keep the connection alive.
                    stream.shutdown(std::net::Shutdown::Both)
                }));
            }
            for stream in lock(&theirs.open).drain(..) {
                // Already closed is as good.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            for connection in connections {
                // A panicked connection has printed its reason.
                let _ = connection.join();
            }
        });
        Ok(Self {
            url,
            shared,
            stop: Some(stop),
            listener: Some(thread),
        })
    }

    /// Where it serves, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Answers honestly, or at least differently, once somebody has asked for the file with this name: with
    /// `answers` from the next request on.
    pub fn change_after(&self, file: &str, answers: Answers) {
        *lock(&self.shared.later) = Some((format!("/{file}"), answers));
    }

    /// The request lines so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.listener.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn answer(&self, path: &str) -> Answer {
        let mut answers = lock(&self.answers);
        let answer = answers.get(path).cloned().unwrap_or(Answer::Nothing);
        let mut later = lock(&self.later);
        if later.as_ref().is_some_and(|(file, _)| path.ends_with(file))
            && let Some((_, changed)) = later.take()
        {
            *answers = changed;
        }
        answer
    }

    fn talk(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(IDLE_LIMIT))?;
        stream.set_write_timeout(Some(IDLE_LIMIT))?;
        let mut reader = BufReader::new(stream);
        while let Some((line, range)) = read_request(&mut reader)? {
            lock(&self.asked).push(line.clone());
            let mut words = line.split_whitespace();
            let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let answer = self.answer(path);
            if !answer.send(stream, method == "HEAD", range)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Answer {
    /// Sends the answer; false when the connection is to be closed behind it.
    fn send(
        &self,
        stream: &TcpStream,
        head: bool,
        range: Option<(usize, usize)>,
    ) -> io::Result<bool> {
        match self {
            Self::Bytes(bytes) => send_bytes(stream, bytes, bytes.len(), head, range),
            Self::Cut { bytes, at } => {
                send_bytes(stream, bytes, *at, head, range)?;
                Ok(head)
            }
            Self::Stall { bytes, at } => {
                send_bytes(stream, bytes, *at, head, range)?;
                // Until the client or the test has enough.
                if !head {
                    let mut gone = [PollFd::new(stream, PollFlags::RDHUP)];
                    poll(&mut gone, None)?;
                }
                Ok(head)
            }
            Self::Endless(bytes) => {
                let mut stream = stream;
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                if head {
                    return Ok(false);
                }
                stream.write_all(bytes)?;
                loop {
                    stream.write_all(&[b' '; 4096])?;
                }
            }
            Self::Elsewhere(url) => {
                let mut stream = stream;
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"
                )?;
                Ok(true)
            }
            Self::Nothing => {
                let mut stream = stream;
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                Ok(true)
            }
        }
    }
}

/// Sends the header for all of `bytes` (or the range of them), then its body up to the absolute place `at`.
fn send_bytes(
    mut stream: &TcpStream,
    bytes: &[u8],
    at: usize,
    head: bool,
    range: Option<(usize, usize)>,
) -> io::Result<bool> {
    let total = bytes.len();
    let (from, to) = range.map_or((0, total), |(from, to)| (from.min(total), to.min(total)));
    let status = if range.is_some() {
        let last = to.saturating_sub(1);
        format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{total}")
    } else {
        "200 OK".to_owned()
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\n\r\n",
        to.saturating_sub(from)
    )?;
    if !head && at > from {
        stream.write_all(&bytes[from..to.min(at)])?;
    }
    Ok(true)
}

/// The request line and the byte range (end exclusive) of the next request; none when the client has left.
type Request = (String, Option<(usize, usize)>);

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut range = None;
    for _ in 0..HEADER_LINES_MAX {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(Some((first.trim_end().to_owned(), range)));
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(spec) = line.strip_prefix("range: bytes=") {
            let (from, to) = spec.split_once('-').unwrap_or((spec, ""));
            range = from.parse().ok().map(|from| {
                (
                    from,
                    to.parse::<usize>()
                        .map_or(usize::MAX, |last| last.saturating_add(1)),
                )
            });
        }
    }
    Err(io::Error::other("a header without end"))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn ask(answer: Answer, request: &str) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let answers = Answers::from([("/x".to_owned(), answer)]);
        let provider = Provider::listen(listener, answers).unwrap();
        let mut stream =
            TcpStream::connect(provider.url().strip_prefix("http://").unwrap()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.take(20_000).read_to_string(&mut text).unwrap();
        assert_eq!(provider.asked().len(), 1);
        text
    }

    #[test]
    fn an_honest_answer_is_a_correct_one() {
        let text = ask(Answer::bytes(*b"0123456789"), "GET /x HTTP/1.1\r\n\r\n");
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n0123456789"), "{text}");
    }

    #[test]
    fn a_range_is_honoured() {
        let text = ask(
            Answer::bytes(*b"0123456789"),
            "GET /x HTTP/1.1\r\nRange: bytes=2-4\r\n\r\n",
        );
        assert!(
            text.contains("206 Partial Content\r\nContent-Range: bytes 2-4/10\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n234"), "{text}");
    }

    #[test]
    fn a_cut_answer_promises_more_than_it_sends() {
        let answer = Answer::Cut {
            bytes: (*b"0123456789").into(),
            at: 4,
        };
        let text = ask(answer, "GET /x HTTP/1.1\r\n\r\n");
        assert!(
            text.contains("Content-Length: 10\r\n") && text.ends_with("\r\n\r\n0123"),
            "{text}"
        );
    }

    #[test]
    fn an_endless_answer_ends_with_the_provider() {
        let text = ask(Answer::Endless((*b"x").into()), "GET /x HTTP/1.1\r\n\r\n");
        assert_eq!(text.len(), 20_000);
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        let text = ask(Answer::Nothing, "GET /y HTTP/1.1\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 404 Not Found"), "{text}");
    }
}
