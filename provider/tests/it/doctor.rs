//! `plasmd doctor` on machines that have something wrong with them.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use serde_json::Value;

use crate::desk::image::Image;
use crate::desk::{Desk, Ended, days_ago, fresh_image};
use crate::provider::{PLASMD, Provider, Tree};

/// A desk with the image as an artifacts directory.
fn desk(image: &Image) -> Desk {
    let desk = Desk::new(image);
    let folder = desk.path("artifacts/stable/x86_64");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("manifest.json"), &image.manifest).unwrap();
    for (_, filename, bytes) in &image.files {
        fs::write(folder.join(filename), bytes).unwrap();
    }
    desk
}

/// What doctor finds, started by `sh -c` after `before`.
fn doctor_after(desk: &Desk, before: &str, flags: &[&str]) -> (Ended, Value) {
    let line = format!("{before}exec {PLASMD} doctor --artifacts artifacts --json \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &line, "sh"])
        .args(flags)
        .current_dir(desk.path(""))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let ended = Ended::of(&output);
    let json = ended.json();
    (ended, json)
}

fn doctor(desk: &Desk, flags: &[&str]) -> (Ended, Value) {
    doctor_after(desk, "", flags)
}

/// The levels and messages of one check.
fn found(json: &Value, check: &str) -> String {
    let findings = json["findings"].as_array().unwrap().iter();
    let of_it = findings.filter(|finding| finding["check"] == check);
    let lines: Vec<String> = of_it
        .map(|finding| {
            let (level, message) = (&finding["level"], &finding["message"]);
            assert!(level == "ok" || finding["advice"].is_string(), "{finding}");
            format!("{} {}", level.as_str().unwrap(), message.as_str().unwrap())
        })
        .collect();
    assert!(!lines.is_empty(), "nothing about {check}: {json}");
    lines.join("\n")
}

/// A port that nobody had a moment ago.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[test]
fn a_good_provider_is_called_good() {
    let image = fresh_image();
    let desk = desk(&image);
    let provider = Provider::start(&desk.path("artifacts"), &["--arch", "x86_64"]);
    let port = provider.address.port().to_string();
    let (_, json) = doctor(&desk, &["--port", &port, "-k", "key.pub"]);
    for (check, text) in [
        ("service", "ok http://localhost"),
        ("port", "the provider runs there (process"),
        ("layout", "ok stable/x86_64: initramfs, kernel, rootfs"),
        ("manifest", "ok stable/x86_64: verified, expires "),
        ("permissions", "ok"),
    ] {
        assert!(found(&json, check).contains(text), "{check}: {json}");
    }
    assert_eq!(
        json["findings"].as_array().map(Vec::len).unwrap() as u64,
        json["ok"].as_u64().unwrap()
            + json["warn"].as_u64().unwrap()
            + json["bad"].as_u64().unwrap()
    );
}

#[test]
fn taken_ports_are_bad_and_their_owner_is_named() {
    let desk = desk(&fresh_image());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    // Whoever connects hears the end at once, instead of nothing.
    let port = other.local_addr().unwrap().port().to_string();
    let answering = std::thread::spawn(move || {
        let heard = other.accept().map(drop);
        (other, heard)
    });
    let (ended, json) = doctor(&desk, &["--port", &port, "-k", "key.pub"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = found(&json, "port");
    assert!(
        said.starts_with("bad") && said.contains(&format!("process {}", std::process::id())),
        "{said}"
    );
    let (_other, heard) = answering.join().unwrap();
    heard.unwrap();
    // The port is privileged: only root can show this one.
    if let Ok(_dhcp) = UdpSocket::bind("127.0.0.1:67") {
        let (_, json) = doctor(&desk, &["--port", &free_port(), "-k", "key.pub"]);
        let said = found(&json, "boot port");
        assert!(
            said.contains("warn 67/udp (DHCP) is taken by process"),
            "{said}"
        );
        assert!(said.contains("ok 4011/udp"), "{said}");
    }
}

#[test]
fn manifests_that_clients_will_refuse_are_bad() {
    let image = fresh_image();
    let port = free_port();
    let flags = ["--port", port.as_str(), "-k", "key.pub"];
    for (manifest, level) in [
        (
            Image::of(days_ago(31), image.files.clone()).manifest,
            "bad stable/x86_64: expired at",
        ),
        (
            Image::of(days_ago(25), image.files.clone()).manifest,
            "warn stable/x86_64: expires soon",
        ),
        (b"nonsense".to_vec(), "bad stable/x86_64: "),
    ] {
        let desk = desk(&image);
        fs::write(desk.path("artifacts/stable/x86_64/manifest.json"), manifest).unwrap();
        let (ended, json) = doctor(&desk, &flags);
        assert!(
            found(&json, "manifest").starts_with(level),
            "{level}: {json}"
        );
        assert!(
            level.starts_with("warn") || ended.code == Some(1),
            "{ended:?}"
        );
    }
    let desk = desk(&image);
    let stranger = boot_manifest::SecretKey::from_seed([9; 32]).public();
    fs::write(desk.path("stranger.pub"), stranger.to_pem()).unwrap();
    let (_, json) = doctor(&desk, &["--port", &port, "-k", "stranger.pub"]);
    assert!(
        found(&json, "manifest").contains("which is not trusted"),
        "{json}"
    );
    fs::remove_file(desk.path("artifacts/stable/x86_64/manifest.json")).unwrap();
    let (_, json) = doctor(&desk, &flags);
    assert!(
        found(&json, "manifest").starts_with("warn stable/x86_64: none"),
        "{json}"
    );
    // A provider with a key signs what has no manifest.
    let (_, json) = doctor_after(&desk, "export PLASMD_KEY=release.key; ", &["-k", "key.pub"]);
    let signs = found(&json, "manifest").starts_with("ok stable/x86_64: signed by the provider");
    assert!(signs, "{json}");

    // A manifest of next year says that this clock is behind.
    let future = Image::of(days_ago(-365), image.files.clone());
    fs::write(
        desk.path("artifacts/stable/x86_64/manifest.json"),
        future.manifest,
    )
    .unwrap();
    let (_, json) = doctor(&desk, &flags);
    assert!(found(&json, "clock").starts_with("bad"), "{json}");
}

#[test]
fn a_provider_that_is_unhealthy_or_gone_is_said_to_be() {
    let desk = desk(&fresh_image());
    let empty = Tree::new(&[("stable/x86_64/initramfs.img", b"x")]);
    let provider = Provider::start(empty.root(), &["--arch", "x86_64"]);
    let port = free_port();
    let (ended, json) = doctor(&desk, &["--port", &port, "--addr", &provider.url("")]);
    assert_eq!(ended.code, Some(1));
    let said = found(&json, "service");
    assert!(
        said.starts_with("bad") && said.contains("missing required artifact: kernel"),
        "{said}"
    );
    drop(provider);
    let (_, json) = doctor(&desk, &["--port", &port]);
    assert!(found(&json, "service").starts_with("warn"), "{json}");
}

#[test]
fn wrong_settings_are_seen_and_right_ones_are_followed() {
    let desk = desk(&fresh_image());
    let port = free_port();
    fs::write(desk.path("good.toml"), format!("port = {port}\n")).unwrap();
    fs::write(desk.path("wrong.toml"), "prot = 1\n").unwrap();
    let (_, json) = doctor(&desk, &["-C", "good.toml"]);
    assert_eq!(found(&json, "settings"), "ok 1 are not the default");
    assert_eq!(found(&json, "port"), format!("ok {port}/tcp is free"));
    let (ended, json) = doctor(&desk, &["--config", "wrong.toml", "--port", &port]);
    assert_eq!(ended.code, Some(1));
    assert!(found(&json, "settings").contains("prot"), "{json}");
}

#[test]
fn limits_of_the_process_are_seen() {
    let desk = desk(&fresh_image());
    let (ended, json) = doctor_after(&desk, "ulimit -n 64; ", &["--port", &free_port()]);
    assert_eq!(ended.code, Some(1));
    assert!(
        found(&json, "open files").starts_with("bad 64 open files"),
        "{json}"
    );
}

#[test]
fn a_machine_without_network_disk_or_names_is_seen() {
    let desk = desk(&fresh_image());
    let can = Command::new("unshare").args(["-n", "-m", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: a_machine_without_network_disk_or_names_is_seen: no namespaces of its own on this machine"
        );
        return;
    }
    let inside = format!(
        "mount -t sysfs none /sys && mount -t tmpfs -o size=2m none artifacts && mount --bind /dev/null /etc/resolv.conf || exit 9
         exec {PLASMD} doctor --artifacts artifacts --json"
    );
    let output = Command::new("unshare")
        .args(["-n", "-m", "sh", "-c", &inside])
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    let ended = Ended::of(&output);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let json = ended.json();
    for (check, level) in [
        ("interfaces", "bad no network interface is up"),
        ("multicast", "warn the group 224.0.0.251 cannot be joined"),
        ("disk", "bad 2.0 MiB are free"),
        ("names", "warn /etc/resolv.conf names no server"),
        ("artifacts", "bad artifacts: no artifacts in it"),
        ("port", "ok 8080/tcp is free"),
        ("boot port", "ok 67/udp (DHCP) is free"),
    ] {
        assert!(found(&json, check).starts_with(level), "{check}: {json}");
    }
}

#[test]
fn people_get_lines_with_advice() {
    let desk = desk(&fresh_image());
    let output = Command::new(PLASMD)
        .args([
            "doctor",
            "--artifacts",
            "no/such",
            "--quiet",
            "--port",
            &free_port(),
        ])
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    let ended = Ended::of(&output);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.out.contains("bad   artifacts    no/such: "),
        "{ended:?}"
    );
    assert!(
        ended.out.contains("-> create it with <channel>/<arch>/"),
        "{ended:?}"
    );
    assert!(
        !ended.out.lines().any(|line| line.starts_with("ok ")),
        "{ended:?}"
    );
    assert!(ended.out.trim_end().ends_with(" bad"), "{ended:?}");
}
