//! Deadlines and the drain, with a clock that jumps to the next timer whenever nothing else can happen.

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::http::limits::{DRAIN_MAX, HEAD_WAIT_MAX, IDLE_MAX, WRITE_STALL_MAX};

/// Far more than the buffers of two sockets hold.
const LARGE: usize = 64 << 20;

struct Large;

impl Handler for Large {
    async fn handle(&self, _client: IpAddr, request: Request<Incoming>) -> Response<Body> {
        assert_ne!(request.uri().path(), "/panic", "asked to");
        let mut response = Response::new(Body::Bytes(Bytes::from(vec![0; LARGE])));
        response
            .headers_mut()
            .insert(http::header::CONTENT_LENGTH, (LARGE as u64).into());
        response
    }
}

struct Running {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    cut: JoinHandle<usize>,
}

fn start() -> Running {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Arc::new(Metrics::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { stopped.await.unwrap() };
    let listeners = vec![Listener {
        socket: listener,
        tls: None,
    }];
    let bounds = Bounds {
        connections_max: 4,
        per_address_max: None,
        drain_max: DRAIN_MAX,
        stall_max: WRITE_STALL_MAX,
    };
    let running = run(
        listeners,
        Arc::new(Large),
        Arc::clone(&metrics),
        bounds,
        shutdown,
    );
    let cut = tokio::spawn(async { running.await.unwrap() });
    Running {
        address,
        metrics,
        stop,
        cut,
    }
}

async fn connect(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads until the end, however it comes.
async fn drain(stream: &mut TcpStream) -> usize {
    let mut total = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        total += read;
    }
    total
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut() {
    let server = start();
    for (request, wait_max) in [
        ("", IDLE_MAX),
        ("GET / HT", HEAD_WAIT_MAX),
        ("GET / HTTP/1.1\r\nHost: x\r\n", HEAD_WAIT_MAX),
        // Something for hyper.
        ("POST / HTTP/1.1\r\nHost: x\r\n", HEAD_WAIT_MAX),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
            HEAD_WAIT_MAX,
        ),
    ] {
        let began = Instant::now();
        let mut stream = connect(server.address, request).await;
        drain(&mut stream).await;
        let waited = began.elapsed();
        assert!(
            waited >= wait_max && waited < wait_max * 3 / 2,
            "{request:?}: {waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let server = start();
    let began = Instant::now();
    let mut stream = connect(server.address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    while server.metrics.connections_open.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    while server.metrics.connections_open.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let waited = began.elapsed();
    assert!(
        waited >= WRITE_STALL_MAX && waited < WRITE_STALL_MAX * 2,
        "{waited:?}"
    );
    assert!(drain(&mut stream).await < LARGE);
    assert!(server.metrics.body_bytes_total.load(Ordering::Relaxed) < LARGE as u64);
}

#[tokio::test(start_paused = true)]
async fn the_drain_has_an_end() {
    let server = start();
    let _stalled = connect(server.address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    while server.metrics.body_bytes_total.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    server.stop.send(()).unwrap();
    assert_eq!(server.cut.await.unwrap(), 1);
    assert!(began.elapsed() >= DRAIN_MAX && began.elapsed() < DRAIN_MAX * 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_connection() {
    let server = start();
    let mut broken = connect(server.address, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(drain(&mut broken).await, 0);
    let close = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut whole = connect(server.address, close).await;
    assert!(drain(&mut whole).await > LARGE);
    assert_eq!(
        server.metrics.body_bytes_total.load(Ordering::Relaxed),
        LARGE as u64
    );
    server.stop.send(()).unwrap();
    assert_eq!(server.cut.await.unwrap(), 0);
}
