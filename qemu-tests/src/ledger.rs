//! What a machine remembers on its disk, read off the disk's image from outside: also while it runs, and when it is off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use upgrade::Ledger;
use upgrade::sector::{self, Found};

use crate::power::partition;

/// The partition that holds it.
pub const PARTITION: &str = "phase-ledger";

/// Both sectors: the newest valid ledger, if one is, and its number.
///
/// # Errors
/// When the image has no such partition.
pub fn find(image: &Path) -> Result<Found> {
    let place = partition(image, PARTITION)?;
    let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
    let read = |offset: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; sector::SIZE];
        file.read_exact_at(&mut bytes, place.start + offset)?;
        Ok(bytes)
    };
    let [first, second] = sector::OFFSETS;
    let (first, second) = (read(first)?, read(second)?);
    Ok(sector::newest([Some(&first), Some(&second)]))
}

/// The ledger.
///
/// # Errors
/// When neither sector is valid.
pub fn read(image: &Path) -> Result<Ledger> {
    let found = find(image)?;
    found
        .ledger
        .with_context(|| format!("{} has no valid ledger", image.display()))
}
