//! The stories of machines, as lists of what happens to them.

use std::time::UNIX_EPOCH;

use super::*;
use crate::machines::event::Carrier;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000 + second)
}

fn machine() -> Machine {
    Machine::new("52:54:00:12:34:56".parse().unwrap(), at(0))
}

fn sent(name: &str) -> Event {
    Event::FileSent {
        name: name.to_owned(),
        bytes: 10,
        via: Carrier::Http,
    }
}

fn given(last: &str) -> Option<Given> {
    Some(Given {
        folder: "stable/x86_64".to_owned(),
        last: last.to_owned(),
        is_once: false,
    })
}

#[test]
fn a_boot_through_ipxe_from_power_on_to_serving() {
    let mut machine = machine();
    assert_eq!(machine.state(at(0)), State::Seen);
    assert!(machine.asked(Asker::Firmware, at(0)));
    assert_eq!(machine.state(at(0)), State::Asking);
    let offered = Event::Offered {
        strategy: "pxe10",
        file: Some("undionly.kpxe".to_owned()),
    };
    machine.apply(offered, at(0));
    assert_eq!(machine.state(at(0)), State::Offered);
    let started = Event::FileStarted {
        name: "undionly.kpxe".to_owned(),
        via: Carrier::Tftp,
    };
    machine.apply(started, at(1));
    assert_eq!(machine.state(at(1)), State::Loading);
    assert!(!machine.apply(sent("undionly.kpxe"), at(1)).is_payload_sent);
    // iPXE asks again: the same boot.
    assert!(!machine.asked(Asker::Ipxe, at(3)));
    machine.apply(Event::ScriptSent, at(4));
    machine.given = given("stable/x86_64/initramfs.img");
    machine.apply(sent("stable/x86_64/vmlinuz"), at(5));
    assert_eq!(machine.state(at(5)), State::Loading);
    let follows = machine.apply(sent("stable/x86_64/initramfs.img"), at(6));
    assert!(follows.is_payload_sent && !follows.has_begun_to_loop);
    assert_eq!(machine.state(at(6)), State::Booting);
    assert!(!machine.asked(Asker::Linux, at(12)));
    assert_eq!(machine.state(at(12)), State::Linux);
    machine.apply(Event::Stage(Stage::Manifest), at(13));
    machine.apply(Event::Stage(Stage::Mounted), at(20));
    // Told afterwards.
    machine.apply(Event::Stage(Stage::Fetched), at(18));
    assert_eq!(machine.state(at(20)), State::Mounted);
    let follows = machine.apply(Event::Stage(Stage::Serving), at(25));
    assert_eq!(follows.has_served_after, Some(Duration::from_secs(25)));
    assert_eq!(machine.state(at(26)), State::Serving);
    // Told twice, counted once.
    let again = machine.apply(Event::Stage(Stage::Serving), at(26));
    assert_eq!(again.has_served_after, None);
    let boot = machine.boot.as_ref().unwrap();
    let stages: Vec<Stage> = boot.milestones.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, Stage::ALL);
    assert_eq!((machine.boots, machine.bytes, boot.bytes), (1, 30, 30));
    assert_eq!(boot.time_to(Stage::Kernel), Some(Duration::from_secs(5)));
}

#[test]
fn what_is_told_late_stands_where_it_happened() {
    let mut it = machine();
    it.apply(Event::Stage(Stage::Serving), at(30));
    it.apply(Event::Stage(Stage::Mounted), at(25));
    it.apply(Event::Stage(Stage::Manifest), at(40));
    let boot = it.boot.as_ref().unwrap();
    let expected = [
        (Stage::Serving, at(30)),
        (Stage::Mounted, at(30)),
        (Stage::Manifest, at(40)),
    ];
    assert_eq!(boot.milestones, expected);
    assert_eq!(it.last, at(40));
}

#[test]
fn where_a_boot_begins() {
    // Retries of one ladder are one boot; so are the two stacks of one firmware.
    let mut it = machine();
    assert!(it.asked(Asker::Firmware, at(0)));
    for second in [4, 12, 28, 60] {
        assert!(!it.asked(Asker::Firmware, at(second)), "{second}");
    }
    // Two minutes of silence end it.
    assert!(it.asked(Asker::Firmware, at(181)));
    // A UKI that was sent whole, and the firmware is back: it was restarted.
    it.given = given("stable/x86_64/phase.efi");
    assert!(
        it.apply(sent("stable/x86_64/phase.efi"), at(185))
            .is_payload_sent
    );
    assert_eq!(it.state(at(185)), State::Booting);
    assert!(it.asked(Asker::Firmware, at(190)));
    // iPXE that asks twice before it fetched anything has not been restarted; after its kernel it has.
    assert!(!it.asked(Asker::Ipxe, at(191)));
    it.apply(Event::ScriptSent, at(192));
    assert!(!it.asked(Asker::Ipxe, at(193)));
    it.apply(sent("a/x86_64/vmlinuz"), at(194));
    assert!(it.asked(Asker::Ipxe, at(195)));
    assert_eq!(it.boots, 4);
    // Our Linux asks once after the firmware, and once more after a kexec.
    for second in [200, 230] {
        assert!(!it.asked(Asker::Linux, at(second)));
    }
    it.apply(Event::Stage(Stage::Serving), at(240));
    assert!(it.asked(Asker::Linux, at(241)));
    // A machine that was started from a stick begins with what it says.
    let mut stick = machine();
    stick.apply(Event::Stage(Stage::Linux), at(1));
    stick.apply(Event::Stage(Stage::Serving), at(9));
    stick.apply(Event::Stage(Stage::Linux), at(50));
    assert_eq!((stick.boots, stick.state(at(50))), (2, State::Linux));
}

#[test]
fn errors_are_shown_until_they_are_overcome() {
    let mut it = machine();
    it.asked(Asker::Firmware, at(0));
    let aborted = Event::FileAborted {
        name: "phase.efi".to_owned(),
        bytes: 7,
        via: Carrier::Tftp,
        why: "no acknowledgement for 30 s".to_owned(),
    };
    it.apply(aborted, at(1));
    assert_eq!(it.state(at(1)), State::Failed);
    let (text, _) = it.boot.as_ref().unwrap().error.clone().unwrap();
    assert_eq!(
        text,
        "phase.efi: broken off after 7 bytes: no acknowledgement for 30 s"
    );
    it.apply(sent("phase.efi"), at(2));
    assert_eq!(it.state(at(2)), State::Loading);
    it.apply(Event::Failed("bad-signature: \u{1b}[2J".to_owned()), at(3));
    assert_eq!(it.state(at(3)), State::Failed);
    it.apply(Event::Stage(Stage::Manifest), at(4));
    assert_eq!(it.state(at(4)), State::Verified);
    it.told = Some(Told::Nothing(Quiet::Unknown));
    assert_eq!(it.state(at(4)), State::Waiting);
    let long = Event::Failed("x".repeat(10_000));
    it.apply(long, at(5));
    assert_eq!(it.boot.unwrap().error.unwrap().0.len(), ERROR_MAX);
}

#[test]
fn machines_that_go_round_in_circles_are_noticed() {
    let round = |it: &mut Machine, second: u64| {
        it.asked(Asker::Ipxe, at(second));
        it.given = given("initrd.gz");
        it.apply(sent("vmlinuz"), at(second + 1));
        it.apply(sent("initrd.gz"), at(second + 2))
    };
    let mut it = machine();
    let loops: Vec<bool> = (0..6)
        .map(|count| round(&mut it, count * 200).has_begun_to_loop)
        .collect();
    assert_eq!(loops, [false, false, false, true, false, false]);
    assert_eq!(
        (it.state(at(1_100)), it.mute_boots(at(1_100))),
        (State::Looping, 6)
    );
    // An hour later nobody minds any more, and a machine that speaks does not loop.
    assert_eq!(it.mute_boots(at(4_000)), 0);
    it.apply(Event::Stage(Stage::Linux), at(1_200));
    assert_eq!(it.mute_boots(at(1_200)), 0);
    // Slow rounds are none.
    let mut slow = machine();
    assert!((0..9).all(|count| !round(&mut slow, count * 3_601).has_begun_to_loop));
}

#[test]
fn what_a_machine_says_stays_small() {
    let mut it = machine();
    it.facts.learn(Facts {
        product: Some("é".repeat(500)),
        serial: Some(" a\nb ".to_owned()),
        ..Facts::default()
    });
    it.facts.learn(Facts::default());
    assert_eq!(it.facts.product.as_ref().unwrap().len(), TEXT_MAX);
    assert_eq!(it.facts.serial.as_deref(), Some("a?b"));
    for last in 0..20_u8 {
        it.apply(Event::LeaseGiven([10, 0, 0, last].into()), at(1));
    }
    it.apply(Event::LeaseGiven([10, 0, 0, 17].into()), at(1));
    assert_eq!(it.addresses.len(), ADDRESSES_SHOWN_MAX);
    assert_eq!(it.addresses.back().unwrap().to_string(), "10.0.0.17");
}

#[test]
fn names_say_what_files_are() {
    for (name, expected, loader) in [
        ("undionly.kpxe", Some(Stage::BootFile), true),
        ("stable/x86_64/snponly.efi", Some(Stage::BootFile), true),
        ("ipxe.efi", Some(Stage::BootFile), true),
        ("stable/x86_64/phase.efi", Some(Stage::BootFile), false),
        ("debian/x86_64/linux", Some(Stage::Kernel), false),
        ("debian/x86_64/initrd.gz", Some(Stage::Initrd), false),
        ("stable/x86_64/rootfs.squashfs", None, false),
        ("manifest.json", None, false),
    ] {
        assert_eq!(
            (stage_of(name), is_loader(name)),
            (expected, loader),
            "{name}"
        );
    }
}
