//! Any bytes as what a provider says, with a good signature: whoever signs may still lie about everything. What is read as
//! a record has only addresses a client may be sent to, and only words that can be shown.

#![no_main]

use std::sync::LazyLock;

use discovery::dht::Envelope;
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;

/// As the format has it.
const DOMAIN: &[u8] = b"phase-dht-provider-v1\0";

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));

fuzz_target!(|body: &[u8]| {
    let public_key = KEY.verifying_key().to_bytes();
    let signature = KEY.sign(&[DOMAIN, &public_key, body].concat()).to_bytes();
    let bytes = [&public_key[..], &signature, body].concat();
    // It also asserts that there was only one way to write what it read.
    let Ok(envelope) = Envelope::open(&bytes) else {
        return;
    };
    assert_eq!(envelope.bytes(), bytes);
    let Some(hint) = envelope.hint() else {
        return;
    };
    assert!((1..=8).contains(&hint.addresses.len()) && hint.key_ids.len() <= 8);
    assert!(hint.version.len() <= 64 && hint.version.bytes().all(|byte| (32..127).contains(&byte)));
    for address in &hint.addresses {
        let ip = address.ip();
        assert!(address.port() != 0 && !ip.is_loopback() && !ip.is_multicast());
        assert!(!ip.is_unspecified());
        assert!(hint.url_at(*address).starts_with("http://"));
    }
});
