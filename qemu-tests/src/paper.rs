//! Power cuts on paper: what a cut leaves on the disk of a recorded upgrade is read as an appliance would read it, without
//! booting one. A thousand times faster than a machine, so every write to the ledger is cut in every way.
//!
//! Judged is what a machine relies on: the ledger is never older than one that was flushed, what it calls the default was
//! committed, and every slot that it calls valid holds that image, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use boot_manifest::Digest;
use upgrade::sector::{self, Found, OFFSETS, SIZE};
use upgrade::{Place, Slot};

use crate::artifacts::Images;
use crate::nbd::Op;
use crate::power::{Cut, Loss, Rng, partition};

/// How much of the log behind a write to the ledger is cut, too: the flush, and what comes next.
const BEHIND: usize = 3;
/// Choices of lost sectors at each place.
const CHOICES: usize = 8;
/// Where the parts of an image begin in a slot, and what each begins at a multiple of.
const PARTS: usize = 2 << 20;
const BLOCK: usize = 4096;

/// The part of a disk that upgrades write to.
pub struct Paper<'a> {
    log: &'a [Op],
    /// What is on the medium for certain, from the beginning of the ledger on.
    disk: Vec<u8>,
    /// How much of the log that is.
    durable: usize,
    start: u64,
    slots: BTreeMap<&'static str, Range<usize>>,
    known: BTreeMap<Digest, Vec<(usize, Vec<u8>)>>,
    committed: Vec<Digest>,
    /// Images that were found whole in a slot, as long as nothing was written to it since.
    whole: BTreeSet<(&'static str, Digest)>,
}

impl<'a> Paper<'a> {
    /// The disk image `base` at the beginning of `log`. `committed` may become the default, `others` only go to slots.
    ///
    /// # Errors
    /// When it has no slots, or an image cannot be read.
    pub fn new(
        base: &Path,
        log: &'a [Op],
        committed: &[&Images],
        others: &[&Images],
    ) -> Result<Self> {
        let ledger = partition(base, "phase-ledger")?;
        let mut end = ledger.end;
        let mut slots = BTreeMap::new();
        for name in ["phase-slot-a", "phase-slot-b"] {
            let place = partition(base, name)?;
            ensure!(place.start >= ledger.start, "{name} lies before the ledger");
            end = end.max(place.end);
            let at = |byte: u64| usize::try_from(byte - ledger.start);
            slots.insert(name, at(place.start)?..at(place.end)?);
        }
        let mut disk = vec![0; usize::try_from(end - ledger.start)?];
        File::open(base)?.read_exact_at(&mut disk, ledger.start)?;
        let mut known = BTreeMap::new();
        for images in committed.iter().chain(others) {
            known.insert(Digest::of(&images.bytes("manifest.json")?), parts(images)?);
        }
        let digest = |images: &&Images| Ok(Digest::of(&images.bytes("manifest.json")?));
        Ok(Self {
            log,
            disk,
            durable: 0,
            start: ledger.start,
            slots,
            known,
            committed: committed.iter().map(digest).collect::<Result<_>>()?,
            whole: BTreeSet::new(),
        })
    }

    /// Cuts at and behind every write to the ledger, in every way that a disk may lose what it was not told to flush.
    /// Returns how many cuts that were.
    ///
    /// # Errors
    /// The first cut that leaves what no machine should find.
    pub fn judge(&mut self, ledger: &Range<u64>, seed: u64) -> Result<usize> {
        let mut rng = Rng::new(seed);
        let writes = |op: &Op| matches!(op, Op::Write { offset, .. } if ledger.contains(offset));
        let mut places: Vec<usize> = (0..self.log.len())
            .filter(|at| writes(&self.log[*at]))
            .flat_map(|at| at..=at + BEHIND)
            .filter(|at| *at <= self.log.len())
            .collect();
        places.dedup();
        places.sort_unstable();
        let mut cuts = 0;
        for at in places {
            for loss in Loss::ALL.into_iter().filter(|loss| *loss != Loss::Lied) {
                for _ in 0..CHOICES {
                    let seed = rng.next_u64();
                    let cut = Cut { at, loss, seed };
                    self.one(&cut).with_context(|| format!("{cut:?}"))?;
                    cuts += 1;
                }
            }
        }
        Ok(cuts)
    }

    /// Judges one cut. Cuts must come in the order of the log.
    fn one(&mut self, cut: &Cut) -> Result<()> {
        let (from, to) = (self.durable, cut.durable(self.log));
        for op in &self.log[from..to.max(from)] {
            if let Op::Write { offset, bytes } = op {
                self.put(*offset, bytes);
            }
        }
        self.durable = to.max(from);
        let certain = self.ledger();
        let mut undo = Vec::new();
        cut.survivors(self.log, |offset, bytes| {
            undo.extend(self.put(offset, bytes).map(|old| (offset, old)));
            Ok(())
        })?;
        let judged = self.look(&certain);
        for (offset, old) in undo.into_iter().rev() {
            self.put(offset, &old);
        }
        judged
    }

    /// Writes; returns what was there. Other parts of the disk are nobody's business here.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let place = self.disk.get_mut(at..at + bytes.len())?;
        let old = place.to_vec();
        place.copy_from_slice(bytes);
        let written = at..at + bytes.len();
        for (name, slot) in &self.slots {
            if written.start < slot.end && slot.start < written.end {
                self.whole.retain(|(whole, _)| whole != name);
            }
        }
        Some(old)
    }

    fn ledger(&self) -> Found {
        let sectors = OFFSETS.map(|offset| {
            let at = usize::try_from(offset).ok()?;
            self.disk.get(at..at + SIZE)
        });
        sector::newest(sectors)
    }

    fn look(&mut self, certain: &Found) -> Result<()> {
        let found = self.ledger();
        ensure!(
            found.counter >= certain.counter,
            "ledger {} was flushed and {} is found",
            certain.counter,
            found.counter
        );
        let Some(ledger) = found.ledger else {
            return Ok(());
        };
        if let Some(default) = ledger.default {
            ensure!(
                self.committed.contains(&default),
                "the default is {default}, which was never to be committed"
            );
        }
        for (slot, name) in [(&ledger.a, "phase-slot-a"), (&ledger.b, "phase-slot-b")] {
            if let Slot::Valid { image, .. } = slot {
                self.holds(name, &image.digest)?;
            }
        }
        let places = [&ledger.a, &ledger.b].map(|slot| match slot {
            Slot::Valid { image, .. } => Some(image.place),
            Slot::Dirty => None,
        });
        ensure!(
            places
                .iter()
                .flatten()
                .all(|place| Place::SLOTS.contains(place)),
            "a slot says that it is {places:?}"
        );
        Ok(())
    }

    fn holds(&mut self, name: &'static str, digest: &Digest) -> Result<()> {
        if self.whole.contains(&(name, *digest)) {
            return Ok(());
        }
        let parts = self.known.get(digest);
        let parts = parts.with_context(|| format!("{name} holds {digest}, which nobody made"))?;
        let slot = self.slots.get(name).context("no such slot")?;
        let slot = &self.disk[slot.clone()];
        for (at, bytes) in parts {
            if slot.get(*at..at + bytes.len()) != Some(bytes) {
                bail!("{name} is called valid and is not {digest} at {at}");
            }
        }
        self.whole.insert((name, *digest));
        Ok(())
    }
}

/// The bytes of an image in a slot, and where they lie.
fn parts(images: &Images) -> Result<Vec<(usize, Vec<u8>)>> {
    let mut parts = vec![(0, images.bytes("manifest.json")?)];
    let mut at = PARTS;
    for name in ["vmlinuz", "initramfs.img", "rootfs.squashfs"] {
        let bytes = images.bytes(name)?;
        let next = (at + bytes.len()).next_multiple_of(BLOCK);
        parts.push((at, bytes));
        at = next;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use upgrade::{ImageRef, Ledger};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A small disk with a ledger and two slots, and an image with these bytes in every part.
    struct Bench {
        folder: tempfile::TempDir,
        images: Images,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut disk = vec![0; 64 * 512];
            let places = [
                ("phase-ledger", MIB, MIB),
                ("phase-slot-a", 2 * MIB, 4 * MIB),
                ("phase-slot-b", 6 * MIB, 4 * MIB),
            ];
            for (number, (name, start, bytes)) in places.into_iter().enumerate() {
                let entry = 2 * 512 + number * 128;
                let (first, last) = (start / 512, (start + bytes) / 512 - 1);
                disk[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
                disk[entry + 40..entry + 48].copy_from_slice(&last.to_le_bytes());
                for (place, unit) in name.encode_utf16().enumerate() {
                    disk[entry + 56 + 2 * place..][..2].copy_from_slice(&unit.to_le_bytes());
                }
            }
            disk.resize(usize::try_from(11 * MIB).unwrap(), 0);
            std::fs::write(folder.path().join("disk.img"), disk).unwrap();
            std::fs::create_dir(folder.path().join("keys")).unwrap();
            for name in crate::artifacts::NEEDED {
                std::fs::write(folder.path().join(name), format!("{name} {:4000}", 7)).unwrap();
            }
            let images = Images::at(folder.path()).unwrap();
            Self { folder, images }
        }

        /// The writes of the image to the first slot.
        fn slot(&self) -> Vec<Op> {
            let parts = parts(&self.images).unwrap().into_iter();
            parts
                .map(|(at, bytes)| Op::Write {
                    offset: 2 * MIB + at as u64,
                    bytes,
                })
                .collect()
        }

        /// The write of a ledger that calls the slot valid, and the default if `default`.
        fn ledger(&self, counter: u64, default: bool) -> Op {
            let digest = Digest::of(&self.images.bytes("manifest.json").unwrap());
            let image = ImageRef {
                digest,
                place: Place::A,
                version: "2".into(),
                sequence: 2,
                generation: 1,
                security_version: 1,
            };
            let ledger = Ledger {
                a: Slot::Valid {
                    image,
                    proved: false,
                },
                default: default.then_some(digest),
                ..Ledger::default()
            };
            Op::Write {
                offset: MIB + OFFSETS[usize::from(counter.is_multiple_of(2))],
                bytes: sector::encode(&ledger, counter).unwrap(),
            }
        }

        fn judge(&self, log: &[Op], committed: bool) -> Result<usize> {
            let base = self.folder.path().join("disk.img");
            let (all, none) = ([&self.images], []);
            let (committed, others): (&[&Images], &[&Images]) = if committed {
                (&all, &none)
            } else {
                (&none, &all)
            };
            Paper::new(&base, log, committed, others)?.judge(&(MIB..2 * MIB), 1)
        }
    }

    #[test]
    fn an_upgrade_in_the_right_order_is_good_wherever_it_is_cut() {
        let bench = Bench::new();
        let mut log = bench.slot();
        log.extend([Op::Flush, bench.ledger(1, false), Op::Flush]);
        log.extend([bench.ledger(2, true), Op::Flush]);
        assert!(bench.judge(&log, true).unwrap() > 50);
        let error = bench.judge(&log, false).unwrap_err();
        assert!(format!("{error:#}").contains("never to be committed"));
    }

    #[test]
    fn a_slot_that_is_called_valid_before_it_is_flushed_is_found_out() {
        let bench = Bench::new();
        let mut log = bench.slot();
        log.extend([bench.ledger(1, false), Op::Flush]);
        let error = bench.judge(&log, true).unwrap_err();
        assert!(
            format!("{error:#}").contains("is called valid"),
            "{error:#}"
        );
    }

    #[test]
    fn a_ledger_that_is_written_over_the_only_valid_one_is_found_out() {
        let bench = Bench::new();
        let mut log = bench.slot();
        log.extend([Op::Flush, bench.ledger(1, false), Op::Flush]);
        log.extend([bench.ledger(3, false), Op::Flush]);
        let error = bench.judge(&log, true).unwrap_err();
        assert!(
            format!("{error:#}").contains("ledger 1 was flushed"),
            "{error:#}"
        );
    }
}
