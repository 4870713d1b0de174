//! The root commands over real files: a rotation by people on several machines, and what is refused.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A folder with the keys `r1 r2 r3` (root), `a b` (release), `f` (freshness) and `o` (operator).
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for (index, name) in ["r1", "r2", "r3", "r4", "a", "b", "f", "o"]
            .iter()
            .enumerate()
        {
            let seed = u8::try_from(index).unwrap() + 1;
            let key = SecretKey::from_seed([seed; 32]);
            fs::write(desk.path(name), key.to_pem().as_bytes()).unwrap();
            fs::write(desk.path(&format!("{name}.pub")), key.public().to_pem()).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn publics(&self, names: &[&str]) -> Vec<PathBuf> {
        names
            .iter()
            .map(|name| self.path(&format!("{name}.pub")))
            .collect()
    }

    fn create(&self) -> Result<Exit, CommandError> {
        run(Command::Create {
            roles: RoleArgs {
                release: self.publics(&["a"]),
                root: self.publics(&["r1", "r2", "r3"]),
                root_threshold: Some(2),
                freshness: self.publics(&["f"]),
                operator: self.publics(&["o"]),
                ..RoleArgs::default()
            },
            development: false,
            out: self.path("root.json"),
            force: false,
        })
    }

    fn place(&self, chain: Option<&str>) -> Place {
        Place {
            trust_root: self.path("root.json"),
            chain: chain.map(|name| self.path(name)),
        }
    }

    fn rotate(
        &self,
        chain: Option<&str>,
        roles: RoleArgs,
        out: &str,
    ) -> Result<Exit, CommandError> {
        run(Command::Rotate {
            place: self.place(chain),
            roles,
            out: self.path(out),
        })
    }

    fn sign(&self, file: &str, keys: &[&str], out: &str) -> Result<Exit, CommandError> {
        run(Command::Sign {
            file: self.path(file),
            keys: keys.iter().map(|name| self.path(name)).collect(),
            out: Some(self.path(out)),
        })
    }

    fn append(&self, file: &str) -> Result<Exit, CommandError> {
        run(Command::Append {
            file: self.path(file),
            trust_root: self.path("root.json"),
            chain: self.path("roots.json"),
        })
    }

    fn newest(&self) -> TrustRoot {
        self.place(Some("roots.json")).newest().unwrap()
    }
}

#[track_caller]
fn failed(result: Result<Exit, CommandError>, words: &str) {
    let error = result.expect_err("it must be refused").to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn keys_are_replaced_by_people_on_different_machines() {
    let desk = Desk::new();
    desk.create().unwrap();
    let roles = RoleArgs {
        release: desk.publics(&["b"]),
        root: desk.publics(&["r1", "r2", "r4"]),
        ..RoleArgs::default()
    };
    desk.rotate(None, roles, "next.json").unwrap();
    failed(desk.append("next.json"), "not signed");
    desk.sign("next.json", &["r1"], "one.json").unwrap();
    desk.sign("next.json", &["r2"], "two.json").unwrap();
    failed(desk.append("one.json"), "1 trusted key(s)");
    failed(
        desk.sign("one.json", &["r1"], "twice.json"),
        "has signed this already",
    );
    run(Command::Merge {
        files: vec![desk.path("one.json"), desk.path("two.json")],
        out: desk.path("both.json"),
    })
    .unwrap();
    desk.append("both.json").unwrap();
    let second = desk.newest();
    assert_eq!(second.generation(), 2);
    assert_eq!(
        second.key_ids(),
        [key::load_public(&desk.path("b.pub")).unwrap().key_id()]
    );
    assert_eq!(
        second.role(RoleName::Root).threshold(),
        2,
        "thresholds stay"
    );
    assert!(
        second.has_own(RoleName::Freshness),
        "roles that are not named stay"
    );
    // The same link again leads nowhere.
    failed(desk.append("both.json"), "generation 2, not 3");

    // The next rotation starts from the end of the chain.
    let roles = RoleArgs {
        release_threshold: Some(1),
        operator: desk.publics(&["a", "o"]),
        operator_threshold: Some(2),
        ..RoleArgs::default()
    };
    desk.rotate(Some("roots.json"), roles, "third.json")
        .unwrap();
    desk.sign("third.json", &["r2", "r4"], "third.json")
        .unwrap();
    desk.append("third.json").unwrap();
    assert_eq!(desk.newest().role(RoleName::Operator).threshold(), 2);
    run(Command::Newest {
        place: desk.place(Some("roots.json")),
        out: desk.path("for-images.json"),
    })
    .unwrap();
    let bytes = fs::read(desk.path("for-images.json")).unwrap();
    assert_eq!(TrustRoot::parse(&bytes), Ok(desk.newest()));
}

#[test]
fn what_is_shown_says_what_was_checked() {
    let desk = Desk::new();
    desk.create().unwrap();
    desk.rotate(None, RoleArgs::default(), "next.json").unwrap();
    desk.sign("next.json", &["r1", "r3"], "next.json").unwrap();
    desk.append("next.json").unwrap();
    let root = desk.path("root.json");
    let show = |file: &str, checked: bool, json| {
        show(&desk.path(file), checked.then_some(root.as_path()), json)
    };
    let plain = show("root.json", false, false).unwrap();
    assert!(plain.contains("(2 of 3 must sign)"), "{plain}");
    assert!(
        show("next.json", false, false)
            .unwrap()
            .starts_with("UNVERIFIED")
    );
    assert!(
        show("next.json", true, false)
            .unwrap()
            .starts_with("VERIFIED")
    );
    assert!(
        show("roots.json", true, false)
            .unwrap()
            .starts_with("VERIFIED    1 step(s)")
    );
    assert!(
        show("roots.json", false, false)
            .unwrap_err()
            .to_string()
            .contains("neither")
    );
    let value: serde_json::Value =
        serde_json::from_str(&show("roots.json", true, true).unwrap()).unwrap();
    assert_eq!(value["generation"], 2);
    assert_eq!(value["roles"]["root"]["threshold"], 2);
    assert_eq!(value["verified"], true);
}

#[test]
fn odd_roots_are_refused() {
    let desk = Desk::new();
    let create = |roles: RoleArgs, force| {
        run(Command::Create {
            roles,
            development: true,
            out: desk.path("root.json"),
            force,
        })
    };
    failed(
        create(RoleArgs::default(), false),
        "--release: a trust root has 1 to 16 keys",
    );
    let release = || desk.publics(&["a"]);
    let unreachable = RoleArgs {
        release: release(),
        root: desk.publics(&["r1"]),
        root_threshold: Some(2),
        ..RoleArgs::default()
    };
    failed(
        create(unreachable, false),
        "--root: a threshold of 2 does not fit 1 key(s)",
    );
    let twice = RoleArgs {
        release: desk.publics(&["a", "a"]),
        ..RoleArgs::default()
    };
    failed(create(twice, false), "stands twice");
    let good = || RoleArgs {
        release: release(),
        ..RoleArgs::default()
    };
    create(good(), false).unwrap();
    failed(create(good(), false), "exists already");
    create(good(), true).unwrap();
    let plain = trust::load_root(&desk.path("root.json")).unwrap();
    assert!(plain.is_development() && !plain.has_own(RoleName::Root));
    fs::write(desk.path("junk"), "{}").unwrap();
    failed(desk.sign("junk", &["a"], "junk"), "cannot be read");
    failed(desk.sign("root.json", &["a"], "junk"), "cannot be read");
}
