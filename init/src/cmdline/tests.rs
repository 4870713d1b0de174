//! Command lines, and what is made of them.

use super::*;

#[track_caller]
fn check(command_line: &str, complaints: usize, expected: impl FnOnce(&mut Options)) {
    let mut wanted = Options::default();
    expected(&mut wanted);
    let (options, found) = parse(command_line);
    assert_eq!(options, wanted, "{command_line}");
    assert_eq!(found.len(), complaints, "{command_line}: {found:?}");
}

#[test]
fn every_parameter_is_read() {
    check("console=ttyS0 quiet panic=10", 0, |_| ());
    check("phase.source=disk", 0, |o| o.source = SourceChoice::Disk);
    check("phase.source=initramfs", 0, |o| {
        o.source = SourceChoice::Initramfs
    });
    check("phase.provider=http://10.0.0.1:8080", 0, |o| {
        o.provider = Some("http://10.0.0.1:8080".to_owned());
    });
    check("phase.channel=beta-2", 0, |o| {
        o.channel = "beta-2".parse().ok()
    });
    check("phase.mode=private", 0, |o| o.mode = Mode::Private);
    check("phase.mode=local phase.mdns=off", 0, |o| {
        o.mode = Mode::Local;
        o.mdns = false;
    });
    check("phase.dht=off", 0, |o| o.dht = false);
    check(
        "phase.bootstrap=10.0.0.1,[fd00::1]:4011,/dns4/a.b/tcp/4011/p2p/12D3Koo",
        0,
        |o| {
            let all = [
                "10.0.0.1",
                "[fd00::1]:4011",
                "/dns4/a.b/tcp/4011/p2p/12D3Koo",
            ];
            o.bootstrap = all.map(str::to_owned).to_vec();
        },
    );
    check("phase.name=Rack-7", 0, |o| {
        o.name = Some("rack-7".to_owned())
    });
    check("phase.port=80", 0, |o| o.port = 80);
    check("phase.share=off", 0, |o| o.share = Share::Off);
    check("phase.share=20M phase.share=on", 0, |_| {});
    check("phase.share=20M", 0, |o| {
        o.share = Share::Rate("20M".to_owned())
    });
    check("phase.dhcp=off", 0, |o| o.boots_others = false);
    check("phase.dhcp=proxy", 0, |_| {});
    check("phase.loglevel=debug", 0, |o| o.log_level = "debug");
    check(
        "phase.disk_wait=3 phase.reboot_wait=0 phase.watchdog=0",
        0,
        |o| {
            o.disk_wait_seconds = 3;
            o.reboot_wait_seconds = 0;
            o.watchdog_seconds = 0;
        },
    );
    check("phase.origin=http://a/", 0, |o| {
        o.origin = Some("http://a/".to_owned())
    });
}

#[test]
fn nonsense_is_complained_about_and_the_default_holds() {
    for word in [
        "phase.nonsense=1",
        "phase.",
        "phase.source",
        "phase.source=floppy",
        "phase.provider=ftp://x",
        "phase.provider=http://",
        "phase.provider=http:///x",
        "phase.provider=\"http://x y\"",
        "phase.channel=../x",
        "phase.mode=public",
        "phase.mdns=1",
        "phase.dht=1",
        "phase.bootstrap=",
        "phase.bootstrap=a,",
        "phase.bootstrap=--no-dht",
        "phase.bootstrap=@/etc/passwd",
        "phase.bootstrap=a;b",
        "phase.bootstrap=1,2,3,4,5,6,7,8,9",
        "phase.name=-x",
        "phase.name=a.b",
        "phase.dhcp=server",
        "phase.share=0",
        "phase.share=00M",
        "phase.share=M",
        "phase.share=-1",
        "phase.share=1T",
        "phase.share=1234567890123",
        "phase.port=0",
        "phase.port=65536",
        "phase.port=+1x",
        "phase.watchdog=5",
        "phase.reboot_wait=-1",
        "phase.reboot_wait=86401",
    ] {
        check(word, 1, |_| ());
    }
    check("phase.source=provider phase.mode=private", 1, |o| {
        o.source = SourceChoice::Provider;
        o.mode = Mode::Private;
    });
}

#[test]
fn parameters_of_older_systems_are_told_why_they_do_nothing() {
    let (options, complaints) = parse("phase.cache=/dev/sda3 phase.nowrite");
    assert_eq!(options, Options::default());
    assert_eq!(
        complaints,
        [
            "phase.cache has no meaning here: disks hold no cache",
            "phase.nowrite has no meaning here: a disk is written only where its image has room for upgrades"
        ]
    );
    for (name, _) in WITHOUT_MEANING {
        assert!(PARAMETERS.iter().all(|row| row.name != *name), "{name}");
    }
}

#[test]
fn the_last_one_counts_and_arguments_of_the_first_program_do_not() {
    check("phase.port=1 phase.port=2 -- phase.port=3", 0, |o| {
        o.port = 2
    });
    check("", 0, |_| ());
}

#[test]
fn words_follow_the_kernel() {
    let cases: [(&str, &[&str]); 5] = [
        ("a  b\tc\n", &["a", "b", "c"]),
        ("x=\"a b\" y", &["x=a b", "y"]),
        ("\"x=a b\"", &["x=a b"]),
        ("open=\"a b", &["open=a b"]),
        ("", &[]),
    ];
    for (line, expected) in cases {
        assert_eq!(words(line), expected, "{line:?}");
    }
}

#[test]
fn a_successor_keeps_what_belongs_to_the_machine() {
    let signed = "console=ttyS0 panic=10 quiet phase.mode=internet";
    let own = "BOOT_IMAGE=x root=/dev/sda console=ttyS0 earlyprintk=ttyS0 phase.mode=private phase.source=provider \
               phase.provider=http://a:1 phase.origin=http://old phase.name=n -- phase.port=1";
    assert_eq!(
        successor(signed, own, "", &origin("http://a:1")),
        "panic=10 quiet phase.mode=internet console=ttyS0 earlyprintk=ttyS0 phase.mode=private phase.name=n \
         phase.source=initramfs phase.origin=http://a:1"
    );
    // Only the words of the signed line that say the same are dropped, and the local word wins.
    assert_eq!(
        parse(&successor(signed, own, "", &origin("http://a:1")))
            .0
            .mode,
        Mode::Private
    );
}

#[test]
fn a_successor_is_never_told_to_fetch_again() {
    let line = successor(
        "phase.source=provider phase.provider=http://evil phase.trial=d9",
        "",
        "",
        &origin("http://a"),
    );
    let (options, _) = parse(&line);
    assert_eq!(options.source, SourceChoice::Initramfs);
    assert_eq!(options.origin.as_deref(), Some("http://a"));
    assert_eq!((options.provider, options.upgrades.trial), (None, None));
}

#[test]
fn what_the_running_image_brought_does_not_win_over_its_successor() {
    let own_signed = "console=tty0 phase.upgrade.soak=5 phase.name=a";
    let own =
        "console=tty0 phase.upgrade.soak=5 phase.name=b phase.port=81 phase.trial=d3 phase.place=a";
    let line = successor("quiet phase.upgrade.soak=7", own, own_signed, &[]);
    assert_eq!(
        line,
        "quiet phase.upgrade.soak=7 phase.name=b phase.port=81 phase.source=initramfs"
    );
}

fn origin(url: &str) -> Vec<String> {
    vec![format!("phase.origin={url}")]
}

#[test]
fn upgrades_are_told_by_parameters() {
    check("phase.upgrade=staged phase.upgrade.poll=2", 0, |o| {
        o.upgrades.policy.mode = UpgradeMode::Staged;
        o.upgrades.policy.poll = Duration::from_secs(2);
    });
    check("phase.upgrade.from=http://a,http://b:81/x", 0, |o| {
        o.upgrades.from = vec!["http://a".to_owned(), "http://b:81/x".to_owned()];
    });
    check(
        "phase.upgrade.window=22:30-04:00 phase.upgrade.soak=0",
        0,
        |o| {
            o.upgrades.policy.window = Window::parse("22:30-04:00");
            o.upgrades.policy.soak = Duration::ZERO;
        },
    );
    check(
        "phase.upgrade.alone=yes phase.upgrade.watchdog=no",
        0,
        |o| {
            o.upgrades.policy.alone = true;
            o.upgrades.policy.needs_watchdog = false;
        },
    );
    check("phase.trial=d7 phase.place=b phase.crashed=m8", 0, |o| {
        o.upgrades.trial = TrialId::parse("d7");
        o.upgrades.place = Some(Place::B);
        o.upgrades.crashed = TrialId::parse("m8");
    });
    let digest = boot_manifest::Digest::of(b"x");
    check(&format!("phase.returned={digest},self-test,1,7"), 0, |o| {
        o.upgrades.returned = Some(Returned {
            digest,
            rank: Rank {
                generation: 1,
                sequence: 7,
            },
            reason: Reason::SelfTest,
        });
    });
    check(&format!("phase.returned={digest},self-test"), 1, |_| ());
    check(
        &format!("phase.returned={digest},self-test,1,7,"),
        1,
        |_| (),
    );
    for wrong in [
        "phase.upgrade=yes",
        "phase.upgrade.poll=1",
        "phase.upgrade.poll=86401",
        "phase.upgrade.soak=-1",
        "phase.upgrade.window=24:00-01:00",
        "phase.upgrade.window=01:00-01:00",
        "phase.upgrade.from=ftp://a",
        "phase.upgrade.from=http://a,",
        "phase.upgrade.alone=on",
        "phase.trial=7",
        "phase.returned=sha256:00,power",
        "phase.place=c",
        "phase.place=memory",
    ] {
        check(wrong, 1, |_| ());
    }
}

#[test]
fn local_parameters_stand_before_the_arguments_of_the_first_program() {
    let line = successor(
        "quiet -- argument",
        "phase.port=80",
        "",
        &origin("http://a"),
    );
    assert_eq!(
        line,
        "quiet phase.port=80 phase.source=initramfs phase.origin=http://a -- argument"
    );
    assert_eq!(parse(&line).0.port, 80);
}

#[test]
fn quoted_values_stay_one_word() {
    let line = successor("x=\"a b\" \"c d\"", "", "", &[]);
    assert_eq!(words(&line)[..2], ["x=a b", "c d"]);
}

#[test]
fn a_provider_is_looked_for_when_none_is_named() {
    for (line, searches) in [
        ("", true),
        ("phase.source=provider", true),
        ("phase.mode=local", true),
        ("phase.provider=http://a", false),
        ("phase.source=disk", false),
        ("phase.source=initramfs", false),
        ("phase.mode=private", false),
    ] {
        assert_eq!(parse(line).0.may_search(), searches, "{line}");
    }
}

#[test]
fn who_is_told_of_the_boot() {
    for (line, told) in [
        ("", None),
        ("phase.origin=http://a:81", Some("http://a:81")),
        ("phase.origin=http://a:0", None),
        ("phase.origin=http://a:x", None),
        ("phase.origin=http://a phase.mode=private", None),
    ] {
        assert_eq!(parse(line).0.told_of_the_boot(), told, "{line}");
    }
}

#[test]
fn ports_of_urls() {
    for (url, port) in [
        ("http://a", Some(80)),
        ("http://a:8080/x:1", Some(8080)),
        ("http://[fe80::1]", Some(80)),
        ("http://[fe80::1]:81", Some(81)),
        ("http://a?x:7", Some(80)),
        ("http://a:99999", None),
        ("http://a:x", None),
    ] {
        assert_eq!(port_of(url), port, "{url}");
    }
}

#[test]
fn private_mode_announces_nothing() {
    assert!(!parse("phase.mode=private phase.mdns=on").0.advertises());
    assert!(!parse("phase.mdns=off").0.advertises());
    assert!(parse("phase.mode=local").0.advertises());
}

#[test]
fn the_dht_is_for_mode_internet_and_goes_with_the_machine() {
    for (line, uses) in [
        ("", true),
        ("phase.dht=off", false),
        ("phase.mode=local", false),
        ("phase.mode=private phase.dht=on", false),
    ] {
        assert_eq!(parse(line).0.uses_dht(), uses, "{line}");
    }
    check("phase.port=4011", 1, |o| {
        o.port = 4011;
        o.dht = false;
    });
    check("phase.port=4011 phase.mode=local", 0, |o| {
        o.port = 4011;
        o.mode = Mode::Local;
    });
    let own = "phase.dht=on phase.bootstrap=10.0.0.1,b.example:4011";
    let next = parse(&successor("phase.dht=off", own, "", &[])).0;
    assert_eq!(next.bootstrap, ["10.0.0.1", "b.example:4011"]);
    assert!(next.dht, "the local word wins");
}

#[test]
fn the_table_has_every_parameter_once() {
    let table = table();
    for row in PARAMETERS {
        assert_eq!(table.matches(&format!("`phase.{}=`", row.name)).count(), 1);
    }
    // The guide is written by hand around this table; where it has the table, it must be this one.
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operators-guide.md");
    if let Ok(guide) = std::fs::read_to_string(guide) {
        assert!(
            guide.contains(&table),
            "docs/operators-guide.md must contain this table:\n{table}"
        );
    }
}
