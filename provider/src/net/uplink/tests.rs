//! Every path of the drawing in the module, with time as a number and the other stations as frames.

use smoltcp::wire::DhcpMessageType;

use super::super::fixture::{MAC, Reply, SERVER_MAC, frame};
use super::super::wire::{arp_request, sent_dhcp};
use super::*;

/// A client that asks for a lease only.
const NOTHING: Asks = Asks {
    options: &[],
    provider: false,
};

/// An uplink and what it did so far.
struct Bench {
    uplink: Uplink,
    now: i64,
    dhcp: Vec<(i64, DhcpMessageType)>,
    notes: Vec<Note>,
    transaction: u32,
    /// What the server answers with, when there is one.
    server: Option<Reply>,
}

impl Bench {
    fn new(server: Option<Reply>) -> Self {
        let mut bench = Self {
            uplink: Uplink::new(MAC, 1, NOTHING, None, at(0)),
            now: 0,
            dhcp: Vec::new(),
            notes: Vec::new(),
            transaction: 0,
            server,
        };
        bench.uplink.on_carrier(true, at(0));
        bench
    }

    /// Lets time pass until `end`, the server answering at once.
    fn run(&mut self, end: i64) {
        let mut rounds = 0;
        loop {
            self.uplink.poll(at(self.now));
            self.collect();
            let next = self
                .uplink
                .next_at(at(self.now))
                .map(|at| at.total_millis());
            match next.map(|next| next.max(self.now + 1)) {
                Some(next) if next <= end => self.now = next,
                _ => break,
            }
            rounds += 1;
            assert!(rounds < 5_000, "the uplink spins");
        }
        self.now = end;
    }

    /// Takes what the uplink sent and lets the server answer it.
    fn collect(&mut self) {
        loop {
            let (frames, notes) = self.uplink.take();
            self.notes.extend(notes);
            let sent: Vec<_> = frames.iter().filter_map(|frame| sent_dhcp(frame)).collect();
            if sent.is_empty() {
                return;
            }
            for (transaction, kind) in sent {
                self.dhcp.push((self.now, kind));
                self.transaction = transaction;
                let answer = match kind {
                    DhcpMessageType::Discover => DhcpMessageType::Offer,
                    DhcpMessageType::Request => DhcpMessageType::Ack,
                    _ => continue,
                };
                if let Some(reply) = self.server.clone() {
                    self.receive(&frame(
                        answer,
                        &Reply {
                            transaction,
                            ..reply
                        },
                    ));
                }
            }
        }
    }

    fn receive(&mut self, frame: &[u8]) {
        self.uplink.on_frame(frame, &[MAC], at(self.now));
    }

    fn address(&self) -> Option<(Ipv4Addr, Source)> {
        self.uplink
            .wanted()
            .map(|wanted| (wanted.address, wanted.source))
    }

    fn sent(&self, kind: DhcpMessageType) -> usize {
        self.dhcp.iter().filter(|(_, sent)| *sent == kind).count()
    }
}

const LEASED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

fn at(ms: i64) -> Instant {
    Instant::from_millis(ms)
}

/// Another station that says it has `address`.
fn claims(address: Ipv4Addr) -> Vec<u8> {
    arp_request(SERVER_MAC, address, address)
}

#[test]
fn a_lease_is_used_after_it_was_probed() {
    let mut bench = Bench::new(Some(Reply::default()));
    bench.run(300);
    assert_eq!(bench.address(), None, "still probing");
    bench.run(400);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    assert!(matches!(bench.notes.as_slice(), [Note::Leased(_)]));
}

#[test]
fn without_a_server_a_link_local_address_comes_after_fifteen_seconds_and_dhcp_goes_on() {
    let mut bench = Bench::new(None);
    bench.run(14_900);
    assert_eq!(bench.address(), None, "still probing");
    bench.run(15_100);
    let expected = link_local::candidate(MAC, 0);
    assert_eq!(bench.address(), Some((expected, Source::LinkLocal)));
    let before = bench.sent(DhcpMessageType::Discover);
    bench.run(60_000);
    assert!(bench.sent(DhcpMessageType::Discover) > before);
    assert_eq!(bench.address(), Some((expected, Source::LinkLocal)));
}

#[test]
fn a_server_that_comes_later_replaces_the_link_local_address() {
    let mut bench = Bench::new(None);
    bench.run(25_000);
    bench.server = Some(Reply::default());
    bench.run(45_000);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    bench.run(3_600_000);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)), "renewed");
    assert!(bench.uplink.fallback.is_none());
}

#[test]
fn an_offered_address_that_is_in_use_is_declined_and_never_used() {
    let mut bench = Bench::new(Some(Reply::default()));
    bench.run(150);
    bench.receive(&claims(LEASED));
    bench.collect();
    assert_eq!(bench.sent(DhcpMessageType::Decline), 1);
    assert_eq!(
        bench.notes,
        [Note::Declined(LEASED, SERVER_MAC)],
        "the log names the address and the station"
    );
    bench.run(10_000);
    assert_eq!(bench.address(), None);
    assert_eq!(
        bench.sent(DhcpMessageType::Discover),
        1,
        "ten seconds of silence"
    );
    let other = Ipv4Addr::new(10, 0, 0, 51);
    bench.server = Some(Reply {
        address: other,
        ..Reply::default()
    });
    bench.run(11_000);
    assert_eq!(bench.address(), Some((other, Source::Dhcp)));
}

#[test]
fn our_own_second_interface_on_the_link_is_no_conflict() {
    let mut bench = Bench::new(Some(Reply::default()));
    bench.run(150);
    bench
        .uplink
        .on_frame(&claims(LEASED), &[MAC, SERVER_MAC], at(150));
    bench.run(400);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
}

#[test]
fn an_address_taken_over_twice_is_given_up() {
    let mut bench = Bench::new(Some(Reply::default()));
    bench.run(1_000);
    bench.receive(&claims(LEASED));
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)), "defended");
    bench.run(2_000);
    bench.receive(&claims(LEASED));
    bench.collect();
    assert_eq!(bench.address(), None);
    assert_eq!(bench.sent(DhcpMessageType::Decline), 1);
}

#[test]
fn a_link_local_address_that_is_in_use_leads_to_the_next_one() {
    let mut bench = Bench::new(None);
    bench.run(11_000);
    let first = link_local::candidate(MAC, 0);
    bench.receive(&claims(first));
    bench.run(25_000);
    let second = link_local::candidate(MAC, 1);
    assert_eq!(bench.address(), Some((second, Source::LinkLocal)));
    assert!(bench.notes.contains(&Note::FallbackLost(first, SERVER_MAC)));
}

#[test]
fn a_station_that_wants_every_link_local_address_slows_us_down() {
    let mut bench = Bench::new(None);
    bench.run(10_000);
    for conflicts in 0..CONFLICTS_MAX {
        bench.uplink.poll(at(bench.now));
        bench.receive(&claims(link_local::candidate(MAC, conflicts)));
    }
    assert_eq!(bench.uplink.conflicts, CONFLICTS_MAX);
    bench.run(10_000 + 59_000);
    assert!(bench.uplink.fallback.is_none(), "one attempt a minute");
    bench.run(10_000 + 61_000);
    assert!(bench.uplink.fallback.is_some());
}

#[test]
fn a_lost_link_takes_the_address_away_and_a_new_one_starts_again() {
    let mut bench = Bench::new(Some(Reply::default()));
    bench.run(1_000);
    bench.uplink.on_carrier(false, at(1_000));
    assert_eq!(bench.address(), None);
    assert_eq!(bench.uplink.next_at(at(1_000)), None, "nothing to do");
    bench.run(60_000);
    let discovers = bench.sent(DhcpMessageType::Discover);
    bench.uplink.on_carrier(true, at(60_000));
    bench.run(61_000);
    assert_eq!(bench.sent(DhcpMessageType::Discover), discovers + 1);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
}

#[test]
fn a_lease_that_ends_takes_the_address_away() {
    let mut bench = Bench::new(Some(Reply {
        seconds: Some(60),
        ..Reply::default()
    }));
    bench.run(1_000);
    bench.server = None;
    bench.run(59_999);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    bench.run(60_001);
    assert_eq!(bench.address(), None);
    assert_eq!(bench.notes.last(), Some(&Note::LeaseLost));
    bench.run(85_000);
    assert!(matches!(bench.address(), Some((_, Source::LinkLocal))));
}

#[test]
fn a_renewal_moves_the_time_at_which_the_kernel_drops_the_address() {
    let mut bench = Bench::new(Some(Reply {
        seconds: Some(100),
        ..Reply::default()
    }));
    bench.run(1_000);
    let before = bench.uplink.wanted().unwrap().until.unwrap();
    bench.run(99_000);
    let after = bench.uplink.wanted().unwrap().until.unwrap();
    assert!(after > before, "{before} {after}");
}

#[test]
fn a_fixed_address_needs_only_a_link() {
    let fixed = Wanted {
        address: LEASED,
        prefix: 24,
        router: None,
        until: None,
        source: Source::Fixed,
        name_servers: Vec::new(),
        domain: None,
    };
    let mut uplink = Uplink::new(MAC, 1, NOTHING, Some(fixed.clone()), at(0));
    assert_eq!(uplink.wanted(), None);
    uplink.on_carrier(true, at(0));
    uplink.poll(at(0));
    assert_eq!(uplink.wanted(), Some(fixed));
    assert_eq!(uplink.take().0, Vec::<Vec<u8>>::new(), "and sends no DHCP");
}

/// Server messages and ARP, changed in a few places by a fixed sequence of numbers.
#[test]
fn no_mangled_frame_makes_an_uplink_panic_or_take_an_address_that_cannot_be() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut leases = 0;
    for _ in 0..3_000 {
        let mut bench = Bench::new(None);
        for step in 0..6 {
            bench.uplink.poll(at(bench.now));
            bench.collect();
            let reply = Reply {
                transaction: bench.transaction,
                extra: vec![(3, vec![10, 0, 0, 1]), (15, b"example.net".to_vec())],
                ..Reply::default()
            };
            let mut bytes = match step {
                0 => frame(DhcpMessageType::Offer, &reply),
                1 => frame(DhcpMessageType::Ack, &reply),
                2 => frame(DhcpMessageType::Nak, &reply),
                3 => claims(LEASED),
                _ => frame(DhcpMessageType::Ack, &reply),
            };
            // The options start at 282; the header before it is mostly zeros.
            for _ in 0..random(3) {
                let start = if random(2) == 0 {
                    0
                } else {
                    282.min(bytes.len() - 1)
                };
                let index = start + random(bytes.len() - start);
                bytes[index] = u8::try_from(random(256)).unwrap();
            }
            if random(8) == 0 {
                bytes.truncate(random(bytes.len()));
            }
            bench.receive(&bytes);
            bench.collect();
            bench.run(bench.now + 400);
            if let Some(wanted) = bench.uplink.wanted() {
                leases += 1;
                assert!((1..=32).contains(&wanted.prefix), "{wanted:?}");
                assert!(!wanted.address.is_loopback() && !wanted.address.is_multicast());
                assert!(!wanted.address.is_unspecified() && !wanted.address.is_broadcast());
            }
        }
    }
    assert!(
        leases > 1_000,
        "most of the mangled leases still were leases: {leases}"
    );
}

/// An uplink whose predecessor had this address for another `seconds`.
fn resumed(server: Option<Reply>, address: Ipv4Addr, seconds: u64) -> Bench {
    let mut bench = Bench::new(Some(Reply::default()));
    bench.run(1_000);
    let (lease, _) = bench.uplink.lease().expect("it has one");
    let lease = Lease {
        address,
        lifetime: smoltcp::time::Duration::from_secs(seconds),
        ..lease.clone()
    };
    let mut bench = Bench {
        server,
        ..Bench::new(None)
    };
    bench.uplink = Uplink::new(MAC, 2, NOTHING, None, at(0));
    bench.uplink.resume(lease, at(0));
    assert_eq!(bench.address(), None, "no link yet");
    bench.uplink.on_carrier(true, at(0));
    bench
}

#[test]
fn a_resumed_address_is_used_at_once_and_stays_when_the_server_confirms_it() {
    let mut bench = resumed(Some(Reply::default()), LEASED, 600);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    while bench.now < 1_000 {
        bench.run(bench.now + 10);
        assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    }
    assert!(
        matches!(bench.notes.as_slice(), [Note::Resumed(_), Note::Leased(_)]),
        "{:?}",
        bench.notes
    );
    assert_eq!(bench.uplink.lease().unwrap().1, at(3_600_000));
    bench.run(7_200_000);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)), "renewed");
}

#[test]
fn without_a_server_a_resumed_address_ends_when_its_lease_does() {
    let mut bench = resumed(None, LEASED, 600);
    bench.run(599_900);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    bench.run(600_100);
    assert_eq!(bench.address(), None);
    assert_eq!(bench.notes.last(), Some(&Note::LeaseLost));
    bench.run(620_000);
    assert!(matches!(bench.address(), Some((_, Source::LinkLocal))));
}

#[test]
fn a_server_that_gives_another_address_is_followed() {
    let before = Ipv4Addr::new(10, 0, 0, 77);
    let mut bench = resumed(Some(Reply::default()), before, 600);
    assert_eq!(bench.address(), Some((before, Source::Dhcp)));
    bench.run(1_000);
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
}

#[test]
fn a_resumed_address_survives_a_link_that_comes_up_twice_and_yields_to_its_owner() {
    let mut bench = resumed(None, LEASED, 600);
    bench.uplink.on_carrier(false, at(10));
    assert_eq!(bench.address(), None);
    bench.uplink.on_carrier(true, at(20));
    assert_eq!(bench.address(), Some((LEASED, Source::Dhcp)));
    for now in [1_000, 2_000] {
        bench.run(now);
        bench.receive(&claims(LEASED));
    }
    assert_eq!(bench.address(), None, "defended once, then given up");
    bench.uplink.on_carrier(false, at(3_000));
    bench.uplink.on_carrier(true, at(3_000));
    assert_eq!(bench.address(), None, "and not tried again");
}
