//! The licences of everything that is linked into plasmd: their terms ask that copies of the program carry them.
//!
//! Which crates these are says cargo's own list; their texts are the files that their authors put beside the source. A
//! text that many have is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::package::run;

/// The package that the program is made of.
const PROGRAM: &str = "provider";

/// How licence files begin, in capitals.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

/// A licence with all its parts has 35 KiB; some crates put several into one file.
const TEXT_SIZE_MAX: u64 = 256 << 10;

/// What `cargo metadata` tells.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Crate {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Of crates in this tree there is none.
    source: Option<String>,
    manifest_path: std::path::PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `dev`, `build`, or nothing for what is linked.
    kind: Option<String>,
}

/// The notices of all crates in plasmd, sorted by name.
///
/// # Errors
/// When cargo does not know the crates, or a crate has neither a licence nor a text of one.
pub fn collect(root: &Path) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = run(Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .current_dir(root))?;
    let metadata: Metadata = serde_json::from_slice(&told).context("cargo metadata")?;
    let mut crates = linked(&metadata)?;
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let mut notices =
        "The crates in plasmd, and their licences. The texts follow; each tells whose it is.\n\n"
            .to_owned();
    // By the words alone: line ends and indentation differ from crate to crate.
    let mut texts: BTreeMap<Vec<String>, (String, Vec<String>)> = BTreeMap::new();
    for one in crates {
        let title = format!("{} {}", one.name, one.version);
        let licence = one.license.as_deref().unwrap_or("see its text");
        let found = texts_of(one)?;
        ensure!(
            one.license.is_some() || !found.is_empty(),
            "{title} has no licence"
        );
        notices += &format!("  {title}: {licence}\n");
        for text in found {
            let words = text.split_whitespace().map(str::to_owned).collect();
            let owners = texts.entry(words).or_insert_with(|| (text, Vec::new()));
            owners.1.push(title.clone());
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = texts.into_values().collect();
    texts.sort_by(|(_, a), (_, b)| a.cmp(b));
    for (text, owners) in texts {
        notices += &format!(
            "\n{}\n{}\n\n{}\n",
            "=".repeat(80),
            owners.join(", "),
            text.trim()
        );
    }
    Ok(notices)
}

/// The crates of others that end up in the program.
fn linked(metadata: &Metadata) -> Result<Vec<&Crate>> {
    let crates: BTreeMap<&str, &Crate> = metadata
        .packages
        .iter()
        .map(|one| (one.id.as_str(), one))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let program = metadata
        .packages
        .iter()
        .find(|one| one.name == PROGRAM && one.source.is_none())
        .context("the program is not in this workspace")?;
    let mut seen = BTreeSet::new();
    let mut waiting = vec![program.id.as_str()];
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("no node {id}"))?;
        let linked = |one: &&Dependency| one.dep_kinds.iter().any(|kind| kind.kind.is_none());
        waiting.extend(node.deps.iter().filter(linked).map(|one| one.pkg.as_str()));
    }
    let found = seen.iter().filter_map(|id| crates.get(id).copied());
    Ok(found.filter(|one| one.source.is_some()).collect())
}

/// The licence files beside a crate's source.
fn texts_of(one: &Crate) -> Result<Vec<String>> {
    let folder = one.manifest_path.parent().context("a crate has a folder")?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let is_source = name.ends_with(".RS");
        let seen = entry.metadata()?;
        if NAMES.iter().any(|begin| name.starts_with(begin)) && seen.is_file() && !is_source {
            ensure!(
                seen.len() <= TEXT_SIZE_MAX,
                "{}: too large for a licence",
                entry.path().display()
            );
            files.push(entry.path());
        }
    }
    files.sort();
    let text = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    files.iter().map(text).collect()
}
