//! Whole upgrades as an operator would tell them, without a fault of the disk.

use upgrade::{Action, Order, Outcome, Phase, Place, Policy, Reason, Refusal};

use crate::check::reason_of;
use crate::world::{Behaviour, World, digest, release};

pub(crate) fn order(action: Action, force: bool) -> Order {
    Order {
        action,
        digest: None,
        force,
    }
}

#[test]
fn a_newer_image_is_taken_proves_itself_and_is_kept() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.run();
    assert_eq!(world.version(), "v2");
    let status = world.status();
    assert!(status.is_default(Place::A), "{status:?}");
    let running = status.running.unwrap();
    assert!(!running.proved, "kexec proves no cold start");
    assert_eq!(status.previous.unwrap().image.place, Place::Golden);
    assert_eq!(status.floor, 0, "I7: the floor waits for the cold proof");
    // The next cold start proves it.
    world.run();
    let status = world.status();
    assert_eq!(world.version(), "v2");
    assert!(status.running.unwrap().proved);
    assert_eq!(
        status.floor, 1,
        "golden may be gone back to, so its version is the floor"
    );
    let outcomes: Vec<_> = status.history.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [Outcome::Committed, Outcome::Proved]);
}

#[test]
fn a_third_image_waits_for_the_cold_proof_of_the_second_i5() {
    let mut world = World::new(&[
        release("v2", 2, Behaviour::Good),
        release("v3", 3, Behaviour::Good),
        release("v4", 4, Behaviour::Good),
    ]);
    for (published, version) in [(1, "v2"), (2, "v3")] {
        world.published = published;
        world.run();
        assert_eq!(world.version(), version);
    }
    // v2 was proved by the cold start before v3; v3 was not, so v2 stays until it is.
    let before = world.starts;
    world.published = 3;
    world.run();
    assert_eq!(world.version(), "v4");
    assert!(world.starts > before, "{:?}", world.log);
    assert!(world.status().floor >= 2);
}

/// Whatever is wrong with an image, the old one serves, the reason is on record, and it is not tried again.
#[track_caller]
fn comes_back(behaviour: Behaviour, reason: Reason, phase: Phase) {
    let mut world = World::new(&[release("v2", 2, behaviour)]);
    world.run();
    assert_eq!(world.version(), "v1", "{}", world.log.join("\n"));
    let ledger = world.ledger();
    let failed = ledger.quarantined(&digest("v2")).expect("a record");
    assert_eq!(
        (failed.failure.reason, failed.failure.phase),
        (reason, phase)
    );
    assert_eq!(world.witness.tried(&digest("v2")), 1);
    assert_eq!(world.status().stage, "idle");
    // Fault 30: the same image is refused, one with a higher sequence is taken.
    world.releases.push(release("v3", 3, Behaviour::Good));
    world.published = 1;
    world.run();
    assert_eq!(world.version(), "v1", "the same image is refused");
    assert_eq!(world.witness.tried(&digest("v2")), 1);
    world.published = 2;
    world.run();
    assert_eq!(world.version(), "v3", "{}", world.log.join("\n"));
}

#[test]
fn every_way_to_fail_leads_back() {
    use Behaviour::{Fails, Hangs, Panics, Restarts, Stalls};
    comes_back(Hangs(Phase::Jump), Reason::Hang, Phase::Jump);
    comes_back(Panics(Phase::Jump), Reason::Unknown, Phase::Jump);
    for phase in &Phase::ALL[1..] {
        comes_back(Hangs(*phase), Reason::Hang, *phase);
        comes_back(Panics(*phase), Reason::Panic, *phase);
    }
    for phase in &Phase::ALL[1..6] {
        comes_back(Stalls(*phase), Reason::Deadline, *phase);
    }
    comes_back(Fails(Phase::Identity), Reason::Hardware, Phase::Identity);
    comes_back(Fails(Phase::Network), Reason::Network, Phase::Network);
    comes_back(Fails(Phase::Serve), Reason::SelfTest, Phase::Serve);
    comes_back(Fails(Phase::Updater), Reason::Updater, Phase::Updater);
    // Fault 17: good-looking until the ninth minute.
    comes_back(Restarts, Reason::Restarts, Phase::Soak);
}

#[test]
fn kexec_good_and_cold_bad_leads_back_fault_16() {
    let mut world = World::new(&[release("v2", 2, Behaviour::HangsCold)]);
    world.run();
    assert_eq!(world.version(), "v2", "after kexec all is well");
    world.run();
    assert_eq!(world.version(), "v1");
    let ledger = world.ledger();
    assert_eq!(reason_of(&ledger, &digest("v2")), Some(Reason::ColdStart));
    assert_eq!(world.status().stage, "idle");
}

#[test]
fn a_proved_image_that_decays_gives_way_to_the_one_before() {
    let mut world = World::new(&[
        release("v2", 2, Behaviour::Good),
        release("v3", 3, Behaviour::Decays),
    ]);
    world.published = 1;
    world.run();
    world.run();
    world.published = 2;
    world.run();
    assert_eq!(world.version(), "v3");
    world.run();
    assert_eq!(world.version(), "v2", "{}", world.log.join("\n"));
    let reason = reason_of(&world.ledger(), &digest("v3"));
    assert!(
        matches!(reason, Some(Reason::ColdStart | Reason::BootLoop)),
        "{reason:?}"
    );
}

#[test]
fn power_lost_in_the_trial_is_an_accident_that_is_forgiven_once_i8() {
    let tried = |behaviour| {
        let mut world = World::new(&[release("v2", 2, behaviour)]);
        world.run();
        world.run();
        assert_eq!(world.version(), "v1");
        let reason = reason_of(&world.ledger(), &digest("v2"));
        (world.witness.tried(&digest("v2")), reason)
    };
    let lost = tried(Behaviour::LosesPower(Phase::Network));
    assert_eq!(lost, (2, Some(Reason::Power)));
    // A restart that nobody explains is no accident.
    let unexplained = tried(Behaviour::Panics(Phase::Jump));
    assert_eq!(unexplained, (1, Some(Reason::Unknown)));
}

#[test]
fn staged_waits_for_an_order_and_off_does_nothing() {
    for mode in [upgrade::Mode::Staged, upgrade::Mode::Off] {
        let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
        world.policy = Policy {
            mode,
            ..Policy::default()
        };
        world.run();
        assert_eq!(world.version(), "v1");
        let staged = mode == upgrade::Mode::Staged;
        let status = world.status();
        assert_eq!(status.slot_a.is_some(), staged);
        assert_eq!(status.stage, if staged { "staged" } else { "idle" });
        let waits = if staged {
            Refusal::WaitsForOrder
        } else {
            Refusal::Off
        };
        assert_eq!(status.waits, Some(waits));
        let at = if staged { "staged" } else { "idle" };
        world.orders.push_back((at, order(Action::Apply, false)));
        world.run();
        assert_eq!(world.version(), "v2", "{}", world.log.join("\n"));
    }
}

#[test]
fn an_order_to_stage_goes_no_further() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.policy.mode = upgrade::Mode::Off;
    world
        .orders
        .push_back(("idle", order(Action::Stage, false)));
    world.run();
    assert_eq!(world.version(), "v1");
    assert_eq!(world.disk.slot(Place::A), Some(digest("v2")));
    assert_eq!(world.status().stage, "staged");
}

#[test]
fn rollback_names_the_image_before_i4() {
    let mut world = World::new(&[
        release("v2", 2, Behaviour::Good),
        release("v3", 3, Behaviour::Good),
    ]);
    for published in [1, 2] {
        world.published = published;
        world.run();
        world.run();
    }
    assert_eq!(world.version(), "v3");
    world
        .orders
        .push_back(("idle", order(Action::Rollback, false)));
    world.run();
    assert_eq!(world.version(), "v2", "{}", world.log.join("\n"));
    let ledger = world.ledger();
    assert_eq!(reason_of(&ledger, &digest("v3")), Some(Reason::Operator));
    // Golden is older than the floor, which rose with the proof of v3.
    assert!(ledger.floor >= 2);
    world
        .orders
        .push_back(("idle", order(Action::Rollback, false)));
    world.run();
    assert_eq!(world.version(), "v2");
    assert!(
        world.log.last().unwrap().contains("refused")
            || world
                .log
                .iter()
                .any(|line| line.contains("security version")),
        "{:?}",
        world.log
    );
}

#[test]
fn commit_and_rollback_end_a_soak() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world
        .orders
        .push_back(("trial", order(Action::Rollback, false)));
    world.run();
    assert_eq!(world.version(), "v1");
    assert_eq!(
        reason_of(&world.ledger(), &digest("v2")),
        Some(Reason::Operator)
    );
    // An operator's force is a word.
    world.orders.push_back(("idle", order(Action::Apply, true)));
    world.run();
    assert_eq!(world.version(), "v2", "{}", world.log.join("\n"));
}

#[test]
fn the_last_server_stays_unless_told() {
    let alone = |change: fn(&mut World)| {
        let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
        world.neighbours = (0, 0);
        change(&mut world);
        world.run();
        (world.version().to_owned(), world.status().waits)
    };
    assert_eq!(alone(|_| {}), ("v1".to_owned(), Some(Refusal::Alone)));
    assert_eq!(alone(|world| world.policy.alone = true).0, "v2");
    let forced = alone(|world| {
        world
            .orders
            .push_back(("waiting", order(Action::Apply, true)))
    });
    assert_eq!(forced.0, "v2");
}

#[test]
fn a_turn_refused_for_hours_is_taken_at_last() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.grants_turns = false;
    world.run();
    assert_eq!(world.version(), "v2");
    assert!(
        world
            .log
            .iter()
            .any(|line| line.contains("goes on although"))
    );
}

#[test]
fn without_a_watchdog_only_where_somebody_attends_fault_14() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.has_watchdog = false;
    world.run();
    assert_eq!(
        (world.version(), world.status().waits),
        ("v1", Some(Refusal::NoWatchdog))
    );
    world.policy.needs_watchdog = false;
    world.run();
    assert_eq!(world.version(), "v2");
}

#[test]
fn a_machine_without_a_disk_upgrades_in_memory_and_goes_back_in_memory() {
    let diskless = |behaviour| {
        let mut world = World::new(&[release("v2", 2, behaviour)]);
        world.diskless = true;
        world.golden.place = Place::Memory;
        world.run();
        world
    };
    let world = diskless(Behaviour::Good);
    assert_eq!((world.version(), world.starts), ("v2", 2));
    let world = diskless(Behaviour::Fails(Phase::Serve));
    assert_eq!(
        (world.version(), world.starts),
        ("v1", 3),
        "{:?}",
        world.log
    );
    assert_eq!(
        world.status().quarantine[0].failure.reason,
        Reason::SelfTest
    );
    let world = diskless(Behaviour::Panics(Phase::Serve));
    assert_eq!(
        (world.version(), world.status().stage.as_str()),
        ("v1", "serve-only")
    );
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.diskless = true;
    world.golden.place = Place::Memory;
    world.neighbours = (1, 0);
    world.run();
    assert_eq!(
        (world.version(), world.status().waits),
        ("v1", Some(Refusal::NoOtherCopy))
    );
}

#[test]
fn both_sectors_corrupt_is_the_factory_fault_5() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.run();
    world.published = 0;
    world.disk.spoil_ledger();
    world.run();
    assert_eq!(
        (world.version(), world.status().stage.as_str()),
        ("v1", "idle")
    );
    assert_eq!(world.ledger().trial, None);
}

#[test]
fn rot_in_a_slot_is_noticed_at_the_start_fault_6() {
    let mut world = World::new(&[release("v2", 2, Behaviour::Good)]);
    world.run();
    world.published = 0;
    world.rot(Place::A);
    world.run();
    assert_eq!(world.version(), "v1");
    let last = world.status().history.last().unwrap().outcome;
    assert_eq!(last, Outcome::Failed(Reason::SlotDamaged));
    // The image itself is good: it may be fetched again.
    world.published = 1;
    world.run();
    assert_eq!(world.version(), "v2");
}
