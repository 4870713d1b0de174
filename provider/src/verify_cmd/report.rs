//! What `phase-verify` prints: for people, or one object for programs.

use boot_manifest::{Manifest, Verified};
use serde_json::{Value, json};

use super::artifacts::{Checked, Found, shown};
use super::{Args, Format, Outcome, Results};
use crate::out;
use crate::trust::Trust;

/// Prints everything that was found out.
pub(super) fn print(args: &Args, trust: &Trust, results: &Results) {
    match args.format {
        Format::Text => {
            for outcome in &results.outcomes {
                print_text(args, trust, outcome);
            }
            for path in &results.extra {
                out::line(format_args!("EXTRA     {} (in no manifest)", shown(path)));
            }
        }
        Format::Json => out::line(format_args!("{:#}", object(args, trust, results))),
    }
}

fn print_text(args: &Args, trust: &Trust, outcome: &Outcome) {
    let (manifest, checked) = match &outcome.result {
        Ok(good) => good,
        Err(refusal) => {
            out::line(format_args!("FAILED    {}", refusal.about));
            return;
        }
    };
    out::line(format_args!("VERIFIED  {}", shown(&outcome.file)));
    out::line(format_args!(
        "          version {} (sequence {}), {}/{}",
        manifest.version, manifest.sequence, manifest.channel, manifest.arch
    ));
    out::line(format_args!(
        "          signed by key {} (trusted by {})",
        signers(manifest).join(", "),
        trust.file.display()
    ));
    let times = match (args.no_clock, manifest.expired()) {
        (true, _) => "the clock was not asked; expires",
        (false, true) => "EXPIRED",
        (false, false) => "expires",
    };
    out::line(format_args!(
        "          created {}, {times} {}",
        manifest.created_at, manifest.expires_at
    ));
    if let Some(note) = trust.development_note() {
        out::line(format_args!("          note: {note}"));
    }
    for one in checked {
        let (path, name) = (shown(&one.path), &one.artifact.name);
        match &one.found {
            Found::Content(computed, _) => {
                let status = if one.good() { "VERIFIED" } else { "FAILED  " };
                out::line(format_args!("{status}  {path} ({name}) {computed}"));
            }
            Found::Missing => out::line(format_args!("MISSING   {path} ({name})")),
            Found::Unreadable(_) => out::line(format_args!("FAILED    {path} ({name})")),
        }
    }
}

/// One manifest: its own object. Several: a list of such objects under the state of them all.
fn object(args: &Args, trust: &Trust, results: &Results) -> Value {
    let mut objects: Vec<Value> = results
        .outcomes
        .iter()
        .map(|outcome| outcome_object(args, trust, outcome))
        .collect();
    let problems = results.problems(args.strict);
    let first = problems.first();
    let mut whole = match objects.len() {
        1 => objects.remove(0),
        _ => json!({ "manifests": objects }),
    };
    let status = if first.is_some() {
        "FAILED"
    } else {
        "VERIFIED"
    };
    whole["status"] = status.into();
    whole["error"] = json!(first.map(|(_, line)| line));
    whole["code"] = json!(first.map(|(code, _)| code));
    let extra: Vec<String> = results.extra.iter().map(|path| shown(path)).collect();
    whole["extra"] = json!(extra);
    whole
}

fn outcome_object(args: &Args, trust: &Trust, outcome: &Outcome) -> Value {
    let (manifest, checked) = match &outcome.result {
        Ok(good) => good,
        Err(refusal) => {
            return json!({
                "status": "FAILED",
                "file": refusal.about,
                "manifest": outcome.file.display().to_string(),
                "manifest_version": null,
                "channel": null,
                "arch": null,
                "key_id": null,
                "error": refusal.error.to_string(),
                "code": refusal.code,
            });
        }
    };
    let first_bad = checked.iter().find(|one| !one.good());
    let status = if first_bad.is_some() {
        "FAILED"
    } else {
        "VERIFIED"
    };
    let mut object = trust.head(manifest);
    object["status"] = status.into();
    object["manifest"] = outcome.file.display().to_string().into();
    object["generation"] = manifest.generation.into();
    object["security_version"] = manifest.security_version.into();
    object["created_at"] = json!(manifest.created_at);
    object["expires_at"] = json!(manifest.expires_at);
    if args.no_clock {
        object["expired"] = Value::Null;
    }
    object["artifacts"] = checked.iter().map(artifact_object).collect();
    object["error"] = json!(first_bad.and_then(Checked::problem));
    object["code"] = json!(first_bad.and_then(Checked::code));
    object
}

fn artifact_object(one: &Checked) -> Value {
    let (computed, size) = match one.found {
        Found::Content(digest, size) => (Some(digest), Some(size)),
        Found::Missing | Found::Unreadable(_) => (None, None),
    };
    json!({
        "name": one.artifact.name,
        "file": one.path.display().to_string(),
        "status": if one.good() { "VERIFIED" } else { "FAILED" },
        "size_bytes": size,
        "expected": one.artifact.digest,
        "computed": computed,
        "error": one.problem(),
    })
}

fn signers(manifest: &Verified<Manifest>) -> Vec<String> {
    manifest.signers().iter().map(ToString::to_string).collect()
}
