//! The other parsers, chosen by the first byte: trust roots, reports of roles, keys, names and times; root chains, freshness
//! statements and orders, as they come and as payloads that a trusted key really signed. Nothing panics, and what is
//! accepted is written again as it was read.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::handoff::Report;
use boot_manifest::{
    Arch, ArtifactName, Channel, Digest, FRESHNESS_PAYLOAD_TYPE, FileName, Nonce,
    ORDER_PAYLOAD_TYPE, PublicKey, ROOT_PAYLOAD_TYPE, SecretKey, Timestamp, TrustRoot, append_link,
    merge_links, pre_authentication_encoding, unverified_link, verify_freshness, verify_link,
    verify_order, walk_roots,
};
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;

fn root() -> TrustRoot {
    TrustRoot::single(SecretKey::from_seed([1; 32]).public())
}

/// A file around any payload under a good signature.
fn signed(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let message = pre_authentication_encoding(payload_type, payload);
    let signature = SigningKey::from_bytes(&[1; 32]).sign(&message).to_bytes();
    let key_id = SecretKey::from_seed([1; 32]).public().key_id();
    format!(
        r#"{{"payloadType":"{payload_type}","payload":"{}","signatures":[{{"keyid":"{key_id}","sig":"{}"}}]}}"#,
        STANDARD.encode(payload),
        STANDARD.encode(signature),
    )
    .into_bytes()
}

fn statements(bytes: &[u8]) {
    let (root, nonce) = (root(), Nonce::from_bytes([0; 16]));
    let channel: Channel = "stable".parse().expect("it is a channel");
    let _ = verify_freshness(bytes, &root, &nonce, &channel, Arch::X86_64);
    let _ = verify_order(bytes, &root, &nonce);
    if let Ok((next, _)) = unverified_link(bytes) {
        assert_eq!(TrustRoot::parse(next.to_json().as_bytes()), Ok(next));
        assert!(merge_links(&[bytes.to_vec(), bytes.to_vec()]).is_ok());
    }
    if let Ok(next) = verify_link(bytes, &root) {
        assert_eq!(next.generation(), 2);
        let (chain, newest) = append_link(None, bytes, &root).expect("it was verified");
        assert_eq!(newest, next);
        assert_eq!(walk_roots(&chain, &root), Ok(next));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match kind {
        b'r' => {
            if let Ok(root) = TrustRoot::parse(bytes) {
                assert!((1..=root.keys().len()).contains(&root.threshold()));
                assert_eq!(TrustRoot::parse(root.to_json().as_bytes()), Ok(root));
            }
        }
        b'c' => {
            if let Ok(newest) = walk_roots(bytes, &root()) {
                assert_eq!(newest, root(), "believed without a signature");
            }
        }
        b'd' => statements(bytes),
        b'1' => statements(&signed(ROOT_PAYLOAD_TYPE, bytes)),
        b'2' => statements(&signed(FRESHNESS_PAYLOAD_TYPE, bytes)),
        b'3' => statements(&signed(ORDER_PAYLOAD_TYPE, bytes)),
        b'h' => {
            if let Ok(report) = Report::decode(bytes) {
                assert_eq!(Report::decode(&report.encode()), Ok(report));
            }
        }
        b'p' => {
            if let Ok(key) = PublicKey::parse(bytes) {
                assert_eq!(PublicKey::parse(key.to_pem().as_bytes()), Ok(key));
            }
        }
        b's' => {
            let _ = SecretKey::from_pem(text);
        }
        b't' => {
            if let Ok(time) = text.parse::<Timestamp>() {
                assert_eq!(time.to_string(), text);
            }
        }
        _ => {
            if let Ok(digest) = text.parse::<Digest>() {
                assert_eq!(digest.to_string(), text);
            }
            if let Ok(name) = text.parse::<FileName>() {
                assert!(
                    !name.as_str().contains(['/', '\\', '\0']) && !name.as_str().starts_with('.')
                );
            }
            let _ = (
                text.parse::<Arch>(),
                text.parse::<Channel>(),
                text.parse::<ArtifactName>(),
            );
        }
    }
});
