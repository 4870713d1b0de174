//! Heads that are read and heads that are refused. The shapes of smuggling are each one line here.

use http::{HeaderName, HeaderValue, Method, Uri};
use proptest::prelude::*;

use super::*;

fn code(head: &str) -> &'static str {
    match end(head.as_bytes(), 0) {
        Ok(Some(size)) => match read(&head.as_bytes()[..size]) {
            Ok(_) => "ok",
            Err(refusal) => {
                // They are put into JSON as they are.
                assert!(refusal.text.is_ascii() && !refusal.text.contains(['"', '\\']));
                refusal.code
            }
        },
        Ok(None) => "partial",
        Err(refusal) => {
            assert!(refusal.text.is_ascii() && !refusal.text.contains(['"', '\\']));
            refusal.code
        }
    }
}

fn check(head: &str, expected: &str) {
    assert_eq!(code(head), expected, "{head:?}");
}

/// With these lines of fields after a good request line and host.
fn fields(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

#[test]
fn a_plain_request_is_read() {
    let head = "GET /a/b?c=d HTTP/1.1\r\nHost: x:8080\r\nAccept: */*\r\nRange: bytes=0-4\r\n\r\n";
    assert_eq!(end(head.as_bytes(), 0), Ok(Some(head.len())));
    let expected = Head {
        method: "GET",
        path: "/a/b",
        version: Version::Http11,
        body_size: 0,
        waits: false,
        keeps_alive: true,
        range: Some("bytes=0-4"),
        is_plain: true,
    };
    assert_eq!(read(head.as_bytes()), Ok(expected));
}

#[test]
fn an_end_is_found_however_the_bytes_arrive() {
    let head = fields("A: b\r\n");
    for searched in 0..head.len() {
        assert_eq!(end(&head.as_bytes()[..searched], 0), Ok(None));
        assert_eq!(
            end(head.as_bytes(), searched),
            Ok(Some(head.len())),
            "{searched}"
        );
    }
    check("", "partial");
    check("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "ok");
}

#[test]
fn what_can_change_the_answer_is_not_plain() {
    for (lines, is_plain) in [
        ("", true),
        ("Connection: keep-alive\r\n", true),
        ("Connection: close\r\n", true),
        (
            "Accept-Encoding: gzip\r\nUser-Agent: x\r\nCookie: y\r\n",
            true,
        ),
        ("Range: bytes=0-\r\nRange: bytes=1-\r\n", false),
        ("Connection: upgrade\r\n", false),
        ("Upgrade: h2c\r\n", false),
        ("Expect: 100-continue\r\n", false),
        ("Content-Length: 0\r\n", false),
        ("If-Match: *\r\n", false),
        ("if-none-match: *\r\n", false),
        ("If-Range: \"x\"\r\n", false),
        ("If-Modified-Since: x\r\n", false),
        ("If-Unmodified-Since: x\r\n", false),
        ("Want-Repr-Digest: sha-512=1\r\n", false),
        ("Want-Content-Digest: sha-512=1\r\n", false),
        ("Trailer: x\r\n", false),
    ] {
        let head = fields(lines);
        let read = read(head.as_bytes()).unwrap();
        assert_eq!(read.is_plain, is_plain, "{lines:?}");
    }
    for (line, is_plain) in [
        ("HEAD / HTTP/1.1", true),
        ("GET / HTTP/1.0", false),
        ("POST / HTTP/1.1", false),
        ("OPTIONS * HTTP/1.1", false),
        ("GET http://x/ HTTP/1.1", false),
    ] {
        let head = format!("{line}\r\nHost: x\r\n\r\n");
        assert_eq!(read(head.as_bytes()).unwrap().is_plain, is_plain, "{line}");
    }
}

#[test]
fn connections_are_kept_as_the_version_says() {
    for (version, lines, keeps) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Keep-Alive, Close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: x\r\n{lines}\r\n");
        assert_eq!(read(head.as_bytes()).unwrap().keeps_alive, keeps, "{head}");
    }
}

#[test]
fn lines_end_in_cr_lf() {
    check("GET / HTTP/1.1\nHost: x\n\n", "bare-lf");
    check("GET / HTTP/1.1\r\nHost: x\n\r\n", "bare-lf");
    check("GET / HTTP/1.1\r\nHost: x\r\n\n", "bare-lf");
    check("\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "bare-lf");
    check("GET / HTTP/1.1\rHost: x\r\n\r\n", "bad-request-line");
    check(&fields("A: b\rC: d\r\n"), "bad-field");
    check(&fields("A: b\r\r\n"), "bad-field");
}

#[test]
fn request_lines_have_one_shape() {
    for (line, expected) in [
        ("GET  / HTTP/1.1", "bad-request-line"),
        ("GET / HTTP/1.1 ", "bad-request-line"),
        (" GET / HTTP/1.1", "bad-method"),
        ("GET\t/ HTTP/1.1", "bad-method"),
        ("GET /", "bad-request-line"),
        ("GET", "bad-request-line"),
        ("G@T / HTTP/1.1", "bad-method"),
        ("GET / http/1.1", "bad-request-line"),
        ("GET / HTTP/1.10", "bad-request-line"),
        ("GET / HTTP/2.0", "other-version"),
        ("GET / HTTP/1.2", "other-version"),
        ("GET / HTTP/0.9", "other-version"),
        ("PRI * HTTP/2.0", "other-version"),
        ("GET /a b HTTP/1.1", "bad-request-line"),
        ("GET /\u{e9} HTTP/1.1", "bad-target"),
        ("GET /a#b HTTP/1.1", "bad-target"),
        ("GET /a\\b HTTP/1.1", "bad-target"),
        ("GET /a\u{1}b HTTP/1.1", "bad-target"),
        ("GET /<a> HTTP/1.1", "bad-target"),
        ("GET * HTTP/1.1", "bad-target"),
        ("GET a/b HTTP/1.1", "bad-target"),
        ("GET x:80 HTTP/1.1", "bad-target"),
        ("GET ftp://x/ HTTP/1.1", "bad-target"),
        ("GET http:///a HTTP/1.1", "bad-target"),
        ("GET http://u:p@x/a HTTP/1.1", "bad-target"),
        ("GET http://x:y/a HTTP/1.1", "bad-target"),
        ("CONNECT x:80 HTTP/1.1", "no-proxy"),
        ("CONNECT /x HTTP/1.1", "no-proxy"),
        ("CONNECT x:80/ HTTP/1.1", "bad-target"),
        ("CONNECT x HTTP/1.1", "bad-target"),
        ("OPTIONS * HTTP/1.1", "ok"),
        ("BREW / HTTP/1.1", "ok"),
        ("GET http://x HTTP/1.1", "ok"),
    ] {
        check(&format!("{line}\r\nHost: x\r\n\r\n"), expected);
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9_000));
    check(&long, "target-too-long");
    check(
        &format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "A".repeat(33)),
        "method-too-long",
    );
    check("\u{16}\u{3}\u{1}", "tls");
    check("\0\0", "bad-method");
}

#[test]
fn targets_of_every_form_have_a_path() {
    for (line, path) in [
        ("GET /a/b", "/a/b"),
        ("GET //a?b?c", "//a"),
        ("GET http://x/a?b", "/a"),
        ("GET HTTP://x:80", "/"),
        ("GET http://[::1]:80?q", "/"),
        ("OPTIONS http://x", "*"),
        ("OPTIONS *", "*"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(read(head.as_bytes()).unwrap().path, path, "{line}");
    }
}

#[test]
fn there_is_one_host() {
    check("GET / HTTP/1.1\r\n\r\n", "no-host");
    check("GET / HTTP/1.0\r\n\r\n", "ok");
    for (host, expected) in [
        ("", "ok"),
        ("x", "ok"),
        ("x.example:8080", "ok"),
        ("[fe80::1%25eth0]:8080", "ok"),
        ("192.0.2.1", "ok"),
        ("x y", "bad-host"),
        ("x/y", "bad-host"),
        ("x@y", "bad-host"),
        ("x, y", "bad-host"),
        ("x:y", "bad-host"),
        ("::1", "bad-host"),
        ("[::1", "bad-host"),
        ("x\r\nHost: x", "bad-host"),
    ] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), expected);
    }
    check("GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", "bad-host");
}

#[test]
fn fields_have_one_shape() {
    for (line, expected) in [
        ("A : b", "bad-field"),
        (": b", "bad-field"),
        ("A", "bad-field"),
        ("A\u{0}: b", "bad-field"),
        ("A: b\u{0}c", "bad-field"),
        ("A: b\r\n c", "folded-field"),
        ("A: b\r\n\tc", "folded-field"),
        ("A(b): c", "bad-field"),
        ("A: \u{e9}", "ok"),
        ("A:", "ok"),
    ] {
        check(&fields(&format!("{line}\r\n")), expected);
    }
    // A fold straight after the request line.
    check(
        "GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
        "folded-field",
    );
    check(&fields(&"A: b\r\n".repeat(100)), "too-many-fields");
    check(&fields(&"A: b\r\n".repeat(99)), "ok");
    check(
        &fields(&format!("A: {}\r\n", "b".repeat(40_000))),
        "head-too-large",
    );
}

#[test]
fn a_body_has_one_plain_length() {
    for (lines, expected) in [
        ("Content-Length: 5", "ok"),
        ("Content-Length: 8192", "ok"),
        ("Content-Length: 8193", "body-too-large"),
        ("Content-Length: 99999999999999999999999", "body-too-large"),
        ("Content-Length: +5", "bad-length"),
        ("Content-Length: -5", "bad-length"),
        ("Content-Length: 0x5", "bad-length"),
        ("Content-Length: 5 5", "bad-length"),
        ("Content-Length: 5, 5", "bad-length"),
        ("Content-Length:", "bad-length"),
        ("Content-Length: 5\r\nContent-Length: 5", "two-lengths"),
        ("Content-Length: 5\r\ncontent-length: 6", "two-lengths"),
        ("Content-Length : 5", "bad-field"),
        ("Transfer-Encoding: chunked", "no-length"),
        ("Transfer-Encoding: CHUNKED", "no-length"),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "two-framings",
        ),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "two-framings",
        ),
        (
            "Content-Length: 0\r\nTransfer-Encoding: identity",
            "two-framings",
        ),
        ("Transfer-Encoding: gzip, chunked", "unknown-coding"),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "unknown-coding",
        ),
        ("Transfer-Encoding: chunked, gzip", "not-chunked-last"),
        ("Transfer-Encoding: chunked, chunked", "not-chunked-last"),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "not-chunked-last",
        ),
        ("Transfer-Encoding: identity", "not-chunked-last"),
        ("Transfer-Encoding: xchunked", "not-chunked-last"),
        ("Transfer-Encoding: chunked;q=1", "not-chunked-last"),
        ("Transfer-Encoding: \"chunked\"", "not-chunked-last"),
        ("Transfer-Encoding: ,chunked", "not-chunked-last"),
        ("Transfer-Encoding:", "not-chunked-last"),
        ("Transfer-Encoding:\u{b}chunked", "bad-field"),
        ("Transfer_Encoding: chunked", "ok"),
    ] {
        check(&fields(&format!("{lines}\r\n")), expected);
    }
    let old = "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(old, "two-framings");
}

/// Bytes near HTTP.
fn heads() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        "/[ -~]{0,12}",
        "(http|HTTP|ftp)://[a-z:\\[\\]%@0-9]{0,8}[/?]?[a-z]{0,3}",
        Just("*".to_owned()),
    ];
    let name = prop_oneof![
        "[A-Za-z-]{1,8}",
        prop::sample::select(vec![
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Expect",
            "Range",
            "Upgrade",
        ])
        .prop_map(str::to_owned),
    ];
    let value = prop_oneof![
        "[ -~\u{80}\t]{0,10}",
        "[0-9]{1,3}",
        Just("chunked".to_owned())
    ];
    let field = (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    let method = prop_oneof![Just("GET".to_owned()), "[!-~]{1,6}"];
    let fields = prop::collection::vec(field, 0..5);
    (method, target, "HTTP/1\\.[01]", fields).prop_map(|(method, target, version, fields)| {
        format!(
            "{method} {target} {version}\r\nHost: x\r\n{}\r\n",
            fields.concat()
        )
    })
}

proptest! {
    /// What passes is never refused by the types that everything behind is made of, and means the same there.
    #[test]
    fn what_passes_is_understood_by_what_comes_next(head in heads()) {
        let Ok(Some(size)) = end(head.as_bytes(), 0) else { return Ok(()) };
        let Ok(read) = read(&head.as_bytes()[..size]) else { return Ok(()) };
        let target = head.split(' ').nth(1).unwrap();
        prop_assert!(Method::from_bytes(read.method.as_bytes()).is_ok());
        let uri: Uri = target.parse().map_err(|_| TestCaseError::fail(target.to_owned()))?;
        if read.path != "*" {
            prop_assert_eq!(uri.path(), read.path);
        }
        for line in head[..size].lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            prop_assert!(HeaderName::from_bytes(name.as_bytes()).is_ok());
            prop_assert!(HeaderValue::from_bytes(value.trim_ascii().as_bytes()).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), searched in 0_usize..300) {
        if let Ok(Some(size)) = end(&bytes, searched) {
            let _ = read(&bytes[..size]);
        }
        let _ = read(&bytes);
    }
}
