//! What the state machine is told.

use boot_manifest::{Action, Digest};

use crate::fingerprint::Fingerprint;
use crate::image::{Candidate, ImageRef, Rank};
use crate::ledger::{Ledger, Phase, TrialId};
use crate::reason::{Failure, Reason, Refusal};

/// How the running image was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By firmware: golden, or the kernel that a boot server gave.
    Cold,
    /// By another image. Without a trial: golden started its default, or a machine without disk fetched its image.
    Kexec {
        /// What `phase.trial=` says.
        trial: Option<TrialId>,
    },
    /// As crash kernel: the image on trial died.
    Crashed {
        /// What `phase.crashed=` says.
        trial: TrialId,
    },
}

/// What is known about why the machine started from cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The watchdog says that it was it.
    Watchdog,
    /// The kernel left a panic behind.
    Panic,
    /// The watchdog could say and says that it was not it, and no panic was left: mains or button.
    Power,
    /// Nothing says anything.
    Unknown,
}

/// Everything that is known when the first process of an image starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFacts {
    /// The image that runs; its `place` is where it was started from.
    pub running: ImageRef,
    /// How it was started.
    pub how: How,
    /// Why the machine started from cold; meaningless after kexec.
    pub reset: ResetCause,
    /// What the dying kernel wrote last, where that survived.
    pub crash_text: Option<String>,
    /// Whether the machine has a disk with a ledger and slots.
    pub has_ledger: bool,
    /// Whether it should have one and the disk does not answer: nobody knows the machine's past. Then `has_ledger` is false.
    pub ledger_is_lost: bool,
    /// What the ledger says; `None` is a ledger without a valid sector, or none at all.
    pub ledger: Option<Ledger>,
    /// Bytes of one slot.
    pub slot_size: u64,
    /// Whether a watchdog is armed.
    pub has_watchdog: bool,
    /// The image that this one was started by and carries (`/phase/previous`).
    pub previous: Option<ImageRef>,
    /// What `phase.returned=` says: the image that this one was started from because it failed.
    pub returned: Option<Returned>,
    /// Seconds since 1970, when the clock is believed.
    pub wall: Option<u64>,
    /// Differs between machines and boots: spreads waits.
    pub seed: u64,
}

/// The image that failed and went back to the one that runs, on a machine without a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its place in the order of images.
    pub rank: Rank,
    /// Why it failed.
    pub reason: Reason,
}

/// An image that was offered, as the `update` role found it and PID 1 verified it.
pub type Offer = Candidate;

/// An operator's order, after its signatures were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub action: Action,
    /// Which image is meant: to stage, apply or commit, or to go back to.
    pub digest: Option<Digest>,
    /// Window, turn, loneliness and quarantine do not count.
    pub force: bool,
}

/// What the pre-flight found when everything is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Whether a watchdog runs through the jump.
    pub watchdog: bool,
    /// Whether the successor can hold this image as its crash image.
    pub crash_image: bool,
    /// The machine as it is.
    pub fingerprint: Fingerprint,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first event.
    Boot(Box<BootFacts>),
    /// Time went by: at least every ten seconds, and after every deadline that [`crate::State::next_deadline`] names.
    Tick {
        /// Seconds since 1970, when the clock is believed.
        wall: Option<u64>,
    },
    /// The answer to [`crate::Effect::Record`]. An error means that nobody knows what is on the disk.
    Recorded(Result<(), String>),
    /// The role `serve` offers the artifacts (`true`), or ended (`false`).
    Serving(bool),
    /// A verified newer manifest.
    Offered(Box<Offer>),
    /// The source says that there is nothing newer, or why it could not be asked; ends a look.
    Checked {
        /// A stable name.
        code: String,
        /// Whether the updater works.
        ok: bool,
    },
    /// Other machines of this segment.
    Neighbours {
        /// Those that serve the channel.
        live: u32,
        /// Those of them that serve what runs here.
        same: u32,
    },
    /// The answer to [`crate::Effect::AskTurn`], or that a turn was lost.
    Turn {
        /// Whether all neighbours agree.
        granted: bool,
        /// Who answered.
        by: String,
        /// Why not.
        reason: String,
    },
    /// The answer to [`crate::Effect::Fetch`]: all parts lie in sealed memory and are verified.
    Fetched(Result<(), Refused>),
    /// The answer to [`crate::Effect::WriteSlot`]: written, flushed, read back and hashed.
    SlotWritten(Result<(), Refused>),
    /// The answer to [`crate::Effect::Prepare`]: loaded, and the watchdog armed for the jump.
    Prepared(Result<Box<Prepared>, Refused>),
    /// [`crate::Effect::Jump`] came back: the kernel did not jump and the programs run again.
    JumpFailed(String),
    /// [`crate::Effect::Start`] came back.
    StartFailed {
        /// [`Reason::SlotDamaged`] or [`Reason::NotStarted`].
        reason: Reason,
        /// What a human may want to know.
        detail: String,
    },
    /// [`crate::Effect::Return`] came back.
    ReturnFailed(String),
    /// The image on trial passed this phase.
    Passed(Phase),
    /// The image on trial failed.
    GateFailed(Failure),
    /// A child ended by itself and is started again.
    ChildRestarted(String),
    /// An operator's order.
    Ordered(Order),
    /// The machine is being switched off or restarted: nothing is begun any more.
    Ending,
}

/// Why a step that was asked for did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which kind.
    pub refusal: Refusal,
    /// What a human may want to know.
    pub detail: String,
}
