//! `phase-verify` as people run it.

use std::fs;

use boot_manifest::{Digest, SecretKey, TrustRoot};

use crate::desk::image::Image;
use crate::desk::{Desk, Ended, days_ago, fresh_image};

/// A desk with the image's files on it.
fn desk(image: &Image) -> Desk {
    let desk = Desk::new(image);
    fs::write(desk.path("manifest.json"), &image.manifest).expect("a file");
    for (_, filename, bytes) in &image.files {
        fs::write(desk.path(filename), bytes).expect("a file");
    }
    desk
}

fn verify(desk: &Desk, flags: &[&str]) -> Ended {
    Ended::of(
        &desk
            .tool("phase-verify", flags)
            .output()
            .expect("it starts"),
    )
}

#[test]
fn says_what_was_verified_with_which_key() {
    let image = fresh_image();
    let desk = desk(&image);
    let key_id = image.key.public().key_id().to_string();
    let ended = verify(
        &desk,
        &[
            "manifest.json",
            "vmlinuz",
            "./initramfs.img",
            "-k",
            "key.pub",
        ],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let digest = Digest::of(image.content("kernel"));
    for text in [
        "VERIFIED  manifest.json",
        &format!("signed by key {key_id} (trusted by key.pub)"),
        "0.1.0 (sequence 7), stable/x86_64",
        &format!("VERIFIED  vmlinuz (kernel) {digest}"),
        "VERIFIED  ./initramfs.img (initramfs) sha256:",
    ] {
        assert!(ended.out.contains(text), "{text:?} is missing: {ended:?}");
    }
    let ended = verify(
        &desk,
        &[
            "-m",
            "manifest.json",
            "kernel=vmlinuz",
            "--trust-root",
            "trust-root.json",
            "-f",
            "json",
        ],
    );
    let json = ended.json();
    let short = [
        "manifest.json",
        "vmlinuz",
        "--trust-root",
        "trust-root.json",
        "--json",
    ];
    assert_eq!(verify(&desk, &short).json(), json);
    for (member, value) in [
        ("status", "VERIFIED".into()),
        ("manifest_version", 7.into()),
        ("channel", "stable".into()),
        ("arch", "x86_64".into()),
        ("key_id", key_id.into()),
        ("error", serde_json::Value::Null),
        ("code", serde_json::Value::Null),
    ] {
        assert_eq!(json[member], value, "{member}: {json}");
    }
    let quiet = verify(&desk, &["manifest.json", "vmlinuz", "-k", "key.pub", "-q"]);
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (Some(0), "", "")
    );
}

#[test]
fn a_mismatch_names_the_file_and_both_digests() {
    let image = fresh_image();
    let desk = desk(&image);
    let mut kernel = image.content("kernel").to_vec();
    let expected = Digest::of(&kernel);
    let last = kernel.len() - 1;
    kernel[last] ^= 1;
    fs::write(desk.path("vmlinuz"), &kernel).unwrap();
    fs::write(desk.path("short"), &kernel[..100]).unwrap();
    let computed = Digest::of(&kernel);
    let ended = verify(
        &desk,
        &[
            "manifest.json",
            "vmlinuz",
            "rootfs.squashfs",
            "initramfs=short",
            "-k",
            "key.pub",
        ],
    );
    assert_eq!(ended.code, Some(1));
    let line = format!(
        "error: vmlinuz: is not the kernel of this manifest: expected {expected}, computed {computed}\n"
    );
    assert!(ended.err.contains(&line), "{ended:?}");
    assert!(
        ended
            .err
            .contains("short: is not the initramfs of this manifest (100 bytes instead of 1000)"),
        "{ended:?}"
    );
    assert!(ended.out.contains("VERIFIED  rootfs.squashfs"), "{ended:?}");
    let json = verify(
        &desk,
        &["manifest.json", "vmlinuz", "-k", "key.pub", "-f", "json"],
    )
    .json();
    assert_eq!(
        (&json["status"], &json["code"]),
        (&"FAILED".into(), &"bad-hash".into())
    );
    assert_eq!(json["artifacts"][0]["expected"], expected.to_string());
    assert_eq!(json["artifacts"][0]["computed"], computed.to_string());
}

#[test]
fn a_pipe_in_the_place_of_an_artifact_is_refused_without_waiting() {
    let image = fresh_image();
    let desk = desk(&image);
    fs::remove_file(desk.path("vmlinuz")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        desk.path("vmlinuz"),
        rustix::fs::Mode::from_raw_mode(0o644),
    )
    .unwrap();
    let ended = verify(&desk, &["manifest.json", "vmlinuz", "-k", "key.pub"]);
    assert!(
        ended.err.contains("vmlinuz: is not a regular file"),
        "{ended:?}"
    );
    assert_ne!(ended.code, Some(0));
}

#[test]
fn refusals_name_the_check_and_exit_with_one() {
    let image = fresh_image();
    let expired = Image::of(days_ago(31), Image::new().files);
    let future = Image::of(days_ago(-3), Image::new().files);
    let desk = desk(&image);
    let stranger = SecretKey::from_seed([8; 32]).public();
    fs::write(desk.path("stranger.pub"), stranger.to_pem()).unwrap();
    let two = TrustRoot::new(1, 2, vec![image.key.public(), stranger], false).unwrap();
    fs::write(desk.path("two.json"), two.to_json()).unwrap();
    fs::write(desk.path("expired.json"), &expired.manifest).unwrap();
    fs::write(desk.path("future.json"), &future.manifest).unwrap();
    fs::write(desk.path("empty.json"), "").unwrap();
    fs::write(desk.path("huge.json"), vec![b' '; (1 << 20) + 1]).unwrap();
    fs::write(desk.path("floor"), "8\n").unwrap();
    for (flags, code, text) in [
        (
            &["manifest.json", "-k", "stranger.pub"][..],
            "unknown-key",
            "which is not trusted here",
        ),
        (
            &["manifest.json", "--trust-root", "two.json"],
            "threshold-not-met",
            "1 trusted key(s) signed",
        ),
        (
            &["expired.json", "-k", "key.pub"],
            "expired",
            "the manifest expired at ",
        ),
        (
            &["future.json", "-k", "key.pub"],
            "not-yet-valid",
            "check this machine's clock",
        ),
        (
            &["future.json", "-k", "key.pub", "--allow-expired"],
            "not-yet-valid",
            "check this machine's clock",
        ),
        (
            &["empty.json", "-k", "key.pub"],
            "malformed",
            "cannot be read",
        ),
        (
            &["huge.json", "-k", "key.pub"],
            "too-large",
            "1048576 are allowed",
        ),
        (
            &["manifest.json", "-k", "key.pub", "--check-version", "floor"],
            "version-too-low",
            "sequence 7 is below the floor 8",
        ),
    ] {
        let flags = [flags, &["-f", "json"]].concat();
        let ended = verify(&desk, &flags);
        assert_eq!(ended.code, Some(1), "{flags:?}: {ended:?}");
        let json = ended.json();
        assert_eq!(
            (&json["status"], &json["code"]),
            (&"FAILED".into(), &code.into()),
            "{flags:?}: {json}"
        );
        assert!(json["key_id"].is_null(), "{json}");
        assert!(
            ended.err.contains(text),
            "{flags:?}: {text:?} is missing: {ended:?}"
        );
    }
    let allowed = verify(&desk, &["expired.json", "-k", "key.pub", "--allow-expired"]);
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    assert!(
        allowed.out.contains("EXPIRED") && allowed.err.contains("--allow-expired"),
        "{allowed:?}"
    );
}

#[test]
fn the_version_file_only_grows_and_is_never_guessed() {
    let image = fresh_image();
    let desk = desk(&image);
    let check = |more: &[&str]| {
        verify(
            &desk,
            &[
                &[
                    "manifest.json",
                    "-k",
                    "key.pub",
                    "--check-version",
                    "version",
                ],
                more,
            ]
            .concat(),
        )
    };
    let absent = check(&[]);
    assert_eq!(
        absent.code,
        Some(3),
        "a missing file is no floor of zero: {absent:?}"
    );
    assert!(absent.err.contains("--update-version"), "{absent:?}");
    assert_eq!(check(&["--update-version"]).code, Some(0));
    assert_eq!(
        fs::read_to_string(desk.path("version")).unwrap(),
        "7\ngeneration 1\nsecurity_version 1\n"
    );
    assert_eq!(check(&[]).code, Some(0));
    fs::write(desk.path("version"), "8\n").unwrap();
    assert_eq!(check(&["--update-version"]).code, Some(1));
    assert_eq!(fs::read_to_string(desk.path("version")).unwrap(), "8\n");
    // An artifact that does not match leaves the number alone, too.
    fs::write(desk.path("version"), "3\n").unwrap();
    fs::write(desk.path("vmlinuz"), "x").unwrap();
    assert_eq!(check(&["--update-version", "vmlinuz"]).code, Some(1));
    assert_eq!(fs::read_to_string(desk.path("version")).unwrap(), "3\n");
    fs::write(desk.path("version"), "seven").unwrap();
    assert_eq!(check(&[]).code, Some(3));
}

#[test]
fn local_trouble_exits_with_three_and_a_wrong_line_with_two() {
    let image = fresh_image();
    let desk = desk(&image);
    fs::create_dir(desk.path("dir")).unwrap();
    for (flags, code, text) in [
        (
            &["absent.json", "-k", "key.pub"][..],
            3,
            "absent.json: the manifest cannot be read",
        ),
        (
            &["manifest.json", "kernel=absent", "-k", "key.pub"],
            3,
            "absent: cannot be read",
        ),
        (
            &["manifest.json", "kernel=dir", "-k", "key.pub"],
            3,
            "dir: is not a regular file",
        ),
        (
            &["manifest.json", "bzImage", "-k", "key.pub"],
            1,
            "hint: say which one it is: kernel=bzImage",
        ),
        (&["-k", "key.pub"], 2, "no manifest was named"),
        (&["manifest.json", "--update-version"], 2, "--check-version"),
    ] {
        let ended = verify(&desk, flags);
        assert_eq!(ended.code, Some(code), "{flags:?}: {ended:?}");
        assert!(
            ended.err.contains(text),
            "{flags:?}: {text:?} is missing: {ended:?}"
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let image = fresh_image();
    let desk = desk(&image);
    let mut command = desk.tool(
        "phase-verify",
        &["manifest.json", "vmlinuz", "-k", "key.pub"],
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
