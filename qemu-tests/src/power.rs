//! Power cuts: what a disk may hold when the power goes at some moment of a log that [`crate::nbd`] wrote.
//!
//! ```text
//! log     W W W F W W F W W W | W ...
//!         '--- durable ---' '-----' cut
//!                           any of these sectors, or none: a volatile cache writes when and in which order it likes
//! ```
//! Sectors of 512 bytes are written whole or not at all; nothing else is promised. Every choice comes from a seed, so a cut
//! that found something can be made again.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::nbd::{self, Op};

/// What disks write whole.
const SECTOR: usize = 512;

/// A small generator of numbers (SplitMix64): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Begins at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next_u64() % bound).unwrap_or_default()
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.next_u64() & 1 == 1
    }
}

/// What becomes of the writes that no flush had covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of them reached the medium.
    Nothing,
    /// None did.
    Everything,
    /// Some did, each of them whole.
    Some,
    /// Some did, some did not, and some are torn: their first sectors, or any of their sectors.
    Torn,
    /// As torn; and the last flush was a lie: what it covered may be lost, too.
    Lied,
}

impl Loss {
    /// Each of them.
    pub const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Everything,
        Self::Some,
        Self::Torn,
        Self::Lied,
    ];
}

/// One power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// How many entries of the log had been answered.
    pub at: usize,
    /// What was lost.
    pub loss: Loss,
    /// Where the choices of sectors begin.
    pub seed: u64,
}

impl Cut {
    /// A cut of `log`. Every second one is right before, between or right behind the writes to `ledger`: they are few
    /// among thousands, and all that counts.
    pub fn any(log: &[Op], ledger: &Range<u64>, rng: &mut Rng) -> Self {
        let to_ledger = |op: &Op| matches!(op, Op::Write { offset, .. } if ledger.contains(offset));
        let places: Vec<usize> = (0..log.len()).filter(|at| to_ledger(&log[*at])).collect();
        let at = if rng.coin() && !places.is_empty() {
            // Up to the flush behind the write, and the entry behind that.
            places[rng.below(places.len())] + rng.below(4)
        } else {
            rng.below(log.len() + 1)
        };
        Self {
            at: at.min(log.len()),
            loss: Loss::ALL[rng.below(Loss::ALL.len())],
            seed: rng.next_u64(),
        }
    }

    /// Gives every piece that reached the medium, in order, to `write`.
    ///
    /// # Errors
    /// What `write` says.
    pub fn replay(
        &self,
        log: &[Op],
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for op in &log[..self.durable(log)] {
            if let Op::Write { offset, bytes } = op {
                write(*offset, bytes)?;
            }
        }
        self.survivors(log, write)
    }

    /// How many entries of the log are on the medium for certain.
    #[must_use]
    pub fn durable(&self, log: &[Op]) -> usize {
        let log = &log[..self.at.min(log.len())];
        let flushes = (0..log.len()).filter(|at| log[*at] == Op::Flush);
        let back = usize::from(self.loss == Loss::Lied);
        flushes.rev().nth(back).unwrap_or(0)
    }

    /// Gives the sectors that reached the medium by chance, in order, to `write`.
    ///
    /// # Errors
    /// What `write` says.
    pub fn survivors(
        &self,
        log: &[Op],
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut rng = Rng::new(self.seed);
        for op in &log[self.durable(log)..self.at.min(log.len())] {
            let Op::Write { offset, bytes } = op else {
                continue;
            };
            let kept = self.loss.kept(bytes.len().div_ceil(SECTOR), &mut rng);
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                if kept.has(number, &mut rng) {
                    write(offset + (number * SECTOR) as u64, sector)?;
                }
            }
        }
        Ok(())
    }

    /// Writes to `out` what the disk that was `base` at the beginning of `log` holds after this cut.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn image(&self, base: &Path, log: &[Op], out: &Path) -> Result<()> {
        nbd::copy_sparse(base, out)?;
        let file = std::fs::File::options().write(true).open(out)?;
        self.replay(log, |offset, sector| {
            let written = file.write_all_at(sector, offset);
            written.with_context(|| format!("write {}", out.display()))
        })
    }
}

/// Which sectors of one write reached the medium.
enum Kept {
    All,
    None,
    First(usize),
    Any,
}

impl Kept {
    fn has(&self, sector: usize, rng: &mut Rng) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::First(count) => sector < *count,
            Self::Any => rng.coin(),
        }
    }
}

impl Loss {
    fn kept(self, sectors: usize, rng: &mut Rng) -> Kept {
        let whole = |kept| if kept { Kept::All } else { Kept::None };
        match self {
            Self::Nothing => Kept::All,
            Self::Everything => Kept::None,
            Self::Some => whole(rng.coin()),
            Self::Torn | Self::Lied => match rng.below(4) {
                0 => Kept::First(rng.below(sectors)),
                1 => Kept::Any,
                2 => Kept::None,
                _ => Kept::All,
            },
        }
    }
}

/// The bytes of the partition `name` in a disk image.
///
/// # Errors
/// When the image has no such partition.
pub fn partition(image: &Path, name: &str) -> Result<Range<u64>> {
    // The entries of a GPT begin in the third sector, 128 bytes each: first and last sector at 32, name at 56.
    let mut table = [0; 32 * SECTOR];
    let file = std::fs::File::open(image).with_context(|| format!("open {}", image.display()))?;
    file.read_exact_at(&mut table, 2 * SECTOR as u64)?;
    let wanted: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let entry = table
        .chunks_exact(128)
        .find(|entry| entry[56..].starts_with(&wanted));
    let entry = entry.with_context(|| format!("{} has no partition {name}", image.display()))?;
    let sector = |at: usize| -> Result<u64> {
        let number: [u8; 8] = entry[at..at + 8].try_into()?;
        Ok(u64::from_le_bytes(number))
    };
    Ok(sector(32)? * SECTOR as u64..(sector(40)? + 1) * SECTOR as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 64 << 10;

    /// Two writes of eight sectors, a flush, two more over the first ones, a flush, and one more.
    fn log() -> Vec<Op> {
        let write = |offset, byte| Op::Write {
            offset,
            bytes: vec![byte; 4096],
        };
        vec![
            write(0, 1),
            write(4096, 2),
            Op::Flush,
            Op::Mark("now".into()),
            write(0, 3),
            write(8192, 4),
            Op::Flush,
            write(4096, 5),
        ]
    }

    fn disk(cut: Cut) -> Vec<u8> {
        let mut disk = vec![0; BYTES];
        cut.replay(&log(), |offset, bytes| {
            let offset = usize::try_from(offset)?;
            disk[offset..offset + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        disk
    }

    fn all() -> impl Iterator<Item = Cut> {
        (0..=log().len()).flat_map(|at| {
            let losses = Loss::ALL.into_iter();
            losses.flat_map(move |loss| (0..50).map(move |seed| Cut { at, loss, seed }))
        })
    }

    #[test]
    fn what_was_flushed_is_there_and_every_sector_is_one_that_was_written() {
        for cut in all() {
            let disk = disk(cut);
            for (place, written) in [(0, [0, 1, 3]), (4096, [0, 2, 5]), (8192, [0, 4, 4])] {
                for sector in disk[place..place + 4096].chunks(SECTOR) {
                    let same = sector.iter().all(|byte| *byte == sector[0]);
                    assert!(same && written.contains(&sector[0]), "{cut:?}");
                }
            }
            let has = |place: usize, bytes: &[u8]| {
                let sectors = disk[place..place + 4096].chunks(SECTOR);
                sectors.into_iter().all(|sector| bytes.contains(&sector[0]))
            };
            let lied = cut.loss == Loss::Lied;
            // Behind the first flush, and with a lie behind the second.
            if cut.at >= if lied { 7 } else { 3 } {
                assert!(has(0, &[1, 3]) && has(4096, &[2, 5]), "{cut:?}");
            }
            if cut.at >= 7 && !lied {
                assert!(has(0, &[3]) && has(8192, &[4]), "{cut:?}");
            }
            assert!(
                cut.at >= 8 || has(4096, &[0, 2]),
                "from the future: {cut:?}"
            );
        }
    }

    #[test]
    fn every_kind_of_loss_happens_and_a_seed_gives_the_same_disk() {
        let torn = |disk: &[u8]| disk[4096] != disk[4096 + 7 * SECTOR];
        let cut = |loss, seed| Cut { at: 8, loss, seed };
        assert!((0..50).any(|seed| torn(&disk(cut(Loss::Torn, seed)))));
        assert!((0..50).all(|seed| !torn(&disk(cut(Loss::Some, seed)))));
        assert!((0..50).any(|seed| disk(cut(Loss::Lied, seed))[8192] == 0));
        assert_eq!(disk(cut(Loss::Nothing, 1))[4096], 5);
        assert_eq!(disk(cut(Loss::Everything, 1))[4096], 2);
        assert!(all().all(|cut| disk(cut) == disk(cut)));
    }

    #[test]
    fn every_second_cut_is_beside_a_write_to_the_ledger() {
        let log: Vec<Op> = (0..1000)
            .flat_map(|number| {
                let bytes = vec![1; SECTOR];
                let offset = number * SECTOR as u64;
                [Op::Write { offset, bytes }, Op::Flush]
            })
            .collect();
        let mut rng = Rng::new(1);
        let ledger = 100 * SECTOR as u64..101 * SECTOR as u64;
        let cuts: Vec<Cut> = (0..200)
            .map(|_| Cut::any(&log, &ledger, &mut rng))
            .collect();
        let beside = cuts.iter().filter(|cut| (200..=203).contains(&cut.at));
        assert!((70..130).contains(&beside.count()));
        assert!(cuts.iter().all(|cut| cut.at <= log.len()));
        assert!(cuts.iter().any(|cut| cut.at > 1000));
    }

    #[test]
    fn a_cut_image_is_the_base_with_what_survived() {
        let folder = tempfile::tempdir().unwrap();
        let (base, out) = (folder.path().join("base"), folder.path().join("out"));
        std::fs::write(&base, vec![9; BYTES]).unwrap();
        let cut = Cut {
            at: 3,
            loss: Loss::Nothing,
            seed: 0,
        };
        cut.image(&base, &log(), &out).unwrap();
        let out = std::fs::read(&out).unwrap();
        assert_eq!((out[0], out[4096], out[8192], out.len()), (1, 2, 9, BYTES));
    }

    #[test]
    fn a_partition_is_found_by_its_whole_name() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.img");
        let mut disk = vec![0; 64 * SECTOR];
        for (number, name) in ["phase-slot-ab", "phase-slot-a"].into_iter().enumerate() {
            let entry = 2 * SECTOR + number * 128;
            let first = 34 + number as u64;
            disk[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
            disk[entry + 40..entry + 48].copy_from_slice(&first.to_le_bytes());
            for (place, unit) in name.encode_utf16().enumerate() {
                disk[entry + 56 + 2 * place..][..2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        std::fs::write(&image, disk).unwrap();
        assert_eq!(
            partition(&image, "phase-slot-a").unwrap(),
            35 * 512..36 * 512
        );
        assert!(partition(&image, "phase-slot-b").is_err());
    }
}
