//! What operators order. An order is carried out, refused with a reason, or waits for the look that it causes.

use std::time::Duration;

use boot_manifest::Action;

use super::{Stage, State, Then, Wanted};
use crate::effect::{Effect, Notice};
use crate::event::{Event, Order};
use crate::image::ImageRef;
use crate::ledger::Phase;
use crate::reason::{Failure, Reason, Refusal};

impl State {
    pub(super) fn order(&mut self, order: Order, now: Duration, effects: &mut Vec<Effect>) {
        if self.puts_off(&Event::Ordered(order)) {
            return;
        }
        if let Err(refusal) = self.carry_out(order, now, effects) {
            effects.push(Effect::Tell(Notice::OrderRefused(refusal)));
        }
    }

    fn carry_out(
        &mut self,
        order: Order,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        match &self.stage {
            Stage::Ended | Stage::Returning => return Err(Refusal::Ending),
            Stage::New | Stage::Recording { .. } | Stage::Starting | Stage::Jumping => {
                return Err(Refusal::Busy);
            }
            Stage::Trial { phase, .. } => {
                let phase = *phase;
                return self.order_on_trial(order, phase, now, effects);
            }
            Stage::Idle
            | Stage::Ready
            | Stage::Asking { .. }
            | Stage::Fetching { .. }
            | Stage::Writing { .. }
            | Stage::Preparing { .. } => {}
        }
        match order.action {
            Action::Check => effects.push(Effect::Look),
            Action::Stage | Action::Apply => return self.order_image(order, now, effects),
            Action::Commit => return Err(Refusal::NothingOnTrial),
            Action::Rollback => return self.roll_back(order, now, effects),
        }
        Ok(())
    }

    /// The image on trial can be kept early or given up; everything else waits for its end.
    fn order_on_trial(
        &mut self,
        order: Order,
        phase: Phase,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let running = self.running.as_ref().map(|image| image.digest);
        match order.action {
            Action::Commit => {
                if order.digest.is_some() && order.digest != running {
                    return Err(Refusal::WrongDigest);
                }
                if phase != Phase::Soak || self.serving_since.is_none() {
                    return Err(Refusal::NotPassed);
                }
                self.commit(now, effects);
                Ok(())
            }
            Action::Rollback => {
                self.fail(Failure::new(Reason::Operator, phase, ""), effects);
                Ok(())
            }
            Action::Check | Action::Stage | Action::Apply => Err(Refusal::OnTrial),
        }
    }

    /// Stage or apply: what is in hand, or what was offered, or what a look brings.
    fn order_image(
        &mut self,
        order: Order,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if let Some(refusal) = self.serve_only {
            return Err(refusal);
        }
        let apply = order.action == Action::Apply;
        let wanted = Wanted {
            apply,
            force: order.force,
            digest: order.digest,
        };
        let is_meant = |digest| order.digest.is_none_or(|wanted| wanted == digest);
        match &self.stage {
            Stage::Idle | Stage::Ready => {}
            Stage::Asking { .. } => self.stage = Stage::Ready,
            _ => {
                let in_hand = self.target.as_ref().map(|target| target.image.digest);
                if !in_hand.is_some_and(is_meant) {
                    return Err(Refusal::Busy);
                }
                self.wanted = Some(wanted);
                return Ok(());
            }
        }
        if let Some(target) = &self.target {
            if is_meant(target.image.digest) {
                if apply {
                    self.wanted = Some(wanted);
                    self.turn.not_before = now;
                    self.not_before = now;
                    self.look_at_gates(now, effects);
                }
                return Ok(());
            }
            self.target = None;
            self.stage = Stage::Idle;
        }
        self.wanted = Some(wanted);
        let is_offered = self
            .offered
            .as_ref()
            .is_some_and(|offer| is_meant(offer.digest));
        if is_offered {
            self.look_at_gates(now, effects);
        } else {
            // What was offered before is not meant.
            self.offered = None;
            effects.push(Effect::Look);
        }
        Ok(())
    }

    fn roll_back(
        &mut self,
        order: Order,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if !matches!(self.stage, Stage::Idle | Stage::Ready) {
            return Err(Refusal::Busy);
        }
        if let Some(Refusal::Ledger) = self.serve_only {
            return Err(Refusal::Ledger);
        }
        let running = self.running.clone().ok_or(Refusal::Busy)?;
        let target = self.way_back(&running, order)?;
        if target.security_version < self.ledger.floor {
            return Err(Refusal::BelowFloor);
        }
        let mut ledger = self.ledger.clone();
        ledger.roll_back(&target, &running, self.wall_at(now));
        self.target = None;
        self.record(ledger, Then::RollBack, effects);
        Ok(())
    }

    /// The image that an order to go back means. It is named by its digest, never by "the other slot".
    fn way_back(&self, running: &ImageRef, order: Order) -> Result<ImageRef, Refusal> {
        if self.ledger.default != Some(running.digest) || !self.on_disk {
            return Err(Refusal::NothingOlder);
        }
        let stored = |digest| self.ledger.stored(digest).map(|(image, _)| image);
        let golden = self.ledger.golden.as_ref();
        let target = match &order.digest {
            Some(digest) => {
                let named = golden.filter(|image| image.digest == *digest);
                stored(digest).or(named).ok_or(Refusal::WrongDigest)?
            }
            None => {
                let previous = self.ledger.previous.as_ref().and_then(stored);
                previous.or(golden).ok_or(Refusal::NothingOlder)?
            }
        };
        if target.digest == running.digest || target.rank() > running.rank() {
            return Err(Refusal::NothingOlder);
        }
        Ok(target.clone())
    }

    /// A look ended without an offer: there is nothing that an order could mean.
    pub(super) fn checked(&mut self, code: String, effects: &mut Vec<Effect>) {
        self.checked = Some(code);
        self.looks = self.looks.saturating_add(1);
        let looks = matches!(self.stage, Stage::Idle) && self.offered.is_none();
        if looks {
            self.give_up_order(Refusal::NothingStaged, effects);
        }
    }

    /// The order that waits cannot be carried out.
    pub(super) fn give_up_order(&mut self, refusal: Refusal, effects: &mut Vec<Effect>) {
        if self.wanted.take().is_some() {
            effects.push(Effect::Tell(Notice::OrderRefused(refusal)));
        }
    }
}
