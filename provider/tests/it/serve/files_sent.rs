//! What happens to a file while it is sent, or between its hashing and its sending. A client gets the whole of one content
//! under that content's digest, or an answer that is visibly cut; the next answer is about what is there then.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, symlink};

use boot_manifest::Digest;

use super::manifest::{artifact, now, signed};
use crate::provider::{Provider, Tree};
use crate::serve::asking::{Asking, notice};

const FILE: &str = "stable/x86_64/rootfs.img";
const PATH: &str = "/stable/x86_64/rootfs.img";

/// More than the sockets of both sides hold, so that the provider is still sending when the change comes.
const SIZE: usize = 16 << 20;

/// Plain, and with a field that only the long way understands.
const WAYS: [&str; 2] = ["", "If-None-Match: \"other\"\r\n"];

fn content(seed: u8) -> Vec<u8> {
    let mut content = vec![0; SIZE];
    for (number, piece) in content.chunks_mut(4_096).enumerate() {
        piece.fill(number as u8 ^ seed);
    }
    content
}

/// How an answer that was being sent during the change ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// With the old content.
    Whole,
    /// Before the last byte.
    Cut,
}

/// What the next request gets.
enum Next {
    /// The content made of this seed.
    Seed(u8),
    Bytes(&'static [u8]),
    Status(u16),
}

/// A change to the tree, given the new content.
type Change = fn(&Tree, &[u8]);

const CHANGES: &[(&str, Change, End, Next)] = &[
    (
        "another file is renamed over it",
        |tree, new| tree.replace(FILE, new),
        End::Whole,
        Next::Seed(2),
    ),
    (
        "it is removed",
        |tree, _| fs::remove_file(tree.path(FILE)).unwrap(),
        End::Whole,
        Next::Status(404),
    ),
    (
        "it is renamed",
        |tree, _| fs::rename(tree.path(FILE), tree.path("aside")).unwrap(),
        End::Whole,
        Next::Status(404),
    ),
    (
        "it is truncated to nothing",
        |tree, _| tree.write(FILE, b""),
        End::Cut,
        Next::Bytes(b""),
    ),
    (
        "it loses its last byte",
        |tree, _| {
            let file = fs::File::options().write(true).open(tree.path(FILE));
            file.unwrap().set_len(SIZE as u64 - 1).unwrap();
        },
        End::Cut,
        Next::Status(200),
    ),
    (
        "its last byte is overwritten",
        |tree, _| {
            let file = fs::File::options().write(true).open(tree.path(FILE));
            file.unwrap().write_all_at(b"!", SIZE as u64 - 1).unwrap();
        },
        End::Cut,
        Next::Status(200),
    ),
    (
        "it is overwritten in place",
        |tree, new| tree.write(FILE, new),
        End::Cut,
        Next::Seed(2),
    ),
    (
        "it becomes longer",
        |tree, _| {
            let file = fs::File::options().append(true).open(tree.path(FILE));
            file.unwrap().write_all(b"more").unwrap();
        },
        End::Cut,
        Next::Status(200),
    ),
    (
        "a link takes its place",
        |tree, _| {
            fs::rename(tree.path(FILE), tree.path("aside")).unwrap();
            symlink(tree.path("aside"), tree.path(FILE)).unwrap();
        },
        End::Whole,
        Next::Status(403),
    ),
    (
        "its folder is renamed",
        |tree, _| fs::rename(tree.path("stable"), tree.path("aside")).unwrap(),
        End::Whole,
        Next::Status(404),
    ),
    (
        "a link takes the place of its folder",
        |tree, _| {
            fs::rename(tree.path("stable/x86_64"), tree.path("aside")).unwrap();
            symlink(tree.path("aside"), tree.path("stable/x86_64")).unwrap();
        },
        End::Whole,
        Next::Status(403),
    ),
    (
        "another folder takes the place of its folder",
        |tree, new| {
            tree.write("other/rootfs.img", new);
            fs::rename(tree.path("stable/x86_64"), tree.path("aside")).unwrap();
            fs::rename(tree.path("other"), tree.path("stable/x86_64")).unwrap();
        },
        End::Whole,
        Next::Seed(2),
    ),
    (
        "a manifest comes that names another content",
        |tree, _| {
            let manifest = signed(vec![artifact("kernel", "rootfs.img", b"other")], now());
            tree.replace("stable/x86_64/manifest.json", &manifest);
        },
        End::Whole,
        Next::Status(500),
    ),
];

/// Starts to receive and stops after the head.
fn begin(provider: &Provider, fields: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = provider.connect();
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut begun = vec![0; 1_024];
    stream.read_exact(&mut begun).unwrap();
    (stream, begun)
}

/// Receives the rest; a cut may be a reset.
fn end(mut stream: TcpStream, mut begun: Vec<u8>) -> (String, Vec<u8>) {
    let _ = stream.read_to_end(&mut begun);
    let at = begun
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    let body = begun.split_off(at);
    (String::from_utf8(begun).unwrap(), body)
}

#[test]
fn changes_while_it_is_sent() {
    let (old, new) = (content(1), content(2));
    let old_digest = Digest::of(&old).to_string();
    for (name, change, expected, next) in CHANGES {
        let tree = Tree::new(&[(FILE, &old), ("stable/x86_64/vmlinuz", b"kernel")]);
        let provider = Provider::start(tree.root(), &[]);
        let mut asking = Asking::new(&provider);
        assert_eq!(asking.get(PATH).field("x-artifact-hash"), old_digest);
        let sending = WAYS.map(|fields| begin(&provider, fields));
        change(&tree, &new);
        notice();
        match next {
            Next::Seed(seed) => {
                let digest = Digest::of(&content(*seed)).to_string();
                assert_eq!(asking.get(PATH).field("x-artifact-hash"), digest, "{name}");
            }
            Next::Bytes(bytes) => assert_eq!(asking.get(PATH).body, *bytes, "{name}"),
            Next::Status(status) => {
                let answer = asking.get(PATH);
                assert_eq!(answer.status, *status, "{name}");
                if *status == 200 {
                    let digest = Digest::of(&answer.body).to_string();
                    assert_eq!(answer.field("x-artifact-hash"), digest, "{name}");
                }
            }
        }
        for (stream, begun) in sending {
            let (head, body) = end(stream, begun);
            assert!(head.contains(&old_digest), "{name}: {head}");
            match expected {
                End::Whole => assert!(body == old, "{name}: {} bytes, or others", body.len()),
                End::Cut => assert!(body.len() < SIZE, "{name}: all bytes came"),
            }
        }
    }
}

#[test]
fn changes_between_hashing_and_sending() {
    // A small file, whose bytes are kept, and one whose descriptor is.
    for size in [1_000, 300_000] {
        let contents: Vec<Vec<u8>> = (0..4).map(|seed| vec![seed; size]).collect();
        let tree = Tree::new(&[(FILE, &contents[0]), ("stable/x86_64/vmlinuz", b"kernel")]);
        let provider = Provider::start(tree.root(), &[]);
        let mut asking = Asking::new(&provider);
        for round in 0..40 {
            let content = &contents[round % contents.len()];
            if round % 3 == 0 {
                tree.write(FILE, content);
            } else {
                tree.replace(FILE, content);
            }
            notice();
            // From a look, from what is at hand, and by the long way.
            for fields in ["", "", WAYS[1]] {
                let answer = asking.ask(PATH, fields);
                assert_eq!(answer.status, 200, "{size} {round}: {}", answer.text());
                assert!(answer.body == *content, "{size} {round}");
                let digest = Digest::of(content);
                assert_eq!(answer.field("x-artifact-hash"), digest.to_string());
                assert_eq!(answer.field("etag"), format!("\"{}\"", digest.hex()));
            }
        }
    }
}

#[test]
fn written_through_another_name() {
    let outside = tempfile::tempdir().unwrap();
    for size in [1_000, 300_000] {
        let link = outside.path().join(format!("link{size}"));
        fs::write(&link, vec![1; size]).unwrap();
        let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
        fs::hard_link(&link, tree.path(FILE)).unwrap();
        let provider = Provider::start(tree.root(), &[]);
        let mut asking = Asking::new(&provider);
        for round in 2..10 {
            for _ in 0..2 {
                assert!(asking.get(PATH).body == vec![round - 1; size]);
            }
            // No folder that is served hears of this.
            fs::write(&link, vec![round; size]).unwrap();
            notice();
        }
    }
}

#[test]
fn a_removed_file_is_freed() {
    let tree = Tree::new(&[(FILE, &content(1)), ("stable/x86_64/vmlinuz", b"kernel")]);
    let provider = Provider::start(tree.root(), &[]);
    let mut asking = Asking::new(&provider);
    let held = || {
        provider
            .open_files()
            .iter()
            .any(|file| file.contains("rootfs.img"))
    };
    // It is given back when nobody has asked for a while, which a busy machine may take for this test.
    crate::provider::wait_until("its descriptor to be kept", || {
        assert_eq!(asking.get(PATH).status, 200);
        held().then_some(())
    });
    fs::remove_file(tree.path(FILE)).unwrap();
    crate::provider::wait_until("the descriptor to be closed", || (!held()).then_some(()));
}
