//! What the operator allows: mode, maintenance window, intervals.

use std::fmt;
use std::time::Duration;

use boot_manifest::{Counters, SuccessionError};
use serde::{Deserialize, Serialize};

use crate::image::{Candidate, ImageRef};
use crate::ledger::Ledger;
use crate::reason::Refusal;

/// What happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything.
    Auto,
    /// Newer images are fetched; an order applies them.
    Staged,
    /// Nothing; orders are obeyed.
    Off,
}

/// A daily window in minutes of the UTC day; it may wrap around midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    begin: u16,
    end: u16,
}

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What happens by itself.
    pub mode: Mode,
    /// When the running image may be left; `None` is always.
    pub window: Option<Window>,
    /// How often newer images are looked for, before jitter. The role `update` keeps to it; no decision here depends on it.
    pub poll: Duration,
    /// How long an image must run well before it is believed.
    pub soak: Duration,
    /// Whether the last server of its segment may leave.
    pub alone: bool,
    /// Whether a trial needs a watchdog: `no` only where somebody can press the button.
    pub needs_watchdog: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            window: None,
            poll: Duration::from_secs(900),
            soak: Duration::from_secs(600),
            alone: false,
            needs_watchdog: true,
        }
    }
}

impl Mode {
    /// The word for it, as `phase.upgrade=` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Staged => "staged",
            Self::Off => "off",
        }
    }

    /// Reads what [`Mode::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Staged, Self::Off]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

impl Window {
    /// Reads `HH:MM-HH:MM`. Begin and end must differ: nobody knows whether that would be always or never.
    pub fn parse(text: &str) -> Option<Self> {
        let (begin, end) = text.split_once('-')?;
        let (begin, end) = (minute(begin)?, minute(end)?);
        (begin != end).then_some(Self { begin, end })
    }

    /// Whether the window is open at `unix` seconds since 1970.
    pub fn is_open(&self, unix: u64) -> bool {
        const MINUTES: u64 = 24 * 60;
        let minute = unix / 60 % MINUTES;
        let (begin, end) = (u64::from(self.begin), u64::from(self.end));
        if begin < end {
            (begin..end).contains(&minute)
        } else {
            minute >= begin || minute < end
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, end) = (self.begin, self.end);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            begin / 60,
            begin % 60,
            end / 60,
            end % 60
        )
    }
}

/// What an offer is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admission<'a> {
    pub(crate) offer: &'a Candidate,
    pub(crate) running: &'a ImageRef,
    pub(crate) ledger: &'a Ledger,
    /// Bytes of a slot, on a machine that has some.
    pub(crate) slot_size: Option<u64>,
    /// An operator's order: quarantine does not count.
    pub(crate) forced: bool,
}

/// Whether an image whose manifest is believed may follow the one that runs. The first rule that is broken counts.
pub(crate) fn admit(admission: &Admission<'_>) -> Result<(), Refusal> {
    let Admission {
        offer,
        running,
        ledger,
        slot_size,
        forced,
    } = *admission;
    let counters = Counters {
        generation: running.generation,
        sequence: running.sequence,
        security_version: running.security_version,
    };
    let of_offer = Counters {
        generation: offer.generation,
        sequence: offer.sequence,
        security_version: offer.security_version,
    };
    counters.admit(&of_offer).map_err(|error| match error {
        SuccessionError::OlderGeneration { .. } | SuccessionError::NotNewer { .. } => {
            Refusal::NotNewer
        }
        SuccessionError::SequenceJump { .. } => Refusal::Jump,
        SuccessionError::SecurityVersion { .. } => Refusal::BelowFloor,
    })?;
    let is_new_generation = offer.generation > running.generation;
    if offer.security_version < ledger.floor && !is_new_generation {
        return Err(Refusal::BelowFloor);
    }
    // The numbers decide what is newer. Time only keeps a machine from what was meant to be forgotten, and the clock of a
    // machine may be years ahead: an operator, whose order is fresh by its nonce, knows better.
    if offer.expired && !forced {
        return Err(Refusal::Expired);
    }
    if !forced && ledger.is_barred(&offer.digest, offer.rank()) {
        return Err(Refusal::Quarantined);
    }
    if slot_size.is_some_and(|size| offer.sizes.slot > size) {
        return Err(Refusal::SlotTooSmall);
    }
    Ok(())
}

/// `HH:MM` as a minute of the day, both with two digits.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str, below: u16| {
        let shaped = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let value: u16 = digits.parse().ok()?;
        (shaped && value < below).then_some(value)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

/// `interval` with a quarter more or less, by a seed that differs between machines and from one time to the next.
pub fn jittered(interval: Duration, seed: u64) -> Duration {
    // SplitMix64: neighbouring seeds must not give neighbouring waits.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let permille = u32::try_from((mixed ^ (mixed >> 31)) % 501).unwrap_or_default();
    interval / 1000 * (750 + permille)
}
