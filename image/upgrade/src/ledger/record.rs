//! What may become of a ledger: every change is one of these, and each keeps its rules.

use boot_manifest::Digest;

use crate::event::ResetCause;
use crate::image::{ImageRef, Place, Rank};
use crate::ledger::{HistoryEntry, Ledger, Outcome, Phase, Quarantined, Slot, Trial};
use crate::limits::{HISTORY_MAX, QUARANTINE_MAX, RETRIES_MAX, STARTS_MAX, STARTS_UNPROVED_MAX};
use crate::reason::{Failure, Reason};

impl Ledger {
    /// The image that a cold start leads to; `None` is golden.
    pub fn default_image(&self) -> Option<(&ImageRef, bool)> {
        self.stored(self.default.as_ref()?)
    }

    /// What is known about a digest that failed here.
    pub fn quarantined(&self, digest: &Digest) -> Option<&Quarantined> {
        self.quarantine.iter().find(|one| one.digest == *digest)
    }

    /// Whether an image must not be tried: it failed here, or it claims the same place in the order as one that did. Below a
    /// full list are the ones that were pushed out of it, and nobody knows which: so nothing there is tried.
    pub fn is_barred(&self, digest: &Digest, rank: Rank) -> bool {
        let others = || self.quarantine.iter().filter(|one| one.digest != *digest);
        let is_full = self.quarantine.len() >= QUARANTINE_MAX;
        self.has_failed(digest)
            || others().any(|one| one.rank == rank)
            || (is_full && self.quarantine.iter().all(|one| rank < one.rank))
    }

    /// Whether this very image failed here for a reason that lies in it, or once too often.
    fn has_failed(&self, digest: &Digest) -> bool {
        self.quarantined(digest)
            .is_some_and(|one| !one.failure.reason.is_accident() || one.trials > RETRIES_MAX)
    }

    /// The slot that the next image may be written to: never the one that runs, never the default, never what a cold start
    /// falls back to.
    pub fn free_slot(&self, running: Place) -> Option<Place> {
        let kept = self.kept_slots();
        let free = |place: &Place| *place != running && !kept.contains(place);
        // A slot without an image first: the other may still be of use.
        let is_dirty = |place: &Place| matches!(self.slot(*place), Some(Slot::Dirty));
        let dirty = Place::SLOTS.into_iter().filter(is_dirty).find(free);
        dirty.or_else(|| Place::SLOTS.into_iter().find(free))
    }

    /// The slots of the default, of the open trial, and of the last image that a cold start proved.
    fn kept_slots(&self) -> Vec<Place> {
        let place = |digest: &Digest| self.stored(digest).map(|(image, _)| image.place);
        let mut kept: Vec<Place> = self.default.as_ref().and_then(place).into_iter().collect();
        if let Some(trial) = &self.trial {
            kept.push(trial.image.place);
        }
        let default_is_proved = self.default_image().is_none_or(|(_, proved)| proved);
        if !default_is_proved {
            kept.extend(self.fallback().as_ref().and_then(place));
        }
        kept
    }

    /// What a cold start falls back to when the default does not hold: the previous image when it is proved; `None` is golden.
    fn fallback(&self) -> Option<Digest> {
        let previous = self
            .previous
            .filter(|digest| Some(*digest) != self.default)?;
        let (_, proved) = self.stored(&previous)?;
        let may = proved && !self.has_failed(&previous);
        may.then_some(previous)
    }

    /// The slot at `place` holds nothing any more. The default and golden never lie there.
    pub(crate) fn mark_dirty(&mut self, place: Place) {
        let slot = match place {
            Place::A => &mut self.a,
            Place::B => &mut self.b,
            Place::Golden | Place::Memory => return,
        };
        let Slot::Valid { image, .. } = std::mem::take(slot) else {
            return;
        };
        let gone = |named: &mut Option<Digest>| {
            if *named == Some(image.digest) {
                *named = None;
            }
        };
        gone(&mut self.default);
        gone(&mut self.previous);
    }

    /// The slot of `image` holds it: written, flushed, read back.
    pub(crate) fn mark_valid(&mut self, image: ImageRef) {
        let slot = match image.place {
            Place::A => &mut self.a,
            Place::B => &mut self.b,
            Place::Golden | Place::Memory => return,
        };
        *slot = Slot::Valid {
            image,
            proved: false,
        };
    }

    /// Consumes the only attempt of a trial.
    pub(crate) fn arm(&mut self, trial: Trial) {
        self.trials = trial.number;
        self.trial = Some(trial);
    }

    /// The image on trial is the default from now on.
    pub(crate) fn commit(&mut self, at: Option<u64>) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        let digest = trial.image.digest;
        if self.stored(&digest).is_some() {
            self.previous = self.default;
            self.default = Some(digest);
            self.starts = 0;
        }
        self.kexec_failures = 0;
        self.seen = self.seen.max(trial.image.rank());
        self.quarantine.retain(|one| one.digest != digest);
        self.note(at, &trial.image, Outcome::Committed, Phase::Soak);
    }

    /// The open trial failed: it is closed, and its image is not tried again without a word.
    pub(crate) fn close(&mut self, failure: Failure, at: Option<u64>) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        if spares_the_image(&failure) {
            self.kexec_failures = self.kexec_failures.saturating_add(1);
        }
        self.bar(&trial.image, failure, at);
    }

    /// The open trial failed and nobody was left to say why.
    pub(crate) fn close_after(
        &mut self,
        reset: ResetCause,
        crash_text: Option<&str>,
        at: Option<u64>,
    ) {
        let Some(trial) = &self.trial else { return };
        let reason = match reset {
            ResetCause::Watchdog => Reason::Hang,
            ResetCause::Panic => Reason::Panic,
            ResetCause::Power => Reason::Power,
            ResetCause::Unknown => Reason::Unknown,
        };
        let told = || Failure::new(reason, trial.phase, crash_text.unwrap_or_default());
        let failure = trial.failure.clone().unwrap_or_else(told);
        self.close(failure, at);
    }

    /// Puts an image into quarantine and into the history.
    pub(crate) fn bar(&mut self, image: &ImageRef, failure: Failure, at: Option<u64>) {
        let (digest, rank) = (image.digest, image.rank());
        let before = self.quarantined(&digest).map_or(0, |one| one.trials);
        self.quarantine.retain(|one| one.digest != digest);
        self.note(at, image, Outcome::Failed(failure.reason), failure.phase);
        self.quarantine.push(Quarantined {
            digest,
            rank,
            trials: before.saturating_add(1),
            failure,
        });
        if self.quarantine.len() > QUARANTINE_MAX {
            // The lowest, so that all that are not named any more lie below those that are: see `is_barred`.
            let lowest = self.quarantine.iter().map(|one| one.rank).min();
            let is_lowest = |one: &Quarantined| Some(one.rank) == lowest;
            let at = self.quarantine.iter().position(is_lowest);
            self.quarantine.remove(at.unwrap_or_default());
        }
    }

    /// A cold start of golden, `golden`, begins: counts it, gives up a default that does not hold, and says what to start.
    pub(crate) fn cold_start(&mut self, golden: &ImageRef, reset: ResetCause, at: Option<u64>) {
        self.golden = Some(golden.clone());
        let newer = |(image, _): (&ImageRef, bool)| golden.rank() > image.rank();
        if self.default_image().is_some_and(newer) {
            // Somebody wrote a newer medium: that is the word of whoever holds the machine.
            self.give_up_default(None);
            self.note(at, golden, Outcome::Returned, Phase::Jump);
        }
        while let Some((image, proved)) = self.default_image() {
            let is_power = reset == ResetCause::Power;
            let most = if proved || is_power {
                STARTS_MAX
            } else {
                STARTS_UNPROVED_MAX
            };
            if self.starts < most {
                break;
            }
            let reason = if proved {
                Reason::BootLoop
            } else {
                Reason::ColdStart
            };
            let (image, failure) = (image.clone(), Failure::new(reason, Phase::Jump, ""));
            self.give_up_default(self.fallback());
            self.bar(&image, failure, at);
        }
        self.starts = self.starts.saturating_add(1);
    }

    /// The default could not be started from cold.
    pub(crate) fn start_failed(&mut self, reason: Reason, detail: &str, at: Option<u64>) {
        let Some((image, _)) = self.default_image() else {
            return;
        };
        let (image, failure) = (image.clone(), Failure::new(reason, Phase::Jump, detail));
        self.give_up_default(self.fallback());
        if reason == Reason::SlotDamaged {
            // The bytes are bad, not the image: it may be fetched again.
            self.note(at, &image, Outcome::Failed(reason), failure.phase);
            self.mark_dirty(image.place);
        } else {
            self.bar(&image, failure, at);
        }
        self.starts = self.starts.saturating_add(1);
    }

    /// An operator goes back to `target`, golden when it is none of a slot; `running` is left.
    pub(crate) fn roll_back(&mut self, target: &ImageRef, running: &ImageRef, at: Option<u64>) {
        let failure = Failure::new(Reason::Operator, Phase::Soak, "");
        self.bar(running, failure, at);
        self.give_up_default(self.stored(&target.digest).map(|_| target.digest));
        self.note(at, target, Outcome::Returned, Phase::Jump);
    }

    fn give_up_default(&mut self, next: Option<Digest>) {
        self.default = next;
        if self.previous == next {
            self.previous = None;
        }
        self.starts = 0;
    }

    /// The running image was stable. `cold` says that a cold start led to it, which proves it.
    pub(crate) fn stable(&mut self, running: &ImageRef, cold: bool, at: Option<u64>) {
        self.starts = 0;
        if !cold {
            return;
        }
        let slot = match running.place {
            Place::A => &mut self.a,
            Place::B => &mut self.b,
            Place::Golden | Place::Memory => return,
        };
        let newly = match slot {
            Slot::Valid { image, proved } if image.digest == running.digest && !*proved => {
                *proved = true;
                true
            }
            Slot::Valid { .. } | Slot::Dirty => false,
        };
        if newly {
            self.note(at, running, Outcome::Proved, Phase::Soak);
            self.floor = self.floor.max(self.floor_allowed());
        }
    }

    /// The smallest security version of the images that a failure or an order leads to.
    fn floor_allowed(&self) -> u64 {
        let version = |digest: &Option<Digest>| {
            let stored = digest.as_ref().and_then(|digest| self.stored(digest));
            let image = stored.map(|(image, _)| image).or(self.golden.as_ref());
            image.map_or(0, |image| image.security_version)
        };
        version(&self.default).min(version(&self.previous))
    }

    fn note(&mut self, at: Option<u64>, image: &ImageRef, outcome: Outcome, phase: Phase) {
        if self.history.len() >= HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(HistoryEntry {
            at,
            digest: image.digest,
            version: image.version.clone(),
            outcome,
            phase,
        });
    }
}

/// Whether a failure looks like the machine's: it never came up after the jump, or without its hardware.
fn spares_the_image(failure: &Failure) -> bool {
    match failure.reason {
        Reason::Hardware | Reason::Network | Reason::DiskMissing => true,
        Reason::Hang | Reason::Panic | Reason::Unknown => failure.phase == Phase::Jump,
        Reason::Power
        | Reason::Interrupted
        | Reason::Identity
        | Reason::SelfTest
        | Reason::Updater
        | Reason::Restarts
        | Reason::Growth
        | Reason::Deadline
        | Reason::Ledger
        | Reason::Operator
        | Reason::ColdStart
        | Reason::BootLoop
        | Reason::SlotDamaged
        | Reason::NotStarted => false,
    }
}
