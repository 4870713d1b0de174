//! What users of Phase type and expect to see, line by line.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::provider::{PLASMD, Provider, Tree, plasmd};

fn tree() -> Tree {
    Tree::new(&[
        ("stable/x86_64/vmlinuz", &[1; 5_000]),
        ("stable/x86_64/initramfs.img", &[2; 3_000]),
        ("stable/x86_64/rootfs.squashfs", &[3; 2_000]),
    ])
}

#[test]
fn every_question_of_the_guide_has_its_answer() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    let root = provider.get("/").json();
    assert_eq!(root["name"], "plasmd-provider");
    assert_eq!(
        (&root["channel"], &root["arch"]),
        (&json!("stable"), &json!("x86_64"))
    );
    assert!(root["version"].is_string() && root["uptime_seconds"].is_u64());

    let health = provider.get("/health");
    assert_eq!(
        (health.status, health.json()["status"].clone()),
        (200, json!("healthy"))
    );
    assert_eq!(health.json()["checks"]["artifacts_readable"], true);
    assert_eq!(health.json()["checks"]["disk_space_ok"], true);

    let status = provider.get("/status").json();
    assert_eq!(status["health"]["status"], "healthy");
    assert_eq!(status["health"]["checks"]["artifacts_readable"], true);
    assert_eq!(status["health"]["artifacts_readable"], true);
    assert_eq!(status["metrics"]["requests_total"], 3);
    assert!(status["metrics"]["bytes_served_total"].as_u64() > Some(0));
    assert_eq!(
        status["dht"],
        "off: no other machine can connect over plain HTTP"
    );
    assert_eq!(status["mdns"], "off: --no-mdns");
    assert_eq!(status["discovery"]["dht"]["state"], "off");
    assert_eq!(status["discovery"]["mdns"]["reason"], "--no-mdns");

    let manifest = provider.get("/manifest.json").json();
    for member in ["version", "created_at", "expires_at", "signatures"] {
        assert_ne!(manifest[member], Value::Null, "{member}");
    }
    let names: Vec<&String> = manifest["artifacts"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["initramfs", "kernel", "rootfs"]);
    let hash = manifest["artifacts"]["kernel"]["hash"].as_str().unwrap();
    assert!(hash.starts_with("sha256:") && hash.len() == 71, "{hash}");

    assert_eq!(provider.curl("/", &["-I"]).status, 200);
    assert_eq!(
        provider
            .curl("/stable/amd64/vmlinuz", &["-H", "Range: bytes=0-1023"])
            .body
            .len(),
        1_024
    );
}

#[test]
fn clients_resume_downloads() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    let here = tempfile::tempdir().unwrap();
    let url = provider.url("/stable/x86_64/vmlinuz");
    for (program, flags) in [
        ("curl", &["-s", "-S", "-C", "-", "-O"][..]),
        ("wget", &["-q", "-c"]),
    ] {
        let file = here.path().join("vmlinuz");
        fs::write(&file, [1; 1_234]).unwrap();
        let output = match Command::new(program)
            .args(flags)
            .arg(&url)
            .current_dir(here.path())
            .output()
        {
            Ok(output) => output,
            Err(error) => {
                eprintln!("SKIPPED: serve::guide: {program}: {error}");
                continue;
            }
        };
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(fs::read(&file).unwrap(), [1; 5_000], "{program}");
    }
}

#[test]
fn an_empty_directory_is_explained() {
    let tree = Tree::new(&[("stable/x86_64/initramfs.img", b"x")]);
    let mut provider = Provider::start(tree.root(), &["--channel", "testing"]);
    let said = provider.wait_for_log("no artifacts found for testing/");
    assert!(
        said.contains("{vmlinuz,initramfs.img,rootfs.squashfs}"),
        "{said}"
    );
    let manifest = provider.get("/manifest.json");
    assert_eq!(manifest.status, 404);
    assert!(
        manifest.text().contains("no artifacts found"),
        "{}",
        manifest.text()
    );
    let without_kernel = provider.get("/stable/x86_64/manifest.json");
    assert_eq!(without_kernel.status, 404);
    assert!(
        without_kernel
            .text()
            .contains("manifest missing required artifact: kernel")
    );
    assert_eq!(provider.get("/health").status, 503);
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_state_of_a_provider_is_shown() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    let url = provider.url("");
    let text = stdout(&plasmd(&["provider", "status", "-a", &url]));
    assert!(
        text.contains("health     healthy") && text.contains("plasmd-provider"),
        "{text}"
    );
    let value: Value = serde_json::from_str(&stdout(&plasmd(&[
        "provider", "status", "--json", "--addr", &url,
    ])))
    .unwrap();
    assert_eq!(value["health"]["status"], "healthy");
    let list = stdout(&plasmd(&["provider", "list", "--addr", &url]));
    for part in ["kernel", "vmlinuz", "5000", "sha256:", "unsigned"] {
        assert!(list.contains(part), "{list}");
    }
    for (arguments, said) in [
        (
            ["provider", "status", "-a", "http://127.0.0.1:1"],
            "127.0.0.1:1/status",
        ),
        (
            ["provider", "list", "-a", "http://127.0.0.1:1"],
            "hint: is the provider running",
        ),
    ] {
        let output = plasmd(&arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(
        plasmd(&["provider", "status", "-a", "ftp://x"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn each_name_has_its_help_and_version() {
    let here = tempfile::tempdir().unwrap();
    for name in ["plasmd", "phase-discover", "phase-fetch", "phase-verify"] {
        let link = here.path().join(name);
        std::os::unix::fs::symlink(PLASMD, &link).unwrap();
        let run = |flag: &str| stdout(&Command::new(&link).arg(flag).output().unwrap());
        assert_eq!(
            run("--version"),
            format!("{name} {}\n", env!("CARGO_PKG_VERSION"))
        );
        assert!(
            run("--help").contains(&format!("Usage: {name}")),
            "{}",
            run("--help")
        );
        let wrong = Command::new(&link).arg("--no-such-flag").output().unwrap();
        assert_eq!(wrong.status.code(), Some(2));
    }
    for command in [
        "serve", "provider", "key", "manifest", "discover", "fetch", "verify", "net", "stage",
    ] {
        assert!(
            stdout(&plasmd(&[command, "--help"])).contains("Usage: plasmd"),
            "{command}"
        );
    }
    assert_eq!(
        stdout(&plasmd(&["version"])),
        format!("plasmd {}\n", env!("CARGO_PKG_VERSION"))
    );
}
