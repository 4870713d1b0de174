//! `plasmd provider status|list|keyid`: asks a running provider and shows what it says.
//!
//! Nothing here is verified: it is for people who look after a provider. `phase-verify` and `phase-fetch` verify.

use std::time::Duration;

use bytes::Bytes;
use fetch::Trust;
use serde_json::Value;

use crate::exit::{CommandError, Exit};
use crate::out::{self, printable};
use crate::question::{Question, runtime};
use crate::tls_trust::TlsTrust;

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show the state of a provider
    Status(Args),
    /// List the artifacts of a provider
    List(Args),
    /// Print the key_ids that signed a provider's manifest; whether to trust them is for phase-verify
    Keyid(Args),
}

/// Which provider, and how to show it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// URL of the provider
    #[arg(
        short,
        long,
        value_name = "URL",
        default_value = "http://localhost:8080"
    )]
    addr: String,
    #[command(flatten)]
    tls: TlsTrust,
    /// Print the provider's own JSON
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub(crate) fn run(command: Command) -> Result<Exit, CommandError> {
    let (args, path, show): (_, _, fn(&Value)) = match &command {
        Command::Status(args) => (args, "/status", show_status),
        Command::List(args) => (args, "/manifest.json", show_artifacts),
        Command::Keyid(args) => (args, "/manifest.json", show_key_ids),
    };
    let answer = runtime()?.block_on(ask(&args.addr, path, &args.tls.at(&args.addr)?))?;
    if args.json {
        out::line(String::from_utf8_lossy(&answer).trim_end());
        return Ok(Exit::Done);
    }
    let value = serde_json::from_slice(&answer).map_err(|error| {
        CommandError::failed(format!(
            "{}{path}: the answer is not JSON: {error}",
            args.addr
        ))
        .hint("is this the address of a provider?")
    })?;
    show(&value);
    Ok(Exit::Done)
}

/// What a provider says of its health: whether its status code is good, and the object, null when it sent none.
pub(crate) fn health(base: &str, wait: Duration) -> Result<(bool, Value), CommandError> {
    let question = Question {
        wait,
        ..Question::get(base, "/health")
    };
    let answer = runtime()?.block_on(question.ask(&Trust::System))?;
    let health = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    Ok((answer.status.is_success(), health))
}

async fn ask(base: &str, path: &str, trust: &Trust) -> Result<Bytes, CommandError> {
    let question = Question::get(base, path);
    let answer = question.ask(trust).await?;
    if answer.status.is_success() {
        return Ok(answer.body);
    }
    let (url, status, line) = (question.url(), answer.status, answer.line());
    Err(CommandError::failed(format!("{url}: {status}: {line}")))
}

fn show_status(status: &Value) {
    let text = |pointer: &str| shown(status.pointer(pointer).unwrap_or(&Value::Null));
    out::line(format_args!(
        "provider   {} {}",
        text("/name"),
        text("/version")
    ));
    out::line(format_args!(
        "serves     {}/{}",
        text("/channel"),
        text("/arch")
    ));
    out::line(format_args!("uptime     {} s", text("/uptime_seconds")));
    out::line(format_args!("health     {}", text("/health/status")));
    for (label, list) in [("problem", "/health/problems"), ("note", "/health/notes")] {
        for line in members(status, list) {
            out::line(format_args!("{label:<10} {}", shown(line)));
        }
    }
    out::line(format_args!(
        "requests   {}",
        text("/metrics/requests_total")
    ));
    out::line(format_args!(
        "bytes      {}",
        text("/metrics/bytes_served_total")
    ));
    out::line(format_args!(
        "open       {} connections",
        text("/metrics/connections_open")
    ));
    // Older providers do not say.
    if status.get("process").is_some() {
        out::line(format_args!(
            "process    {} of user {}, {}",
            text("/process/pid"),
            text("/process/uid"),
            text("/process/sandbox")
        ));
    }
    let listeners = status
        .pointer("/process/listeners")
        .and_then(Value::as_array);
    for url in listeners.into_iter().flatten() {
        out::line(format_args!("listens    {}", shown(url)));
    }
    if let Some(pin) = status.pointer("/tls/pin") {
        out::line(format_args!("tls pin    {}", shown(pin)));
    }
    let refusals = status
        .pointer("/metrics/refusals")
        .and_then(Value::as_object);
    for (reason, count) in refusals.into_iter().flatten() {
        let reason = printable(reason);
        out::line(format_args!("refused    {} times: {reason}", shown(count)));
    }
    out::line(format_args!("mdns       {}", text("/mdns")));
    out::line(format_args!("dht        {}", text("/dht")));
    // Older providers do not say.
    if status.get("peers").is_some() {
        out::line(format_args!(
            "peers      {} machines share what they still fetch, {} have all of it",
            text("/peers/fetching"),
            text("/peers/complete")
        ));
    }
    for artifact in members(status, "/artifacts") {
        out::line(format_args!(
            "artifact   {:<12} {:>12} bytes, {} times downloaded  {}",
            shown(&artifact["artifact"]),
            shown(&artifact["size_bytes"]),
            shown(&artifact["downloads_total"]),
            match &artifact["hash"] {
                Value::Null => "not hashed yet".to_owned(),
                hash => shown(hash),
            },
        ));
    }
    if status.get("clients").is_some() {
        show_clients(&status["clients"]);
    }
}

fn members<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// Each client with what it fetched last, and how that ended: the last client last, where the prompt is.
pub(crate) fn show_clients(clients: &Value) {
    let clients: Vec<&Value> = members(clients, "").collect();
    for client in clients.into_iter().rev() {
        let agent = match &client["agent"] {
            Value::Null => String::new(),
            agent => format!(", {}", shown(agent)),
        };
        out::line(format_args!(
            "client     {} ({} requests, {} bytes, last at {}{agent})",
            shown(&client["address"]),
            shown(&client["requests"]),
            shown(&client["bytes"]),
            shown(&client["last"]),
        ));
        for fetch in members(client, "/fetches") {
            out::line(format_args!("           {}", fetched(fetch)));
        }
    }
}

/// What became of one kind of answer, as a sentence.
fn fetched(fetch: &Value) -> String {
    let path = shown(&fetch["path"]);
    let number = |name: &str| fetch[name].as_u64().unwrap_or_default();
    let (bytes, promised) = (number("bytes"), number("bytes_promised"));
    let ending = match fetch["ending"].as_str() {
        Some("complete") => format!("{bytes} bytes in {} ms", number("millis")),
        Some("broken") => format!("BROKEN OFF after {bytes} of {promised} bytes"),
        Some("not-modified") => "had it already".to_owned(),
        Some("refused") => match &fetch["reason"] {
            Value::Null => format!("REFUSED with {}", shown(&fetch["status"])),
            reason => format!(
                "REFUSED with {}: {}",
                shown(&fetch["status"]),
                shown(reason)
            ),
        },
        _ => shown(&fetch["ending"]),
    };
    let id = match &fetch["request_id"] {
        Value::Null => String::new(),
        id => format!(" (request {})", shown(id)),
    };
    match number("count") {
        0 | 1 => format!("{path}: {ending}{id}"),
        count => format!("{path}: {ending}, {count} times{id}"),
    }
}

fn show_artifacts(manifest: &Value) {
    let text = |pointer: &str| shown(manifest.pointer(pointer).unwrap_or(&Value::Null));
    out::line(format_args!(
        "{}/{} version {} (manifest {}, expires {})",
        text("/channel"),
        text("/arch"),
        text("/version"),
        text("/manifest_version"),
        text("/expires_at")
    ));
    match key_ids(manifest).as_slice() {
        [] => out::line(format_args!("unsigned: clients will refuse it")),
        signers => out::line(format_args!(
            "signed by {} (not verified here)",
            signers.join(", ")
        )),
    }
    let artifacts = manifest.pointer("/artifacts").and_then(Value::as_object);
    for (name, artifact) in artifacts.into_iter().flatten() {
        out::line(format_args!(
            "{:<12} {:<24} {:>12}  {}",
            printable(name),
            shown(&artifact["filename"]),
            shown(&artifact["size_bytes"]),
            shown(&artifact["hash"])
        ));
    }
}

/// One key_id a line, for scripts; a remark on stderr when there is none.
fn show_key_ids(manifest: &Value) {
    let signers = key_ids(manifest);
    if signers.is_empty() {
        eprintln!("the manifest of this provider is not signed: clients will refuse it");
    }
    for key_id in signers {
        out::line(key_id);
    }
}

/// Who signed, as the manifest says; not verified.
fn key_ids(manifest: &Value) -> Vec<String> {
    let signatures = manifest.pointer("/signatures").and_then(Value::as_array);
    signatures
        .into_iter()
        .flatten()
        .map(|signature| shown(&signature["key_id"]))
        .collect()
}

/// A value as text that cannot steer a terminal.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_says_cannot_steer_the_terminal() {
        assert_eq!(shown(&Value::from("a\u{1b}[2Jb\n")), "a?[2Jb?");
        assert_eq!(shown(&Value::Null), "unknown");
        assert_eq!(shown(&Value::from(12)), "12");
    }

    #[test]
    fn how_an_answer_ended_is_a_sentence() {
        let fetch = |ending: &str, count: u64| {
            serde_json::json!({
                "path": "/a", "ending": ending, "count": count, "bytes": 5, "bytes_promised": 9, "millis": 3,
                "status": 404, "reason": "not-found",
            })
        };
        assert_eq!(fetched(&fetch("complete", 1)), "/a: 5 bytes in 3 ms");
        assert_eq!(
            fetched(&fetch("broken", 2)),
            "/a: BROKEN OFF after 5 of 9 bytes, 2 times"
        );
        assert_eq!(
            fetched(&fetch("refused", 1)),
            "/a: REFUSED with 404: not-found"
        );
        let odd = serde_json::json!({"ending": "\u{1b}[2J"});
        assert_eq!(fetched(&odd), "unknown: ?[2J");
    }
}
