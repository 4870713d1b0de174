//! Small storms whose outcomes are judged.

use super::*;

fn check(setup: &Setup) -> Outcome {
    let outcome = setup.run();
    assert_eq!(outcome.finished.len(), outcome.machines, "{setup:?}");
    outcome
}

#[test]
fn one_machine_alone_takes_what_its_link_takes() {
    let setup = Setup {
        machines: 1,
        ..Setup::default()
    };
    let outcome = check(&setup);
    let ratio = outcome.finished[0].as_secs_f64() / outcome.alone.as_secs_f64();
    assert!((1.0..1.05).contains(&ratio), "{ratio}");
    assert!(outcome.requests <= 2);
}

/// The goal of the whole: a rack that boots at once is as fast as one machine, nearly, and the origin sends little more
/// than one image.
#[test]
fn sixteen_machines_take_little_longer_than_one() {
    for seed in 1..=2 {
        let setup = Setup {
            files: vec![13 << 20, 51 << 20],
            seed,
            ..Setup::default()
        };
        let outcome = check(&setup);
        let ratio = outcome.finished[15].as_secs_f64() / outcome.alone.as_secs_f64();
        assert!(ratio < 1.5, "{ratio}");
        assert!(
            outcome.finished[15] >= outcome.bound,
            "faster than possible"
        );
        assert!(outcome.egress() < 1.5, "{}", outcome.egress());
        assert!(
            (1.0..1.01).contains(&(outcome.received_bytes as f64 / (16 * outcome.image) as f64))
        );
    }
}

/// Two racks whose way to the rest is as narrow as one machine's link.
fn racks() -> Setup {
    Setup {
        machines: 40,
        rack: 20,
        files: vec![24 << 20],
        uplink: Setup::default().link,
        spread: Duration::from_secs(1),
        seed: 5,
        ..Setup::default()
    }
}

#[test]
fn liars_cost_time_and_nothing_else() {
    let setup = racks();
    let honest = check(&setup);
    let outcome = check(&Setup {
        liars: 0.5,
        ..setup
    });
    assert_eq!(outcome.machines, 20);
    let slower = outcome.finished[19].as_secs_f64() / honest.finished[39].as_secs_f64();
    assert!(slower < 3.0, "{slower}");
    assert!(outcome.egress() < 8.0, "{}", outcome.egress());
    // Each liar is found out at its first piece.
    let most = 20 * 20 * (1 << 20);
    assert!(outcome.wasted_bytes < most, "{}", outcome.wasted_bytes);
}

#[test]
fn a_few_honest_machines_among_liars_finish() {
    for seed in 1..=8 {
        let outcome = check(&Setup {
            liars: 0.9,
            seed,
            ..racks()
        });
        assert_eq!(outcome.machines, 4);
        assert!(outcome.finished[3] < 30 * outcome.alone);
    }
}

#[test]
fn machines_that_vanish_are_not_missed() {
    let setup = racks();
    let outcome = check(&Setup {
        churn: 0.3,
        linger: Some(Duration::from_secs(1)),
        ..setup
    });
    assert_eq!(outcome.machines, 28);
    assert!(outcome.egress() < 10.0, "{}", outcome.egress());
}

#[test]
fn an_origin_that_is_switched_off_is_not_missed_when_the_machines_have_everything() {
    let setup = racks();
    let whole = setup.run();
    // The same happens until then.
    let gone = whole.together.expect("they finish") + Duration::from_millis(20);
    let outcome = check(&Setup {
        origin_gone: Some(gone),
        ..setup
    });
    assert!(outcome.finished[39] > gone, "somebody had it before");
}

#[test]
fn a_rack_fetches_from_outside_what_it_needs_once_or_little_more() {
    let outcome = check(&racks());
    let images = outcome.outside_bytes as f64 / outcome.image as f64;
    assert!(images < 8.0, "{images} images for two racks");
    assert!(outcome.egress() < 4.0, "{}", outcome.egress());
    let alone = check(&Setup {
        swarm: false,
        ..racks()
    });
    assert!(alone.finished[39] > 6 * outcome.finished[39]);
}
