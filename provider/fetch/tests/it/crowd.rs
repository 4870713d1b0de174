//! Getting an image from machines that fetch the same: they help, and the worst of them can do no harm.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use boot_manifest::Digest;
use fetch::{Neighbour, Swarm};
use swarm::peers::{Answer, Peer};
use swarm::{Map, PieceSet, Pieces};

use super::*;
use crate::image::noise;
use crate::server::{Request, partly, send};

const MIB: usize = 1 << 20;

/// A kernel of two chunks, an initramfs of one, and a rootfs of `mib`.
fn image_of(mib: usize) -> Arc<Image> {
    Arc::new(Image::of(
        NOW,
        vec![
            ("initramfs", "initramfs.img", noise(2, 1_000)),
            ("kernel", "vmlinuz", noise(1, MIB + 17)),
            ("rootfs", "rootfs.squashfs", noise(3, mib * MIB)),
        ],
    ))
}

fn pieces(image: &Image) -> Pieces {
    Pieces::of(&verified(image).artifacts)
}

fn digest(image: &Image) -> Digest {
    verified(image).digest()
}

/// What a machine that has these pieces says.
fn map(image: &Image, has: impl Fn(usize) -> bool) -> String {
    let pieces = pieces(image);
    let count = pieces.count();
    let map = Map {
        have: PieceSet::of(count, (0..count).filter(|&piece| has(piece))),
        coming: PieceSet::new(count),
    };
    swarm::have::write(&digest(image), &pieces, &map)
}

fn list(image: &Image, addresses: &[SocketAddr]) -> String {
    let peer = |address: &SocketAddr| Peer {
        address: *address,
        complete: false,
    };
    let answer = Answer {
        manifest: digest(image),
        refresh: Duration::from_secs(1),
        peers: addresses.iter().map(peer).collect(),
    };
    answer.to_json()
}

fn address(server: &Server) -> SocketAddr {
    let url = server.url("");
    let address = url.strip_prefix("http://").expect("as it was made");
    address.parse().expect("an address")
}

/// Whether a request is for a file.
fn is_file(request: &Request) -> bool {
    request.target.starts_with("/stable/")
}

/// A machine that says it has the pieces that `has` names, and does as `special` says.
fn peer(
    image: &Arc<Image>,
    has: impl Fn(usize) -> bool + Send + Sync + 'static,
    special: impl Fn(&Request, &mut TcpStream, &[u8]) -> Option<Then> + Send + Sync + 'static,
) -> Server {
    let theirs = Arc::clone(image);
    provider(image, move |request, stream, bytes| {
        special(request, stream, bytes).or_else(|| {
            let body = match request.target.split('?').next() {
                Some("/have") => map(&theirs, &has),
                Some("/peers") => list(&theirs, &[]),
                _ => return None,
            };
            Some(answer(stream, "200 OK", "", body.as_bytes()))
        })
    })
}

/// An origin that knows these peers, and serves files as `special` says.
fn origin(
    image: &Arc<Image>,
    peers: &[SocketAddr],
    special: impl Fn(&Request, &mut TcpStream, &[u8]) -> Option<Then> + Send + Sync + 'static,
) -> Server {
    let list = list(image, peers);
    provider(image, move |request, stream, bytes| {
        if request.target.starts_with("/peers?") {
            return Some(answer(stream, "200 OK", "", list.as_bytes()));
        }
        special(request, stream, bytes)
    })
}

/// A file at so many bytes per millisecond.
fn slowly(request: &Request, stream: &mut TcpStream, bytes: &[u8], rate: usize) -> Then {
    const STEP: usize = 16 << 10;
    let began = Instant::now();
    let (first, last) = request.range.unwrap_or((0, bytes.len() as u64 - 1));
    let body = &bytes[first as usize..=last as usize];
    if !matches!(partly(request, stream, bytes, 0), Then::Close) {
        return Then::Close;
    }
    for (step, count) in body.chunks(STEP).zip(1..) {
        if !send(stream, step) {
            return Then::Close;
        }
        // The pace is the point of this server.
        let due = Duration::from_millis((count * STEP / rate) as u64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    Then::Keep
}

struct Fetched {
    result: Result<Vec<Report>, FetchError>,
    took: Duration,
}

impl Fetched {
    fn reports(&self) -> &[Report] {
        self.result.as_ref().expect("it should have succeeded")
    }

    fn peers_brought(&self) -> u64 {
        self.reports().iter().map(Report::bytes_from_peers).sum()
    }

    /// Bytes that this server brought, of all files.
    fn brought_by(&self, server: &Server) -> u64 {
        let sources = self.reports().iter().flat_map(|report| &report.sources);
        let own = sources.filter(|one| one.url.to_string().starts_with(&server.url("")));
        own.map(|one| one.bytes_kept).sum()
    }
}

/// Fetches all of an image, and checks every byte of it.
fn fetch_all(image: &Image, origins: &[&Server], swarm: &Swarm, limits: Limits) -> Fetched {
    let folder = tempfile::tempdir().expect("a working test machine");
    let manifest = verified(image);
    let open = Folder::open(folder.path()).expect("a working test machine");
    let partials: Vec<_> = manifest
        .artifacts
        .iter()
        .map(|artifact| Arc::new(open.begin(artifact).expect("a working test machine")))
        .collect();
    let names = manifest.artifacts.iter().map(|one| one.name.as_str());
    let parts = names.zip(partials.iter().cloned()).collect();
    let urls = origins.iter().map(|one| url(&one.url("/manifest.json")));
    let sources = Providers(urls.collect());
    let began = Instant::now();
    let result = block_on(async {
        let mut fetcher = Fetcher::new(limits);
        fetcher
            .artifacts(&manifest, parts, &sources, Some(swarm), |_| {})
            .await
    });
    let took = began.elapsed();
    println!("{took:?}: {result:?}");
    if result.is_ok() {
        for partial in partials {
            let artifact = partial.artifact().clone();
            let path = Arc::into_inner(partial).expect("nobody else has it");
            let path = path.commit().expect("it is complete");
            let file = std::fs::read(path).expect("it has its name");
            assert!(
                file == image.content(artifact.name.as_str()),
                "other bytes under the name {}",
                artifact.filename
            );
        }
    }
    Fetched { result, took }
}

/// Patience for servers that are slow on purpose.
fn patient() -> Limits {
    Limits {
        rate_window: Duration::from_secs(20),
        ..limits()
    }
}

/// An origin at this rate takes seconds for an image of a few MiB.
const SLOW: usize = 2 << 10;

#[test]
fn peers_that_the_origin_names_bring_most_of_it() {
    let image = image_of(6);
    let (a, b) = (
        peer(&image, |piece| piece % 2 == 0, |_, _, _| None),
        peer(&image, |piece| piece % 2 == 1, |_, _, _| None),
    );
    let addresses = [address(&a), address(&b)];
    let origin = origin(&image, &addresses, |request, stream, bytes| {
        is_file(request).then(|| slowly(request, stream, bytes, SLOW))
    });
    let swarm = Swarm::new();
    let fetched = fetch_all(&image, &[&origin], &swarm, patient());
    assert!(fetched.peers_brought() >= 5 * MIB as u64, "{fetched:?}");
    assert!(
        fetched.brought_by(&a) > 0 && fetched.brought_by(&b) > 0,
        "{fetched:?}"
    );
    // This machine serves nothing, so nobody is told of it.
    for server in [&origin, &a, &b] {
        let requests = server.requests();
        let mut questions = requests.iter().filter(|one| one.target.contains("peers?"));
        assert!(questions.all(|one| one.head.starts_with("get ") && !one.target.contains("port")));
    }
    assert_eq!(swarm.known().len(), 2, "{:?}", swarm.known());
}

#[test]
fn who_serves_is_told_to_all_and_finds_peers_without_an_origin_that_knows_any() {
    let image = image_of(4);
    let far = peer(&image, |_| true, |_, _, _| None);
    let theirs = list(&image, &[address(&far)]);
    // One peer is known from elsewhere, and knows another one.
    let near = peer(
        &image,
        |piece| piece == 1,
        move |request, stream, _| {
            let is_list = request.target.starts_with("/peers?");
            is_list.then(|| answer(stream, "200 OK", "", theirs.as_bytes()))
        },
    );
    let web = provider(&image, |request, stream, bytes| {
        is_file(request).then(|| slowly(request, stream, bytes, SLOW))
    });
    let swarm = Swarm::new();
    swarm.serves_at(4_242);
    swarm.found(Neighbour::Peer(address(&near)));
    let fetched = fetch_all(&image, &[&web], &swarm, patient());
    assert!(fetched.brought_by(&far) > 2 * MIB as u64, "{fetched:?}");
    for server in [&web, &near, &far] {
        let told = server
            .requests()
            .iter()
            .any(|one| one.head.starts_with("post /peers?") && one.target.ends_with("&port=4242"));
        assert!(told, "{} was not told", server.url(""));
    }
}

/// Machines that are switched on together would all ask the origin for long runs, and so for the same.
#[test]
fn who_shares_hears_of_others_before_it_asks_for_a_piece() {
    let image = image_of(16);
    let other = peer(&image, |_| false, |_, _, _| None);
    let origin = origin(&image, &[address(&other)], |_, _, _| None);
    let swarm = Swarm::new();
    swarm.serves_at(4_243);
    fetch_all(&image, &[&origin], &swarm, patient()).reports();
    let requests = origin.requests();
    let first = requests.iter().find(|one| is_file(one)).expect("a piece");
    // The small file has one piece, and is asked for without a range.
    let length = first.range.map_or(0, |(first, last)| last - first + 1);
    assert!(length <= MIB as u64, "{length}");
}

#[test]
fn nine_liars_of_ten_cost_time_and_nothing_else() {
    let image = image_of(8);
    let liars: Vec<Server> = (0..9)
        .map(|_| {
            peer(
                &image,
                |_| true,
                |request, stream, bytes| {
                    is_file(request).then(|| {
                        let bytes: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
                        file(request, stream, &bytes)
                    })
                },
            )
        })
        .collect();
    let honest = peer(&image, |_| true, |_, _, _| None);
    let all = liars.iter().chain([&honest]);
    let addresses: Vec<SocketAddr> = all.map(address).collect();
    let origin = origin(&image, &addresses, |request, stream, bytes| {
        is_file(request).then(|| slowly(request, stream, bytes, SLOW))
    });
    let fetched = fetch_all(&image, &[&origin], &Swarm::new(), patient());
    assert!(fetched.brought_by(&honest) > 0, "{fetched:?}");
    for liar in &liars {
        assert_eq!(fetched.brought_by(liar), 0);
        let asked = liar.requests().iter().filter(|one| is_file(one)).count();
        assert!(asked <= 1, "a liar was asked {asked} times");
    }
}

#[test]
fn peers_that_promise_and_do_not_give_hold_nobody_up() {
    let image = image_of(3);
    let stalling = |amount: usize| {
        peer(
            &image,
            |_| true,
            move |request, stream, bytes| {
                is_file(request).then(|| {
                    partly(request, stream, bytes, amount);
                    // Open, and silent from now on.
                    let mut end = [0];
                    let _ended = std::io::Read::read(stream, &mut end);
                    Then::Close
                })
            },
        )
    };
    let busy = peer(
        &image,
        |_| true,
        |request, stream, _| {
            is_file(request)
                .then(|| answer(stream, "503 Service Unavailable", "Retry-After: 1\r\n", b""))
        },
    );
    let empty = peer(
        &image,
        |_| true,
        |request, stream, _| {
            is_file(request).then(|| answer(stream, "404 Not Found", "", b"not here"))
        },
    );
    let deaf = peer(
        &image,
        |_| true,
        |request, stream, bytes| {
            // All of the file, whatever is asked for.
            let whole = Request {
                range: None,
                ..request.clone()
            };
            is_file(request).then(|| slowly(&whole, stream, bytes, SLOW))
        },
    );
    let (mute, half) = (stalling(0), stalling(MIB / 2));
    let all = [&mute, &half, &busy, &empty, &deaf];
    let origin = origin(&image, &all.map(address), |_, _, _| None);
    let swarm = Swarm::new();
    let fetched = fetch_all(&image, &[&origin], &swarm, patient());
    assert!(fetched.took < Duration::from_secs(13), "{:?}", fetched.took);
    assert!(fetched.brought_by(&origin) > 0);
}

#[test]
fn maps_and_lists_that_are_none_are_passed_over() {
    let image = image_of(3);
    let with_map = |body: Vec<u8>| {
        peer(
            &image,
            |_| true,
            move |request, stream, _| {
                let is_map = request.target.starts_with("/have?");
                is_map.then(|| answer(stream, "200 OK", "", &body))
            },
        )
    };
    let other = image_of(4);
    let bits = map(&image, |_| true).replace("\"e0\"", "\"ff\"");
    assert_ne!(bits, map(&image, |_| true), "the row of the rootfs");
    let bad = [
        with_map(vec![b' '; 8 * MIB]),
        with_map(b"{".repeat(40_000)),
        with_map(map(&other, |_| true).into()),
        with_map(bits.into()),
        with_map(Vec::new()),
        peer(
            &image,
            |_| true,
            |request, stream, _| {
                let is_map = request.target.starts_with("/have?");
                is_map.then(|| answer(stream, "302 Found", "Location: /stable/\r\n", b""))
            },
        ),
        // No HTTP at all, and for ever.
        peer(
            &image,
            |_| true,
            |_, stream, _| {
                while send(stream, [b'x'; 4_096]) {}
                Some(Then::Close)
            },
        ),
    ];
    let good = peer(&image, |_| true, |_, _, _| None);
    let mut addresses: Vec<SocketAddr> = bad.iter().chain([&good]).map(address).collect();
    // Nobody there, and no addresses to ask at.
    for text in [
        "127.0.0.1:1",
        "0.0.0.0:80",
        "224.0.0.251:80",
        "255.255.255.255:80",
        "127.0.0.1:0",
    ] {
        addresses.push(text.parse().unwrap());
    }
    let origin = origin(&image, &addresses, |request, stream, bytes| {
        is_file(request).then(|| slowly(request, stream, bytes, SLOW))
    });
    // A second origin has lists that are none.
    let odd = provider(&image, |request, stream, bytes| {
        if request.target.starts_with("/peers?") {
            return Some(answer(stream, "200 OK", "", &vec![b'['; MIB]));
        }
        is_file(request).then(|| slowly(request, stream, bytes, SLOW))
    });
    let fetched = fetch_all(&image, &[&origin, &odd], &Swarm::new(), patient());
    assert!(fetched.brought_by(&good) > 0, "{fetched:?}");
    for server in &bad {
        assert_eq!(fetched.brought_by(server), 0);
        let files = server.requests().iter().filter(|one| is_file(one)).count();
        assert_eq!(files, 0, "it was believed");
    }
    let asked = odd
        .requests()
        .iter()
        .filter(|one| one.target.contains("/peers"))
        .count();
    assert_eq!(asked, 1, "what is no list is asked for once");
}

#[test]
fn without_the_origin_the_union_of_the_peers_is_enough() {
    let image = image_of(6);
    let gone = Arc::new(AtomicBool::new(false));
    let rate = 8 << 10;
    let part = |which: usize| {
        peer(
            &image,
            move |piece| piece % 2 == which,
            move |request, stream, bytes| {
                is_file(request).then(|| slowly(request, stream, bytes, rate))
            },
        )
    };
    let (even, odd) = (part(0), part(1));
    // It names the peers, brings half a chunk, and is gone.
    let dies = Arc::clone(&gone);
    let origin = origin(
        &image,
        &[address(&even), address(&odd)],
        move |request, stream, bytes| {
            if dies.load(Ordering::SeqCst) {
                return Some(Then::Close);
            }
            is_file(request).then(|| {
                dies.store(true, Ordering::SeqCst);
                partly(request, stream, bytes, MIB / 2);
                Then::Close
            })
        },
    );
    let fetched = fetch_all(&image, &[&origin], &Swarm::new(), patient());
    assert!(gone.load(Ordering::SeqCst));
    assert!(fetched.brought_by(&even) > 0 && fetched.brought_by(&odd) > 0);
}

#[test]
fn without_the_origin_and_with_a_hole_it_ends_in_time_and_says_who_failed() {
    let image = image_of(3);
    let some = peer(&image, |piece| piece != 4, |_, _, _| None);
    let origin = origin(&image, &[address(&some)], |request, _, _| {
        is_file(request).then_some(Then::Close)
    });
    let hurried = Limits {
        total: Duration::from_secs(1),
        ..patient()
    };
    let fetched = fetch_all(&image, &[&origin], &Swarm::new(), hurried);
    let error = fetched.result.as_ref().expect_err("a piece is nowhere");
    // The limit is for each of three files.
    assert!(fetched.took < Duration::from_secs(10), "{:?}", fetched.took);
    assert_eq!(error.code(), "too-slow");
    assert!(
        error.to_string().contains(&origin.url("/stable")),
        "{error}"
    );
}

#[test]
fn a_provider_that_is_found_later_takes_over() {
    let image = image_of(4);
    let dying = provider(&image, |request, stream, bytes| {
        is_file(request).then(|| slowly(request, stream, bytes, 1 << 10))
    });
    let fresh = provider(&image, |_, _, _| None);
    let swarm = Swarm::new();
    let (later, at) = (swarm.clone(), url(&fresh.url("/manifest.json")));
    let telling = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        later.found(Neighbour::Provider(fetch::Mirror {
            manifest: at,
            artifacts: None,
        }));
    });
    let fetched = fetch_all(&image, &[&dying], &swarm, patient());
    telling.join().unwrap();
    assert!(fetched.brought_by(&fresh) > 2 * MIB as u64, "{fetched:?}");
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} after {:?}", self.result, self.took)
    }
}
