//! `phase-verify` of whole directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::desk::image::Image;
use crate::desk::{Desk, Ended, fresh_image};

fn verify(desk: &Desk, flags: &[&str]) -> Ended {
    let all = [flags, &["-k", "key.pub"]].concat();
    Ended::of(&desk.tool("phase-verify", &all).output().expect("it starts"))
}

fn put(image: &Image, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("manifest.json"), &image.manifest).unwrap();
    for (_, filename, bytes) in &image.files {
        fs::write(folder.join(filename), bytes).unwrap();
    }
}

#[test]
fn every_file_of_a_folder_is_checked_and_others_are_named() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    put(&image, &desk.path("out"));
    let good = verify(&desk, &["out"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    for text in [
        "VERIFIED  out/manifest.json",
        "VERIFIED  out/vmlinuz (kernel) sha256:",
        "VERIFIED  out/initramfs.img",
        "VERIFIED  out/rootfs.squashfs",
    ] {
        assert!(good.out.contains(text), "{text:?} is missing: {good:?}");
    }
    assert!(!good.out.contains("EXTRA"), "{good:?}");

    fs::write(desk.path("out/notes.txt"), "x").unwrap();
    let extra = verify(&desk, &["out"]);
    assert_eq!(extra.code, Some(0), "{extra:?}");
    assert!(extra.out.contains("EXTRA     out/notes.txt"), "{extra:?}");
    let strict = verify(&desk, &["out", "--strict", "--json"]);
    assert_eq!(strict.code, Some(1), "{strict:?}");
    let json = strict.json();
    assert_eq!(
        (&json["status"], &json["code"], &json["extra"][0]),
        (
            &"FAILED".into(),
            &"extra-file".into(),
            &"out/notes.txt".into()
        )
    );

    fs::remove_file(desk.path("out/rootfs.squashfs")).unwrap();
    let missing = verify(&desk, &["out"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(
        missing
            .err
            .contains("out/rootfs.squashfs: the rootfs of this manifest is missing"),
        "{missing:?}"
    );
    let json = verify(&desk, &["out", "--json"]).json();
    assert_eq!(json["code"], "missing-file");
    assert_eq!(json["artifacts"][2]["computed"], serde_json::Value::Null);
}

#[test]
fn a_manifest_from_elsewhere_is_checked_against_a_folder() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    put(&image, &desk.path("out"));
    fs::rename(desk.path("out/manifest.json"), desk.path("m.json")).unwrap();
    assert_eq!(verify(&desk, &["-m", "m.json", "out"]).code, Some(0));
    fs::write(desk.path("out/vmlinuz"), "x").unwrap();
    assert_eq!(verify(&desk, &["-m", "m.json", "out"]).code, Some(1));
    let nothing = verify(&desk, &["out"]);
    assert_eq!(nothing.code, Some(1));
    assert!(
        nothing.err.contains("there is no manifest.json in it"),
        "{nothing:?}"
    );
}

#[test]
fn several_channels_below_a_root_are_each_verified() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    put(&image, &desk.path("artifacts/stable/x86_64"));
    put(&image, &desk.path("artifacts/stable/amd64"));
    let good = verify(&desk, &["artifacts"]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let json = verify(&desk, &["artifacts", "--json"]).json();
    assert_eq!(json["status"], "VERIFIED");
    assert_eq!(
        json["manifests"].as_array().map(Vec::len),
        Some(2),
        "{json}"
    );
    assert_eq!(json["manifests"][1]["channel"], "stable");

    // The same signed image under another channel is a mix-up.
    put(&image, &desk.path("artifacts/testing/x86_64"));
    fs::write(desk.path("artifacts/stable/x86_64/vmlinuz"), "x").unwrap();
    fs::write(desk.path("artifacts/README"), "x").unwrap();
    let bad = verify(&desk, &["artifacts", "--json"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    let json = bad.json();
    assert_eq!(json["status"], "FAILED");
    let codes: Vec<&str> = json["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].as_str().unwrap_or("good"))
        .collect();
    assert_eq!(codes, ["good", "bad-hash", "wrong-channel"]);
    // Files beside a manifest that is not believed are neither verified nor called superfluous.
    assert_eq!(json["extra"], serde_json::json!(["artifacts/README"]));
    let floor = verify(
        &desk,
        &["artifacts", "--check-version", "v", "--update-version"],
    );
    assert_eq!(floor.code, Some(2), "{floor:?}");
}

#[test]
fn links_in_the_place_of_artifacts_are_refused_and_names_cannot_steer_the_terminal() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    put(&image, &desk.path("out"));
    fs::rename(desk.path("out/vmlinuz"), desk.path("kernel")).unwrap();
    symlink("../kernel", desk.path("out/vmlinuz")).unwrap();
    fs::write(desk.path("out/\u{1b}[2J"), "x").unwrap();
    let ended = verify(&desk, &["out"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(
        ended.err.contains("out/vmlinuz: is a symbolic link"),
        "{ended:?}"
    );
    assert!(ended.out.contains("EXTRA     out/?[2J"), "{ended:?}");
    // A link that a person names is what they mean.
    let named = verify(&desk, &["out/manifest.json", "out/vmlinuz"]);
    assert_eq!(named.code, Some(0), "{named:?}");
    // A link to a manifest is no manifest.
    fs::rename(desk.path("out/manifest.json"), desk.path("m.json")).unwrap();
    symlink("../m.json", desk.path("out/manifest.json")).unwrap();
    assert_eq!(verify(&desk, &["out"]).code, Some(1));
}
