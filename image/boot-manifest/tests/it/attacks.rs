//! One manifest per attack, and the error each must end in.
//!
//! The table below makes the attacks; `tests/data/attacks.tsv` is the checked-in list of what the verifier says about
//! each. An attack that is believed, a changed code and a changed sentence all fail here.

mod payload;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::{
    Arch, Channel, Expect, Expiry, Floor, PAYLOAD_TYPE, SecretKey, TrustRoot, VerifyError, sign,
    verify,
};

use crate::fixture::{CREATED_AT, bless, data, expect, key, manifest, root, signed};
use crate::forge::{
    changed, forged, good_payload, good_text, malleated, member, sign_raw,
    signature_of_small_order, signed_after, swapped_signatures, trailing_bits, type_confusion,
    unsigned_payload, view_with_swapped_hashes, with_envelope_signatures, without_envelope,
    without_view_of_initramfs,
};
use payload::the_payload;

/// One attack: what the machine receives, and what it believes and expects.
struct Attack {
    name: &'static str,
    bytes: Vec<u8>,
    root: TrustRoot,
    change: fn(&mut Expect<'_>),
}

fn attack(name: &'static str, bytes: impl Into<Vec<u8>>) -> Attack {
    Attack {
        name,
        bytes: bytes.into(),
        root: root(&[1], 1),
        change: |_| {},
    }
}

impl Attack {
    fn against(self, root: TrustRoot) -> Self {
        Self { root, ..self }
    }

    fn when(self, change: fn(&mut Expect<'_>)) -> Self {
        Self { change, ..self }
    }

    fn verdict(&self) -> Result<(), VerifyError> {
        let channel: Channel = "stable".parse().unwrap();
        let mut expect = expect(&channel);
        (self.change)(&mut expect);
        verify(&self.bytes, &self.root, &expect).map(|_| ())
    }
}

fn the_file() -> Vec<Attack> {
    let deep = format!("\"manifest_version\": {}7{}", "[".repeat(9), "]".repeat(9));
    vec![
        attack("empty", ""),
        attack("not-json", "<html>404 Not Found</html>"),
        attack("huge", vec![b' '; (1 << 20) + 1]),
        attack(
            "huge-after-the-end",
            [signed(&[1]), vec![b' '; 1 << 20]].concat(),
        ),
        attack("cut-short", &good_text().as_bytes()[..1_000]),
        attack("byte-order-mark", format!("\u{feff}{}", good_text())),
        attack(
            "invalid-utf-8",
            [b"{\"\xff\": 1, ", &good_text().as_bytes()[1..]].concat(),
        ),
        attack("deep-nesting", changed("\"manifest_version\": 7", &deep)),
        attack(
            "float",
            changed("\"size_bytes\": 1000", "\"size_bytes\": 1000.0"),
        ),
        attack(
            "integer-above-2-53",
            changed("\"size_bytes\": 1000", "\"size_bytes\": 9007199254740993"),
        ),
        attack("trailing-second-object", good_text() + "{}"),
        attack("trailing-nul", good_text() + "\0"),
        attack(
            "unknown-member",
            changed("\"manifest_version\"", "\"extra\": 1, \"manifest_version\""),
        ),
        attack(
            "terminal-escape-in-a-name",
            changed(
                "\"manifest_version\"",
                "\"\\u001b[2J\\u202e\": 1, \"manifest_version\"",
            ),
        ),
        attack("missing-member", changed("\"version\": \"0.1.0\",", "")),
        attack(
            "unknown-member-in-envelope",
            changed("\"payloadType\"", "\"alg\": \"none\", \"payloadType\""),
        ),
        attack(
            "duplicate-envelope",
            changed("\"envelope\"", "\"envelope\": {}, \"envelope\""),
        ),
        attack(
            "duplicate-payload",
            changed("\"payload\"", "\"payload\": \"e30=\", \"payload\""),
        ),
        attack(
            "duplicate-member-of-the-view",
            changed("\"hash\"", "\"hash\": \"\", \"hash\""),
        ),
        attack(
            "duplicate-by-escape",
            changed("\"version\"", "\"vers\\u0069on\": \"9\", \"version\""),
        ),
    ]
}

fn the_envelope() -> Vec<Attack> {
    let good = good_text();
    let payload = member(&good, "/envelope/payload");
    let unpadded = payload.trim_end_matches('=');
    let url_safe = payload.replacen(|c: char| c.is_ascii_lowercase(), "_", 1);
    let reformatted =
        serde_json::to_string(&serde_json::from_str::<serde_json::Value>(&good).unwrap());
    assert_ne!(
        unpadded, payload,
        "the fixture needs a payload with padding"
    );
    vec![
        attack("re-encoded-by-jq", reformatted.unwrap()),
        attack("re-encoded-white-space", good.replacen("  ", "\t", 1)),
        attack("re-encoded-newline", good.trim_end()),
        attack("re-encoded-escape", changed("stable", "st\\u0061ble")),
        attack("re-encoded-order-of-signatures", swapped_signatures()).against(root(&[1, 2], 2)),
        attack("base64-without-padding", changed(&payload, unpadded)),
        attack("base64-url-alphabet", changed(&payload, &url_safe)),
        attack(
            "base64-trailing-bits",
            changed(&payload, &trailing_bits(&payload)),
        ),
        attack(
            "base64-with-newline",
            changed(&payload, &format!("{payload}\\n")),
        ),
        attack(
            "view-version-differs",
            changed("\"manifest_version\": 7", "\"manifest_version\": 8"),
        ),
        attack("view-hash-swapped", view_with_swapped_hashes()),
        attack(
            "view-url-elsewhere",
            changed(
                "\"/stable/x86_64/vmlinuz\"",
                "\"http://192.0.2.66/vmlinuz\"",
            ),
        ),
        attack(
            "view-expiry-extended",
            changed("\"expires_at\": \"2026-12", "\"expires_at\": \"2036-12"),
        ),
        attack(
            "view-algorithm-none",
            changed("\"algorithm\": \"ed25519\"", "\"algorithm\": \"none\""),
        ),
        attack(
            "view-signed-at",
            changed("\"signed_at\": \"2026", "\"signed_at\": \"2025"),
        ),
        attack("view-artifact-removed", without_view_of_initramfs()),
        attack(
            "type-relabelled",
            changed(PAYLOAD_TYPE, "application/vnd.phase.trust-root.v1+json"),
        ),
        attack("type-confusion", type_confusion()),
        attack("type-missing", changed(PAYLOAD_TYPE, "")),
    ]
}

fn the_signatures() -> Vec<Attack> {
    let id = |seed: u8| key(seed).public().key_id().to_string();
    let twice = String::from_utf8(signed(&[1, 2])).unwrap();
    let seventeen = {
        let entry = |seed: u8| {
            format!(
                "{{\"keyid\": \"{}\", \"sig\": \"{}\"}}",
                id(seed),
                STANDARD.encode([0; 64])
            )
        };
        let entries: Vec<String> = (10..27).map(entry).collect();
        with_envelope_signatures(&entries.join(", "))
    };
    let one = |seed: u8, keyid: &str| {
        let signature = sign_raw(seed, PAYLOAD_TYPE, good_payload().as_bytes());
        format!(
            "{{\"keyid\": \"{keyid}\", \"sig\": \"{}\"}}",
            STANDARD.encode(signature)
        )
    };
    vec![
        attack("not-signed", with_envelope_signatures("")),
        attack("draft", boot_manifest::draft(&manifest()).unwrap()),
        attack("no-envelope", without_envelope()),
        attack(
            "envelope-null",
            without_envelope().replace("\n}", ",\n  \"envelope\": null\n}"),
        ),
        attack("too-many-signatures", seventeen),
        attack("unknown-key", signed(&[3])),
        attack(
            "unknown-key-under-a-trusted-id",
            with_envelope_signatures(&one(3, &id(1))),
        ),
        attack(
            "trusted-key-under-an-unknown-id",
            with_envelope_signatures(&one(1, &id(3))),
        ),
        attack(
            "same-key-twice",
            with_envelope_signatures(&format!("{0}, {0}", one(1, &id(1)))),
        )
        .against(root(&[1, 2], 2)),
        attack(
            "same-key-under-two-ids",
            twice.replace(
                &STANDARD.encode(sign_raw(2, PAYLOAD_TYPE, good_payload().as_bytes())),
                &STANDARD.encode(sign_raw(1, PAYLOAD_TYPE, good_payload().as_bytes())),
            ),
        )
        .against(root(&[1, 2], 2)),
        attack("threshold-not-met", signed(&[1])).against(root(&[1, 2, 3], 2)),
        attack("threshold-not-met-with-a-stranger", signed(&[1, 4])).against(root(&[1, 2, 3], 2)),
        attack(
            "one-good-one-bad",
            twice.replace(
                &STANDARD.encode(sign_raw(2, PAYLOAD_TYPE, good_payload().as_bytes())),
                &STANDARD.encode([7; 64]),
            ),
        )
        .against(root(&[1, 2], 1)),
        attack(
            "zero-signature",
            forged(PAYLOAD_TYPE, good_payload().as_bytes(), &[0; 64]),
        ),
        attack(
            "signature-plus-group-order",
            forged(PAYLOAD_TYPE, good_payload().as_bytes(), &malleated()),
        ),
        attack(
            "signature-of-small-order",
            forged(
                PAYLOAD_TYPE,
                good_payload().as_bytes(),
                &signature_of_small_order(),
            ),
        ),
        attack(
            "short-signature",
            with_envelope_signatures(&format!("{{\"keyid\": \"{}\", \"sig\": \"AAAA\"}}", id(1))),
        ),
        attack(
            "key-id-in-capitals",
            with_envelope_signatures(&one(1, &id(1).to_uppercase())),
        ),
        attack(
            "payload-byte-flipped",
            unsigned_payload("panic=10", "panic=11"),
        ),
        attack(
            "swapped-artifact",
            unsigned_payload(
                "\"name\":\"kernel\",\"filename\":\"vmlinuz\"",
                "\"name\":\"kernel\",\"filename\":\"initramfs.img\"",
            ),
        ),
        attack(
            "other-kernel",
            unsigned_payload(
                &manifest().artifact("kernel").unwrap().digest.to_string(),
                &manifest().artifact("initramfs").unwrap().digest.to_string(),
            ),
        ),
    ]
}

fn the_machine() -> Vec<Attack> {
    vec![
        attack("expired", signed(&[1])).when(|expect| expect.now = CREATED_AT.plus_days(30)),
        attack("not-yet-valid", signed(&[1]))
            .when(|expect| expect.now = CREATED_AT.plus_seconds(-86_401)),
        attack("not-yet-valid-though-expiry-is-accepted", signed(&[1])).when(|expect| {
            expect.now = CREATED_AT.plus_seconds(-86_401);
            expect.expiry = Expiry::Accept;
        }),
        attack(
            "sequence-below-floor",
            signed_after(|manifest| manifest.sequence = 6),
        ),
        attack(
            "security-version-below-floor",
            signed_after(|manifest| {
                manifest.security_version = 1;
                manifest.sequence = 1_000;
            }),
        ),
        attack(
            "floor-holds-though-expiry-is-only-reported",
            signed_after(|manifest| manifest.sequence = 6),
        )
        .when(|expect| expect.expiry = Expiry::Report),
        attack(
            "other-generation",
            signed_after(|manifest| manifest.generation = 2),
        ),
        attack("older-generation", signed(&[1]))
            .against(TrustRoot::new(2, 1, vec![key(1).public()], false).unwrap()),
        attack(
            "other-channel",
            signed_after(|manifest| manifest.channel = "nightly".parse().unwrap()),
        ),
        attack(
            "other-arch",
            signed_after(|manifest| manifest.arch = Arch::Aarch64),
        ),
    ]
}

fn attacks() -> Vec<Attack> {
    [
        the_file(),
        the_envelope(),
        the_signatures(),
        the_payload(),
        the_machine(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The list as it is checked in: name, code and sentence of each attack.
fn verdicts() -> String {
    let mut list = String::from("# attack\tcode\twhat the verifier says\n");
    for attack in attacks() {
        match attack.verdict() {
            Ok(()) => list += &format!("{}\tBELIEVED\t\n", attack.name),
            Err(error) => list += &format!("{}\t{}\t{error}\n", attack.name, error.code()),
        }
    }
    list
}

#[test]
fn every_attack_ends_in_its_own_error() {
    let found = verdicts();
    bless("attacks.tsv", found.as_bytes());
    let listed = std::fs::read_to_string(data("attacks.tsv")).unwrap();
    for (listed, found) in listed.lines().zip(found.lines()) {
        assert_eq!(listed, found);
    }
    assert_eq!(listed.lines().count(), found.lines().count());
    assert!(!listed.contains("BELIEVED"));
}

#[test]
fn every_code_has_an_attack() {
    let found = verdicts();
    for code in [
        "too-large",
        "malformed",
        "duplicate-field",
        "trailing-bytes",
        "wrong-payload-type",
        "not-signed",
        "too-many-signatures",
        "duplicate-signature",
        "unknown-key",
        "bad-signature",
        "threshold-not-met",
        "wrong-generation",
        "version-too-low",
        "wrong-channel",
        "wrong-arch",
        "not-yet-valid",
        "expired",
        "missing-kernel",
        "duplicate-artifact",
        "invalid-manifest",
        "view-differs",
        "re-encoded",
    ] {
        assert!(found.contains(&format!("\t{code}\t")), "{code}");
    }
}

#[test]
fn the_same_files_without_the_attack_are_believed() {
    let payload = good_payload();
    let forged = forged(
        PAYLOAD_TYPE,
        payload.as_bytes(),
        &sign_raw(1, PAYLOAD_TYPE, payload.as_bytes()),
    );
    assert_eq!(
        forged,
        good_text(),
        "the forger's tools write what the signer writes"
    );
    let two = signed(&[1, 2]);
    for believed in [
        attack("good", good_text()),
        attack("two keys, one needed", two.clone()),
        attack("two keys, two needed", two.clone()).against(root(&[2, 1, 3], 2)),
        attack("a stranger signed too", signed(&[1, 9])),
        attack("last second", good_text())
            .when(|expect| expect.now = CREATED_AT.plus_days(30).plus_seconds(-1)),
        attack("clock a day behind", good_text())
            .when(|expect| expect.now = CREATED_AT.plus_seconds(-86_400)),
        attack("nothing asked", good_text()).when(|expect| {
            expect.channel = None;
            expect.arch = None;
            expect.floor = Floor::default();
        }),
    ] {
        assert_eq!(believed.verdict(), Ok(()), "{}", believed.name);
    }
}

#[test]
fn an_expired_manifest_is_accepted_by_whoever_says_so() {
    let channel: Channel = "stable".parse().unwrap();
    let mut expect = expect(&channel);
    expect.now = CREATED_AT.plus_days(400);
    for expiry in [Expiry::Report, Expiry::Accept] {
        expect.expiry = expiry;
        let verified = verify(&signed(&[1]), &root(&[1], 1), &expect).unwrap();
        assert!(verified.expired(), "{expiry:?}");
    }
    expect.now = CREATED_AT;
    assert!(
        !verify(&signed(&[1]), &root(&[1], 1), &expect)
            .unwrap()
            .expired()
    );
}

#[test]
fn nonsense_is_not_signed_either() {
    let keys: Vec<SecretKey> = (1..=17).map(key).collect();
    let keys: Vec<&SecretKey> = keys.iter().collect();
    let mut without_kernel = manifest();
    without_kernel
        .artifacts
        .retain(|artifact| artifact.name.as_str() != "kernel");
    for (result, reason) in [
        (sign(&manifest(), &[]), "at least one key"),
        (sign(&manifest(), &keys), "at most 16 signatures"),
        (
            sign(&manifest(), &[keys[0], keys[0]]),
            "has signed this already",
        ),
        (
            sign(&without_kernel, &[keys[0]]),
            "missing required artifact: kernel",
        ),
        (
            boot_manifest::add_signature(&signed(&[1]), keys[0]),
            "has signed this already",
        ),
        (
            boot_manifest::add_signature(view_with_swapped_hashes().as_bytes(), keys[1]),
            "readable part of the manifest was changed",
        ),
        (
            boot_manifest::add_signature(b"{}", keys[1]),
            "missing field",
        ),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
