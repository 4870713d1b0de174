//! Payloads that a trusted key signed and that are refused all the same: a careless signer, or a thief of the key.

use boot_manifest::PAYLOAD_TYPE;

use super::{Attack, attack};
use crate::forge::{extra_artifact, forged, good_payload, only_chunk, sign_raw, signed_payload};

/// Name of the attack, and what it replaces by what in the payload.
type Row = (&'static str, &'static str, &'static str);

pub(super) fn the_payload() -> Vec<Attack> {
    let rows = values().into_iter().chain(artifacts());
    let mut all: Vec<Attack> = rows
        .map(|(name, from, to)| attack(name, signed_payload(from, to)))
        .collect();
    let other_chunk =
        "\"chunks\":[\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]}";
    all.extend([
        attack(
            "signed-cmdline-too-long",
            signed_payload("panic=10", &"x".repeat(2_000)),
        ),
        attack(
            "signed-version-too-long",
            signed_payload("0.1.0", &"9".repeat(65)),
        ),
        attack(
            "signed-only-chunk-is-another",
            signed_payload(&only_chunk(), other_chunk),
        ),
        attack("signed-too-many-artifacts", too_many_artifacts()),
    ]);
    all
}

fn too_many_artifacts() -> String {
    let payload = good_payload();
    let end = payload.rfind(']').unwrap();
    let extra: Vec<String> = (0..62)
        .map(|n| extra_artifact(&format!("z{n:02}")))
        .collect();
    let payload = payload[..end].to_owned() + "," + &extra.join(",") + "]}";
    forged(
        PAYLOAD_TYPE,
        payload.as_bytes(),
        &sign_raw(1, PAYLOAD_TYPE, payload.as_bytes()),
    )
}

fn values() -> Vec<Row> {
    vec![
        (
            "signed-duplicate-member",
            "\"sequence\"",
            "\"sequence\":9,\"sequence\"",
        ),
        ("signed-duplicate-deep", "\"size\"", "\"size\":9,\"size\""),
        (
            "signed-unknown-member",
            "\"sequence\"",
            "\"critical\":1,\"sequence\"",
        ),
        ("signed-missing-member", "\"security_version\":2,", ""),
        ("signed-float", "\"sequence\":7", "\"sequence\":7.0"),
        (
            "signed-integer-above-2-53",
            "\"sequence\":7",
            "\"sequence\":9007199254740993",
        ),
        ("signed-negative", "\"sequence\":7", "\"sequence\":-7"),
        ("signed-trailing-bytes", "]}]}", "]}]}{}"),
        ("signed-sequence-zero", "\"sequence\":7", "\"sequence\":0"),
        (
            "signed-generation-zero",
            "\"generation\":1",
            "\"generation\":0",
        ),
        (
            "signed-arch-alias",
            "\"arch\":\"x86_64\"",
            "\"arch\":\"amd64\"",
        ),
        (
            "signed-channel-escapes",
            "\"channel\":\"stable\"",
            "\"channel\":\"../etc\"",
        ),
        (
            "signed-time-with-offset",
            "T10:00:00Z\"",
            "T10:00:00+00:00\"",
        ),
        (
            "signed-expires-first",
            "\"expires_at\":\"2026-12",
            "\"expires_at\":\"2025-12",
        ),
        (
            "signed-cmdline-newline",
            "panic=10",
            "panic=10\\ninit=/evil",
        ),
        (
            "signed-version-empty",
            "\"version\":\"0.1.0\"",
            "\"version\":\"\"",
        ),
        ("signed-version-terminal-escape", "0.1.0", "\\u001b[2J"),
    ]
}

fn artifacts() -> Vec<Row> {
    vec![
        (
            "signed-without-kernel",
            "\"name\":\"kernel\"",
            "\"name\":\"kernel2\"",
        ),
        (
            "signed-artifact-twice",
            "\"name\":\"rootfs\"",
            "\"name\":\"kernel\"",
        ),
        (
            "signed-artifacts-out-of-order",
            "\"name\":\"initramfs\"",
            "\"name\":\"zinitramfs\"",
        ),
        (
            "signed-file-name-twice",
            "\"filename\":\"initramfs.img\"",
            "\"filename\":\"vmlinuz\"",
        ),
        (
            "signed-file-name-escapes",
            "\"filename\":\"vmlinuz\"",
            "\"filename\":\"../vmlinuz\"",
        ),
        (
            "signed-file-name-hidden",
            "\"filename\":\"vmlinuz\"",
            "\"filename\":\".vmlinuz\"",
        ),
        (
            "signed-file-name-of-the-manifest",
            "\"filename\":\"vmlinuz\"",
            "\"filename\":\"manifest.json\"",
        ),
        ("signed-size-zero", "\"size\":1000,", "\"size\":0,"),
        (
            "signed-size-above-limit",
            "\"size\":1000,",
            "\"size\":68719476737,",
        ),
        (
            "signed-size-needs-more-chunks",
            "\"size\":1000,",
            "\"size\":1048577,",
        ),
        (
            "signed-chunk-size",
            "\"chunk_size\":1048576",
            "\"chunk_size\":2097152",
        ),
        (
            "signed-chunk-differs-from-whole",
            "\"chunks\":[\"sha256:",
            "\"chunks\":[\"sha256:0",
        ),
        (
            "signed-digest-in-capitals",
            "\"digest\":\"sha256:",
            "\"digest\":\"SHA256:",
        ),
        (
            "signed-list-cut",
            ",{\"name\":\"rootfs\"",
            ",[{\"name\":\"rootfs\"",
        ),
    ]
}
