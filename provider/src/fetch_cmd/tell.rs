//! What `phase-fetch` prints: lines for people, one object for programs.

use std::path::Path;

use boot_manifest::{Manifest, Verified};
use fetch::{FetchError, Report, SourceReport};
use serde_json::{Value, json};

use super::{Args, Done, Failure, State};
use crate::out;
use crate::progress::size;
use crate::share::Shared;
use crate::trust::Trust;

/// The manifest that everything else follows from.
pub(super) fn manifest(args: &Args, trust: &Trust, manifest: &Verified<Manifest>) {
    if args.is_silent() {
        return;
    }
    let signers: Vec<String> = manifest.signers().iter().map(ToString::to_string).collect();
    out::line(format_args!(
        "manifest   {} {}/{}, sequence {}, signed by {} (trusted by {})",
        manifest.version,
        manifest.channel,
        manifest.arch,
        manifest.sequence,
        signers.join(", "),
        trust.file.display(),
    ));
    if let Some(note) = trust.development_note() {
        out::line(format_args!("           note: {note}"));
    }
}

/// An artifact that is there, how it came, and from whom it did not.
pub(super) fn artifact(args: &Args, done: &Done) {
    if args.is_silent() {
        return;
    }
    let how = match &done.state {
        State::AlreadyThere => "already there, verified".to_owned(),
        State::Fetched(report) => {
            let seconds = report.elapsed.as_secs_f64().max(0.001);
            let resumed = match report.bytes_present {
                0 => String::new(),
                bytes => format!(", {} were already there", size(bytes)),
            };
            format!(
                "verified, {seconds:.1} s, {}/s{resumed}",
                size((report.bytes_fetched as f64 / seconds) as u64)
            )
        }
    };
    let (artifact, path) = (&done.artifact, done.path.display());
    out::line(format_args!(
        "{:<10} {path}, {}: {how}",
        artifact.name.as_str(),
        size(artifact.size)
    ));
    let sources = match &done.state {
        State::Fetched(report) => &report.sources[..],
        State::AlreadyThere => &[],
    };
    let (peers, servers): (Vec<&SourceReport>, _) = sources.iter().partition(|one| one.is_peer);
    if sources.len() > 1 {
        for source in servers.iter().filter(|one| one.bytes_kept > 0) {
            let kept = size(source.bytes_kept);
            out::line(format_args!("           {kept} from {}", source.url));
        }
    }
    let gave: Vec<u64> = peers.iter().map(|one| one.bytes_kept).collect();
    let gave = gave.iter().filter(|bytes| **bytes > 0);
    if let bytes @ 1.. = gave.clone().sum() {
        let kept = size(bytes);
        let count = peers_in_words(gave.count());
        out::line(format_args!("           {kept} from {count}"));
    }
    for source in sources.iter().filter(|one| one.wrong_chunks > 0) {
        out::line(format_args!(
            "           {} wrong chunks from {}, replaced",
            source.wrong_chunks, source.url
        ));
    }
    for (code, error) in servers.iter().filter_map(|one| one.dropped.as_ref()) {
        out::line(format_args!("           dropped ({code}): {error}"));
    }
}

/// What others took.
pub(super) fn shared(args: &Args, shared: Option<Shared>) {
    if let Some(Shared { bytes, uploads, .. }) = shared
        && !args.is_silent()
    {
        let bytes = size(bytes);
        out::line(format_args!("shared     {bytes}, in {uploads} requests"));
    }
}

fn peers_in_words(count: usize) -> String {
    match count {
        1 => "1 peer".to_owned(),
        count => format!("{count} peers"),
    }
}

/// The object for programs, of a failure.
pub(super) fn json_failure(failure: &Failure) -> Value {
    json!({
        "status": "failed",
        "code": failure.code,
        "error": failure.error.to_string(),
        "sources": failure.sources,
    })
}

/// What each source said, when several failed.
pub(super) fn json_errors(error: &FetchError) -> Vec<Value> {
    match error {
        FetchError::Exhausted { errors, .. } => errors
            .iter()
            .map(|error| json!({ "code": error.code(), "error": error.to_string() }))
            .collect(),
        _ => Vec::new(),
    }
}

fn json_source(source: &SourceReport) -> Value {
    let dropped = source.dropped.as_ref();
    json!({
        "url": source.url.to_string(),
        "peer": source.is_peer,
        "bytes_kept": source.bytes_kept,
        "bytes_received": source.bytes_received,
        "requests": source.requests,
        "retries": source.retries,
        "wrong_chunks": source.wrong_chunks,
        "dropped": dropped.map(|(code, error)| json!({ "code": code, "error": error })),
    })
}

/// The object for programs.
pub(super) fn json_result(
    trust: &Trust,
    manifest: &Verified<Manifest>,
    path: &Path,
    done: &[Done],
    shared: Option<Shared>,
) -> Value {
    let artifact = |one: &Done| {
        let (state, report) = match &one.state {
            State::AlreadyThere => ("already-there", None),
            State::Fetched(report) if report.bytes_present > 0 => ("resumed", Some(report)),
            State::Fetched(report) => ("fetched", Some(report)),
        };
        json!({
            "name": one.artifact.name,
            "file": one.path.display().to_string(),
            "size_bytes": one.artifact.size,
            "hash": one.artifact.digest,
            "state": state,
            "bytes_fetched": report.map_or(0, |report| report.bytes_fetched),
            "bytes_from_peers": report.map_or(0, Report::bytes_from_peers),
            "bytes_received": report.map_or(0, |report| report.bytes_received),
            "retries": report.map_or(0, |report| report.retries),
            "seconds": report.map_or(0.0, |report| report.elapsed.as_secs_f64()),
            "sources": report.map_or(Vec::new(), |report| report.sources.iter().map(json_source).collect()),
        })
    };
    let mut object = trust.head(manifest);
    object["status"] = "ok".into();
    object["manifest"] = path.display().to_string().into();
    object["artifacts"] = done.iter().map(artifact).collect();
    if let Some(Shared { bytes, uploads, .. }) = shared {
        object["shared"] = json!({ "bytes": bytes, "requests": uploads });
    }
    object
}
