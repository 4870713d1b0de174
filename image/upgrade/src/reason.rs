//! Why a trial failed, and why nothing is tried. Closed lists: each has a stable name for programs and a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ledger::Phase;
use crate::limits::DETAIL_SIZE_MAX;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $number:literal, $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $(
                $(#[$each])*
                #[serde(rename = $code)]
                $variant = $number,
            )*
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// A stable name for programs.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }

            /// One phrase for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The one with this stable name.
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.text())
            }
        }
    };
}

words! {
    /// Why an image was left again. The numbers stand in the ledger and are never used anew.
    Reason {
        /// Nothing says why the machine started again.
        Unknown = 1, "unknown", "the machine started again and nothing says why";
        /// The mains failed, or somebody pressed the reset button.
        Power = 2, "power", "the power failed during the trial";
        /// The watchdog restarted the machine.
        Hang = 3, "hang", "it hung: the watchdog restarted the machine";
        /// Its kernel panicked, or its first process died.
        Panic = 4, "panic", "its kernel or its first process died";
        /// An orderly restart in the middle of the trial.
        Interrupted = 5, "interrupted", "the machine was restarted or switched off during the trial";
        /// Its artifacts could not be verified or mounted, or it is not the image of the trial.
        Identity = 6, "identity", "it could not verify or mount itself";
        /// Hardware is missing that was there before the jump.
        Hardware = 7, "hardware", "hardware is missing that was there before";
        /// No network as before.
        Network = 8, "network", "it has no network";
        /// A self-test failed.
        SelfTest = 9, "self-test", "it did not serve what it should";
        /// Its own updater found nothing it could verify.
        Updater = 10, "updater", "it could not upgrade itself again";
        /// Its programs ended and were started again.
        Restarts = 11, "restarts", "its programs kept ending";
        /// Its memory or its open files kept growing.
        Growth = 12, "growth", "its memory or open files kept growing";
        /// A phase took too long.
        Deadline = 13, "deadline", "it took too long";
        /// The ledger could not be read or written.
        Ledger = 14, "ledger", "the record on the disk could not be written";
        /// An operator said so.
        Operator = 15, "operator", "an operator rolled it back";
        /// Started from cold it never became stable, though it did after kexec.
        ColdStart = 16, "cold-start", "it does not start from cold";
        /// Started from cold several times, it never became stable.
        BootLoop = 17, "boot-loop", "it restarted again and again";
        /// Its bytes on the disk are not those that were written.
        SlotDamaged = 18, "slot-damaged", "its bytes on the disk changed";
        /// Its verified bytes could not be started.
        NotStarted = 19, "not-started", "it could not be started";
        /// The disk that holds the ledger is not there after the jump.
        DiskMissing = 20, "disk-missing", "the disk of the slots is missing";
    }
}

words! {
    /// Why an image is not taken, or not taken now.
    Refusal {
        /// Upgrades are off.
        Off = 1, "off", "upgrades are off";
        /// Something else goes on.
        Busy = 2, "busy", "an upgrade goes on already";
        /// This image is on trial itself.
        OnTrial = 3, "on-trial", "this image is on trial itself";
        /// The machine is about to be left.
        Ending = 4, "ending", "the machine is about to restart";
        /// It is not newer than what runs.
        NotNewer = 5, "not-newer", "it is not newer than the image that runs";
        /// Its sequence is too far ahead.
        Jump = 6, "sequence-jump", "its sequence is implausibly far ahead";
        /// Its security version is below the floor.
        BelowFloor = 7, "below-floor", "its security version is too old";
        /// It failed here before.
        Quarantined = 8, "quarantined", "it failed here before";
        /// Its time is over.
        Expired = 9, "expired", "its time is over";
        /// It does not fit into a slot.
        SlotTooSmall = 10, "slot-too-small", "it does not fit into a slot";
        /// It does not fit into the memory.
        Memory = 11, "memory", "it does not fit into the memory of this machine";
        /// The kernel would not load it.
        NotLoaded = 12, "not-loaded", "the running kernel does not load it";
        /// Its bytes are not those of its manifest.
        WrongBytes = 13, "wrong-bytes", "its bytes are not those of its manifest";
        /// It could not be fetched.
        NotFetched = 14, "not-fetched", "it could not be fetched";
        /// The slot could not be written or read back.
        SlotFailed = 15, "slot-failed", "the slot could not be written";
        /// The ledger could not be written.
        Ledger = 16, "ledger", "the record on the disk could not be written";
        /// Silence after the jump would need a human.
        NoWatchdog = 17, "no-watchdog", "this machine has no watchdog";
        /// A diskless machine without a second machine that serves what runs here.
        NoOtherCopy = 18, "no-other-copy", "no other machine serves what runs here";
        /// Kexec failed here with several images.
        KexecUnfit = 19, "kexec-unfit", "this machine did not survive kexec with several images";
        /// The machine starts again and again, or runs on emergency memory.
        ServeOnly = 20, "serve-only", "this machine only serves until it was stable";
        /// No slot may be overwritten before the running image is proved by a cold start.
        Unproved = 21, "unproved", "the running image is not proved by a cold start";
        /// Outside of the maintenance window.
        Window = 22, "window", "outside of the maintenance window";
        /// The last server of its segment.
        Alone = 23, "alone", "no other machine serves this segment";
        /// A neighbour refused the turn.
        Turn = 24, "turn", "a neighbour has its turn";
        /// The order names another image.
        WrongDigest = 25, "wrong-digest", "the order names another image";
        /// There is nothing to apply.
        NothingStaged = 26, "nothing-staged", "nothing newer is known";
        /// There is nothing to commit.
        NothingOnTrial = 27, "nothing-on-trial", "nothing is on trial";
        /// The trial has not passed its tests yet.
        NotPassed = 28, "not-passed", "the trial has not passed its tests yet";
        /// There is no older image to go back to.
        NothingOlder = 29, "nothing-older", "there is no older image to go back to";
        /// Staged, as the mode says; an order applies it.
        WaitsForOrder = 30, "waits-for-order", "it is staged and waits for an order";
        /// A step took longer than its deadline.
        TooSlow = 31, "too-slow", "it took too long";
        /// The running image came up a moment ago.
        Soaking = 32, "soaking", "the running image was not stable yet";
        /// A machine without a record hung or panicked, perhaps in what it would try again.
        AfterReset = 33, "after-reset", "this machine hung or panicked and has no record of why; it waits for an order";
    }
}

impl Reason {
    /// Whether the trial says nothing about the image: it may be repeated once.
    pub const fn is_accident(self) -> bool {
        matches!(self, Self::Power | Self::Interrupted)
    }

    /// The one with this number, as the ledger has it; a number of a later version is unknown.
    pub(crate) fn from_number(number: u8) -> Self {
        let known = Self::ALL.iter().find(|known| **known as u8 == number);
        known.copied().unwrap_or(Self::Unknown)
    }
}

/// How a trial ended badly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// How far it had come.
    pub phase: Phase,
    /// What a human may want to know: a line of printable ASCII.
    pub detail: String,
}

impl Failure {
    /// A failure with its explanation cleaned and cut.
    pub fn new(reason: Reason, phase: Phase, detail: &str) -> Self {
        Self {
            reason,
            phase,
            detail: plain(detail, DETAIL_SIZE_MAX),
        }
    }
}

/// At most `size_max` characters that can be shown anywhere.
pub(crate) fn plain(text: &str, size_max: usize) -> String {
    let show = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    text.trim().chars().take(size_max).map(show).collect()
}
