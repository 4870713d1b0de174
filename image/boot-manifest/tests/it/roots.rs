//! Which trust roots are refused.

use boot_manifest::{KeyError, TrustRoot, TrustRootError};

use crate::fixture::{key, root};

/// Replaces `from` by `to` in a good root of two keys and parses that.
fn parse_changed(from: &str, to: &str) -> Result<TrustRoot, TrustRootError> {
    let json = root(&[1, 2], 2).to_json();
    assert!(json.contains(from), "{from} is not in {json}");
    TrustRoot::parse(json.replacen(from, to, 1).as_bytes())
}

#[test]
fn a_good_root_survives_the_way() {
    for root in [
        root(&[1], 1),
        root(&[1, 2, 3], 2),
        TrustRoot::single(key(4).public()),
    ] {
        assert_eq!(TrustRoot::parse(root.to_json().as_bytes()), Ok(root));
    }
    let development = TrustRoot::new(3, 1, vec![key(1).public()], true).unwrap();
    let parsed = TrustRoot::parse(development.to_json().as_bytes()).unwrap();
    assert!(parsed.is_development());
    assert_eq!(parsed.generation(), 3);
    assert_ne!(
        parsed.fingerprint(),
        TrustRoot::single(key(1).public()).fingerprint()
    );
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let keys = vec![key(1).public(), key(2).public(), key(1).public()];
    let id = key(1).public().key_id();
    assert_eq!(
        TrustRoot::new(1, 2, keys, false),
        Err(TrustRootError::DuplicateKey(id))
    );
}

#[test]
fn unsound_keys_are_refused() {
    let good = hex::encode(key(1).public().as_bytes());
    let small_order = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    let second_form = "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    for (bad, source) in [
        (small_order, KeyError::Weak),
        (second_form, KeyError::NotCanonical),
        ("", KeyError::NoPublicKey),
    ] {
        assert_eq!(
            parse_changed(&good, bad),
            Err(TrustRootError::Key {
                position: 1,
                source
            }),
            "{bad}"
        );
    }
    let written = key(3).public().key_id().to_string();
    let result = parse_changed(&key(1).public().key_id().to_string(), &written);
    assert!(
        matches!(result, Err(TrustRootError::WrongKeyId { position: 1, .. })),
        "{result:?}"
    );
}

#[test]
fn thresholds_that_mean_nothing_are_refused() {
    for threshold in ["0", "3", "9007199254740992"] {
        let result = parse_changed("\"threshold\": 2", &format!("\"threshold\": {threshold}"));
        assert!(
            matches!(result, Err(TrustRootError::Threshold { keys: 2, .. })),
            "{result:?}"
        );
    }
    let keys: Vec<_> = (1..=17).map(|seed| key(seed).public()).collect();
    assert_eq!(
        TrustRoot::new(1, 1, keys, false),
        Err(TrustRootError::KeyCount(17))
    );
    assert_eq!(
        TrustRoot::new(1, 1, vec![], false),
        Err(TrustRootError::KeyCount(0))
    );
    assert_eq!(
        TrustRoot::new(0, 1, vec![key(1).public()], false),
        Err(TrustRootError::Generation(0))
    );
}

#[test]
fn other_documents_are_no_trust_root() {
    let result = parse_changed("vnd.phase.trust-root.v1", "vnd.phase.boot-manifest.v1");
    assert!(
        matches!(result, Err(TrustRootError::WrongType(_))),
        "{result:?}"
    );
    for (from, to) in [
        ("\"generation\"", "\"more\": 1, \"generation\""),
        ("\"generation\": 1", "\"generation\": 1, \"generation\": 1"),
        ("\"generation\": 1", "\"generation\": 1.0"),
        ("\"development\": false,", ""),
    ] {
        let result = parse_changed(from, to);
        assert!(
            matches!(result, Err(TrustRootError::Malformed(_))),
            "{to}: {result:?}"
        );
    }
    let padded = " ".repeat(20_000);
    assert_eq!(
        TrustRoot::parse(padded.as_bytes()),
        Err(TrustRootError::TooLarge(20_000))
    );
    assert!(matches!(
        TrustRoot::parse(&crate::fixture::signed(&[1])),
        Err(TrustRootError::Malformed(_))
    ));
}
