//! The bytes of the ledger on disk: two sectors, written in turns, so that one of them is always whole.
//!
//! ```text
//! 0   8  magic "PHASELDG"
//! 8   2  format, 1
//! 10  2  length of the payload
//! 12  4  zero
//! 16  8  write counter, from 1
//! 24  n  payload: sections of tag (1), length (2) and bytes, tags ascending
//! ..     zeros
//! 4064 32 SHA-256 of all bytes before
//! ```
//!
//! Integers are little-endian. Golden is the oldest program that reads this, and it must understand what its successors
//! write: tags from 128 on are sections of later versions that are kept and passed on, and a number of a reason that is not
//! known is read as "unknown". Anything else that [`encode`] would not write makes the sector invalid.
//!
//! What survives a power cut: a torn write damages one sector only, its digest does not fit, and the other sector holds
//! what was written before.

use boot_manifest::Digest;

use crate::fingerprint::{Fingerprint, Nic};
use crate::image::{ImageRef, Place, Rank};
use crate::ledger::{
    HistoryEntry, InvalidLedger, Ledger, OPTIONAL_TAG, Outcome, Phase, Quarantined, Slot, Trial,
};
use crate::reason::{Failure, Reason};

/// Bytes of one sector: a page, which disks with large blocks write as one.
pub const SIZE: usize = 4096;

/// Where the two sectors lie in the partition: half a megabyte apart, so that no erase block of common flash has both.
pub const OFFSETS: [u64; 2] = [0, 512 << 10];

const MAGIC: &[u8; 8] = b"PHASELDG";
const FORMAT: u16 = 1;
const HEAD: usize = 24;
const DIGEST_AT: usize = SIZE - 32;
const PAYLOAD_MAX: usize = DIGEST_AT - HEAD;

const IMAGES: u8 = 1;
const CHOICE: u8 = 2;
const COUNTERS: u8 = 3;
const TRIAL: u8 = 4;
const QUARANTINE: u8 = 5;
const HISTORY: u8 = 6;

/// Why a sector does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SectorError {
    /// Never written.
    #[error("it was never written")]
    Blank,
    /// No magic, wrong digest, or not as `encode` writes it.
    #[error("it is damaged")]
    Damaged,
    /// Written by a later version in a way that this one cannot read.
    #[error("it has format {0}; {FORMAT} can be read")]
    Format(u16),
    /// Its values contradict each other.
    #[error("it makes no sense: {0}")]
    Invalid(#[from] InvalidLedger),
}

/// What the two sectors say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The newest ledger; `None` when neither sector is valid.
    pub ledger: Option<Ledger>,
    /// Its write counter, or 0.
    pub counter: u64,
    /// The sector that the next write goes to: never the one that holds `ledger`.
    pub write_next: usize,
}

/// The sector for `ledger` as the write number `counter`.
pub fn encode(ledger: &Ledger, counter: u64) -> Result<Vec<u8>, InvalidLedger> {
    ledger.validate()?;
    let payload = payload(ledger);
    let length = u16::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_MAX);
    let length = length.ok_or(InvalidLedger::TooLong("the ledger"))?;
    let mut bytes = vec![0; SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[10..12].copy_from_slice(&length.to_le_bytes());
    bytes[16..24].copy_from_slice(&counter.to_le_bytes());
    bytes[HEAD..HEAD + payload.len()].copy_from_slice(&payload);
    let digest = Digest::of(&bytes[..DIGEST_AT]);
    bytes[DIGEST_AT..].copy_from_slice(digest.as_bytes());
    Ok(bytes)
}

/// The write counter and the ledger of a sector.
pub fn decode(bytes: &[u8]) -> Result<(u64, Ledger), SectorError> {
    if bytes.len() != SIZE {
        return Err(SectorError::Damaged);
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(SectorError::Blank);
    }
    let digest = Digest::of(&bytes[..DIGEST_AT]);
    if !bytes.starts_with(MAGIC) || bytes[DIGEST_AT..] != digest.as_bytes()[..] {
        return Err(SectorError::Damaged);
    }
    let mut head = Reader(&bytes[8..HEAD]);
    let (format, length) = (head.u16(), head.u16());
    let (Some(format), Some(length), Some(reserved), Some(counter)) =
        (format, length, head.u32(), head.u64())
    else {
        return Err(SectorError::Damaged);
    };
    if format != FORMAT {
        return Err(SectorError::Format(format));
    }
    let end = HEAD + usize::from(length);
    let payload = bytes[..DIGEST_AT].split_at_checked(end);
    let (payload, rest) = payload.ok_or(SectorError::Damaged)?;
    if reserved != 0 || rest.iter().any(|byte| *byte != 0) {
        return Err(SectorError::Damaged);
    }
    let ledger = read_payload(&payload[HEAD..]).ok_or(SectorError::Damaged)?;
    ledger.validate()?;
    Ok((counter, ledger))
}

/// The newest of the two sectors; `None` stands for one that could not be read.
pub fn newest(sectors: [Option<&[u8]>; 2]) -> Found {
    let read = sectors.map(|bytes| decode(bytes?).ok());
    let newer = match &read {
        [Some((first, _)), Some((second, _))] => usize::from(second > first),
        [Some(_), None] => 0,
        [None, _] => 1,
    };
    match read.into_iter().nth(newer).flatten() {
        Some((counter, ledger)) => Found {
            ledger: Some(ledger),
            counter,
            write_next: 1 - newer,
        },
        None => Found {
            ledger: None,
            counter: 0,
            write_next: 0,
        },
    }
}

fn payload(ledger: &Ledger) -> Vec<u8> {
    let mut all = Writer::default();
    all.section(IMAGES, |to| {
        to.option(ledger.golden.as_ref(), Writer::image);
        for slot in [&ledger.a, &ledger.b] {
            match slot {
                Slot::Dirty => to.u8(0),
                Slot::Valid { image, proved } => {
                    to.u8(1 + u8::from(*proved));
                    to.image(image);
                }
            }
        }
    });
    all.section(CHOICE, |to| {
        to.option(ledger.default.as_ref(), Writer::digest);
        to.option(ledger.previous.as_ref(), Writer::digest);
    });
    all.section(COUNTERS, |to| {
        to.u8(ledger.starts);
        to.u64(ledger.floor);
        to.rank(ledger.seen);
        to.u32(ledger.trials);
        to.u8(ledger.kexec_failures);
    });
    if let Some(trial) = &ledger.trial {
        all.section(TRIAL, |to| to.trial(trial));
    }
    if !ledger.quarantine.is_empty() {
        all.section(QUARANTINE, |to| {
            for one in &ledger.quarantine {
                to.digest(&one.digest);
                to.rank(one.rank);
                to.u8(one.trials);
                to.failure(&one.failure);
            }
        });
    }
    if !ledger.history.is_empty() {
        all.section(HISTORY, |to| {
            for one in &ledger.history {
                to.option(one.at.as_ref(), |to, at| to.u64(*at));
                to.digest(&one.digest);
                to.text(&one.version);
                to.outcome(one.outcome);
                to.u8(one.phase as u8);
            }
        });
    }
    for (tag, bytes) in &ledger.extra {
        all.section(*tag, |to| to.0.extend_from_slice(bytes));
    }
    all.0
}

fn read_payload(bytes: &[u8]) -> Option<Ledger> {
    let mut ledger = Ledger::default();
    let mut from = Reader(bytes);
    let mut required = [IMAGES, CHOICE, COUNTERS].into_iter();
    let mut last = 0;
    while !from.0.is_empty() {
        let tag = from.u8()?;
        let length = usize::from(from.u16()?);
        let mut section = Reader(from.take(length)?);
        if tag <= last || (tag <= COUNTERS && required.next() != Some(tag)) {
            return None;
        }
        last = tag;
        match tag {
            IMAGES => section.images(&mut ledger)?,
            CHOICE => {
                ledger.default = section.option(Reader::digest)?;
                ledger.previous = section.option(Reader::digest)?;
            }
            COUNTERS => {
                ledger.starts = section.u8()?;
                ledger.floor = section.u64()?;
                ledger.seen = section.rank()?;
                ledger.trials = section.u32()?;
                ledger.kexec_failures = section.u8()?;
            }
            TRIAL => ledger.trial = Some(section.trial()?),
            QUARANTINE => {
                while !section.0.is_empty() {
                    ledger.quarantine.push(section.quarantined()?);
                }
            }
            HISTORY => {
                while !section.0.is_empty() {
                    ledger.history.push(section.history_entry()?);
                }
            }
            OPTIONAL_TAG.. => ledger.extra.push((tag, section.take(length)?.to_vec())),
            _ => return None,
        }
        if !section.0.is_empty() {
            return None;
        }
    }
    required.next().is_none().then_some(ledger)
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn section(&mut self, tag: u8, write: impl FnOnce(&mut Self)) {
        let mut inside = Self::default();
        write(&mut inside);
        self.u8(tag);
        // Cut lengths cannot go unnoticed: a payload that long is refused as a whole.
        self.u16(u16::try_from(inside.0.len()).unwrap_or(u16::MAX));
        self.0.extend_from_slice(&inside.0);
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn digest(&mut self, digest: &Digest) {
        self.0.extend_from_slice(digest.as_bytes());
    }

    /// Validation held every text below 256 bytes.
    fn text(&mut self, text: &str) {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.u8(length);
        self.0
            .extend_from_slice(&text.as_bytes()[..usize::from(length).min(text.len())]);
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn rank(&mut self, rank: Rank) {
        self.u64(rank.generation);
        self.u64(rank.sequence);
    }

    fn image(&mut self, image: &ImageRef) {
        self.digest(&image.digest);
        self.u8(image.place as u8);
        self.text(&image.version);
        self.rank(image.rank());
        self.u64(image.security_version);
    }

    fn failure(&mut self, failure: &Failure) {
        self.u8(failure.reason as u8);
        self.u8(failure.phase as u8);
        self.text(&failure.detail);
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Committed => self.u8(1),
            Outcome::Proved => self.u8(2),
            Outcome::Returned => self.u8(3),
            Outcome::Failed(reason) => {
                self.u8(4);
                self.u8(reason as u8);
            }
        }
    }

    fn trial(&mut self, trial: &Trial) {
        self.u32(trial.number);
        self.image(&trial.image);
        self.digest(&trial.from);
        self.u8(trial.phase as u8);
        self.option(trial.failure.as_ref(), Self::failure);
        self.u32(trial.fingerprint.cpus);
        self.u32(trial.fingerprint.memory_mib);
        self.u32(trial.fingerprint.disks);
        for nic in &trial.fingerprint.nics {
            self.text(&nic.path);
            self.0.extend_from_slice(&nic.mac);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn rank(&mut self) -> Option<Rank> {
        let (generation, sequence) = (self.u64()?, self.u64()?);
        Some(Rank {
            generation,
            sequence,
        })
    }

    fn image(&mut self) -> Option<ImageRef> {
        let digest = self.digest()?;
        let place = self.u8()?;
        let version = self.text()?;
        let rank = self.rank()?;
        Some(ImageRef {
            digest,
            place: Place::ALL.into_iter().find(|known| *known as u8 == place)?,
            version,
            sequence: rank.sequence,
            generation: rank.generation,
            security_version: self.u64()?,
        })
    }

    fn images(&mut self, ledger: &mut Ledger) -> Option<()> {
        ledger.golden = self.option(Self::image)?;
        for slot in [&mut ledger.a, &mut ledger.b] {
            *slot = match self.u8()? {
                0 => Slot::Dirty,
                state @ (1 | 2) => Slot::Valid {
                    image: self.image()?,
                    proved: state == 2,
                },
                _ => return None,
            };
        }
        Some(())
    }

    fn phase(&mut self) -> Option<Phase> {
        let number = self.u8()?;
        Phase::ALL.into_iter().find(|known| *known as u8 == number)
    }

    fn failure(&mut self) -> Option<Failure> {
        Some(Failure {
            reason: Reason::from_number(self.u8()?),
            phase: self.phase()?,
            detail: self.text()?,
        })
    }

    fn quarantined(&mut self) -> Option<Quarantined> {
        Some(Quarantined {
            digest: self.digest()?,
            rank: self.rank()?,
            trials: self.u8()?,
            failure: self.failure()?,
        })
    }

    fn history_entry(&mut self) -> Option<HistoryEntry> {
        Some(HistoryEntry {
            at: self.option(Self::u64)?,
            digest: self.digest()?,
            version: self.text()?,
            outcome: match self.u8()? {
                1 => Outcome::Committed,
                2 => Outcome::Proved,
                3 => Outcome::Returned,
                4 => Outcome::Failed(Reason::from_number(self.u8()?)),
                _ => return None,
            },
            phase: self.phase()?,
        })
    }

    /// The rest of the section is the fingerprint's network cards.
    fn trial(&mut self) -> Option<Trial> {
        let mut trial = Trial {
            number: self.u32()?,
            image: self.image()?,
            from: self.digest()?,
            phase: self.phase()?,
            failure: self.option(Self::failure)?,
            fingerprint: Fingerprint {
                cpus: self.u32()?,
                memory_mib: self.u32()?,
                disks: self.u32()?,
                nics: Vec::new(),
            },
        };
        while !self.0.is_empty() {
            let (path, mac) = (self.text()?, self.array()?);
            trial.fingerprint.nics.push(Nic { path, mac });
        }
        Some(trial)
    }
}

#[cfg(test)]
mod tests;
