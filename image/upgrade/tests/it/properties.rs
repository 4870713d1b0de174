//! Any ledger that a disk may hold, then any events in any order: nothing panics, nothing is asked for twice at once, and every ledger can be written.

use std::time::Duration;

use proptest::prelude::*;
use upgrade::{
    Action, BootFacts, Effect, Event, Failure, Fingerprint, How, ImageRef, Ledger, Mode, Order,
    Phase, Place, Policy, Prepared, Quarantined, Reason, Refusal, Refused, ResetCause, Returned,
    Slot, State, Trial, TrialId, limits, sector, step,
};

use crate::world::{Behaviour, image, release};

fn phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(Phase::ALL.to_vec())
}

fn place() -> impl Strategy<Value = Place> {
    prop::sample::select(Place::ALL.to_vec())
}

fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(Reason::ALL.to_vec())
}

fn refused() -> impl Strategy<Value = Refused> {
    prop::sample::select(Refusal::ALL.to_vec()).prop_map(|refusal| Refused {
        refusal,
        detail: "a\nb".repeat(100),
    })
}

fn result() -> impl Strategy<Value = Result<(), Refused>> {
    prop_oneof![Just(Ok(())), refused().prop_map(Err)]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Auto, Mode::Auto, Mode::Staged, Mode::Off])
}

fn how() -> impl Strategy<Value = How> {
    let trial = (0..3_u32, any::<bool>()).prop_map(|(number, on_disk)| TrialId { number, on_disk });
    prop_oneof![
        Just(How::Cold),
        prop::option::of(trial.clone()).prop_map(|trial| How::Kexec { trial }),
        trial.prop_map(|trial| How::Crashed { trial }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let version =
        (2..6_u64).prop_map(|sequence| release(&format!("v{sequence}"), sequence, Behaviour::Good));
    let action = prop::sample::select(vec![
        Action::Check,
        Action::Stage,
        Action::Apply,
        Action::Commit,
        Action::Rollback,
    ]);
    let order = (action, any::<bool>()).prop_map(|(action, force)| Order {
        action,
        digest: None,
        force,
    });
    let prepared = Prepared {
        watchdog: true,
        crash_image: true,
        fingerprint: Fingerprint::default(),
    };
    prop_oneof![
        8 => any::<bool>().prop_map(|ok| Event::Recorded(if ok { Ok(()) } else { Err(String::new()) })),
        4 => Just(Event::Tick { wall: None }),
        2 => version.prop_map(|release| Event::Offered(Box::new(release.candidate))),
        2 => any::<bool>().prop_map(Event::Serving),
        2 => (0..2_u32, 0..2_u32).prop_map(|(live, same)| Event::Neighbours { live, same }),
        2 => any::<bool>().prop_map(|granted| Event::Turn { granted, by: String::new(), reason: String::new() }),
        3 => result().prop_map(Event::Fetched),
        3 => result().prop_map(Event::SlotWritten),
        2 => Just(Event::Prepared(Ok(Box::new(prepared)))),
        1 => refused().prop_map(|refused| Event::Prepared(Err(refused))),
        1 => Just(Event::JumpFailed(String::new())),
        1 => reason().prop_map(|reason| Event::StartFailed { reason, detail: String::new() }),
        1 => Just(Event::ReturnFailed(String::new())),
        6 => phase().prop_map(Event::Passed),
        1 => (reason(), phase()).prop_map(|(reason, phase)| Event::GateFailed(Failure::new(reason, phase, "é\n"))),
        1 => Just(Event::ChildRestarted("serve".to_owned())),
        2 => order.prop_map(Event::Ordered),
        1 => Just(Event::Checked { code: "up-to-date".to_owned(), ok: true }),
        1 => Just(Event::Ending),
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..6_u64, Just(u64::MAX), any::<u64>()]
}

/// Few versions, so that digests meet; the rest is anything.
fn any_image() -> impl Strategy<Value = ImageRef> {
    let counters = (number(), number(), number());
    (1..6_u64, place(), counters).prop_map(|(version, place, counters)| {
        let mut image = image(&format!("v{version}"), version, place);
        (image.generation, image.sequence, image.security_version) = counters;
        image
    })
}

fn any_failure() -> impl Strategy<Value = Failure> {
    (reason(), phase()).prop_map(|(reason, phase)| Failure::new(reason, phase, "it says"))
}

fn any_trial() -> impl Strategy<Value = Trial> {
    let number = prop_oneof![0..3_u32, Just(u32::MAX)];
    let failure = prop::option::of(any_failure());
    (number, any_image(), phase(), failure).prop_map(|(number, image, phase, failure)| Trial {
        number,
        from: image.digest,
        image,
        phase,
        failure,
        fingerprint: Fingerprint::default(),
    })
}

fn any_slot(place: Place) -> impl Strategy<Value = Slot> {
    prop::option::of((any_image(), any::<bool>())).prop_map(move |slot| match slot {
        Some((image, proved)) => Slot::Valid {
            image: ImageRef { place, ..image },
            proved,
        },
        None => Slot::Dirty,
    })
}

/// Whatever has a good digest: made by a later version, by hand, or by an enemy who had the disk.
fn any_ledger() -> impl Strategy<Value = Ledger> {
    let quarantined =
        (any_image(), any::<u8>(), any_failure()).prop_map(|(image, trials, failure)| {
            let (digest, rank) = (image.digest, image.rank());
            Quarantined {
                digest,
                rank,
                trials,
                failure,
            }
        });
    let images = (
        prop::option::of(any_image()),
        any_slot(Place::A),
        any_slot(Place::B),
    );
    let counters = (
        any::<u8>(),
        number(),
        prop_oneof![0..3_u32, Just(u32::MAX)],
        any::<u8>(),
    );
    let choice = (0..3_usize, 0..3_usize, prop::option::of(any_trial()));
    let quarantine = prop::collection::vec(quarantined, 0..=limits::QUARANTINE_MAX);
    (images, counters, choice, quarantine).prop_map(
        |(
            (golden, a, b),
            (starts, floor, trials, kexec_failures),
            (first, second, trial),
            quarantine,
        )| {
            let stored = |slot: &Slot| match slot {
                Slot::Valid { image, .. } => Some(image.digest),
                Slot::Dirty => None,
            };
            let choices = [None, stored(&a), stored(&b)];
            Ledger {
                golden: golden.map(|image| ImageRef {
                    place: Place::Golden,
                    ..image
                }),
                a,
                b,
                default: choices[first],
                previous: choices[second],
                starts,
                floor,
                trials,
                kexec_failures,
                trial,
                quarantine,
                ..Ledger::default()
            }
        },
    )
}

fn facts() -> impl Strategy<Value = BootFacts> {
    let disk = (any::<bool>(), any::<bool>(), prop::option::of(any_ledger()));
    let reset = prop::sample::select(vec![
        ResetCause::Unknown,
        ResetCause::Watchdog,
        ResetCause::Panic,
        ResetCause::Power,
    ]);
    (how(), any_image(), disk, prop::option::of(reason()), reset).prop_map(
        |(how, running, (has_ledger, ledger_is_lost, ledger), returned, reset)| BootFacts {
            running,
            how,
            reset,
            crash_text: None,
            has_ledger,
            ledger_is_lost: ledger_is_lost && !has_ledger,
            ledger: ledger.filter(|_| has_ledger),
            slot_size: 64,
            has_watchdog: true,
            previous: None,
            returned: returned.map(|reason| Returned {
                digest: crate::world::digest("v2"),
                rank: image("v2", 2, Place::Memory).rank(),
                reason,
            }),
            wall: None,
            seed: 0,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_events_in_any_order(facts in facts(), mode in mode(), events in prop::collection::vec((event(), 0..900_u64), 0..60)) {
        let policy = Policy { mode, alone: true, ..Policy::default() };
        let mut now = Duration::ZERO;
        let on_disk = facts.has_ledger;
        let (mut state, effects) = step(State::new(policy), Event::Boot(Box::new(facts)), now);
        let is_record = |effect: &Effect| matches!(effect, Effect::Record(_));
        let mut recording = effects.iter().any(is_record);
        let mut ended = effects.contains(&Effect::Restart);
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            recording &= !matches!(event, Event::Recorded(_));
            let interrupts = event == Event::Ending;
            let effects;
            (state, effects) = step(state, event, now);
            for effect in &effects {
                prop_assert!(!ended || matches!(effect, Effect::Tell(_) | Effect::Unload | Effect::ReleaseTurn), "after the end: {effect:?}");
                if let Effect::Record(ledger) = effect {
                    prop_assert!(!recording, "two records at once");
                    recording = !interrupts;
                    prop_assert!(!on_disk || sector::encode(ledger, 1).is_ok(), "{ledger:?}");
                }
            }
            ended |= effects.contains(&Effect::Restart);
            // What people are shown survives the way to them.
            let status = state.status(now);
            let json = serde_json::to_string(&status).unwrap();
            prop_assert_eq!(serde_json::from_str::<upgrade::Status>(&json).unwrap(), status);
        }
    }

    #[test]
    fn any_bytes_are_a_sector_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300), counter: u64) {
        let mut sector = sector::encode(&Ledger::default(), counter).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            sector[24 + at] ^= byte;
        }
        if let Ok((read, ledger)) = sector::decode(&sector) {
            prop_assert_eq!(read, counter);
            prop_assert_eq!(ledger, Ledger::default());
        }
    }
}
