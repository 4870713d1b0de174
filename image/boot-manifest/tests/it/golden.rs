//! Golden vectors: the bytes, their hash and their signature never change by accident, and OpenSSL, which shares no code
//! with this crate, agrees about the signature.
//!
//! `tests/data/golden/README` tells how the files were made and how to make them again.

use std::path::Path;
use std::process::{Command, Stdio};

use boot_manifest::{Digest, PublicKey, SecretKey, TrustRoot};

use crate::fixture::{bless, check, data, key, manifest, root, signed};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(data("golden").join(name)).unwrap()
}

fn golden_text(name: &str) -> String {
    String::from_utf8(golden(name)).unwrap()
}

/// The vectors by file name, as this crate makes them now.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let file = signed(&[1]);
    vec![
        ("key.pem", key(1).to_pem().as_bytes().to_vec()),
        ("key.pub", key(1).public().to_pem().into_bytes()),
        (
            "key.id",
            format!("{}\n", key(1).public().key_id()).into_bytes(),
        ),
        ("trust-root.json", root(&[1], 1).to_json().into_bytes()),
        (
            "manifest.sha256",
            format!("{}\n", Digest::of(&file)).into_bytes(),
        ),
        ("manifest-two-keys.json", signed(&[1, 2])),
        ("manifest.json", file),
    ]
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    for (name, bytes) in vectors() {
        bless(&format!("golden/{name}"), &bytes);
        assert!(
            golden(name) == bytes,
            "{name} differs from what the code makes:\n{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn the_golden_manifest_says_what_was_signed() {
    let verified = check(&golden("manifest.json"), &root(&[1], 1)).unwrap();
    assert_eq!(*verified, manifest());
    assert_eq!(verified.bytes(), golden("manifest.json"));
    assert_eq!(
        format!("{}\n", verified.digest()),
        golden_text("manifest.sha256")
    );
    assert_eq!(verified.signers(), [key(1).public().key_id()]);
    assert!(!verified.expired());
    assert!(check(&golden("manifest-two-keys.json"), &root(&[1, 2], 2)).is_ok());
}

#[test]
fn the_golden_keys_are_read_back() {
    let public = PublicKey::parse(&golden("key.pub")).unwrap();
    assert_eq!(
        public,
        SecretKey::from_pem(&golden_text("key.pem"))
            .unwrap()
            .public()
    );
    assert_eq!(format!("{}\n", public.key_id()), golden_text("key.id"));
    assert_eq!(
        TrustRoot::parse(&golden("trust-root.json")).unwrap(),
        root(&[1], 1)
    );
}

/// Runs OpenSSL in `folder`; `None` when it is not installed.
fn openssl(folder: &Path, arguments: &[&str]) -> Option<std::process::Output> {
    Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .ok()
}

fn skipped(test: &str) {
    println!("SKIPPED: {test}: the program openssl is not installed");
}

/// Lets OpenSSL decode the base64 text `text` into the file `name`.
fn decode_with_openssl(folder: &Path, text: &serde_json::Value, name: &str) -> Option<Vec<u8>> {
    let encoded = folder.join("encoded");
    std::fs::write(&encoded, text.as_str().unwrap()).unwrap();
    let output = openssl(
        folder,
        &["base64", "-d", "-A", "-in", "encoded", "-out", name],
    )?;
    assert!(output.status.success(), "{output:?}");
    Some(std::fs::read(folder.join(name)).unwrap())
}

#[test]
fn openssl_agrees_about_signature_and_hash() {
    let test = "openssl_agrees_about_signature_and_hash";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file: serde_json::Value = serde_json::from_slice(&golden("manifest.json")).unwrap();
    let envelope = &file["envelope"];
    let Some(payload) = decode_with_openssl(folder, &envelope["payload"], "payload") else {
        return skipped(test);
    };
    decode_with_openssl(folder, &envelope["signatures"][0]["sig"], "signature").unwrap();
    // The encoding is built here by hand, from the text of the DSSE protocol.
    let payload_type = "application/vnd.phase.boot-manifest.v1+json";
    let mut message = format!("DSSEv1 43 {payload_type} {} ", payload.len()).into_bytes();
    message.extend_from_slice(&payload);
    std::fs::write(folder.join("key.pub"), golden("key.pub")).unwrap();
    let verify = |message: &[u8]| {
        std::fs::write(folder.join("message"), message).unwrap();
        let arguments =
            "pkeyutl -verify -pubin -inkey key.pub -rawin -in message -sigfile signature";
        let arguments: Vec<&str> = arguments.split(' ').collect();
        openssl(folder, &arguments).unwrap().status.success()
    };
    assert!(verify(&message));
    message[100] ^= 1;
    assert!(
        !verify(&message),
        "OpenSSL accepts everything, so its agreement proves nothing"
    );

    std::fs::write(folder.join("manifest.json"), golden("manifest.json")).unwrap();
    let output = openssl(folder, &["dgst", "-sha256", "-r", "manifest.json"]).unwrap();
    let hash = String::from_utf8(output.stdout).unwrap();
    let hash = format!("sha256:{}\n", hash.split(' ').next().unwrap());
    assert_eq!(hash, golden_text("manifest.sha256"));
}

#[test]
fn keys_are_exchanged_with_openssl() {
    let test = "keys_are_exchanged_with_openssl";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = |line: &str| openssl(folder, &line.split(' ').collect::<Vec<_>>());
    let Some(output) = run("genpkey -algorithm ed25519 -out theirs.pem") else {
        return skipped(test);
    };
    assert!(output.status.success(), "{output:?}");
    assert!(
        run("pkey -in theirs.pem -pubout -out theirs.pub")
            .unwrap()
            .status
            .success()
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let theirs = SecretKey::from_pem(&read("theirs.pem")).unwrap();
    assert_eq!(
        theirs.public(),
        PublicKey::parse(read("theirs.pub").as_bytes()).unwrap()
    );
    assert_eq!(theirs.to_pem().as_str(), read("theirs.pem"));
    assert_eq!(theirs.public().to_pem(), read("theirs.pub"));

    std::fs::write(folder.join("ours.pem"), key(1).to_pem().as_bytes()).unwrap();
    let output = run("pkey -in ours.pem -pubout").unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        key(1).public().to_pem()
    );
}
