//! What people and programs are shown: `/run/phase/upgrade.json`, `GET /upgrade`, `plasmd upgrade status`.

use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

use crate::image::{ImageRef, Place};
use crate::ledger::{HistoryEntry, Phase, Quarantined};
use crate::policy::Mode;
use crate::reason::Refusal;

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
    /// Other live machines of the segment that serve the channel.
    pub neighbours: u32,
    /// `disk`, `memory`, or `failed` when the disk's could not be written.
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
