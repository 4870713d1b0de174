//! Freshness statements and orders: what is taken for one, and what is not.

use boot_manifest::{
    Action, Arch, Digest, Freshness, Nonce, Order, RoleName, SignError, StatementError, TrustRoot,
    merge_orders, sign_freshness, sign_order, verify_freshness, verify_order,
};

use super::chains::{first, second};
use crate::fixture::{bless, data, key, root};

const NONCE: Nonce = Nonce::from_bytes([0xa5; 16]);

pub(crate) fn freshness() -> Freshness {
    Freshness {
        nonce: NONCE,
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        generation: 1,
        sequence: 7,
        digest: Digest::of(b"manifest"),
    }
}

fn fresh(bytes: &[u8], root: &TrustRoot) -> Result<u64, &'static str> {
    let channel = "stable".parse().unwrap();
    verify_freshness(bytes, root, &NONCE, &channel, Arch::X86_64)
        .map(|freshness| freshness.sequence)
        .map_err(|error| error.code())
}

fn stated(change: impl FnOnce(&mut Freshness)) -> Vec<u8> {
    let mut freshness = freshness();
    change(&mut freshness);
    sign_freshness(&freshness, &[&key(21)]).unwrap()
}

/// Faults 24 and 27: a mirror that freezes its machines has nothing to say that passes.
#[test]
fn a_freshness_statement_answers_one_question() {
    assert_eq!(fresh(&stated(|_| {}), &first()), Ok(7));
    for (name, bytes, code) in [
        (
            "freeze: an old answer",
            stated(|f| f.nonce = Nonce::from_bytes([1; 16])),
            "wrong-nonce",
        ),
        (
            "another channel",
            stated(|f| f.channel = "edge".parse().unwrap()),
            "wrong-channel",
        ),
        (
            "another machine",
            stated(|f| f.arch = Arch::Aarch64),
            "wrong-arch",
        ),
        (
            "another generation",
            stated(|f| f.generation = 2),
            "wrong-generation",
        ),
        (
            "signed by a release key",
            sign_freshness(&freshness(), &[&key(1)]).unwrap(),
            "unknown-key",
        ),
        (
            "signed by a root key",
            sign_freshness(&freshness(), &[&key(11)]).unwrap(),
            "unknown-key",
        ),
        (
            "an order",
            sign_order(&order(), &[&key(21)]).unwrap(),
            "wrong-payload-type",
        ),
        (
            "an order, relabelled",
            relabelled(
                &sign_order(&order(), &[&key(21)]).unwrap(),
                "order",
                "freshness",
            ),
            "bad-signature",
        ),
        ("endless", vec![b' '; 4 << 10 | 1], "too-large"),
        ("a web page", b"<html>".to_vec(), "malformed"),
    ] {
        assert_eq!(fresh(&bytes, &first()), Err(code), "{name}");
    }
    // Without a role of its own the release keys speak, all that are needed.
    let plain = root(&[1, 2], 2);
    let both = sign_freshness(&freshness(), &[&key(1), &key(2)]).unwrap();
    assert_eq!(fresh(&both, &plain), Ok(7));
    let one = sign_freshness(&freshness(), &[&key(1)]).unwrap();
    assert_eq!(fresh(&one, &plain), Err("threshold-not-met"));
}

#[test]
fn a_rotation_ends_the_word_of_old_freshness_keys() {
    let rotated = second().with_role(
        RoleName::Freshness,
        boot_manifest::Role::new(1, vec![key(22).public()]).unwrap(),
    );
    assert_eq!(
        fresh(&stated(|f| f.generation = 2), &rotated),
        Err("unknown-key")
    );
    let renewed = sign_freshness(
        &Freshness {
            generation: 2,
            ..freshness()
        },
        &[&key(22)],
    )
    .unwrap();
    assert_eq!(fresh(&renewed, &rotated), Ok(7));
}

pub(crate) fn order() -> Order {
    Order {
        action: Action::Apply,
        digest: Some(Digest::of(b"manifest")),
        nonce: NONCE,
        force: false,
    }
}

fn relabelled(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (from, to) = (format!("vnd.phase.{from}.v1"), format!("vnd.phase.{to}.v1"));
    assert!(text.contains(&from));
    text.replacen(&from, &to, 1).into_bytes()
}

fn taken(bytes: &[u8], root: &TrustRoot) -> Result<Order, &'static str> {
    verify_order(bytes, root, &NONCE)
        .map(|order| (*order).clone())
        .map_err(|error| error.code())
}

/// Fault 24, and the replay of an old valid order.
#[test]
fn people_who_sign_one_order_apart_reach_the_threshold_together() {
    let signed = |seed, order: &Order| sign_order(order, &[&key(seed)]).unwrap();
    let halves = [signed(31, &order()), signed(32, &order())];
    let both = sign_order(&order(), &[&key(31), &key(32)]).unwrap();
    assert_eq!(merge_orders(&halves).unwrap(), both);
    let twice = [halves[0].clone(), halves[0].clone()];
    assert_eq!(merge_orders(&twice).unwrap(), halves[0], "one key is one");
    let another = Order {
        force: !order().force,
        ..order()
    };
    assert_eq!(
        merge_orders(&[halves[0].clone(), signed(32, &another)]),
        Err(SignError::DifferentPayloads)
    );
    assert_eq!(merge_orders(&[]), Err(SignError::NoKeys));
}

#[test]
fn an_order_is_good_for_one_machine_and_once() {
    for action in Action::ALL {
        let order = Order {
            action,
            digest: None,
            ..order()
        };
        let signed = sign_order(&order, &[&key(31)]).unwrap();
        assert_eq!(taken(&signed, &first()), Ok(order));
    }
    let signed = sign_order(&order(), &[&key(31)]).unwrap();
    assert_eq!(taken(&signed, &first()), Ok(order()));
    let replayed = verify_order(&signed, &first(), &Nonce::from_bytes([2; 16])).unwrap_err();
    assert!(
        matches!(replayed, StatementError::WrongNonce { .. }),
        "{replayed}"
    );
    for (name, bytes, code) in [
        (
            "signed by a release key",
            sign_order(&order(), &[&key(1)]).unwrap(),
            "unknown-key",
        ),
        (
            "signed by a freshness key",
            sign_order(&order(), &[&key(21)]).unwrap(),
            "unknown-key",
        ),
        (
            "a freshness statement",
            sign_freshness(&freshness(), &[&key(31)]).unwrap(),
            "wrong-payload-type",
        ),
        (
            "a freshness statement, relabelled",
            relabelled(
                &sign_freshness(&freshness(), &[&key(31)]).unwrap(),
                "freshness",
                "order",
            ),
            "bad-signature",
        ),
        (
            "changed on the way",
            changed_payload(&signed),
            "bad-signature",
        ),
        ("endless", vec![b' '; 16 << 10 | 1], "too-large"),
    ] {
        assert_eq!(taken(&bytes, &first()), Err(code), "{name}");
    }
    assert_eq!(sign_order(&order(), &[]), Err(SignError::NoKeys));
    assert_eq!(
        taken(&signed, &root(&[31], 1)),
        Ok(order()),
        "release keys stand in for operators"
    );
}

/// The order with its `force` set, under the old signature.
fn changed_payload(signed: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut file: serde_json::Value = serde_json::from_slice(signed).unwrap();
    let payload = STANDARD.decode(file["payload"].as_str().unwrap()).unwrap();
    let payload = String::from_utf8(payload).unwrap();
    let forced = payload.replace("\"force\":false", "\"force\":true");
    assert_ne!(payload, forced);
    file["payload"] = STANDARD.encode(forced).into();
    serde_json::to_vec(&file).unwrap()
}

#[test]
fn the_golden_statements_stay_what_they_are() {
    for (name, bytes) in [
        (
            "freshness.json",
            sign_freshness(&freshness(), &[&key(21)]).unwrap(),
        ),
        ("order.json", sign_order(&order(), &[&key(31)]).unwrap()),
        ("trust-root-roles.json", first().to_json().into_bytes()),
        ("roots.json", super::chains::golden()),
    ] {
        bless(&format!("golden/{name}"), &bytes);
        let golden = std::fs::read(data("golden").join(name)).unwrap();
        assert!(
            golden == bytes,
            "{name} differs from what the code makes:\n{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn nonces_and_actions_have_one_spelling() {
    assert_eq!(NONCE.to_string().parse(), Ok(NONCE));
    for odd in [
        "",
        "a5",
        &NONCE.to_string().to_uppercase(),
        &format!("{NONCE}00"),
    ] {
        assert!(odd.parse::<Nonce>().is_err(), "{odd}");
    }
    for action in Action::ALL {
        assert_eq!(action.as_str().parse(), Ok(action));
        assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
    }
    assert!("Apply".parse::<Action>().is_err());
}
