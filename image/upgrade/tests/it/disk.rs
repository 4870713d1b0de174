//! A disk with a ledger and two slots that fails as disks fail: power cuts that tear and reorder, errors, lies, rot.

use boot_manifest::Digest;
use upgrade::sector::{self, Found};
use upgrade::{Ledger, Place};

/// What a disk writes in one piece.
const BLOCK: usize = 512;

/// Pieces of a slot, each with the digest of the image that it belongs to: enough for every order of two of them.
const PIECES: usize = 3;

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The mains fail during it. Of what was not flushed, and of this operation, the blocks of the mask are on the disk.
    Cut { mask: u8 },
    /// It is done, then the mains fail.
    CutAfter,
    /// It fails, once; the blocks of the mask are on the disk all the same.
    Error { mask: u8 },
    /// It is acknowledged and stays in the disk's cache, with everything after it, until the mains fail; then the blocks of
    /// the mask have come to the disk.
    Lie { mask: u8 },
}

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An effect without a write.
    Effect,
    /// The ledger.
    Record,
    /// A piece of a slot.
    Piece,
    /// A flush of a slot.
    Flush,
}

/// The mains failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

/// Why an operation did not work.
#[derive(Debug)]
pub(crate) enum Trouble {
    Cut,
    Error,
}

/// The media, and what the disk has not written to them yet.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    sectors: [Vec<u8>; 2],
    slots: [[Option<Digest>; PIECES]; 2],
    /// As the machine reads it back; differs from the media while the disk lies or has not flushed.
    cached_sectors: [Vec<u8>; 2],
    cached_slots: [[Option<Digest>; PIECES]; 2],
    /// What survives of the cache when the mains fail; `None` while the disk is honest.
    lies: Option<u8>,
    /// What PID 1 keeps of them since the start: the sector that does not hold what was last acknowledged, and the highest
    /// counter that was found or tried.
    next: usize,
    tried: u64,
    /// What goes wrong, by the number of the operation.
    pub(crate) faults: Vec<(usize, Wrong)>,
    /// Operations so far.
    pub(crate) operations: Vec<Kind>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let sectors = [vec![0; sector::SIZE], vec![0; sector::SIZE]];
        Self {
            cached_sectors: sectors.clone(),
            sectors,
            slots: Default::default(),
            cached_slots: Default::default(),
            lies: None,
            next: 0,
            tried: 0,
            faults: Vec::new(),
            operations: Vec::new(),
        }
    }

    /// Whether this disk keeps what it acknowledges.
    pub(crate) fn is_honest(&self) -> bool {
        self.lies.is_none()
    }

    /// Both sectors hold noise.
    pub(crate) fn spoil_ledger(&mut self) {
        for bytes in self.sectors.iter_mut().chain(&mut self.cached_sectors) {
            bytes.fill(0x5a);
        }
    }

    /// A piece of the slot changes by itself.
    pub(crate) fn rot(&mut self, place: Place) {
        let at = index(place);
        self.slots[at][1] = None;
        self.cached_slots[at][1] = None;
    }

    /// A point at which the mains may fail without a write.
    pub(crate) fn point(&mut self) -> Result<(), Cut> {
        match self.next_fault(Kind::Effect) {
            Some(Wrong::Cut { .. } | Wrong::CutAfter) => Err(self.cut()),
            Some(Wrong::Lie { mask }) => {
                self.lies = Some(mask);
                Ok(())
            }
            Some(Wrong::Error { .. }) | None => Ok(()),
        }
    }

    fn next_fault(&mut self, kind: Kind) -> Option<Wrong> {
        let number = self.operations.len();
        self.operations.push(kind);
        let fault = self.faults.iter().find(|(at, _)| *at == number);
        fault.map(|(_, wrong)| *wrong)
    }

    fn cut(&mut self) -> Cut {
        if let Some(mask) = self.lies {
            for at in 0..2 {
                let cached = self.cached_sectors[at].clone();
                blend(&mut self.sectors[at], &cached, mask);
                // Slots lose by the same mask: the order of a cache is nobody's promise.
                for piece in 0..PIECES {
                    if mask & 1 << piece != 0 {
                        self.slots[at][piece] = self.cached_slots[at][piece];
                    }
                }
            }
        }
        self.cached_sectors = self.sectors.clone();
        self.cached_slots = self.slots;
        Cut
    }

    /// The machine restarts and the disk keeps its power: nothing is lost.
    pub(crate) fn reset(&mut self) {
        self.sectors = self.cached_sectors.clone();
        self.slots = self.cached_slots;
    }

    /// Both sectors as PID 1 reads them.
    pub(crate) fn ledger(&self) -> Found {
        let [first, second] = &self.cached_sectors;
        sector::newest([Some(first), Some(second)])
    }

    /// What a cold start would read if the mains failed now.
    pub(crate) fn durable(&self) -> Found {
        let [first, second] = &self.sectors;
        sector::newest([Some(first), Some(second)])
    }

    /// One durable write of the ledger, read back. What was acknowledged last is not touched until something newer is, and no
    /// counter is tried twice: so a try goes over the one that failed before it, whatever that left.
    pub(crate) fn write_ledger(&mut self, ledger: &Ledger) -> Result<(), Trouble> {
        self.tried += 1;
        let bytes = sector::encode(ledger, self.tried).expect("a ledger that can be written");
        let at = self.next;
        match self.next_fault(Kind::Record) {
            None | Some(Wrong::CutAfter) => {
                self.cached_sectors[at] = bytes;
                if self.is_honest() {
                    self.sectors[at] = self.cached_sectors[at].clone();
                }
            }
            Some(Wrong::Cut { mask }) => {
                blend(&mut self.sectors[at], &bytes, mask);
                self.cut();
                return Err(Trouble::Cut);
            }
            Some(Wrong::Error { mask }) => {
                blend(&mut self.sectors[at], &bytes, mask);
                self.cached_sectors[at] = self.sectors[at].clone();
                return Err(Trouble::Error);
            }
            Some(Wrong::Lie { mask }) => {
                self.lies = Some(mask);
                self.cached_sectors[at] = bytes;
            }
        }
        if self.last_was(Wrong::CutAfter) {
            self.cut();
            return Err(Trouble::Cut);
        }
        self.next = 1 - at;
        Ok(())
    }

    /// A start reads both sectors and remembers nothing else.
    pub(crate) fn start(&mut self) {
        let found = self.ledger();
        (self.next, self.tried) = (found.write_next, found.counter);
    }

    fn last_was(&self, wrong: Wrong) -> bool {
        self.faults.contains(&(self.operations.len() - 1, wrong))
    }

    /// Writes a slot piece by piece, flushes, and reads it back.
    pub(crate) fn write_slot(&mut self, place: Place, image: Digest) -> Result<(), Trouble> {
        let at = index(place);
        for piece in 0..PIECES {
            let fault = self.next_fault(Kind::Piece);
            match fault {
                Some(Wrong::Error { .. }) => return Err(Trouble::Error),
                Some(Wrong::Lie { mask }) => self.lies = Some(mask),
                Some(Wrong::Cut { mask }) => {
                    // Nothing was flushed yet, so any of the pieces may be there.
                    self.cached_slots[at][piece] = Some(image);
                    for piece in (0..PIECES).filter(|piece| mask & 1 << piece != 0) {
                        self.slots[at][piece] = self.cached_slots[at][piece];
                    }
                    self.cut();
                    return Err(Trouble::Cut);
                }
                Some(Wrong::CutAfter) | None => {}
            }
            self.cached_slots[at][piece] = Some(image);
            if fault == Some(Wrong::CutAfter) {
                self.cut();
                return Err(Trouble::Cut);
            }
        }
        match self.next_fault(Kind::Flush) {
            // The dirty pages are gone, and a second flush would say that all is well.
            Some(Wrong::Error { .. }) => return Err(Trouble::Error),
            Some(Wrong::Cut { .. }) => {
                self.cut();
                return Err(Trouble::Cut);
            }
            Some(Wrong::Lie { mask }) => self.lies = Some(mask),
            Some(Wrong::CutAfter) => {
                self.slots[at] = self.cached_slots[at];
                self.cut();
                return Err(Trouble::Cut);
            }
            None => {}
        }
        if self.is_honest() {
            self.slots[at] = self.cached_slots[at];
        }
        Ok(())
    }

    /// The image that the slot holds whole.
    pub(crate) fn slot(&self, place: Place) -> Option<Digest> {
        let pieces = &self.cached_slots[index(place)];
        pieces[0].filter(|first| pieces.iter().all(|piece| *piece == Some(*first)))
    }
}

fn index(place: Place) -> usize {
    match place {
        Place::A => 0,
        Place::B => 1,
        Place::Golden | Place::Memory => panic!("{place} is never written"),
    }
}

/// The blocks of the mask come from `new`.
fn blend(old: &mut [u8], new: &[u8], mask: u8) {
    let blocks = old.chunks_mut(BLOCK).zip(new.chunks(BLOCK)).enumerate();
    for (number, (old, new)) in blocks {
        if mask & 1 << number != 0 {
            old.copy_from_slice(new);
        }
    }
}
