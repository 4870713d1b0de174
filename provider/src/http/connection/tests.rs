//! Both ways of answering, over streams that deliver bytes as the test wants.

use std::io::IoSlice;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use boot_manifest::Digest;
use bytes::Bytes;
use http::{Request, Response};
use http_semantics::labels::{Facts, Labels};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream};

use super::*;
use crate::http::body::Body;
use crate::http::limits::{HEAD_FREE_SIZE, HEADS_SIZE_MAX};
use crate::http::refuse;
use crate::http::respond::{self, Content, Source};
use crate::http::seats::{Caps, Seats};

/// Has two contents, which are at hand or not.
struct Shelf {
    has_at_hand: bool,
    told: Mutex<Vec<(String, u16, u64, bool)>>,
}

const LARGE: usize = 100_000;

impl Shelf {
    fn content(path: &str) -> Option<Content> {
        let bytes = match path {
            "/small" => Bytes::from_static(b"kernel"),
            "/large" => (0..LARGE).map(|n| n.to_le_bytes()[0]).collect(),
            _ => return None,
        };
        let labels = Arc::new(Labels::new(Facts {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            modified: UNIX_EPOCH + Duration::from_secs(784_111_777),
            media_type: "application/octet-stream",
            is_artifact: true,
        }));
        let source = Source::Bytes(bytes);
        Some(Content { source, labels })
    }
}

impl Handler for Shelf {
    async fn handle(&self, _client: IpAddr, request: Request<Incoming>) -> Response<Body> {
        match Self::content(request.uri().path()) {
            Some(content) => respond::content(request.method(), request.headers(), content),
            None => refuse::text(http::StatusCode::NOT_FOUND, "not found"),
        }
    }

    fn at_hand(&self, path: &str) -> Option<Content> {
        self.has_at_hand.then(|| Self::content(path)).flatten()
    }

    fn answered(&self, answered: &Answered<'_>) {
        let line = format!("{} {}", answered.method, answered.target);
        let told = (line, answered.status, answered.sent, answered.is_whole());
        self.told.lock().unwrap().push(told);
    }
}

struct Talk {
    answers: String,
    told: Vec<(String, u16, u64, bool)>,
    counted: u64,
}

fn connection(shelf: Shelf) -> Connection<Shelf> {
    let caps = Caps {
        encrypted: 1,
        total: 1,
        per_address: 1,
        counts_loopback: true,
        stall_max: crate::http::limits::WRITE_STALL_MAX,
    };
    let metrics = Arc::new(Metrics::default());
    let client = IpAddr::from([127, 0, 0, 1]);
    Connection {
        client,
        scope: None,
        handler: Arc::new(shelf),
        place: Seats::new(caps).take(client, false, &metrics).unwrap(),
        metrics,
    }
}

/// Sends the pieces, each after the one before was read, and the end.
async fn talk(has_at_hand: bool, room: usize, pieces: &[&[u8]]) -> Talk {
    let connection = connection(Shelf {
        has_at_hand,
        told: Mutex::default(),
    });
    let (client, server) = tokio::io::duplex(room);
    let (mut reading, mut writing) = tokio::io::split(client);
    let mut answers = Vec::new();
    let sending = async {
        for piece in pieces {
            // It may have been refused by now.
            let _ = writing.write_all(piece).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        let _ = writing.shutdown().await;
    };
    let serving = async {
        connection.serve::<DuplexStream>(server).await;
    };
    let ((), (), read) = tokio::join!(serving, sending, reading.read_to_end(&mut answers));
    read.unwrap();
    let text: String = answers.iter().map(|byte| char::from(*byte)).collect();
    let told = std::mem::take(&mut *connection.handler.told.lock().unwrap());
    Talk {
        answers: without_dates(&text),
        told,
        counted: connection.metrics.body_bytes_total.load(Ordering::Relaxed),
    }
}

fn without_dates(text: &str) -> String {
    let mut parts = text.split("Date: ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (date, rest) = part.split_at(29);
        assert!(date.ends_with(" GMT"), "{date}");
        text + "Date: " + rest
    })
}

/// Memory for unfinished requests is gone but for `left` bytes; `begun` is what the client says.
async fn crowded(has_at_hand: bool, left: usize, begun: &str) -> (String, u64) {
    let connection = connection(Shelf {
        has_at_hand,
        told: Mutex::default(),
    });
    let others = connection.place.seats().heads().share();
    assert!(others.resize(HEAD_FREE_SIZE + HEADS_SIZE_MAX - left));
    let (mut client, server) = tokio::io::duplex(2 * LARGE);
    client.write_all(begun.as_bytes()).await.unwrap();
    let serving = connection.serve::<DuplexStream>(server);
    let reading = async {
        let mut answers = String::new();
        let mut room = [0; 4_096];
        // What it is refused for is said while its sending side is open.
        while !answers.ends_with('\n') && !answers.ends_with("kernel") {
            let count = client.read(&mut room).await.unwrap();
            assert!(count > 0, "cut: {answers}");
            answers.extend(room[..count].iter().map(|byte| char::from(*byte)));
        }
        drop(client);
        answers
    };
    let ((), answers) = tokio::join!(serving, reading);
    drop(others);
    let seats = Arc::clone(connection.place.seats());
    let refused = connection.metrics.refusals_total(Reason::HeadMemory);
    drop(connection);
    let all = seats.heads().share();
    assert!(all.resize(HEAD_FREE_SIZE + HEADS_SIZE_MAX), "all is back");
    (answers, refused)
}

#[tokio::test]
async fn large_beginnings_are_refused_when_their_memory_is_gone() {
    let begun = |method: &str, size: usize| {
        let field = "x".repeat(size);
        format!("{method} /small HTTP/1.1\r\nHost: x\r\nX: {field}")
    };
    for has_at_hand in [true, false] {
        let (answers, refused) = crowded(has_at_hand, 1_000, &begun("GET", 30_000)).await;
        assert!(answers.starts_with("HTTP/1.1 431 "), "{answers}");
        assert_eq!(refused, 1);
        // Requests that are whole need none of it.
        for request in [SMALL.to_owned(), begun("GET", 9_000) + "\r\n\r\n"] {
            let (answers, refused) = crowded(has_at_hand, 0, &request).await;
            assert!(answers.ends_with("kernel"), "{answers}");
            assert_eq!(refused, 0);
        }
    }
    // Its body is missing: hyper has it.
    let begun = "GET /small HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    let (answers, refused) = crowded(true, 1_000, begun).await;
    assert!(answers.starts_with("HTTP/1.1 431 "), "{answers}");
    assert_eq!(refused, 1);
}

const SMALL: &str = "GET /small HTTP/1.1\r\nHost: x\r\n\r\n";
const RANGE: &str = "GET /small HTTP/1.1\r\nHost: x\r\nRange: bytes=2-3\r\n\r\n";
const ODD: &str = "GET /small?x HTTP/1.1\r\nHost: x\r\n\r\n";
const MISSING: &str = "HEAD /none HTTP/1.1\r\nHost: x\r\n\r\n";
const CLOSING: &str = "HEAD /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const POST: &str = "POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

/// Requests on one connection, mixed in every way that matters.
fn mixtures() -> Vec<String> {
    let smuggled =
        "GET /small HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    vec![
        [SMALL, SMALL].concat(),
        [SMALL, ODD, RANGE].concat(),
        [ODD, SMALL, MISSING, SMALL].concat(),
        [RANGE, "\r\n", SMALL].concat(),
        [SMALL, CLOSING, SMALL].concat(),
        [SMALL, "GARBAGE\r\n\r\n", SMALL].concat(),
        [SMALL, POST, SMALL].concat(),
        [SMALL, smuggled, SMALL].concat(),
        [SMALL, "GET /small HTTP/1.1\nHost: x\n\n", SMALL].concat(),
        [SMALL, "GET /small HTTP/1.0\r\nHost: x\r\n\r\n"].concat(),
        "GET /small HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".repeat(2),
        [SMALL, &SMALL[..SMALL.len() - 1]].concat(),
        String::new(),
    ]
}

#[tokio::test(start_paused = true)]
async fn both_ways_give_the_same_bytes_wherever_requests_are_cut() {
    for requests in mixtures() {
        let requests = requests.as_bytes();
        let whole = talk(false, 1 << 16, &[requests]).await;
        for at in 0..=requests.len() {
            let (first, second) = requests.split_at(at);
            // What hyper alone makes of a cut is only of interest for comparison.
            let ways: &[bool] = if at % 16 == 0 {
                &[true, false]
            } else {
                &[true]
            };
            for &has_at_hand in ways {
                let cut = talk(has_at_hand, 1 << 16, &[first, second]).await;
                let text = String::from_utf8_lossy(requests);
                assert_eq!(
                    cut.answers, whole.answers,
                    "{text:?} at {at}, {has_at_hand}"
                );
                assert_eq!(cut.told, whole.told, "{text:?} at {at}, {has_at_hand}");
                assert_eq!(
                    cut.counted, whole.counted,
                    "{text:?} at {at}, {has_at_hand}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_told_too() {
    for (request, line) in [
        ("HEAD /x HTTP/1.1\r\n\r\n", "HEAD /x"),
        ("GET /x HTTP/1.1\nHost: x\n\n", "GET /x"),
        ("\u{16}\u{3}\u{1}", "- -"),
    ] {
        let pieces = [SMALL.as_bytes(), request.as_bytes()];
        let talk = talk(true, 1 << 16, &pieces).await;
        let body = talk.answers.rsplit("\r\n\r\n").next().unwrap().len() as u64;
        let told = (line.to_owned(), 400, body, true);
        assert_eq!(talk.told.len(), 2, "{request:?}: {:?}", talk.told);
        assert_eq!(talk.told[1], told, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn both_ways_give_the_same_bytes_to_clients_with_little_room() {
    let large = "GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
    let requests = [large, SMALL, ODD, large, CLOSING].concat();
    let whole = talk(false, 1 << 20, &[requests.as_bytes()]).await;
    assert_eq!(whole.counted, 2 * LARGE as u64 + 12);
    for room in [1, 7, 1000] {
        for has_at_hand in [true, false] {
            let small = talk(has_at_hand, room, &[requests.as_bytes()]).await;
            assert_eq!(small.answers, whole.answers, "{room} {has_at_hand}");
            assert_eq!(small.told, whole.told, "{room} {has_at_hand}");
            assert_eq!(small.counted, whole.counted, "{room} {has_at_hand}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_off_is_told_with_what_left() {
    for request in [
        "GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /large?x HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let connection = connection(Shelf {
            has_at_hand: true,
            told: Mutex::default(),
        });
        let (mut client, server) = tokio::io::duplex(1000);
        client.write_all(request.as_bytes()).await.unwrap();
        let handler = Arc::clone(&connection.handler);
        let task = tokio::spawn(async move { connection.serve::<DuplexStream>(server).await });
        client.read_exact(&mut [0; 2000]).await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let told = handler.told.lock().unwrap();
        let [(_, 200, sent, false)] = told[..] else {
            panic!("{told:?}");
        };
        assert!((1000..3000).contains(&sent), "{sent}");
    }
}

/// Takes everything at once, as TLS does, and lets it go when it is flushed.
struct Holding {
    held: Vec<u8>,
    stream: DuplexStream,
}

impl AsyncRead for Holding {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        slices
            .iter()
            .for_each(|slice| self.held.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.held.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(context, &this.held))?;
            this.held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Stream for Holding {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// A client of a connection over a stream that holds back, the seats it is swept in, and its task.
fn holding(room: usize) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let connection = connection(Shelf {
        has_at_hand: true,
        told: Mutex::default(),
    });
    let (client, stream) = tokio::io::duplex(room);
    let seats = Arc::clone(connection.place.seats());
    tokio::spawn(Arc::clone(&seats).sweep(Arc::clone(&connection.metrics)));
    let id = connection.place.id();
    let held = Vec::new();
    let task = tokio::spawn(async move { connection.serve(Holding { held, stream }).await });
    seats.seat_task(id, task.abort_handle());
    (client, task)
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_holds_back_leaves_before_the_next_request() {
    for target in ["/large", "/large?x"] {
        let (mut client, _task) = holding(1_000);
        for _ in 0..2 {
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = vec![0; LARGE];
            let whole = client.read_exact(&mut answer);
            let whole = tokio::time::timeout(Duration::from_secs(5), whole).await;
            whole.expect(target).unwrap();
            let mut rest = [0; 4_096];
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
            let rest = client.read_exact(&mut rest[..head.unwrap() + 4]);
            let rest = tokio::time::timeout(Duration::from_secs(5), rest).await;
            rest.expect(target).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_answer_leaves_whatever_it_sends_meanwhile() {
    for target in ["/large", "/large?x"] {
        let (mut client, task) = holding(1_000);
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        for byte in b"GET /small" {
            tokio::time::sleep(Duration::from_secs(10)).await;
            // It may have been cut by now.
            let _ = client.write_all(&[*byte]).await;
        }
        assert!(task.is_finished(), "{target}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_small() {
    let connection = connection(Shelf {
        has_at_hand: true,
        told: Mutex::default(),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let size = std::mem::size_of_val(&connection.run(stream, None));
    assert!(size <= 640, "{size} bytes for a task");
}
