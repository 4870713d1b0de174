//! The rules of the house that no compiler knows: sizes of files, who may use whom, what must not occur,
//! and what must be documented. Reads the source tree; builds and boots nothing.

#![expect(clippy::unwrap_used, reason = "a function of a test fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::artifacts::workspace;

/// Past this a file has more than one subject.
const FILE_LINES_MAX: usize = 800;

/// Which crates of ours a crate may use; docs/architecture.md, "Who may use whom". A crate that is missing here fails.
const MAY_USE: &[(&str, &[&str])] = &[
    ("boot-manifest", &[]),
    ("boot-manifest-fuzz", &["boot-manifest"]),
    ("upgrade", &["boot-manifest"]),
    ("upgrade-fuzz", &["boot-manifest", "upgrade"]),
    ("pxe", &[]),
    ("pxe-fuzz", &["pxe"]),
    ("swarm", &["boot-manifest"]),
    ("swarm-fuzz", &["boot-manifest", "swarm"]),
    ("artifact-store", &["boot-manifest"]),
    ("discovery", &["boot-manifest"]),
    ("discovery-fuzz", &["boot-manifest", "discovery"]),
    ("http-semantics", &["boot-manifest"]),
    ("http-semantics-fuzz", &["boot-manifest", "http-semantics"]),
    ("init", &["boot-manifest", "upgrade"]),
    ("fetch", &["artifact-store", "boot-manifest", "swarm"]),
    ("image", &["boot-manifest", "pxe", "swarm", "upgrade"]),
    (
        "provider",
        &[
            "artifact-store",
            "boot-manifest",
            "discovery",
            "fetch",
            "http-semantics",
            "pxe",
            "swarm",
            "upgrade",
        ],
    ),
    (
        "provider-fuzz",
        &["artifact-store", "boot-manifest", "http-semantics"],
    ),
    ("qemu-tests", &["boot-manifest", "pxe", "upgrade"]),
];

/// Crates that must stay free of an async runtime, also through others.
const BLOCKING: &[&str] = &[
    "boot-manifest",
    "upgrade",
    "pxe",
    "swarm",
    "artifact-store",
    "http-semantics",
    "image",
    "init",
];

/// What must not stand in source files, and why.
const BANNED: &[(&str, &str)] = &[
    (
        concat!("todo", "!("),
        "what is not written is not committed",
    ),
    (
        concat!("unimplemented", "!("),
        "what is not written is not committed",
    ),
    (concat!("dbg", "!("), "a leftover of debugging"),
    (
        concat!("#[ig", "nore"),
        "a test that never runs proves nothing",
    ),
    (
        concat!("#![al", "low("),
        "expect the lint at the item, with a reason",
    ),
    (
        concat!("#[al", "low("),
        "use #[expect(lint, reason = \"..\")]",
    ),
];

#[test]
fn files_have_one_subject_and_say_which() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!(
                "{path} has {lines} lines; {FILE_LINES_MAX} are the limit"
            ));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{path} does not begin with its module doc (//!)"));
        }
        if path.ends_with("/mod.rs") {
            wrong.push(format!(
                "{path}: name it after its module, beside the folder"
            ));
        }
    }
    assert_none(&wrong);
}

#[test]
fn nothing_banned_is_written() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for (banned, reason) in BANNED.iter().filter(|(banned, _)| line.contains(banned)) {
                wrong.push(format!("{path}:{}: {banned}: {reason}", number + 1));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn machine_tests_wait_for_conditions() {
    let sleep = concat!("thread::sl", "eep");
    let sleepers = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("qemu-tests/"));
    let wrong: Vec<_> = sleepers
        .filter(|(_, text)| text.contains(sleep))
        .map(|(path, _)| path)
        .collect();
    assert_none(&wrong);
}

#[test]
fn crates_use_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for (path, used) in manifests() {
        let name = package_name(&path);
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name} is not in the table of who may use whom"));
            continue;
        };
        for other in used
            .iter()
            .filter(|used| MAY_USE.iter().any(|(known, _)| known == used))
        {
            if !allowed.contains(&other.as_str()) {
                wrong.push(format!("{name} must not use {other}"));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn blocking_crates_have_no_async_runtime() {
    let mut wrong = Vec::new();
    for name in BLOCKING {
        let tree = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "--edges",
                "normal,build",
                "--prefix",
                "none",
            ])
            .args(["--package", name])
            .current_dir(workspace())
            .output()
            .unwrap();
        let crates = String::from_utf8(tree.stdout).unwrap();
        assert!(
            crates.starts_with(name),
            "cargo tree: {}",
            String::from_utf8_lossy(&tree.stderr)
        );
        for line in crates
            .lines()
            .filter(|line| line.split(' ').next() == Some("tokio"))
        {
            wrong.push(format!("{name} depends on {line}"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_kernel_parameter_is_documented() {
    let table = fs::read_to_string(workspace().join("init/src/cmdline.rs")).unwrap();
    let table = table.split("pub(crate) const PARAMETERS").nth(1).unwrap();
    let table = table.split("];").next().unwrap();
    let names: Vec<&str> = table
        .split("row(")
        .skip(1)
        .filter_map(|row| row.split('"').nth(1))
        .collect();
    assert!(
        names.contains(&"source") && names.contains(&"provider"),
        "table not found: {names:?}"
    );
    let docs: String = documents().into_values().collect();
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !docs.contains(&format!("phase.{name}")))
        .collect();
    assert!(
        missing.is_empty(),
        "kernel parameters that no document has: {missing:?}"
    );
}

#[test]
fn every_code_of_a_failure_is_documented() {
    let docs: String = documents().into_values().collect();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for path in [
        "image/boot-manifest/src/verify.rs",
        "provider/fetch/src/error.rs",
    ] {
        let text = fs::read_to_string(workspace().join(path)).unwrap();
        let arms = text.split("pub fn code(&self)").nth(1).unwrap();
        let arms = arms.split("\n    }\n").next().unwrap();
        for code in arms
            .split("=> \"")
            .skip(1)
            .filter_map(|arm| arm.split('"').next())
        {
            seen += 1;
            if !docs.contains(&format!("`{code}`")) {
                wrong.push(format!("{path}: no document has the code {code}"));
            }
        }
    }
    assert!(seen > 20, "only {seen} codes found: the search is broken");
    assert_none(&wrong);
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in documents() {
        let folder = workspace().join(&path);
        for target in links(&text)
            .into_iter()
            .filter(|target| !target.contains("://"))
        {
            seen += 1;
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.parent().unwrap().join(file).exists() {
                wrong.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(seen > 0, "no link found at all: the search is broken");
    assert_none(&wrong);
}

#[test]
fn the_map_in_the_readme_has_every_crate() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let wrong: Vec<_> = manifests()
        .into_keys()
        .map(|path| package_name(&path))
        .filter(|name| !name.ends_with("-fuzz") && !readme.contains(&format!("{name}/")))
        .map(|name| format!("README.md does not say what {name}/ is"))
        .collect();
    assert_none(&wrong);
}

#[test]
fn the_checks_can_fail() {
    assert_eq!(
        links("a [b](c/d.md#e) and [f](http://g) but not `x[1](2)`"),
        ["c/d.md#e", "http://g"]
    );
    let cargo = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n\n[dev-dependencies]\nc = { path = \"..\" }\n[[test]]\nname = \"t\"\n";
    assert_eq!(dependencies(cargo), ["a", "b", "c"]);
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

/// All Rust files of the tree, by path from its root.
fn sources() -> BTreeMap<String, String> {
    let found = files(|path| path.extension().is_some_and(|end| end == "rs"));
    assert!(found.len() > 20, "only {} source files found", found.len());
    found
}

/// README.md and everything in docs/.
fn documents() -> BTreeMap<String, String> {
    let mut found = files(|path| path.extension().is_some_and(|end| end == "md"));
    found.retain(|path, _| path == "README.md" || path.starts_with("docs/"));
    found
}

/// Every crate's manifest with the names of what it depends on in any way.
fn manifests() -> BTreeMap<String, Vec<String>> {
    let mut found = files(|path| path.ends_with("Cargo.toml"));
    found.remove("Cargo.toml");
    found
        .into_iter()
        .map(|(path, text)| (path, dependencies(&text)))
        .collect()
}

fn package_name(manifest: &str) -> String {
    let text = fs::read_to_string(workspace().join(manifest)).unwrap();
    let name = text.lines().find_map(|line| line.strip_prefix("name = \""));
    name.unwrap().trim_end_matches('"').to_owned()
}

/// The keys of all dependency sections of a Cargo.toml.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            names.push(
                line.split([' ', '.', '='])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
    }
    names
}

/// The targets of Markdown links: `[text](target)` outside of code.
fn links(text: &str) -> Vec<String> {
    let prose: String = text.split('`').step_by(2).collect();
    let targets = prose.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

fn files(wanted: impl Fn(&Path) -> bool) -> BTreeMap<String, String> {
    let root = workspace();
    let mut folders = vec![root.clone()];
    let mut found = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&path) {
                let text = fs::read_to_string(&path).unwrap();
                let short = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.insert(short, text);
            }
        }
    }
    found
}
