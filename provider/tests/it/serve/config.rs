//! The configuration file as operators use it.

use std::fs;
use std::process::Command;

use crate::provider::{PLASMD, Provider, Tree};

#[test]
fn a_provider_reads_its_file_and_its_environment() {
    let tree = Tree::new(&[("beta/aarch64/vmlinuz", &[1; 100])]);
    let file = tree.path("plasmd.toml");
    let text = format!(
        "artifacts = {:?}\nchannel = \"beta\"\narch = \"x86_64\"\nno_mdns = true\nbind = \"127.0.0.1\"\nport = 1\n",
        tree.root()
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(PLASMD);
    command
        .args(["serve", "--port", "0", "--config"])
        .arg(&file);
    command.env("PLASMD_ARCH", "arm64");
    let mut provider = Provider::spawn(&mut command);
    let root = provider.get("/").json();
    assert_eq!(
        (root["channel"].as_str(), root["arch"].as_str()),
        (Some("beta"), Some("aarch64"))
    );
    assert_eq!(provider.get("/beta/aarch64/vmlinuz").status, 200);
    provider.wait_for_log("configuration file");
    let line = provider.wait_for_log("key=\"arch\"");
    assert!(
        line.contains("arm64") && line.contains("PLASMD_ARCH"),
        "{line}"
    );
}

#[test]
fn mistakes_in_a_file_are_told_all_at_once() {
    let tree = Tree::new(&[]);
    let file = tree.path("plasmd.toml");
    fs::write(&file, "artefacts = \"/a\"\nport = \"http\"\n").unwrap();
    let file = file.to_str().unwrap();
    for args in [
        &["serve", "--config", file][..],
        &["config", "check", file],
        &["config", "show", "--config", file],
    ] {
        let output = Command::new(PLASMD).args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(
            error.contains(":1: artefacts: unknown setting; did you mean `artifacts`?"),
            "{error}"
        );
        assert!(
            error.contains(":2: port: `http` is not possible here"),
            "{error}"
        );
    }
    fs::write(file, "port = 8081\n").unwrap();
    let output = Command::new(PLASMD)
        .args(["config", "check", file])
        .output()
        .unwrap();
    assert!(output.status.success());
    let output = Command::new(PLASMD)
        .args(["config", "show", "--config", file, "--", "--no-mdns"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(&format!("# {file}:1")), "{shown}");
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("no_mdns = \"true\"") && line.ends_with("# flag")),
        "{shown}"
    );
    let output = Command::new(PLASMD)
        .args(["config", "check", "/nonexistent/plasmd.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
}
