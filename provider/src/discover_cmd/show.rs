//! What `phase-discover` prints.
//!
//! What providers say of themselves is a hint and cannot hold control characters: `discovery` takes those out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::discover_cmd::table::{Number, Provider, Table};
use crate::discover_cmd::{Args, Format};
use crate::out;

/// Prints what was found: the nearest, or with `--all` everything.
pub(super) fn found(table: &Table, nearest: &Provider, args: &Args) {
    match args.format {
        Format::Json => out::line(format_args!("{:#}", object(table, nearest))),
        Format::Text if args.all => {
            for provider in table.ranked().into_iter().filter(|p| p.is_reachable()) {
                out::line(line(provider, args.quiet));
            }
        }
        Format::Text if args.quiet => out::line(nearest.url()),
        Format::Text => out::line(format_args!("MANIFEST_URL={}", nearest.url())),
    }
}

fn object(table: &Table, nearest: &Provider) -> Value {
    let ranked = table.ranked();
    let providers: Vec<Value> = ranked.iter().map(|found| found.to_json()).collect();
    json!({
        "key": table.key(),
        "manifest_url": nearest.url(),
        "peer_id": nearest.id(),
        "provider_count": providers.len(),
        "providers": providers,
    })
}

fn line(provider: &Provider, quiet: bool) -> String {
    let url = provider.url();
    if quiet {
        return url;
    }
    let (id, version) = (provider.id(), &provider.hint.version);
    let time = provider.connect_ms().unwrap_or_default();
    let via = provider.found_by().join(",");
    format!("MANIFEST_URL={url}  {id}  version {version}  {time:.1} ms  {via}")
}

/// What somebody who watches was told.
#[derive(Debug, Default)]
pub(super) struct Watched(BTreeMap<Number, Told>);

#[derive(Debug, Clone, PartialEq)]
struct Told {
    /// What is worth a line when it changes; the time is not.
    facts: String,
    line: String,
    object: Value,
}

impl Watched {
    /// The lines to print for what is different now.
    pub(super) fn news(&mut self, table: &Table, args: &Args) -> Vec<String> {
        let mut now = BTreeMap::new();
        for provider in table.ranked().into_iter().filter(|p| p.is_reachable()) {
            let hint = &provider.hint;
            let told = Told {
                facts: format!("{} {} {:?}", provider.url(), hint.version, hint.manifest),
                line: line(provider, args.quiet),
                object: provider.to_json(),
            };
            now.insert(provider.number, told);
        }
        let lost = self
            .0
            .iter()
            .filter(|(number, _)| !now.contains_key(*number))
            .map(|(_, told)| told.news("lost", args.format));
        let mut lines: Vec<String> = lost.collect();
        for (number, told) in &now {
            match self.0.get(number) {
                None => lines.push(told.news("found", args.format)),
                Some(before) if before.facts != told.facts => {
                    lines.push(told.news("changed", args.format));
                }
                Some(_) => {}
            }
        }
        self.0 = now;
        lines
    }
}

impl Told {
    fn news(&self, event: &str, format: Format) -> String {
        match format {
            Format::Text => format!("{event} {}", self.line),
            Format::Json => {
                let mut object = self.object.clone();
                object["event"] = event.into();
                object.to_string()
            }
        }
    }
}
