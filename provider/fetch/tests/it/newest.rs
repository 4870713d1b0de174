//! Which of several manifests counts, and who is asked for the files then.

use std::time::Instant;

use fetch::{Mirror, Mirrors, Newest, Offer, Sources as _};

use super::*;
use crate::image::noise;

/// A release with this kernel; the rootfs is always the same.
fn release(sequence: u64, kernel: u64) -> Arc<Image> {
    Arc::new(Image::numbered(
        sequence,
        NOW,
        vec![
            ("kernel", "vmlinuz", noise(kernel, 5_000)),
            ("rootfs", "rootfs.squashfs", noise(99, 6_000)),
        ],
    ))
}

fn newest(servers: &[&Server], limits: Limits) -> Result<Newest, FetchError> {
    let urls: Vec<Url> = servers
        .iter()
        .map(|one| url(&one.url("/manifest.json")))
        .collect();
    let root = release(1, 1).root();
    block_on(async {
        Fetcher::new(limits)
            .newest_manifest(&urls, &root, &expect())
            .await
    })
}

/// What the offers are, in a word each.
fn words(newest: &Newest) -> Vec<String> {
    let word = |offer: &Offer| match offer {
        Offer::Manifest { sequence, .. } => sequence.to_string(),
        Offer::Unknown => "unknown".to_owned(),
        Offer::Failed(error) => error.code().to_owned(),
    };
    newest.offers.iter().map(word).collect()
}

#[test]
fn a_mirror_that_is_behind_does_not_hide_a_newer_release() {
    let (old, new) = (release(7, 1), release(8, 2));
    let servers = [&old, &new, &old].map(|image| provider(image, |_, _, _| None));
    for order in [[0, 1, 2], [1, 0, 2], [2, 0, 1]] {
        let servers = order.map(|index| &servers[index]);
        let newest = newest(&servers, limits()).unwrap();
        assert_eq!(newest.led.manifest.bytes(), new.manifest, "{order:?}");
        let expected = order.map(|index: usize| if index == 1 { "8" } else { "7" });
        assert_eq!(words(&newest), expected);
    }
}

#[test]
fn whoever_is_behind_is_asked_only_for_what_did_not_change() {
    let (old, new) = (release(7, 1), release(8, 2));
    let artifacts = |image: &Image| {
        verified(image)
            .artifacts
            .iter()
            .map(|one| one.digest)
            .collect()
    };
    let mirror = |text: &str, artifacts| Mirror {
        manifest: url(text),
        artifacts,
    };
    let mirrors = Mirrors(vec![
        mirror("http://unknown/manifest.json", None),
        mirror("http://old/manifest.json", Some(artifacts(&old))),
        mirror("http://new/manifest.json", Some(artifacts(&new))),
    ]);
    let manifest = verified(&new);
    for (name, expected) in [
        ("kernel", ["nowhere", "new", "unknown"]),
        ("rootfs", ["old", "new", "unknown"]),
    ] {
        let artifact = manifest.artifact(name).expect("it exists");
        let places = mirrors.places(&manifest, artifact);
        let host = |one: &Vec<Url>| {
            one.first()
                .map_or("nowhere".to_owned(), |url| url.host().to_owned())
        };
        let hosts: Vec<String> = places.iter().map(host).collect();
        assert_eq!(hosts, expected, "{name}");
    }
}

#[test]
fn a_newer_number_that_nobody_signed_does_not_count() {
    let (old, new) = (release(7, 1), release(8, 2));
    let good = provider(&old, |_, _, _| None);
    let forger = provider(&new, |request, stream, bytes| {
        let text = String::from_utf8_lossy(bytes);
        // The last signature of the file is the one that counts; its base64 stays valid.
        let at = text.rfind("\"sig\": \"").expect("a signature") + 10;
        let mut bytes = bytes.to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        Some(file(request, stream, &bytes))
    });
    let newest = newest(&[&forger, &good], limits()).unwrap();
    assert_eq!(newest.led.manifest.sequence, 7);
    assert_eq!(words(&newest), ["bad-signature", "7"]);
}

#[test]
fn silent_servers_hold_nobody_up_for_long() {
    let image = release(7, 1);
    let good = provider(&image, |_, _, _| None);
    let silent = Server::start(|_, _| Then::Keep);
    let patient = Limits {
        header: Duration::from_secs(60),
        total: Duration::from_secs(60),
        ..limits()
    };
    let began = Instant::now();
    let newest = newest(&[&silent, &silent, &silent, &good], patient).unwrap();
    assert_eq!(words(&newest), ["unknown", "unknown", "unknown", "7"]);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn more_servers_than_are_asked_at_once_have_their_turn() {
    let image = release(7, 1);
    let empty = Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    let good = provider(&image, |_, _, _| None);
    let servers = [&empty, &empty, &empty, &empty, &empty, &empty, &good];
    let newest = newest(&servers, limits()).unwrap();
    assert_eq!(newest.led.manifest.sequence, 7);
    assert_eq!(words(&newest)[..6], ["not-found"; 6]);
}

#[test]
fn when_nobody_has_one_each_error_is_told_in_order() {
    let closed = Server::start(|_, stream| answer(stream, "403 Forbidden", "", b""));
    let empty = Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    let error = newest(&[&closed, &empty], limits()).unwrap_err();
    let FetchError::Exhausted { errors, .. } = &error else {
        panic!("{error}");
    };
    let codes: Vec<_> = errors.iter().map(FetchError::code).collect();
    assert_eq!(codes, ["refused-status", "not-found"]);
    assert_eq!(newest(&[&empty], limits()).unwrap_err().code(), "not-found");
}

#[test]
fn new_keys_are_found_by_the_chain_and_are_newer_than_any_sequence() {
    let files = || {
        vec![
            ("kernel", "vmlinuz", noise(2, 5_000)),
            ("rootfs", "rootfs.squashfs", noise(99, 6_000)),
        ]
    };
    let old = release(9_000, 1);
    let new = Arc::new(Image::numbered(7, NOW, files()).rotated(1));
    let servers = [&old, &new].map(|image| provider(image, |_, _, _| None));
    for order in [[0, 1], [1, 0]] {
        let newest = newest(&order.map(|index| &servers[index]), limits()).unwrap();
        assert_eq!(newest.led.manifest.bytes(), new.manifest, "{order:?}");
        assert_eq!(newest.led.root.generation(), 2);
        assert_eq!(newest.led.roots, new.roots);
    }
    // Who has no chain, or a bad one, has nothing that is believed; the others are not held up.
    for (roots, code) in [
        (None, "unknown-key"),
        (Some(b"{}".to_vec()), "roots-malformed"),
    ] {
        let image = Image::numbered(7, NOW, files()).rotated(1);
        let liar = provider(&Arc::new(Image { roots, ..image }), |_, _, _| None);
        let newest = newest(&[&liar, &servers[0]], limits()).unwrap();
        assert_eq!(newest.led.manifest.sequence, 9_000);
        assert_eq!(words(&newest), [code, "9000"]);
    }
}
