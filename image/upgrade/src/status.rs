//! What people and programs are shown: `/run/phase/upgrade.json`, `GET /upgrade`, `plasmd upgrade status`.

use std::time::Duration;

use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

use crate::image::{ImageRef, Place};
use crate::ledger::{HistoryEntry, Phase, Quarantined, Slot, TrialId};
use crate::policy::Mode;
use crate::reason::Refusal;
use crate::step::{Stage, State, Then};

/// One image as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// The image.
    #[serde(flatten)]
    pub image: ImageRef,
    /// Whether it was stable after a cold start. Golden is started from cold always.
    pub proved: bool,
}

/// The trial of the running image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStatus {
    /// Its number.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// The image a failure leads back to.
    pub from: Digest,
    /// Seconds that the phase may still take.
    pub seconds_left: u64,
}

/// An image that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What people call it.
    pub version: String,
    /// Generation of the trust root.
    pub generation: u64,
    /// Sequence within the generation.
    pub sequence: u64,
    /// Where it comes from.
    pub origin: String,
}

/// What became of an order with good signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStatus {
    /// The nonce that it named.
    pub nonce: String,
    /// What it ordered.
    pub action: String,
    /// Whether it was obeyed.
    pub ok: bool,
    /// Why not.
    pub reason: Option<Refusal>,
    /// Address of whoever sent it.
    pub client: String,
}

/// Everything that can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What happens by itself.
    pub mode: Mode,
    /// What goes on: `starting`, `idle`, `fetching`, `writing`, `staged`, `waiting`, `asking`, `preparing`, `jumping`,
    /// `trial`, `committing`, `restarting`, `serve-only`.
    pub stage: String,
    /// The image that runs.
    pub running: Option<ImageStatus>,
    /// The image that a cold start leads to.
    pub default: Option<ImageStatus>,
    /// The image before it.
    pub previous: Option<ImageStatus>,
    /// The first slot.
    pub slot_a: Option<ImageStatus>,
    /// The second slot.
    pub slot_b: Option<ImageStatus>,
    /// The trial of the running image.
    pub trial: Option<TrialStatus>,
    /// What was found.
    pub candidate: Option<CandidateStatus>,
    /// What it waits for, or why nothing is done.
    pub waits: Option<Refusal>,
    /// What the last look gave, as a stable name.
    pub checked: Option<String>,
    /// Answers to looks since the machine started: another number means that a look has ended.
    #[serde(default)]
    pub looks: u64,
    /// Other live machines of the segment that serve the channel.
    pub neighbours: u32,
    /// `disk`, `memory`, or `failed` when the disk's could not be read or written.
    pub ledger: String,
    /// Whether a watchdog is armed.
    pub watchdog: bool,
    /// Smallest security version that is accepted.
    pub floor: u64,
    /// Images that failed here.
    pub quarantine: Vec<Quarantined>,
    /// What happened, oldest first.
    pub history: Vec<HistoryEntry>,
    /// What the next order must sign; PID 1 fills it in.
    #[serde(default)]
    pub nonce: Option<String>,
    /// The last order that PID 1 took; it fills this in, too.
    #[serde(default)]
    pub last_order: Option<OrderStatus>,
}

impl Status {
    /// Whether `place` is what a cold start leads to.
    pub fn is_default(&self, place: Place) -> bool {
        self.default
            .as_ref()
            .is_some_and(|default| default.image.place == place)
    }
}

impl State {
    /// What is shown at `now`.
    pub fn status(&self, now: Duration) -> Status {
        let ledger = &self.ledger;
        let show = |image: &ImageRef| ImageStatus {
            image: image.clone(),
            proved: self.is_proved(image),
        };
        let stored = |digest: &Digest| ledger.stored(digest).map(|(image, _)| show(image));
        let golden = || ledger.golden.as_ref().map(show);
        let slot = |place| match ledger.slot(place) {
            Some(Slot::Valid { image, .. }) => Some(show(image)),
            Some(Slot::Dirty) | None => None,
        };
        Status {
            mode: self.policy.mode,
            stage: self.stage().to_owned(),
            running: self.running.as_ref().map(show),
            default: ledger.default.as_ref().map_or_else(golden, stored),
            previous: ledger.previous.as_ref().and_then(stored).or_else(|| {
                // Whoever runs from a slot can go back to golden.
                ledger.default.as_ref().and_then(|_| golden())
            }),
            slot_a: slot(Place::A),
            slot_b: slot(Place::B),
            trial: self.trial_status(now),
            candidate: self.candidate_status(),
            waits: self.waits.or(self.offer_refused).or(self.serve_only),
            checked: self.checked.clone(),
            looks: self.looks,
            neighbours: self.neighbours_at(now).0,
            ledger: self.ledger_name().to_owned(),
            watchdog: self.has_watchdog,
            floor: ledger.floor,
            quarantine: ledger.quarantine.clone(),
            history: ledger.history.clone(),
            nonce: None,
            last_order: None,
        }
    }

    fn ledger_name(&self) -> &'static str {
        match (self.on_disk, self.ledger_failed) {
            (_, true) => "failed",
            (false, false) => "memory",
            (true, false) => "disk",
        }
    }

    /// What goes on, in the word of [`Status::stage`].
    pub fn stage(&self) -> &'static str {
        match &self.stage {
            Stage::New | Stage::Starting => "starting",
            Stage::Idle if self.serve_only.is_some() => "serve-only",
            Stage::Idle => "idle",
            Stage::Fetching { .. } => "fetching",
            Stage::Writing { .. } => "writing",
            Stage::Ready if self.waits == Some(Refusal::WaitsForOrder) => "staged",
            Stage::Ready => "waiting",
            Stage::Asking { .. } => "asking",
            Stage::Preparing { .. } => "preparing",
            Stage::Jumping => "jumping",
            Stage::Trial { .. } => "trial",
            Stage::Returning | Stage::Ended => "restarting",
            Stage::Recording { then, .. } => match then {
                Then::Start => "starting",
                Then::Fetch => "fetching",
                Then::Ready => "writing",
                Then::Jump => "jumping",
                Then::Mark(_) => "trial",
                Then::Commit => "committing",
                Then::Restart | Then::RollBack => "restarting",
                Then::Idle | Then::Stable(_) => "idle",
            },
        }
    }

    fn trial_status(&self, now: Duration) -> Option<TrialStatus> {
        let trial = self.ledger.trial.as_ref().filter(|_| self.is_on_trial())?;
        let id = TrialId {
            number: trial.number,
            on_disk: self.on_disk,
        };
        let left = match &self.stage {
            Stage::Trial {
                deadline, soaked, ..
            } => soaked.unwrap_or(*deadline).saturating_sub(now),
            _ => Duration::ZERO,
        };
        Some(TrialStatus {
            id: id.to_string(),
            phase: trial.phase,
            from: trial.from,
            seconds_left: left.as_secs(),
        })
    }

    fn candidate_status(&self) -> Option<CandidateStatus> {
        let offered = self.offered.as_ref();
        let target = self.target.as_ref().map(|target| &target.image);
        let image = offered.map(|offer| offer.at(Place::Memory));
        let image = target.cloned().or(image)?;
        Some(CandidateStatus {
            digest: image.digest,
            generation: image.generation,
            sequence: image.sequence,
            origin: offered
                .filter(|offer| offer.digest == image.digest)
                .map(|offer| offer.origin.clone())
                .unwrap_or_default(),
            version: image.version,
        })
    }
}
