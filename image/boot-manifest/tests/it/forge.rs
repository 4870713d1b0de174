//! The tools of the forger: files that differ from the good one in one chosen way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::{Manifest, PAYLOAD_TYPE, pre_authentication_encoding, sign};
use curve25519_dalek::Scalar;
use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier as _};
use sha2::{Digest as _, Sha512};

use crate::fixture::{artifact, key, manifest, signed};

pub(crate) fn good_text() -> String {
    String::from_utf8(signed(&[1])).unwrap()
}

/// The good file with the first `from` replaced by `to`.
#[track_caller]
pub(crate) fn changed(from: &str, to: &str) -> String {
    let text = good_text();
    assert!(text.contains(from), "{from} is not in the file");
    text.replacen(from, to, 1)
}

pub(crate) fn member(file: &str, path: &str) -> String {
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    file.pointer(path)
        .and_then(serde_json::Value::as_str)
        .unwrap()
        .to_owned()
}

pub(crate) fn good_payload() -> String {
    String::from_utf8(
        STANDARD
            .decode(member(&good_text(), "/envelope/payload"))
            .unwrap(),
    )
    .unwrap()
}

pub(crate) fn sign_raw(seed: u8, payload_type: &str, payload: &[u8]) -> [u8; 64] {
    let message = pre_authentication_encoding(payload_type, payload);
    SigningKey::from_bytes(&[seed; 32])
        .sign(&message)
        .to_bytes()
}

/// A file like the good one around any payload and signature: what a thief of the key, or a careless signer, can make.
pub(crate) fn forged(payload_type: &str, payload: &[u8], signature: &[u8; 64]) -> String {
    let good = good_text();
    let old_signature = STANDARD
        .decode(member(&good, "/envelope/signatures/0/sig"))
        .unwrap();
    good.replace(
        &member(&good, "/envelope/payload"),
        &STANDARD.encode(payload),
    )
    .replace(
        &STANDARD.encode(&old_signature),
        &STANDARD.encode(signature),
    )
    .replace(&hex::encode(&old_signature), &hex::encode(signature))
    .replace(PAYLOAD_TYPE, payload_type)
}

/// A file whose payload differs in `from` -> `to` and is properly signed.
#[track_caller]
pub(crate) fn signed_payload(from: &str, to: &str) -> String {
    let payload = good_payload();
    assert!(payload.contains(from), "{from} is not in {payload}");
    let payload = payload.replacen(from, to, 1);
    forged(
        PAYLOAD_TYPE,
        payload.as_bytes(),
        &sign_raw(1, PAYLOAD_TYPE, payload.as_bytes()),
    )
}

/// A file whose payload differs in `from` -> `to` under the old signature.
pub(crate) fn unsigned_payload(from: &str, to: &str) -> String {
    let payload = good_payload();
    assert!(payload.contains(from), "{from} is not in {payload}");
    let old = member(&good_text(), "/envelope/payload");
    good_text().replace(&old, &STANDARD.encode(payload.replacen(from, to, 1)))
}

/// A file signed after `change`.
pub(crate) fn signed_after(change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let mut manifest = manifest();
    change(&mut manifest);
    sign(&manifest, &[&key(1)]).unwrap()
}

/// Bytes of a manifest, signed as something else and presented as a manifest.
pub(crate) fn type_confusion() -> String {
    let payload = good_payload();
    let signature = sign_raw(
        1,
        "application/vnd.phase.trust-root.v1+json",
        payload.as_bytes(),
    );
    forged(PAYLOAD_TYPE, payload.as_bytes(), &signature)
}

/// The same payload under other base64: bits that no byte owns.
pub(crate) fn trailing_bits(payload: &str) -> String {
    let digits = payload.trim_end_matches('=');
    let (rest, last) = digits.split_at(digits.len() - 1);
    let next = char::from(last.as_bytes()[0] + 1);
    format!("{rest}{next}{}", "=".repeat(payload.len() - digits.len()))
}

/// Two good signatures, in the envelope in the other order.
pub(crate) fn swapped_signatures() -> String {
    let good = String::from_utf8(signed(&[1, 2])).unwrap();
    let (view, envelope) = good.split_at(good.find("\"envelope\"").unwrap());
    let mut envelope = envelope.to_owned();
    for field in ["keyid", "sig"] {
        let [first, second] =
            ["0", "1"].map(|index| member(&good, &format!("/envelope/signatures/{index}/{field}")));
        let (first, second) = (format!("\"{first}\""), format!("\"{second}\""));
        envelope = envelope.replace(&first, "FIRST").replace(&second, &first);
        envelope = envelope.replace("FIRST", &second);
    }
    view.to_owned() + &envelope
}

pub(crate) fn view_with_swapped_hashes() -> String {
    let good = good_text();
    let [kernel, initramfs] =
        ["kernel", "initramfs"].map(|name| member(&good, &format!("/artifacts/{name}/hash")));
    good.replace(&kernel, "-")
        .replace(&initramfs, &kernel)
        .replace("\"-\"", &format!("\"{initramfs}\""))
}

/// The readable part alone, as a provider without a key shows it.
pub(crate) fn without_envelope() -> String {
    let good = good_text();
    let (view, _) = good.split_at(good.find(",\n  \"envelope\"").unwrap());
    format!("{view}\n}}\n")
}

pub(crate) fn without_view_of_initramfs() -> String {
    let good = good_text();
    let from = good.find("\"initramfs\"").unwrap();
    let to = good.find("\"kernel\"").unwrap();
    format!("{}{}", &good[..from], &good[to..])
}

pub(crate) fn with_envelope_signatures(entries: &str) -> String {
    let good = good_text();
    let envelope = good.find("\"envelope\"").unwrap();
    let list = envelope + good[envelope..].find("\"signatures\"").unwrap();
    format!("{}\"signatures\": [{entries}]\n  }}\n}}\n", &good[..list])
}

/// A signature whose nonce point is the neutral one: it satisfies the equation, and only strict verifiers refuse it.
pub(crate) fn signature_of_small_order() -> [u8; 64] {
    let key = SigningKey::from_bytes(&[1; 32]);
    let message = pre_authentication_encoding(PAYLOAD_TYPE, good_payload().as_bytes());
    let mut nonce_point = [0; 32];
    nonce_point[0] = 1;
    let hash = Sha512::new()
        .chain_update(nonce_point)
        .chain_update(key.verifying_key().as_bytes())
        .chain_update(&message);
    let challenge = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    let answer = challenge * key.to_scalar();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&nonce_point);
    signature[32..].copy_from_slice(answer.as_bytes());
    let lenient = key
        .verifying_key()
        .verify(&message, &Signature::from_bytes(&signature));
    assert!(lenient.is_ok(), "this signature tests nothing");
    signature
}

/// The good signature with the order of the group added to its scalar: it satisfies the bare equation as well.
pub(crate) fn malleated() -> [u8; 64] {
    let mut signature = sign_raw(1, PAYLOAD_TYPE, good_payload().as_bytes());
    let order =
        hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    let mut carry = 0_u16;
    for (byte, addend) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(addend) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    signature
}

pub(crate) fn only_chunk() -> String {
    format!(
        "\"chunks\":[\"{}\"]}}",
        manifest().artifact("kernel").unwrap().digest
    )
}

pub(crate) fn extra_artifact(name: &str) -> String {
    let artifact = artifact(name, name, 10);
    let digest = artifact.digest;
    format!(
        "{{\"name\":\"{name}\",\"filename\":\"{name}\",\"size\":10,\"digest\":\"{digest}\",\"chunk_size\":1048576,\"chunks\":[\"{digest}\"]}}"
    )
}
