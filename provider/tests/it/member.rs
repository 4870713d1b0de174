//! `plasmd serve` as a member of the DHT, over its whole life: ports that are taken, what it keeps, whom it comes back to.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::discover::Rig;
use crate::lan::until;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const PLASMD: &str = env!("CARGO_BIN_EXE_plasmd");

/// What a provider on a host says of the DHT, asked on that host.
fn dht(rig: &Rig, host: &str, address: &str) -> Value {
    let mut asked = rig.lan.command(host, PLASMD);
    let url = format!("http://{address}");
    asked.args(["provider", "status", "--json", "--addr", &url]);
    let answer = asked.output().unwrap();
    let status: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
    status["discovery"]["dht"].clone()
}

fn stop(rig: &mut Rig, pid: u32) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(process.unwrap(), Signal::TERM).unwrap();
    assert_eq!(rig.lan.wait(pid, PATIENCE), Some(0));
}

fn rig(test: &str) -> Option<Rig> {
    let rig = Rig::new(test)?;
    rig.give_address();
    for host in ["provider", "client"] {
        rig.lan.ip(host, "link set lo up").unwrap();
    }
    Some(rig)
}

#[test]
fn after_a_restart_it_is_the_same_member_and_knows_the_others() {
    let Some(mut rig) = rig("after_a_restart_it_is_the_same_member") else {
        return;
    };
    let flags = ["--no-mdns", "--dhcp", "off"];
    rig.start_on("provider", "first", &flags);
    let bootstrap = ["--bootstrap", "10.78.0.1"];
    let joined = |rig: &Rig| {
        let mut state = Value::Null;
        let joined = until(PATIENCE, || {
            state = dht(rig, "client", "10.78.0.2:8080");
            state["peers"] == 1 && !state["last_published"].is_null()
        });
        assert!(joined, "{state}");
        state
    };
    let pid = rig.start_on("client", "second", &[&flags[..], &bootstrap].concat());
    let before = joined(&rig);
    assert_eq!(before["bootstrap"], 1);
    stop(&mut rig, pid);
    // Nobody tells it whom to begin with any more.
    let pid = rig.start_on("client", "second", &flags);
    let after = joined(&rig);
    assert_eq!(
        (&after["bootstrap"], &after["peer_id"]),
        (&Value::from(0), &before["peer_id"])
    );
    // A damaged list costs a warning and what was in it, a damaged key the name.
    stop(&mut rig, pid);
    let folder = rig.lan.directory().join("state-of-second/dht-v1");
    for name in ["peers", "peer.key"] {
        std::fs::write(folder.join(name), "no such thing\n").unwrap();
    }
    rig.start_on("client", "second", &[&flags[..], &bootstrap].concat());
    let fresh = joined(&rig);
    assert_ne!(fresh["peer_id"], before["peer_id"]);
    let log = rig.lan.log("second");
    assert_eq!(log.matches("is damaged").count(), 2, "{log}");
}

#[test]
fn a_port_that_is_taken_is_an_error_for_those_who_asked_for_it() {
    let Some(mut rig) = rig("a_port_that_is_taken") else {
        return;
    };
    let quiet = ["--no-mdns", "--dhcp", "off"];
    rig.start_on("provider", "first", &quiet);
    let serves = until(PATIENCE, || {
        dht(&rig, "provider", "10.78.0.1:8080")["state"] == "on"
    });
    assert!(serves, "{}", rig.lan.log("first"));
    let second = [&quiet[..], &["--port", "8081"]].concat();
    rig.start_on("provider", "second", &second);
    let mut state = Value::Null;
    until(PATIENCE, || {
        state = dht(&rig, "provider", "10.78.0.1:8081");
        !state.is_null()
    });
    let reason = state["reason"].as_str().unwrap_or_default();
    assert_eq!(state["state"], "off", "{state}");
    assert!(
        reason.starts_with("port 4011/tcp is in use by process ") && reason.ends_with("(plasmd)"),
        "{reason}"
    );
    for (asked, code) in [
        (&["--port", "8082", "--dht-port", "4011"][..], 3),
        (&["--port", "8082", "--bootstrap", "10.78.0.1"], 3),
        (&["--port", "8082", "--dht-port", "0"], 2),
    ] {
        let pid = rig.start_on("provider", "third", &[&quiet[..], asked].concat());
        assert_eq!(rig.lan.wait(pid, PATIENCE), Some(code), "{asked:?}");
        let log = rig.lan.log("third");
        assert!(code != 3 || log.contains("hint: --dht-port N"), "{}", log);
    }
    let other = [&quiet[..], &["--port", "8082", "--dht-port", "4012"]].concat();
    rig.start_on("provider", "third", &other);
    // It is on a moment before its first address is known.
    let mut listening = Value::Null;
    let serves = until(PATIENCE, || {
        let state = dht(&rig, "provider", "10.78.0.1:8082");
        listening = state["listening"].clone();
        state["state"] == "on" && listening.as_array().is_some_and(|all| !all.is_empty())
    });
    assert!(serves, "{}", rig.lan.log("third"));
    let addresses = listening.as_array().unwrap();
    assert!(
        addresses.iter().any(|one| one == "10.78.0.1:4012"),
        "{listening}"
    );
}

#[test]
fn the_role_of_the_appliance_announces_what_lies_in_the_directory() {
    let Some(mut rig) = rig("the_role_of_the_appliance_announces") else {
        return;
    };
    rig.start_on("provider", "first", &["--no-mdns", "--dhcp", "off"]);
    let folder = rig.lan.directory().to_owned();
    let artifacts = folder.join("artifacts");
    let mut role = rig.lan.command("client", PLASMD);
    role.args(["dht", "--artifacts"]).arg(&artifacts);
    role.args([
        "--channel",
        "stable",
        "--arch",
        "x86_64",
        "--http-port",
        "8080",
    ]);
    // One that cannot be understood costs the other nothing.
    role.args([
        "--dht-port",
        "4011",
        "--bootstrap=10.78.0.1",
        "--bootstrap=a b",
    ]);
    let role = rig.lan.start("role", role);
    let silent = until(PATIENCE, || {
        rig.lan.log("role").contains("the manifest: not found")
    });
    assert!(silent, "{}", rig.lan.log("role"));
    let mut seen = Value::Null;
    let empty = until(PATIENCE, || {
        seen = dht(&rig, "provider", "10.78.0.1:8080");
        seen["stored"] == 0
    });
    assert!(empty, "{seen}");
    // `serve` of the appliance puts it there, and then it is announced.
    let made = std::process::Command::new(PLASMD)
        .args([
            "manifest",
            "create",
            "--channel",
            "stable",
            "--arch",
            "x86_64",
        ])
        .args(["--version", "1", "--sequence", "1", "--artifacts"])
        .arg(&artifacts)
        .arg("--key")
        .arg(folder.join("key-of-first"))
        .arg("--out")
        .arg(artifacts.join("stable/x86_64/manifest.json"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut state = Value::Null;
    let stored = until(PATIENCE, || {
        state = dht(&rig, "provider", "10.78.0.1:8080");
        state["stored"].as_u64() > Some(0)
    });
    assert!(stored, "{state}\n{}", rig.lan.log("role"));
    stop(&mut rig, role);
}
