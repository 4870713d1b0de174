//! Single decisions: what is admitted, what waits, which of two triggers wins, and what a start means.

use std::time::Duration;

use upgrade::{
    Action, BootFacts, Candidate, Effect, Event, Failure, How, ImageRef, Ledger, Mode, Notice,
    Order, Phase, Place, Policy, Reason, Refusal, ResetCause, Slot, State, TrialId, Window,
    jittered, kexec_need, step,
};

use crate::world::{Behaviour, image, release};

/// A machine that runs version 5 from golden and is asked one thing after the other.
struct Bench {
    state: State,
    now: Duration,
    effects: Vec<Effect>,
}

fn facts(ledger: Option<Ledger>) -> BootFacts {
    BootFacts {
        running: image("v5", 5, Place::Golden),
        how: How::Cold,
        reset: ResetCause::Unknown,
        crash_text: None,
        has_ledger: true,
        ledger_is_lost: false,
        ledger,
        slot_size: 64,
        has_watchdog: true,
        previous: None,
        returned: None,
        wall: Some(0),
        seed: 1,
    }
}

impl Bench {
    fn new(policy: Policy, facts: BootFacts) -> Self {
        let mut bench = Self {
            state: State::new(policy),
            now: Duration::from_secs(5),
            effects: Vec::new(),
        };
        bench.tell(Event::Boot(Box::new(facts)));
        bench
    }

    fn serving(policy: Policy) -> Self {
        let mut bench = Self::new(policy, facts(None));
        bench.tell(Event::Recorded(Ok(())));
        bench.tell(Event::Serving(true));
        bench.tell(Event::Neighbours { live: 1, same: 1 });
        bench
    }

    fn tell(&mut self, event: Event) -> &[Effect] {
        let state = std::mem::replace(&mut self.state, State::new(Policy::default()));
        let (state, effects) = step(state, event, self.now);
        self.state = state;
        self.effects = effects;
        &self.effects
    }

    fn offer(&mut self, change: impl FnOnce(&mut Candidate)) -> Option<Refusal> {
        let mut candidate = release("v6", 6, Behaviour::Good).candidate;
        change(&mut candidate);
        self.tell(Event::Offered(Box::new(candidate)));
        self.state.status(self.now).waits
    }

    fn asks_for(&self, wanted: fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(wanted)
    }
}

#[track_caller]
fn admitted(change: impl FnOnce(&mut Candidate), expected: Option<Refusal>) {
    let mut bench = Bench::serving(Policy::default());
    assert_eq!(bench.offer(change), expected);
    let fetches = bench.state.stage() == "fetching";
    assert_eq!(fetches, expected.is_none());
}

#[test]
fn what_is_admitted() {
    admitted(|_| {}, None);
    admitted(|offer| offer.sequence = 5, Some(Refusal::NotNewer));
    admitted(|offer| offer.sequence = 4, Some(Refusal::NotNewer));
    admitted(|offer| offer.sequence = 1 << 40, Some(Refusal::Jump));
    admitted(|offer| offer.generation = 0, Some(Refusal::NotNewer));
    // A new generation of keys starts its counters again (fault 27, fast-forward recovery).
    admitted(
        |offer| (offer.generation, offer.sequence, offer.security_version) = (2, 1, 0),
        None,
    );
    admitted(
        |offer| offer.security_version = 4,
        Some(Refusal::BelowFloor),
    );
    admitted(|offer| offer.expired = true, Some(Refusal::Expired));
    admitted(|offer| offer.sizes.slot = 65, Some(Refusal::SlotTooSmall));
}

/// A clock at 2099 holds every release for expired. The machine says so, and an operator can go on.
#[test]
fn a_clock_that_is_far_ahead_is_overruled_by_an_operator_fault_22() {
    for (force, stage) in [(false, "idle"), (true, "fetching")] {
        let mut bench = Bench::serving(Policy::default());
        bench.tell(Event::Ordered(Order {
            action: Action::Apply,
            digest: None,
            force,
        }));
        bench.offer(|offer| offer.expired = true);
        assert_eq!(bench.state.stage(), stage, "force: {force}");
    }
}

#[test]
fn the_end_of_each_look_can_be_seen() {
    let mut bench = Bench::serving(Policy::default());
    let looks = |bench: &Bench| bench.state.status(bench.now).looks;
    assert_eq!(looks(&bench), 0);
    bench.tell(Event::Checked {
        code: "current".to_owned(),
        ok: true,
    });
    assert_eq!(looks(&bench), 1);
    bench.offer(|_| {});
    assert_eq!(looks(&bench), 2);
}

/// Golden closes the failed trial and starts the default: that one gives back the turn of the trial.
#[test]
fn whoever_starts_gives_the_turn_back_once_unless_it_is_on_trial() {
    let neighbours = Event::Neighbours { live: 1, same: 1 };
    let mut bench = Bench::serving(Policy::default());
    assert!(bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
    bench.tell(neighbours.clone());
    assert!(!bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
    let (mut bench, _) = soaking();
    bench.tell(neighbours.clone());
    assert!(!bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
    // The look for a turn must not give back the turn it is for.
    let alone = Policy {
        alone: true,
        ..Policy::default()
    };
    let mut bench = Bench::new(alone, facts(None));
    bench.tell(Event::Recorded(Ok(())));
    bench.offer(|_| {});
    for event in [
        Event::Recorded(Ok(())),
        Event::Fetched(Ok(())),
        Event::SlotWritten(Ok(())),
        Event::Recorded(Ok(())),
    ] {
        bench.tell(event);
    }
    assert_eq!(bench.state.stage(), "asking");
    bench.tell(neighbours);
    assert!(!bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
}

#[test]
fn the_same_place_in_the_order_as_a_failed_image_is_refused_fault_30() {
    let mut ledger = Ledger::default();
    ledger.quarantine.push(upgrade::Quarantined {
        digest: crate::world::digest("v6"),
        rank: image("v6", 6, Place::A).rank(),
        trials: 1,
        failure: Failure::new(Reason::Panic, Phase::Serve, "gone"),
    });
    let offer = |change: fn(&mut Candidate)| {
        let mut bench = Bench::new(Policy::default(), facts(Some(ledger.clone())));
        bench.tell(Event::Recorded(Ok(())));
        bench.offer(change)
    };
    assert_eq!(offer(|_| {}), Some(Refusal::Quarantined));
    let renamed = |offer: &mut Candidate| offer.digest = crate::world::digest("v6 again");
    assert_eq!(offer(renamed), Some(Refusal::Quarantined));
    let newer = |offer: &mut Candidate| {
        offer.digest = crate::world::digest("v7");
        offer.sequence = 7;
    };
    assert_eq!(offer(newer), None);
}

/// Brings a machine to just before the gates: version 6 lies in slot A.
fn staged(policy: Policy) -> Bench {
    let mut bench = Bench::serving(policy);
    bench.offer(|_| {});
    bench.tell(Event::Recorded(Ok(())));
    assert!(bench.asks_for(|effect| matches!(effect, Effect::Fetch(_))));
    bench.tell(Event::Fetched(Ok(())));
    bench.tell(Event::SlotWritten(Ok(())));
    bench.tell(Event::Recorded(Ok(())));
    bench
}

#[test]
fn the_window_is_kept_and_a_missing_clock_is_outside_of_it_fault_22() {
    let policy = Policy {
        window: Window::parse("02:00-03:00"),
        ..Policy::default()
    };
    let at = |unix: Option<u64>| {
        let mut bench = staged(policy);
        bench.tell(Event::Tick { wall: unix });
        (bench.state.stage(), bench.state.status(bench.now).waits)
    };
    let hour = 60 * 60;
    assert_eq!(at(Some(hour)), ("waiting", Some(Refusal::Window)));
    assert_eq!(at(Some(2 * hour)), ("asking", None));
    assert_eq!(at(Some(3 * hour)), ("waiting", Some(Refusal::Window)));
    // 1970, 2038, 2099: only the time of the day counts.
    for year in [0, 2_147_472_000, 4_070_908_800] {
        assert_eq!(at(Some(year + 2 * hour)).0, "asking", "{year}");
    }
    let mut unknown = facts(None);
    unknown.wall = None;
    let mut bench = Bench::new(policy, unknown);
    bench.tell(Event::Recorded(Ok(())));
    bench.tell(Event::Neighbours { live: 1, same: 1 });
    bench.offer(|_| {});
    for event in [
        Event::Recorded(Ok(())),
        Event::Fetched(Ok(())),
        Event::SlotWritten(Ok(())),
        Event::Recorded(Ok(())),
        Event::Tick { wall: None },
    ] {
        bench.tell(event);
    }
    assert_eq!(bench.state.status(bench.now).waits, Some(Refusal::Window));
}

#[test]
fn windows_are_read_strictly_and_may_wrap() {
    for wrong in [
        "",
        "1:00-2:00",
        "24:00-01:00",
        "00:60-01:00",
        "02:00-02:00",
        "02:00",
        "+1:00-02:00",
    ] {
        assert_eq!(Window::parse(wrong), None, "{wrong:?}");
    }
    let window = Window::parse("23:30-00:15").unwrap();
    assert_eq!(window.to_string(), "23:30-00:15");
    let minute = |minutes: u64| window.is_open(minutes * 60);
    assert!(minute(23 * 60 + 30) && minute(0) && minute(14));
    assert!(!minute(15) && !minute(23 * 60 + 29) && minute(48 * 60 - 1));
}

#[test]
fn waits_differ_between_machines_and_stay_near_the_interval() {
    let poll = Duration::from_secs(900);
    let waits: Vec<Duration> = (0..100).map(|seed| jittered(poll, seed)).collect();
    assert!(
        waits
            .iter()
            .all(|wait| (poll * 3 / 4..=poll * 5 / 4).contains(wait))
    );
    let mut distinct = waits.clone();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() > 80, "{} different waits", distinct.len());
}

#[test]
fn the_second_trigger_is_refused_wherever_the_first_is_fault_46() {
    let order = |action| {
        Event::Ordered(Order {
            action,
            digest: Some(crate::world::digest("v7")),
            force: false,
        })
    };
    let refused = |bench: &mut Bench, expected: Refusal| {
        let stage = bench.state.stage();
        bench.tell(order(Action::Apply));
        let told = format!("the order is refused: {expected}");
        let says =
            |effect: &Effect| matches!(effect, Effect::Tell(notice) if notice.to_string() == told);
        assert!(
            bench.effects.iter().any(says),
            "{stage}: {:?}",
            bench.effects
        );
        assert_eq!(bench.state.stage(), stage);
        // Another offer changes nothing either.
        bench.offer(|offer| offer.digest = crate::world::digest("other"));
        assert_eq!(bench.state.stage(), stage);
    };
    let mut bench = Bench::serving(Policy::default());
    bench.offer(|_| {});
    let steps: [(&str, Event); 4] = [
        ("fetching", Event::Recorded(Ok(()))),
        ("fetching", Event::Fetched(Ok(()))),
        ("writing", Event::SlotWritten(Ok(()))),
        ("writing", Event::Recorded(Ok(()))),
    ];
    for (stage, event) in steps {
        assert_eq!(bench.state.stage(), stage);
        refused(&mut bench, Refusal::Busy);
        bench.tell(event);
    }
    assert_eq!(bench.state.stage(), "asking");
    bench.tell(Event::Turn {
        granted: true,
        by: String::new(),
        reason: String::new(),
    });
    assert_eq!(bench.state.stage(), "preparing");
    refused(&mut bench, Refusal::Busy);
    bench.tell(Event::Ending);
    assert!(bench.asks_for(|effect| *effect == Effect::Unload));
    refused(&mut bench, Refusal::Ending);
}

/// A machine on trial in its soak, and when that is over.
fn soaking() -> (Bench, Duration) {
    let running = image("v6", 6, Place::A);
    let slot = Slot::Valid {
        image: running.clone(),
        proved: false,
    };
    let ledger = Ledger {
        a: slot,
        trials: 1,
        trial: Some(upgrade::Trial {
            number: 1,
            image: running.clone(),
            from: crate::world::digest("v5"),
            phase: Phase::Jump,
            failure: None,
            fingerprint: upgrade::Fingerprint::default(),
        }),
        ..Ledger::default()
    };
    let mut facts = facts(Some(ledger));
    facts.running = running;
    let trial = TrialId {
        number: 1,
        on_disk: true,
    };
    facts.how = How::Kexec { trial: Some(trial) };
    let mut bench = Bench::new(Policy::default(), facts);
    bench.tell(Event::Serving(true));
    for phase in &Phase::ALL[1..6] {
        bench.tell(Event::Recorded(Ok(())));
        bench.tell(Event::Passed(*phase));
    }
    bench.tell(Event::Recorded(Ok(())));
    let over = bench.state.next_deadline().expect("a soak ends");
    assert_eq!(over, bench.now + Policy::default().soak);
    (bench, over)
}

#[test]
fn the_deadline_at_the_moment_of_the_commit_fault_47() {
    let margin = upgrade::limits::SOAK_MARGIN;
    let check = |after: Duration, stage: &str| {
        let (mut bench, over) = soaking();
        bench.now = over + after;
        bench.tell(Event::Tick { wall: None });
        assert_eq!(bench.state.stage(), stage, "{after:?}");
        bench
    };
    let before = soaking().1 - Duration::from_millis(1);
    let (mut bench, _) = soaking();
    bench.now = before;
    bench.tell(Event::Tick { wall: None });
    assert_eq!(bench.state.stage(), "trial");
    check(Duration::ZERO, "committing");
    check(margin - Duration::from_millis(1), "committing");
    check(margin, "restarting");
    // The deadline passes while the commit is written: the write decides, and nothing is fed meanwhile.
    for (result, stage) in [(Ok(()), "idle"), (Err(String::new()), "restarting")] {
        let mut bench = check(Duration::ZERO, "committing");
        bench.now += margin * 2;
        bench.tell(Event::Tick { wall: None });
        assert_eq!(bench.state.stage(), "committing");
        assert!(!bench.asks_for(|effect| matches!(effect, Effect::FeedUntil(_))));
        bench.tell(Event::Recorded(result));
        assert_eq!(bench.state.stage(), stage);
    }
}

#[test]
fn the_attempt_that_cannot_be_recorded_is_not_made_i2() {
    let mut bench = staged(Policy::default());
    bench.tell(Event::Turn {
        granted: true,
        by: String::new(),
        reason: String::new(),
    });
    let prepared = upgrade::Prepared {
        watchdog: true,
        crash_image: true,
        fingerprint: upgrade::Fingerprint::default(),
    };
    bench.tell(Event::Prepared(Ok(Box::new(prepared))));
    assert!(matches!(bench.effects.last(), Some(Effect::Record(ledger)) if ledger.trial.is_some()));
    assert!(!bench.asks_for(|effect| *effect == Effect::Jump));
    bench.tell(Event::Recorded(Err("input/output error".to_owned())));
    assert!(bench.asks_for(|effect| *effect == Effect::Unload));
    assert!(bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
    assert!(!bench.asks_for(|effect| *effect == Effect::Jump));
    assert_eq!(bench.state.stage(), "idle");
}

#[test]
fn a_trial_that_the_ledger_does_not_know_goes_back_i9() {
    let trial = |change: fn(&mut BootFacts)| {
        let (bench, _) = soaking();
        assert!(bench.state.is_on_trial());
        let ledger = Ledger {
            trials: 1,
            ..Ledger::default()
        };
        let mut facts = facts(Some(ledger));
        facts.running = image("v6", 6, Place::A);
        let trial = TrialId {
            number: 1,
            on_disk: true,
        };
        facts.how = How::Kexec { trial: Some(trial) };
        change(&mut facts);
        let bench = Bench::new(Policy::default(), facts);
        assert!(
            bench.asks_for(|effect| *effect == Effect::Restart),
            "{:?}",
            bench.effects
        );
        assert!(!bench.asks_for(|effect| matches!(effect, Effect::Record(_))));
    };
    trial(|_| {});
    trial(|facts| facts.ledger = None);
    // The disk vanished with the jump.
    trial(|facts| (facts.has_ledger, facts.ledger) = (false, None));
}

/// A counterexample of `properties`: the answer to the last record of a machine that ends set it going again.
#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let (mut bench, _) = soaking();
    bench.tell(Event::Ending);
    assert!(matches!(bench.effects.first(), Some(Effect::Record(_))));
    bench.tell(Event::Recorded(Ok(())));
    assert_eq!(bench.state.stage(), "restarting");
    bench.offer(|offer| offer.sequence = 7);
    bench.tell(Event::Tick { wall: None });
    assert_eq!(bench.state.stage(), "restarting");
}

#[test]
fn a_start_that_cannot_be_counted_stays_with_golden() {
    let running: ImageRef = image("v6", 6, Place::A);
    let ledger = Ledger {
        a: Slot::Valid {
            image: running.clone(),
            proved: true,
        },
        default: Some(running.digest),
        floor: 6,
        ..Ledger::default()
    };
    let mut bench = Bench::new(Policy::default(), facts(Some(ledger)));
    assert!(matches!(bench.effects.last(), Some(Effect::Record(ledger)) if ledger.starts == 1));
    bench.tell(Event::Recorded(Err(String::new())));
    assert!(!bench.asks_for(|effect| matches!(effect, Effect::Start(_))));
    let warning = bench.effects.iter().find_map(|effect| match effect {
        Effect::Tell(Notice::Warning(text)) => Some(text.as_str()),
        _ => None,
    });
    let text = "version v5 serves instead of v6, whose start cannot be counted; its security version 5 is below 6: \
                the medium must be replaced";
    assert_eq!(warning, Some(text));
    assert_eq!(bench.state.stage(), "serve-only");
    assert_eq!(
        bench.offer(|offer| offer.sequence = 7),
        Some(Refusal::Ledger)
    );
}

#[test]
fn what_does_not_fit_the_memory_is_refused_fault_9() {
    const MIB: u64 = 1 << 20;
    let check = |total: u64, available: u64| {
        let memory = upgrade::Memory {
            total: total * MIB,
            available: available * MIB,
        };
        kexec_need(memory, 12 * MIB, 20 * MIB, 70 * MIB)
    };
    assert_eq!(check(512, 300), Ok(()));
    assert!(check(512, 197).unwrap_err().contains("198 MiB are needed"));
    assert!(check(198, 198).unwrap_err().contains("45 %"));
    let memory = upgrade::Memory {
        total: u64::MAX,
        available: u64::MAX,
    };
    assert!(kexec_need(memory, u64::MAX, u64::MAX, u64::MAX).is_err());
}

#[test]
fn trials_have_one_spelling() {
    for text in ["d1", "m0", "d4294967295"] {
        assert_eq!(TrialId::parse(text).unwrap().to_string(), text);
    }
    for wrong in ["", "d", "1", "d01", "d-1", "x1", "d4294967296", "d1 ", "é1"] {
        assert_eq!(TrialId::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn modes_have_names() {
    for mode in [Mode::Auto, Mode::Staged, Mode::Off] {
        assert_eq!(Mode::parse(mode.as_str()), Some(mode));
    }
    assert_eq!(Mode::parse("on"), None);
}

fn failed(sequence: u64) -> upgrade::Quarantined {
    let version = format!("v{sequence}");
    upgrade::Quarantined {
        digest: crate::world::digest(&version),
        rank: image(&version, sequence, Place::A).rank(),
        trials: 1,
        failure: Failure::new(Reason::SelfTest, Phase::Serve, ""),
    }
}

/// More bad releases than the list has room for: those that were pushed out of it are not tried again either.
#[test]
fn a_ninth_bad_release_does_not_free_the_first_i8() {
    // Version 6 was the first of nine.
    let barred = |sequences: std::ops::RangeInclusive<u64>| {
        let quarantine: Vec<_> = sequences.map(failed).collect();
        let ledger = Ledger {
            quarantine,
            ..Ledger::default()
        };
        let mut bench = Bench::new(Policy::default(), facts(Some(ledger)));
        bench.tell(Event::Recorded(Ok(())));
        bench.offer(|_| {})
    };
    assert_eq!(barred(7..=14), Some(Refusal::Quarantined));
    assert_eq!(barred(7..=13), None, "nothing was pushed out of this list");
    // Whatever order they come in, the lowest goes: also when it came last.
    for order in [
        [6, 7, 8, 9, 10, 11, 12, 13, 14],
        [14, 13, 12, 11, 10, 9, 8, 7, 6],
    ] {
        let mut ledger = Ledger::default();
        for sequence in order {
            let trial = upgrade::Trial {
                number: 1,
                image: image(&format!("v{sequence}"), sequence, Place::A),
                from: crate::world::digest("v5"),
                phase: Phase::Serve,
                failure: Some(failed(sequence).failure),
                fingerprint: upgrade::Fingerprint::default(),
            };
            ledger.trial = Some(trial);
            let bench = Bench::new(Policy::default(), facts(Some(ledger)));
            ledger = match bench.effects.last() {
                Some(Effect::Record(ledger)) => (**ledger).clone(),
                other => panic!("{other:?}"),
            };
        }
        let sequences = || ledger.quarantine.iter().map(|one| one.rank.sequence);
        assert_eq!(sequences().min(), Some(7), "{order:?}");
        for sequence in 6..=14 {
            let image = image(&format!("v{sequence}"), sequence, Place::A);
            assert!(ledger.is_barred(&image.digest, image.rank()), "{sequence}");
        }
    }
}

/// The image that was proved stays the way back, whatever failed after it.
#[test]
fn a_row_of_bad_releases_leaves_the_way_back_i5() {
    let slot = |version: &str, sequence, place, proved| Slot::Valid {
        image: image(version, sequence, place),
        proved,
    };
    let digest = crate::world::digest;
    let mut quarantine: Vec<_> = (10..=17).map(failed).collect();
    // One of the same place in the order as the proved image failed before that one came.
    quarantine[0].rank = image("v6", 6, Place::A).rank();
    let ledger = Ledger {
        a: slot("v6", 6, Place::A, true),
        b: slot("v9", 9, Place::B, false),
        default: Some(digest("v9")),
        previous: Some(digest("v6")),
        quarantine,
        starts: 1,
        ..Ledger::default()
    };
    assert_eq!(ledger.free_slot(Place::B), None);
    let bench = Bench::new(Policy::default(), facts(Some(ledger)));
    let next = bench.effects.iter().find_map(|effect| match effect {
        Effect::Record(ledger) => Some(ledger.default),
        _ => None,
    });
    assert_eq!(next, Some(Some(digest("v6"))), "the unproved one hung");
}

/// A disk that does not answer is not the same as none: nobody knows what failed here before.
#[test]
fn a_machine_that_cannot_read_its_record_only_serves_i9() {
    let mut lost = facts(None);
    (lost.has_ledger, lost.ledger_is_lost) = (false, true);
    let mut bench = Bench::new(Policy::default(), lost);
    bench.tell(Event::Serving(true));
    bench.tell(Event::Neighbours { live: 1, same: 1 });
    assert_eq!(bench.offer(|_| {}), Some(Refusal::Ledger));
    bench.now += Duration::from_secs(24 * 60 * 60);
    bench.tell(Event::Tick { wall: None });
    bench.offer(|_| {});
    let status = bench.state.status(bench.now);
    assert_eq!(
        (status.stage.as_str(), status.ledger.as_str()),
        ("serve-only", "failed")
    );
}

/// The machine may have been restarted in the middle of its turn: neighbours must not wait until they forget it.
#[test]
fn a_turn_of_before_the_restart_is_given_back() {
    let released = |facts: BootFacts| {
        let mut bench = Bench::new(Policy::default(), facts);
        bench.tell(Event::Recorded(Ok(())));
        bench.tell(Event::Neighbours { live: 1, same: 1 });
        let first = bench.asks_for(|effect| *effect == Effect::ReleaseTurn);
        bench.tell(Event::Neighbours { live: 1, same: 1 });
        let again = bench.asks_for(|effect| *effect == Effect::ReleaseTurn);
        (first, again)
    };
    // The slot that golden went on to after a trial in the other slot: the record of that is closed already.
    let running = image("v6", 6, Place::A);
    let ledger = Ledger {
        a: Slot::Valid {
            image: running.clone(),
            proved: true,
        },
        default: Some(running.digest),
        starts: 1,
        ..Ledger::default()
    };
    let mut slot = facts(Some(ledger));
    (slot.running, slot.how) = (running, How::Kexec { trial: None });
    assert_eq!(released(slot), (true, false));
    assert_eq!(released(facts(None)), (true, false));
    // The image on trial keeps it until its end.
    let (mut bench, _) = soaking();
    bench.tell(Event::Neighbours { live: 1, same: 1 });
    assert!(!bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
    // Somebody switches the machine off while the neighbours are asked.
    let mut bench = staged(Policy::default());
    assert_eq!(bench.state.stage(), "asking");
    bench.tell(Event::Ending);
    assert!(bench.asks_for(|effect| *effect == Effect::ReleaseTurn));
}

/// A release that is not taken hides no other: neither one that failed, nor one that a thief of the keys put far ahead.
#[test]
fn what_is_refused_hides_nothing_that_could_be_taken_fault_27() {
    let mut bench = Bench::serving(Policy::default());
    let thief = |offer: &mut Candidate| {
        offer.digest = crate::world::digest("thief");
        offer.sequence = 1 << 40;
    };
    assert_eq!(bench.offer(thief), Some(Refusal::Jump));
    assert_eq!(bench.offer(|_| {}), None);
    assert_eq!(bench.state.stage(), "fetching");
    // It does not come back between the steps either.
    bench.offer(thief);
    bench.tell(Event::Recorded(Ok(())));
    bench.tell(Event::Fetched(Err(upgrade::Refused {
        refusal: Refusal::NotFetched,
        detail: String::new(),
    })));
    bench.offer(thief);
    bench.now += Duration::from_secs(3600);
    bench.tell(Event::Tick { wall: None });
    // That the running image was stable goes on record first.
    bench.tell(Event::Recorded(Ok(())));
    assert_eq!(bench.state.stage(), "fetching", "version 6 again");
    // Of two that can be taken the newer one counts, in either order.
    let mut bench = Bench::serving(Policy {
        mode: Mode::Off,
        ..Policy::default()
    });
    for sequence in [6, 8, 7] {
        bench.offer(|offer| {
            offer.digest = crate::world::digest(&sequence.to_string());
            offer.sequence = sequence;
        });
    }
    let candidate = bench.state.status(bench.now).candidate.unwrap();
    assert_eq!(candidate.sequence, 8);
}

fn diskless(change: impl FnOnce(&mut BootFacts)) -> Bench {
    let mut facts = facts(None);
    facts.has_ledger = false;
    facts.running.place = Place::Memory;
    change(&mut facts);
    let mut bench = Bench::new(Policy::default(), facts);
    bench.tell(Event::Serving(true));
    bench.tell(Event::Neighbours { live: 1, same: 1 });
    bench
}

/// It remembers one failure only: two bad releases must not take turns.
#[test]
fn a_machine_without_a_disk_goes_back_once_for_each_new_release_i8() {
    let returned = |sequence: u64| {
        let mut bench = diskless(|facts| {
            facts.how = How::Kexec { trial: None };
            facts.returned = Some(upgrade::Returned {
                digest: crate::world::digest("v7"),
                rank: image("v7", 7, Place::Memory).rank(),
                reason: Reason::SelfTest,
            });
        });
        bench.offer(|offer| {
            offer.digest = crate::world::digest(&format!("v{sequence}"));
            offer.sequence = sequence;
        })
    };
    assert_eq!(returned(6), Some(Refusal::Quarantined));
    assert_eq!(returned(7), Some(Refusal::Quarantined));
    assert_eq!(returned(8), None);
}

/// After a hang it remembers nothing at all, so it would hang again and again.
#[test]
fn a_machine_without_a_disk_that_hung_waits_for_an_order_i8() {
    for reset in [ResetCause::Watchdog, ResetCause::Panic] {
        let mut bench = diskless(|facts| facts.reset = reset);
        assert_eq!(bench.offer(|_| {}), Some(Refusal::AfterReset));
        bench.now += Policy::default().soak * 2;
        bench.tell(Event::Tick { wall: None });
        assert_eq!(bench.state.stage(), "waiting");
        bench.tell(Event::Ordered(Order {
            action: Action::Apply,
            digest: None,
            force: false,
        }));
        bench.tell(Event::Neighbours { live: 1, same: 1 });
        assert_eq!(bench.state.status(bench.now).waits, None);
    }
    for reset in [ResetCause::Power, ResetCause::Unknown] {
        let mut bench = diskless(|facts| facts.reset = reset);
        assert_eq!(bench.offer(|_| {}), None);
    }
}
