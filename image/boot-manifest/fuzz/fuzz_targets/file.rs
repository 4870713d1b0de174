//! Any bytes as `manifest.json`: nothing panics, and nothing but the golden file is believed under the golden key.
//!
//! Start from the golden files: `cargo fuzz run file -- ../tests/data/golden`, or see `fuzz/README.md`.

#![no_main]

use boot_manifest::{
    Expect, Expiry, Floor, SecretKey, Timestamp, TrustRoot, add_signature, unverified_payload,
    verify, view,
};
use libfuzzer_sys::fuzz_target;

const GOLDEN: &[u8] = include_bytes!("../../tests/data/golden/manifest.json");

fuzz_target!(|bytes: &[u8]| {
    let key = SecretKey::from_seed([1; 32]);
    let root = TrustRoot::single(key.public());
    let expect = Expect {
        now: Timestamp::from_unix(1_795_255_200),
        floor: Floor::default(),
        channel: None,
        arch: None,
        expiry: Expiry::Refuse,
    };
    if let Ok(verified) = verify(bytes, &root, &expect) {
        let golden = verify(GOLDEN, &root, &expect).expect("the golden file is sound");
        assert_eq!(*verified, *golden, "believed without a signature");
    }
    let _ = view(bytes);
    if unverified_payload(bytes).is_ok()
        && let Ok(signed) = add_signature(bytes, &SecretKey::from_seed([2; 32]))
    {
        let payload = unverified_payload(&signed).expect("a signature leaves the payload alone");
        assert_eq!(Ok(payload), unverified_payload(bytes));
    }
});
