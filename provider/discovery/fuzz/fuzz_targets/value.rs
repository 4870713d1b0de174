//! Any bytes as a value of the DHT: it is split within its bounds, and nothing in it that nobody signed is read.

#![no_main]

use discovery::dht::{Envelope, Invalid, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelopes) = split(bytes) else {
        return;
    };
    assert!(envelopes.len() <= 32);
    let written: usize = envelopes.iter().map(|envelope| 2 + envelope.len()).sum();
    assert_eq!(written + 4, bytes.len(), "nothing is left out");
    for envelope in envelopes {
        if let Err(error) = Envelope::open(envelope) {
            assert!(matches!(error, Invalid::Malformed | Invalid::Signature));
        }
    }
});
