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
