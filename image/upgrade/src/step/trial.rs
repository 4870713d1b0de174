//! Probation: phases and their deadlines, the commit, and every way back.

use std::time::Duration;

use super::{Stage, State, Then};
use crate::effect::{Effect, Notice};
use crate::event::Event;
use crate::ledger::Phase;
use crate::limits;
use crate::reason::{Failure, Reason};

impl State {
    /// P1: the watchdog is armed already; it is fed for the time of this phase. Then the predecessor, then the mark.
    pub(super) fn begin_trial(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let deadline = now.saturating_add(limits::WATCHDOG_TIME);
        effects.push(Effect::FeedUntil(Some(deadline)));
        effects.push(Effect::LoadPrevious);
        self.mark(Phase::Watchdog, effects);
    }

    fn mark(&mut self, phase: Phase, effects: &mut Vec<Effect>) {
        let mut ledger = self.ledger.clone();
        if let Some(trial) = &mut ledger.trial {
            trial.phase = phase;
        }
        self.record(ledger, Then::Mark(phase), effects);
    }

    /// The mark is on record: the phase begins.
    pub(super) fn enter(&mut self, phase: Phase, now: Duration, effects: &mut Vec<Effect>) {
        let time = match phase {
            Phase::Jump | Phase::Watchdog => limits::WATCHDOG_TIME,
            Phase::Identity => limits::IDENTITY_TIME,
            Phase::Network => limits::NETWORK_TIME,
            Phase::Serve => limits::SERVE_TIME,
            Phase::Updater => limits::UPDATER_TIME,
            Phase::Soak => self.policy.soak.saturating_add(limits::SOAK_MARGIN),
        };
        let deadline = now.saturating_add(time);
        let soaked = (phase == Phase::Soak).then(|| now.saturating_add(self.policy.soak));
        self.stage = Stage::Trial {
            phase,
            deadline,
            soaked,
        };
        effects.push(Effect::FeedUntil(Some(deadline)));
        match phase {
            Phase::Serve => effects.push(Effect::SelfTest),
            Phase::Updater => effects.push(Effect::DryRun),
            Phase::Jump | Phase::Watchdog | Phase::Identity | Phase::Network | Phase::Soak => {}
        }
        self.pass_on(effects);
    }

    /// Whether an event waits because a mark of the trial is being written.
    pub(super) fn puts_off(&mut self, event: &Event) -> bool {
        let Stage::Recording {
            then: Then::Mark(_),
            ..
        } = &self.stage
        else {
            return false;
        };
        if !self.deferred.contains(event) && self.deferred.len() < DEFERRED_MAX {
            self.deferred.push(event.clone());
        }
        true
    }

    /// What happened to the image on trial.
    pub(super) fn of_trial(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.puts_off(&event) {
            return;
        }
        let Stage::Trial { phase, .. } = self.stage else {
            return;
        };
        match event {
            Event::Passed(passed) => {
                if !self.passed.contains(&passed) {
                    self.passed.push(passed);
                }
                self.pass_on(effects);
            }
            Event::GateFailed(failure) => self.fail(failure, effects),
            Event::ChildRestarted(child) => {
                self.restarts = self.restarts.saturating_add(1);
                if self.restarts > limits::TRIAL_RESTARTS_MAX {
                    self.fail(Failure::new(Reason::Restarts, phase, &child), effects);
                }
            }
            _ => {}
        }
    }

    /// Goes to the next phase when the present one is passed. The soak is passed by time alone.
    fn pass_on(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Trial { phase, .. } = &self.stage else {
            return;
        };
        let next = match phase {
            Phase::Jump => Phase::Watchdog,
            Phase::Watchdog => Phase::Identity,
            Phase::Identity => Phase::Network,
            Phase::Network => Phase::Serve,
            Phase::Serve => Phase::Updater,
            Phase::Updater => Phase::Soak,
            Phase::Soak => return,
        };
        if self.passed.contains(phase) {
            self.mark(next, effects);
        }
    }

    pub(super) fn trial_tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Stage::Trial {
            phase,
            deadline,
            soaked,
        } = self.stage
        else {
            return;
        };
        if now >= deadline {
            self.fail(Failure::new(Reason::Deadline, phase, ""), effects);
        } else if soaked.is_some_and(|soaked| now >= soaked) && self.serving_since.is_some() {
            self.commit(now, effects);
        }
    }

    /// The gate is passed: this image makes itself the default.
    pub(super) fn commit(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut ledger = self.ledger.clone();
        ledger.commit(self.wall_at(now));
        self.record(ledger, Then::Commit, effects);
    }

    pub(super) fn committed(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.stage = Stage::Idle;
        // It soaked already. What a cold start says of it is another proof.
        self.is_stable = true;
        self.from_cold = false;
        effects.push(Effect::FeedUntil(None));
        effects.push(Effect::ReleaseCrashMemory);
        effects.push(Effect::ReleaseTurn);
        if let Some(running) = &self.running {
            effects.push(Effect::Tell(Notice::Committed {
                version: running.version.clone(),
                digest: running.digest,
            }));
        }
        self.look_at_gates(now, effects);
    }

    /// The image on trial failed: the reason goes on record, then the way back is taken.
    pub(super) fn fail(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        self.tell_failed(failure.clone(), effects);
        if self.on_disk {
            let mut ledger = self.ledger.clone();
            if let Some(trial) = &mut ledger.trial {
                trial.failure = Some(failure);
            }
            self.record(ledger, Then::Restart, effects);
        } else {
            self.go_back(failure, effects);
        }
    }

    /// Nobody knows what the ledger says, so nothing more is written: the next cold start reads it.
    pub(super) fn doubt(&mut self, phase: Phase, effects: &mut Vec<Effect>) {
        let failure = Failure::new(Reason::Ledger, phase, "");
        self.tell_failed(failure, effects);
        self.restart("the record on the disk could not be written", effects);
    }

    /// Without a disk: into the predecessor that this image carries.
    fn go_back(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        let Some(running) = &self.running else { return };
        let failed = Box::new(running.clone());
        self.stage = Stage::Returning;
        effects.push(Effect::Return { failed, failure });
    }

    pub(super) fn return_failed(&mut self, reason: String, effects: &mut Vec<Effect>) {
        if self.stage == Stage::Returning {
            effects.push(Effect::Tell(Notice::Warning(reason)));
            self.restart("the image before it cannot be started from memory", effects);
        }
    }

    /// An orderly restart in the middle of the trial says nothing about the image.
    pub(super) fn interrupted(&mut self, phase: Phase, effects: &mut Vec<Effect>) {
        let mut ledger = self.ledger.clone();
        if let Some(trial) = &mut ledger.trial
            && self.on_disk
        {
            trial.failure = Some(Failure::new(Reason::Interrupted, phase, ""));
            effects.push(Effect::Record(Box::new(ledger)));
        }
    }

    pub(super) fn tell_failed(&self, failure: Failure, effects: &mut Vec<Effect>) {
        let version = self.running.as_ref().map(|image| image.version.clone());
        effects.push(Effect::Tell(Notice::Failed {
            version: version.unwrap_or_default(),
            failure,
        }));
    }
}

/// Events that wait for a mark: one for each phase and a failure, and some children that ended at once.
const DEFERRED_MAX: usize = 16;
