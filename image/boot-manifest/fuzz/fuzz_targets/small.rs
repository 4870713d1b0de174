//! The other parsers, chosen by the first byte: trust roots, reports of roles, keys, names and times. Nothing panics,
//! and what is accepted is written again as it was read.

#![no_main]

use boot_manifest::handoff::Report;
use boot_manifest::{
    Arch, ArtifactName, Channel, Digest, FileName, PublicKey, SecretKey, Timestamp, TrustRoot,
};
use libfuzzer_sys::fuzz_target;

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
