//! Half of an image, and those who ask for it over real sockets.

use std::net::Ipv4Addr;
use std::num::NonZeroU64;

use boot_manifest::{
    Arch, Artifact, ArtifactHasher, Expect, Expiry, Floor, SecretKey, Timestamp, TrustRoot, sign,
    verify,
};
use fetch::{Sink as _, SinkChunk as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::sealed::Memory;

const MIB: usize = 1 << 20;

/// An image of one artifact, in memory that has none of it.
struct Image {
    bytes: Vec<u8>,
    memory: Memory,
    manifest: Arc<Verified<Manifest>>,
}

impl Image {
    fn new() -> Self {
        Self::of(3 * MIB + 5)
    }

    fn of(size: usize) -> Self {
        let bytes: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
        let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
        hasher.update(&bytes);
        let (digest, chunks) = hasher.finish().unwrap();
        let artifact = Artifact {
            name: "kernel".parse().unwrap(),
            filename: "vmlinuz".parse().unwrap(),
            size: bytes.len() as u64,
            digest,
            chunks,
        };
        let memory = Memory::new(&artifact).unwrap();
        let now = Timestamp::from_unix(1_767_225_600);
        let manifest = Manifest {
            generation: 1,
            sequence: 1,
            security_version: 1,
            version: "1".to_owned(),
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            created_at: now,
            expires_at: now.plus_days(1),
            cmdline: String::new(),
            artifacts: vec![artifact],
        };
        let key = SecretKey::from_seed([7; 32]);
        let expect = Expect {
            now,
            floor: Floor::default(),
            channel: None,
            arch: None,
            expiry: Expiry::Refuse,
        };
        let signed = sign(&manifest, &[&key]).unwrap();
        let manifest = verify(&signed, &TrustRoot::single(key.public()), &expect).unwrap();
        Self {
            bytes,
            memory,
            manifest: Arc::new(manifest),
        }
    }

    fn setup(&self) -> Setup {
        Setup {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            manifest: Arc::clone(&self.manifest),
            held: vec![Arc::new(self.memory.clone())],
            company: Arc::new(()),
            egress: None,
            memory: Reserve::new(0),
        }
    }

    /// Has all of it arrive.
    fn put_all(&self) {
        (0..self.memory.artifact().chunks.chunk_count()).for_each(|chunk| self.put(chunk));
    }

    /// Has a chunk arrive.
    fn put(&self, index: usize) {
        let range = self.memory.artifact().chunks.range(index);
        let range = range.start as usize..range.end as usize;
        let mut chunk = self.memory.chunk(index).unwrap();
        chunk.write(&self.bytes[range]).unwrap();
        chunk.finish().unwrap();
    }
}

/// What was answered: the status, the head, and the body.
async fn ask(sharing: &Sharing, request: &str, fields: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(sharing.address()).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

const FILE: &str = "GET /stable/x86_64/vmlinuz";

#[tokio::test]
async fn what_is_there_is_sent_and_the_rest_comes_later() {
    let image = Image::new();
    let sharing = start(image.setup()).unwrap();
    for (range, arrived, status) in [
        ("0-0", None, 503),
        ("1048576-2097151", None, 503),
        ("1048576-2097151", Some(1), 206),
        ("1048575-1048576", None, 503),
        ("2000000-2097152", None, 503),
        ("-5", None, 503),
        ("-5", Some(3), 206),
        ("3145733-", None, 416),
        ("0-", Some(0), 503),
        ("0-", Some(2), 206),
    ] {
        if let Some(chunk) = arrived {
            image.put(chunk);
        }
        let (found, head, body) = ask(&sharing, FILE, &format!("Range: bytes={range}\r\n")).await;
        assert_eq!(found, status, "{range} {head}");
        match found {
            206 => {
                let (start, _) = head
                    .split_once("Content-Range: bytes ")
                    .unwrap()
                    .1
                    .split_once('-')
                    .unwrap();
                let start: usize = start.parse().unwrap();
                assert!(body == image.bytes[start..start + body.len()], "{range}");
            }
            503 => assert!(head.contains("\r\nRetry-After: 1"), "{head}"),
            _ => {}
        }
    }
    let (status, head, body) = ask(&sharing, FILE, "").await;
    assert_eq!(status, 200, "{head}");
    assert!(body == image.bytes);
    let digest = image.manifest.artifacts[0].digest;
    assert!(
        head.contains(&format!("X-Artifact-Hash: {digest}")),
        "{head}"
    );
    let expected = Shared {
        bytes: (MIB + 5 + 2 * image.bytes.len()) as u64,
        uploads: 4,
        busy: 6,
    };
    // The last one is counted after its client has it.
    let limit = Instant::now() + Duration::from_secs(60);
    while sharing.shared() != expected {
        assert!(Instant::now() < limit, "{:?}", sharing.shared());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_manifest_is_the_signed_one_and_nothing_else_is_shared() {
    let image = Image::new();
    image.put(0);
    let sharing = start(image.setup()).unwrap();
    for path in ["/manifest.json", "/stable/x86_64/manifest.json"] {
        let (status, _, body) = ask(&sharing, &format!("GET {path}"), "").await;
        assert_eq!(status, 200);
        assert!(body == image.manifest.bytes());
    }
    let other = Digest::of(b"another");
    for (request, expected) in [
        ("HEAD /stable/x86_64/vmlinuz", 200),
        ("GET /stable/x86_64/initramfs.img", 404),
        ("GET /stable/aarch64/vmlinuz", 404),
        ("GET /beta/x86_64/vmlinuz", 404),
        ("GET /beta/x86_64/manifest.json", 404),
        ("GET /status", 404),
        ("GET /stable/../../etc/passwd", 400),
        ("PUT /stable/x86_64/vmlinuz", 405),
        ("POST /have", 405),
        ("POST /peers", 400),
        ("GET /have?manifest=x", 400),
        (&format!("GET /have?manifest={other}"), 404),
        (&format!("POST /peers?port=80&manifest={other}"), 404),
    ] {
        let (status, head, _) = ask(&sharing, request, "").await;
        assert_eq!(status, expected, "{request} {head}");
    }
}

#[tokio::test]
async fn a_rate_holds_for_all_together() {
    let image = Image::new();
    image.put_all();
    let rate = NonZeroU64::new(20 << 20).unwrap();
    let egress = Some(Egress::new(rate));
    let sharing = start(Setup {
        egress,
        ..image.setup()
    })
    .unwrap();
    let started = Instant::now();
    let (one, other) = tokio::join!(ask(&sharing, FILE, ""), ask(&sharing, FILE, ""));
    let sent = (2 * image.bytes.len()) as f64;
    // Faster than the rate is wrong on any machine; slower is not.
    assert!(started.elapsed().as_secs_f64() > sent / rate.get() as f64 - 0.05);
    assert!(one.2 == image.bytes && other.2 == image.bytes);
}

#[tokio::test]
async fn without_memory_nothing_is_sent() {
    let image = Image::new();
    image.put_all();
    let memory = Reserve::new(u64::MAX);
    let sharing = start(Setup {
        memory,
        ..image.setup()
    })
    .unwrap();
    assert_eq!(ask(&sharing, FILE, "").await.0, 503);
    assert_eq!(ask(&sharing, "GET /manifest.json", "").await.0, 200);
    assert_eq!(sharing.shared().busy, 1);
}

#[tokio::test]
async fn so_many_uploads_at_once_and_no_more() {
    let image = Image::new();
    image.put_all();
    // Slow enough that none ends before the last one is asked for.
    let egress = Some(Egress::new(NonZeroU64::new(1 << 16).unwrap()));
    let sharing = start(Setup {
        egress,
        ..image.setup()
    })
    .unwrap();
    let mut open = Vec::new();
    for _ in 0..limits::UPLOADS_MAX {
        let mut stream = TcpStream::connect(sharing.address()).await.unwrap();
        let text = format!("{FILE} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while sharing.desk.seen().uploads < limits::UPLOADS_MAX {
        assert!(Instant::now() < limit, "they never begin");
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&sharing, FILE, "").await.0, 503);
    assert_eq!(
        ask(&sharing, "HEAD /stable/x86_64/vmlinuz", "").await.0,
        200
    );
    // Whoever goes away makes room, however little it was sent.
    open.clear();
    while sharing.desk.seen().uploads > 0 {
        assert!(Instant::now() < limit, "they never end");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_does_not_read_keeps_nobody_out() {
    let image = Image::of(24 * MIB);
    image.put_all();
    let sharing = start(image.setup()).unwrap();
    let mut open = Vec::new();
    for _ in 0..limits::UPLOADS_MAX {
        let mut stream = TcpStream::connect(sharing.address()).await.unwrap();
        let text = format!("{FILE} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.readable().await.unwrap();
        open.push(stream);
    }
    assert_eq!(sharing.desk.seen().uploads, limits::UPLOADS_MAX);
    // The clock of the test is not the one of the world: it moves by itself when nothing happens.
    let waited = tokio::time::Instant::now();
    while sharing.desk.seen().uploads > 0 {
        let waited = waited.elapsed();
        assert!(waited < 3 * limits::STALL_MAX, "they are waited for");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask(&sharing, FILE, "Range: bytes=0-0\r\n").await.0, 206);
}

#[tokio::test]
async fn lingering_ends_also_when_somebody_asks_for_ever() {
    let image = Image::new();
    let sharing = start(image.setup()).unwrap();
    let most = Duration::from_millis(700);
    assert_eq!(ask(&sharing, "GET /have", "").await.0, 200);
    let asking = async {
        loop {
            ask(&sharing, "GET /have", "").await;
            ask(&sharing, FILE, "").await;
        }
    };
    let lingered = tokio::select! {
        lingered = sharing.linger(most) => lingered,
        () = asking => unreachable!("it never ends"),
        () = tokio::time::sleep(60 * most) => panic!("it is held for ever"),
    };
    assert!(lingered >= most, "nobody was waited for: {lingered:?}");
}

#[tokio::test]
async fn lingering_ends_when_nobody_wants_anything() {
    let image = Image::new();
    image.put_all();
    let egress = Some(Egress::new(NonZeroU64::new(6 << 20).unwrap()));
    let sharing = start(Setup {
        egress,
        ..image.setup()
    })
    .unwrap();
    let most = Duration::from_secs(60);
    assert_eq!(sharing.linger(most).await, Duration::ZERO);
    let asked = ask(&sharing, FILE, "");
    let lingered = async {
        while sharing.desk.seen().uploads == 0 {
            tokio::task::yield_now().await;
        }
        sharing.linger(most).await;
    };
    let ((status, _, body), ()) = tokio::join!(asked, lingered);
    assert_eq!(status, 200);
    assert!(body == image.bytes, "it was cut off");
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_and_a_dropped_one_is_free() {
    let image = Image::new();
    let sharing = start(image.setup()).unwrap();
    let listen = sharing.address();
    assert!(
        start(Setup {
            listen,
            ..image.setup()
        })
        .is_err()
    );
    drop(sharing);
    let limit = Instant::now() + Duration::from_secs(60);
    while start(Setup {
        listen,
        ..image.setup()
    })
    .is_err()
    {
        assert!(Instant::now() < limit, "it never ends");
        tokio::task::yield_now().await;
    }
}

/// A download that waits for a chunk and has met somebody.
#[derive(Default)]
struct Download(std::sync::Mutex<Vec<SocketAddr>>);

impl Company for Download {
    fn coming(&self, _artifact: &Digest) -> Vec<usize> {
        // The first one came meanwhile, and the last one is none.
        vec![0, 2, 9]
    }

    fn known(&self) -> Vec<(SocketAddr, bool)> {
        vec![("10.9.9.9:80".parse().unwrap(), true)]
    }

    fn found(&self, peer: SocketAddr) {
        self.0.lock().unwrap().push(peer);
    }
}

#[tokio::test]
async fn the_map_says_what_is_there_and_what_is_coming() {
    let image = Image::new();
    let company = Arc::new(Download::default());
    let sharing = start(Setup {
        company,
        ..image.setup()
    })
    .unwrap();
    image.put(0);
    image.put(3);
    let digest = image.manifest.digest();
    let pieces = swarm::Pieces::of(&image.manifest.artifacts);
    for query in [String::new(), format!("?manifest={digest}")] {
        let (status, head, body) = ask(&sharing, &format!("GET /have{query}"), "").await;
        assert_eq!(status, 200);
        assert!(head.contains("Content-Type: application/json"), "{head}");
        let map = swarm::have::parse(&body, &digest, &pieces).unwrap();
        assert!(map.have.iter().eq([0, 3]));
        assert!(map.coming.iter().eq([2]));
    }
}

#[tokio::test]
async fn who_registers_is_told_of_the_others_and_waited_for() {
    let image = Image::new();
    let company = Arc::new(Download::default());
    let sharing = start(Setup {
        company: company.clone(),
        ..image.setup()
    })
    .unwrap();
    let digest = image.manifest.digest();
    let peers = |body: &[u8]| {
        let answer = swarm::peers::Answer::parse(body, &digest).unwrap();
        let peers = answer.peers.iter();
        let mut peers: Vec<_> = peers
            .map(|one| (one.address.to_string(), one.complete))
            .collect();
        peers.sort();
        peers
    };
    let met = ("10.9.9.9:80".to_owned(), true);
    let request = format!("POST /peers?manifest={digest}&port=8081&complete=true");
    let (status, _, body) = ask(&sharing, &request, "Content-Length: 0\r\n").await;
    assert_eq!((status, peers(&body)), (200, vec![met.clone()]));
    assert_eq!(
        sharing.linger(Duration::from_secs(60)).await,
        Duration::ZERO
    );
    let request = format!("POST /peers?manifest={digest}&port=8082");
    let (_, _, body) = ask(&sharing, &request, "").await;
    let first = ("127.0.0.1:8081".to_owned(), true);
    assert_eq!(peers(&body), [met.clone(), first.clone()]);
    let (_, _, body) = ask(&sharing, "GET /peers", "").await;
    let second = ("127.0.0.1:8082".to_owned(), false);
    assert_eq!(peers(&body), [met, first, second]);
    let found: Vec<u16> = company
        .0
        .lock()
        .unwrap()
        .iter()
        .map(SocketAddr::port)
        .collect();
    assert_eq!(found, [8081, 8082]);
    let lingered = sharing.linger(Duration::from_secs(60)).await;
    assert!(
        lingered > Duration::ZERO,
        "nobody waited for the second one"
    );
}
