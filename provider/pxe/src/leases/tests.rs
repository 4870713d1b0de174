//! Tests of the lease table.

use super::*;
use crate::dhcp::options;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LEASE: Duration = Duration::from_secs(3_600);

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, last])
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000_000 + seconds)
}

/// The subnet of the tests, as its interface shows it.
const LAN: Subnet = Subnet {
    address: SERVER,
    prefix: Some(24),
};

fn leases(first: u8, last: u8) -> Leases {
    Leases::new(vec![Pool {
        first: ip(first),
        last: ip(last),
        prefix: None,
        lease: LEASE,
    }])
}

/// A client's message.
fn message(
    kind: Kind,
    from: Mac,
    ciaddr: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
) -> Request {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[12..16].copy_from_slice(&ciaddr.octets());
    bytes[28..34].copy_from_slice(&from.octets());
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([options::MESSAGE_TYPE, 1, kind.number()]);
    for (code, address) in [
        (options::REQUESTED_ADDRESS, requested),
        (options::SERVER_ID, server),
    ] {
        if let Some(address) = address {
            bytes.extend([code, 4]);
            bytes.extend(address.octets());
        }
    }
    bytes.push(255);
    Request::parse(&bytes).unwrap()
}

const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn discover(from: Mac) -> Request {
    message(Kind::Discover, from, NONE, None, None)
}

impl Leases {
    fn offered(&mut self, from: Mac, now: Duration) -> Option<Ipv4Addr> {
        let grant = self.offer(&discover(from), LAN, &[], now)?;
        Some(grant.address)
    }

    fn taken(&mut self, from: Mac, address: Ipv4Addr, now: Duration) -> Verdict {
        let request = message(Kind::Request, from, NONE, Some(address), Some(SERVER));
        self.request(&request, LAN, SERVER, now)
    }

    fn rebooted(&mut self, from: Mac, address: Ipv4Addr, now: Duration) -> Verdict {
        let request = message(Kind::Request, from, NONE, Some(address), None);
        self.request(&request, LAN, SERVER, now)
    }

    fn renewed(&mut self, from: Mac, address: Ipv4Addr, now: Duration) -> Verdict {
        let request = message(Kind::Request, from, address, None, None);
        self.request(&request, LAN, SERVER, now)
    }
}

fn given(verdict: Verdict) -> Option<Ipv4Addr> {
    match verdict {
        Verdict::Given(grant) => Some(grant.address),
        _ => None,
    }
}

#[test]
fn each_machine_gets_its_own_address_and_keeps_it() {
    let mut leases = leases(10, 12);
    for last in [1, 2, 3] {
        let address = leases.offered(mac(last), at(0)).unwrap();
        assert_eq!(
            given(leases.taken(mac(last), address, at(1))),
            Some(address)
        );
    }
    let all: Vec<Ipv4Addr> = leases.given().map(|lease| lease.address).collect();
    assert_eq!(all, [ip(10), ip(11), ip(12)]);
    assert_eq!(leases.offered(mac(4), at(2)), None, "the pool is empty");
    // Firmware, boot loader and system ask one after the other.
    let again = leases.offer(&discover(mac(2)), LAN, &[], at(3)).unwrap();
    assert_eq!((again.address, again.is_known), (ip(11), true));
    assert_eq!(leases.owner(ip(11), at(3)), Some(mac(2)));
}

#[test]
fn an_offer_that_is_not_taken_is_free_after_a_while() {
    let mut leases = leases(10, 10);
    assert_eq!(leases.offered(mac(1), at(0)), Some(ip(10)));
    assert_eq!(leases.offered(mac(2), at(1)), None);
    assert_eq!(leases.offered(mac(1), at(1)), Some(ip(10)), "still its own");
    let later = at(1) + OFFER_TIME;
    assert_eq!(leases.offered(mac(2), later), Some(ip(10)));
    assert_eq!(leases.taken(mac(1), ip(10), later), Verdict::Refused);
}

#[test]
fn expired_leases_are_remembered_until_the_address_is_needed() {
    let mut leases = leases(10, 11);
    for (last, second) in [(1, 0), (2, 5)] {
        let address = leases.offered(mac(last), at(second)).unwrap();
        leases.taken(mac(last), address, at(second));
    }
    let later = at(10) + LEASE;
    assert_eq!(leases.owner(ip(10), later), None);
    let back = leases.offer(&discover(mac(2)), LAN, &[], later).unwrap();
    assert_eq!(
        (back.address, back.is_known),
        (ip(11), false),
        "somebody may have taken it meanwhile"
    );
    assert_eq!(
        leases.offered(mac(3), later),
        Some(ip(10)),
        "away for longest"
    );
}

#[test]
fn a_machine_that_was_offered_its_old_address_again_keeps_it_on_record() {
    let mut leases = leases(10, 11);
    leases.offered(mac(1), at(0));
    leases.taken(mac(1), ip(10), at(0));
    let later = at(10) + LEASE;
    leases.offered(mac(1), later);
    assert_eq!(leases.given().count(), 1);
    // An offer never shortens a lease that runs.
    leases.taken(mac(1), ip(10), later);
    leases.offered(mac(1), later);
    assert_eq!(leases.owner(ip(10), later + LEASE / 2), Some(mac(1)));
}

#[test]
fn requests_of_every_state_of_a_client() {
    let mut leases = leases(10, 20);
    leases.offered(mac(1), at(0));
    assert_eq!(given(leases.taken(mac(1), ip(10), at(0))), Some(ip(10)));
    let half = at(0) + LEASE / 2;
    assert_eq!(given(leases.renewed(mac(1), ip(10), half)), Some(ip(10)));
    assert_eq!(leases.owner(ip(10), at(1) + LEASE), Some(mac(1)), "renewed");
    assert_eq!(given(leases.rebooted(mac(1), ip(10), half)), Some(ip(10)));
    // Another machine's, another subnet's, and one that was given by hand.
    assert_eq!(leases.rebooted(mac(2), ip(10), half), Verdict::Refused);
    assert_eq!(leases.renewed(mac(2), ip(10), half), Verdict::Refused);
    let foreign = Ipv4Addr::new(192, 168, 1, 5);
    assert_eq!(leases.rebooted(mac(2), foreign, half), Verdict::Refused);
    assert_eq!(leases.rebooted(mac(2), ip(99), half), Verdict::Silence);
    assert_eq!(leases.taken(mac(2), ip(99), half), Verdict::Refused);
    // A table that was lost: what is free is confirmed.
    assert_eq!(given(leases.renewed(mac(7), ip(17), half)), Some(ip(17)));
    let nothing = message(Kind::Request, mac(1), NONE, None, None);
    assert_eq!(
        leases.request(&nothing, LAN, SERVER, half),
        Verdict::Silence
    );
}

#[test]
fn a_client_that_chose_another_server_frees_its_offer() {
    let mut leases = leases(10, 10);
    leases.offered(mac(1), at(0));
    let request = message(Kind::Request, mac(1), NONE, Some(ip(77)), Some(ip(2)));
    let verdict = leases.request(&request, LAN, SERVER, at(1));
    assert_eq!(verdict, Verdict::Elsewhere(ip(2)));
    assert_eq!(leases.offered(mac(2), at(1)), Some(ip(10)));
}

#[test]
fn an_address_that_somebody_uses_is_left_alone_for_a_while() {
    let mut leases = leases(10, 11);
    assert_eq!(leases.offered(mac(1), at(0)), Some(ip(10)));
    assert!(leases.avoid(ip(10), None, at(0)));
    assert_eq!(leases.offered(mac(1), at(0)), Some(ip(11)));
    assert_eq!(leases.offered(mac(2), at(0)), None);
    assert!(
        !leases.avoid(ip(11), Some(mac(9)), at(0)),
        "not its address"
    );
    assert!(leases.avoid(ip(11), Some(mac(1)), at(0)));
    assert!(!leases.avoid(ip(99), None, at(0)), "not ours");
    assert_eq!(leases.offered(mac(2), at(1) + AVOID_TIME), Some(ip(10)));
    let later = at(2) + AVOID_TIME;
    leases.doubt(ip(10), later);
    assert_eq!(leases.offered(mac(2), later), Some(ip(11)));
    assert_eq!(leases.offered(mac(3), later + DOUBT_TIME), Some(ip(10)));
}

#[test]
fn own_addresses_and_those_of_relays_are_never_given() {
    let mut leases = leases(1, 3);
    let grant = leases.offer(&discover(mac(1)), LAN, &[ip(2)], at(0));
    assert_eq!(grant.map(|grant| grant.address), Some(ip(3)));
    let mut wish = discover(mac(2));
    wish.requested = Some(SERVER);
    assert_eq!(leases.offer(&wish, LAN, &[ip(2)], at(0)), None);
    assert_eq!(leases.rebooted(mac(2), SERVER, at(0)), Verdict::Refused);
}

#[test]
fn a_wish_is_met_where_it_can_be() {
    let mut leases = leases(10, 20);
    let mut wish = discover(mac(1));
    for (wanted, got) in [(ip(15), ip(15)), (ip(16), ip(15)), (ip(99), ip(15))] {
        wish.requested = Some(wanted);
        let grant = leases.offer(&wish, LAN, &[], at(0)).unwrap();
        assert_eq!(grant.address, got, "the one it has comes first");
    }
    wish.mac = mac(2);
    wish.requested = Some(ip(15));
    let grant = leases.offer(&wish, LAN, &[], at(0)).unwrap();
    assert_eq!(grant.address, ip(10));
}

#[test]
fn clients_behind_a_relay_get_addresses_of_their_subnet() {
    let far = Pool {
        first: Ipv4Addr::new(10, 9, 0, 10),
        last: Ipv4Addr::new(10, 9, 0, 20),
        prefix: Some(16),
        lease: LEASE,
    };
    let near = leases(10, 20).pools[0];
    let mut leases = Leases::new(vec![near, far]);
    let relay = Subnet {
        address: Ipv4Addr::new(10, 9, 200, 1),
        prefix: None,
    };
    let grant = leases.offer(&discover(mac(1)), relay, &[], at(0)).unwrap();
    assert_eq!((grant.address, grant.prefix), (far.first, 16));
    let nowhere = Subnet {
        address: Ipv4Addr::new(172, 16, 0, 1),
        prefix: None,
    };
    assert!(!leases.serves(nowhere));
    assert_eq!(leases.offer(&discover(mac(1)), nowhere, &[], at(0)), None);
}

#[test]
fn leases_are_kept_and_those_of_other_pools_left_out() {
    let mut leases = leases(10, 20);
    let kept = |address| Lease {
        mac: mac(5),
        address,
        until: at(60).as_secs(),
    };
    leases.restore([kept(ip(15)), kept(ip(99))], at(0));
    assert_eq!(leases.given().collect::<Vec<_>>(), [kept(ip(15))]);
    assert_eq!(leases.offered(mac(5), at(0)), Some(ip(15)));
    assert!(leases.release(mac(5), ip(15), at(1)));
    assert!(!leases.release(mac(6), ip(15), at(1)));
    assert_eq!(leases.owner(ip(15), at(2)), None);
}

#[test]
fn a_lease_that_was_written_by_a_wrong_clock_ends() {
    let mut leases = leases(10, 10);
    let far = Lease {
        mac: mac(5),
        address: ip(10),
        until: u64::MAX,
    };
    leases.restore([far], at(0));
    assert_eq!(leases.offered(mac(6), at(1)), None);
    assert_eq!(leases.offered(mac(6), at(0) + LEASE), Some(ip(10)));
}

#[test]
fn only_addresses_of_machines_of_the_subnet_are_given() {
    let whole = |first, last| {
        Leases::new(vec![Pool {
            first,
            last,
            ..leases(0, 0).pools[0]
        }])
    };
    let mut all = whole(ip(0), ip(255));
    let got: Vec<_> = (1..=255)
        .filter_map(|last| all.offered(mac(last), at(0)))
        .collect();
    assert_eq!(got.first(), Some(&ip(2)), "neither the subnet nor us");
    assert_eq!((got.len(), got.last()), (253, Some(&ip(254))));
    assert_eq!(all.rebooted(mac(0), ip(255), at(0)), Verdict::Silence);
    // A range that goes on into the next subnet.
    let mut long = whole(ip(254), Ipv4Addr::new(10, 0, 1, 9));
    assert_eq!(long.offered(mac(1), at(0)), Some(ip(254)));
    assert_eq!(long.offered(mac(2), at(0)), None);
}

#[test]
fn an_offer_on_another_subnet_stays_when_a_card_takes_one_here() {
    let far = Pool {
        first: Ipv4Addr::new(10, 9, 0, 10),
        last: Ipv4Addr::new(10, 9, 0, 10),
        ..leases(10, 10).pools[0]
    };
    let mut leases = Leases::new(vec![leases(10, 10).pools[0], far]);
    let there = Subnet {
        address: Ipv4Addr::new(10, 9, 0, 1),
        prefix: Some(24),
    };
    leases.offered(mac(1), at(0));
    assert!(leases.offer(&discover(mac(1)), there, &[], at(0)).is_some());
    leases.taken(mac(1), ip(10), at(0));
    assert_eq!(leases.offer(&discover(mac(2)), there, &[], at(0)), None);
}

#[test]
fn masks() {
    for (prefix, expected) in [
        (0, "0.0.0.0"),
        (24, "255.255.255.0"),
        (32, "255.255.255.255"),
        (99, "255.255.255.255"),
    ] {
        assert_eq!(mask(prefix).to_string(), expected);
    }
}
