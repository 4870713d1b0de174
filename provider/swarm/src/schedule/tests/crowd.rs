//! The same with peers.

use super::*;
use crate::limits::{BUSY_PEER_MAX, CLAIM_TIME_MAX, PATIENCE_MAX, STARVED_TIME};
use crate::random::Random;

const NEAR: Kind = Kind::Peer { near: true };
const FAR: Kind = Kind::Peer { near: false };

fn set(pieces: impl IntoIterator<Item = usize>, count: usize) -> PieceSet {
    PieceSet::of(count, pieces)
}

/// An origin, and then these peers with what they have.
fn crowd(count: usize, peers: &[(Kind, Range<usize>)]) -> Schedule {
    let mut schedule = schedule(1, count);
    for (index, (kind, have)) in peers.iter().enumerate() {
        assert_eq!(schedule.join(*kind, None, Duration::ZERO), Some(index + 1));
        schedule.map_of(index + 1, have.clone(), 0..0, Duration::ZERO);
    }
    schedule
}

impl Schedule {
    fn map_of(&mut self, source: usize, have: Range<usize>, coming: Range<usize>, now: Duration) {
        let count = self.plan.pieces.count();
        let (have, coming) = (set(have, count), set(coming, count));
        let event = Event::Map {
            source,
            have,
            coming,
        };
        self.handle(&event, now);
    }

    /// What is asked for now, as (source, run).
    fn asked(&mut self, now: Duration) -> Vec<(usize, Range<usize>)> {
        let actions = self.poll(now).into_iter();
        let fetches = actions.filter_map(|action| match action {
            Action::Fetch { source, run } => Some((source, run)),
            _ => None,
        });
        fetches.collect()
    }
}

#[test]
fn a_peer_is_looked_at_before_it_is_asked_and_then_again_and_again() {
    let mut schedule = schedule(0, 10);
    assert_eq!(schedule.join(NEAR, None, S), Some(0));
    assert_eq!(schedule.poll(S), [Action::Look { source: 0 }]);
    assert_eq!(schedule.poll(S), [], "once at a time");
    schedule.map_of(0, 3..4, 4..5, S);
    assert_eq!(schedule.poll(S), [fetch(0, 3..4)]);
    let wake = schedule.wake(S).expect("the next look");
    assert!(wake > S && wake < 2 * S);
    assert_eq!(schedule.poll(wake), [Action::Look { source: 0 }]);
    // Who has all that is missing has nothing new to tell.
    schedule.map_of(0, 0..10, 0..0, wake);
    assert_eq!(schedule.poll(2 * S), []);
}

#[test]
fn who_cannot_be_looked_at_is_left() {
    let mut schedule = crowd(10, &[]);
    schedule.join(NEAR, None, S);
    assert!(schedule.poll(S).contains(&Action::Look { source: 1 }));
    schedule.handle(&Event::Unread { source: 1 }, S);
    assert_eq!(schedule.dropped(1), None);
    assert!(schedule.poll(3 * S).contains(&Action::Look { source: 1 }));
    schedule.handle(&Event::Unread { source: 1 }, 3 * S);
    assert_eq!(schedule.dropped(1), Some(Dropped::Failed));
}

#[test]
fn the_rarest_piece_comes_first() {
    for seed in 0..20 {
        let mut schedule = Schedule::new(Plan { seed, ..plan(10) });
        for have in [0..10, 0..9, 0..8] {
            let source = schedule.join(NEAR, None, S).expect("room");
            schedule.map_of(source, have, 0..0, S);
        }
        let mut asked = schedule.asked(S);
        asked.sort_unstable_by_key(|(source, _)| *source);
        // The first has the only copy of 9, or lets it be if the second takes 8 before.
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[0], (0, 9..10));
        assert_eq!(asked[1], (1, 8..9));
        assert!(asked[2].1.start < 8);
    }
}

#[test]
fn the_origin_is_the_last_resort() {
    let mut schedule = crowd(4, &[(NEAR, 0..2), (FAR, 2..3)]);
    let mut asked = schedule.asked(S / 2);
    asked.sort_unstable_by_key(|(source, _)| *source);
    assert_eq!(asked[0], (0, 3..4), "nobody else has it");
    assert!(asked[1].1.start < 2);
    assert_eq!(asked[2], (2, 2..3));
    // What a near peer is just getting is left to it.
    let mut schedule = crowd(4, &[(NEAR, 0..2)]);
    schedule.map_of(1, 0..2, 2..4, S / 2);
    let asked = schedule.asked(S / 2);
    assert!(matches!(&asked[..], [(1, _)]), "{asked:?}");
}

#[test]
fn peers_are_all_alike_when_none_is_near() {
    for seed in 1..20 {
        let mut schedule = Schedule::new(Plan { seed, ..plan(10) });
        schedule.join(Kind::Origin, None, S);
        schedule.join(FAR, None, S);
        schedule.map_of(1, 0..1, 1..5, S);
        let asked = schedule.asked(S);
        assert!(asked.contains(&(1, 0..1)), "{asked:?}");
        let mut of_origin = asked.iter().filter(|(source, _)| *source == 0);
        assert!(
            of_origin.all(|(_, run)| run.start >= 5),
            "what comes to the other one is left to it: {asked:?}"
        );
        // A near one makes the difference.
        schedule.join(NEAR, None, S);
        schedule.map_of(2, 0..1, 0..0, S);
        schedule.poll(S);
        assert!(schedule.is_close(2) && !schedule.is_close(1));
    }
}

#[test]
fn false_claims_hold_nobody_up() {
    let mut schedule = crowd(4, &[(NEAR, 0..0)]);
    schedule.map_of(1, 0..0, 0..4, Duration::ZERO);
    assert_eq!(schedule.asked(S / 2), []);
    let mut now = S / 2;
    let mut fetched = 0;
    while fetched < 4 {
        let wake = schedule.wake(now).expect("it does not give up");
        now = wake.max(now + MS);
        assert!(now < 5 * PATIENCE_MAX, "held up");
        schedule.map_of(1, 0..0, 0..4, now);
        for (source, run) in schedule.asked(now) {
            assert_eq!(source, 0);
            fetched += run.len();
            schedule.keep(source, run, now);
            schedule.end(source, End::Done, now);
        }
    }
    assert!(now <= CLAIM_TIME_MAX);
}

#[test]
fn a_long_run_is_cut_when_a_peer_joins() {
    let mut schedule = crowd(1_000, &[]);
    assert_eq!(schedule.poll(Duration::ZERO), [fetch(0, 0..1_000)]);
    schedule.rate(0, 10);
    schedule.keep(0, 0..100, S);
    schedule.join(NEAR, None, S);
    let actions = schedule.poll(S);
    let [
        Action::Look { source: 1 },
        Action::Shrink { source: 0, end },
    ] = actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!(end, 101, "what the piece under way needs");
    schedule.handle(&Event::Shrunk { source: 0, end }, S);
    schedule.map_of(1, 500..501, 0..0, S);
    assert_eq!(schedule.poll(S), [fetch(1, 500..501)]);
    assert_eq!(
        schedule.coming().iter().collect::<Vec<_>>(),
        [100, 500][..].to_vec()
    );
}

#[test]
fn a_run_never_leaves_its_file() {
    let digest = Digest::of(b"file");
    let pieces = Pieces::new([3, 1, 6].map(|chunks| (digest, chunks * MIB)));
    let mut schedule = Schedule::new(Plan {
        missing: PieceSet::full(10),
        pieces,
        ..plan(10)
    });
    schedule.join(Kind::Origin, None, S);
    for run in [0..3, 3..4, 4..10] {
        assert_eq!(schedule.poll(S), [fetch(0, run.clone())]);
        schedule.keep(0, run, S);
        schedule.end(0, End::Done, S);
    }
    assert!(schedule.is_complete());
}

#[test]
fn a_file_that_a_source_lacks_costs_that_file_only() {
    let digest = Digest::of(b"file");
    let pieces = Pieces::new([2, 2].map(|chunks| (digest, chunks * MIB)));
    let mut schedule = Schedule::new(Plan {
        missing: PieceSet::full(4),
        pieces,
        ..plan(4)
    });
    schedule.join(Kind::Origin, None, S);
    assert_eq!(schedule.poll(S), [fetch(0, 0..2)]);
    schedule.end(0, End::Absent, S);
    assert_eq!(schedule.poll(S), [fetch(0, 2..4)]);
    schedule.keep(0, 2..4, S);
    schedule.end(0, End::Done, S);
    assert!(schedule.is_lost(S), "nobody has the rest, and nobody will");
    schedule.join(NEAR, None, S);
    assert!(!schedule.is_lost(2 * S), "somebody may");
    assert!(schedule.is_lost(2 * S + STARVED_TIME));
}

#[test]
fn to_be_busy_is_no_fault_but_a_peer_that_always_is_is_of_no_use() {
    let mut schedule = crowd(4, &[(NEAR, 0..4)]);
    let busy = End::Busy { retry_after: S };
    let mut now = Duration::ZERO;
    for _ in 1..BUSY_PEER_MAX {
        while schedule.asked(now).is_empty() {
            now = schedule.wake(now).expect("it is asked again");
        }
        schedule.end(1, busy, now);
        assert_eq!((schedule.dropped(1), schedule.retries(1)), (None, 0));
        // The origin's part ends as well, or it would be asked in its place.
        schedule.end(0, busy, now);
    }
    assert!(now < 60 * S);
    while schedule.dropped(1).is_none() {
        schedule.end(1, busy, now);
    }
    for _ in 0..100 {
        schedule.end(0, busy, now);
    }
    assert_eq!(schedule.dropped(0), None, "an origin is waited for");
}

#[test]
fn peers_that_lie_or_stall_are_left() {
    let mut schedule = crowd(4, &[(NEAR, 0..4), (NEAR, 0..4)]);
    assert_eq!(schedule.asked(MS).len(), 2);
    let piece = schedule.sources[1].run().expect("a run").start;
    schedule.wrong_from(1, piece, false);
    schedule.end(1, End::Done, S);
    assert_eq!(schedule.dropped(1), Some(Dropped::Wrong), "peers are many");
    let mut now = S;
    for _ in 0..200 {
        now += S / 4;
        if schedule.poll(now).contains(&Action::Stop { source: 2 }) {
            schedule.end(2, End::Stopped, now);
        }
    }
    assert_eq!(schedule.dropped(2), Some(Dropped::Stalled));
    assert_eq!(
        schedule.peers_wanted(),
        NEIGHBOURS_MAX,
        "others may take their places"
    );
}

#[test]
fn an_origin_that_is_gone_is_asked_again_for_what_nobody_else_has() {
    let mut schedule = crowd(4, &[(NEAR, 0..2)]);
    schedule.poll(MS);
    schedule.end(0, BROKEN, MS);
    assert_eq!(schedule.dropped(0), Some(Dropped::Failed));
    schedule.poll(3 * S);
    assert_eq!(schedule.dropped(0), Some(Dropped::Failed));
    schedule.poll(6 * S);
    assert_eq!(schedule.dropped(0), None);
    // And with the peers there that have everything, it is left alone.
    schedule.end(0, BROKEN, 6 * S);
    schedule.map_of(1, 0..4, 0..0, 6 * S);
    schedule.poll(60 * S);
    assert_eq!(schedule.dropped(0), Some(Dropped::Failed));
    assert!(!schedule.is_lost(60 * S));
}

/// Whatever anybody says and does, a piece is with one source at a time, counts of copies stay right, and with an origin
/// that is honest now and then the download ends.
#[test]
fn chaos_among_peers_ends() {
    for seed in 0..150 {
        let mut dice = Random::new(seed);
        let count = 40;
        let mut schedule = Schedule::new(Plan {
            seed,
            scattered: seed % 2 == 0,
            ..plan(count)
        });
        schedule.join(Kind::Origin, None, Duration::ZERO);
        let mut runs: Vec<Option<Range<usize>>> = vec![None];
        let mut now = Duration::ZERO;
        for step in 0.. {
            assert!(step < 30_000, "seed {seed} does not end");
            if schedule.is_complete() {
                break;
            }
            assert!(!schedule.is_lost(now), "seed {seed}");
            if dice.below(30) == 0 && schedule.peers_wanted() > 0 {
                let kind = [NEAR, FAR][dice.below(2)];
                if schedule.join(kind, None, now).is_some() {
                    runs.push(None);
                }
            }
            for round in 0.. {
                assert!(round < 200, "seed {seed} never has done");
                let actions = schedule.poll(now);
                if actions.is_empty() {
                    break;
                }
                for action in actions {
                    carry_out(&mut schedule, &mut runs, action, &mut dice, now);
                }
            }
            check(&schedule, &runs);
            let wake = schedule.wake(now);
            assert!(wake.is_none_or(|wake| wake > now));
            now += Duration::from_millis(dice.next() % 300);
            let source = dice.below(runs.len());
            happen(&mut schedule, &mut runs, source, &mut dice, now);
        }
    }
}

fn carry_out(
    schedule: &mut Schedule,
    runs: &mut [Option<Range<usize>>],
    action: Action,
    dice: &mut Random,
    now: Duration,
) {
    match action {
        Action::Fetch { source, run } => {
            assert!(runs[source].is_none() && !run.is_empty());
            for piece in run.clone() {
                assert!(schedule.missing().contains(piece), "it was kept");
                assert!(!runs.iter().flatten().any(|other| other.contains(&piece)));
            }
            runs[source] = Some(run);
        }
        Action::Shrink { source, end } => {
            let run = runs[source].as_mut().expect("a run to cut");
            let begun = run.start + dice.below(1 + run.len());
            run.end = end.clamp(begun, run.end);
            let end = run.end;
            schedule.handle(&Event::Shrunk { source, end }, now);
        }
        Action::Stop { source } => {
            assert!(runs[source].take().is_some());
            schedule.end(source, End::Stopped, now);
        }
        Action::Look { source } => {
            let event = match dice.below(4) {
                0 => Event::Unread { source },
                _ => {
                    let some = |dice: &mut Random| {
                        let part = 1 + dice.below(6);
                        set((0..60).filter(|_| dice.below(part) == 0), 60)
                    };
                    Event::Map {
                        source,
                        have: some(dice),
                        coming: some(dice),
                    }
                }
            };
            schedule.handle(&event, now);
        }
    }
}

fn happen(
    schedule: &mut Schedule,
    runs: &mut [Option<Range<usize>>],
    source: usize,
    dice: &mut Random,
    now: Duration,
) {
    if dice.below(40) == 0 && source > 0 {
        schedule.handle(&Event::Left { source }, now);
        return;
    }
    let Some(run) = &mut runs[source] else {
        return;
    };
    let (bytes, time) = (dice.next() % 20 * MIB, S);
    let event = Event::Traffic {
        source,
        bytes,
        time,
    };
    schedule.handle(&event, now);
    let end = match dice.below(12) {
        0 => Some(End::Busy { retry_after: S / 4 }),
        1 => Some(FAILED),
        2 if source > 0 => Some(BROKEN),
        3 if source > 0 && run.start < run.end => {
            schedule.wrong_from(source, run.start, false);
            run.start += 1;
            None
        }
        _ if run.start >= run.end => Some(End::Done),
        _ => {
            schedule.keep(source, run.start..run.start + 1, now);
            run.start += 1;
            None
        }
    };
    if let Some(end) = end {
        runs[source] = None;
        schedule.end(source, end, now);
    }
}

/// The counts of copies are those of the maps of the peers that are asked, and no piece is free while it is with somebody.
fn check(schedule: &Schedule, runs: &[Option<Range<usize>>]) {
    let count = schedule.plan.pieces.count();
    let (mut near, mut far) = (vec![0; count], vec![0; count]);
    for source in &schedule.sources {
        assert_eq!(source.have.length(), count);
        let copies = match source.kind {
            Kind::Origin => continue,
            Kind::Peer { near: true } => &mut near,
            Kind::Peer { near: false } => &mut far,
        };
        for piece in source.have.iter() {
            copies[piece] += 1;
        }
    }
    assert_eq!((&schedule.near, &schedule.far), (&near, &far));
    for piece in schedule.missing.iter() {
        let taken = runs.iter().flatten().any(|run| run.contains(&piece));
        assert!(!(schedule.free.contains(piece) && taken), "piece {piece}");
    }
    if runs.iter().all(Option::is_none) {
        assert_eq!(schedule.free, schedule.missing);
    }
}
