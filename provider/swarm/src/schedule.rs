//! Which source fetches which pieces, and what becomes of sources that fail, lie or lag. Pure: no clock, no I/O, and
//! the only randomness is a seed, so every decision is tested as `(state, event, now) -> actions`.
//!
//! ```text
//!            ┌────── run done, or stopped ──────┐
//!            v                                  │
//! Idle ──Fetch──> Busy ──failed, or busy───> Resting ──pause over──> Idle
//!                  │ └─ wrong bytes, too slow, failed for good ──> Dropped (named in the report)
//! ```
//!
//! Origins have everything, or whole files of it. Peers fetch the same and have what they fetched so far: they tell so in
//! maps, which are looked at again and again.
//!
//! - One origin alone is asked for everything in one request. Several get runs of a few seconds each, by their rate.
//! - As soon as there are peers, runs are short, and a long one under way is cut. Near peers are asked for what the fewest
//!   of them have, ties by chance. Whatever a near peer has, or is just getting, nobody is asked for who is not near; and
//!   the origin for nothing that any peer has. When nothing was kept for a while these rules are suspended, so that nobody
//!   who makes false claims can hold up a download. To a machine that has no near peers, as where each has a network of its
//!   own, all peers are near.
//! - When nothing is left to hand out, an idle source takes the tail of the run that would take longest, and in the end
//!   the very piece that a stalled one holds up. A piece is with one source at a time, so that nobody can overwrite what
//!   another one delivered.
//! - A piece that arrived wrong is asked from another source, alone. Over plain TCP the first wrong piece may be damage
//!   on the line (16 bit sums miss one in 65,536), so an origin is dropped at its second one; TLS rules damage out, and
//!   peers are many, so there the first is enough.
//! - Slowness is no fault: sources dropped for it come back when there is nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::limits::{COMING_AHEAD, LOOK_PAUSE, NEIGHBOURS_MAX, SOURCES_MAX, STARVED_TIME};
use crate::pieces::Pieces;
use crate::random::Random;
use crate::schedule::source::{Source, State};
use crate::set::PieceSet;

mod choice;
mod events;
mod relief;
mod source;

/// What is known from the start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything that belongs to the download, fetched or not.
    pub pieces: Pieces,
    /// The pieces to fetch.
    pub missing: PieceSet,
    /// Failures in a row that a source may have.
    pub retries: u32,
    /// Pause after the first of them.
    pub retry_delay: Duration,
    /// Others may start at this moment too: begin where chance says, so that each has something else to give.
    pub scattered: bool,
    /// For everything that is left to chance.
    pub seed: u64,
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has everything, or whole files of it, and others depend on it as well.
    Origin,
    /// It fetches the same.
    Peer {
        /// It is in the same network: what comes from it costs nobody else's way to the outside.
        near: bool,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A source brought bytes (or none) in a time that it alone is to blame for.
    Traffic {
        /// Which one.
        source: usize,
        /// What it brought.
        bytes: u64,
        /// In how long.
        time: Duration,
    },
    /// A piece of a source verified and is kept.
    Kept {
        /// Which one.
        source: usize,
        /// The piece.
        piece: usize,
    },
    /// A piece of a source has other bytes than the manifest names.
    Wrong {
        /// Which one.
        source: usize,
        /// The piece.
        piece: usize,
        /// The transport excludes damage on the line.
        sealed: bool,
    },
    /// A run was made shorter; it ends before piece `end` now.
    Shrunk {
        /// Whose run.
        source: usize,
        /// Where it ends.
        end: usize,
    },
    /// What a source says that it has, and gets. Answers [`Action::Look`], and may come unasked.
    Map {
        /// Which one.
        source: usize,
        /// What it has.
        have: PieceSet,
        /// What is on its way to it.
        coming: PieceSet,
    },
    /// The map of a source could not be had. Answers [`Action::Look`].
    Unread {
        /// Which one.
        source: usize,
    },
    /// A source is gone: its run is stopped, and it is not asked again.
    Left {
        /// Which one.
        source: usize,
    },
    /// A run is over, and nothing of it is under way any more.
    Ended {
        /// Whose run.
        source: usize,
        /// How.
        end: End,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All that was asked for came, or as much of it as the source gives at once.
    Done,
    /// It was stopped by [`Action::Stop`].
    Stopped,
    /// The source does not have that file.
    Absent,
    /// The source has no place for one more, or not this piece yet: no fault.
    Busy {
        /// When it wants to be asked again.
        retry_after: Duration,
    },
    /// It failed.
    Failed {
        /// The same may succeed in a moment.
        transient: bool,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a source for a run of pieces, all of one file.
    Fetch {
        /// Which one.
        source: usize,
        /// The pieces.
        run: Range<usize>,
    },
    /// Let the run of a source end before piece `end`, if it is not there yet; answered by [`Event::Shrunk`].
    Shrink {
        /// Whose run.
        source: usize,
        /// Where to end.
        end: usize,
    },
    /// End the run of a source now.
    Stop {
        /// Whose run.
        source: usize,
    },
    /// Look at the map of a peer; answered by [`Event::Map`], [`Event::Unread`] or [`Event::Left`].
    Look {
        /// Which one.
        source: usize,
    },
}

/// Why a source is not asked any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It failed for good, or too often.
    Failed,
    /// It sent wrong bytes.
    Wrong,
    /// It brought nothing for too long.
    Stalled,
    /// It said that it is gone.
    Left,
    /// Others are much faster.
    Slow {
        /// Its bytes per second.
        rate: u64,
        /// Those of the fastest other one.
        best: u64,
    },
}

/// The state of one download.
#[derive(Debug)]
pub struct Schedule {
    plan: Plan,
    sources: Vec<Source>,
    /// Pieces that are not kept.
    missing: PieceSet,
    /// Those of them that nobody is asked for.
    free: PieceSet,
    /// Pieces that arrived wrong, and from whom.
    suspects: BTreeMap<usize, BTreeSet<usize>>,
    /// How many near peers have a piece, and how many others.
    near: Vec<u16>,
    far: Vec<u16>,
    /// There are near peers.
    has_near: bool,
    /// Where an origin goes on when there are no peers.
    cursor: usize,
    /// When a piece was kept last.
    progress: Duration,
    /// What a piece took lately, in seconds.
    piece_time: f64,
    /// It is this machine's turn to fetch from outside, and when chance decides that anew.
    is_turn: bool,
    turn_at: Duration,
    random: Random,
}

impl Schedule {
    /// A download that nobody takes part in yet.
    pub fn new(plan: Plan) -> Self {
        let count = plan.pieces.count();
        let mut random = Random::new(plan.seed);
        let cursor = if plan.scattered {
            random.below(count)
        } else {
            0
        };
        Self {
            sources: Vec::new(),
            missing: plan.missing.clone(),
            free: plan.missing.clone(),
            suspects: BTreeMap::new(),
            near: vec![0; count],
            far: vec![0; count],
            has_near: false,
            cursor,
            progress: Duration::ZERO,
            piece_time: 0.0,
            is_turn: false,
            turn_at: Duration::ZERO,
            random,
            plan,
        }
    }

    /// A source takes part from now on; returns its number. `has` is what it is known to have: nothing known means
    /// everything for an origin, and for a peer that its map is looked at first. `None`: too many took part already.
    pub fn join(&mut self, kind: Kind, has: Option<PieceSet>, now: Duration) -> Option<usize> {
        if self.sources.len() >= SOURCES_MAX {
            return None;
        }
        let index = self.sources.len();
        if index == 0 {
            self.progress = now;
        }
        let count = self.plan.pieces.count();
        let known = has.is_some();
        let have = has.unwrap_or_else(|| match kind {
            Kind::Origin => PieceSet::full(count),
            Kind::Peer { .. } => PieceSet::new(count),
        });
        let mut source = Source::new(kind, PieceSet::new(count), now);
        if known {
            source.look_at = now + LOOK_PAUSE;
        }
        self.sources.push(source);
        self.set_have(index, have);
        Some(index)
    }

    /// Whether every piece is kept.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether nobody is left to ask, or nobody has had anything to give for long.
    pub fn is_lost(&self, now: Duration) -> bool {
        if self.is_complete() {
            return false;
        }
        let gives = |index: usize| self.sources[index].have.meets(&self.missing);
        let may_wait = now.saturating_sub(self.progress) <= STARVED_TIME && self.has_peers();
        !may_wait && !self.usable().any(gives)
    }

    /// Why a source is not asked any more, if so.
    pub fn dropped(&self, source: usize) -> Option<Dropped> {
        let source = self.sources.get(source)?;
        match source.state {
            State::Dropped(why) => Some(why),
            _ => source.sentence,
        }
    }

    /// Failures of a source that were survived.
    pub fn retries(&self, source: usize) -> u32 {
        self.sources.get(source).map_or(0, |source| source.retries)
    }

    /// The pieces that are not kept.
    pub fn missing(&self) -> &PieceSet {
        &self.missing
    }

    /// The pieces that are on their way, for the map that this machine gives of itself.
    pub fn coming(&self) -> PieceSet {
        let mut coming = PieceSet::new(self.plan.pieces.count());
        for source in &self.sources {
            if let State::Busy { run, .. } = &source.state {
                let under_way = run.clone().filter(|&piece| self.missing.contains(piece));
                for piece in under_way.take(COMING_AHEAD) {
                    coming.insert(piece);
                }
            }
        }
        coming
    }

    /// How many more peers are of use.
    pub fn peers_wanted(&self) -> usize {
        if self.is_complete() {
            return 0;
        }
        NEIGHBOURS_MAX.saturating_sub(self.peers().count())
    }

    /// When to call [`Self::poll`] again though nothing happened; later than now.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        if self.is_complete() {
            return None;
        }
        let resting = self.sources.iter().filter_map(|source| match source.state {
            State::Resting { until } => Some(until),
            _ => None,
        });
        let looks = self.peers().map(|index| &self.sources[index]);
        let looks = looks.filter(|source| !source.looking && self.is_worth_a_look(source));
        let patience = self.has_peers().then(|| self.progress + self.patience());
        let wakes = resting.chain(looks.map(|source| source.look_at));
        let turn = self.has_peers().then_some(self.turn_at);
        wakes
            .chain(patience)
            .chain(turn)
            .filter(|wake| *wake > now)
            .min()
    }

    /// Decides what to do now. Each action is carried out before the next call.
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
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
        self.stop_stalled(now, &mut actions);
        self.stop_convicts(&mut actions);
        self.revive(now);
        let has_near = self.peers().any(|index| self.sources[index].is_near());
        self.has_near = has_near;
        self.look(now, &mut actions);
        if self.has_peers() {
            self.shorten(&mut actions);
        }
        let outside = self.outside(now);
        let mut asked = BTreeSet::new();
        let mut room = self.room();
        for index in self.idle_in_order(&outside, room) {
            let is_origin = self.sources[index].is_origin();
            if room[usize::from(is_origin)] == 0 {
                continue;
            }
            if let Some(run) = self.next_run(index, &outside) {
                room[usize::from(is_origin)] -= 1;
                self.hand_out(index, run.clone(), now);
                actions.push(Action::Fetch { source: index, run });
            } else if let Some(action) = self.relieve(index, &asked, now) {
                match action {
                    Action::Shrink { source, .. } => {
                        asked.insert(source);
                    }
                    Action::Stop { source } => self.sources[source].give_way(),
                    Action::Fetch { .. } | Action::Look { .. } => {}
                }
                actions.push(action);
            }
        }
        actions
    }

    fn hand_out(&mut self, index: usize, run: Range<usize>, now: Duration) {
        for piece in run.clone() {
            self.free.remove(piece);
        }
        if self.plan.scattered {
            self.cursor = run.end;
        }
        if !self.is_close(index) {
            self.is_turn = false;
        }
        let source = &mut self.sources[index];
        source.start(run, now);
    }

    /// Sources that are not dropped, and will not be.
    fn usable(&self) -> impl Iterator<Item = usize> {
        (0..self.sources.len()).filter(|&index| self.dropped(index).is_none())
    }

    /// Peers that are not dropped.
    fn peers(&self) -> impl Iterator<Item = usize> {
        self.usable()
            .filter(|&index| self.sources[index].kind != Kind::Origin)
    }

    fn has_peers(&self) -> bool {
        self.peers().next().is_some()
    }
}

#[cfg(test)]
mod tests;
