//! How a machine replaces its own image and always comes back: every decision of an upgrade, and the record that
//! survives a power cut.
//!
//! [`step`] is the whole state machine: `(state, event, now) -> (state, effects)`. PID 1 feeds it what happened and carries
//! out what it answers; what it remembers across restarts is the [`Ledger`], of which [`sector`] knows the bytes.
//!
//! This crate does no I/O, reads no clock, draws no random numbers and never panics on input: time is an argument, and so
//! is everything the machine found out. It is linked into PID 1, so its dependencies are few. It decides nothing about
//! trust: a [`Candidate`] comes from a manifest that was verified.
//!
//! | module | holds |
//! | --- | --- |
//! | `step` | the picture of the machine, its states and transitions |
//! | `event`, `effect` | what goes in and what comes out |
//! | `ledger`, [`sector`] | what is remembered, and its bytes on disk |
//! | `image` | images, where they lie, which is newer |
//! | `reason` | why a trial failed, why nothing is tried |
//! | `policy` | what the operator allows, windows, jitter, which offers are admitted |
//! | `fingerprint`, `memory` | the same machine as before the jump; what fits into it |
//! | `status` | what people and programs are shown |
//! | `limits` | every bound with its reason |

mod effect;
mod event;
mod fingerprint;
mod image;
mod ledger;
pub mod limits;
mod memory;
mod policy;
mod reason;
pub mod sector;
mod status;
mod step;

pub use boot_manifest::Action;
pub use effect::{Effect, Notice};
pub use event::{BootFacts, Event, How, Offer, Order, Prepared, Refused, ResetCause, Returned};
pub use fingerprint::{Fingerprint, Nic};
pub use image::{Candidate, ImageRef, Place, Rank, Sizes};
pub use ledger::{
    HistoryEntry, InvalidLedger, Ledger, Outcome, Phase, Quarantined, Slot, Trial, TrialId,
};
pub use memory::{Memory, kexec_need};
pub use policy::{Mode, Policy, Window, jittered};
pub use reason::{Failure, Reason, Refusal};
pub use status::{CandidateStatus, ImageStatus, OrderStatus, Status, TrialStatus};
pub use step::{State, step};
