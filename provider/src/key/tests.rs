//! The key commands, run as the command line runs them.

use std::process::{Command as Program, Stdio};

use super::*;

fn mode(file: &Path) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o777
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn a_generated_key_is_private_and_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signing.key");
    let text = generate(&file).unwrap();
    let public_file = folder.path().join("signing.key.pub");
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&public_file) & 0o600, 0o600);
    let secret = load_secret(&file).unwrap();
    assert_eq!(secret.public(), load_public(&public_file).unwrap());
    assert!(text.contains(&secret.public().key_id().to_string()));
    let inner = read(&file).lines().nth(1).unwrap().to_owned();
    for shown in [
        &text,
        &show(&file, false).unwrap(),
        &show(&file, true).unwrap(),
    ] {
        assert!(
            !shown.contains(&inner) && !shown.contains("PRIVATE KEY"),
            "{shown}"
        );
    }
    let other = folder.path().join("other.key");
    generate(&other).unwrap();
    assert_ne!(read(&file), read(&other));
}

#[test]
fn nothing_is_overwritten_and_nothing_half_made_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signing.key");
    generate(&file).unwrap();
    let before = read(&file);
    let error = generate(&file).unwrap_err().to_string();
    assert!(error.contains("signing.key: exists already"), "{error}");
    assert_eq!(read(&file), before);

    let second = folder.path().join("second.key");
    std::fs::write(folder.path().join("second.key.pub"), "mine").unwrap();
    assert!(
        generate(&second)
            .unwrap_err()
            .to_string()
            .contains("second.key.pub: exists already")
    );
    assert!(!second.exists());
    let error = generate(&folder.path().join("no/such/folder.key")).unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
}

#[test]
fn show_tells_the_same_about_both_halves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.key");
    generate(&file).unwrap();
    let of = |file: &Path| -> serde_json::Value {
        serde_json::from_str(&show(file, true).unwrap()).unwrap()
    };
    let (private, public) = (of(&file), of(&files::public_path(&file)));
    assert_eq!(private["key_id"], public["key_id"]);
    assert_eq!(private["public_key"], public["public_key"]);
    assert_eq!(
        (&private["private"], &public["private"]),
        (&true.into(), &false.into())
    );
    let junk = folder.path().join("junk");
    std::fs::write(&junk, "junk").unwrap();
    assert!(
        show(&junk, false)
            .unwrap_err()
            .to_string()
            .contains("no Ed25519 public key")
    );
    assert!(
        show(&folder.path().join("absent"), false)
            .unwrap_err()
            .to_string()
            .contains("absent")
    );
}

#[test]
fn a_public_key_does_not_pass_as_a_private_one_nor_the_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.key");
    generate(&file).unwrap();
    let error = load_secret(&files::public_path(&file))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no Ed25519 private key"), "{error}");
    let error = load_public(&file).unwrap_err().to_string();
    assert!(error.contains("this is a private key"), "{error}");
}

#[test]
fn keys_of_openssl_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openssl.key");
    let made = Program::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&file)
        .stdin(Stdio::null())
        .output();
    let Ok(made) = made else {
        println!("SKIPPED: keys_of_openssl_work: the program openssl is not installed");
        return;
    };
    assert!(made.status.success(), "{made:?}");
    let shown = show(&file, false).unwrap();
    let printed = Program::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(&file)
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(!printed.is_empty() && shown.ends_with(&printed), "{shown}");
}

#[test]
fn a_trust_root_names_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["a.key", "b.key"].map(|name| {
        let file = folder.path().join(name);
        generate(&file).unwrap();
        files::public_path(&file)
    });
    let out = folder.path().join("trust-root.json");
    let trust = |keys: &[PathBuf], threshold, force| {
        run(Command::Trust {
            keys: keys.to_vec(),
            threshold,
            generation: 1,
            development: false,
            out: out.clone(),
            force,
        })
    };
    assert_eq!(trust(&keys, 2, false).unwrap(), Exit::Done);
    let root = TrustRoot::parse(read(&out).as_bytes()).unwrap();
    assert_eq!((root.threshold(), root.keys().len()), (2, 2));
    assert!(
        trust(&keys, 1, false)
            .unwrap_err()
            .to_string()
            .contains("exists already")
    );
    trust(&keys, 1, true).unwrap();
    assert_eq!(
        TrustRoot::parse(read(&out).as_bytes()).unwrap().threshold(),
        1
    );
    assert!(
        trust(&keys, 3, true)
            .unwrap_err()
            .to_string()
            .contains("threshold")
    );
    let twice = [keys[0].clone(), keys[0].clone()];
    assert!(
        trust(&twice, 1, true)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
}
