//! The ledger on its partition: which of the two sectors is read, which is written next, and when a write counts.
//!
//! A sector is written with a counter above every one that was ever tried, into the place that does not hold what was last
//! acknowledged, and read back from the medium. So whatever a write that failed left behind, what was acknowledged before
//! is still there, and the next write stands above both.

use upgrade::Ledger;
use upgrade::sector::{self, Found};

use super::raw::{Buffer, Device};
use super::worker::Step;
use crate::plan::Refusal;
use crate::verify;

/// Reads both sectors, one after the other. A sector that cannot be read is as good as one that was never written; when
/// neither can be read, nothing is known of the machine's past, which is not the same as none.
pub(crate) fn read(device: &dyn Device, step: Step<'_>) -> Result<Vec<u8>, Refusal> {
    let mut sectors = Vec::new();
    let mut failures = Vec::new();
    for offset in sector::OFFSETS {
        let mut buffer = Buffer::new(sector::SIZE);
        match device.read(offset, &mut buffer) {
            Ok(()) => sectors.extend_from_slice(&buffer),
            Err(error) => {
                sectors.resize(sectors.len() + sector::SIZE, 0);
                failures.push(error);
            }
        }
        step();
    }
    match failures.as_slice() {
        [_, last] => Err(verify::io("ledger", last)),
        _ => Ok(sectors),
    }
}

/// Writes one sector, flushes it and reads it back.
pub(crate) fn write(
    device: &dyn Device,
    place: usize,
    bytes: &[u8],
    step: Step<'_>,
) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| verify::io("ledger", &error);
    let sector = Buffer::of(bytes);
    let offset = sector::OFFSETS[place % sector::OFFSETS.len()];
    device.write(offset, &sector).map_err(failed)?;
    step();
    device.flush().map_err(failed)?;
    step();
    let mut back = Buffer::new(bytes.len());
    device.read(offset, &mut back).map_err(failed)?;
    if back[..] != sector[..] {
        let reason = "ledger: the disk gives back other bytes than were written";
        return Err(Refusal::new("readback", reason));
    }
    Ok(())
}

/// What is known of the sectors between two writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turns {
    /// The highest counter that was found or tried.
    counter: u64,
    /// The sector that does not hold what was last acknowledged.
    next: usize,
}

impl Turns {
    /// What both sectors say, and how to go on.
    pub(crate) fn begin(sectors: &[u8]) -> (Self, Option<Ledger>) {
        let (first, second) = sectors.split_at(sectors.len().min(sector::SIZE));
        let Found {
            ledger,
            counter,
            write_next,
        } = sector::newest([Some(first), Some(second)]);
        let turns = Self {
            counter,
            next: write_next,
        };
        (turns, ledger)
    }

    /// The highest number of a write that was found or tried.
    pub(crate) fn counter(self) -> u64 {
        self.counter
    }

    /// The sector to write now and its bytes. What is tried once is never tried again under the same number.
    pub(crate) fn take(&mut self, ledger: &Ledger) -> Result<(usize, Vec<u8>), Refusal> {
        // A disk with the last number was made by hand; it can only be written anew.
        let counter = self.counter.checked_add(1);
        let counter = counter.ok_or_else(|| Refusal::new("io", "ledger: its counter is full"))?;
        let bytes = sector::encode(ledger, counter)
            .map_err(|error| Refusal::new("io", format!("ledger: {error}")))?;
        self.counter = counter;
        Ok((self.next, bytes))
    }

    /// The sector that [`Self::take`] gave is on the medium.
    pub(crate) fn acknowledged(&mut self) {
        self.next = 1 - self.next.min(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw::tests::Faulty;
    use super::*;

    fn device() -> Faulty {
        Faulty::of_size(1 << 20)
    }

    fn ledger(trials: u32) -> Ledger {
        Ledger {
            trials,
            ..Ledger::default()
        }
    }

    fn seen(device: &Faulty) -> (Turns, Option<u32>) {
        let sectors = read(device, &mut || {}).unwrap();
        let (turns, ledger) = Turns::begin(&sectors);
        (turns, ledger.map(|ledger| ledger.trials))
    }

    fn record(device: &Faulty, turns: &mut Turns, trials: u32) -> Result<(), Refusal> {
        let (place, bytes) = turns.take(&ledger(trials)).unwrap();
        write(device, place, &bytes, &mut || {})?;
        turns.acknowledged();
        Ok(())
    }

    #[test]
    fn sectors_take_turns_and_the_newest_counts() {
        let device = device();
        let (mut turns, found) = seen(&device);
        assert_eq!(found, None, "noise is no ledger");
        for n in 1..=5 {
            record(&device, &mut turns, n).unwrap();
            let (again, found) = seen(&device);
            assert_eq!(found, Some(n));
            assert_eq!(again, turns, "whoever starts anew goes on in the same way");
        }
        // With the newest sector gone, the one before it counts.
        let newest = sector::OFFSETS[1 - turns.next];
        device.bytes.borrow_mut()[usize::try_from(newest).unwrap() + 100] ^= 1;
        assert_eq!(seen(&device).1, Some(4));
    }

    /// Fault 5: both sectors are damaged. The machine is as it left the factory.
    #[test]
    fn without_a_whole_sector_there_is_no_past() {
        let device = device();
        let (mut turns, _) = seen(&device);
        record(&device, &mut turns, 1).unwrap();
        record(&device, &mut turns, 2).unwrap();
        device.bytes.borrow_mut().fill(0);
        assert_eq!(seen(&device).1, None);
    }

    /// Faults 1 to 3: whatever one write does, what was acknowledged before stays, what failed is said to have failed, and
    /// the next write stands above both.
    #[test]
    fn a_write_that_fails_costs_nothing_that_was_there() {
        type Arm = fn(&Faulty, u32);
        let arms: [(Arm, &str); 6] = [
            (|device, n| device.fail_write.set(n), "io"),
            (|device, n| device.tear_write.set(n), "io"),
            (|device, n| device.drop_write.set(n), "readback"),
            (|device, n| device.fail_flush.set(n), "io"),
            (
                |device, n| {
                    device
                        .fail_read
                        .set(device.reads.get() + n - device.writes.get())
                },
                "io",
            ),
            (
                |device, n| {
                    device
                        .flip_read
                        .set(device.reads.get() + n - device.writes.get())
                },
                "readback",
            ),
        ];
        for (arm, expected) in arms {
            for before in 1..=4 {
                let device = device();
                let (mut turns, _) = seen(&device);
                for n in 1..=before {
                    record(&device, &mut turns, n).unwrap();
                }
                arm(&device, before + 1);
                let refusal = record(&device, &mut turns, 77).unwrap_err();
                assert_eq!(refusal.code, expected, "{refusal:?}");
                // The disk may have it or not: both are whole ledgers.
                let found = seen(&device).1;
                assert!(found == Some(before) || found == Some(77), "{found:?}");
                // The kernel says that all is well when it is asked again (fault 3): what counts is the new write.
                record(&device, &mut turns, 99).unwrap();
                assert_eq!(seen(&device).1, Some(99));
                // And the one that was acknowledged before it was never overwritten by the one that failed.
                let newest = sector::OFFSETS[1 - turns.next];
                device.bytes.borrow_mut()[usize::try_from(newest).unwrap() + 100] ^= 1;
                assert_eq!(seen(&device).1, Some(before));
            }
        }
    }

    #[test]
    fn one_sector_that_cannot_be_read_is_no_loss_and_two_are() {
        let device = device();
        let (mut turns, _) = seen(&device);
        record(&device, &mut turns, 1).unwrap();
        record(&device, &mut turns, 2).unwrap();
        // The last one was written to the second place.
        for (nth, expected) in [(1, 2), (2, 1)] {
            device.fail_read.set(device.reads.get() + nth);
            assert_eq!(seen(&device).1, Some(expected));
        }
        device.bytes.borrow_mut().clear();
        assert_eq!(read(&device, &mut || {}).unwrap_err().code, "io");
    }
}
