//! Which piece an idle source is asked for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use crate::limits::{
    CLAIM_FACTOR, CLAIM_TIME_MAX, CLAIM_TIME_MIN, CROWD_RUN_TIME, LOOK_COST, LOOK_FACTOR,
    LOOK_PAUSE, LOOK_PAUSE_MIN, ORIGINS_AT_ONCE, OUTSIDE_AT_ONCE, PATIENCE_FACTOR, PATIENCE_MAX,
    PATIENCE_MIN, PEERS_AT_ONCE, RUN_BYTES_MAX, RUN_BYTES_MIN, RUN_TIME,
};
use crate::schedule::{Kind, Schedule, State};
use crate::set::PieceSet;

/// What near peers get, as far as they are believed.
pub(super) struct Outside {
    /// Pieces that come to some near peer, and to how many.
    coming: PieceSet,
    copies: Vec<u16>,
    /// It is this machine's turn to fetch from outside: neither do enough near peers already, nor should all that could.
    is_turn: bool,
    /// Nothing was kept for so long that nothing is left to others.
    is_urgent: bool,
}

impl Schedule {
    /// Makes the map of a source count.
    pub(super) fn set_have(&mut self, index: usize, have: PieceSet) {
        let source = &mut self.sources[index];
        let before = std::mem::replace(&mut source.have, have);
        let counts = match source.kind {
            Kind::Origin => return,
            Kind::Peer { near: true } => &mut self.near,
            Kind::Peer { near: false } => &mut self.far,
        };
        let after = &source.have;
        for piece in after.without(&before) {
            counts[piece] += 1;
        }
        for piece in before.without(after) {
            counts[piece] -= 1;
        }
    }

    /// Whether a peer is near, as far as there is a difference: those of a machine that has no near ones are all alike to it.
    pub(super) fn is_close(&self, index: usize) -> bool {
        let source = &self.sources[index];
        !source.is_origin() && (source.is_near() || !self.has_near)
    }

    /// How many of these have a piece.
    fn close_copies(&self, piece: usize) -> u16 {
        match self.has_near {
            true => self.near[piece],
            false => self.far[piece],
        }
    }

    /// How long nothing may come before the origin is asked for what others have or get.
    pub(super) fn patience(&self) -> Duration {
        scaled(self.piece_time, PATIENCE_FACTOR, PATIENCE_MIN, PATIENCE_MAX)
    }

    /// Between two looks at a map that changes: by then a peer most likely has something new.
    pub(super) fn look_pause(&self) -> Duration {
        let peers = u32::try_from(self.peers().count()).unwrap_or(u32::MAX);
        let least = LOOK_PAUSE_MIN.max(LOOK_COST.saturating_mul(peers));
        scaled(self.piece_time, LOOK_FACTOR, least, LOOK_PAUSE.max(least))
    }

    pub(super) fn outside(&mut self, now: Duration) -> Outside {
        let mut outside = Outside {
            coming: PieceSet::new(self.plan.pieces.count()),
            copies: vec![0; self.plan.pieces.count()],
            is_turn: true,
            is_urgent: now.saturating_sub(self.progress) >= self.patience(),
        };
        let claim_time = scaled(
            self.piece_time,
            CLAIM_FACTOR,
            CLAIM_TIME_MIN,
            CLAIM_TIME_MAX,
        );
        let (mut busy, mut contenders) = (0, 1);
        for index in self.peers().filter(|&index| self.is_close(index)) {
            let source = &self.sources[index];
            let mut is_outside = false;
            for piece in source.believed(now, claim_time) {
                outside.coming.insert(piece);
                outside.copies[piece] += 1;
                is_outside |= self.close_copies(piece) == 0;
            }
            busy += usize::from(is_outside);
            contenders += usize::from(!source.have.is_full());
        }
        if contenders > 1 {
            outside.is_turn = self.take_turn(&outside.coming, busy, contenders, now);
        }
        outside
    }

    /// Chance decides who of those that could goes to fetch from outside, once for each look at the maps of the others: on
    /// average as many as there is room for. Without it all would go at the same moment, and for the same pieces.
    fn take_turn(
        &mut self,
        coming: &PieceSet,
        busy: usize,
        contenders: usize,
        now: Duration,
    ) -> bool {
        let unseen = self
            .free
            .without(coming)
            .filter(|&piece| self.close_copies(piece) == 0);
        let room = OUTSIDE_AT_ONCE.min(unseen.count()).saturating_sub(busy);
        if room == 0 {
            self.is_turn = false;
        } else if self.turn_at <= now {
            self.is_turn = self.random.below(contenders) < room;
            self.turn_at = now + self.look_pause();
        }
        self.is_turn
    }

    /// Idle sources of the kinds that there is room for: near peers first and the origin last, unless it is urgent; the fastest origin first, and peers by
    /// chance.
    pub(super) fn idle_in_order(&mut self, outside: &Outside, room: [usize; 2]) -> Vec<usize> {
        let place = if outside.is_urgent { 0 } else { 3 };
        let mut idle: Vec<usize> = (0..self.sources.len())
            .filter(|&index| {
                let source = &self.sources[index];
                source.state == State::Idle && room[usize::from(source.is_origin())] > 0
            })
            .collect();
        self.random.shuffle(&mut idle);
        let rank = |&index: &usize| match self.sources[index].kind {
            Kind::Peer { .. } if self.is_close(index) => (1, 0.0, 0),
            Kind::Peer { .. } => (2, 0.0, 0),
            // In the order they were given while nothing is known.
            Kind::Origin => {
                let rate = self.sources[index].rate.unwrap_or(f64::INFINITY);
                (place, -rate, index)
            }
        };
        idle.sort_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
        });
        idle
    }

    /// How many more peers, and how many more origins, may be asked.
    pub(super) fn room(&self) -> [usize; 2] {
        let mut room = [PEERS_AT_ONCE, ORIGINS_AT_ONCE];
        for source in &self.sources {
            if matches!(source.state, State::Busy { .. }) {
                let room = &mut room[usize::from(source.is_origin())];
                *room = room.saturating_sub(1);
            }
        }
        room
    }

    /// What to ask an idle source for.
    pub(super) fn next_run(&mut self, index: usize, outside: &Outside) -> Option<Range<usize>> {
        if self.has_peers() {
            self.rarest(index, outside)
        } else {
            self.next_row(index)
        }
    }

    /// Among origins only: a piece that somebody else sent wrong, or the next row of free ones.
    fn next_row(&self, index: usize) -> Option<Range<usize>> {
        let source = &self.sources[index];
        let asks = |piece: &usize| source.have.contains(*piece);
        let suspect = self.suspects.keys().copied().filter(asks);
        let mut suspect =
            suspect.filter(|&piece| self.free.contains(piece) && self.may_try(index, piece));
        if let Some(piece) = suspect.next() {
            return Some(piece..piece + 1);
        }
        let clean = |piece: &usize| !self.suspects.contains_key(piece);
        let candidates = || self.free.both(&source.have).filter(clean);
        let first = candidates().find(|&piece| piece >= self.cursor);
        let first = first.or_else(|| candidates().next())?;
        let alone = self.usable().all(|other| other == index);
        let most = if alone {
            usize::MAX
        } else {
            self.run_length(index, first, RUN_TIME, RUN_BYTES_MIN)
        };
        Some(self.extended(index, first, most, |_| true))
    }

    /// Among peers: what the fewest near ones have, of what this one is the right one to ask for.
    fn rarest(&mut self, index: usize, outside: &Outside) -> Option<Range<usize>> {
        let source = &self.sources[index];
        let is_near = self.is_close(index);
        if !self.free.meets(&source.have) {
            return None;
        }
        if !is_near && !outside.is_turn && !outside.is_urgent {
            return None;
        }
        let is_origin = source.is_origin();
        let may_ask = |piece: usize| {
            let is_last_resort = is_near
                || outside.is_urgent
                || (self.close_copies(piece) == 0
                    && !outside.coming.contains(piece)
                    && (!is_origin || self.far[piece] == 0));
            is_last_resort && self.may_try(index, piece)
        };
        let rarity = |piece: usize| {
            let coming = outside.copies[piece];
            (self.close_copies(piece) + coming, self.far[piece])
        };
        let (mut best, mut first, mut ties) = ((u16::MAX, u16::MAX), None, 0);
        let mut random = self.random.clone();
        for piece in self.free.both(&source.have) {
            let rarity = rarity(piece);
            if rarity > best || !may_ask(piece) {
                continue;
            }
            ties = if rarity < best { 1 } else { ties + 1 };
            best = rarity;
            if random.below(ties) == 0 {
                first = Some(piece);
            }
        }
        let first = first?;
        let most = if self.suspects.contains_key(&first) {
            1
        } else {
            self.run_length(index, first, CROWD_RUN_TIME, 0)
        };
        let run = self.extended(index, first, most, |piece| {
            rarity(piece) <= best && may_ask(piece)
        });
        self.random = random;
        Some(run)
    }

    /// A run from `first` on: free pieces of one file that the source has and nobody sent wrong.
    fn extended(
        &self,
        index: usize,
        first: usize,
        most: usize,
        goes_on: impl Fn(usize) -> bool,
    ) -> Range<usize> {
        let row = first + 1..self.plan.pieces.row_of(first).end;
        let more = row.take_while(|&piece| {
            self.free.contains(piece)
                && self.sources[index].have.contains(piece)
                && !self.suspects.contains_key(&piece)
                && goes_on(piece)
        });
        first..first + 1 + more.take(most.saturating_sub(1)).count()
    }

    /// Whether a source did not send this piece wrong. When everybody who has it did, somebody has to try again, and be
    /// dropped for it.
    fn may_try(&self, index: usize, piece: usize) -> bool {
        let Some(from) = self.suspects.get(&piece) else {
            return true;
        };
        let by_all = |from: &BTreeSet<usize>| {
            let mut have = self
                .usable()
                .filter(|&other| self.sources[other].have.contains(piece));
            have.all(|other| from.contains(&other))
        };
        !from.contains(&index) || by_all(from)
    }

    /// Pieces for one request of a source beside others: what it brings in this time.
    pub(super) fn run_length(
        &self,
        index: usize,
        first: usize,
        time: Duration,
        bytes_min: u64,
    ) -> usize {
        let bytes = match self.sources[index].rate {
            None => bytes_min,
            Some(rate) => ((rate * time.as_secs_f64()) as u64).clamp(bytes_min, RUN_BYTES_MAX),
        };
        let piece = self.plan.pieces.locate(first);
        let file = piece.and_then(|(file, _)| self.plan.pieces.files().get(file));
        let pieces = file.map_or(1, |file| bytes / file.chunk_size);
        usize::try_from(pieces).unwrap_or(usize::MAX).max(1)
    }
}

/// So many times a number of seconds, within bounds.
pub(super) fn scaled(seconds: f64, factor: f64, least: Duration, most: Duration) -> Duration {
    let scaled = (seconds * factor).clamp(least.as_secs_f64(), most.as_secs_f64());
    Duration::from_secs_f64(scaled)
}
