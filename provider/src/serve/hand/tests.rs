//! What may be kept, how much of it, and that nothing is kept for long.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use boot_manifest::Digest;
use bytes::Bytes;

use super::*;
use crate::http::respond::{Facts, Labels};

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    channel: Channel,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("stable/x86_64")).unwrap();
        fs::write(dir.path().join("stable/x86_64/vmlinuz"), b"kernel").unwrap();
        Self {
            store: Store::open(dir.path()).unwrap(),
            dir,
            channel: "stable".parse().unwrap(),
        }
    }

    /// Keeps `source` as the answer to `path`. False when it may not be.
    fn keep(&self, hand: &Hand, path: &str, source: Source) -> bool {
        let Some(look) = hand.begin(path, &self.channel, Arch::X86_64) else {
            return false;
        };
        let labels = Labels::new(Facts {
            digest: Digest::of(b"any"),
            size: 0,
            modified: SystemTime::UNIX_EPOCH,
            media_type: "application/octet-stream",
            is_artifact: true,
        });
        let labels = Arc::new(labels);
        hand.keep(look, Content { source, labels });
        true
    }

    fn file(&self) -> Source {
        let name = "vmlinuz".parse().unwrap();
        Source::File(self.store.find(&self.channel, "x86_64", &name).unwrap())
    }
}

fn bytes(size: usize) -> Source {
    Source::Bytes(Bytes::from(vec![1; size]))
}

fn sizes(hand: &Hand) -> (usize, usize, usize) {
    let table = hand.read();
    (table.answers.len(), table.bytes, table.files)
}

#[test]
fn one_spelling_of_a_path_is_kept() {
    let fixture = Fixture::new();
    let hand = Hand::new(&fixture.store);
    assert!(fixture.keep(&hand, "/stable/x86_64/vmlinuz", bytes(1)));
    for path in ["/stable/x86_64/vmlinuz", "//stable/x86_64/vmlinuz"] {
        assert!(hand.get(path).is_some(), "{path}");
        assert!(!fixture.keep(&hand, path, bytes(1)), "kept already");
    }
    for path in [
        "/stable//x86_64/vmlinuz",
        "/stable/x86_64/vmlinu%7a",
        "/stable/x86_64//vmlinuz",
    ] {
        assert!(!fixture.keep(&hand, path, bytes(1)), "{path}");
        assert!(hand.get(path).is_none(), "{path}");
    }
    for path in ["", "/", "/stable", "/stable/x86_64/vmlinuz/"] {
        assert!(hand.get(path).is_none(), "{path}");
    }
    assert_eq!(sizes(&hand), (1, 1, 0));
}

#[test]
fn the_table_is_bounded_in_every_way() {
    let fixture = Fixture::new();
    let hand = Hand::new(&fixture.store);
    for number in 0..HAND_MAX * 3 {
        assert!(fixture.keep(&hand, &format!("/{number}"), bytes(1)));
        assert!(sizes(&hand).0 <= HAND_MAX);
    }
    for number in 0..20 {
        let path = format!("/large{number}");
        assert!(fixture.keep(&hand, &path, bytes(HAND_BYTES_MAX / 4)));
        assert!(sizes(&hand).1 <= HAND_BYTES_MAX);
        assert!(hand.get(&path).is_some());
    }
    for number in 0..HAND_FILES_MAX * 3 {
        assert!(fixture.keep(&hand, &format!("/file{number}"), fixture.file()));
        assert!(sizes(&hand).2 <= HAND_FILES_MAX);
    }
    hand.clear();
    assert_eq!(sizes(&hand), (0, 0, 0));
}

#[test]
fn what_is_asked_for_stays_while_others_come_and_go() {
    let fixture = Fixture::new();
    let hand = Hand::new(&fixture.store);
    assert!(fixture.keep(&hand, "/small", bytes(1)));
    let mut looked = Instant::now();
    assert!(fixture.keep(&hand, "/asked", fixture.file()));
    for number in 0..HAND_FILES_MAX * 3 {
        let is_there = hand.read().answers.contains_key(key("/asked"));
        // The first time that room is needed, all were asked for. On a busy machine it may have grown old.
        let may_be_gone = number == HAND_FILES_MAX || looked.elapsed() >= LOOK_AGAIN;
        assert!(is_there || may_be_gone, "{number}");
        if hand.get("/asked").is_none() {
            // It made room, or a busy machine let it grow old.
            looked = Instant::now();
            fixture.keep(&hand, "/asked", fixture.file());
            hand.get("/asked");
        }
        assert!(fixture.keep(&hand, &format!("/file{number}"), fixture.file()));
    }
    assert_eq!(sizes(&hand).2, HAND_FILES_MAX, "no more leave than must");
    assert!(hand.get("/small").is_some(), "it was in nobody's way");
}

#[test]
fn what_changes_while_it_is_looked_at_is_not_kept() {
    let fixture = Fixture::new();
    let hand = Hand::new(&fixture.store);
    let look = hand.begin("/a", &fixture.channel, Arch::X86_64).unwrap();
    hand.clear();
    let labels = Labels::new(Facts {
        digest: Digest::of(b"any"),
        size: 0,
        modified: SystemTime::UNIX_EPOCH,
        media_type: "application/json",
        is_artifact: false,
    });
    let content = Content {
        source: bytes(1),
        labels: Arc::new(labels),
    };
    hand.keep(look, content);
    assert_eq!(sizes(&hand).0, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_long() {
    let fixture = Fixture::new();
    let hand = Arc::new(Hand::new(&fixture.store));
    let tidying = tokio::spawn({
        let hand = Arc::clone(&hand);
        async move { hand.tidy().await }
    });
    fixture.keep(&hand, "/a", fixture.file());
    // The looked-at times are real, so the change is one that was told.
    fs::write(fixture.dir.path().join("stable/b"), b"b").unwrap();
    fs::create_dir(fixture.dir.path().join("c")).unwrap();
    tokio::time::sleep(LOOK_AGAIN * 2).await;
    assert_eq!(sizes(&hand), (0, 0, 0));
    assert_eq!(hand.watch.as_ref().unwrap().watches(), 0);
    tidying.abort();
}
