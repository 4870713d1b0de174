//! A web server that does exactly what a test tells it, on a thread of its own: well-behaved, broken or hostile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// One request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Which connection it came over, from 0.
    pub(crate) connection: usize,
    /// Path and query.
    pub(crate) target: String,
    /// First and last byte asked for.
    pub(crate) range: Option<(u64, u64)>,
    /// The whole header, in lower case.
    pub(crate) head: String,
}

/// What a handler may do: write anything, then keep the connection or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
}

type Handler = dyn Fn(&Request, &mut TcpStream) -> Then + Send + Sync;

/// The server; it ends with this value.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl Server {
    pub(crate) fn start(
        handler: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", handler)
    }

    pub(crate) fn start_at(
        address: &str,
        handler: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::default(),
            streams: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || theirs.accept(&listener));
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// The URL of a path here.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared
            .requests
            .lock()
            .expect("no handler panicked")
            .clone()
    }

    /// The ranges asked for under a path, in order.
    pub(crate) fn ranges(&self, path: &str) -> Vec<Option<(u64, u64)>> {
        self.requests()
            .iter()
            .filter(|request| request.target == path)
            .map(|request| request.range)
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for stream in self
            .shared
            .streams
            .lock()
            .expect("no handler panicked")
            .drain(..)
        {
            let _gone = stream.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _panicked = accepting.join();
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for (connection, stream) in listener.incoming().enumerate() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            self.streams
                .lock()
                .expect("no handler panicked")
                .extend(stream.try_clone());
            let this = Arc::clone(&self);
            std::thread::spawn(move || this.serve(connection, stream));
        }
    }

    fn serve(&self, connection: usize, mut stream: TcpStream) {
        while let Some(head) = read_head(&mut stream) {
            let request = {
                let mut requests = self.requests.lock().expect("no handler panicked");
                let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let head = head.to_ascii_lowercase();
                let range = head.lines().find_map(|line| {
                    let (first, last) = line.strip_prefix("range: bytes=")?.split_once('-')?;
                    Some((first.parse().ok()?, last.parse().ok()?))
                });
                let request = Request {
                    connection,
                    target,
                    range,
                    head,
                };
                requests.push(request.clone());
                request
            };
            if (self.handler)(&request, &mut stream) == Then::Close {
                let _gone = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Writes; a client that went away is no fault of the test.
pub(crate) fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) -> bool {
    stream.write_all(bytes.as_ref()).is_ok()
}

/// An answer with a status line such as `404 Not Found`, more header lines (each ending in `\r\n`), and a body.
pub(crate) fn answer(stream: &mut TcpStream, status: &str, lines: &str, body: &[u8]) -> Then {
    let head = format!(
        "HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\n\r\n",
        body.len()
    );
    send(stream, head);
    send(stream, body);
    Then::Keep
}

/// A file, as a good server sends it.
pub(crate) fn file(request: &Request, stream: &mut TcpStream, bytes: &[u8]) -> Then {
    partly(request, stream, bytes, usize::MAX)
}

/// As [`file`], but the connection ends after `body_bytes` bytes of the body, if it has more.
pub(crate) fn partly(
    request: &Request,
    stream: &mut TcpStream,
    bytes: &[u8],
    body_bytes: usize,
) -> Then {
    let (status, line, body) = match request.range {
        None => ("200 OK", String::new(), bytes),
        Some((first, last)) => {
            let last = (last as usize).min(bytes.len() - 1);
            let line = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
            ("206 Partial Content", line, &bytes[first as usize..=last])
        }
    };
    send(
        stream,
        format!(
            "HTTP/1.1 {status}\r\n{line}Content-Length: {}\r\n\r\n",
            body.len()
        ),
    );
    send(stream, &body[..body.len().min(body_bytes)]);
    if body.len() > body_bytes {
        Then::Close
    } else {
        Then::Keep
    }
}
