//! Neighbours on a LAN: who is there, and whose turn it is to restart.

use std::path::Path;

use super::*;
use crate::lan::{Lan, skip};

/// Three machines that serve: `mine` and `other` have the same release, `ahead` a newer one.
struct Rig {
    lan: Lan,
    running: Arc<Image>,
}

const HOSTS: [(&str, u64); 3] = [("mine", 7), ("other", 7), ("ahead", 8)];

fn put(image: &Image, folder: &Path) {
    let below = folder.join("stable/x86_64");
    fs::create_dir_all(&below).expect("a folder");
    fs::write(below.join("manifest.json"), &image.manifest).expect("a file");
    for (_, name, bytes) in &image.files {
        fs::write(below.join(name), bytes).expect("a file");
    }
}

impl Rig {
    fn new(test: &str) -> Option<Self> {
        let mut lan = match Lan::new(&HOSTS.map(|(host, _)| host)) {
            Ok(lan) => lan,
            Err(reason) => {
                skip(test, &reason);
                return None;
            }
        };
        for (number, (host, sequence)) in HOSTS.into_iter().enumerate() {
            for change in [
                "link set lo up".to_owned(),
                "link set eth0 up".to_owned(),
                format!("address add 10.79.0.{}/24 dev eth0", number + 1),
            ] {
                lan.ip(host, &change).expect("root may do it");
            }
            let folder = lan.directory().join(host);
            put(&numbered(sequence), &folder);
            let root = lan.directory().join("root.json");
            fs::write(&root, numbered(7).root().to_json()).expect("a file");
            let mut command = lan.command(host, PLASMD);
            command
                .args(["serve", "--arch", "x86_64", "--dhcp", "off", "--no-dht"])
                .args(["--control-socket", "off", "--port", "8080", "--artifacts"])
                .arg(folder)
                .arg("--trust-root")
                .arg(root)
                .arg("--state-dir")
                .arg(lan.directory().join(format!("state-{host}")));
            lan.start(host, command);
        }
        Some(Self {
            lan,
            running: numbered(7),
        })
    }

    fn role(&self, host: &str) -> Role {
        let program = self.lan.command(host, PLASMD);
        let flags = ["--http-port=8080"];
        Role::start_as(&self.running, &self.running.root(), &flags, program)
    }
}

fn ask(role: &Role) -> (bool, String, String) {
    let digest = numbered(8).manifest.clone();
    let digest = boot_manifest::Digest::of(&digest).to_string();
    role.say(&Command::AskTurn { digest });
    let reports = role.until(|report| matches!(report, Report::Turn { .. }));
    match reports.into_iter().last() {
        Some((
            Report::Turn {
                granted,
                by,
                reason,
            },
            _,
        )) => (granted, by, reason),
        other => panic!("{other:?}"),
    }
}

/// Looks until these neighbours are known; the reports of that look.
fn until_known(role: &Role, live: u32, same: u32) -> Vec<Received> {
    let end = Instant::now() + LIMIT;
    loop {
        let reports = role.check();
        if reports[0].0 == (Report::Neighbours { live, same }) {
            return reports;
        }
        assert!(Instant::now() < end, "they are not heard: {reports:?}");
    }
}

#[test]
fn neighbours_are_found_counted_and_take_turns() {
    let Some(rig) = Rig::new("neighbours_are_found_counted_and_take_turns") else {
        return;
    };
    let mine = rig.role("mine");
    let reports = until_known(&mine, 2, 1);
    let (origin, manifest) = offered(reports.last());
    assert_eq!(origin, "http://10.79.0.3:8080");
    assert!(manifest == numbered(8).manifest);
    let (granted, by, reason) = ask(&mine);
    assert!(granted, "{reason}");
    assert_eq!(by, "2 neighbours");
    // Asked again, it is still its own.
    assert!(ask(&mine).0);
    let other = rig.role("other");
    until_known(&other, 2, 1);
    let (granted, by, reason) = ask(&other);
    assert!(!granted);
    assert_eq!(
        (by.as_str(), reason.as_str()),
        ("this machine", "another machine has the turn")
    );
    mine.say(&Command::ReleaseTurn {});
    let end = Instant::now() + LIMIT;
    while !ask(&other).0 {
        assert!(Instant::now() < end, "it is not given back");
    }
    let (granted, ..) = ask(&mine);
    assert!(!granted, "now it is the other's");
    // The machine is another process after its restart, and the same machine to the others.
    drop(other);
    let successor = rig.role("other");
    until_known(&successor, 2, 1);
    successor.say(&Command::ReleaseTurn {});
    while !ask(&mine).0 {
        assert!(Instant::now() < end, "its successor cannot give it back");
    }
}
