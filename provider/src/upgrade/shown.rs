//! What a machine does about its image, in words: for a terminal, and as a page of `/upgrade`.
//!
//! It is read as JSON and not as the types of this version, because a terminal asks machines of other versions too. What it
//! does not know it shows as it came.

use std::fmt::Write as _;

use serde_json::Value;
use upgrade::{Reason, Refusal};

use crate::machines::escaped;
use crate::out::printable;

/// What `/status` has of it.
pub(crate) const IN_SHORT: [&str; 9] = [
    "stage",
    "mode",
    "running",
    "default",
    "trial",
    "candidate",
    "waits",
    "checked",
    "ledger",
];

/// Seconds until the page is asked for again.
const RENEWED_SECONDS: u32 = 5;

/// Digits of a digest that tell images apart for people.
const DIGEST_DIGITS: usize = 12;

/// One line: what it is about, and what there is to say.
pub(crate) type Line = (&'static str, String);

/// Everything but the history.
pub(crate) fn lines(status: &Value) -> Vec<Line> {
    let mut lines = vec![("state", state(status))];
    let mut add = |label, text: Option<String>| lines.extend(text.map(|text| (label, text)));
    add("running", status.get("running").and_then(image));
    add("on trial", trial(&status["trial"]));
    add("cold start", status.get("default").and_then(image));
    add("before", status.get("previous").and_then(image));
    add("slot a", status.get("slot_a").and_then(image));
    add("slot b", status.get("slot_b").and_then(image));
    add("found", candidate(&status["candidate"]));
    add(
        "waits",
        code(&status["waits"], |code| {
            Refusal::from_code(code).map(Refusal::text)
        }),
    );
    add("last look", plain(&status["checked"]));
    add(
        "neighbours",
        plain(&status["neighbours"]).map(|count| format!("{count} that serve the same channel")),
    );
    add("machine", Some(machine(status)));
    for failed in failed(status) {
        add("refused", Some(failed));
    }
    lines
}

/// The images that failed there, and why.
pub(crate) fn failed(status: &Value) -> Vec<String> {
    list(&status["quarantine"])
        .iter()
        .map(quarantined)
        .collect()
}

/// What happened, oldest first.
pub(crate) fn history(status: &Value) -> Vec<String> {
    list(&status["history"]).iter().map(entry).collect()
}

/// The image that runs.
pub(crate) fn running(status: &Value) -> String {
    name(&status["running"])
}

/// What goes on just now.
pub(crate) fn in_a_line(status: &Value) -> String {
    let stage = text(&status["stage"]);
    let waits = code(&status["waits"], |code| {
        Refusal::from_code(code).map(Refusal::text)
    });
    let trial = &status["trial"];
    match (trial.is_null(), waits) {
        // Without the seconds that are left: it is said when it changes.
        (false, _) => format!("trial {}: {}", text(&trial["id"]), text(&trial["phase"])),
        (true, Some(waits)) => format!("{stage}: {waits}"),
        (true, None) => stage,
    }
}

/// The page of what `/upgrade` says as JSON. No script, nothing from elsewhere.
pub(crate) fn page(status: &Value) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content={RENEWED_SECONDS}>\
         <meta name=viewport content=\"width=device-width\"><title>Phase: upgrade</title>\
         <style>body{{font:15px system-ui;margin:1em}}table{{border-collapse:collapse}}\
         th,td{{text-align:left;padding:.3em .8em;border-bottom:1px solid #ccc;vertical-align:top}}\
         small{{color:#666}}</style><h1>This machine and its image</h1><table>"
    );
    for (label, text) in lines(status) {
        // Writing to a string cannot fail.
        let _ = write!(page, "<tr><th>{label}<td>{}", escaped(&text));
    }
    page.push_str("</table><h2>What happened</h2><ul>");
    for line in history(status).iter().rev() {
        let _ = write!(page, "<li>{}", escaped(line));
    }
    page.push_str(
        "</ul><p><small>The same as JSON: <code>curl -H 'Accept: application/json'</code>. \
         Orders: <code>plasmd upgrade --help</code></small></html>\n",
    );
    page
}

fn state(status: &Value) -> String {
    let stage = plain(&status["stage"]).unwrap_or_else(|| "unknown".to_owned());
    let mode = plain(&status["mode"]).unwrap_or_else(|| "unknown".to_owned());
    format!("{stage} (phase.upgrade={mode})")
}

/// An image with its proof: `2.1, slot a, sequence 21, proved by a cold start, sha256:...`.
fn image(image: &Value) -> Option<String> {
    if image.is_null() {
        return None;
    }
    let place = match image["place"].as_str() {
        Some("golden") => "the medium".to_owned(),
        Some("memory") => "memory".to_owned(),
        _ => format!("slot {}", text(&image["place"])),
    };
    let proof = match image["proved"].as_bool() {
        Some(true) => "proved by a cold start",
        _ => "not proved by a cold start",
    };
    Some(format!("{}, in {place}, {proof}", name(image)))
}

/// Version, rank and digest of something.
fn name(image: &Value) -> String {
    let generation = match image["generation"].as_u64() {
        Some(generation) if generation > 1 => format!("generation {generation}, "),
        _ => String::new(),
    };
    let sequence = text(&image["sequence"]);
    let (version, digest) = (text(&image["version"]), short(&image["digest"]));
    format!("version {version} ({generation}sequence {sequence}, {digest})")
}

fn trial(trial: &Value) -> Option<String> {
    if trial.is_null() {
        return None;
    }
    let (id, phase) = (text(&trial["id"]), text(&trial["phase"]));
    let left = text(&trial["seconds_left"]);
    let from = short(&trial["from"]);
    Some(format!(
        "trial {id}, {phase}, {left} s left; a failure leads back to {from}"
    ))
}

fn candidate(candidate: &Value) -> Option<String> {
    let origin = candidate.get("origin")?;
    Some(format!("{} at {}", name(candidate), text(origin)))
}

/// What the last look came to.
pub(crate) fn look(status: &Value) -> String {
    let waits = code(&status["waits"], |code| {
        Refusal::from_code(code).map(Refusal::text)
    });
    match (candidate(&status["candidate"]), waits) {
        (Some(found), Some(waits)) => format!("it found {found}; {waits}"),
        (Some(found), None) => format!("it found {found}"),
        (None, _) => format!("it found nothing newer: {}", text(&status["checked"])),
    }
}

fn machine(status: &Value) -> String {
    let ledger = match status["ledger"].as_str() {
        Some("disk") => "remembers on its disk".to_owned(),
        Some("memory") => "remembers nothing after a cold start".to_owned(),
        Some("failed") => "CANNOT WRITE its record on the disk".to_owned(),
        _ => format!("ledger {}", text(&status["ledger"])),
    };
    let watchdog = match status["watchdog"].as_bool() {
        Some(true) => "a watchdog is armed",
        _ => "no watchdog",
    };
    let floor = text(&status["floor"]);
    format!("{ledger}; {watchdog}; security version {floor} or newer")
}

fn quarantined(failed: &Value) -> String {
    let rank = format!("sequence {}", text(&failed["rank"]["sequence"]));
    let failure = &failed["failure"];
    let reason = reason(&failure["reason"]);
    let phase = text(&failure["phase"]);
    let detail = match failure["detail"].as_str() {
        None | Some("") => String::new(),
        Some(detail) => format!(": {}", printable(detail)),
    };
    let digest = short(&failed["digest"]);
    format!("{digest} ({rank}): {reason} (in {phase}){detail}")
}

/// One line of the history.
pub(crate) fn entry(entry: &Value) -> String {
    let at = entry["at"].as_u64().and_then(|at| i64::try_from(at).ok());
    let at = at.map_or_else(
        || "at an unknown time".to_owned(),
        |at| boot_manifest::Timestamp::from_unix(at).to_string(),
    );
    let outcome = match entry["outcome"].as_str() {
        Some("committed") => "proved itself after kexec and was committed".to_owned(),
        Some("proved") => "proved itself after a cold start".to_owned(),
        Some("failed") => format!(
            "FAILED: {} (in {})",
            reason(&entry["reason"]),
            text(&entry["phase"])
        ),
        Some("returned") => "was returned to".to_owned(),
        _ => text(&entry["outcome"]),
    };
    let (version, digest) = (text(&entry["version"]), short(&entry["digest"]));
    format!("{at}  version {version} ({digest}) {outcome}")
}

fn reason(value: &Value) -> String {
    let known = |code: &str| Reason::from_code(code).map(Reason::text);
    code(value, known).unwrap_or_else(|| "unknown".to_owned())
}

/// A stable name with its sentence, as far as this version knows it.
fn code(value: &Value, known: impl Fn(&str) -> Option<&'static str>) -> Option<String> {
    let code = value.as_str()?;
    Some(match known(code) {
        Some(sentence) => format!("{sentence} ({code})"),
        None => printable(code),
    })
}

fn short(digest: &Value) -> String {
    let digest = text(digest);
    let digits = digest.len() - digest.find(':').map_or(0, |at| at + 1);
    let cut = digits.saturating_sub(DIGEST_DIGITS);
    digest
        .get(..digest.len() - cut)
        .unwrap_or(&digest)
        .to_owned()
}

fn plain(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| text(value))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        let image = json!({
            "digest": format!("sha256:{}", "ab".repeat(32)), "place": "a", "version": "2.1", "sequence": 21,
            "generation": 1, "security_version": 1, "proved": false,
        });
        json!({
            "mode": "auto", "stage": "trial", "running": image, "default": null, "previous": null,
            "slot_a": image, "slot_b": null,
            "trial": { "id": "d7", "phase": "soak", "from": format!("sha256:{}", "cd".repeat(32)), "seconds_left": 412 },
            "candidate": null, "waits": "window", "checked": "up-to-date", "neighbours": 2, "ledger": "disk",
            "watchdog": true, "floor": 1,
            "quarantine": [{
                "digest": "sha256:00", "rank": { "generation": 1, "sequence": 20 }, "trials": 1,
                "failure": { "reason": "self-test", "phase": "serve", "detail": "tftp: <no> answer\u{1b}" },
            }],
            "history": [
                { "at": 1_795_255_200, "digest": "sha256:00", "version": "2.0", "outcome": "failed", "reason": "hang",
                  "phase": "jump" },
                { "at": null, "digest": "sha256:01", "version": "1.0", "outcome": "later", "phase": "soak" },
            ],
        })
    }

    #[test]
    fn a_status_is_a_few_sentences() {
        let text: String = lines(&status())
            .iter()
            .map(|(label, text)| format!("{label}: {text}\n"))
            .collect();
        assert_eq!(
            text,
            "state: trial (phase.upgrade=auto)\n\
             running: version 2.1 (sequence 21, sha256:abababababab), in slot a, not proved by a cold start\n\
             on trial: trial d7, soak, 412 s left; a failure leads back to sha256:cdcdcdcdcdcd\n\
             slot a: version 2.1 (sequence 21, sha256:abababababab), in slot a, not proved by a cold start\n\
             waits: outside of the maintenance window (window)\n\
             last look: up-to-date\n\
             neighbours: 2 that serve the same channel\n\
             machine: remembers on its disk; a watchdog is armed; security version 1 or newer\n\
             refused: sha256:00 (sequence 20): it did not serve what it should (self-test) (in serve): \
             tftp: <no> answer?\n"
        );
        assert_eq!(
            history(&status()),
            [
                "2026-11-21T10:00:00Z  version 2.0 (sha256:00) FAILED: it hung: the watchdog restarted the machine (hang) \
                 (in jump)",
                "at an unknown time  version 1.0 (sha256:01) later",
            ]
        );
    }

    #[test]
    fn a_page_shows_what_machines_say_as_text() {
        let page = page(&status());
        assert!(page.contains("tftp: &lt;no&gt; answer?"), "{page}");
        assert!(!page.contains("<no>"));
        // Whatever another version says is shown somehow.
        for odd in [
            json!({}),
            json!({ "running": 7, "history": {}, "trial": [] }),
        ] {
            assert!(super::page(&odd).contains("state"), "{odd}");
        }
    }
}
