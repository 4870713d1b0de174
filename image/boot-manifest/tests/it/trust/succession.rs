//! Which image may follow which: rollback, fast-forward, and what a new generation of keys cures.

use boot_manifest::Counters;
use boot_manifest::limits::{INTEGER_MAX, SEQUENCE_JUMP_MAX};

#[track_caller]
fn check(running: [u64; 3], offer: [u64; 3], expected: Result<(), &str>) {
    let counters = |[generation, sequence, security_version]: [u64; 3]| Counters {
        generation,
        sequence,
        security_version,
    };
    let found = counters(running).admit(&counters(offer));
    assert_eq!(
        found.map_err(|error| error.code()),
        expected,
        "{running:?} -> {offer:?}"
    );
}

/// Fault 27. Each row: generation, sequence, security version of what runs and of what is offered.
#[test]
fn versions_only_go_forward() {
    check([1, 5, 2], [1, 6, 2], Ok(()));
    check([1, 5, 2], [1, 6, 3], Ok(()));
    check([1, 5, 2], [1, 5, 2], Err("not-newer"));
    check([1, 5, 2], [1, 4, 9], Err("not-newer"));
    check([1, 5, 2], [1, 6, 1], Err("version-too-low"));
    check([2, 5, 2], [1, 99, 9], Err("older-generation"));
    // The order of checks: the generation speaks first.
    check([2, 5, 2], [1, INTEGER_MAX, 0], Err("older-generation"));
}

/// Fast-forward: whoever steals a release key cannot use up the sequences at once, and a rotation gives them back.
#[test]
fn a_stolen_key_cannot_burn_the_sequences() {
    check([1, 5, 2], [1, INTEGER_MAX, 2], Err("sequence-jump"));
    check([1, 5, 2], [1, 5 + SEQUENCE_JUMP_MAX, 2], Ok(()));
    check(
        [1, 5, 2],
        [1, 6 + SEQUENCE_JUMP_MAX, 2],
        Err("sequence-jump"),
    );
    // Counters restart with the generation, and the limit with them.
    check([1, INTEGER_MAX, 9], [2, 1, 0], Ok(()));
    check([1, 5, 2], [2, SEQUENCE_JUMP_MAX, 0], Ok(()));
    check([1, 5, 2], [2, INTEGER_MAX, 0], Err("sequence-jump"));
    check([1, 5, 2], [3, 0, 0], Err("not-newer"));
    // Sequences that count from 1 may change to seconds since 1970, as the tools write them.
    check([1, 3, 0], [1, 1_795_255_200, 0], Ok(()));
}
