//! What is taken from sources that fail, lie or lag.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::limits::{
    CROWD_RUN_TIME, HEDGE_FACTOR, HEDGE_WAIT_MIN, REVIVAL_PAUSE, SLOW_FRACTION, SLOW_TIME,
    STALL_FACTOR, STALL_TIME_MAX, STALL_TIME_MIN, STEAL_TIME_MIN,
};
use crate::schedule::choice::scaled;
use crate::schedule::{Action, Dropped, Schedule, Source, State};

impl Schedule {
    /// What an idle source can do for a busy one when nothing is free: shorten its run, or take its last piece from it.
    pub(super) fn relieve(
        &self,
        index: usize,
        asked: &BTreeSet<usize>,
        now: Duration,
    ) -> Option<Action> {
        let helper = &self.sources[index];
        // Who is not near does not take from those who are, unless they are held up.
        let from_outside = !self.is_close(index) && self.has_peers();
        let mut best: Option<(f64, Action)> = None;
        for (victim, source) in self.sources.iter().enumerate() {
            let Some(run) = source.run().filter(|_| !asked.contains(&victim)) else {
                continue;
            };
            let Some(current) = run.clone().find(|&piece| self.missing.contains(piece)) else {
                continue;
            };
            if !helper.have.contains(run.end - 1) {
                continue;
            }
            let waiting = run.end.saturating_sub(current + 1);
            let bytes: u64 = (current..run.end)
                .map(|piece| self.plan.pieces.size(piece))
                .sum();
            let time = source
                .rate
                .map_or(f64::INFINITY, |rate| bytes as f64 / rate);
            if waiting > 0 {
                let is_worth_it = !source.gave_nothing && time > STEAL_TIME_MIN.as_secs_f64();
                if is_worth_it
                    && !from_outside
                    && best.as_ref().is_none_or(|(most, _)| time > *most)
                {
                    let taken =
                        ((waiting as f64 * share(helper, source)) as usize).clamp(1, waiting);
                    let end = run.end - taken;
                    best = Some((
                        time,
                        Action::Shrink {
                            source: victim,
                            end,
                        },
                    ));
                }
            } else if best.is_none()
                && !self.is_suspect_of(current, index)
                && self.is_held_up(source, helper.rate, current, now)
            {
                best = Some((0.0, Action::Stop { source: victim }));
            }
        }
        best.map(|(_, action)| action)
    }

    /// Whether a source takes so long over its last piece that a helper of this rate would be done sooner, from its start.
    fn is_held_up(
        &self,
        victim: &Source,
        helper_rate: Option<f64>,
        piece: usize,
        now: Duration,
    ) -> bool {
        let bytes = self.plan.pieces.size(piece) as f64;
        let waited = now.saturating_sub(victim.moved);
        match (helper_rate, victim.rate) {
            (Some(helper), rate) => {
                let own = bytes / helper.max(1.0) * f64::from(HEDGE_FACTOR);
                let left = rate.map_or(f64::INFINITY, |rate| bytes / rate);
                waited.as_secs_f64() > own.max(HEDGE_WAIT_MIN.as_secs_f64()) && left > own
            }
            // A helper that nothing is known about is better than a silent source only.
            (None, Some(rate)) => rate < 1.0 && waited > HEDGE_WAIT_MIN,
            (None, None) => waited > HEDGE_WAIT_MIN,
        }
    }

    fn is_suspect_of(&self, piece: usize, index: usize) -> bool {
        let from = self.suspects.get(&piece);
        from.is_some_and(|from| from.contains(&index))
    }

    /// Cuts runs that were begun when there were no peers.
    pub(super) fn shorten(&self, actions: &mut Vec<Action>) {
        for (index, source) in self.sources.iter().enumerate() {
            let Some(run) = source.run().filter(|_| !source.gave_nothing) else {
                continue;
            };
            let Some(current) = run.clone().find(|&piece| self.missing.contains(piece)) else {
                continue;
            };
            let length = self.run_length(index, current, CROWD_RUN_TIME, 0);
            let end = current + length;
            if end < run.end {
                actions.push(Action::Shrink { source: index, end });
            }
        }
    }

    /// Passes sentence on sources that are much slower than others of their kind for a while.
    pub(super) fn drop_slow(&mut self, now: Duration, actions: &mut Vec<Action>) {
        // The fastest of each kind, and the next one for that one itself.
        let mut best_two = [[0.0_f64; 2]; 2];
        for index in self.usable() {
            let source = &self.sources[index];
            let [best, next] = &mut best_two[usize::from(source.is_origin())];
            let rate = source.rate.unwrap_or_default();
            *next = next.max(rate.min(*best));
            *best = best.max(rate);
        }
        for index in 0..self.sources.len() {
            let (is_origin, Some(rate)) =
                (self.sources[index].is_origin(), self.sources[index].rate)
            else {
                continue;
            };
            if self.dropped(index).is_some() {
                continue;
            }
            let [best, next] = best_two[usize::from(is_origin)];
            let best = if rate == best { next } else { best };
            let source = &mut self.sources[index];
            let State::Busy { stopping, .. } = &mut source.state else {
                continue;
            };
            if rate * f64::from(SLOW_FRACTION) >= best {
                source.slow_since = None;
                continue;
            }
            let since = *source.slow_since.get_or_insert(now);
            if now.saturating_sub(since) >= SLOW_TIME && !*stopping {
                *stopping = true;
                let (rate, best) = (rate as u64, best as u64);
                source.sentence = Some(Dropped::Slow { rate, best });
                actions.push(Action::Stop { source: index });
            }
        }
    }

    /// Stops the runs of peers that bring nothing.
    pub(super) fn stop_stalled(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let patience = scaled(
            self.piece_time,
            STALL_FACTOR,
            STALL_TIME_MIN,
            STALL_TIME_MAX,
        );
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(run) = source.run().filter(|_| !source.is_origin()) else {
                continue;
            };
            // What comes slowly, but comes, is another matter.
            let piece = self.plan.pieces.size(run.start) as f64;
            let brings = source
                .rate
                .is_some_and(|rate| rate * patience.as_secs_f64() > piece);
            if !brings && now.saturating_sub(source.moved) > patience {
                source.set_stopping();
                source.stalled = true;
                actions.push(Action::Stop { source: index });
            }
        }
    }

    /// Stops the runs of sources that just sent something wrong, and of those that left.
    pub(super) fn stop_convicts(&mut self, actions: &mut Vec<Action>) {
        for (index, source) in self.sources.iter_mut().enumerate() {
            let sentenced = source.sentence;
            let State::Busy { run, stopping } = &mut source.state else {
                continue;
            };
            let convicted = run.clone().any(|piece| {
                let from = self.suspects.get(&piece);
                from.is_some_and(|from| from.contains(&index))
            });
            // The second attempt at a piece has the piece alone, and ends by itself.
            let gone = matches!(sentenced, Some(Dropped::Left | Dropped::Failed));
            if (gone || (convicted && run.len() > 1)) && !*stopping {
                *stopping = true;
                actions.push(Action::Stop { source: index });
            }
        }
    }

    /// When nobody else is left, slow sources are better than none; and an origin that failed is asked again when peers are
    /// there that do not have what is missing.
    pub(super) fn revive(&mut self, now: Duration) {
        let nobody = self.usable().next().is_none();
        let mut wanting = false;
        let gone =
            |source: &Source| source.is_origin() && matches!(source.state, State::Dropped(_));
        if self.sources.iter().any(gone) && self.has_peers() {
            let covered = |piece: usize| {
                self.usable()
                    .any(|index| self.sources[index].have.contains(piece))
            };
            wanting = self.missing.iter().any(|piece| !covered(piece));
        }
        for source in &mut self.sources {
            let rested = now.saturating_sub(source.dropped_at) >= REVIVAL_PAUSE;
            let back = match source.state {
                State::Dropped(Dropped::Slow { .. }) => nobody,
                State::Dropped(Dropped::Failed) => wanting && rested && source.is_origin(),
                _ => false,
            };
            if back {
                source.state = State::Idle;
                source.slow_since = None;
                // Its map, if it has one, is as old as its dropping.
                source.look_at = now;
            }
        }
    }
}

/// What part of a run a helper takes over.
fn share(helper: &Source, victim: &Source) -> f64 {
    match (helper.rate, victim.rate) {
        (Some(helper), Some(victim)) if helper + victim > 0.0 => helper / (helper + victim),
        _ => 0.5,
    }
}
