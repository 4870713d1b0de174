//! What the state machine asks for. Effects are carried out in order; those with an answer end the list, so nothing that
//! depends on an answer comes before it.

use std::time::Duration;

use boot_manifest::Digest;

use crate::image::{Candidate, ImageRef, Place};
use crate::ledger::{Ledger, TrialId};
use crate::reason::{Failure, Refusal};

/// What the machine must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the ledger durably and read it back; answered by `Recorded`. On a machine without one it is kept in memory and
    /// the answer is good at once.
    Record(Box<Ledger>),
    /// Look for something newer: `Command::CheckNow`; answered by `Offered` or `Checked`.
    Look,
    /// Ask the neighbours for the turn; answered by `Turn`.
    AskTurn(Digest),
    /// Give the turn back.
    ReleaseTurn,
    /// Fetch all parts of this image into sealed memory; answered by `Fetched`.
    Fetch(Box<Candidate>),
    /// Write what was fetched into the slot, flush, read back, hash, and let go of the memory; answered by `SlotWritten`.
    WriteSlot {
        /// Which slot.
        place: Place,
        /// Which image.
        image: Digest,
    },
    /// Let go of what was fetched and end the role `stage`.
    DropFetched,
    /// Pre-flight and load; answered by `Prepared`. The image comes from its slot, or from what was fetched.
    Prepare {
        /// Which image, and where it lies.
        image: Box<ImageRef>,
        /// For the successor's command line.
        trial: TrialId,
    },
    /// Unload whatever is loaded.
    Unload,
    /// End everything in order and jump into what is loaded; answered by `JumpFailed` only.
    Jump,
    /// Golden's last step at a cold start: verify this slot and jump into it, without a trial; answered by `StartFailed` only.
    Start(Box<ImageRef>),
    /// End everything in order and restart through firmware.
    Restart,
    /// End everything and jump into the predecessor that this image carries, which is told why; answered by `ReturnFailed`.
    Return {
        /// The image that failed: the running one.
        failed: Box<ImageRef>,
        /// Why.
        failure: Failure,
    },
    /// P1: load the predecessor as crash image. Without an answer: the trial goes on without.
    LoadPrevious,
    /// P4: start the role `probe`; answered by `Passed` or `GateFailed`.
    SelfTest,
    /// P5: let the updater prove itself; answered by `Passed` or `GateFailed`.
    DryRun,
    /// Feed the watchdog until this time and never after; `None` is for ever.
    FeedUntil(Option<Duration>),
    /// Give the memory of the crash kernel back.
    ReleaseCrashMemory,
    /// Tell people.
    Tell(Notice),
}

/// What people are told on the console.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// A newer image was found.
    #[error("version {version} is newer")]
    Found {
        /// Which.
        version: String,
    },
    /// A newer image was refused.
    #[error("refused version {version}: {refusal}{}", dash(.detail))]
    NotTaken {
        /// Which.
        version: String,
        /// Why.
        refusal: Refusal,
        /// More about it.
        detail: String,
    },
    /// It waits.
    #[error("version {version} waits: {refusal}")]
    Waits {
        /// Which.
        version: String,
        /// Why.
        refusal: Refusal,
    },
    /// It lies in a slot.
    #[error("version {version} is in slot {place}")]
    Staged {
        /// Which.
        version: String,
        /// Where.
        place: Place,
    },
    /// The jump comes next.
    #[error("jumping into version {version} on trial")]
    Jumping {
        /// Which.
        version: String,
    },
    /// The running image is on trial.
    #[error("this image is on trial ({0})")]
    OnTrial(TrialId),
    /// The running image is the default from now on.
    #[error("committed {digest} version {version}")]
    Committed {
        /// The digest of its manifest.
        digest: Digest,
        /// Which.
        version: String,
    },
    /// The running image was stable for as long as the soak takes.
    #[error("stable {digest}{}", if *.is_proved { ", proved by a cold start" } else { "" })]
    Stable {
        /// The digest of its manifest.
        digest: Digest,
        /// Whether a cold start led to it, or one did before.
        is_proved: bool,
    },
    /// An image was left again.
    #[error("failed version {version} ({}): {}{}", .failure.phase, .failure.reason, dash(&.failure.detail))]
    Failed {
        /// Which.
        version: String,
        /// Why.
        failure: Failure,
    },
    /// An order was refused.
    #[error("the order is refused: {0}")]
    OrderRefused(Refusal),
    /// The machine restarts through firmware.
    #[error("restarting through firmware: {0}")]
    Restarting(&'static str),
    /// Nobody knows whether the ledger was written.
    #[error("the record on the disk could not be written: {0}")]
    LedgerFailed(String),
    /// Something to look at that changed nothing.
    #[error("{0}")]
    Warning(String),
}

fn dash(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}
