//! A sector of the ledger with any payload under a good digest: nothing panics, and what is read is written again as it was
//! read, but for reasons that only a later version knows.

#![no_main]

use boot_manifest::Digest;
use libfuzzer_sys::fuzz_target;
use upgrade::sector;

/// Where the payload begins, and where the digest does.
const HEAD: usize = 24;
const DIGEST_AT: usize = sector::SIZE - 32;

fuzz_target!(|bytes: &[u8]| {
    let _ = sector::decode(bytes);
    let length = bytes.len().min(DIGEST_AT - HEAD);
    let mut sealed = vec![0; sector::SIZE];
    sealed[..8].copy_from_slice(b"PHASELDG");
    sealed[8] = 1;
    sealed[10..12].copy_from_slice(&(length as u16).to_le_bytes());
    sealed[16] = 1;
    sealed[HEAD..HEAD + length].copy_from_slice(&bytes[..length]);
    let digest = Digest::of(&sealed[..DIGEST_AT]);
    sealed[DIGEST_AT..].copy_from_slice(digest.as_bytes());
    let Ok((counter, ledger)) = sector::decode(&sealed) else {
        return;
    };
    let again = sector::encode(&ledger, counter).expect("what was read can be written");
    assert_eq!(sector::decode(&again), Ok((counter, ledger)));
});
