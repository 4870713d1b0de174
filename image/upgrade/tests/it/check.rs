//! The invariants, asserted at every record, every write of a slot and every jump.

use std::collections::{BTreeMap, BTreeSet};

use boot_manifest::Digest;
use upgrade::{ImageRef, Ledger, Outcome, Phase, Place, Reason, Slot, TrialId, limits};

use crate::disk::Disk;

/// What an outside observer knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness {
    golden: Option<ImageRef>,
    /// Images that may be a default: golden, and those that committed themselves.
    committed: BTreeSet<Digest>,
    /// The image that was stable after a cold start last.
    last_proved: Option<ImageRef>,
    /// Trials of each image.
    tried: BTreeMap<Digest, u32>,
    /// Phases that the running image passed in its trial.
    pub(crate) passed: Vec<Phase>,
    /// Whether an operator's force was given.
    pub(crate) forced: bool,
}

impl Witness {
    pub(crate) fn new(golden: &ImageRef) -> Self {
        Self {
            committed: [golden.digest].into(),
            golden: Some(golden.clone()),
            last_proved: Some(golden.clone()),
            ..Self::default()
        }
    }

    /// A record is about to be made by `running`.
    pub(crate) fn record(
        &mut self,
        old: &Ledger,
        new: &Ledger,
        running: &ImageRef,
        on_trial: Option<TrialId>,
    ) {
        new.validate().expect("a ledger that can be written");
        if new.default != old.default
            && let Some(default) = new.default
        {
            let commits = on_trial.is_some() && default == running.digest;
            if commits {
                self.commits(old, running);
            }
            assert!(
                self.committed.contains(&default),
                "I1, I3, I4: {default} never committed itself, and {} makes it the default",
                running.version
            );
        }
        if on_trial.is_some() && new.trial.is_some() {
            let mut as_old = new.clone();
            as_old.trial.clone_from(&old.trial);
            assert_eq!(&as_old, old, "I6: a trial changes its own record only");
        }
        self.floor(old, new, running);
        self.proof(old, new, running);
        let grew = |digest: &Digest| {
            old.quarantined(digest).map_or(0, |one| one.trials)
                < new.quarantined(digest).map_or(0, |one| one.trials)
        };
        for one in new.quarantine.iter().filter(|one| grew(&one.digest)) {
            assert_ne!(
                Some(one.digest),
                new.default,
                "I8: quarantined and the default"
            );
        }
    }

    fn commits(&mut self, old: &Ledger, running: &ImageRef) {
        let trial = old.trial.as_ref().expect("I3: a commit without a trial");
        assert_eq!(trial.image.digest, running.digest, "I3: only itself");
        for phase in [
            Phase::Watchdog,
            Phase::Identity,
            Phase::Network,
            Phase::Serve,
            Phase::Updater,
        ] {
            assert!(
                self.passed.contains(&phase),
                "I3, I10: {phase} was not passed"
            );
        }
        self.committed.insert(running.digest);
    }

    fn floor(&self, old: &Ledger, new: &Ledger, running: &ImageRef) {
        assert!(new.floor >= old.floor, "I7: the floor falls");
        if new.floor == old.floor {
            return;
        }
        let proved = new.history.last().map(|entry| entry.outcome);
        assert_eq!(proved, Some(Outcome::Proved), "I7: without a cold proof");
        assert_eq!(
            new.default,
            Some(running.digest),
            "I7: the proof of another"
        );
        for digest in [new.default, new.previous] {
            let stored = digest.and_then(|digest| new.stored(&digest));
            let image = stored.map(|(image, _)| image).or(new.golden.as_ref());
            let least = image.expect("golden introduced itself").security_version;
            assert!(new.floor <= least, "I7: {digest:?} is below the floor");
        }
    }

    fn proof(&mut self, old: &Ledger, new: &Ledger, running: &ImageRef) {
        for place in Place::SLOTS {
            let (before, after) = (proved_at(old, place), proved_at(new, place));
            if before == after {
                continue;
            }
            if let Some(image) = after {
                assert_eq!(&image, running, "an image is proved by itself only");
                self.last_proved = Some(image);
                continue;
            }
            let damaged = Outcome::Failed(Reason::SlotDamaged);
            let is_damage = new.history.last().map(|entry| entry.outcome) == Some(damaged);
            assert!(
                is_damage || before != self.last_proved,
                "I5: the last proved image is given up: {before:?}"
            );
        }
        // An image that was given up after its proof proved itself wrong.
        let is_barred = |image: &ImageRef| new.quarantined(&image.digest).is_some();
        if self.last_proved.as_ref().is_some_and(is_barred) {
            self.started(Some(new));
        }
    }

    /// A start read this ledger: what is proved is what it says.
    pub(crate) fn started(&mut self, ledger: Option<&Ledger>) {
        let Some(ledger) = ledger else {
            self.last_proved.clone_from(&self.golden);
            return;
        };
        let proved = |digest: &Option<Digest>| {
            let (image, proved) = ledger.stored(digest.as_ref()?)?;
            let is_good = proved && ledger.quarantined(&image.digest).is_none();
            is_good.then(|| image.clone())
        };
        let golden = || ledger.golden.clone();
        self.last_proved = proved(&ledger.default)
            .or_else(|| proved(&ledger.previous))
            .or_else(golden);
    }

    /// A slot is about to be written.
    pub(crate) fn write(&self, place: Place, ledger: &Ledger, running: &ImageRef) {
        assert_ne!(place, running.place, "the running image is written over");
        assert!(
            matches!(ledger.slot(place), Some(Slot::Dirty)),
            "a slot that the ledger calls valid is written"
        );
        let proved = self.last_proved.as_ref().map(|image| image.place);
        assert_ne!(
            Some(place),
            proved,
            "I5: the last proved image is written over"
        );
    }

    /// The machine jumps into `image` on trial.
    pub(crate) fn jump(&mut self, disk: &Disk, image: &ImageRef, on_disk: bool) {
        let tried = self.tried.entry(image.digest).or_default();
        *tried += 1;
        if on_disk && disk.is_honest() {
            let durable = disk.durable().ledger.expect("a ledger");
            let trial = durable
                .trial
                .as_ref()
                .expect("I2: no attempt is on the disk");
            assert_eq!(
                trial.image.digest, image.digest,
                "I2: the attempt of another"
            );
            let most = 1 + u32::from(limits::RETRIES_MAX);
            assert!(
                self.forced || *tried <= most,
                "I8: trial {tried} of {}",
                image.version
            );
            let accident = durable
                .quarantined(&image.digest)
                .is_none_or(|one| one.failure.reason.is_accident());
            assert!(self.forced || accident, "I8: it failed by its own fault");
        }
        self.passed.clear();
    }

    /// What a cold start leads to must be whole, while the disk keeps what it says.
    pub(crate) fn at_power_loss(&self, disk: &Disk, rotten: bool) {
        if rotten || !disk.is_honest() {
            return;
        }
        let Some(ledger) = disk.durable().ledger else {
            return;
        };
        if let Some((image, _)) = ledger.default_image() {
            assert_eq!(
                disk.slot(image.place),
                Some(image.digest),
                "I1: the default is not whole"
            );
            assert!(self.committed.contains(&image.digest), "I1: not committed");
        }
    }

    /// How often an image was tried.
    pub(crate) fn tried(&self, image: &Digest) -> u32 {
        self.tried.get(image).copied().unwrap_or_default()
    }
}

fn proved_at(ledger: &Ledger, place: Place) -> Option<ImageRef> {
    match ledger.slot(place) {
        Some(Slot::Valid {
            image,
            proved: true,
        }) => Some(image.clone()),
        Some(Slot::Valid { .. } | Slot::Dirty) | None => None,
    }
}

/// Why `digest` failed, as the record has it.
pub(crate) fn reason_of(ledger: &Ledger, digest: &Digest) -> Option<Reason> {
    ledger.quarantined(digest).map(|one| one.failure.reason)
}
