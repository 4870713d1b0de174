//! The manifest commands over real files, and what they refuse.

use std::fs;

use boot_manifest::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::manifest_cmd::create::Args;

/// A publisher's machine: artifacts and two keys.
struct Publisher {
    folder: TempDir,
}

impl Publisher {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Self { folder };
        fs::create_dir_all(publisher.path("artifacts/stable/x86_64")).unwrap();
        publisher.put("vmlinuz", b"a kernel");
        publisher.put("initramfs.img", b"an initramfs");
        for name in ["a.key", "b.key"] {
            key::run(key::Command::Generate(key::GenerateArgs {
                out: publisher.path(name),
            }))
            .unwrap();
        }
        publisher
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, file: &str, content: &[u8]) {
        fs::write(self.path("artifacts/stable/x86_64").join(file), content).unwrap();
    }

    fn args(&self, keys: &[&str]) -> Args {
        Args {
            artifacts: self.path("artifacts"),
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            version: Some("1.2.3".to_owned()),
            sequence: Some(7),
            security_version: 1,
            generation: 1,
            cmdline: "panic=10".to_owned(),
            valid_days: 30,
            keys: keys.iter().map(|name| self.path(name)).collect(),
            out: None,
        }
    }

    fn create(&self, keys: &[&str]) -> Result<PathBuf, CommandError> {
        create::run(&self.args(keys), trust::now())?;
        Ok(self.path("artifacts/stable/x86_64/manifest.json"))
    }

    fn draft(&self) -> PathBuf {
        let file = self.path("draft.json");
        let args = Args {
            out: Some(file.clone()),
            ..self.args(&[])
        };
        create::run(&args, trust::now()).unwrap();
        file
    }

    fn root(&self, keys: &[&str], threshold: u64) -> TrustRoot {
        let public = |name: &&str| key::load_secret(&self.path(name)).unwrap().public();
        TrustRoot::new(1, threshold, keys.iter().map(public).collect(), false).unwrap()
    }

    /// Verifies as a machine with this trust root does; the error is its code.
    fn verify(&self, file: &Path, root: &TrustRoot) -> Result<Verified<Manifest>, &'static str> {
        let expect = Expect {
            now: trust::now(),
            floor: Floor::default(),
            channel: None,
            arch: Some(Arch::X86_64),
            expiry: Expiry::Refuse,
        };
        verify(&fs::read(file).unwrap(), root, &expect).map_err(|error| error.code())
    }
}

#[test]
fn copies_signed_on_different_machines_are_joined() {
    let publisher = Publisher::new();
    let mut args = publisher.args(&[]);
    args.out = Some(publisher.path("draft.json"));
    create::run(&args, trust::now()).unwrap();
    for name in ["a", "b"] {
        let (key, out) = (format!("{name}.key"), format!("{name}.json"));
        sign(
            &publisher.path("draft.json"),
            &[publisher.path(&key)],
            &publisher.path(&out),
        )
        .unwrap();
    }
    let copies = [publisher.path("a.json"), publisher.path("b.json")];
    let both = publisher.path("both.json");
    merge(&copies, &both).unwrap();
    let root = publisher.root(&["a.key", "b.key"], 2);
    assert_eq!(
        publisher.verify(&copies[0], &root).err(),
        Some("threshold-not-met")
    );
    assert!(publisher.verify(&both, &root).is_ok());
    args.version = Some("other".to_owned());
    create::run(&args, trust::now()).unwrap();
    let strangers = [publisher.path("draft.json"), both];
    let error = merge(&strangers, &publisher.path("no.json")).unwrap_err();
    assert!(
        error.to_string().contains("what was signed differs"),
        "{error}"
    );
}

#[test]
fn what_create_signs_is_believed() {
    let publisher = Publisher::new();
    publisher.put("rootfs.squashfs", &vec![7; 3 << 20]);
    publisher.put("empty.bin", b"");
    let file = publisher.create(&["a.key"]).unwrap();
    let manifest = publisher
        .verify(&file, &publisher.root(&["a.key"], 1))
        .unwrap();
    let names: Vec<&str> = manifest
        .artifacts
        .iter()
        .map(|artifact| artifact.name.as_str())
        .collect();
    assert_eq!(names, ["initramfs", "kernel", "rootfs"]);
    assert_eq!(manifest.artifact("rootfs").unwrap().chunks.chunk_count(), 3);
    assert_eq!(
        manifest.artifact("kernel").unwrap().digest,
        boot_manifest::Digest::of(b"a kernel")
    );
    assert_eq!(
        publisher
            .verify(&file, &publisher.root(&["b.key"], 1))
            .err(),
        Some("unknown-key")
    );
}

#[test]
fn a_draft_becomes_a_manifest_signature_by_signature() {
    let publisher = Publisher::new();
    let file = publisher.draft();
    let both = publisher.root(&["a.key", "b.key"], 2);
    assert_eq!(publisher.verify(&file, &both).err(), Some("not-signed"));
    sign(&file, &[publisher.path("b.key")], &file).unwrap();
    assert_eq!(
        publisher.verify(&file, &both).err(),
        Some("threshold-not-met")
    );
    sign(&file, &[publisher.path("a.key")], &file).unwrap();
    assert!(publisher.verify(&file, &both).is_ok());
    let error = sign(&file, &[publisher.path("a.key")], &file)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has signed this already"), "{error}");
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let entries = fs::read_dir(publisher.folder.path()).unwrap();
    let left: Vec<_> = entries.filter_map(Result::ok).filter(hidden).collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
}

#[test]
fn a_changed_manifest_is_not_signed() {
    let publisher = Publisher::new();
    let file = publisher.draft();
    let text = fs::read_to_string(&file).unwrap().replace("1.2.3", "9.9.9");
    fs::write(&file, text).unwrap();
    let error = sign(&file, &[publisher.path("a.key")], &file)
        .unwrap_err()
        .to_string();
    assert!(error.contains("readable part"), "{error}");
}

#[test]
fn two_kernels_are_named_and_neither_is_taken() {
    let publisher = Publisher::new();
    fs::remove_file(publisher.path("artifacts/stable/x86_64/vmlinuz")).unwrap();
    publisher.put("vmlinuz-6.1", b"old");
    publisher.put("vmlinuz-6.12", b"new");
    let error = publisher.create(&["a.key"]).unwrap_err().to_string();
    assert!(
        error.contains("vmlinuz-6.1 and vmlinuz-6.12 could each be the kernel"),
        "{error}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let publisher = Publisher::new();
    publisher.put("vmlinuz", b"");
    let error = publisher.create(&["a.key"]).unwrap_err().to_string();
    assert!(
        error.contains("manifest missing required artifact: kernel"),
        "{error}"
    );
    let other = Args {
        channel: "nightly".parse().unwrap(),
        ..publisher.args(&["a.key"])
    };
    let error = create::run(&other, trust::now()).unwrap_err().to_string();
    assert!(
        error.contains("no artifacts found") && error.contains("nightly/x86_64"),
        "{error}"
    );
    let absent = Args {
        artifacts: publisher.path("absent"),
        ..publisher.args(&["a.key"])
    };
    assert!(
        create::run(&absent, trust::now())
            .unwrap_err()
            .to_string()
            .contains("absent")
    );
    publisher.put("vmlinuz", b"a kernel");
    for (wrong, reason) in [
        (
            Args {
                sequence: Some(0),
                ..publisher.args(&["a.key"])
            },
            "sequence is 0",
        ),
        (
            Args {
                version: Some(String::new()),
                ..publisher.args(&["a.key"])
            },
            "the version must",
        ),
        (
            Args {
                cmdline: "a\nb".to_owned(),
                ..publisher.args(&["a.key"])
            },
            "command line must",
        ),
        // A draft must not take the place of the signed manifest.
        (publisher.args(&[]), "needs --out"),
    ] {
        let error = create::run(&wrong, trust::now()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_same_input_at_the_same_time_gives_the_same_file() {
    let publisher = Publisher::new();
    let now = Timestamp::from_unix(1_795_255_200);
    let make = |sequence, version| {
        let args = Args {
            sequence,
            version,
            ..publisher.args(&["a.key"])
        };
        create::run(&args, now).unwrap();
        fs::read(publisher.path("artifacts/stable/x86_64/manifest.json")).unwrap()
    };
    assert_eq!(
        make(Some(7), Some("1".to_owned())),
        make(Some(7), Some("1".to_owned()))
    );
    let shown = view(&make(None, None)).unwrap();
    assert_eq!(
        (shown.sequence, shown.version.as_str()),
        (1_795_255_200, "20261121.100000")
    );
    assert_eq!(shown.expires_at, now.plus_days(30));
}

#[test]
fn show_says_first_whether_it_was_verified() {
    let publisher = Publisher::new();
    let file = publisher.create(&["a.key"]).unwrap();
    let text = show(&file, None, false).unwrap();
    assert!(text.starts_with("UNVERIFIED"), "{text}");
    assert!(
        text.contains("panic=10") && text.contains("vmlinuz, 8 bytes, sha256:"),
        "{text}"
    );
    let text = show(&file, Some(&publisher.root(&["a.key"], 1)), false).unwrap();
    assert!(text.starts_with("VERIFIED"), "{text}");
    let error = show(&file, Some(&publisher.root(&["b.key"], 1)), false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("which is not trusted here"), "{error}");

    let json: serde_json::Value = serde_json::from_str(&show(&file, None, true).unwrap()).unwrap();
    assert_eq!(
        (&json["verified"], &json["signers"]),
        (&false.into(), &serde_json::Value::Null)
    );
    assert_eq!(json["artifacts"][1]["name"], "kernel");
    assert_eq!(json["cmdline"], "panic=10");
}

#[test]
fn an_unsigned_listing_is_shown_as_what_it_is() {
    let publisher = Publisher::new();
    let file = publisher.create(&["a.key"]).unwrap();
    let mut members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    members.remove("envelope");
    members.insert("signatures".to_owned(), serde_json::json!([]));
    fs::write(&file, serde_json::to_vec(&members).unwrap()).unwrap();
    let text = show(&file, None, false).unwrap();
    assert!(
        text.starts_with("UNVERIFIED  claims to be signed by nobody"),
        "{text}"
    );
    assert_eq!(
        publisher
            .verify(&file, &publisher.root(&["a.key"], 1))
            .err(),
        Some("not-signed")
    );
}

#[test]
fn verify_gives_the_reason_and_what_to_try() {
    let publisher = Publisher::new();
    let file = publisher.create(&["a.key"]).unwrap();
    let root_file = publisher.path("trust-root.json");
    fs::write(&root_file, publisher.root(&["a.key"], 1).to_json()).unwrap();
    let trust = Trust {
        root: trust::load_root(&root_file).unwrap(),
        file: root_file,
    };
    let channel: Channel = "stable".parse().unwrap();
    let expect = Expect {
        now: trust::now(),
        floor: Floor::default(),
        channel: Some(&channel),
        arch: None,
        expiry: Expiry::Refuse,
    };
    for json in [false, true] {
        assert_eq!(
            verify_file(&file, &trust, &expect, json).unwrap(),
            Exit::Done
        );
    }
    let late = Expect {
        now: expect.now.plus_days(31),
        ..expect.clone()
    };
    let error = verify_file(&file, &trust, &late, true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("expired at"), "{error}");
    let accepted = Expect {
        expiry: Expiry::Accept,
        ..late
    };
    assert!(verify_file(&file, &trust, &accepted, false).is_ok());
    let floor = Floor {
        sequence: 8,
        security_version: 0,
    };
    let error = verify_file(&file, &trust, &Expect { floor, ..expect }, false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("sequence 7 is below the floor 8"),
        "{error}"
    );
}
