//! The names providers are announced by: a provider never takes itself for another, two with one name part, and whoever
//! claims every name gets a few renames and no more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};

use crate::discover::Rig;
use crate::lan::until;

/// The service type of providers.
const TYPE: &str = "_phase-image._tcp.local.";

/// How long the network is listened to while addresses come: three looks at the addresses of a machine.
const LISTEN: Duration = Duration::from_secs(7);

/// Time between two addresses, so that some come in any moment of an announcement.
const ADDRESS_EVERY: Duration = Duration::from_millis(250);

/// How long one of two providers may take to give way: two looks, and an announcement.
const PART: Duration = Duration::from_secs(20);

/// The names of every provider that said something before the time was over, or until it is enough.
fn names(rig: &Rig, limit: Duration, enough: usize) -> BTreeSet<String> {
    rig.lan.within("client", || {
        let daemon = ServiceDaemon::new().unwrap();
        let events = daemon.browse(TYPE).unwrap();
        let end = Instant::now() + limit;
        let mut names = BTreeSet::new();
        while names.len() < enough
            && let Ok(event) = events.recv_deadline(end)
        {
            let name = match event {
                ServiceEvent::ServiceFound(_, name) => name,
                ServiceEvent::ServiceResolved(service) => service.fullname,
                _ => continue,
            };
            names.insert(name);
        }
        daemon.shutdown().unwrap();
        names
    })
}

#[test]
fn addresses_that_come_while_it_is_announced_do_not_rename_a_provider() {
    let Some(mut rig) = Rig::new("addresses_that_come_while") else {
        return;
    };
    rig.give_address();
    let add = |lan: &crate::lan::Lan, number: u32| {
        let address = format!("address add fd77::{number}/64 dev eth0 nodad");
        lan.ip("provider", &address).unwrap();
    };
    add(&rig.lan, 2);
    rig.start_on("provider", "serve", &["--bind", "::"]);
    let end = Instant::now() + LISTEN;
    let seen = std::thread::scope(|scope| {
        let lan = &rig.lan;
        scope.spawn(move || {
            let mut number = 0x100;
            let mut next = Instant::now();
            until(LISTEN, || {
                if Instant::now() >= next {
                    add(lan, number);
                    number += 1;
                    next += ADDRESS_EVERY;
                }
                Instant::now() >= end
            });
        });
        names(&rig, LISTEN, usize::MAX)
    });
    assert_eq!(seen.len(), 1, "{seen:?}");
    let log = rig.lan.log("serve");
    assert!(!log.contains("somebody else's"), "{log}");
}

#[test]
fn two_providers_with_one_name_part_and_both_are_found() {
    let Some(mut rig) = Rig::new("two_providers_with_one_name") else {
        return;
    };
    // Neither has an address when it looks whether its name is free.
    rig.start_on("provider", "first", &[]);
    rig.start_on("other", "second", &[]);
    for log in ["first", "second"] {
        let announced = || rig.lan.log(log).contains("announced on the local network");
        assert!(until(Duration::from_secs(10), announced), "{log}");
    }
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    let renamed = || {
        let logs = ["first", "second"].map(|log| rig.lan.log(log));
        logs.iter()
            .filter(|log| log.contains("somebody else's"))
            .count()
    };
    assert!(until(PART, || renamed() == 1), "nobody gave way");
    let seen = names(&rig, PART, 2);
    assert_eq!((seen.len(), renamed()), (2, 1), "{seen:?}");
}

#[test]
fn a_neighbour_that_claims_every_name_does_not_keep_a_provider_busy() {
    let Some(mut rig) = Rig::new("a_neighbour_that_claims_every_name") else {
        return;
    };
    rig.give_address();
    rig.start_on("provider", "serve", &[]);
    let gave_up = || {
        let log = rig.lan.log("serve");
        log.matches("it keeps the last one").count() == 1
    };
    let (seen, gave_up) = rig.lan.within("client", || {
        let daemon = ServiceDaemon::new().unwrap();
        let events = daemon.browse(TYPE).unwrap();
        let mut taken = BTreeSet::new();
        let gave_up = until(Duration::from_secs(40), || {
            for event in events.try_iter() {
                if let ServiceEvent::ServiceFound(_, name) = event
                    && taken.insert(name.clone())
                {
                    daemon.register(mine(&name)).unwrap();
                }
            }
            gave_up()
        });
        daemon.shutdown().unwrap();
        (taken, gave_up)
    });
    assert!(gave_up, "{seen:?}\n{}", rig.lan.log("serve"));
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// The same name, announced by somebody who wins every comparison.
fn mine(name: &str) -> ServiceInfo {
    let instance = name.strip_suffix(TYPE).unwrap().trim_end_matches('.');
    let facts = [("run", "zzzz")];
    let mut info =
        ServiceInfo::new(TYPE, instance, "hostile.local.", "10.78.0.2", 9, &facts[..]).unwrap();
    info.set_requires_probe(false);
    info
}
