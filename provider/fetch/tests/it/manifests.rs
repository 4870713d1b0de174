//! Getting a manifest: what is refused, and under which name.

use std::time::Instant;

use boot_manifest::{SecretKey, TrustRoot};

use super::*;

fn fetch_manifest(
    image: &Image,
    text: &str,
    limits: Limits,
) -> Result<Verified<Manifest>, FetchError> {
    let root = image.root();
    block_on(async {
        Fetcher::new(limits)
            .manifest(&url(text), &root, &expect())
            .await
    })
}

/// The code of the error that one canned answer leads to.
fn code_for(
    handler: impl Fn(&server::Request, &mut std::net::TcpStream) -> Then + Send + Sync + 'static,
) -> (&'static str, usize) {
    let image = Image::new();
    let server = Server::start(handler);
    let error = fetch_manifest(&image, &server.url("/manifest.json"), limits())
        .expect_err("it should have failed");
    println!("{error}");
    assert!(
        error.to_string().contains(&server.url("/")),
        "the error does not say where: {error}"
    );
    (error.code(), server.requests().len())
}

#[test]
fn a_good_manifest_arrives_as_it_was_signed() {
    let image = Arc::new(Image::new());
    let server = provider(&image, |_, _, _| None);
    let manifest = fetch_manifest(&image, &server.url("/manifest.json"), limits()).unwrap();
    assert_eq!(manifest.bytes(), image.manifest);
    let head = &server.requests()[0].head;
    assert!(head.contains("accept-encoding: identity"), "{head}");
}

#[test]
fn an_ipv6_literal_and_a_name_work() {
    let image = Arc::new(Image::new());
    let theirs = Arc::clone(&image);
    let server = Server::start_at("[::1]:0", move |request, stream| {
        file(request, stream, &theirs.manifest)
    });
    fetch_manifest(&image, &server.url("/manifest.json"), limits()).unwrap();
    let host = server.url("").replace("http://", "host: ");
    assert!(
        server.requests()[0].head.contains(&host),
        "{}",
        server.requests()[0].head
    );

    // `localhost` may resolve to ::1 first, where nobody listens: the next address is tried.
    let server = provider(&image, |_, _, _| None);
    let by_name = server
        .url("/manifest.json")
        .replace("127.0.0.1", "localhost");
    fetch_manifest(&image, &by_name, limits()).unwrap();
}

#[test]
fn refusals_have_their_own_codes_and_only_passing_ones_are_repeated() {
    for (status, code, requests) in [
        ("404 Not Found", "not-found", 1),
        ("410 Gone", "not-found", 1),
        ("401 Unauthorized", "refused-status", 1),
        ("403 Forbidden", "refused-status", 1),
        ("204 No Content", "refused-status", 1),
        ("206 Partial Content", "refused-status", 1),
        ("304 Not Modified", "refused-status", 1),
        ("500 Internal Server Error", "refused-status", 3),
        ("503 Service Unavailable", "refused-status", 3),
    ] {
        let found = code_for(move |_, stream| {
            server::send(
                stream,
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"),
            );
            Then::Close
        });
        assert_eq!(found, (code, requests), "{status}");
    }
}

#[test]
fn what_is_not_http_is_said_to_be_not_http() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1_000));
    let sent: Vec<Vec<u8>> = vec![
        b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n".to_vec(),
        b"HTTP/1.1 999999 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
        long.into_bytes(),
        many.into_bytes(),
    ];
    for bytes in sent {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let (code, _) = code_for(move |_, stream| {
            server::send(stream, &bytes);
            Then::Close
        });
        assert_eq!(code, "not-http", "{shown:?}");
    }
}

#[test]
fn a_connection_that_ends_too_early_is_cut_short() {
    for sent in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let found = code_for(move |_, stream| {
            server::send(stream, sent);
            Then::Close
        });
        assert_eq!(found, ("cut-short", 3), "{sent:?}");
    }
}

#[test]
fn nobody_there_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = format!("http://{address}/manifest.json");
    let error = fetch_manifest(&Image::new(), &text, limits()).unwrap_err();
    assert_eq!(error.code(), "unreachable", "{error}");
    assert!(
        error
            .to_string()
            .starts_with(&format!("{text}: cannot be reached: {address}: ")),
        "{error}"
    );
}

#[test]
fn a_silent_server_is_too_slow() {
    let image = Image::new();
    for said in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"] {
        let server = Server::start(move |_, stream| {
            server::send(stream, said);
            Then::Keep
        });
        let limits = Limits {
            header: Duration::from_millis(200),
            retries: 0,
            ..limits()
        };
        let began = Instant::now();
        let error = fetch_manifest(&image, &server.url("/m.json"), limits).unwrap_err();
        assert_eq!(error.code(), "too-slow", "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_manifest_that_is_too_large_is_not_read() {
    let (code, requests) = code_for(|_, stream| {
        server::send(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n");
        Then::Keep
    });
    assert_eq!((code, requests), ("too-large", 1), "announced");
    let (code, requests) = code_for(|_, stream| {
        server::send(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while server::send(stream, &piece) {}
        Then::Close
    });
    assert_eq!((code, requests), ("too-large", 1), "never ending");
    let (code, requests) = code_for(|_, stream| {
        server::send(stream, "HTTP/1.0 200 OK\r\n\r\n");
        while server::send(stream, [b' '; 4096]) {}
        Then::Close
    });
    assert_eq!(
        (code, requests),
        ("too-large", 1),
        "never ending, without chunks"
    );
}

#[test]
fn a_manifest_that_does_not_verify_is_not_given_out() {
    let image = Arc::new(Image::new());
    let server = provider(&image, |_, _, _| None);
    let location = url(&server.url("/manifest.json"));
    let other = TrustRoot::single(SecretKey::from_seed([8; 32]).public());
    let error = block_on(async {
        Fetcher::new(limits())
            .manifest(&location, &other, &expect())
            .await
    })
    .unwrap_err();
    assert_eq!(error.code(), "unknown-key", "{error}");
    let late = Expect {
        now: NOW.plus_days(31),
        ..expect()
    };
    let error = block_on(async {
        Fetcher::new(limits())
            .manifest(&location, &image.root(), &late)
            .await
    })
    .unwrap_err();
    assert_eq!(error.code(), "expired", "{error}");
    assert_eq!(
        server.requests().len(),
        2,
        "a manifest that does not verify is not asked for again"
    );

    let middle = image.manifest.len() / 2;
    let flipped = provider(&image, move |request, stream, bytes| {
        let mut bytes = bytes.to_vec();
        bytes[middle] ^= 1;
        Some(file(request, stream, &bytes))
    });
    let error = fetch_manifest(&image, &flipped.url("/manifest.json"), limits()).unwrap_err();
    assert!(matches!(error, FetchError::Verify { .. }), "{error:?}");
}

#[test]
fn redirects_are_followed_a_few_times_and_never_out_of_http() {
    let image = Arc::new(Image::new());
    let theirs = Arc::clone(&image);
    let server = Server::start(move |request, stream| {
        let steps: u32 = request.target.trim_start_matches("/").parse().unwrap_or(0);
        match (request.target.as_str(), steps) {
            ("/secure", _) => answer(
                stream,
                "301 Moved Permanently",
                "Location: https://127.0.0.1/m\r\n",
                b"",
            ),
            ("/nowhere", _) => answer(stream, "302 Found", "", b""),
            ("/inject", _) => answer(stream, "302 Found", "Location: /a b\r\n", b""),
            (_, 0) => file(request, stream, &theirs.manifest),
            (_, steps) => answer(
                stream,
                "302 Found",
                &format!("Location: {}\r\n", steps - 1),
                b"moved",
            ),
        }
    });
    let fetch = |path: &str| fetch_manifest(&image, &server.url(path), limits());
    fetch("/3").unwrap();
    for (path, code, text) in [
        ("/4", "refused-status", "3 redirects are followed"),
        ("/secure", "not-http", "https is not spoken here"),
        ("/nowhere", "refused-status", "302"),
        ("/inject", "not-http", "percent-encoded"),
    ] {
        let error = fetch(path).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let strict = Limits {
        redirects: 0,
        ..limits()
    };
    assert_eq!(
        fetch_manifest(&image, &server.url("/1"), strict)
            .unwrap_err()
            .code(),
        "refused-status"
    );
}
