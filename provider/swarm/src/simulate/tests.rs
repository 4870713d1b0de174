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
