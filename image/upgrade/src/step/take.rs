//! From an offer to the jump: staging, the gates, the turn, the pre-flight, the attempt.

use std::time::Duration;

use super::{Stage, State, Target, Then};
use crate::effect::{Effect, Notice};
use crate::event::{Prepared, Refused};
use crate::image::{Candidate, Place};
use crate::ledger::{Phase, Slot, Trial};
use crate::limits;
use crate::policy::{Admission, Mode, admit};
use crate::reason::Refusal;

impl State {
    /// A newer image was found. It is remembered, whatever goes on, and taken when its time comes.
    pub(super) fn offered(
        &mut self,
        offer: Box<Candidate>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        self.checked = Some("offered".to_owned());
        self.looks = self.looks.saturating_add(1);
        let known = self.offered.as_ref();
        let is_new = known.is_none_or(|known| known.digest != offer.digest);
        if known.is_some_and(|known| is_new && self.is_better(known, &offer)) {
            return;
        }
        if is_new {
            effects.push(Effect::Tell(Notice::Found {
                version: offer.version.clone(),
            }));
            // What was learned about another image does not hold for this one.
            self.offer_refused = None;
            if self.is_free() {
                self.not_before = now;
                self.failures = 0;
            }
        }
        self.offered = Some(offer);
        if self.is_free() {
            self.consider(now, effects);
        }
    }

    /// Whether `known` is kept when `offer` is found as well: the newer one, but for one that is not taken. A release that
    /// failed here, or one of a thief that is implausibly far ahead, must not hide the others.
    fn is_better(&self, known: &Candidate, offer: &Candidate) -> bool {
        let may = |offer| self.may_take(offer, self.is_wanted(offer)).is_ok();
        match (may(known), may(offer)) {
            (true, false) => true,
            (false, true) => false,
            _ => known.rank() > offer.rank(),
        }
    }

    /// Whether an operator's order means this image.
    fn is_wanted(&self, offer: &Candidate) -> bool {
        let is_meant = |wanted: crate::step::Wanted| {
            let digest = wanted.digest;
            digest.is_none_or(|digest| digest == offer.digest)
        };
        self.wanted.is_some_and(is_meant)
    }

    /// Whether nothing goes on that must not be disturbed.
    fn is_free(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Ready)
    }

    /// Begins with what was offered last, when that is better than what is in hand.
    fn consider(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(offer) = self.offered.clone() else {
            return;
        };
        let in_hand = self.target.as_ref().map(|target| target.image.rank());
        if in_hand.is_some_and(|rank| rank >= offer.rank()) {
            return;
        }
        let is_wanted = self.is_wanted(&offer);
        if let Err(refusal) = self.may_take(&offer, is_wanted) {
            self.refuse(&offer, refusal, effects);
            return;
        }
        self.offer_refused = None;
        if self.policy.mode == Mode::Off && !is_wanted {
            self.offer_refused = Some(Refusal::Off);
            return;
        }
        if now < self.not_before && !is_wanted {
            return;
        }
        self.stage_image(offer, now, effects);
    }

    fn may_take(&self, offer: &Candidate, is_wanted: bool) -> Result<(), Refusal> {
        let running = self.running.as_ref().ok_or(Refusal::Busy)?;
        if let Some(refusal) = self.serve_only {
            return Err(refusal);
        }
        if self.wanted.is_some() && !is_wanted {
            return Err(Refusal::WrongDigest);
        }
        if self.returned.is_some_and(|failed| offer.rank() <= failed) && !self.is_forced() {
            return Err(Refusal::Quarantined);
        }
        admit(&Admission {
            offer,
            running,
            ledger: &self.ledger,
            slot_size: self.on_disk.then_some(self.slot_size),
            forced: self.is_forced(),
        })
    }

    /// Says once why an image is not taken.
    fn refuse(&mut self, offer: &Candidate, refusal: Refusal, effects: &mut Vec<Effect>) {
        if self.offer_refused != Some(refusal) {
            effects.push(Effect::Tell(Notice::NotTaken {
                version: offer.version.clone(),
                refusal,
                detail: String::new(),
            }));
        }
        self.offer_refused = Some(refusal);
        self.give_up_order(refusal, effects);
    }

    /// Disk: into a slot first, because that disturbs nobody. Memory: nothing yet.
    fn stage_image(&mut self, offer: Box<Candidate>, now: Duration, effects: &mut Vec<Effect>) {
        let Some(running) = &self.running else { return };
        self.waits = None;
        if !self.on_disk {
            self.target = Some(Target {
                image: offer.at(Place::Memory),
                candidate: Some(offer),
                needs_proof: false,
            });
            self.stage = Stage::Ready;
            return self.look_at_gates(now, effects);
        }
        if let Some((image, _)) = self.ledger.stored(&offer.digest) {
            self.target = Some(Target {
                image: image.clone(),
                candidate: None,
                needs_proof: false,
            });
            self.stage = Stage::Ready;
            return self.look_at_gates(now, effects);
        }
        let Some(place) = self.ledger.free_slot(running.place) else {
            self.target = Some(Target {
                image: offer.at(Place::Memory),
                candidate: Some(offer),
                needs_proof: true,
            });
            self.stage = Stage::Ready;
            return self.look_at_gates(now, effects);
        };
        let mut ledger = self.ledger.clone();
        ledger.mark_dirty(place);
        ledger.seen = ledger.seen.max(offer.rank());
        self.target = Some(Target {
            image: offer.at(place),
            candidate: Some(offer),
            needs_proof: false,
        });
        self.record(ledger, Then::Fetch, effects);
    }

    pub(super) fn fetch(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let candidate = self
            .target
            .as_ref()
            .and_then(|target| target.candidate.clone());
        let Some(candidate) = candidate else {
            return self.give_up(Refusal::NotFetched, "", now, effects);
        };
        self.stage = Stage::Fetching {
            until: now.saturating_add(limits::FETCH_TIME_MAX),
        };
        effects.push(Effect::Fetch(candidate));
    }

    pub(super) fn fetched(
        &mut self,
        result: Result<(), Refused>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Stage::Fetching { .. } = self.stage else {
            return;
        };
        let Some(target) = &self.target else { return };
        let image = target.image.clone();
        match result {
            Err(refused) => self.give_up(refused.refusal, &refused.detail, now, effects),
            Ok(()) if self.on_disk => {
                self.stage = Stage::Writing {
                    until: now.saturating_add(limits::WRITE_TIME_MAX),
                };
                effects.push(Effect::WriteSlot {
                    place: image.place,
                    image: image.digest,
                });
            }
            Ok(()) => self.prepare(now, effects),
        }
    }

    pub(super) fn slot_written(
        &mut self,
        result: Result<(), Refused>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Stage::Writing { .. } = self.stage else {
            return;
        };
        let Some(target) = &mut self.target else {
            return;
        };
        match result {
            Err(refused) => self.give_up(refused.refusal, &refused.detail, now, effects),
            Ok(()) => {
                target.candidate = None;
                let mut ledger = self.ledger.clone();
                ledger.mark_valid(target.image.clone());
                self.record(ledger, Then::Ready, effects);
            }
        }
    }

    /// Goes on when nothing speaks against leaving the running image; else says what does.
    pub(super) fn look_at_gates(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.is_free() {
            self.forget_needless_proof();
            self.consider(now, effects);
        }
        if self.stage != Stage::Ready {
            return;
        }
        let Some(target) = &self.target else {
            self.stage = Stage::Idle;
            return;
        };
        let (digest, version) = (target.image.digest, target.image.version.clone());
        if let Some(refusal) = self.gate(now) {
            if self.waits != Some(refusal) {
                effects.push(Effect::Tell(Notice::Waits { version, refusal }));
            }
            self.waits = Some(refusal);
            return;
        }
        self.waits = None;
        if self.is_forced() || self.has_turn(now) {
            return self.go(now, effects);
        }
        self.stage = Stage::Asking {
            until: now.saturating_add(limits::TURN_ANSWER_MAX),
        };
        effects.push(Effect::AskTurn(digest));
    }

    /// A slot became free: the image can be staged, and nothing need be proved before.
    fn forget_needless_proof(&mut self) {
        let Some(running) = &self.running else { return };
        let waits_for_proof = self
            .target
            .as_ref()
            .is_some_and(|target| target.needs_proof);
        if waits_for_proof && self.ledger.free_slot(running.place).is_some() {
            self.target = None;
            self.stage = Stage::Idle;
        }
    }

    /// What speaks against a trial now, beginning with what lasts longest.
    fn gate(&self, now: Duration) -> Option<Refusal> {
        let forced = self.is_forced();
        let applies = self.policy.mode == Mode::Auto || self.wanted.is_some_and(|w| w.apply);
        let running = self.running.as_ref()?;
        let is_slot = matches!(running.place, Place::A | Place::B);
        let (live, same) = self.neighbours_at(now);
        let target = self.target.as_ref()?;
        let window = |unix| self.policy.window.is_none_or(|window| window.is_open(unix));
        let in_window = self.policy.window.is_none() || self.wall_at(now).is_some_and(window);
        let rules = [
            (
                self.serve_only.is_some(),
                self.serve_only.unwrap_or(Refusal::ServeOnly),
            ),
            (!applies, Refusal::WaitsForOrder),
            (
                self.forgot_a_failure && !self.wanted.is_some_and(|w| w.apply),
                Refusal::AfterReset,
            ),
            (
                self.policy.needs_watchdog && !self.has_watchdog,
                Refusal::NoWatchdog,
            ),
            (
                !forced && self.ledger.kexec_failures >= limits::KEXEC_FAILURES_MAX,
                Refusal::KexecUnfit,
            ),
            // A start that led here counts until it was stable; another restart would count against this image.
            (
                is_slot && !self.is_stable && !self.is_proved(running),
                Refusal::Soaking,
            ),
            (!forced && !in_window, Refusal::Window),
            (!forced && !self.policy.alone && live == 0, Refusal::Alone),
            (
                !forced && !self.policy.alone && !self.on_disk && same == 0,
                Refusal::NoOtherCopy,
            ),
            (!forced && now < self.turn.not_before, Refusal::Turn),
            (now < self.not_before, self.waits.unwrap_or(Refusal::Busy)),
        ];
        // The proof of the running image is a restart, not a jump: it needs no watchdog and no kexec.
        let of_a_jump = [Refusal::NoWatchdog, Refusal::KexecUnfit];
        let counts = |refusal: &Refusal| !(target.needs_proof && of_a_jump.contains(refusal));
        let holds = rules.into_iter().filter(|(holds, _)| *holds);
        holds.map(|(_, refusal)| refusal).find(counts)
    }

    /// Live neighbours, as far as they were seen lately.
    pub(crate) fn neighbours_at(&self, now: Duration) -> (u32, u32) {
        match self.neighbours {
            Some((live, same, at)) if now.saturating_sub(at) <= limits::NEIGHBOURS_FRESH => {
                (live, same)
            }
            Some(_) | None => (0, 0),
        }
    }

    fn has_turn(&self, now: Duration) -> bool {
        let granted = self.turn.granted_at;
        granted.is_some_and(|at| now.saturating_sub(at) < limits::TURN_TIME)
    }

    pub(super) fn turn_answered(
        &mut self,
        granted: bool,
        by: &str,
        reason: &str,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Stage::Asking { .. } = self.stage else {
            let is_lost = !granted && self.turn.granted_at.take().is_some();
            let needs_it = matches!(self.stage, Stage::Fetching { .. } | Stage::Preparing { .. });
            if is_lost && needs_it {
                self.give_up(Refusal::Turn, reason, now, effects);
            }
            return;
        };
        self.turn.granted_at = None;
        if granted {
            self.turn.granted_at = Some(now);
            self.turn.refused_since = None;
            return self.go(now, effects);
        }
        let since = *self.turn.refused_since.get_or_insert(now);
        if now.saturating_sub(since) >= limits::TURN_PATIENCE {
            let text = format!("goes on although {by} refuses the turn: {reason}");
            effects.push(Effect::Tell(Notice::Warning(text)));
            return self.go(now, effects);
        }
        self.turn.not_before = now.saturating_add(self.jitter(limits::TURN_AGAIN));
        self.stage = Stage::Ready;
        self.waits = Some(Refusal::Turn);
        effects.push(Effect::ReleaseTurn);
    }

    /// The gates are open and the turn is ours.
    fn go(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(target) = &self.target else { return };
        if target.needs_proof {
            return self.restart("the running image proves itself by a cold start", effects);
        }
        if self.on_disk {
            self.prepare(now, effects);
        } else {
            self.fetch(now, effects);
        }
    }

    fn prepare(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(target) = &self.target else { return };
        let image = Box::new(target.image.clone());
        self.stage = Stage::Preparing {
            until: now.saturating_add(limits::PREPARE_TIME_MAX),
        };
        effects.push(Effect::Prepare {
            image,
            trial: self.next_trial(),
        });
    }

    pub(super) fn prepared(
        &mut self,
        result: Result<Box<Prepared>, Refused>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Stage::Preparing { .. } = self.stage else {
            if result.is_ok() {
                // Too late: what was given up must not stay loaded.
                effects.push(Effect::Unload);
            }
            return;
        };
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(refused) => return self.not_prepared(&refused, now, effects),
        };
        let is_safe = prepared.watchdog || !self.policy.needs_watchdog;
        let can_return = self.on_disk || prepared.watchdog || prepared.crash_image;
        if !is_safe || !can_return {
            return self.give_up(Refusal::NoWatchdog, "", now, effects);
        }
        if self.turn.granted_at.is_some() && !self.has_turn(now) {
            return self.give_up(Refusal::Turn, "it took too long", now, effects);
        }
        let (Some(target), Some(running)) = (&self.target, &self.running) else {
            return;
        };
        effects.push(Effect::Tell(Notice::Jumping {
            version: target.image.version.clone(),
        }));
        let mut ledger = self.ledger.clone();
        ledger.arm(Trial {
            number: self.next_trial().number,
            image: target.image.clone(),
            from: running.digest,
            phase: Phase::Jump,
            failure: None,
            fingerprint: prepared.fingerprint.bounded(),
        });
        self.record(ledger, Then::Jump, effects);
    }

    /// A slot whose bytes are not those that were written is given up as well.
    fn not_prepared(&mut self, refused: &Refused, now: Duration, effects: &mut Vec<Effect>) {
        let place = self.target.as_ref().map(|target| target.image.place);
        self.give_up(refused.refusal, &refused.detail, now, effects);
        let damaged = place.filter(|_| refused.refusal == Refusal::WrongBytes);
        if let Some(place) = damaged
            && matches!(self.ledger.slot(place), Some(Slot::Valid { .. }))
            && self.stage == Stage::Idle
        {
            let mut ledger = self.ledger.clone();
            ledger.mark_dirty(place);
            self.record(ledger, Then::Idle, effects);
        }
    }

    /// The kernel did not jump: the attempt was none.
    pub(super) fn jump_failed(&mut self, reason: &str, now: Duration, effects: &mut Vec<Effect>) {
        if self.stage != Stage::Jumping {
            return;
        }
        self.give_up(Refusal::NotLoaded, reason, now, effects);
        let mut ledger = self.ledger.clone();
        ledger.trial = None;
        self.record(ledger, Then::Idle, effects);
    }

    /// Ends taking an image, for now: everything is let go of, and the next attempt waits longer than the last.
    pub(super) fn give_up(
        &mut self,
        refusal: Refusal,
        detail: &str,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        match stage {
            Stage::Fetching { .. } | Stage::Writing { .. } => effects.push(Effect::DropFetched),
            Stage::Preparing { .. } | Stage::Jumping => effects.push(Effect::Unload),
            // The record of the armed trial, or of a slot, failed.
            _ => effects.extend([Effect::Unload, Effect::DropFetched]),
        }
        if !self.on_disk && !matches!(stage, Stage::Fetching { .. }) {
            effects.push(Effect::DropFetched);
        }
        if self.turn.granted_at.take().is_some() {
            effects.push(Effect::ReleaseTurn);
        }
        self.failures = self.failures.saturating_add(1);
        let doubled = limits::BACK_OFF.saturating_mul(1 << self.failures.saturating_sub(1).min(8));
        self.not_before = now.saturating_add(self.jitter(doubled.min(limits::BACK_OFF_MAX)));
        if let Some(target) = self.target.take() {
            effects.push(Effect::Tell(Notice::NotTaken {
                version: target.image.version,
                refusal,
                detail: detail.to_owned(),
            }));
        }
        self.waits = Some(refusal);
        self.give_up_order(refusal, effects);
    }

    pub(super) fn say_staged(&mut self, effects: &mut Vec<Effect>) {
        self.failures = 0;
        if let Some(target) = &self.target {
            effects.push(Effect::Tell(Notice::Staged {
                version: target.image.version.clone(),
                place: target.image.place,
            }));
        }
        // An order to stage is carried out; one to apply goes on.
        self.wanted = self.wanted.filter(|wanted| wanted.apply);
    }
}
