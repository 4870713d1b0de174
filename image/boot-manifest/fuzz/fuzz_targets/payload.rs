//! Any bytes as a payload that a trusted key really signed: the strict parser and the rules for values are behind the
//! signature check, where fuzzing the whole file hardly gets.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::{
    Expect, Expiry, Floor, PAYLOAD_TYPE, SecretKey, Timestamp, TrustRoot, VerifyError,
    pre_authentication_encoding, verify,
};
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let key = SecretKey::from_seed([1; 32]);
    let root = TrustRoot::single(key.public());
    let message = pre_authentication_encoding(PAYLOAD_TYPE, payload);
    let signature = SigningKey::from_bytes(&[1; 32]).sign(&message).to_bytes();
    let file = format!(
        r#"{{"manifest_version":0,"version":0,"channel":0,"arch":0,"created_at":0,"expires_at":0,"artifacts":0,"signatures":0,
        "envelope":{{"payloadType":"{PAYLOAD_TYPE}","payload":"{}","signatures":[{{"keyid":"{}","sig":"{}"}}]}}}}"#,
        STANDARD.encode(payload),
        key.public().key_id(),
        STANDARD.encode(signature),
    );
    let expect = Expect {
        now: Timestamp::from_unix(1_795_255_200),
        floor: Floor::default(),
        channel: None,
        arch: None,
        expiry: Expiry::Report,
    };
    match verify(file.as_bytes(), &root, &expect) {
        Ok(_) => panic!("the readable part of this file is nonsense"),
        // All is well up to the readable part.
        Err(VerifyError::ViewDiffers(_)) => {}
        Err(
            VerifyError::NotSigned | VerifyError::UnknownKey { .. } | VerifyError::BadSignature(_),
        ) => {
            panic!("the signature is good")
        }
        Err(_) => {}
    }
});
