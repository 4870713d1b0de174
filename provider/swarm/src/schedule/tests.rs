//! The decisions of the schedule, told as stories.

use boot_manifest::Digest;

use super::*;
use crate::limits::ORIGINS_AT_ONCE;

mod crowd;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const MIB: u64 = 1 << 20;

fn plan(pieces: usize) -> Plan {
    Plan {
        pieces: Pieces::new([(Digest::of(b"file"), pieces as u64 * MIB)]),
        missing: PieceSet::full(pieces),
        retries: 2,
        retry_delay: S,
        scattered: false,
        seed: 7,
    }
}

fn schedule(sources: usize, pieces: usize) -> Schedule {
    let mut schedule = Schedule::new(plan(pieces));
    for source in 0..sources {
        assert_eq!(
            schedule.join(Kind::Origin, None, Duration::ZERO),
            Some(source)
        );
    }
    schedule
}

fn fetch(source: usize, run: Range<usize>) -> Action {
    Action::Fetch { source, run }
}

impl Schedule {
    fn keep(&mut self, source: usize, pieces: Range<usize>, now: Duration) {
        for piece in pieces {
            self.handle(&Event::Kept { source, piece }, now);
        }
    }

    fn end(&mut self, source: usize, end: End, now: Duration) {
        self.handle(&Event::Ended { source, end }, now);
    }

    fn rate(&mut self, source: usize, mib_per_second: u64) {
        let (bytes, time) = (mib_per_second * MIB, S);
        // The average follows slowly.
        for _ in 0..40 {
            let event = Event::Traffic {
                source,
                bytes,
                time,
            };
            self.handle(&event, Duration::ZERO);
        }
    }

    fn wrong_from(&mut self, source: usize, piece: usize, sealed: bool) {
        let event = Event::Wrong {
            source,
            piece,
            sealed,
        };
        self.handle(&event, S);
    }
}

const FAILED: End = End::Failed { transient: true };
const BROKEN: End = End::Failed { transient: false };

#[test]
fn one_source_is_asked_for_everything_at_once() {
    let mut schedule = schedule(1, 1024);
    assert_eq!(schedule.poll(Duration::ZERO), [fetch(0, 0..1024)]);
    assert_eq!(schedule.poll(S), []);
    schedule.keep(0, 0..1024, S);
    schedule.end(0, End::Done, S);
    assert_eq!(schedule.poll(S), []);
    assert!(schedule.is_complete() && !schedule.is_lost(S));
}

#[test]
fn only_rows_of_missing_pieces_are_asked_for() {
    let mut schedule = Schedule::new(Plan {
        missing: PieceSet::of(10, [0, 1, 4, 5, 9]),
        ..plan(10)
    });
    schedule.join(Kind::Origin, None, Duration::ZERO);
    for run in [0..2, 4..6, 9..10] {
        assert_eq!(schedule.poll(S), [fetch(0, run.clone())]);
        schedule.keep(0, run, S);
        schedule.end(0, End::Done, S);
    }
    assert!(schedule.is_complete());
}

#[test]
fn several_sources_get_runs_by_their_rate() {
    let mut schedule = schedule(2, 1000);
    assert_eq!(
        schedule.poll(Duration::ZERO),
        [fetch(0, 0..4), fetch(1, 4..8)]
    );
    schedule.rate(0, 10);
    schedule.rate(1, 30);
    schedule.keep(0, 0..4, S);
    schedule.keep(1, 4..8, S);
    schedule.end(0, End::Done, S);
    schedule.end(1, End::Done, S);
    // Two seconds of each, the faster one first.
    let actions = schedule.poll(S);
    let [
        Action::Fetch {
            source: 1,
            run: fast,
        },
        Action::Fetch {
            source: 0,
            run: slow,
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert!((58..=60).contains(&fast.len()), "{fast:?}");
    assert!((18..=20).contains(&slow.len()), "{slow:?}");
    assert_eq!((fast.start, slow.start), (8, fast.end));
}

#[test]
fn more_sources_than_connections_wait_for_their_turn() {
    let mut schedule = schedule(6, 1000);
    assert_eq!(schedule.poll(S).len(), ORIGINS_AT_ONCE);
    schedule.end(2, BROKEN, S);
    assert_eq!(schedule.poll(S), [fetch(4, 8..12)], "the spare one goes on");
}

#[test]
fn the_tail_of_the_longest_run_is_taken_over() {
    let mut schedule = schedule(2, 12);
    schedule.rate(0, 2);
    schedule.rate(1, 2);
    schedule.poll(Duration::ZERO);
    schedule.keep(0, 0..4, S);
    schedule.end(0, End::Done, S);
    assert_eq!(schedule.poll(S), [fetch(0, 8..12)]);
    // The other one is stuck at its second piece of four.
    schedule.keep(1, 4..5, S);
    schedule.keep(0, 8..12, 2 * S);
    schedule.end(0, End::Done, 2 * S);
    assert_eq!(schedule.poll(2 * S), [Action::Shrink { source: 1, end: 7 }]);
    // It had begun more than was known: only what it gives up is handed out.
    schedule.handle(&Event::Shrunk { source: 1, end: 7 }, 2 * S);
    assert_eq!(schedule.poll(2 * S), [fetch(0, 7..8)]);
    assert_eq!(schedule.poll(2 * S), []);
    schedule.keep(1, 5..7, 3 * S);
    schedule.end(1, End::Done, 3 * S);
    schedule.keep(0, 7..8, 3 * S);
    assert!(schedule.is_complete());
}

#[test]
fn who_has_nothing_left_to_give_is_not_asked_again_at_once() {
    let mut schedule = schedule(3, 8);
    let mut actions = schedule.poll(Duration::ZERO);
    assert_eq!(actions[..2], [fetch(0, 0..4), fetch(1, 4..8)]);
    // Both have begun all of their pieces, and none is checked yet: they end where they would have ended.
    for (source, end) in [(0, 4), (1, 8)] {
        let asked =
            matches!(actions[..], [.., Action::Shrink { source: one, .. }] if one == source);
        assert!(asked, "{actions:?}");
        schedule.handle(&Event::Shrunk { source, end }, MS);
        actions = schedule.poll(MS);
    }
    assert_eq!(actions, [], "it would be asked for ever");
    // With each piece that comes there may be something to give again.
    schedule.keep(0, 0..1, 2 * MS);
    let actions = schedule.poll(2 * MS);
    assert!(
        matches!(actions[..], [Action::Shrink { source: 0, .. }]),
        "{actions:?}"
    );
}

#[test]
fn a_stalled_last_piece_changes_hands() {
    let mut schedule = schedule(2, 8);
    schedule.poll(Duration::ZERO);
    schedule.rate(0, 10);
    schedule.rate(1, 1);
    schedule.keep(0, 0..4, S);
    schedule.end(0, End::Done, S);
    schedule.keep(1, 4..7, S);
    schedule.poll(S);
    assert_eq!(schedule.poll(S + 900 * MS), [], "it may be on its way");
    let actions = schedule.poll(S + 1100 * MS);
    assert_eq!(actions, [Action::Stop { source: 1 }]);
    assert_eq!(schedule.poll(S + 1100 * MS), [], "it is told once");
    schedule.end(1, End::Stopped, 3 * S);
    assert_eq!(schedule.poll(3 * S), [fetch(0, 7..8)]);
    assert_eq!(
        schedule.poll(4 * S),
        [],
        "the slow one must not come back for it"
    );
    assert_eq!(
        schedule.dropped(1),
        None,
        "a hiccup is no reason to drop it"
    );
}

#[test]
fn failures_are_paused_after_and_forgiven_with_progress() {
    let mut schedule = schedule(1, 10);
    let mut now = Duration::ZERO;
    for attempt in 0..6 {
        assert_eq!(schedule.poll(now).len(), 1, "attempt {attempt}");
        schedule.keep(0, attempt..attempt + 1, now);
        schedule.end(0, FAILED, now);
        let wake = schedule.wake(now).expect("a pause");
        assert!((S / 2..=S).contains(&(wake - now)), "{:?}", wake - now);
        assert_eq!(schedule.poll(wake - MS), [], "too early");
        now = wake;
    }
    assert_eq!(schedule.retries(0), 6);
    // Without progress, two are allowed, and the pause doubles.
    schedule.poll(now);
    schedule.end(0, FAILED, now);
    now = schedule.wake(now).expect("a second chance");
    schedule.poll(now);
    schedule.end(0, FAILED, now);
    assert!(schedule.is_lost(S));
    assert_eq!(schedule.dropped(0), Some(Dropped::Failed));
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    let mut schedule = schedule(2, 100);
    schedule.poll(S);
    schedule.end(0, BROKEN, S);
    assert_eq!(schedule.dropped(0), Some(Dropped::Failed));
    assert!(!schedule.is_lost(S));
    schedule.keep(1, 4..8, S);
    schedule.end(1, End::Done, S);
    // What the first one had is handed out again; alone, the second gets whole rows.
    assert_eq!(schedule.poll(S), [fetch(1, 0..4)]);
    schedule.keep(1, 0..4, S);
    schedule.end(1, End::Done, S);
    assert_eq!(schedule.poll(S), [fetch(1, 8..100)]);
    schedule.end(1, BROKEN, S);
    assert!(schedule.is_lost(S));
}

#[test]
fn a_wrong_piece_is_asked_from_somebody_else_alone() {
    let mut schedule = schedule(2, 100);
    schedule.poll(S);
    schedule.keep(0, 0..1, S);
    schedule.wrong_from(0, 1, false);
    assert_eq!(schedule.poll(S), [Action::Stop { source: 0 }]);
    schedule.end(0, End::Stopped, S);
    // The one that sent it goes on with others; it is the other one's to bring.
    assert_eq!(schedule.poll(S), [fetch(0, 2..4)]);
    schedule.keep(1, 4..8, S);
    schedule.end(1, End::Done, S);
    assert_eq!(schedule.poll(S), [fetch(1, 1..2)]);
    schedule.keep(1, 1..2, S);
    assert_eq!(schedule.dropped(0), None, "once may be the line");
    // Twice is no accident, whatever piece it is.
    schedule.wrong_from(0, 3, false);
    schedule.poll(S);
    schedule.end(0, End::Stopped, S);
    assert_eq!(schedule.dropped(0), Some(Dropped::Wrong));
}

#[test]
fn a_piece_that_everybody_sends_wrong_is_an_error_and_not_waited_for() {
    let mut schedule = schedule(2, 2);
    assert_eq!(schedule.poll(S)[0], fetch(0, 0..2));
    schedule.keep(0, 0..1, S);
    schedule.wrong_from(0, 1, false);
    schedule.poll(S);
    schedule.end(0, End::Stopped, S);
    assert_eq!(schedule.poll(S), [fetch(1, 1..2)]);
    schedule.wrong_from(1, 1, false);
    schedule.end(1, End::Stopped, S);
    for source in [0, 1] {
        assert_eq!(schedule.poll(S), [fetch(source, 1..2)]);
        schedule.wrong_from(source, 1, false);
        schedule.end(source, End::Stopped, S);
    }
    assert!(schedule.is_lost(S));
}

#[test]
fn over_tls_one_wrong_piece_is_enough() {
    let mut schedule = schedule(2, 100);
    schedule.poll(S);
    schedule.wrong_from(1, 5, true);
    assert_eq!(schedule.poll(S), [Action::Stop { source: 1 }]);
    schedule.end(1, End::Stopped, S);
    assert_eq!(schedule.dropped(1), Some(Dropped::Wrong));
}

#[test]
fn a_source_alone_gets_one_second_chance() {
    let mut schedule = schedule(1, 5);
    schedule.poll(S);
    schedule.wrong_from(0, 2, false);
    assert_eq!(schedule.poll(S), [Action::Stop { source: 0 }]);
    schedule.end(0, End::Stopped, S);
    assert_eq!(
        schedule.poll(S),
        [fetch(0, 2..3)],
        "the wrong one first, alone"
    );
    schedule.wrong_from(0, 2, false);
    assert_eq!(schedule.poll(S), [], "it has nothing else to stop");
    schedule.end(0, End::Done, S);
    assert!(schedule.is_lost(S));
    assert_eq!(schedule.dropped(0), Some(Dropped::Wrong));
}

#[test]
fn slow_sources_are_dropped_after_a_while_and_revived_in_need() {
    let mut schedule = schedule(2, 1000);
    schedule.poll(Duration::ZERO);
    schedule.rate(0, 100);
    schedule.rate(1, 9);
    assert_eq!(schedule.poll(S), []);
    assert_eq!(schedule.poll(5 * S), []);
    assert_eq!(schedule.poll(6 * S), [Action::Stop { source: 1 }]);
    schedule.end(1, End::Stopped, 6 * S);
    assert!(matches!(
        schedule.dropped(1),
        Some(Dropped::Slow { best, .. }) if best > 99 * MIB
    ));
    schedule.end(0, BROKEN, 7 * S);
    assert_eq!(schedule.poll(7 * S), [fetch(1, 0..1000)]);
    assert!(!schedule.is_lost(S));
}

#[test]
fn a_source_that_recovers_is_not_slow() {
    let mut schedule = schedule(2, 1000);
    schedule.poll(Duration::ZERO);
    schedule.rate(0, 100);
    schedule.rate(1, 1);
    schedule.poll(S);
    schedule.rate(1, 50);
    schedule.poll(4 * S);
    schedule.rate(1, 1);
    schedule.poll(5 * S);
    assert_eq!(schedule.poll(9 * S), [], "slow for four seconds only");
    assert_eq!(schedule.poll(10 * S), [Action::Stop { source: 1 }]);
}

/// Whatever sources do, every piece is with one source at a time and the schedule comes to an end.
#[test]
fn chaos_ends_and_never_hands_a_piece_out_twice() {
    for seed in 1..400_u64 {
        let mut random = seed;
        let mut dice = |sides: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % sides
        };
        let sources = 1 + (seed % 5) as usize;
        let mut schedule = schedule(sources, 60);
        let mut runs: Vec<Option<(Range<usize>, bool)>> = vec![None; sources];
        let mut kept = BTreeSet::new();
        let mut now = Duration::ZERO;
        for step in 0.. {
            assert!(step < 20_000, "seed {seed} does not end");
            // As the shell does it: until there is nothing more to do.
            for round in 0.. {
                assert!(round < 100, "seed {seed} never has done");
                let actions = schedule.poll(now);
                if actions.is_empty() {
                    break;
                }
                for action in actions {
                    match action {
                        Action::Fetch { source, run } => {
                            assert!(!run.is_empty() && runs[source].is_none(), "seed {seed}");
                            for piece in run.clone() {
                                assert!(!kept.contains(&piece), "seed {seed}: fetched twice");
                                let taken =
                                    runs.iter().flatten().any(|(run, _)| run.contains(&piece));
                                assert!(!taken, "seed {seed}: piece {piece} is with two");
                            }
                            runs[source] = Some((run, false));
                        }
                        Action::Look { .. } => panic!("origins have no maps"),
                        Action::Stop { source } => runs[source].as_mut().unwrap().1 = true,
                        Action::Shrink { source, end } => {
                            let (run, _) = runs[source].as_mut().unwrap();
                            // It may have begun more than is known, or everything.
                            let begun = run.start + dice(1 + run.len() as u64) as usize;
                            let end = end.clamp(begun, run.end);
                            run.end = end;
                            schedule.handle(&Event::Shrunk { source, end }, now);
                        }
                    }
                }
            }
            if schedule.is_complete() || (schedule.is_lost(S) && runs.iter().all(Option::is_none)) {
                break;
            }
            now += Duration::from_millis(dice(800));
            let source = dice(sources as u64) as usize;
            let Some((run, stopped)) = &mut runs[source] else {
                continue;
            };
            let (bytes, time) = (dice(20) * MIB, S);
            schedule.handle(
                &Event::Traffic {
                    source,
                    bytes,
                    time,
                },
                now,
            );
            let end = match dice(20) {
                _ if *stopped => Some(End::Stopped),
                0 => Some(FAILED),
                1 if seed % 3 == 0 => Some(BROKEN),
                2 if run.start < run.end && seed % 2 == 0 => {
                    schedule.wrong_from(source, run.start, false);
                    run.start += 1;
                    None
                }
                _ if run.start >= run.end => Some(End::Done),
                _ => {
                    schedule.keep(source, run.start..run.start + 1, now);
                    kept.insert(run.start);
                    run.start += 1;
                    None
                }
            };
            if let Some(end) = end {
                runs[source] = None;
                schedule.end(source, end, now);
            }
        }
    }
}
