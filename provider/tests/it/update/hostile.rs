//! Sources that send for ever, trickle, cut, lie, replay, or hold back; faults 27 to 29.

use std::io::Write as _;
use std::net::TcpStream;

use boot_manifest::{
    Arch, Digest, Freshness, Manifest, SecretKey, append_link, draft_link, sign, sign_freshness,
    sign_link,
};

use super::*;
use crate::desk::server::{self, Request, Then, answer};

/// Sends `piece` again and again until the client has had enough, with a pause before each.
fn endless(stream: &mut TcpStream, head: &str, piece: &[u8], pause: Duration) -> Then {
    if server::send(stream, head) {
        while stream.write_all(piece).is_ok() {
            std::thread::sleep(pause);
        }
    }
    Then::Close
}

fn flags(servers: &[&Server]) -> Vec<String> {
    let from = servers
        .iter()
        .map(|server| format!("--from={}", server.url("")));
    ["--no-mdns", "--http-port=1"]
        .map(str::to_owned)
        .into_iter()
        .chain(from)
        .collect()
}

fn role(running: &Image, servers: &[&Server]) -> Role {
    let flags = flags(servers);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Role::start(running, &flags)
}

/// Faults 28 and 29: endless bodies and headers, a trickle, compression, silence, redirects and lies cost their own time
/// only; one good source among them is enough.
#[test]
fn one_good_source_among_bad_ones_is_enough() {
    let (running, newer) = (numbered(7), numbered(8));
    let none = Duration::ZERO;
    let trickle = Duration::from_millis(500);
    let ok = "HTTP/1.1 200 OK\r\n";
    let large = format!("{ok}Content-Length: 1000000000\r\n\r\n");
    let slow = format!("{ok}Content-Length: 5000\r\n\r\n");
    let chunked = format!("{ok}Transfer-Encoding: chunked\r\n\r\n");
    let gzip = format!("{ok}Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n");
    let elsewhere = good(&newer);
    let redirect = format!("Location: {}\r\n", elsewhere.url("/manifest.json"));
    let cut = newer.manifest.clone();
    let mut flipped = newer.manifest.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    let bad = [
        Server::start(move |_, stream| endless(stream, &large, &[b'{'; 65_536], none)),
        Server::start(move |_, stream| endless(stream, &slow, b"{", trickle)),
        Server::start(move |_, stream| endless(stream, &chunked, b"1000\r\n", none)),
        Server::start(move |_, stream| endless(stream, "HTTP/1.1 200 OK\r\n", b"X: y\r\n", none)),
        Server::start(move |_, stream| endless(stream, &gzip, &[0x1f; 500], none)),
        Server::start(move |_, stream| endless(stream, "", b"", trickle)),
        Server::start(move |_, stream| answer(stream, "302 Found", &redirect, b"")),
        Server::start(move |request, stream| server::partly(request, stream, &cut, 300)),
        Server::start(move |request, stream| file(request, stream, &flipped)),
        Server::start(|_, stream| answer(stream, "200 OK", "", b"{}")),
    ];
    let good = good(&newer);
    // The good one comes last.
    let all: Vec<&Server> = bad.iter().chain([&good]).collect();
    let role = role(&running, &all);
    let (origin, manifest) = offered(role.check().last());
    assert_eq!(origin, good.url(""));
    assert!(manifest == newer.manifest);
    assert!(elsewhere.requests().is_empty(), "a redirect was followed");
}

/// Fault 27: a mirror that is behind shows an old release; it is neither taken nor does it hide a newer one.
#[test]
fn an_old_release_is_a_rollback_and_is_not_taken() {
    let running = numbered(7);
    let servers = [good(&numbered(3)), good(&numbered(8))];
    let alone = role(&running, &[&servers[0]]);
    assert_eq!(alone.checked(), ("current".to_owned(), true));
    let both = role(&running, &[&servers[0], &servers[1]]);
    assert!(offered(both.check().last()).1 == numbered(8).manifest);
}

/// Fault 27, fast-forward: a release whose number would leave no room above it is refused and named.
#[test]
fn a_number_far_ahead_is_refused_and_named() {
    let running = numbered(7);
    let far = 7 + boot_manifest::limits::SEQUENCE_JUMP_MAX + 1;
    let server = good(&numbered(far));
    let role = role(&running, &[&server]);
    assert_eq!(role.checked(), ("sequence-jump".to_owned(), true));
}

/// The same image signed by `keys` as release of generation 2, with `sequence`.
fn reissued(image: &Image, sequence: u64, keys: &[&SecretKey]) -> Vec<u8> {
    let payload = boot_manifest::verify(
        &image.manifest,
        &image.root(),
        &boot_manifest::Expect {
            now: days_ago(0),
            floor: boot_manifest::Floor::default(),
            channel: None,
            arch: None,
            expiry: boot_manifest::Expiry::Report,
        },
    )
    .unwrap();
    let manifest = Manifest {
        generation: 2,
        sequence,
        ..Manifest::clone(&payload)
    };
    sign(&manifest, keys).unwrap()
}

/// A source with these files for the channel, and the answer of `more` for everything else.
fn source(
    manifest: Vec<u8>,
    roots: Option<Vec<u8>>,
    more: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static,
) -> Server {
    Server::start(move |request, stream| {
        let target = request.target.strip_prefix("/stable/x86_64/");
        match (target, &roots) {
            (Some("manifest.json"), _) => file(request, stream, &manifest),
            (Some("roots.json"), Some(roots)) => file(request, stream, roots),
            _ => more(request, stream),
        }
    })
}

fn nothing(_: &Request, stream: &mut TcpStream) -> Then {
    answer(stream, "404 Not Found", "", b"")
}

/// The chain from the image's root to one of generation 2 with another key.
fn rotated(image: &Image, key: &SecretKey) -> Vec<u8> {
    let next = TrustRoot::new(2, 1, vec![key.public()], false).unwrap();
    let link = sign_link(&draft_link(&next).unwrap(), &[&image.key, key]).unwrap();
    append_link(None, &link, &image.root()).unwrap().0
}

/// Keys that were replaced: the chain is fetched, walked, and handed to init; numbers begin anew.
#[test]
fn a_release_of_new_keys_comes_with_the_chain_that_proves_them() {
    let running = numbered(7);
    let key = SecretKey::from_seed([9; 32]);
    let roots = rotated(&running, &key);
    let manifest = reissued(&running, 1, &[&key]);
    let server = source(manifest.clone(), Some(roots.clone()), nothing);
    let role = role(&running, &[&server]);
    let reports = role.check();
    assert!(offered(reports.last()).1 == manifest);
    let fds = &reports.last().unwrap().1;
    assert_eq!(fds.len(), 2);
    assert!(sealed(&fds[1]) == roots);
}

/// Fault 26 at a distance: without the chain, with one that is cut, or with one by other keys, the release is refused.
#[test]
fn a_release_of_new_keys_without_a_chain_is_refused() {
    let running = numbered(7);
    let key = SecretKey::from_seed([9; 32]);
    let manifest = reissued(&running, 8, &[&key]);
    let fine = rotated(&running, &key);
    let strange = Image {
        key: SecretKey::from_seed([66; 32]),
        manifest: Vec::new(),
        files: Vec::new(),
        roots: None,
    };
    for (roots, code) in [
        (None, "unknown-key"),
        (Some(fine[..fine.len() / 2].to_vec()), "roots-malformed"),
        (Some(rotated(&strange, &key)), "roots-bad-link"),
    ] {
        let server = source(manifest.clone(), roots, nothing);
        let role = role(&running, &[&server]);
        assert_eq!(role.checked(), (code.to_owned(), false));
    }
}

/// What a statement says, of the channel's machines.
fn statement(nonce: &str, sequence: u64, key: &SecretKey) -> Vec<u8> {
    let freshness = Freshness {
        nonce: nonce.parse().unwrap(),
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        generation: 1,
        sequence,
        digest: Digest::of(b"the newest"),
    };
    sign_freshness(&freshness, &[key]).unwrap()
}

fn nonce_of(request: &Request) -> Option<String> {
    let query = request.target.strip_prefix("/freshness?")?;
    let nonce = query
        .split('&')
        .find_map(|one| one.strip_prefix("nonce="))?;
    Some(nonce.to_owned())
}

/// The freshness report of a look at a source whose freshness route answers by `say`.
fn freshness(say: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Option<(bool, u64)> {
    let running = numbered(7);
    let server = source(
        numbered(8).manifest.clone(),
        None,
        move |request, stream| match nonce_of(request) {
            Some(nonce) => file(request, stream, &say(&nonce)),
            None => nothing(request, stream),
        },
    );
    let role = role(&running, &[&server]);
    let reports = role.check();
    assert!(
        offered(reports.last()).1 == numbered(8).manifest,
        "a statement stops nothing"
    );
    reports.iter().find_map(|(report, _)| match report {
        Report::Freshness {
            fresh, sequence, ..
        } => Some((*fresh, *sequence)),
        _ => None,
    })
}

/// Fault 27, freeze: a mirror that holds back the newest release cannot answer a nonce that nobody used before.
#[test]
fn a_mirror_that_is_held_back_is_noticed() {
    let key = || SecretKey::from_seed([7; 32]);
    assert_eq!(
        freshness(move |nonce| statement(nonce, 8, &key())),
        Some((true, 8))
    );
    assert_eq!(
        freshness(move |nonce| statement(nonce, 9, &key())),
        Some((false, 9))
    );
    // An old answer, played again, says nothing; nor does one by another key.
    let old = statement(&"0".repeat(32), 8, &key());
    assert_eq!(freshness(move |_| old.clone()), None);
    let stranger = SecretKey::from_seed([66; 32]);
    assert_eq!(freshness(move |nonce| statement(nonce, 8, &stranger)), None);
    assert_eq!(freshness(|_| vec![b'x'; 100_000]), None);
}

/// The counters in a manifest decide, not its address: what a source says of itself is not asked.
#[test]
fn counters_are_those_that_were_signed() {
    let running = numbered(7);
    let text = String::from_utf8(numbered(6).manifest.clone()).unwrap();
    let changed = text.replace("\"manifest_version\": 6", "\"manifest_version\": 60");
    assert_ne!(changed, text);
    let server = source(changed.into_bytes(), None, nothing);
    let role = role(&running, &[&server]);
    let (_, ok) = role.checked();
    assert!(!ok);
}
