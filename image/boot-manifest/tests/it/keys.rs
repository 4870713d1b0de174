//! Which keys are accepted, and in which form.

use base64::Engine as _;
use boot_manifest::{KeyError, PublicKey, SecretKey};

use crate::fixture::key;

#[track_caller]
fn refused(bytes: &[u8], expected: &KeyError) {
    assert_eq!(PublicKey::parse(bytes).as_ref(), Err(expected), "{bytes:?}");
}

fn raw(hex_digits: &str) -> [u8; 32] {
    hex::decode(hex_digits).unwrap().try_into().unwrap()
}

#[test]
fn a_public_key_is_read_in_four_forms() {
    let public = key(1).public();
    let hex_form = hex::encode(public.as_bytes());
    let base64_form = base64::engine::general_purpose::STANDARD.encode(public.as_bytes());
    for form in [
        public.to_pem(),
        format!("\n{}\n", public.to_pem().trim()),
        hex_form.clone(),
        format!("{hex_form}\n"),
        hex_form.to_uppercase(),
        base64_form.clone(),
        format!("{base64_form}\n"),
    ] {
        assert_eq!(
            PublicKey::parse(form.as_bytes()),
            Ok(public.clone()),
            "{form}"
        );
    }
    assert_eq!(PublicKey::parse(public.as_bytes()), Ok(public));
}

#[test]
fn other_texts_are_no_public_key() {
    let pem = key(1).public().to_pem();
    for form in [
        "",
        "x",
        &pem[..pem.len() / 2],
        &pem.replace("PUBLIC", "RSA PUBLIC"),
        &"0".repeat(63),
    ] {
        refused(form.as_bytes(), &KeyError::NoPublicKey);
    }
    refused(&[b'0'; 10_000], &KeyError::NoPublicKey);
    refused(key(1).to_pem().as_bytes(), &KeyError::SecretInsteadOfPublic);
}

/// The eight points whose order divides eight, in canonical form. A signature under one of them can hold for any
/// message.
const SMALL_ORDER: [&str; 8] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];

#[test]
fn keys_of_small_order_are_refused() {
    for point in SMALL_ORDER {
        refused(&raw(point), &KeyError::Weak);
        refused(point.as_bytes(), &KeyError::Weak);
    }
}

#[test]
fn second_encodings_of_a_point_are_refused() {
    // The prime is 2^255 - 19, so the numbers from it to 2^255 - 1 are second forms of 0 to 18.
    let mut on_the_curve = 0;
    for low in 0xed..=0xff_u8 {
        for sign in [0x7f, 0xff] {
            let mut encoding = [0xff; 32];
            encoding[0] = low;
            encoding[31] = sign;
            match PublicKey::parse(&encoding) {
                Err(KeyError::NotCanonical) => on_the_curve += 1,
                Err(KeyError::NotOnCurve) => {}
                other => panic!("{encoding:02x?}: {other:?}"),
            }
        }
    }
    assert!(
        on_the_curve >= 10,
        "the library refuses these itself now: {on_the_curve}"
    );
    // x = 0 has no negative form.
    let mut minus_zero = raw(SMALL_ORDER[0]);
    minus_zero[31] = 0x80;
    assert!(PublicKey::parse(&minus_zero).is_err());
}

#[test]
fn secret_keys_are_never_shown() {
    assert_eq!(format!("{:?}", key(1)), "SecretKey(not shown)");
    for wrong in ["", "x", &key(1).public().to_pem()] {
        let error = SecretKey::from_pem(wrong).unwrap_err();
        assert_eq!(error, KeyError::NoSecretKey);
    }
}

#[test]
fn the_key_id_is_the_start_of_the_digest_of_the_raw_key() {
    let public = key(1).public();
    let digest = boot_manifest::Digest::of(public.as_bytes()).hex();
    assert_eq!(public.key_id().to_string(), digest[..16]);
}
