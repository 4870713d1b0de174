//! Which source fetches which chunks, and what becomes of sources that fail, lie or lag. Pure: no clock, no I/O, and
//! the only randomness is a seed, so every decision is tested as `(state, event, now) -> actions`.
//!
//! ```text
//!            ┌────── run done, or stopped ──────┐
//!            v                                  │
//! Idle ──Fetch──> Busy ──failed, may pass──> Resting ──pause over──> Idle
//!                  │ └─ wrong bytes, too slow, failed for good ──> Dropped (named in the report)
//! ```
//!
//! - One source alone is asked for everything in one request. Several get runs of a few seconds each, by their rate.
//! - When nothing is left to hand out, an idle source takes the tail of the run that would take longest, and in the end
//!   the very chunk that a stalled one holds up. A chunk is with one source at a time, so that nobody can overwrite what
//!   another one delivered.
//! - A chunk that arrived wrong is asked from another source, alone. Over plain TCP the first wrong chunk may be damage
//!   on the line (16 bit sums miss one in 65,536), so a source is dropped at its second one; TLS rules damage out, so
//!   there the first is enough.
//! - Slowness is no fault: sources dropped for it come back when there is nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::limits::{
    CONNECTIONS_MAX, HEDGE_FACTOR, HEDGE_PAUSE, HEDGE_WAIT_MIN, RATE_WEIGHT_NEW,
    RETRY_DELAY_FACTOR_MAX, RUN_BYTES_MAX, RUN_BYTES_MIN, RUN_TIME, SLOW_FRACTION, SLOW_TIME,
    STEAL_TIME_MIN, WRONG_CHUNKS_MAX,
};

/// What is known from the start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many sources there are; they are numbered from 0.
    pub(crate) sources: usize,
    /// The chunks to fetch, ascending.
    pub(crate) missing: Vec<usize>,
    /// Length of a chunk.
    pub(crate) chunk_size: u64,
    /// Failures in a row that a source may have.
    pub(crate) retries: u32,
    /// Pause after the first of them.
    pub(crate) retry_delay: Duration,
    /// For the jitter of the pauses.
    pub(crate) seed: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A source brought bytes (or none) in a time that it alone is to blame for.
    Traffic {
        source: usize,
        bytes: u64,
        time: Duration,
    },
    /// A chunk of a source verified and is kept.
    Kept { source: usize, chunk: usize },
    /// A chunk of a source has other bytes than the manifest names.
    Wrong {
        source: usize,
        chunk: usize,
        /// The transport excludes damage on the line.
        sealed: bool,
    },
    /// A run was made shorter; it ends before chunk `end` now.
    Shrunk { source: usize, end: usize },
    /// A run is over, and nothing of it is under way any more.
    Ended { source: usize, end: End },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All that was asked for came, or as much of it as the source gives at once.
    Done,
    /// It was stopped by [`Action::Stop`].
    Stopped,
    /// It failed.
    Failed {
        /// The same may succeed in a moment.
        transient: bool,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask a source for a run of chunks.
    Fetch { source: usize, run: Range<usize> },
    /// Let the run of a source end before chunk `end`, if it is not there yet; answered by [`Event::Shrunk`].
    Shrink { source: usize, end: usize },
    /// End the run of a source now.
    Stop { source: usize },
}

/// Why a source is not asked any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// It failed for good, or too often.
    Failed,
    /// It sent wrong bytes.
    Wrong,
    /// Others are much faster.
    Slow {
        /// Its bytes per second.
        rate: u64,
        /// Those of the fastest other one.
        best: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Busy { run: Range<usize>, stopping: bool },
    Resting { until: Duration },
    Dropped(Dropped),
}

#[derive(Clone, Debug)]
struct Source {
    state: State,
    /// In a row, without a chunk in between.
    failures: u32,
    retries: u32,
    wrong: u32,
    /// Bytes per second.
    rate: Option<f64>,
    slow_since: Option<Duration>,
    /// When it last began a run or had a chunk kept.
    moved: Duration,
    /// It was asked to shorten its run since then, and had begun all of it: to ask again before anything changes would
    /// go on for ever.
    gave_nothing: bool,
    /// What it becomes when its run has ended.
    sentence: Option<Dropped>,
}

/// The state of one download.
#[derive(Debug)]
pub(crate) struct Schedule {
    plan: Plan,
    sources: Vec<Source>,
    /// Chunks that are not kept.
    missing: BTreeSet<usize>,
    /// Those of them that nobody is asked for.
    free: BTreeSet<usize>,
    /// Chunks that arrived wrong, and from whom.
    suspects: BTreeMap<usize, BTreeSet<usize>>,
    random: u64,
}

impl Schedule {
    pub(crate) fn new(plan: Plan) -> Self {
        let source = Source {
            state: State::Idle,
            failures: 0,
            retries: 0,
            wrong: 0,
            rate: None,
            slow_since: None,
            moved: Duration::ZERO,
            gave_nothing: false,
            sentence: None,
        };
        let missing: BTreeSet<usize> = plan.missing.iter().copied().collect();
        Self {
            sources: vec![source; plan.sources],
            free: missing.clone(),
            missing,
            suspects: BTreeMap::new(),
            random: plan.seed | 1,
            plan,
        }
    }

    /// Whether every chunk is kept.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether nobody is left to ask.
    pub(crate) fn is_lost(&self) -> bool {
        !self.is_complete() && self.usable().next().is_none()
    }

    /// Why a source is not asked any more, if so.
    pub(crate) fn dropped(&self, source: usize) -> Option<Dropped> {
        let source = self.sources.get(source)?;
        match source.state {
            State::Dropped(why) => Some(why),
            _ => source.sentence,
        }
    }

    /// Failures of a source that were survived.
    #[cfg(test)]
    pub(crate) fn retries(&self, source: usize) -> u32 {
        self.sources.get(source).map_or(0, |source| source.retries)
    }

    /// When to call [`Self::poll`] again though nothing happened.
    pub(crate) fn wake(&self) -> Option<Duration> {
        let resting = |source: &Source| match source.state {
            State::Resting { until } => Some(until),
            _ => None,
        };
        self.sources.iter().filter_map(resting).min()
    }

    /// Takes note of an event.
    pub(crate) fn handle(&mut self, event: &Event, now: Duration) {
        match *event {
            Event::Traffic {
                source,
                bytes,
                time,
            } => self.traffic(source, bytes, time),
            Event::Kept { source, chunk } => {
                self.missing.remove(&chunk);
                self.suspects.remove(&chunk);
                if let Some(source) = self.sources.get_mut(source) {
                    source.failures = 0;
                    source.moved = now;
                    source.gave_nothing = false;
                }
            }
            Event::Wrong {
                source,
                chunk,
                sealed,
            } => self.wrong(source, chunk, sealed),
            Event::Shrunk { source, end } => self.shrunk(source, end),
            Event::Ended { source, end } => self.ended(source, end, now),
        }
    }

    /// Decides what to do now. Each action is carried out before the next call.
    pub(crate) fn poll(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_complete() {
            return actions;
        }
        for source in &mut self.sources {
            if matches!(source.state, State::Resting { until } if until <= now) {
                source.state = State::Idle;
            }
        }
        self.drop_slow(now, &mut actions);
        self.stop_convicts(&mut actions);
        self.revive();
        let mut asked = BTreeSet::new();
        for index in self.idle_by_rate() {
            if self.busy() >= CONNECTIONS_MAX {
                break;
            }
            if let Some(run) = self.next_run(index) {
                for chunk in run.clone() {
                    self.free.remove(&chunk);
                }
                let source = &mut self.sources[index];
                source.moved = now;
                source.gave_nothing = false;
                source.state = State::Busy {
                    run: run.clone(),
                    stopping: false,
                };
                actions.push(Action::Fetch { source: index, run });
            } else if let Some(action) = self.relieve(index, &asked, now) {
                match action {
                    Action::Shrink { source, .. } => {
                        asked.insert(source);
                    }
                    Action::Stop { source } => self.set_stopping(source),
                    Action::Fetch { .. } => {}
                }
                actions.push(action);
            }
        }
        actions
    }

    fn set_stopping(&mut self, index: usize) {
        if let State::Busy { stopping, .. } = &mut self.sources[index].state {
            *stopping = true;
        }
    }

    /// Sources that are not dropped, and will not be.
    fn usable(&self) -> impl Iterator<Item = usize> {
        (0..self.sources.len()).filter(|&index| self.dropped(index).is_none())
    }

    fn busy(&self) -> usize {
        let busy = |source: &&Source| matches!(source.state, State::Busy { .. });
        self.sources.iter().filter(busy).count()
    }

    /// The fastest first; in the order they were given while nothing is known.
    fn idle_by_rate(&self) -> Vec<usize> {
        let mut idle: Vec<usize> = (0..self.sources.len())
            .filter(|&index| self.sources[index].state == State::Idle)
            .collect();
        let rate = |&index: &usize| self.sources[index].rate.unwrap_or(f64::INFINITY);
        idle.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        idle
    }

    /// What to ask an idle source for: a chunk that somebody else sent wrong, or the first row of free ones.
    fn next_run(&self, index: usize) -> Option<Range<usize>> {
        let alone = self.usable().all(|other| other == index);
        let own = |from: &BTreeSet<usize>| from.contains(&index);
        // When everybody sent it wrong, somebody has to try again, and be dropped for it.
        let by_all = |from: &BTreeSet<usize>| self.usable().all(|other| from.contains(&other));
        let suspect = self
            .suspects
            .iter()
            .find(|(chunk, from)| self.free.contains(chunk) && (!own(from) || by_all(from)));
        if let Some((&chunk, _)) = suspect {
            return Some(chunk..chunk + 1);
        }
        let clean = |chunk: &&usize| !self.suspects.contains_key(chunk);
        let first = *self.free.iter().find(clean)?;
        let most = if alone {
            usize::MAX
        } else {
            self.run_length(index)
        };
        let row = self
            .free
            .range(first..)
            .zip(first..)
            .take_while(|&(&chunk, expected)| {
                chunk == expected && !self.suspects.contains_key(&chunk)
            })
            .take(most);
        Some(first..first + row.count())
    }

    /// Chunks for one request of a source beside others.
    fn run_length(&self, index: usize) -> usize {
        let bytes = match self.sources[index].rate {
            None => RUN_BYTES_MIN,
            Some(rate) => {
                ((rate * RUN_TIME.as_secs_f64()) as u64).clamp(RUN_BYTES_MIN, RUN_BYTES_MAX)
            }
        };
        usize::try_from(bytes / self.plan.chunk_size)
            .unwrap_or(usize::MAX)
            .max(1)
    }

    /// What an idle source can do for a busy one when nothing is free: shorten its run, or take its last chunk from it.
    fn relieve(&self, index: usize, asked: &BTreeSet<usize>, now: Duration) -> Option<Action> {
        let helper_rate = self.sources[index].rate;
        let chunk_size = self.plan.chunk_size as f64;
        let mut best: Option<(f64, Action)> = None;
        for (victim, source) in self.sources.iter().enumerate() {
            let State::Busy {
                run,
                stopping: false,
            } = &source.state
            else {
                continue;
            };
            if asked.contains(&victim) {
                continue;
            }
            let Some(current) = run.clone().find(|chunk| self.missing.contains(chunk)) else {
                continue;
            };
            let waiting = run.end.saturating_sub(current + 1);
            let left = (waiting + 1) as f64 * chunk_size;
            let time = source.rate.map_or(f64::INFINITY, |rate| left / rate);
            if waiting > 0 && !source.gave_nothing && time > STEAL_TIME_MIN.as_secs_f64() {
                let share = match (helper_rate, source.rate) {
                    (Some(helper), Some(victim)) if helper + victim > 0.0 => {
                        helper / (helper + victim)
                    }
                    _ => 0.5,
                };
                let taken = ((waiting as f64 * share) as usize).clamp(1, waiting);
                let end = run.end - taken;
                if best.as_ref().is_none_or(|(most, _)| time > *most) {
                    best = Some((
                        time,
                        Action::Shrink {
                            source: victim,
                            end,
                        },
                    ));
                }
            } else if waiting == 0
                && best.is_none()
                && !self.is_suspect_of(current, index)
                && self.is_held_up(source, helper_rate, now)
            {
                best = Some((0.0, Action::Stop { source: victim }));
            }
        }
        best.map(|(_, action)| action)
    }

    /// Whether a source takes so long over its last chunk that a helper of this rate would be done sooner, from its start.
    fn is_held_up(&self, victim: &Source, helper_rate: Option<f64>, now: Duration) -> bool {
        let chunk_size = self.plan.chunk_size as f64;
        let waited = now.saturating_sub(victim.moved);
        match (helper_rate, victim.rate) {
            (Some(helper), rate) => {
                let own = chunk_size / helper.max(1.0) * f64::from(HEDGE_FACTOR);
                let left = rate.map_or(f64::INFINITY, |rate| chunk_size / rate);
                waited.as_secs_f64() > own.max(HEDGE_WAIT_MIN.as_secs_f64()) && left > own
            }
            // A helper that nothing is known about is better than a silent source only.
            (None, Some(rate)) => rate < 1.0 && waited > HEDGE_WAIT_MIN,
            (None, None) => waited > HEDGE_WAIT_MIN,
        }
    }

    fn is_suspect_of(&self, chunk: usize, index: usize) -> bool {
        self.suspects
            .get(&chunk)
            .is_some_and(|from| from.contains(&index))
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

    fn wrong(&mut self, index: usize, chunk: usize, sealed: bool) {
        self.suspects.entry(chunk).or_default().insert(index);
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        source.wrong += 1;
        let limit = if sealed { 1 } else { WRONG_CHUNKS_MAX };
        if source.wrong >= limit {
            source.sentence = Some(Dropped::Wrong);
        }
    }

    fn shrunk(&mut self, index: usize, end: usize) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        if let State::Busy { run, .. } = &mut source.state {
            let released = end.min(run.end)..run.end;
            source.gave_nothing = released.is_empty();
            run.end = released.start;
            for chunk in released {
                if self.missing.contains(&chunk) {
                    self.free.insert(chunk);
                }
            }
        }
    }

    fn ended(&mut self, index: usize, end: End, now: Duration) {
        let random = self.next_random();
        let (retries, retry_delay) = (self.plan.retries, self.plan.retry_delay);
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut source.state, State::Idle);
        source.slow_since = None;
        if let Some(why) = source.sentence.take() {
            source.state = State::Dropped(why);
        } else if let End::Failed { transient } = end {
            if transient && source.failures < retries {
                let pause = jittered(retry_delay, source.failures, random);
                source.state = State::Resting { until: now + pause };
                source.failures += 1;
                source.retries += 1;
            } else {
                source.state = State::Dropped(Dropped::Failed);
            }
        } else if end == End::Stopped && source.wrong == 0 {
            // It was in the way of somebody faster.
            let until = now + HEDGE_PAUSE;
            source.state = State::Resting { until };
        }
        if let State::Busy { run, .. } = before {
            for chunk in run {
                if self.missing.contains(&chunk) {
                    self.free.insert(chunk);
                }
            }
        }
    }

    /// Passes sentence on sources that are much slower than others for a while.
    fn drop_slow(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let rates: Vec<(usize, f64)> = self
            .usable()
            .filter_map(|index| Some((index, self.sources[index].rate?)))
            .collect();
        for &(index, rate) in &rates {
            let others = rates.iter().filter(|(other, _)| *other != index);
            let best = others.map(|(_, rate)| *rate).fold(0.0, f64::max);
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

    /// Stops the runs of sources that just sent something wrong.
    fn stop_convicts(&mut self, actions: &mut Vec<Action>) {
        for (index, source) in self.sources.iter_mut().enumerate() {
            let State::Busy { run, stopping } = &mut source.state else {
                continue;
            };
            let convicted = run.clone().any(|chunk| {
                let from = self.suspects.get(&chunk);
                from.is_some_and(|from| from.contains(&index))
            });
            // The second attempt at a chunk has the chunk alone, and ends by itself.
            if convicted && run.len() > 1 && !*stopping {
                *stopping = true;
                actions.push(Action::Stop { source: index });
            }
        }
    }

    /// When nobody else is left, slow sources are better than none.
    fn revive(&mut self) {
        if self.usable().next().is_some() {
            return;
        }
        for source in &mut self.sources {
            if matches!(source.state, State::Dropped(Dropped::Slow { .. })) {
                source.state = State::Idle;
                source.slow_since = None;
            }
        }
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64: enough to keep a hundred machines from asking in step.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// The pause after the `failures`-th failure in a row: doubled each time up to a bound, and between half and all of that
/// by chance, so that clients that failed together do not come back together.
pub(crate) fn jittered(first: Duration, failures: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    let whole = first.saturating_mul(factor.min(RETRY_DELAY_FACTOR_MAX));
    let part = (random >> 40) as f64 / (1_u64 << 24) as f64;
    whole / 2 + (whole / 2).mul_f64(part)
}

/// A seed for [`Plan`] that differs between processes.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
