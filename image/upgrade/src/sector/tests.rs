//! The bytes of the ledger: round trips, damage, the fullest ledger.

use boot_manifest::limits::VERSION_SIZE_MAX;

use super::*;
use crate::limits::{
    DETAIL_SIZE_MAX, EXTRA_SIZE_MAX, HISTORY_MAX, NIC_PATH_SIZE_MAX, NICS_MAX, QUARANTINE_MAX,
};

fn image(seed: u8, place: Place) -> ImageRef {
    ImageRef {
        digest: Digest::of(&[seed]),
        place,
        version: "v".repeat(VERSION_SIZE_MAX),
        sequence: u64::MAX - u64::from(seed),
        generation: u64::MAX,
        security_version: u64::MAX,
    }
}

/// Nothing longer can be written.
fn fullest() -> Ledger {
    let failure = Failure {
        reason: Reason::Hang,
        phase: Phase::Soak,
        detail: "d".repeat(DETAIL_SIZE_MAX),
    };
    let quarantined = |seed| Quarantined {
        digest: Digest::of(&[seed]),
        rank: Rank::default(),
        trials: 2,
        failure: failure.clone(),
    };
    let entry = |seed| HistoryEntry {
        at: Some(u64::MAX),
        digest: Digest::of(&[seed]),
        version: "v".repeat(VERSION_SIZE_MAX),
        outcome: Outcome::Failed(Reason::Hang),
        phase: Phase::Soak,
    };
    let nic = |seed| Nic {
        path: "p".repeat(NIC_PATH_SIZE_MAX),
        mac: [seed; 6],
    };
    let range = |count: usize| 0..u8::try_from(count).unwrap();
    Ledger {
        golden: Some(image(0, Place::Golden)),
        a: Slot::Valid {
            image: image(1, Place::A),
            proved: true,
        },
        b: Slot::Valid {
            image: image(2, Place::B),
            proved: false,
        },
        default: Some(image(1, Place::A).digest),
        previous: Some(image(2, Place::B).digest),
        starts: 3,
        floor: u64::MAX,
        seen: Rank {
            generation: 1,
            sequence: 2,
        },
        trials: u32::MAX,
        kexec_failures: 3,
        trial: Some(Trial {
            number: 7,
            image: image(2, Place::B),
            from: image(1, Place::A).digest,
            phase: Phase::Network,
            failure: Some(failure.clone()),
            fingerprint: Fingerprint {
                cpus: 64,
                memory_mib: 1024,
                disks: 2,
                nics: range(NICS_MAX).map(nic).collect(),
            },
        }),
        quarantine: range(QUARANTINE_MAX).map(quarantined).collect(),
        history: range(HISTORY_MAX).map(entry).collect(),
        extra: vec![(200, vec![7; EXTRA_SIZE_MAX - 3])],
    }
}

#[test]
fn every_ledger_survives_the_way() {
    for ledger in [Ledger::default(), fullest()] {
        let bytes = encode(&ledger, 41).unwrap();
        assert_eq!(bytes.len(), SIZE);
        assert_eq!(decode(&bytes), Ok((41, ledger)));
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let bytes = encode(&fullest(), 1).unwrap();
    for at in 0..SIZE {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert_eq!(decode(&wrong), Err(SectorError::Damaged), "byte {at}");
    }
    assert_eq!(decode(&vec![0; SIZE]), Err(SectorError::Blank));
    for size in [0, 1, SIZE - 1, SIZE + 1] {
        assert_eq!(decode(&vec![1; size]), Err(SectorError::Damaged));
    }
}

/// A good digest around bytes that nobody honest writes.
fn sealed(change: impl FnOnce(&mut [u8])) -> Result<(u64, Ledger), SectorError> {
    let mut bytes = encode(&fullest(), 1).unwrap();
    change(&mut bytes);
    let digest = Digest::of(&bytes[..DIGEST_AT]);
    bytes[DIGEST_AT..].copy_from_slice(digest.as_bytes());
    decode(&bytes)
}

#[test]
fn one_ledger_has_one_spelling() {
    assert!(sealed(|_| {}).is_ok());
    let damaged = Err(SectorError::Damaged);
    assert_eq!(sealed(|bytes| bytes[12] = 1), damaged, "padding");
    assert_eq!(sealed(|bytes| bytes[DIGEST_AT - 1] = 1), damaged, "tail");
    assert_eq!(sealed(|bytes| bytes[8] = 2), Err(SectorError::Format(2)));
    assert_eq!(sealed(|bytes| bytes[HEAD] = 7), damaged, "unknown section");
    assert_eq!(sealed(|bytes| bytes[HEAD + 3] = 2), damaged, "option");
    assert_eq!(sealed(|bytes| bytes[10] ^= 1), damaged, "length");
}

#[test]
fn sections_of_later_versions_are_kept() {
    let ledger = Ledger {
        extra: vec![(128, Vec::new()), (255, vec![1, 2])],
        ..Ledger::default()
    };
    let bytes = encode(&ledger, 3).unwrap();
    assert_eq!(decode(&bytes).unwrap().1.extra, ledger.extra);
}

#[test]
fn ledgers_that_make_no_sense_are_neither_written_nor_read() {
    let check = |change: fn(&mut Ledger)| {
        let mut ledger = fullest();
        change(&mut ledger);
        assert!(encode(&ledger, 1).is_err(), "{ledger:?}");
    };
    check(|ledger| ledger.default = Some(Digest::of(b"nowhere")));
    check(|ledger| ledger.a = Slot::Dirty);
    check(|ledger| ledger.history.push(ledger.history[0].clone()));
    check(|ledger| ledger.quarantine.push(ledger.quarantine[0].clone()));
    check(|ledger| ledger.extra = vec![(127, Vec::new())]);
    check(|ledger| ledger.extra = vec![(129, Vec::new()), (128, Vec::new())]);
    check(|ledger| ledger.history[0].version = "a\nb".to_owned());
    check(|ledger| {
        let Slot::Valid { image, .. } = &mut ledger.a else {
            return;
        };
        image.place = Place::B;
    });
}

#[test]
fn the_newer_sector_counts_and_the_older_is_written() {
    let sector = |starts, counter| {
        let ledger = Ledger {
            starts,
            ..Ledger::default()
        };
        encode(&ledger, counter).unwrap()
    };
    let (old, new, torn) = (sector(1, 8), sector(2, 9), vec![9; SIZE]);
    let check = |sectors: [Option<&[u8]>; 2], starts: Option<u8>, counter, write_next| {
        let found = newest(sectors);
        assert_eq!(found.ledger.map(|ledger| ledger.starts), starts);
        assert_eq!((found.counter, found.write_next), (counter, write_next));
    };
    check([Some(&old), Some(&new)], Some(2), 9, 0);
    check([Some(&new), Some(&old)], Some(2), 9, 1);
    check([Some(&old), Some(&torn)], Some(1), 8, 1);
    check([Some(&torn), Some(&old)], Some(1), 8, 0);
    check([None, Some(&old)], Some(1), 8, 0);
    check([Some(&old), None], Some(1), 8, 1);
    // Fault 5: both corrupt is the factory's ledger.
    check([Some(&torn), Some(&torn)], None, 0, 0);
    check([None, None], None, 0, 0);
}
