//! What is known of one source.

use std::ops::Range;
use std::time::Duration;

use crate::limits::{BROKEN_CLAIMS_MAX, LOOK_PAUSE};
use crate::schedule::{Dropped, Kind};
use crate::set::PieceSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Busy { run: Range<usize>, stopping: bool },
    Resting { until: Duration },
    Dropped(Dropped),
}

#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) kind: Kind,
    pub(super) state: State,
    pub(super) have: PieceSet,
    /// Pieces that are said to come to it, and since when.
    pub(super) claims: Vec<(usize, Duration)>,
    /// Claims that did not come true in time.
    pub(super) broken_claims: u32,
    /// In a row, without a piece in between.
    pub(super) failures: u32,
    pub(super) busy: u32,
    pub(super) stalls: u32,
    pub(super) retries: u32,
    pub(super) wrong: u32,
    /// Bytes per second.
    pub(super) rate: Option<f64>,
    pub(super) slow_since: Option<Duration>,
    /// When it last began a run or had a piece kept.
    pub(super) moved: Duration,
    /// It was asked to shorten its run since then, and had begun all of it: to ask again before anything changes would
    /// go on for ever.
    pub(super) gave_nothing: bool,
    /// It is being stopped because it brought nothing.
    pub(super) stalled: bool,
    /// What it becomes when its run has ended.
    pub(super) sentence: Option<Dropped>,
    /// Since when it is dropped.
    pub(super) dropped_at: Duration,
    /// Its map is being looked at.
    pub(super) looking: bool,
    /// When to look at its map again, and the pause before that.
    pub(super) look_at: Duration,
    pub(super) look_pause: Duration,
    pub(super) look_failures: u32,
}

impl Source {
    pub(super) fn new(kind: Kind, have: PieceSet, now: Duration) -> Self {
        Self {
            kind,
            state: State::Idle,
            have,
            claims: Vec::new(),
            broken_claims: 0,
            failures: 0,
            busy: 0,
            stalls: 0,
            retries: 0,
            wrong: 0,
            rate: None,
            slow_since: None,
            moved: now,
            gave_nothing: false,
            stalled: false,
            sentence: None,
            dropped_at: now,
            looking: false,
            look_at: now,
            look_pause: LOOK_PAUSE,
            look_failures: 0,
        }
    }

    pub(super) fn is_origin(&self) -> bool {
        self.kind == Kind::Origin
    }

    pub(super) fn is_near(&self) -> bool {
        self.kind == Kind::Peer { near: true }
    }

    /// Its run, when it has one that is not being stopped.
    pub(super) fn run(&self) -> Option<&Range<usize>> {
        match &self.state {
            State::Busy {
                run,
                stopping: false,
            } => Some(run),
            _ => None,
        }
    }

    pub(super) fn start(&mut self, run: Range<usize>, now: Duration) {
        self.moved = now;
        self.gave_nothing = false;
        self.state = State::Busy {
            run,
            stopping: false,
        };
    }

    /// Its last piece is given to somebody else. Of a peer that is the same as to bring nothing: one that never does would
    /// get the piece again and again.
    pub(super) fn give_way(&mut self) {
        self.stalled = !self.is_origin();
        self.set_stopping();
    }

    pub(super) fn set_stopping(&mut self) {
        if let State::Busy { stopping, .. } = &mut self.state {
            *stopping = true;
        }
    }

    /// The pieces that are coming to it, as far as it is believed.
    pub(super) fn believed(
        &self,
        now: Duration,
        claim_time: Duration,
    ) -> impl Iterator<Item = usize> {
        let believed = self.broken_claims < BROKEN_CLAIMS_MAX;
        let claims = self
            .claims
            .iter()
            .filter(move |(_, since)| believed && now.saturating_sub(*since) <= claim_time);
        claims.map(|(piece, _)| *piece)
    }
}
