//! What becomes of hints, in every order, and of floods of them.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn hint(id: &str, channel: &str, addresses: &[&str]) -> Hint {
    Hint {
        id: id.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        channel: channel.parse().unwrap(),
        arch: Arch::X86_64,
        version: "1".to_owned(),
        manifest: None,
        key_ids: Vec::new(),
    }
}

fn table() -> Table {
    Table::new("stable".parse().unwrap(), Arch::X86_64)
}

fn near(address: &str, millis: u64) -> Option<Near> {
    Some(Near {
        address: address.parse().unwrap(),
        time: Duration::from_millis(millis),
    })
}

fn number(table: &Table, id: &str) -> Option<Number> {
    let found = table.providers.iter().find(|found| found.hint.id == id);
    found.map(|found| found.number)
}

fn measured(table: &mut Table, id: &str, near: Option<Near>, now: Duration) {
    if let Some(number) = number(table, id) {
        table.measured(number, near, now);
    }
}

fn ids(table: &Table) -> Vec<&str> {
    let ranked = table.ranked();
    ranked.iter().map(|found| found.hint.id.as_str()).collect()
}

#[test]
fn one_provider_counts_once_and_others_are_named() {
    let mut table = table();
    for _ in 0..3 {
        table.hear(hint("a", "stable", &["192.0.2.1:80"]), Via::Mdns);
        table.hear(hint("b", "testing", &["192.0.2.1:80"]), Via::Mdns);
    }
    assert_eq!(ids(&table), ["a"]);
    assert_eq!(table.others(), ["testing/x86_64"]);
}

#[test]
fn the_nearest_comes_first_and_the_unreachable_last() {
    let mut table = table();
    for (id, address) in [
        ("a", "10.0.0.1:80"),
        ("b", "10.0.0.2:80"),
        ("c", "10.0.0.3:80"),
    ] {
        table.hear(hint(id, "stable", &[address]), Via::Mdns);
    }
    assert!(table.nearest().is_none());
    assert_eq!(table.due(SECOND, false).len(), 3);
    measured(&mut table, "b", near("10.0.0.2:80", 9), SECOND);
    measured(&mut table, "c", near("10.0.0.3:80", 2), SECOND);
    measured(&mut table, "a", None, SECOND);
    assert_eq!(ids(&table), ["c", "b", "a"]);
    let nearest = table.nearest().unwrap();
    assert_eq!(
        nearest.url(),
        "http://10.0.0.3:80/stable/x86_64/manifest.json"
    );
    assert_eq!(nearest.connect_ms(), Some(2.0));
}

#[test]
fn the_url_is_at_the_address_that_is_nearest() {
    let mut table = table();
    let both = ["10.0.0.1:80", "[fd00::1]:80"];
    table.hear(hint("a", "stable", &both), Via::Mdns);
    let url = |table: &Table| table.ranked()[0].url();
    assert!(url(&table).starts_with("http://10.0.0.1:80/"));
    measured(&mut table, "a", near("[fd00::1]:80", 1), SECOND);
    assert!(url(&table).starts_with("http://[fd00::1]:80/"));
    // It has another address now: what was measured is worth nothing.
    table.hear(hint("a", "stable", &["10.0.0.9:80"]), Via::Mdns);
    assert!(table.nearest().is_none());
    assert!(url(&table).starts_with("http://10.0.0.9:80/"));
}

#[test]
fn one_that_is_found_twice_is_one() {
    let (name, peer) = ("plasmd-a", "12D3KooWA");
    for order in [[Via::Mdns, Via::Dht], [Via::Dht, Via::Mdns]] {
        let mut table = table();
        for via in order {
            let id = if via == Via::Mdns { name } else { peer };
            for _ in 0..2 {
                table.hear(hint(id, "stable", &["10.0.0.1:80"]), via);
            }
        }
        let ranked = table.ranked();
        assert_eq!(ranked.len(), 1, "{order:?}");
        assert_eq!(ranked[0].id(), peer);
        assert_eq!(ranked[0].found_by(), ["mdns", "dht"]);
        table.gone(name);
        measured(&mut table, name, None, SECOND);
        measured(&mut table, peer, None, SECOND);
        assert_eq!(table.ranked().len(), 1, "the DHT still has it");
        assert_eq!(table.ranked()[0].found_by(), ["dht"]);
    }
    // Two with one address in one place are two: it is their business.
    let mut table = table();
    table.hear(hint("a", "stable", &["10.0.0.1:80"]), Via::Mdns);
    table.hear(hint("b", "stable", &["10.0.0.1:80"]), Via::Mdns);
    assert_eq!(ids(&table), ["a", "b"]);
    table.gone("a");
    measured(&mut table, "a", None, SECOND);
    assert_eq!(ids(&table), ["b"]);
}

#[test]
fn nobody_says_goodbye_for_another() {
    let mut table = table();
    let there = || hint("a", "stable", &["10.0.0.1:80"]);
    table.hear(there(), Via::Mdns);
    measured(&mut table, "a", near("10.0.0.1:80", 1), SECOND);
    assert!(table.due(SECOND, false).is_empty());
    table.gone("a");
    assert_eq!(
        table.due(SECOND, false).len(),
        1,
        "it is looked at, at once"
    );
    measured(&mut table, "a", near("10.0.0.1:80", 1), SECOND);
    assert_eq!(ids(&table), ["a"]);
    // Who came back in the meantime is not leaving.
    table.gone("a");
    table.hear(there(), Via::Mdns);
    table.due(SECOND, false);
    measured(&mut table, "a", None, SECOND);
    assert_eq!(ids(&table), ["a"]);
    table.gone("a");
    measured(&mut table, "a", None, SECOND);
    assert!(ids(&table).is_empty());
}

#[test]
fn a_flood_is_cut_off_and_keeps_no_real_provider_out() {
    let mut table = table();
    for number in 0..10_000_u32 {
        let address = format!("10.1.{}.{}:80", number / 250, number % 250 + 1);
        table.hear(hint(&number.to_string(), "stable", &[&address]), Via::Mdns);
        table.hear(hint("x", &format!("c{number}"), &[]), Via::Mdns);
    }
    assert_eq!(table.ranked().len(), PROVIDERS_MAX);
    assert_eq!(table.others().len(), PROVIDERS_MAX);
    let real = || hint("real", "stable", &["10.0.0.1:80"]);
    table.hear(real(), Via::Mdns);
    assert!(!ids(&table).contains(&"real"));
    // As soon as one turns out to be an invention there is room.
    table.due(SECOND, false);
    measured(&mut table, "7", None, SECOND);
    table.hear(real(), Via::Mdns);
    assert!(ids(&table).contains(&"real") && !ids(&table).contains(&"7"));
    assert_eq!(table.ranked().len(), PROVIDERS_MAX);
}

#[test]
fn one_machine_does_not_fill_the_table() {
    let mut table = table();
    for port in 1..1_000 {
        let address = format!("10.0.0.66:{port}");
        table.hear(hint(&port.to_string(), "stable", &[&address]), Via::Mdns);
    }
    assert_eq!(table.ranked().len(), AT_ONE_ADDRESS_MAX);
    table.hear(hint("real", "stable", &["10.0.0.1:80"]), Via::Mdns);
    assert!(ids(&table).contains(&"real"));
}

#[test]
fn who_watches_looks_again_and_one_lost_packet_is_no_loss() {
    let mut table = table();
    table.hear(hint("a", "stable", &["10.0.0.1:80"]), Via::Mdns);
    let mut now = SECOND;
    assert_eq!(table.due(now, true).len(), 1);
    assert!(table.due(now, true).is_empty(), "it is being measured");
    measured(&mut table, "a", near("10.0.0.1:80", 1), now);
    assert!(table.due(now + CHECK_AFTER, false).is_empty());
    now += CHECK_AFTER;
    assert_eq!(table.due(now, true).len(), 1);
    measured(&mut table, "a", None, now);
    assert!(table.nearest().is_some());
    now += RETRY_AFTER;
    assert_eq!(table.due(now, true).len(), 1);
    measured(&mut table, "a", None, now);
    assert!(table.nearest().is_none());
    now += RETRY_AFTER;
    assert_eq!(table.due(now, true).len(), 1, "it may come back");
}

#[test]
fn inventions_at_the_address_of_another_do_not_keep_it_out() {
    let mut table = table();
    for port in 1..1_000 {
        let address = format!("10.0.0.1:{port}");
        table.hear(hint(&port.to_string(), "stable", &[&address]), Via::Mdns);
    }
    let real = || hint("real", "stable", &["10.0.0.1:8080", "[fd00::1]:8080"]);
    table.hear(real(), Via::Mdns);
    assert!(!ids(&table).contains(&"real"));
    for (number, _) in table.due(SECOND, false) {
        table.measured(number, None, SECOND);
    }
    table.hear(real(), Via::Mdns);
    assert!(ids(&table).contains(&"real"));
    assert_eq!(table.ranked().len(), AT_ONE_ADDRESS_MAX);
}

#[test]
fn nobody_is_measured_for_another_of_the_same_name() {
    let mut table = table();
    table.hear(hint("12D3KooWA", "stable", &["10.0.0.1:80"]), Via::Dht);
    table.hear(hint("12D3KooWA", "stable", &["10.0.0.66:80"]), Via::Mdns);
    let due = table.due(SECOND, false);
    assert_eq!(due.len(), 2);
    for (number, hint) in due {
        let is_real = hint.addresses[0] == "10.0.0.1:80".parse().unwrap();
        let near = is_real.then(|| near("10.0.0.1:80", 1)).flatten();
        table.measured(number, near, SECOND);
    }
    let nearest = table.nearest().unwrap();
    assert!(nearest.url().starts_with("http://10.0.0.1:80/"));
    assert!(!table.ranked()[1].is_reachable());
}
