//! Machines that fetch the same thing at the same time find each other, whoever provides it.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use discovery::{Peers, Share};

use crate::discover::Rig;

/// How long they may take: an announcement is repeated after a second, and one may get lost.
const FOUND: Duration = Duration::from_secs(20);

fn share(port: u16) -> Option<Share> {
    Some(Share {
        listen: vec!["0.0.0.0".parse().unwrap()],
        port,
    })
}

/// The addresses of all who were heard until it is enough.
fn heard(peers: &mut Peers, enough: usize, limit: Duration) -> BTreeSet<String> {
    let end = Instant::now() + limit;
    let mut found = BTreeSet::new();
    while found.len() < enough && Instant::now() < end {
        let next = peers.next(Duration::from_millis(50)).unwrap();
        found.extend(
            next.iter()
                .flat_map(|peer| &peer.addresses)
                .map(ToString::to_string),
        );
    }
    found
}

#[test]
fn who_fetches_the_same_is_found_and_nobody_else() {
    let Some(rig) = Rig::new("who_fetches_the_same") else {
        return;
    };
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    let (wanted, something_else) = (Digest::of(b"wanted"), Digest::of(b"something else"));
    let (is_found, is_gone) = (Barrier::new(4), Barrier::new(4));
    std::thread::scope(|scope| {
        let stays = |host: &'static str,
                     manifest: Digest,
                     own: Option<Share>,
                     expected: &'static [&'static str]| {
            let (rig, is_found, is_gone) = (&rig, &is_found, &is_gone);
            scope.spawn(move || {
                rig.lan.within(host, || {
                    let mut peers = Peers::start(manifest, own.clone()).unwrap();
                    let mut found = heard(&mut peers, expected.len(), FOUND);
                    // The others may not have heard this one yet: it goes on until it speaks.
                    while own.is_some() && !peers.is_announced() {
                        peers.next(Duration::from_millis(50)).unwrap();
                    }
                    is_found.wait();
                    found.extend(heard(&mut peers, usize::MAX, Duration::from_millis(300)));
                    drop(peers);
                    is_gone.wait();
                    assert!(found.iter().eq(expected), "{host}: {found:?}");
                });
            })
        };
        let threads = [
            stays("provider", wanted, share(4001), &["10.78.0.3:4003"]),
            stays("other", wanted, share(4003), &["10.78.0.1:4001"]),
            // It does not share, so nobody hears of it.
            stays(
                "client",
                wanted,
                None,
                &["10.78.0.1:4001", "10.78.0.3:4003"],
            ),
            stays("client", something_else, share(4002), &[]),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
    });
    // All of them said goodbye.
    let late = rig.lan.within("client", || {
        let mut peers = Peers::start(wanted, None).unwrap();
        heard(&mut peers, 1, Duration::from_secs(1))
    });
    assert!(late.is_empty(), "{late:?}");
}
