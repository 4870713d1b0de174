//! What a machine that replaces its own image says about that. A program on a host says nothing, and there is nothing to find.

use fetch::Trust;
use serde_json::Value;

use crate::doctor::finding::Finding;
use crate::doctor::limits::HEALTH_WAIT;
use crate::question::{Question, runtime};
use crate::upgrade::shown;

const CHECK: &str = "upgrade";

/// Asks the provider at `addr`.
pub(super) fn check(addr: &str) -> Vec<Finding> {
    let question = Question {
        wait: HEALTH_WAIT,
        ..Question::get(addr, "/upgrade")
    };
    let answer = runtime().and_then(|runtime| runtime.block_on(question.ask(&Trust::System)));
    // Whether it answers at all is found elsewhere.
    let answer = answer.ok().filter(|answer| answer.status.is_success());
    let status = answer.and_then(|answer| serde_json::from_slice(&answer.body).ok());
    status.map_or_else(Vec::new, |status| judge(&status))
}

fn judge(status: &Value) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        ledger(status),
        watchdog(status),
        waiting(status),
        looking(status),
    ]
    .into_iter()
    .flatten()
    .collect();
    findings.extend(failed(status));
    if findings.is_empty() {
        let what = format!("it runs {}", shown::running(status));
        findings.push(Finding::ok(CHECK, what));
    }
    findings
}

fn ledger(status: &Value) -> Option<Finding> {
    (status["ledger"] == "failed").then(|| {
        Finding::bad(
            CHECK,
            "the record of upgrades on its disk cannot be written".to_owned(),
            "it serves and does not upgrade: look at the disk, write the image to another one",
        )
    })
}

fn watchdog(status: &Value) -> Option<Finding> {
    (status["watchdog"] == false).then(|| {
        Finding::warn(
            CHECK,
            "no watchdog is armed: an image that hangs at its start would need a human".to_owned(),
            "switch it on in the firmware's setup; phase.upgrade.watchdog=no upgrades without, beside somebody who watches",
        )
    })
}

/// What will not pass by itself.
fn waiting(status: &Value) -> Option<Finding> {
    let advice = match status["waits"].as_str()? {
        "alone" => "start a second provider there, or phase.upgrade.alone=yes, or --force",
        "waits-for-order" => "plasmd upgrade apply URL --key FILE",
        "memory" => "more memory, or boot the new image from the network",
        "no-watchdog" => {
            "switch on a watchdog, or phase.upgrade.watchdog=no beside somebody who watches"
        }
        "kexec-unfit" => "put the new image on its medium: kexec does not work on this machine",
        "slot-failed" | "ledger" => "look at its disk, and write the image to another one",
        "after-reset" => "order apply, or switch it off and on: it hung and cannot know why",
        "serve-only" => "look at what failed below; it upgrades again once it ran for long enough",
        _ => return None,
    };
    Some(Finding::warn(CHECK, shown::in_a_line(status), advice))
}

fn looking(status: &Value) -> Option<Finding> {
    let checked = status["checked"].as_str()?;
    matches!(checked, "unreachable" | "not-found" | "no-source").then(|| {
        Finding::warn(
            CHECK,
            "it finds nobody who could have a newer image".to_owned(),
            "name a provider with phase.upgrade.from=URL",
        )
    })
}

/// Images that failed there.
fn failed(status: &Value) -> impl Iterator<Item = Finding> {
    let failed = shown::failed(status).into_iter();
    failed.map(|what| {
        Finding::warn(
            CHECK,
            format!("an image failed there: {what}"),
            "mend it and publish it with a higher sequence: this one is not tried again",
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Level;

    #[track_caller]
    fn check(change: &Value, expected: &[(Level, &str)]) {
        let mut status = json!({
            "ledger": "disk", "watchdog": true, "waits": null, "checked": "up-to-date", "stage": "idle",
            "running": { "version": "2.1", "sequence": 21, "digest": "sha256:00", "generation": 1 },
        });
        for (member, value) in change.as_object().unwrap() {
            status[member] = value.clone();
        }
        let findings = judge(&status);
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
        for (finding, (level, part)) in findings.iter().zip(expected) {
            assert_eq!(finding.level, *level, "{finding:?}");
            assert!(finding.message.contains(part), "{finding:?}");
        }
    }

    #[test]
    fn what_keeps_a_machine_from_upgrading_is_found() {
        check(&json!({}), &[(Level::Ok, "version 2.1")]);
        check(
            &json!({ "ledger": "failed" }),
            &[(Level::Bad, "cannot be written")],
        );
        check(
            &json!({ "watchdog": false }),
            &[(Level::Warn, "no watchdog")],
        );
        check(
            &json!({ "waits": "alone" }),
            &[(Level::Warn, "no other machine")],
        );
        check(&json!({ "waits": "window" }), &[(Level::Ok, "version")]);
        check(
            &json!({ "checked": "unreachable" }),
            &[(Level::Warn, "nobody")],
        );
        let failure = json!({ "reason": "hang", "phase": "jump", "detail": "" });
        let failed =
            json!([{ "digest": "sha256:01", "rank": { "sequence": 22 }, "failure": failure }]);
        check(
            &json!({ "quarantine": failed }),
            &[(Level::Warn, "it hung")],
        );
    }
}
