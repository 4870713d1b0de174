//! Getting an artifact: every byte is the signed one, or there is no file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::server::{partly, send};

const KERNEL: &str = "/stable/x86_64/vmlinuz";
const MIB: u64 = 1 << 20;

/// Fetches the kernel from a provider with one peculiarity.
fn kernel_with(
    special: impl Fn(&server::Request, &mut std::net::TcpStream, &[u8]) -> Option<Then>
    + Send
    + Sync
    + 'static,
) -> (Outcome, Server, Arc<Image>) {
    let image = Arc::new(Image::new());
    let server = provider(&image, special);
    let outcome = fetch_artifact(&image, &server, "kernel", limits());
    match &outcome.result {
        Ok(_) => assert!(
            outcome.file("vmlinuz").expect("the file") == image.content("kernel"),
            "other bytes under the name"
        ),
        Err(error) => {
            println!("{error}");
            assert_eq!(
                outcome.file("vmlinuz"),
                None,
                "a file under its name without verification"
            );
        }
    }
    (outcome, server, image)
}

#[test]
fn all_artifacts_come_over_one_connection() {
    let image = Arc::new(Image::new());
    let server = provider(&image, |_, _, _| None);
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::open(folder.path()).unwrap();
    let base = url(&server.url("/manifest.json"));
    block_on(async {
        let mut fetcher = Fetcher::new(limits());
        let manifest = fetcher
            .manifest(&base, &image.root(), &expect())
            .await
            .unwrap();
        for artifact in &manifest.artifacts {
            let sources = fetch::sources(&base, &manifest, artifact);
            let name = artifact.name.as_str();
            let (mut seen, mut last) = (0, 0);
            let (partial, report) = fetcher
                .artifact(
                    &manifest,
                    name,
                    &sources[..],
                    store.begin(artifact).unwrap(),
                    |progress| {
                        assert!(progress.done >= last && progress.total == artifact.size);
                        assert!(progress.received >= progress.done);
                        last = progress.done;
                        seen += 1;
                    },
                )
                .await
                .unwrap();
            assert_eq!(last, artifact.size);
            assert!(seen > artifact.chunks.chunk_count());
            assert_eq!(
                (report.requests, report.bytes_received, report.bytes_fetched),
                (1, artifact.size, artifact.size)
            );
            partial.commit().unwrap();
            assert!(
                std::fs::read(folder.path().join(artifact.filename.as_str())).unwrap()
                    == image.content(name)
            );
        }
    });
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    assert!(
        requests
            .iter()
            .all(|request| request.connection == 0 && request.range.is_none()),
        "{requests:?}"
    );
}

#[test]
fn a_cut_transfer_goes_on_at_the_first_chunk_that_is_missing() {
    // Half a chunk more than what can be kept, each time.
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        (request.target == KERNEL).then(|| partly(request, stream, bytes, (MIB + MIB / 2) as usize))
    });
    let report = outcome.report();
    let last = 4 * MIB + 16;
    assert_eq!(
        server.ranges(KERNEL),
        [
            None,
            Some((MIB, last)),
            Some((2 * MIB, last)),
            Some((3 * MIB, last))
        ]
    );
    assert_eq!(
        report.retries, 3,
        "more interruptions than may fail in a row, but each brought something"
    );
    assert_eq!(report.bytes_fetched, last + 1);
}

#[test]
fn a_transfer_that_is_always_cut_ends_after_a_few_attempts() {
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        (request.target == KERNEL).then(|| partly(request, stream, bytes, 1_000))
    });
    assert_eq!(outcome.error().code(), "cut-short");
    assert_eq!(server.ranges(KERNEL), [None, None, None]);
}

#[test]
fn a_server_that_ignores_ranges_costs_transfer_only() {
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        let whole = server::Request {
            range: None,
            ..request.clone()
        };
        let cut = if request.range.is_none() {
            2 * MIB as usize + 5
        } else {
            usize::MAX
        };
        (request.target == KERNEL).then(|| partly(&whole, stream, bytes, cut))
    });
    assert_eq!(outcome.report().bytes_fetched, 4 * MIB + 17);
    assert_eq!(server.ranges(KERNEL), [None, Some((2 * MIB, 4 * MIB + 16))]);
}

#[test]
fn a_second_run_fetches_only_what_is_missing() {
    let image = Arc::new(Image::new());
    let folder = tempfile::tempdir().unwrap();
    let cut = provider(&image, |request, stream, bytes| {
        (request.range.is_none()).then(|| partly(request, stream, bytes, 3 * MIB as usize + 100))
    });
    let once = Limits {
        retries: 0,
        ..limits()
    };
    let error = fetch_into(folder.path(), &image, &cut, "kernel", once).unwrap_err();
    assert_eq!(error.code(), "cut-short");
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [".vmlinuz.partial"]);

    // What lies on the disk is not believed either: a chunk that was damaged there is fetched again.
    let partial = folder.path().join(".vmlinuz.partial");
    let mut bytes = std::fs::read(&partial).unwrap();
    bytes[MIB as usize + 9] ^= 1;
    std::fs::write(&partial, bytes).unwrap();

    let good = provider(&image, |_, _, _| None);
    let report = fetch_into(folder.path(), &image, &good, "kernel", limits()).unwrap();
    assert_eq!(
        good.ranges(KERNEL),
        [Some((MIB, 2 * MIB - 1)), Some((3 * MIB, 4 * MIB + 16))]
    );
    assert_eq!(
        (report.bytes_present, report.bytes_fetched),
        (2 * MIB, 2 * MIB + 17)
    );
    assert!(std::fs::read(folder.path().join("vmlinuz")).unwrap() == image.content("kernel"));
}

#[test]
fn a_byte_that_flips_once_is_asked_for_again_alone() {
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        let mut bytes = bytes.to_vec();
        if request.range.is_none() {
            bytes[2 * MIB as usize + 7] ^= 0x10;
        }
        (request.target == KERNEL).then(|| file(request, stream, &bytes))
    });
    let report = outcome.report();
    assert_eq!(report.bad_chunks, 1);
    assert_eq!(
        server.ranges(KERNEL)[1],
        Some((2 * MIB, 3 * MIB - 1)),
        "{:?}",
        server.ranges(KERNEL)
    );
    assert_eq!(report.bytes_fetched, 4 * MIB + 17);
}

#[test]
fn a_byte_that_is_always_flipped_is_a_bad_hash() {
    for at in [0, 2 * MIB as usize + 7, 4 * MIB as usize + 16] {
        let (outcome, server, image) = kernel_with(move |request, stream, bytes| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 0x10;
            (request.target == KERNEL).then(|| file(request, stream, &bytes))
        });
        let FetchError::BadHash(bad) = outcome.error() else {
            panic!("{:?}", outcome.error());
        };
        let chunk = at / MIB as usize;
        let end = ((chunk as u64 + 1) * MIB).min(4 * MIB + 17);
        assert_eq!(
            (bad.artifact.as_str(), bad.filename.as_str(), bad.chunk),
            ("kernel", "vmlinuz", chunk)
        );
        assert_eq!(bad.range, chunk as u64 * MIB..end);
        let right = &image.content("kernel")[bad.range.start as usize..bad.range.end as usize];
        let mut wrong = right.to_vec();
        wrong[at - bad.range.start as usize] ^= 0x10;
        assert_eq!(bad.expected, boot_manifest::Digest::of(right));
        assert_eq!(bad.computed, boot_manifest::Digest::of(&wrong));
        assert_eq!(outcome.error().code(), "bad-hash");
        assert_eq!(
            server.ranges(KERNEL).len(),
            2,
            "asked for once more, and no further"
        );
        // What had been verified before stays for another provider; the bad chunk does not.
        let manifest = verified(&image);
        let partial = Folder::open(outcome.folder.path())
            .unwrap()
            .begin(manifest.artifact("kernel").unwrap())
            .unwrap();
        assert!(
            partial.missing().contains(&chunk),
            "a chunk that did not verify counts as there"
        );
    }
}

#[test]
fn many_bad_chunks_are_no_accident() {
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        let mut bytes = bytes.to_vec();
        let alone = request
            .range
            .is_some_and(|(first, last)| last - first < MIB);
        if !alone {
            for chunk in 0..5 {
                bytes[chunk * MIB as usize] ^= 1;
            }
        }
        (request.target == KERNEL).then(|| file(request, stream, &bytes))
    });
    assert_eq!(outcome.error().code(), "bad-hash");
    assert!(
        server.ranges(KERNEL).len() < 10,
        "{:?}",
        server.ranges(KERNEL)
    );
}

#[test]
fn a_body_of_the_wrong_length_is_refused_before_it_is_read() {
    for (lines, code) in [
        (format!("Content-Length: {}\r\n", 4 * MIB + 18), "too-large"),
        ("Content-Length: 99999999999999\r\n".to_owned(), "too-large"),
        (format!("Content-Length: {}\r\n", 4 * MIB + 16), "cut-short"),
        ("Content-Length: 0\r\n".to_owned(), "cut-short"),
    ] {
        let (outcome, server, _) = kernel_with(move |request, stream, _| {
            (request.target == KERNEL).then(|| {
                send(stream, format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
                Then::Keep
            })
        });
        assert_eq!(outcome.error().code(), code);
        assert_eq!(server.ranges(KERNEL).len(), 1, "no retry can help");
    }
}

#[test]
fn a_body_that_never_ends_is_refused() {
    // First the right bytes, so that no digest is wrong, then ever more.
    let (outcome, ..) = kernel_with(|request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            send(
                stream,
                format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                    bytes.len()
                ),
            );
            send(stream, bytes);
            while send(stream, format!("\r\n10000\r\n{}", "x".repeat(0x10000))) {}
            Then::Close
        })
    });
    assert_eq!(outcome.error().code(), "too-large");
    let (outcome, ..) = kernel_with(|request, stream, _| {
        (request.target == KERNEL).then(|| {
            send(stream, "HTTP/1.0 200 OK\r\n\r\n");
            while send(stream, [0; 0x10000]) {}
            Then::Close
        })
    });
    assert_eq!(outcome.error().code(), "bad-hash");
}

#[test]
fn a_chunked_body_without_a_length_is_fine_when_it_is_right() {
    let (outcome, ..) = kernel_with(|request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            send(
                stream,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            for piece in bytes.chunks(70_001) {
                send(stream, format!("{:x}\r\n", piece.len()));
                send(stream, piece);
                send(stream, "\r\n");
            }
            send(stream, "0\r\n\r\n");
            Then::Keep
        })
    });
    assert_eq!(outcome.report().requests, 1);
}

#[test]
fn a_trickle_is_too_slow() {
    let began = Instant::now();
    let (outcome, ..) = kernel_with(|request, stream, bytes| {
        (request.target == KERNEL).then(|| {
            send(
                stream,
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()),
            );
            let mut rest = bytes.iter();
            // The pace is the point of this server.
            while let Some(&byte) = rest.next()
                && send(stream, [byte])
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Then::Close
        })
    });
    assert_eq!(outcome.error().code(), "too-slow");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_whole_fetch_has_a_deadline_of_its_own() {
    let image = Arc::new(Image::new());
    let server = provider(&image, |request, stream, bytes| {
        (request.target == KERNEL).then(|| partly(request, stream, bytes, 10))
    });
    let limits = Limits {
        total: Duration::from_millis(300),
        retries: u32::MAX,
        ..limits()
    };
    let outcome = fetch_artifact(&image, &server, "kernel", limits);
    assert_eq!(outcome.error().code(), "too-slow", "{}", outcome.error());
    assert!(
        outcome.error().to_string().contains("300ms"),
        "{}",
        outcome.error()
    );
}

#[test]
fn answers_to_a_range_that_was_not_asked_for_are_refused() {
    for line in [
        "",
        "Content-Range: bytes 0-1048575/4194321\r\n",
        "Content-Range: bytes 1048576-4194321/*\r\n",
        "Content-Range: bytes */4194321\r\n",
        "Content-Range: nonsense\r\n",
        "Content-Type: multipart/byteranges; boundary=x\r\n",
    ] {
        let (outcome, ..) = kernel_with(move |request, stream, bytes| match request.range {
            None => Some(partly(request, stream, bytes, MIB as usize + 1)),
            Some(_) => Some(answer(
                stream,
                "206 Partial Content",
                line,
                &bytes[MIB as usize..],
            )),
        });
        assert_eq!(
            outcome.error().code(),
            "not-http",
            "{line:?}: {}",
            outcome.error()
        );
    }
    // The file on the server changed its length.
    for (total, code) in [(MIB, "cut-short"), (9 * MIB, "too-large")] {
        let (outcome, ..) = kernel_with(move |request, stream, bytes| match request.range {
            None => Some(partly(request, stream, bytes, MIB as usize + 1)),
            Some(_) => {
                let line = format!("Content-Range: bytes */{total}\r\n");
                Some(answer(stream, "416 Range Not Satisfiable", &line, b""))
            }
        });
        assert_eq!(outcome.error().code(), code, "{}", outcome.error());
    }
}

#[test]
fn half_a_range_is_taken_and_the_rest_asked_for() {
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        let (first, last) = request.range?;
        let short = server::Request {
            range: Some((first, last.min(first + MIB - 1))),
            ..request.clone()
        };
        Some(file(&short, stream, bytes))
    });
    assert_eq!(
        outcome.report().requests,
        1,
        "the first answer is the whole file"
    );
    drop(server);
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        let Some((first, last)) = request.range else {
            return Some(partly(request, stream, bytes, MIB as usize));
        };
        let short = server::Request {
            range: Some((first, last.min(first + MIB - 1))),
            ..request.clone()
        };
        Some(file(&short, stream, bytes))
    });
    outcome.report();
    assert_eq!(
        server.ranges(KERNEL).len(),
        5,
        "{:?}",
        server.ranges(KERNEL)
    );
}

#[test]
fn parts_too_small_to_check_do_not_go_on_for_ever() {
    let (outcome, server, _) = kernel_with(|request, stream, bytes| {
        let Some((first, _)) = request.range else {
            return Some(partly(request, stream, bytes, MIB as usize));
        };
        let one_byte = server::Request {
            range: Some((first, first)),
            ..request.clone()
        };
        Some(file(&one_byte, stream, bytes))
    });
    assert_eq!(outcome.error().code(), "cut-short", "{}", outcome.error());
    let requests = server.ranges(KERNEL).len();
    assert!(requests <= 5, "{requests} requests");
}

#[test]
fn a_file_beside_the_manifest_is_found() {
    let image = Arc::new(Image::new());
    let theirs = Arc::clone(&image);
    let server = Server::start(move |request, stream| match request.target.as_str() {
        "/images/today/vmlinuz" => file(request, stream, theirs.content("kernel")),
        _ => answer(stream, "404 Not Found", "", b""),
    });
    let manifest = verified(&image);
    let artifact = manifest.artifact("kernel").unwrap();
    let base = url(&server.url("/images/today/manifest.json"));
    let sources = fetch::sources(&base, &manifest, artifact);
    assert_eq!(
        sources,
        [
            url(&server.url(KERNEL)),
            url(&server.url("/images/today/vmlinuz"))
        ]
    );
    let folder = tempfile::tempdir().unwrap();
    let begin = || {
        Folder::open(folder.path())
            .unwrap()
            .begin(artifact)
            .unwrap()
    };
    block_on(async {
        let mut fetcher = Fetcher::new(limits());
        let error = fetcher
            .artifact(&manifest, "kernel", &sources[..1], begin(), |_| {})
            .await
            .unwrap_err();
        assert_eq!(error.code(), "not-found");
        fetcher
            .artifact(&manifest, "kernel", &sources[..], begin(), |_| {})
            .await
            .unwrap();
    });
}

#[test]
fn a_kept_connection_that_died_is_replaced() {
    let image = Arc::new(Image::new());
    let used = AtomicUsize::new(usize::MAX);
    let server = provider(&image, move |request, _, _| {
        // Says it keeps the connection, and closes it when it is used again.
        (used.swap(request.connection, Ordering::SeqCst) == request.connection)
            .then_some(Then::Close)
    });
    let base = url(&server.url("/manifest.json"));
    block_on(async {
        let mut fetcher = Fetcher::new(Limits {
            retries: 0,
            ..limits()
        });
        for _ in 0..3 {
            fetcher
                .manifest(&base, &image.root(), &expect())
                .await
                .unwrap();
        }
    });
    assert_eq!(server.requests().len(), 5, "two of three were asked twice");
}

#[test]
fn a_wrong_chunk_is_fetched_again_without_ranges_too() {
    let sent = AtomicUsize::new(0);
    let (outcome, server, _) = kernel_with(move |request, stream, bytes| {
        let whole = server::Request {
            range: None,
            ..request.clone()
        };
        (request.target == KERNEL).then(|| {
            let mut bytes = bytes.to_vec();
            if sent.fetch_add(1, Ordering::SeqCst) == 0 {
                bytes[MIB as usize] ^= 1;
            }
            file(&whole, stream, &bytes)
        })
    });
    let report = outcome.report();
    assert_eq!((report.bad_chunks, report.bytes_fetched), (1, 4 * MIB + 17));
    let asked = server.ranges(KERNEL);
    assert_eq!(asked[..2], [None, Some((MIB, 2 * MIB - 1))], "{asked:?}");
}

#[test]
fn a_server_that_restarts_is_waited_for() {
    let image = Arc::new(Image::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let server = provider(&image, move |_, stream, _| {
        (asked.fetch_add(1, Ordering::SeqCst) < 2)
            .then(|| answer(stream, "503 Service Unavailable", "", b""))
    });
    let outcome = fetch_artifact(&image, &server, "rootfs", limits());
    assert_eq!(outcome.report().retries, 2);
}

#[test]
fn a_full_place_is_told_as_such() {
    #[derive(Debug)]
    struct Full;
    impl fetch::Sink for Full {
        type Chunk<'a> = Self;
        fn missing(&self) -> Vec<usize> {
            vec![0]
        }
        fn chunk(&self, _: usize) -> Result<Self, fetch::SinkError> {
            Ok(Self)
        }
    }
    impl fetch::SinkChunk for Full {
        fn write(&mut self, _: &[u8]) -> Result<(), fetch::SinkError> {
            Err(fetch::SinkError::Failed("no space left".into()))
        }
        fn finish(self) -> Result<(), fetch::SinkError> {
            Ok(())
        }
    }
    let image = Arc::new(Image::new());
    let server = provider(&image, |_, _, _| None);
    let manifest = verified(&image);
    let sources = [url(&server.url("/stable/x86_64/initramfs.img"))];
    let error = block_on(async {
        Fetcher::new(limits())
            .artifact(&manifest, "initramfs", &sources[..], Full, |_| {})
            .await
            .unwrap_err()
    });
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        ("local", "no space left")
    );
    let error = block_on(async {
        Fetcher::new(limits())
            .artifact(&manifest, "dtb", &sources[..], Full, |_| {})
            .await
            .unwrap_err()
    });
    assert_eq!(
        error.to_string(),
        "the manifest has no artifact dtb (it has: initramfs, kernel, rootfs)"
    );
}

#[test]
fn without_a_source_only_a_complete_place_is_complete() {
    struct Place(Vec<usize>);
    impl fetch::Sink for Place {
        type Chunk<'a> = artifact_store::ChunkWriter<'a>;
        fn missing(&self) -> Vec<usize> {
            self.0.clone()
        }
        fn chunk(&self, _: usize) -> Result<Self::Chunk<'_>, fetch::SinkError> {
            Err(fetch::SinkError::Failed("nothing was to be written".into()))
        }
    }
    let image = Image::new();
    let manifest = verified(&image);
    let fetch = |place: Place| {
        let mut fetcher = Fetcher::new(limits());
        block_on(async {
            fetcher
                .artifact(
                    &manifest,
                    "initramfs",
                    &Providers(Vec::new()),
                    place,
                    |_| {},
                )
                .await
                .map(|_| ())
        })
    };
    assert_eq!(fetch(Place(vec![0])).unwrap_err().code(), "not-found");
    fetch(Place(Vec::new())).unwrap();
}
