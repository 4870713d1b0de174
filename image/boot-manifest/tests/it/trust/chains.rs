//! Root chains that must be followed, and those that must not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::{
    Channel, Manifest, ROOT_PAYLOAD_TYPE, Role, RoleName, SecretKey, TrustRoot, append_link,
    draft_link, merge_links, sign, sign_link, unverified_link, verify_chained, verify_link,
    walk_roots,
};
use serde_json::{Value, json};

use crate::fixture::{expect, key, manifest, root};
use crate::forge::sign_raw;

fn role(seeds: &[u8], threshold: u64) -> Role {
    let keys = seeds.iter().map(|seed| key(*seed).public()).collect();
    Role::new(threshold, keys).unwrap()
}

/// Generation 1: release keys 1 and 2 (one signs), root keys 11, 12, 13 (two sign), freshness key 21, operator key 31.
pub(crate) fn first() -> TrustRoot {
    root(&[1, 2], 1)
        .with_role(RoleName::Root, role(&[11, 12, 13], 2))
        .with_role(RoleName::Freshness, role(&[21], 1))
        .with_role(RoleName::Operator, role(&[31], 1))
}

/// Generation 2: the release keys are replaced by 3, and the root key 13 by 14.
pub(crate) fn second() -> TrustRoot {
    first()
        .successor()
        .unwrap()
        .with_role(RoleName::Release, role(&[3], 1))
        .with_role(RoleName::Root, role(&[11, 12, 14], 2))
}

fn link(next: &TrustRoot, seeds: &[u8]) -> Vec<u8> {
    let keys: Vec<SecretKey> = seeds.iter().map(|seed| key(*seed)).collect();
    sign_link(&draft_link(next).unwrap(), &keys.iter().collect::<Vec<_>>()).unwrap()
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// A chain of these links as it would be written, checked by nobody.
fn chain_from(first_generation: u64, links: &[Vec<u8>]) -> Vec<u8> {
    let links: Vec<Value> = links.iter().map(|link| value(link)).collect();
    let chain = json!({
        "type": "application/vnd.phase.root-chain.v1+json",
        "first_generation": first_generation,
        "links": links,
    });
    serde_json::to_vec(&chain).unwrap()
}

/// A link around any payload, signed by those keys under that type.
fn forged(payload_type: &str, payload: &[u8], seeds: &[u8]) -> Vec<u8> {
    let signature = |seed: &u8| json!({"keyid": key(*seed).public().key_id(), "sig": STANDARD.encode(sign_raw(*seed, payload_type, payload))});
    let signatures: Vec<Value> = seeds.iter().map(signature).collect();
    let link = json!({"payloadType": payload_type, "payload": STANDARD.encode(payload), "signatures": signatures});
    serde_json::to_vec(&link).unwrap()
}

/// `count` rotations that change nothing but the number.
fn long_chain(count: u64) -> Vec<u8> {
    let mut root = first();
    let mut links = Vec::new();
    for _ in 0..count {
        root = root.successor().unwrap();
        links.push(link(&root, &[11, 12]));
    }
    chain_from(2, &links)
}

fn good_chain() -> Vec<u8> {
    let third = second()
        .successor()
        .unwrap()
        .with_role(RoleName::Root, role(&[41], 1));
    chain_from(
        2,
        &[link(&second(), &[11, 12]), link(&third, &[12, 14, 41])],
    )
}

fn changed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    text.replacen(from, to, 1).into_bytes()
}

/// The golden `roots.json`: one rotation, as this crate writes it.
pub(crate) fn golden() -> Vec<u8> {
    append_link(None, &link(&second(), &[11, 12]), &first())
        .unwrap()
        .0
}

#[track_caller]
fn refused(name: &str, chain: &[u8], code: &str, words: &str) {
    let error = walk_roots(chain, &first()).expect_err(name);
    let text = error.to_string();
    assert_eq!(error.code(), code, "{name}: {text}");
    assert!(text.contains(words), "{name}: {text}");
}

#[test]
fn a_chain_is_followed_to_its_end_from_wherever_a_machine_stands() {
    let chain = good_chain();
    let newest = walk_roots(&chain, &first()).unwrap();
    assert_eq!(newest.generation(), 3);
    assert_eq!(walk_roots(&chain, &second()), Ok(newest.clone()));
    assert_eq!(walk_roots(&chain, &newest), Ok(newest.clone()));
    // A machine that is ahead of its source stays where it is.
    let ahead = newest.successor().unwrap();
    assert_eq!(walk_roots(&chain, &ahead), Ok(ahead.clone()));
    assert_eq!(walk_roots(&chain_from(2, &[]), &first()), Ok(first()));
}

#[test]
fn links_up_to_the_own_generation_are_not_even_looked_at() {
    let mut junk = value(&good_chain());
    junk["links"][0]["signatures"] = json!([]);
    let junk = serde_json::to_vec(&junk).unwrap();
    assert_eq!(walk_roots(&junk, &second()).unwrap().generation(), 3);
    refused("test_unsigned_root", &junk, "roots-bad-link", "not signed");
}

#[test]
fn a_root_without_roles_rotates_by_its_release_keys() {
    let plain = root(&[1, 2], 2);
    let next = plain
        .successor()
        .unwrap()
        .with_role(RoleName::Release, role(&[3, 4], 2));
    let signed = link(&next, &[1, 2, 3, 4]);
    assert_eq!(verify_link(&signed, &plain), Ok(next.clone()));
    for too_few in [&[1, 3, 4][..], &[1, 2, 3], &[3, 4], &[1, 2]] {
        assert!(verify_link(&link(&next, too_few), &plain).is_err());
    }
}

/// Fault 26, and the root cases of tuf-conformance (the names are its own where it has the case).
#[test]
fn bad_chains_are_refused() {
    let bad = "roots-bad-link";
    let third = second().successor().unwrap();
    let good = link(&second(), &[11, 12]);
    let one = |link: Vec<u8>| chain_from(2, &[link]);
    let json = second().to_json();
    for (name, chain, code, words) in [
        (
            "test_root_rotation_skip",
            one(link(&third, &[11, 12])),
            bad,
            "generation 3, not 2",
        ),
        (
            "test_root_rotation_skip_by_place",
            chain_from(3, &[link(&third, &[11, 12])]),
            "roots-gap",
            "generation 2 would be needed",
        ),
        (
            "test_root_rotation_repeat",
            chain_from(2, &[good.clone(), good.clone()]),
            bad,
            "generation 2, not 3",
        ),
        (
            "test_root_rotation_rollback",
            one(link(&first(), &[11, 12])),
            bad,
            "generation 1, not 2",
        ),
        (
            "test_new_root_not_signed_by_old",
            one(link(&second(), &[14])),
            bad,
            "not trusted",
        ),
        (
            "test_new_root_below_old_threshold",
            one(link(&second(), &[11, 14])),
            bad,
            "1 trusted key(s)",
        ),
        (
            "test_new_root_not_signed_by_new",
            one(link(&second(), &[12, 13])),
            bad,
            "1 trusted key(s)",
        ),
        (
            "test_new_root_signed_by_release_keys",
            one(link(&second(), &[1, 2, 3])),
            bad,
            "not trusted",
        ),
        (
            "test_new_root_signed_by_freshness_and_operator",
            one(link(&second(), &[21, 31])),
            bad,
            "not trusted",
        ),
        (
            "test_duplicate_sig_keyids",
            one(forged(ROOT_PAYLOAD_TYPE, json.as_bytes(), &[11, 11])),
            bad,
            "two signatures of the key",
        ),
        (
            "type_confusion_manifest_as_root",
            one(forged(
                boot_manifest::PAYLOAD_TYPE,
                json.as_bytes(),
                &[11, 12],
            )),
            bad,
            "another kind",
        ),
        (
            "type_confusion_relabelled",
            one(changed(
                &forged(boot_manifest::PAYLOAD_TYPE, json.as_bytes(), &[11, 12]),
                boot_manifest::PAYLOAD_TYPE,
                ROOT_PAYLOAD_TYPE,
            )),
            bad,
            "not what the key",
        ),
        (
            "payload_is_no_root",
            one(forged(ROOT_PAYLOAD_TYPE, b"{}", &[11, 12])),
            bad,
            "cannot be read",
        ),
        (
            "payload_in_another_form",
            one(forged(
                ROOT_PAYLOAD_TYPE,
                format!("{json} ").as_bytes(),
                &[11, 12],
            )),
            bad,
            "not the ones that belong",
        ),
        (
            "payload_with_a_duplicate_key",
            one(forged(
                ROOT_PAYLOAD_TYPE,
                changed(
                    json.as_bytes(),
                    "\"development\": false",
                    "\"development\": false,\"development\": true",
                )
                .as_slice(),
                &[11, 12],
            )),
            bad,
            "twice",
        ),
        (
            "payload_with_an_unknown_role",
            one(forged(
                ROOT_PAYLOAD_TYPE,
                changed(json.as_bytes(), "\"operator\"", "\"janitor\"").as_slice(),
                &[11, 12],
            )),
            bad,
            "janitor",
        ),
        (
            "payload_with_an_unreachable_threshold",
            one(forged(
                ROOT_PAYLOAD_TYPE,
                changed(json.as_bytes(), "\"threshold\": 2", "\"threshold\": 4").as_slice(),
                &[11, 12],
            )),
            bad,
            "role root: a threshold of 4",
        ),
        (
            "too_many_signatures",
            one(forged(
                ROOT_PAYLOAD_TYPE,
                json.as_bytes(),
                &(50..83).collect::<Vec<_>>(),
            )),
            bad,
            "33 signatures",
        ),
        (
            "second_link_is_bad",
            chain_from(2, &[good.clone(), link(&third, &[11, 13])]),
            bad,
            "generation 3: 1 trusted key(s)",
        ),
        (
            "no_chain",
            b"[]".to_vec(),
            "roots-malformed",
            "cannot be read",
        ),
        (
            "an_html_page",
            b"<html>404</html>".to_vec(),
            "roots-malformed",
            "cannot be read",
        ),
        (
            "wrong_type",
            changed(&good_chain(), "root-chain", "trust-root"),
            "roots-wrong-type",
            "no root chain",
        ),
        (
            "trailing_bytes",
            [good_chain(), b"{}".to_vec()].concat(),
            "roots-malformed",
            "after the end",
        ),
        (
            "generation_zero",
            chain_from(0, &[]),
            "roots-malformed",
            "count from 1",
        ),
        ("65_links", long_chain(65), "roots-too-many", "65 links"),
        (
            "10000_links",
            chain_from(
                2,
                &vec![
                    b"{\"payloadType\":\"\",\"payload\":\"\",\"signatures\":[]}".to_vec();
                    10_000
                ],
            ),
            "roots-too-many",
            "10000 links",
        ),
        (
            "endless",
            vec![b' '; (1 << 20) + 1],
            "roots-too-large",
            "1048577 bytes",
        ),
    ] {
        refused(name, &chain, code, words);
    }
    assert_eq!(
        walk_roots(&long_chain(64), &first()).unwrap().generation(),
        65
    );
}

fn signed_at(generation: u64, sequence: u64, seed: u8) -> Vec<u8> {
    let manifest = Manifest {
        generation,
        sequence,
        ..manifest()
    };
    sign(&manifest, &[&key(seed)]).unwrap()
}

#[track_caller]
fn chained(manifest: &[u8], roots: Option<&[u8]>, expected: Result<u64, &str>) {
    let channel: Channel = "stable".parse().unwrap();
    let expect = expect(&channel);
    let result = verify_chained(manifest, roots, &first(), &expect);
    let found = result.as_ref().map(|chained| chained.root.generation());
    assert_eq!(found.map_err(|error| error.code()), expected);
}

#[test]
fn a_manifest_counts_under_the_newest_root_only() {
    let roots = chain_from(2, &[link(&second(), &[11, 12])]);
    chained(&signed_at(1, 9, 1), None, Ok(1));
    chained(&signed_at(2, 1, 3), Some(&roots), Ok(2));
    // Key compromise: what the replaced key signs is worth nothing once the chain is known, whatever it claims.
    chained(&signed_at(1, 9, 1), Some(&roots), Err("unknown-key"));
    chained(&signed_at(2, 9, 1), Some(&roots), Err("unknown-key"));
    // Mix-and-match: a manifest of one generation beside the chain of another.
    chained(&signed_at(2, 1, 3), None, Err("unknown-key"));
    chained(&signed_at(3, 1, 3), Some(&roots), Err("wrong-generation"));
    chained(&signed_at(1, 1, 3), Some(&roots), Err("wrong-generation"));
    // Root, freshness and operator keys sign no manifests.
    for seed in [11, 21, 31] {
        chained(&signed_at(1, 9, seed), None, Err("unknown-key"));
    }
    chained(&signed_at(2, 1, 3), Some(b"{}"), Err("roots-malformed"));
}

#[test]
fn a_link_is_signed_by_people_who_never_meet() {
    let draft = draft_link(&second()).unwrap();
    assert_eq!(unverified_link(&draft).unwrap(), (second(), vec![]));
    assert_eq!(
        verify_link(&draft, &first()).unwrap_err().code(),
        "not-signed"
    );
    let copies: Vec<Vec<u8>> = [11, 12]
        .iter()
        .map(|seed| sign_link(&draft, &[&key(*seed)]).unwrap())
        .collect();
    for copy in &copies {
        assert_eq!(
            verify_link(copy, &first()).unwrap_err().code(),
            "threshold-not-met"
        );
    }
    let merged = merge_links(&copies).unwrap();
    assert_eq!(
        merged,
        link(&second(), &[12, 11]),
        "the order of signing leaves no trace"
    );
    let (chain, newest) = append_link(None, &merged, &first()).unwrap();
    assert_eq!(newest, second());
    assert_eq!(walk_roots(&chain, &first()), Ok(second()));
    assert!(
        sign_link(&merged, &[&key(11)]).is_err(),
        "nobody signs twice"
    );
    let other = draft_link(&second().with_role(RoleName::Operator, role(&[32], 1))).unwrap();
    assert!(
        merge_links(&[merged, other]).is_err(),
        "copies of two links are not one"
    );
}

#[test]
fn what_is_appended_was_checked_from_the_first_root_on() {
    let (chain, _) = append_link(None, &link(&second(), &[11, 12]), &first()).unwrap();
    let third = second().successor().unwrap();
    let (chain, newest) = append_link(Some(&chain), &link(&third, &[11, 14]), &first()).unwrap();
    assert_eq!(newest, third);
    assert_eq!(walk_roots(&chain, &second()), Ok(third.clone()));
    let fourth = third.successor().unwrap();
    for bad in [
        link(&fourth, &[11]),
        link(&third, &[11, 14]),
        b"{}".to_vec(),
    ] {
        assert!(append_link(Some(&chain), &bad, &first()).is_err());
    }
    let unconnected = append_link(
        Some(&chain),
        &link(&fourth.successor().unwrap(), &[11, 12]),
        &fourth,
    );
    assert_eq!(unconnected.unwrap_err().code(), "roots-gap");
}
