//! What became of an order, told from what the machine said before and says now. Pure.

use boot_manifest::Action;
use serde_json::Value;
use upgrade::Refusal;

use crate::out::printable;
use crate::upgrade::shown;

/// An order that was sent.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    /// What was ordered.
    pub(super) action: Action,
    /// The nonce that it was signed with.
    pub(super) nonce: String,
    /// What the machine said before.
    pub(super) before: Value,
}

/// How it stands with an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is being done: in words.
    Goes(String),
    /// It is done.
    Done(String),
    /// It will not be done.
    Failed(String),
}

impl Followed {
    /// Whether the machine has taken it, or has become another one meanwhile: either way its nonce is not the old one.
    pub(super) fn is_taken(&self, now: &Value) -> bool {
        now["nonce"]
            .as_str()
            .is_some_and(|nonce| nonce != self.nonce)
    }

    /// Judges an order that was taken.
    pub(super) fn judge(&self, now: &Value) -> Verdict {
        if let Some(reason) = self.refusal(now) {
            return Verdict::Failed(reason);
        }
        let has_moved = now["running"]["digest"] != self.before["running"]["digest"];
        let on_trial = !now["trial"].is_null();
        let runs = || format!("it runs {}", shown::running(now));
        match self.action {
            // Another number: a look has ended, or the machine started anew, which looks too.
            Action::Check if now["looks"].is_u64() && now["looks"] != self.before["looks"] => {
                Verdict::Done(shown::look(now))
            }
            Action::Check => Verdict::Goes("the machine looks for a newer image".to_owned()),
            Action::Stage => match now["stage"].as_str() {
                Some("staged" | "waiting") => Verdict::Done(match now["ledger"].as_str() {
                    Some("disk") => "a newer image is ready on the disk".to_owned(),
                    _ => "a newer image is known; without a disk it is fetched when it is tried"
                        .to_owned(),
                }),
                // There is no slot to keep it in, or it went on by itself.
                _ if has_moved => Verdict::Done(runs()),
                _ => self.goes(now),
            },
            Action::Apply | Action::Rollback => match (has_moved, on_trial) {
                (true, false) => Verdict::Done(runs()),
                (true, true) => self.goes(now),
                (false, _) => match self.fresh_failure(now) {
                    Some(failure) => Verdict::Failed(failure),
                    None => self.goes(now),
                },
            },
            Action::Commit => match (has_moved, on_trial) {
                (true, _) => Verdict::Failed(format!(
                    "the image on trial was left: {}",
                    self.fresh_failure(now).unwrap_or_else(runs)
                )),
                (false, true) => self.goes(now),
                (false, false) => Verdict::Done(runs()),
            },
        }
    }

    /// Why the machine did not obey, if it says so of this order; after a restart it says nothing of earlier ones.
    fn refusal(&self, now: &Value) -> Option<String> {
        let last = &now["last_order"];
        if last["nonce"].as_str()? != self.nonce {
            let client = printable(last["client"].as_str().unwrap_or("somebody"));
            return Some(format!(
                "an order of {client} was taken instead: look, and order again"
            ));
        }
        if last["ok"] != false {
            return None;
        }
        let code = last["reason"].as_str().unwrap_or("refused");
        let sentence = Refusal::from_code(code)
            .map_or_else(String::new, |refusal| format!(": {}", refusal.text()));
        Some(format!(
            "the machine refused the order ({}){sentence}",
            printable(code)
        ))
    }

    /// The failure at the end of a history that was not there before.
    fn fresh_failure(&self, now: &Value) -> Option<String> {
        let (before, after) = (&self.before["history"], now["history"].as_array()?);
        let last = after.last()?;
        let is_new = before.as_array().is_none_or(|before| before != after);
        let failed = last["outcome"] == "failed";
        (is_new && failed).then(|| shown::entry(last))
    }

    fn goes(&self, now: &Value) -> Verdict {
        Verdict::Goes(shown::in_a_line(now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NONCE: &str = "00000000000000000000000000000001";

    fn says(running: &str, stage: &str, trial: bool, nonce: &str) -> Value {
        json!({
            "stage": stage, "nonce": nonce,
            "running": { "digest": format!("sha256:{running}"), "version": running, "place": "a", "sequence": 1,
                         "generation": 1, "proved": true },
            "trial": if trial { json!({ "id": "d1", "phase": "soak", "from": "sha256:old", "seconds_left": 9 }) }
                     else { Value::Null },
            "history": [],
        })
    }

    fn check(action: Action, now: &Value, expected: &str) {
        let followed = Followed {
            action,
            nonce: NONCE.to_owned(),
            before: says("old", "idle", action == Action::Commit, NONCE),
        };
        assert!(followed.is_taken(now));
        let verdict = format!("{:?}", followed.judge(now));
        assert!(verdict.starts_with(expected), "{action}: {verdict}");
    }

    #[test]
    fn an_order_is_followed_to_its_end() {
        let fresh = "00000000000000000000000000000002";
        let old = |stage: &str| says("old", stage, false, fresh);
        let new = |trial: bool| says("new", if trial { "trial" } else { "idle" }, trial, fresh);
        check(Action::Check, &old("idle"), "Goes");
        let mut looked = old("idle");
        (looked["looks"], looked["checked"]) = (json!(1), json!("current"));
        check(
            Action::Check,
            &looked,
            "Done(\"it found nothing newer: current",
        );
        looked["candidate"] = json!({ "version": "new", "sequence": 2, "origin": "http://a" });
        check(Action::Check, &looked, "Done(\"it found version new");
        check(Action::Stage, &old("fetching"), "Goes(\"fetching");
        check(Action::Stage, &old("staged"), "Done");
        check(Action::Apply, &old("idle"), "Goes");
        check(Action::Apply, &new(true), "Goes(\"trial d1: soak");
        check(Action::Apply, &new(false), "Done(\"it runs version new");
        check(Action::Rollback, &new(false), "Done");
        check(Action::Commit, &says("old", "trial", true, fresh), "Goes");
        check(Action::Commit, &old("idle"), "Done");
        check(Action::Commit, &new(false), "Failed");

        let mut back = old("idle");
        back["history"] = json!([{
            "at": null, "digest": "sha256:new", "version": "new", "outcome": "failed", "reason": "hang", "phase": "jump",
        }]);
        check(
            Action::Apply,
            &back,
            "Failed(\"at an unknown time  version new",
        );

        let mut refused = old("idle");
        refused["last_order"] =
            json!({ "nonce": NONCE, "action": "apply", "ok": false, "reason": "memory" });
        check(
            Action::Apply,
            &refused,
            "Failed(\"the machine refused the order (memory): it does not fit",
        );
        refused["last_order"]["nonce"] = json!("3");
        check(
            Action::Apply,
            &refused,
            "Failed(\"an order of somebody was taken instead",
        );
        refused["last_order"] =
            json!({ "nonce": NONCE, "action": "apply", "ok": true, "reason": null });
        check(Action::Apply, &refused, "Goes");
    }

    #[test]
    fn an_order_is_not_taken_while_its_nonce_is_shown() {
        let followed = Followed {
            action: Action::Apply,
            nonce: NONCE.to_owned(),
            before: json!({}),
        };
        assert!(!followed.is_taken(&says("old", "idle", false, NONCE)));
        assert!(!followed.is_taken(&json!({ "nonce": null })));
    }
}
