//! What the table takes, and whom it names.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::*;

const S: Duration = Duration::from_secs(1);

fn manifest() -> Digest {
    Digest::of(b"manifest")
}

fn address(network: u8, host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, network, host).into(), port)
}

fn asker(network: u8, host: u8) -> IpAddr {
    address(network, host, 0).ip()
}

fn names(answer: &Answer) -> BTreeSet<SocketAddr> {
    answer.peers.iter().map(|peer| peer.address).collect()
}

impl Table {
    fn add(&mut self, address: SocketAddr, now: Duration) -> Result<(), Full> {
        self.register(&manifest(), address, false, now)
    }

    fn names(
        &mut self,
        asker: IpAddr,
        own: Option<SocketAddr>,
        now: Duration,
    ) -> BTreeSet<SocketAddr> {
        names(&self.sample(&manifest(), asker, own, now))
    }
}

#[test]
fn few_are_all_named_but_not_the_asker() {
    let mut table = Table::new(1);
    let all: Vec<_> = (1..=5).map(|host| address(0, host, 80)).collect();
    for address in &all {
        table.add(*address, S).unwrap();
    }
    let found = table.names(asker(0, 3), Some(all[2]), S);
    assert_eq!(found.len(), 4);
    assert!(!found.contains(&all[2]));
    assert_eq!(table.names(asker(9, 1), None, S).len(), 5);
    let mapped: SocketAddr = "[::ffff:10.0.0.3]:80".parse().unwrap();
    assert_eq!(table.names(mapped.ip(), Some(mapped), S), found);
    table.add(mapped, S).unwrap();
    assert_eq!(
        table.counts(S).partial,
        5,
        "one machine, written in two ways"
    );
    let other = Digest::of(b"other");
    assert_eq!(table.sample(&other, asker(0, 3), None, S).peers, []);
    table.forget(mapped);
    assert_eq!(table.counts(S).partial, 4);
}

#[test]
fn entries_end_unless_they_are_renewed() {
    let mut table = Table::new(1);
    table.add(address(0, 1, 80), S).unwrap();
    table.add(address(0, 2, 80), S).unwrap();
    table
        .register(&manifest(), address(0, 3, 80), true, S)
        .unwrap();
    table.add(address(0, 2, 80), 20 * S).unwrap();
    let counts = |partial, complete| Counts { partial, complete };
    assert_eq!(table.counts(30 * S), counts(2, 1));
    assert_eq!(table.counts(31 * S), counts(1, 1));
    assert_eq!(table.names(asker(0, 9), None, 32 * S).len(), 2);
    assert_eq!(table.counts(50 * S), counts(0, 1));
    assert_eq!(table.counts(601 * S), counts(0, 0));
    assert!(
        table.crowds.is_empty() && table.per_address.is_empty() && table.per_network.is_empty()
    );
}

#[test]
fn near_ones_come_first_and_some_come_from_elsewhere() {
    let mut table = Table::new(1);
    for network in 0..50 {
        for host in 1..=40 {
            table.add(address(network, host, 80), S).unwrap();
        }
    }
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let answer = table.sample(&manifest(), asker(7, 1), Some(address(7, 1, 80)), S);
        let found = names(&answer);
        assert_eq!((found.len(), answer.peers.len()), (PEERS_MAX, PEERS_MAX));
        assert_eq!(answer.refresh, 10 * S);
        let near = found
            .iter()
            .filter(|found| are_near(found.ip(), asker(7, 1)));
        assert_eq!(near.count(), SAMPLE_NEAR_MAX);
        seen.extend(found);
    }
    assert!(seen.len() > 400, "always the same {}", seen.len());
    // Of one network alone, all places are for near ones.
    let mut table = Table::new(2);
    for host in 1..=40 {
        table.add(address(7, host, 80), S).unwrap();
    }
    assert_eq!(table.names(asker(7, 1), None, S).len(), PEERS_MAX);
}

#[test]
fn every_bound_holds() {
    let mut table = Table::new(1);
    for port in 1..=TABLE_PER_ADDRESS_MAX as u16 {
        table.add(address(0, 1, port), S).unwrap();
    }
    assert_eq!(table.add(address(0, 1, 99), S), Err(Full));
    assert_eq!(table.add(address(0, 1, 1), S), Ok(()), "a renewal");
    for (taken, manifest) in (0..200_u8).map(|n| (n, Digest::of(&[n]))) {
        let fits = usize::from(taken) < TABLE_MANIFESTS_MAX - 1;
        let entered = table.register(&manifest, address(1, taken, 80), false, S);
        assert_eq!(entered.is_ok(), fits, "{taken}");
    }
    let mut table = Table::new(1);
    let network: u128 = 0xfd00 << 112;
    let v6 = |host: u128| SocketAddr::new(IpAddr::V6((network + host).into()), 80);
    let entered = (0..5_000).filter(|&host| table.add(v6(host), S).is_ok());
    assert_eq!(entered.count(), TABLE_PER_NETWORK_MAX);
    assert_eq!(table.add(v6(1 << 64), S), Ok(()), "another network");
    let entered =
        (0..40_000_u128).filter(|&host| table.add(v6((1 << 65) + (host << 64)), S).is_ok());
    assert_eq!(
        entered.count() + TABLE_PER_NETWORK_MAX + 1,
        TABLE_ENTRIES_MAX
    );
    // Room comes back with time.
    assert_eq!(table.add(address(0, 1, 80), 32 * S), Ok(()));
    assert_eq!(table.counts(32 * S).partial, 1);
}

#[test]
fn whatever_is_done_the_indexes_fit_the_entries() {
    let mut random = Random::new(3);
    let mut table = Table::new(4);
    let mut now = Duration::ZERO;
    for round in 0..20_000 {
        now += Duration::from_millis(random.next() % 50);
        let manifest = Digest::of(&[random.below(3) as u8]);
        let address = address(
            random.below(4) as u8,
            random.below(30) as u8,
            1 + random.below(4) as u16,
        );
        match random.below(10) {
            0 => table.forget(address),
            1 => {
                let answer = table.sample(&manifest, address.ip(), Some(address), now);
                assert_eq!(
                    names(&answer).len(),
                    answer.peers.len(),
                    "one is named twice"
                );
                assert!(!names(&answer).contains(&address));
            }
            _ => table
                .register(&manifest, address, random.below(5) == 0, now)
                .unwrap(),
        }
        if round % 200 != 0 {
            continue;
        }
        let mut per_address = HashMap::new();
        for crowd in table.crowds.values() {
            assert_eq!(crowd.places.len(), crowd.entries.len());
            assert_eq!(
                crowd.near.values().map(Vec::len).sum::<usize>(),
                crowd.entries.len()
            );
            for (place, entry) in crowd.entries.iter().enumerate() {
                assert_eq!(crowd.places[&entry.peer.address], place);
                *per_address.entry(entry.peer.address.ip()).or_default() += 1;
            }
        }
        assert_eq!(per_address, table.per_address);
    }
}
