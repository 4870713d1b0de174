//! The first event: what a start means, by how the image was started and what the ledger says.

use std::time::Duration;

use boot_manifest::Digest;

use super::{Stage, State, Target, Then};
use crate::effect::{Effect, Notice};
use crate::event::{BootFacts, How, ResetCause};
use crate::fingerprint::Fingerprint;
use crate::image::{ImageRef, Place};
use crate::ledger::{Ledger, Phase, Slot, Trial, TrialId};
use crate::reason::{Failure, Reason, Refusal};

impl State {
    pub(super) fn boot(&mut self, facts: BootFacts, now: Duration, effects: &mut Vec<Effect>) {
        self.on_disk = facts.has_ledger;
        self.slot_size = facts.slot_size;
        self.has_watchdog = facts.has_watchdog;
        self.seed = facts.seed;
        self.wall = facts.wall.map(|unix| (unix, now));
        self.running = Some(facts.running.clone());
        self.ledger = facts.ledger.clone().unwrap_or_default();
        self.stage = Stage::Idle;
        // Whoever ran before may have had the turn: a trial that failed, a restart for a cold proof.
        self.turn.is_left_over = true;
        if facts.ledger_is_lost {
            // Not a machine without a disk: one that cannot read what failed here, and could not record what it tries.
            self.ledger_failed = true;
            self.serve_only = Some(Refusal::Ledger);
        }
        match facts.how {
            How::Cold if facts.running.place == Place::Golden && self.on_disk => {
                self.golden_starts(&facts, now, effects);
            }
            How::Cold => {
                self.from_cold = true;
                let is_bad = matches!(facts.reset, ResetCause::Watchdog | ResetCause::Panic);
                self.forgot_a_failure = is_bad && !self.on_disk;
            }
            How::Kexec { trial: None } => self.was_started(&facts, now, effects),
            How::Kexec { trial: Some(id) } => self.is_tried(id, &facts, now, effects),
            How::Crashed { trial } => self.took_over(trial, &facts, effects),
        }
    }

    /// Golden closes what is open, counts the start, and goes on to the default.
    fn golden_starts(&mut self, facts: &BootFacts, now: Duration, effects: &mut Vec<Effect>) {
        self.from_cold = true;
        let at = self.wall_at(now);
        let mut ledger = self.ledger.clone();
        let failed = ledger.trial.as_ref().map(|trial| trial.image.clone());
        ledger.close_after(facts.reset, facts.crash_text.as_deref(), at);
        ledger.cold_start(&facts.running, facts.reset, at);
        let newest = ledger.quarantine.last();
        if let Some((image, one)) = failed.zip(newest) {
            effects.push(Effect::Tell(Notice::Failed {
                version: image.version,
                failure: one.failure.clone(),
            }));
        }
        if ledger.default.is_none() && ledger.starts > crate::limits::STARTS_MAX {
            self.serve_only = Some(Refusal::ServeOnly);
        }
        self.record(ledger, Then::Start, effects);
    }

    /// The start of golden is on record, or could not be recorded: then nothing but golden is started, because a start that
    /// nobody counts may be one of an endless number. That holds for a proved default too, and where golden is below the
    /// security floor: what was proved once may hang on this machine now, with nobody to end it, and only who holds the
    /// medium can make it unwritable. The machine says what it misses, and golden upgrades nothing from there.
    pub(super) fn start(&mut self, written: bool, now: Duration, effects: &mut Vec<Effect>) {
        self.stage = Stage::Idle;
        if !written {
            self.serve_only = Some(Refusal::Ledger);
            self.tell_passed_over(effects);
            return;
        }
        match self.ledger.default_image() {
            // The same image lies on the medium itself.
            Some((image, _)) if !self.is_running(&image.digest) => {
                let image = Box::new(image.clone());
                self.stage = Stage::Starting;
                effects.push(Effect::Start(image));
            }
            Some(_) | None => self.find_staged(now, effects),
        }
    }

    /// Golden serves in the place of a newer image. People must hear of that, the more so when it lacks what was mended.
    fn tell_passed_over(&self, effects: &mut Vec<Effect>) {
        let (Some((default, _)), Some(golden)) = (self.ledger.default_image(), &self.running)
        else {
            return;
        };
        if default.digest == golden.digest {
            return;
        }
        let floor = self.ledger.floor;
        let below = if golden.security_version < floor {
            format!(
                "; its security version {} is below {floor}",
                golden.security_version
            )
        } else {
            String::new()
        };
        let text = format!(
            "version {} serves instead of {}, whose start cannot be counted{below}: the medium must be replaced",
            golden.version, default.version
        );
        effects.push(Effect::Tell(Notice::Warning(text)));
    }

    pub(super) fn start_failed(
        &mut self,
        reason: Reason,
        detail: &str,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if self.stage != Stage::Starting {
            return;
        }
        let mut ledger = self.ledger.clone();
        if let Some((image, _)) = ledger.default_image() {
            effects.push(Effect::Tell(Notice::Failed {
                version: image.version.clone(),
                failure: Failure::new(reason, Phase::Jump, detail),
            }));
        }
        ledger.start_failed(reason, detail, self.wall_at(now));
        self.record(ledger, Then::Start, effects);
    }

    /// Golden started this slot, or this image came over the network.
    fn was_started(&mut self, facts: &BootFacts, now: Duration, effects: &mut Vec<Effect>) {
        let running = &facts.running;
        if let Some(returned) = facts.returned {
            let image = ImageRef {
                digest: returned.digest,
                place: Place::Memory,
                version: String::new(),
                sequence: returned.rank.sequence,
                generation: returned.rank.generation,
                security_version: 0,
            };
            let failure = Failure::new(returned.reason, Phase::Jump, "");
            self.ledger.bar(&image, failure, facts.wall);
            self.returned = Some(returned.rank);
        }
        if !self.on_disk {
            if matches!(running.place, Place::A | Place::B) {
                // It came from a disk that cannot be read any more.
                self.serve_only = Some(Refusal::Ledger);
            }
            return;
        }
        self.from_cold = self.ledger.default == Some(running.digest);
        let is_known = self.from_cold && self.ledger.trial.is_none();
        if running.place != Place::Golden && !is_known {
            // Whoever started it read another ledger than this one. It serves and writes nothing.
            self.serve_only = Some(Refusal::Ledger);
            return;
        }
        self.find_staged(now, effects);
    }

    /// An image that was staged before the machine restarted need not be offered again.
    fn find_staged(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(running) = &self.running else { return };
        let staged = Place::SLOTS
            .into_iter()
            .filter_map(|place| match self.ledger.slot(place) {
                Some(Slot::Valid { image, .. }) => Some(image),
                Some(Slot::Dirty) | None => None,
            })
            .filter(|image| image.rank() > running.rank() && image.digest != running.digest)
            .filter(|image| !self.ledger.is_barred(&image.digest, image.rank()))
            .filter(|image| image.security_version >= self.ledger.floor)
            .max_by_key(|image| image.rank());
        if let Some(image) = staged {
            self.target = Some(Target {
                image: image.clone(),
                candidate: None,
                needs_proof: false,
            });
            self.stage = Stage::Ready;
            self.look_at_gates(now, effects);
        }
    }

    /// This image is on trial, if the ledger agrees.
    fn is_tried(
        &mut self,
        id: TrialId,
        facts: &BootFacts,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let running = &facts.running;
        effects.push(Effect::Tell(Notice::OnTrial(id)));
        if id.on_disk != self.on_disk {
            if id.on_disk {
                // Nothing can be recorded. The next cold start finds the trial open.
                let failure = Failure::new(Reason::DiskMissing, Phase::Watchdog, "");
                self.tell_failed(failure, effects);
                self.restart("the disk of the slots is missing", effects);
                return;
            }
            self.on_disk = false;
        }
        if self.on_disk {
            let is_ours = self.ledger.trial.as_ref().is_some_and(|trial| {
                trial.number == id.number
                    && trial.image.digest == running.digest
                    && trial.image.place == running.place
            });
            if !is_ours {
                let failure = Failure::new(
                    Reason::Identity,
                    Phase::Watchdog,
                    "not the image of the trial",
                );
                self.tell_failed(failure, effects);
                self.restart("the ledger knows nothing of this trial", effects);
                return;
            }
        } else {
            self.ledger = in_memory(id, facts);
        }
        // The turn of before the jump is that of this trial.
        self.turn.is_left_over = false;
        self.begin_trial(now, effects);
    }

    /// The image on trial died, and this one came up in the memory that was kept for it.
    fn took_over(&mut self, id: TrialId, facts: &BootFacts, effects: &mut Vec<Effect>) {
        if !self.on_disk || !id.on_disk {
            // Without a disk there is nothing better than this, and too little memory to try anything.
            self.on_disk = false;
            self.is_stable = true;
            self.serve_only = Some(Refusal::ServeOnly);
            return;
        }
        let text = facts.crash_text.as_deref().unwrap_or_default();
        let mut ledger = self.ledger.clone();
        match &mut ledger.trial {
            Some(trial) if trial.number == id.number => {
                let told = || Failure::new(Reason::Panic, trial.phase, text);
                let failure = trial.failure.clone().unwrap_or_else(told);
                effects.push(Effect::Tell(Notice::Failed {
                    version: trial.image.version.clone(),
                    failure: failure.clone(),
                }));
                trial.failure = Some(failure);
                self.record(ledger, Then::Restart, effects);
            }
            Some(_) | None => self.restart("an image died that is not on trial", effects),
        }
    }

    fn is_running(&self, digest: &Digest) -> bool {
        self.running
            .as_ref()
            .is_some_and(|image| image.digest == *digest)
    }
}

/// The ledger of a machine without a disk: it knows the trial that it was started for, and nothing else.
fn in_memory(id: TrialId, facts: &BootFacts) -> Ledger {
    let nobody = Digest::from_bytes([0; 32]);
    let from = facts.previous.as_ref().map_or(nobody, |image| image.digest);
    Ledger {
        trials: id.number,
        trial: Some(Trial {
            number: id.number,
            image: facts.running.clone(),
            from,
            phase: Phase::Jump,
            failure: None,
            fingerprint: Fingerprint::default(),
        }),
        ..Ledger::default()
    }
}
