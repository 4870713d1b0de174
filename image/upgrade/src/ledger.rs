//! The ledger: everything that a machine remembers across restarts. Plain values and their rules; [`crate::sector`] knows
//! their bytes.
//!
//! One write changes all of it at once. A machine without a disk keeps one in memory.

use std::fmt;

use boot_manifest::Digest;
use boot_manifest::limits::VERSION_SIZE_MAX;
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::image::{ImageRef, Place, Rank};
use crate::limits;
use crate::reason::{Failure, Reason};

mod record;

/// The number of a trial, as `phase.trial=` has it: `d7` is remembered on the disk, `m7` in memory only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrialId {
    /// Counts the trials of a machine.
    pub number: u32,
    /// Whether a ledger on disk knows it.
    pub on_disk: bool,
}

/// How far an image on trial has come. The marks say where it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before the jump, or nothing of the successor was seen.
    Jump = 0,
    /// P1: its first process runs; the watchdog is armed, then the predecessor is loaded as crash image.
    Watchdog = 1,
    /// P2: its artifacts are verified and mounted; the hardware is that of before.
    Identity = 2,
    /// P3: the network.
    Network = 3,
    /// P4: the self-test through the real interface.
    Serve = 4,
    /// P5: the updater.
    Updater = 5,
    /// P6: the soak.
    Soak = 6,
}

/// One trial. It stands in the ledger from before the jump until it is committed or closed, and its only attempt is
/// consumed by standing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Which.
    pub number: u32,
    /// The image on trial.
    pub image: ImageRef,
    /// The image it was started by, and that a failure leads back to.
    pub from: Digest,
    /// The last phase it entered.
    pub phase: Phase,
    /// What the image itself, or its crash kernel, said before the restart.
    pub failure: Option<Failure>,
    /// The machine before the jump.
    pub fingerprint: Fingerprint,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Slot {
    /// Nothing that may be started.
    #[default]
    Dirty,
    /// An image that was written, flushed and read back.
    Valid {
        /// Which.
        image: ImageRef,
        /// Whether it was stable after a cold start.
        proved: bool,
    },
}

/// An image that failed here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its place in the order of images.
    pub rank: Rank,
    /// Trials so far.
    pub trials: u8,
    /// How the last one ended.
    pub failure: Failure,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "kebab-case")]
pub enum Outcome {
    /// It proved itself and became the default.
    Committed,
    /// It was stable after a cold start.
    Proved,
    /// It was left again.
    Failed(Reason),
    /// An operator or a failure made it the default again.
    Returned,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, in seconds since 1970, as far as the clock was set.
    pub at: Option<u64>,
    /// The image.
    pub digest: Digest,
    /// What people call it.
    pub version: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How far it had come.
    pub phase: Phase,
}

/// Everything that is remembered. The default is that of the factory: golden is started, nothing is on trial.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The image of the medium, as it last introduced itself.
    pub golden: Option<ImageRef>,
    /// The first slot.
    pub a: Slot,
    /// The second slot.
    pub b: Slot,
    /// The image that a cold start leads to; `None` is golden.
    pub default: Option<Digest>,
    /// The committed image before it; `None` is golden.
    pub previous: Option<Digest>,
    /// Cold starts of the default since it was stable.
    pub starts: u8,
    /// Smallest security version that is accepted.
    pub floor: u64,
    /// The newest image that was ever staged.
    pub seen: Rank,
    /// Trials so far.
    pub trials: u32,
    /// Trials in a row that did not survive the jump itself.
    pub kexec_failures: u8,
    /// The open trial.
    pub trial: Option<Trial>,
    /// Images that failed here, oldest first.
    pub quarantine: Vec<Quarantined>,
    /// What happened, oldest first.
    pub history: Vec<HistoryEntry>,
    /// Sections that only later versions read, kept as they are.
    pub extra: Vec<(u8, Vec<u8>)>,
}

/// Why values cannot be a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLedger {
    /// A list or text is too long.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A value is out of its range.
    #[error("{0} cannot be")]
    OutOfRange(&'static str),
    /// An image is named that lies nowhere.
    #[error("{0} names an image that no slot holds")]
    Nowhere(&'static str),
}

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.on_disk { 'd' } else { 'm' };
        write!(f, "{kind}{}", self.number)
    }
}

impl TrialId {
    /// Reads what its `Display` wrote; one value has one spelling.
    pub fn parse(text: &str) -> Option<Self> {
        let (on_disk, digits) = match text.split_at_checked(1)? {
            ("d", digits) => (true, digits),
            ("m", digits) => (false, digits),
            _ => return None,
        };
        let number: u32 = digits.parse().ok()?;
        (number.to_string() == digits).then_some(Self { number, on_disk })
    }
}

impl Phase {
    /// Every phase in order.
    pub const ALL: [Self; 7] = [
        Self::Jump,
        Self::Watchdog,
        Self::Identity,
        Self::Network,
        Self::Serve,
        Self::Updater,
        Self::Soak,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jump => "jump",
            Self::Watchdog => "watchdog",
            Self::Identity => "identity",
            Self::Network => "network",
            Self::Serve => "serve",
            Self::Updater => "updater",
            Self::Soak => "soak",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Ledger {
    /// Checks every rule: [`crate::sector`] writes and reads nothing that breaks one.
    pub fn validate(&self) -> Result<(), InvalidLedger> {
        if self.quarantine.len() > limits::QUARANTINE_MAX {
            return Err(InvalidLedger::TooLong("the quarantine"));
        }
        if self.history.len() > limits::HISTORY_MAX {
            return Err(InvalidLedger::TooLong("the history"));
        }
        let images = [(&self.a, Place::A), (&self.b, Place::B)];
        let stored = images.into_iter().filter_map(|(slot, place)| match slot {
            Slot::Valid { image, .. } => Some((image, place)),
            Slot::Dirty => None,
        });
        let golden = self.golden.iter().map(|image| (image, Place::Golden));
        for (image, place) in stored.chain(golden) {
            check_image(image)?;
            if image.place != place {
                return Err(InvalidLedger::OutOfRange("an image at another place"));
            }
        }
        for (digest, name) in [
            (self.default, "the default"),
            (self.previous, "the previous"),
        ] {
            if digest.is_some_and(|digest| self.stored(&digest).is_none()) {
                return Err(InvalidLedger::Nowhere(name));
            }
        }
        if let Some(trial) = &self.trial {
            check_trial(trial)?;
        }
        for one in &self.quarantine {
            check_text(
                "an explanation",
                &one.failure.detail,
                limits::DETAIL_SIZE_MAX,
            )?;
        }
        for one in &self.history {
            check_text("a version", &one.version, VERSION_SIZE_MAX)?;
        }
        self.check_extra()
    }

    fn check_extra(&self) -> Result<(), InvalidLedger> {
        let size: usize = self.extra.iter().map(|(_, bytes)| bytes.len() + 3).sum();
        if size > limits::EXTRA_SIZE_MAX {
            return Err(InvalidLedger::TooLong("what later versions added"));
        }
        if self.extra.iter().any(|(tag, _)| *tag < OPTIONAL_TAG)
            || !self.extra.is_sorted_by(|a, b| a.0 < b.0)
        {
            return Err(InvalidLedger::OutOfRange(
                "the order of what later versions added",
            ));
        }
        Ok(())
    }

    /// The slot at `place`; golden and memory are none.
    pub fn slot(&self, place: Place) -> Option<&Slot> {
        match place {
            Place::A => Some(&self.a),
            Place::B => Some(&self.b),
            Place::Golden | Place::Memory => None,
        }
    }

    /// The image with this digest, when a slot holds it.
    pub fn stored(&self, digest: &Digest) -> Option<(&ImageRef, bool)> {
        [&self.a, &self.b].into_iter().find_map(|slot| match slot {
            Slot::Valid { image, proved } if image.digest == *digest => Some((image, *proved)),
            Slot::Valid { .. } | Slot::Dirty => None,
        })
    }
}

/// Sections from this tag on may be kept unread.
pub(crate) const OPTIONAL_TAG: u8 = 128;

fn check_image(image: &ImageRef) -> Result<(), InvalidLedger> {
    check_text("a version", &image.version, VERSION_SIZE_MAX)
}

fn check_trial(trial: &Trial) -> Result<(), InvalidLedger> {
    check_image(&trial.image)?;
    if let Some(failure) = &trial.failure {
        check_text("an explanation", &failure.detail, limits::DETAIL_SIZE_MAX)?;
    }
    if trial.fingerprint.nics.len() > limits::NICS_MAX {
        return Err(InvalidLedger::TooLong("the list of network cards"));
    }
    for nic in &trial.fingerprint.nics {
        check_text(
            "the path of a network card",
            &nic.path,
            limits::NIC_PATH_SIZE_MAX,
        )?;
    }
    Ok(())
}

/// Texts are shown on consoles: printable ASCII only.
fn check_text(name: &'static str, text: &str, size_max: usize) -> Result<(), InvalidLedger> {
    if text.len() > size_max {
        return Err(InvalidLedger::TooLong(name));
    }
    if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(InvalidLedger::OutOfRange(name));
    }
    Ok(())
}
