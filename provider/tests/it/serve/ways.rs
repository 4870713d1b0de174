//! The short way of plain requests and the way through hyper give the same bytes. That it does not matter how requests are
//! cut and mixed is tested inside, at the connection.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use crate::provider::{Provider, Tree};

/// An answer with the moment taken out.
fn answers(provider: &Provider, request: &str) -> Vec<u8> {
    let mut stream = provider.connect();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    without_ids(&without_dates(&all))
}

/// Refusals have an id each.
fn without_ids(bytes: &[u8]) -> Vec<u8> {
    const FIELD: &[u8] = b"X-Request-Id: ";
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !line.starts_with(FIELD));
    kept.flatten().copied().collect()
}

fn without_dates(bytes: &[u8]) -> Vec<u8> {
    const DATE: &[u8] = b"Date: ";
    let mut rest = bytes;
    let mut kept = Vec::new();
    while let Some(at) = rest.windows(DATE.len()).position(|window| window == DATE) {
        kept.extend_from_slice(&rest[..at + DATE.len()]);
        let date = &rest[at + DATE.len()..];
        assert!(
            date[..29].ends_with(b" GMT"),
            "{:?}",
            String::from_utf8_lossy(&date[..29])
        );
        rest = &date[29..];
    }
    kept.extend_from_slice(rest);
    kept
}

fn fast_answers(provider: &Provider) -> u64 {
    let page = provider.get("/metrics").text();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("plasmd_fast_answers_total "));
    line.unwrap().parse().unwrap()
}

struct Desk {
    _tree: Tree,
    provider: Provider,
}

impl Desk {
    fn new() -> Self {
        let large: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
        let tree = Tree::new(&[
            ("stable/x86_64/vmlinuz", b"kernel"),
            ("stable/x86_64/rootfs.squashfs", &large),
            ("stable/x86_64/empty.efi", b""),
        ]);
        let provider = Provider::start(tree.root(), &[]);
        for path in PATHS {
            // Twice: what was looked at once is at hand.
            provider.get(path);
            provider.get(path);
        }
        Self {
            _tree: tree,
            provider,
        }
    }
}

const PATHS: [&str; 5] = [
    "/stable/x86_64/vmlinuz",
    "/stable/x86_64/rootfs.squashfs",
    "/stable/x86_64/empty.efi",
    "/stable/x86_64/manifest.json",
    "/manifest.json",
];

const FIELDS: [&str; 12] = [
    "",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "connection: CLOSE\r\n",
    "Connection: keep-alive, close\r\n",
    "User-Agent: curl/8\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n",
    "Range: bytes=0-0\r\n",
    "Range: bytes=1-\r\n",
    "Range: bytes=-2\r\n",
    "Range: bytes=999999999-\r\n",
    "Range: lines=1-2\r\n",
    "Range: bytes=2-1\r\nConnection: close\r\n",
];

#[test]
fn both_ways_answer_the_same() {
    let desk = Desk::new();
    let provider = &desk.provider;
    let before = fast_answers(provider);
    let mut asked = 0;
    for path in PATHS {
        for method in ["GET", "HEAD"] {
            for fields in FIELDS {
                let short = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
                let long =
                    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}If-Match: *\r\n\r\n");
                let [short_answer, long_answer] =
                    [&short, &long].map(|request| answers(provider, request));
                assert!(short_answer.starts_with(b"HTTP/1.1 "));
                assert!(
                    short_answer == long_answer,
                    "{short}\n{}\n{}",
                    String::from_utf8_lossy(&short_answer),
                    String::from_utf8_lossy(&long_answer)
                );
                asked += 1;
            }
        }
    }
    let fast = fast_answers(provider) - before;
    // Ranges that are refused are hyper's; and an answer may have to be looked at again in between.
    assert!(fast >= asked * 3 / 4 && fast <= asked, "{fast} of {asked}");
}
