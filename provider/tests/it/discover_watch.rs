//! `phase-discover` with several providers, and as a watch that is told of what comes and goes.

use std::time::Duration;

use serde_json::Value;

use crate::discover::{Rig, URL, stdout};
use crate::lan::until;

/// How long a change may take to be told: two failed looks, and a pause after each.
const TOLD: Duration = Duration::from_secs(30);

fn watch(rig: &mut Rig, log: &str, flags: &[&str]) -> u32 {
    let program = rig.lan.directory().join("phase-discover");
    let mut command = rig.lan.command("client", &program.display().to_string());
    command.args(["--watch", "--arch", "x86_64"]).args(flags);
    rig.lan.start(log, command)
}

/// Waits for a line of a watch.
fn is_told(rig: &Rig, log: &str, line: &str) {
    let told = || rig.lan.log(log).lines().any(|told| told.starts_with(line));
    assert!(until(TOLD, told), "{line}: {}", rig.lan.log(log));
}

#[test]
fn all_providers_are_listed_the_nearest_first() {
    let Some(mut rig) = Rig::new("all_providers_are_listed") else {
        return;
    };
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    rig.start_provider();
    rig.start_on("other", "second", &["--port", "8081"]);
    for log in ["serve", "second"] {
        let announced = || rig.lan.log(log).contains("announced on the local network");
        assert!(until(Duration::from_secs(10), announced), "{log}");
    }
    let found = rig.discover(&["--format", "json", "--all", "--timeout", "3"]);
    let json: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(json["provider_count"], 2, "{json:#}");
    let listed = json["providers"].as_array().unwrap();
    let times: Vec<f64> = listed
        .iter()
        .map(|found| found["connect_ms"].as_f64().unwrap())
        .collect();
    assert!(times.is_sorted(), "{json:#}");
    assert_eq!(json["manifest_url"], listed[0]["manifest_url"]);
    assert_eq!(json["peer_id"], listed[0]["peer_id"]);
    let mut urls: Vec<&str> = listed
        .iter()
        .filter_map(|found| found["manifest_url"].as_str())
        .collect();
    urls.sort_unstable();
    assert_eq!(
        urls,
        [URL, "http://10.78.0.3:8081/stable/x86_64/manifest.json"]
    );
    for found in listed {
        assert_eq!(found["found_by"], serde_json::json!(["mdns"]));
        assert_eq!(found["version"].as_str().map(str::is_empty), Some(false));
    }
    let all = rig.discover(&["--all", "--quiet", "--timeout", "3"]);
    assert_eq!(stdout(&all).lines().count(), 2, "{all:?}");
}

#[test]
fn a_watch_is_told_of_what_comes_and_goes() {
    let Some(mut rig) = Rig::new("a_watch_is_told") else {
        return;
    };
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    watch(&mut rig, "text", &["--quiet"]);
    watch(&mut rig, "json", &["--json"]);
    rig.start_provider();
    let second = "http://10.78.0.3:8080/stable/x86_64/manifest.json";
    let pulled = rig.start_on("other", "second", &[]);
    is_told(&rig, "text", &format!("found {URL}"));
    is_told(&rig, "text", &format!("found {second}"));
    // One says goodbye; the other loses its power and says nothing.
    rig.stop_provider();
    rig.lan.kill(pulled);
    is_told(&rig, "text", &format!("lost {URL}"));
    is_told(&rig, "text", &format!("lost {second}"));
    let told = || {
        let log = rig.lan.log("json");
        let objects: Vec<Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let has = |event: &str, url: &str| {
            objects
                .iter()
                .any(|told| told["event"] == event && told["manifest_url"] == url)
        };
        ["found", "lost"]
            .iter()
            .all(|event| has(event, URL) && has(event, second))
    };
    assert!(until(TOLD, told), "{}", rig.lan.log("json"));
}

#[test]
fn a_watch_that_found_nothing_in_its_time_says_so() {
    let Some(mut rig) = Rig::new("a_watch_that_found_nothing") else {
        return;
    };
    let pid = watch(&mut rig, "watch", &["--timeout", "1"]);
    assert_eq!(rig.lan.wait(pid, TOLD), Some(1));
    assert!(rig.lan.log("watch").contains("discovery timeout after 1 s"));
}
