//! Getting an artifact from several servers at once: all of them help, and none can do harm.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::image::noise;
use crate::server::{Request, send};

const KERNEL: &str = "/stable/x86_64/vmlinuz";
const MIB: u64 = 1 << 20;

fn image_of(mib: u64) -> Arc<Image> {
    let content = noise(9, (mib * MIB) as usize);
    Arc::new(Image::of(NOW, vec![("kernel", "vmlinuz", content)]))
}

/// Fetches the kernel from all `servers`, in this order.
fn fetch_from(servers: &[&Server], image: &Image, limits: Limits) -> Outcome {
    let folder = tempfile::tempdir().expect("a working test machine");
    let manifest = verified(image);
    let artifact = manifest.artifact("kernel").expect("it exists");
    let partial = Folder::open(folder.path())
        .and_then(|folder| folder.begin(artifact))
        .expect("a working test machine");
    let urls = servers.iter().map(|one| url(&one.url("/manifest.json")));
    let sources = Providers(urls.collect());
    let result = block_on(async {
        Fetcher::new(limits)
            .artifact(&manifest, "kernel", &sources, partial, |_| {})
            .await
    });
    let result = result.map(|(partial, report)| {
        partial.commit().expect("a working test machine");
        let file = std::fs::read(folder.path().join("vmlinuz")).expect("it has its name");
        assert!(
            file == image.content("kernel"),
            "other bytes under the name"
        );
        report
    });
    Outcome { folder, result }
}

/// A server that sends this many bytes per millisecond on each connection.
fn shaped(image: &Arc<Image>, rate: usize) -> Server {
    provider(image, move |request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            let began = Instant::now();
            let body = head_of(request, stream, bytes);
            for (piece, count) in body.chunks(32 << 10).zip(1_u64..) {
                if !send(stream, piece) {
                    return Then::Close;
                }
                // The pace is the point of this server.
                let due = Duration::from_millis(count * (32 << 10) / rate as u64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            Then::Keep
        })
    })
}

/// Sends the header of an answer, and gives what the body has to be.
fn head_of<'a>(request: &Request, stream: &mut std::net::TcpStream, bytes: &'a [u8]) -> &'a [u8] {
    let (first, last) = request.range.unwrap_or((0, bytes.len() as u64 - 1));
    let last = last.min(bytes.len() as u64 - 1);
    let body = &bytes[first as usize..=last as usize];
    let length = body.len();
    let head = match request.range {
        None => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
            bytes.len()
        ),
    };
    send(stream, head);
    body
}

/// More patience than the default of these tests, where servers are slow on purpose.
fn patient() -> Limits {
    Limits {
        rate_window: Duration::from_secs(20),
        ..limits()
    }
}

#[test]
fn two_shaped_servers_are_used_together() {
    // Slow enough that hashing in a debug build, beside other tests, is not what it waits for.
    let image = image_of(16);
    let (a, b) = (shaped(&image, 6 << 10), shaped(&image, 6 << 10));
    // A busy machine makes both slower, and never the two together faster than they can be: once is proof.
    let faster = (0..5).any(|_| {
        let alone = fetch_from(&[&a], &image, patient());
        let together = fetch_from(&[&a, &b], &image, patient());
        let (alone, together) = (alone.report(), together.report());
        println!("alone {:?}, together {together:?}", alone.elapsed);
        assert_eq!(alone.requests, 1);
        for source in &together.sources {
            assert!(source.bytes_kept >= 4 * MIB, "{:?}", together.sources);
            assert_eq!(source.dropped, None);
        }
        let kept: u64 = together.sources.iter().map(|one| one.bytes_kept).sum();
        assert_eq!(kept, 16 * MIB);
        assert!(
            together.bytes_received < 20 * MIB,
            "too much was asked twice: {}",
            together.bytes_received
        );
        together.elapsed < alone.elapsed * 4 / 5
    });
    assert!(faster, "two together are not much faster than one");
    assert_eq!(a.ranges(KERNEL)[0], None, "alone: one request for all");
}

/// A run that was made shorter ends, however the bytes of its pieces are spread over reads.
#[test]
fn what_another_one_took_over_is_not_received_to_the_end() {
    let image = image_of(16);
    // Every piece begins in the middle of what is sent at once.
    let straddling = provider(&image, |request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            let mut body = head_of(request, stream, bytes);
            let mut size = (MIB - (64 << 10)) as usize;
            while !body.is_empty() {
                let (now, rest) = body.split_at(size.min(body.len()));
                if !send(stream, now) {
                    return Then::Close;
                }
                // Long enough for the other side to read all of it.
                std::thread::sleep(Duration::from_millis(60));
                let small = 128 << 10;
                size = if size == small {
                    MIB as usize - small
                } else {
                    small
                };
                body = rest;
            }
            Then::Keep
        })
    });
    // It answers when the first one has begun with all that is left.
    let late = provider(&image, |request, _, _| {
        if request.target == KERNEL {
            std::thread::sleep(Duration::from_millis(700));
        }
        None
    });
    let outcome = fetch_from(&[&straddling, &late], &image, patient());
    let report = outcome.report();
    let source = &report.sources[0];
    assert!(
        source.bytes_kept < 12 * MIB,
        "nothing was taken over: {report:?}"
    );
    let wasted = source.bytes_received - source.bytes_kept;
    assert!(wasted <= MIB, "{report:?}");
}

#[test]
fn a_liar_is_dropped_and_named_and_does_no_harm() {
    let image = image_of(32);
    let good = shaped(&image, 64 << 10);
    let liar = provider(&image, |request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            // Every chunk has one wrong byte, somewhere.
            let mut bytes = bytes.to_vec();
            for at in (0..bytes.len()).step_by(MIB as usize) {
                bytes[at + at / 999] ^= 1;
            }
            file(request, stream, &bytes)
        })
    });
    for servers in [[&good, &liar], [&liar, &good]] {
        let outcome = fetch_from(&servers, &image, patient());
        let report = outcome.report();
        for source in &report.sources {
            let lied = source.url.to_string().starts_with(&liar.url(""));
            assert_eq!(source.wrong_chunks > 0, lied, "{report:?}");
            match &source.dropped {
                Some((code, error)) => {
                    assert!(lied, "{report:?}");
                    assert_eq!((*code, source.bytes_kept), ("bad-hash", 0));
                    assert!(error.contains(&liar.url("")) && error.contains("expected sha256:"));
                }
                // The other one may have been done before it could lie again.
                None => assert!(source.wrong_chunks <= 1, "{report:?}"),
            }
        }
    }
}

#[test]
fn a_server_that_stalls_loses_its_chunks_to_the_other() {
    let image = image_of(10);
    let good = provider(&image, |_, _, _| None);
    let stalled = provider(&image, |request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            let body = head_of(request, stream, bytes);
            send(stream, &body[..(MIB + MIB / 2) as usize]);
            Then::Keep
        })
    });
    let began = Instant::now();
    let outcome = fetch_from(&[&stalled, &good], &image, patient());
    let report = outcome.report();
    assert_eq!(report.sources[0].bytes_kept, MIB, "{report:?}");
    assert_eq!(report.sources[1].bytes_kept, 9 * MIB, "{report:?}");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it was waited for"
    );
}

#[test]
fn a_server_without_the_file_and_one_that_refuses_are_named() {
    let image = image_of(3);
    let good = provider(&image, |_, _, _| None);
    let empty = Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    let closed = Server::start(|_, stream| answer(stream, "403 Forbidden", "", b""));
    let outcome = fetch_from(&[&empty, &closed, &good], &image, limits());
    let codes: Vec<_> = outcome
        .report()
        .sources
        .iter()
        .map(|source| source.dropped.as_ref().map(|(code, _)| *code))
        .collect();
    assert_eq!(codes, [Some("not-found"), Some("refused-status"), None]);
    // Both places that it may have at the first one were tried, once.
    assert_eq!(empty.requests().len(), 2);
    assert_eq!(closed.requests().len(), 1);
}

#[test]
fn when_all_fail_every_error_is_told() {
    let image = image_of(2);
    let missing = || Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    let (a, b) = (missing(), missing());
    let forbidden = Server::start(|_, stream| answer(stream, "403 Forbidden", "", b""));
    let outcome = fetch_from(&[&a, &forbidden], &image, limits());
    let error = outcome.error();
    assert_eq!(error.code(), "all-failed");
    let text = error.to_string();
    assert!(text.starts_with("no source could give kernel: "), "{text}");
    for part in [&a.url(""), &forbidden.url(""), "404 Not Found", "403"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    // When they agree, the code says what they agree about.
    assert_eq!(
        fetch_from(&[&a, &b], &image, limits()).error().code(),
        "not-found"
    );
}

#[test]
fn a_server_that_dies_leaves_its_work_to_the_others() {
    let image = image_of(16);
    let served = AtomicUsize::new(0);
    let dying = provider(&image, move |request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            let body = head_of(request, stream, bytes);
            if served.fetch_add(1, Ordering::SeqCst) == 0 {
                send(stream, &body[..MIB as usize + 10]);
            }
            Then::Close
        })
    });
    let good = provider(&image, |_, _, _| None);
    let outcome = fetch_from(&[&dying, &good], &image, limits());
    let report = outcome.report();
    let kept: u64 = report.sources.iter().map(|one| one.bytes_kept).sum();
    assert_eq!(kept, 16 * MIB);
    assert!(report.sources[1].bytes_kept >= 15 * MIB, "{report:?}");
}

#[test]
fn the_rate_limit_holds_for_all_connections_together() {
    let image = image_of(4);
    let (a, b) = (
        provider(&image, |_, _, _| None),
        provider(&image, |_, _, _| None),
    );
    let slow = Limits {
        rate_max: std::num::NonZeroU64::new(8 * MIB),
        ..limits()
    };
    let outcome = fetch_from(&[&a, &b], &image, slow);
    // The last piece of each connection is not waited for.
    let least = Duration::from_millis(400);
    assert!(outcome.report().elapsed > least, "{:?}", outcome.report());
}

#[test]
fn when_time_is_up_everybody_who_was_asked_is_named() {
    let image = image_of(8);
    let stalling = |amount: usize| {
        provider(&image, move |request, stream, bytes| {
            (request.target == KERNEL).then(|| {
                let body = head_of(request, stream, bytes);
                send(stream, &body[..amount]);
                Then::Keep
            })
        })
    };
    let (a, b) = (stalling(1_000), stalling(0));
    let hurried = Limits {
        total: Duration::from_millis(800),
        ..patient()
    };
    let outcome = fetch_from(&[&a, &b], &image, hurried);
    let error = outcome.error();
    assert_eq!(error.code(), "too-slow");
    let text = error.to_string();
    for (server, bytes) in [(&a, 1_000), (&b, 0)] {
        let part = format!("{} brought {bytes} bytes", server.url(KERNEL));
        assert!(text.contains(&part), "{part:?} is missing: {text}");
    }
}

#[test]
fn a_failing_disk_ends_everything_with_its_own_words() {
    struct Failing(std::sync::atomic::AtomicU32);
    struct Chunk(bool);
    impl fetch::Sink for Failing {
        type Chunk<'a> = Chunk;
        fn missing(&self) -> Vec<usize> {
            (0..10).collect()
        }
        fn chunk(&self, _: usize) -> Result<Chunk, fetch::SinkError> {
            Ok(Chunk(self.0.fetch_add(1, Ordering::SeqCst) >= 3))
        }
    }
    impl fetch::SinkChunk for Chunk {
        fn write(&mut self, _: &[u8]) -> Result<(), fetch::SinkError> {
            if self.0 {
                // EIO, as a dying disk gives it.
                let error = std::io::Error::from_raw_os_error(5);
                return Err(fetch::SinkError::Failed(Box::new(error)));
            }
            Ok(())
        }
        fn finish(self) -> Result<(), fetch::SinkError> {
            Ok(())
        }
    }
    let image = image_of(10);
    let (a, b) = (
        provider(&image, |_, _, _| None),
        provider(&image, |_, _, _| None),
    );
    let manifest = verified(&image);
    let sources = Providers(vec![url(&a.url("/")), url(&b.url("/"))]);
    let error = block_on(async {
        Fetcher::new(limits())
            .artifact(&manifest, "kernel", &sources, Failing(0.into()), |_| {})
            .await
            .map(|_| ())
            .unwrap_err()
    });
    assert_eq!(error.code(), "local");
    assert!(error.to_string().contains("os error 5"), "{error}");
}

/// Only the monotonic clock is looked at, so a clock that jumps cannot end, prolong or confuse a download.
#[test]
fn no_decision_depends_on_the_time_of_day() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(sources).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("SystemTime"), "{}", path.display());
        }
    }
}
