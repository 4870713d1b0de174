//! Every transcript in `tests/data/doctor`, and what the doctor says about it: `NAME.said` beside `NAME.txt`. Those that begin
//! with `good` must give nothing to complain about; every rule must fail in one of the others. Those of real firmware have
//! `real` in their names.
//!
//! With `PXE_WRITE_SAID=1` the test writes what is said now, to be looked at with `git diff`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Level, RULES, Watch};
use crate::packet::Packet;
use crate::transcript::{Recorder, Transcript};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/doctor")
}

fn transcripts() -> Vec<(String, Transcript)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "txt") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            let transcript = Transcript::parse(&text);
            all.push((
                name,
                transcript.unwrap_or_else(|error| panic!("{path:?}: {error}")),
            ));
        }
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert!(all.len() > 60, "only {} transcripts", all.len());
    all
}

fn watched(packets: &[Packet]) -> Watch {
    let mut watch = Watch::default();
    for packet in packets {
        watch.see(packet);
    }
    watch
}

/// The machines, what each wanted, got and did, and the rules that failed.
fn said(watch: &Watch) -> String {
    let mut text = String::new();
    for story in watch.stories() {
        let summary = story.summary();
        text.push_str(&format!("{} {}\n", summary.mac, summary.kind));
        let parts = [
            ("wanted", summary.wanted),
            ("got", summary.got),
            ("did", summary.did),
        ];
        for (what, lines) in parts {
            for line in lines {
                text.push_str(&format!("{what} {line}\n"));
            }
        }
        for finding in watch.findings(story, Duration::ZERO, true) {
            let level = if finding.level == Level::Bad {
                "bad"
            } else {
                "warn"
            };
            text.push_str(&format!(
                "{level} {}: {}\n  -> {}\n",
                finding.code, finding.message, finding.advice
            ));
        }
    }
    text
}

#[test]
fn every_transcript_is_understood() {
    let write = std::env::var_os("PXE_WRITE_SAID").is_some();
    let mut wrong = Vec::new();
    for (name, transcript) in transcripts() {
        let path = folder().join(format!("{name}.said"));
        let now = said(&watched(&transcript.packets));
        if write {
            fs::write(&path, &now).unwrap();
        }
        let wanted = fs::read_to_string(&path).unwrap_or_default();
        if now != wanted {
            wrong.push(format!("{name}: wanted\n{wanted}\nsaid\n{now}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_fails_where_it_must_and_nowhere_else() {
    let mut failed = BTreeSet::new();
    for (name, transcript) in transcripts() {
        let watch = watched(&transcript.packets);
        let findings = watch
            .stories()
            .flat_map(|story| watch.findings(story, Duration::ZERO, true));
        let codes: BTreeSet<&str> = findings.map(|finding| finding.code).collect();
        if name.starts_with("good") {
            assert!(codes.is_empty(), "{name}: {codes:?}");
        } else if RULES.iter().any(|rule| rule.code == name) {
            assert!(codes.contains(name.as_str()), "{name}: only {codes:?}");
        }
        failed.extend(codes);
    }
    let untested: Vec<_> = RULES
        .iter()
        .map(|rule| rule.code)
        .filter(|code| !failed.contains(code))
        .collect();
    assert!(untested.is_empty(), "no transcript shows {untested:?}");
    let names: BTreeSet<_> = RULES.iter().map(|rule| rule.code).collect();
    assert_eq!(names.len(), RULES.len(), "two rules have one name");
}

/// What a recording leaves out changes nothing about what is said, and it holds no contents.
#[test]
fn recordings_tell_the_same_story() {
    for (name, transcript) in transcripts() {
        let mut recorder = Recorder::default();
        let kept: Vec<Packet> = transcript
            .packets
            .iter()
            .filter_map(|packet| recorder.keep(packet))
            .collect();
        let again = Transcript {
            about: Vec::new(),
            packets: kept,
        };
        let again = Transcript::parse(&again.to_string()).unwrap();
        // A block that came twice can only be counted as such where its first time was kept.
        if name != "tftp-repeats" {
            let (again, first) = (watched(&again.packets), watched(&transcript.packets));
            assert_eq!(said(&again), said(&first), "{name}");
        }
    }
}

/// While a machine still talks, nothing is said that the next packet would take back.
#[test]
fn nothing_is_said_too_early() {
    for (name, transcript) in transcripts()
        .into_iter()
        .filter(|(name, _)| name.starts_with("good"))
    {
        let mut watch = Watch::default();
        for packet in &transcript.packets {
            watch.see(packet);
            for story in watch.stories() {
                let findings = watch.findings(story, packet.at, false);
                assert!(
                    findings.is_empty(),
                    "{name} at {:?}: {findings:?}",
                    packet.at
                );
            }
        }
    }
}

/// A third machine on a switch hears what is sent to all, and must not take the rest for silence.
#[test]
fn what_is_not_heard_is_not_taken_for_silence() {
    let third = "192.168.7.50".parse().unwrap();
    for (name, transcript) in transcripts() {
        let mut watch = Watch::from_machine(vec![third]);
        for packet in &transcript.packets {
            let is_for_all = match packet.target.ip() {
                std::net::IpAddr::V4(address) => address.is_broadcast(),
                std::net::IpAddr::V6(address) => address.is_multicast(),
            };
            if is_for_all || packet.content == crate::packet::Content::ArpRequest {
                watch.see(packet);
            }
        }
        let findings = watch
            .stories()
            .flat_map(|story| watch.findings(story, Duration::ZERO, true));
        let codes: BTreeSet<&str> = findings.map(|finding| finding.code).collect();
        if name.starts_with("good") {
            assert!(codes.is_empty(), "{name}: {codes:?}");
        }
        for code in [
            "never-asked-4011",
            "nothing-fetched",
            "nobody-there",
            "tftp-blocked",
        ] {
            assert!(!codes.contains(code), "{name}: {codes:?}");
        }
    }
}

#[test]
fn memory_is_bounded_whatever_is_sent() {
    let mut watch = Watch::default();
    for number in 0..5_000_u32 {
        let line = format!(
            "{} - dhcp 0.0.0.0:68 > 255.255.255.255:67 mac=52:54:00:{:02x}:{:02x}:00 xid=01 ciaddr=10.1.{}.{} 53=01 60=\"PXEClient:Arch:00007\" 93=0007",
            number / 100,
            number / 256,
            number % 256,
            number / 256,
            number % 256
        );
        let packets = Transcript::parse(&line).unwrap().packets;
        watch.see(&packets[0]);
    }
    assert_eq!(watch.stories().count(), super::limits::STORIES_MAX);
    // One machine that never stops.
    let line = "0 - dhcp 0.0.0.0:68 > 255.255.255.255:67 mac=52:54:00:00:00:09 xid=01 53=01 60=\"PXEClient:Arch:00007\" 93=0007";
    let discover = &Transcript::parse(line).unwrap().packets[0];
    let mut watch = Watch::default();
    for _ in 0..10_000 {
        watch.see(discover);
    }
    let story = watch.of(crate::Mac([0x52, 0x54, 0, 0, 0, 9])).unwrap();
    assert_eq!(story.asks.len(), super::limits::MESSAGES_MAX);
}
