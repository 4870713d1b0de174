//! No bit of a manifest can be changed, and none can be left out or added.

use std::collections::BTreeMap;

use crate::fixture::{check, root, signed};

#[test]
fn every_flipped_bit_is_refused() {
    let good = signed(&[1, 2]);
    let root = root(&[1, 2], 2);
    assert!(check(&good, &root).is_ok());
    let mut refusals = BTreeMap::new();
    let mut bytes = good.clone();
    for at in 0..good.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            match check(&bytes, &root) {
                Ok(_) => panic!("bit {bit} of byte {at} was flipped and not noticed"),
                Err(error) => *refusals.entry(error.code()).or_insert(0_u32) += 1,
            }
            bytes[at] ^= 1 << bit;
        }
    }
    assert_eq!(bytes, good);
    // Flips of the structure, inside the payload and inside the readable part each end at their own check.
    for code in ["malformed", "bad-signature", "view-differs"] {
        assert!(
            refusals.contains_key(code),
            "{code} is missing in {refusals:?}"
        );
    }
}

#[test]
fn every_other_byte_in_place_of_a_blank_is_refused() {
    let good = signed(&[1]);
    let root = root(&[1], 1);
    for (at, _) in good
        .iter()
        .enumerate()
        .filter(|(_, byte)| byte.is_ascii_whitespace())
    {
        for other in b" \t\r\n" {
            let mut bytes = good.clone();
            bytes[at] = *other;
            if bytes != good {
                let code = check(&bytes, &root).map_err(|error| error.code()).err();
                assert!(
                    matches!(code, Some("re-encoded" | "view-differs" | "malformed")),
                    "byte {at}: {code:?}"
                );
            }
        }
    }
}

#[test]
fn every_cut_and_every_doubled_byte_is_refused() {
    let good = signed(&[1]);
    let root = root(&[1], 1);
    for at in 0..good.len() {
        assert!(check(&good[..at], &root).is_err(), "cut after {at} bytes");
        let doubled = [&good[..=at], &good[at..]].concat();
        assert!(check(&doubled, &root).is_err(), "byte {at} doubled");
        let without = [&good[..at], &good[at + 1..]].concat();
        assert!(check(&without, &root).is_err(), "without byte {at}");
    }
}
