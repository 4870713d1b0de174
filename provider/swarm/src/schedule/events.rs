//! What events change.

use std::time::Duration;

use crate::limits::{
    BUSY_FACTOR, BUSY_PAUSE_MAX, BUSY_PAUSE_MIN, BUSY_PEER_MAX, CLAIM_FACTOR, CLAIM_TIME_MAX,
    CLAIM_TIME_MIN, COMING_MAX, HEDGE_PAUSE, LOOK_FAILURES_MAX, LOOK_PAUSE_MAX, RATE_WEIGHT_NEW,
    STALLS_MAX, WRONG_PIECES_MAX,
};
use crate::random::jittered;
use crate::schedule::choice::scaled;
use crate::schedule::{Action, Dropped, End, Event, Schedule, Source, State};
use crate::set::PieceSet;

impl Schedule {
    /// Takes note of an event.
    pub fn handle(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Traffic {
                source,
                bytes,
                time,
            } => self.traffic(*source, *bytes, *time),
            Event::Kept { source, piece } => self.kept(*source, *piece, now),
            Event::Wrong {
                source,
                piece,
                sealed,
            } => self.wrong(*source, *piece, *sealed),
            Event::Shrunk { source, end } => self.shrunk(*source, *end),
            Event::Map {
                source,
                have,
                coming,
            } => self.map(*source, have, coming, now),
            Event::Unread { source } => self.unread(*source, now),
            Event::Left { source } => self.left(*source, Dropped::Left, now),
            Event::Ended { source, end } => self.ended(*source, *end, now),
        }
    }

    fn kept(&mut self, index: usize, piece: usize, now: Duration) {
        self.missing.remove(piece);
        self.free.remove(piece);
        self.suspects.remove(&piece);
        self.progress = now;
        if let Some(source) = self.sources.get_mut(index) {
            let took = now.saturating_sub(source.moved).as_secs_f64();
            self.piece_time = if self.piece_time == 0.0 {
                took
            } else {
                self.piece_time + RATE_WEIGHT_NEW * (took - self.piece_time)
            };
            source.failures = 0;
            source.busy = 0;
            source.stalls = 0;
            source.moved = now;
            source.gave_nothing = false;
        }
    }

    fn traffic(&mut self, index: usize, bytes: u64, time: Duration) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        if time.is_zero() {
            return;
        }
        let sample = bytes as f64 / time.as_secs_f64();
        source.rate = Some(match source.rate {
            None if bytes == 0 => return,
            None => sample,
            Some(rate) => rate + RATE_WEIGHT_NEW * (sample - rate),
        });
    }

    fn wrong(&mut self, index: usize, piece: usize, sealed: bool) {
        self.suspects.entry(piece).or_default().insert(index);
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        source.wrong += 1;
        let limit = if sealed || !source.is_origin() {
            1
        } else {
            WRONG_PIECES_MAX
        };
        if source.wrong >= limit {
            source.sentence = Some(Dropped::Wrong);
        }
    }

    fn shrunk(&mut self, index: usize, end: usize) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        if let State::Busy { run, .. } = &mut source.state {
            let released = end.clamp(run.start, run.end)..run.end;
            source.gave_nothing = released.is_empty();
            run.end = released.start;
            for piece in released {
                if self.missing.contains(piece) {
                    self.free.insert(piece);
                }
            }
        }
    }

    fn map(&mut self, index: usize, have: &PieceSet, coming: &PieceSet, now: Duration) {
        let count = self.plan.pieces.count();
        let claim_time = scaled(
            self.piece_time,
            CLAIM_FACTOR,
            CLAIM_TIME_MIN,
            CLAIM_TIME_MAX,
        );
        let look_pause = self.look_pause();
        let is_dropped = self.dropped(index).is_some();
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        source.looking = false;
        source.look_failures = 0;
        if is_dropped {
            return;
        }
        let mut claims = Vec::new();
        for piece in coming
            .iter()
            .filter(|piece| *piece < count)
            .take(COMING_MAX)
        {
            let known = source.claims.iter().find(|(known, _)| *known == piece);
            claims.push(known.copied().unwrap_or((piece, now)));
        }
        let is_broken = |(piece, since): &&(usize, Duration)| {
            !have.contains(*piece) && now.saturating_sub(*since) > claim_time
        };
        let broken = source.claims.iter().filter(is_broken).count();
        source.broken_claims = source
            .broken_claims
            .saturating_add(u32::try_from(broken).unwrap_or(u32::MAX));
        let is_new = source.have != *have || claims.len() != source.claims.len();
        source.claims = claims;
        source.look_pause = if is_new {
            look_pause
        } else {
            (source.look_pause * 2).min(LOOK_PAUSE_MAX)
        };
        source.look_at = now + source.look_pause;
        let mut own = PieceSet::new(count);
        own.union(have);
        self.set_have(index, own);
    }

    fn unread(&mut self, index: usize, now: Duration) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        source.looking = false;
        source.look_failures += 1;
        source.look_pause = LOOK_PAUSE_MAX;
        source.look_at = now + source.look_pause;
        if source.look_failures >= LOOK_FAILURES_MAX {
            self.left(index, Dropped::Failed, now);
        }
    }

    fn left(&mut self, index: usize, why: Dropped, now: Duration) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        match source.state {
            State::Dropped(_) => {}
            // It is told to stop when the schedule is asked next.
            State::Busy { .. } => {
                source.sentence.get_or_insert(why);
            }
            State::Idle | State::Resting { .. } => self.set_dropped(index, why, now),
        }
    }

    pub(super) fn set_dropped(&mut self, index: usize, why: Dropped, now: Duration) {
        let count = self.plan.pieces.count();
        let source = &mut self.sources[index];
        source.state = State::Dropped(why);
        source.dropped_at = now;
        source.claims.clear();
        if !source.is_origin() {
            self.set_have(index, PieceSet::new(count));
        }
    }

    fn ended(&mut self, index: usize, end: End, now: Duration) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut source.state, State::Idle);
        source.slow_since = None;
        let mut lost = None;
        if let State::Busy { run, .. } = before {
            lost = Some(run.start);
            for piece in run {
                if self.missing.contains(piece) {
                    self.free.insert(piece);
                }
            }
        }
        let stalled = std::mem::take(&mut self.sources[index].stalled);
        if let Some(why) = self.sources[index].sentence.take() {
            self.set_dropped(index, why, now);
            return;
        }
        match end {
            End::Done => {}
            End::Failed { transient } => self.failed(index, transient, now),
            End::Busy { retry_after } => self.busy(index, retry_after, now),
            End::Absent => self.absent(index, lost, now),
            End::Stopped if stalled => {
                self.sources[index].stalls += 1;
                if self.sources[index].stalls >= STALLS_MAX {
                    self.set_dropped(index, Dropped::Stalled, now);
                } else {
                    self.rest(index, now + HEDGE_PAUSE);
                }
            }
            // It was in the way of somebody faster.
            End::Stopped if self.sources[index].wrong == 0 => self.rest(index, now + HEDGE_PAUSE),
            End::Stopped => {}
        }
    }

    fn rest(&mut self, index: usize, until: Duration) {
        self.sources[index].state = State::Resting { until };
    }

    fn failed(&mut self, index: usize, transient: bool, now: Duration) {
        let random = self.random.next();
        // Others may keep the download alive until an origin is back.
        let has_time = self.sources[index].is_origin() && self.has_peers();
        let source = &mut self.sources[index];
        if transient && (source.failures < self.plan.retries || has_time) {
            let pause = jittered(self.plan.retry_delay, source.failures, random);
            source.failures = source.failures.saturating_add(1);
            source.retries = source.retries.saturating_add(1);
            self.rest(index, now + pause);
        } else {
            self.set_dropped(index, Dropped::Failed, now);
        }
    }

    fn busy(&mut self, index: usize, retry_after: Duration, now: Duration) {
        let random = self.random.next();
        let source = &mut self.sources[index];
        source.busy = source.busy.saturating_add(1);
        if !source.is_origin() && source.busy >= BUSY_PEER_MAX {
            self.set_dropped(index, Dropped::Failed, now);
            return;
        }
        // A place among its transfers is free as soon as a piece is through; who asks in vain again and again waits longer.
        let first = scaled(self.piece_time, BUSY_FACTOR, BUSY_PAUSE_MIN, BUSY_PAUSE_MAX);
        let pause = match source.is_origin() {
            true => retry_after.clamp(BUSY_PAUSE_MIN, BUSY_PAUSE_MAX),
            false => jittered(2 * first, source.busy - 1, random).min(retry_after.max(first)),
        };
        // It may have been asked for what it does not have any more.
        source.look_at = source.look_at.min(now);
        self.rest(index, now + jittered(2 * pause, 0, random));
    }

    /// A file is not there: the source is asked for others.
    fn absent(&mut self, index: usize, piece: Option<usize>, now: Duration) {
        let mut have = self.sources[index].have.clone();
        for piece in piece.map_or(0..0, |piece| self.plan.pieces.row_of(piece)) {
            have.remove(piece);
        }
        let is_useless = !have.meets(&self.missing);
        self.set_have(index, have);
        if is_useless && self.sources[index].is_origin() {
            self.set_dropped(index, Dropped::Failed, now);
        }
    }

    /// Which peers' maps to look at.
    pub(super) fn look(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let due: Vec<usize> = self
            .peers()
            .filter(|&index| {
                let source = &self.sources[index];
                !source.looking && source.look_at <= now && self.is_worth_a_look(source)
            })
            .collect();
        for source in due {
            self.sources[source].looking = true;
            actions.push(Action::Look { source });
        }
    }

    /// Whether a map may say something new: not that of a peer which has everything that is missing.
    pub(super) fn is_worth_a_look(&self, source: &Source) -> bool {
        self.missing.without(&source.have).next().is_some()
    }
}
