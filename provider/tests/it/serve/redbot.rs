//! What REDbot, the linter of HTTP's caching, validation and ranges, has to say of our answers: nothing bad.

use std::process::Command;

use serde_json::Value;

use crate::foreign::{python, run};
use crate::provider::{Provider, Tree};

/// The version whose opinion is asked.
const REDBOT: &str = "redbot==2.7.1";

/// All notes, with those inside of others.
fn notes(from: &Value, found: &mut Vec<(String, String, String)>) {
    for note in from.as_array().into_iter().flatten() {
        let text = |name: &str| note[name].as_str().unwrap_or_default().to_owned();
        found.push((text("note_id"), text("level"), text("summary")));
        notes(&note["subnotes"], found);
    }
}

#[test]
fn redbot_finds_nothing_wrong() {
    let redbot = match python(REDBOT, "redbot", &["--help"]) {
        Ok(redbot) => redbot,
        Err(why) => {
            println!("SKIPPED: redbot_finds_nothing_wrong: {REDBOT} cannot be installed: {why}");
            return;
        }
    };
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", &[7; 100_000]),
        ("stable/x86_64/phase.efi", &[8; 50_000]),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    for (path, has_content) in [
        ("/manifest.json", true),
        ("/stable/x86_64/manifest.json", true),
        ("/stable/x86_64/vmlinuz", true),
        ("/stable/x86_64/phase.efi", true),
        ("/status", false),
        ("/nothing", false),
    ] {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&redbot).args(["-o", "har"]);
        let output = run(command.arg(provider.url(path))).unwrap();
        let har: Value = serde_json::from_slice(&output.stdout).unwrap();
        let entries = har["log"]["entries"].as_array().unwrap();
        let mut found = Vec::new();
        for entry in entries {
            notes(&entry["_red_messages"], &mut found);
        }
        assert!(!found.is_empty(), "{path}: {har}");
        let wrong: Vec<_> = found
            .iter()
            .filter(|(_, level, _)| level == "WARN" || level == "BAD")
            .collect();
        assert!(wrong.is_empty(), "{path}: {wrong:?}");
        let is_there = |id: &str| {
            found
                .iter()
                .any(|(found, level, _)| found == id && level == "GOOD")
        };
        for id in ["INM_304", "IMS_304", "RANGE_CORRECT", "CL_CORRECT"] {
            assert!(!has_content || is_there(id), "{path}: no {id} in {found:?}");
        }
    }
}
