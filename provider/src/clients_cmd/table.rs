//! Machines as text: a table for many, a story for one. Pure.

use std::fmt::Write as _;

use serde_json::Value;

use crate::machines::{made_by, story as stages};
use crate::out::printable;
use crate::status_cmd::shown;

/// Characters of the widest cell; a longer text is cut.
const CELL_MAX: usize = 24;

/// The headings.
const HEADINGS: [&str; 9] = [
    "MACHINE", "NAME", "FIRMWARE", "ANSWERED", "STATE", "ADDRESS", "BYTES", "TIME", "HEARD",
];

/// All machines, the last one at the end, where the prompt is; what went wrong stands below its machine.
pub(super) fn list(answer: &Value) -> String {
    let machines: Vec<&Value> = answer["machines"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    if machines.is_empty() {
        return "no machine has asked for anything to boot yet\n".to_owned();
    }
    let mut rows: Vec<[String; HEADINGS.len()]> = vec![HEADINGS.map(str::to_owned)];
    rows.extend(machines.iter().rev().map(|machine| row(machine)));
    let mut widths = [0; HEADINGS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let notes = std::iter::once(None).chain(machines.iter().rev().map(|machine| note(machine)));
    for (row, note) in rows.iter().zip(notes) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if let Some(note) = note {
            let _ = writeln!(text, "    {note}");
        }
    }
    if let Some(line) = peers(&answer["peers"]) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// How many machines pass on what they fetch, while there are any.
fn peers(peers: &Value) -> Option<String> {
    let (fetching, complete) = (peers["fetching"].as_u64()?, peers["complete"].as_u64()?);
    let line = format!("{fetching} share what they still fetch, {complete} share all of it");
    (fetching + complete > 0).then_some(line)
}

fn row(machine: &Value) -> [String; HEADINGS.len()] {
    let cell = |member: &str| match &machine[member] {
        Value::Null => "-".to_owned(),
        value => cut(&shown(value)),
    };
    let name = match (machine["name"].as_str(), made_by(machine)) {
        (Some(name), _) => cut(&printable(name)),
        (None, made) if made.is_empty() => "-".to_owned(),
        (None, made) => cut(&printable(&made)),
    };
    let state = match machine["once"]["way"].as_str() {
        Some("local") => format!("{}, disk once", shown(&machine["state"])),
        Some(_) => format!("{}, once", shown(&machine["state"])),
        None => shown(&machine["state"]),
    };
    let took = machine["boot"]["stages"]
        .as_array()
        .and_then(|stages| stages.last()?["after_ms"].as_u64());
    [
        cell("mac"),
        name,
        cell("firmware"),
        cell("strategy"),
        state,
        machine["addresses"]
            .as_array()
            .and_then(|all| all.first())
            .map_or_else(|| "-".to_owned(), shown),
        size(machine["bytes"].as_u64().unwrap_or_default()),
        took.map_or_else(|| "-".to_owned(), |millis| format!("{} s", millis / 1_000)),
        machine["quiet_seconds"]
            .as_u64()
            .map_or_else(|| "-".to_owned(), ago),
    ]
}

/// What somebody should know about a machine besides its row.
fn note(machine: &Value) -> Option<String> {
    let mac = shown(&machine["mac"]);
    match machine["state"].as_str() {
        Some("waiting") => Some(format!("allow it with: plasmd clients allow {mac}")),
        Some("looping") => Some(format!(
            "it fetches the same again and again; plasmd clients local {mac} sends it to its disk"
        )),
        Some("failed") => Some(shown(&machine["boot"]["error"])),
        _ if !machine["why"].is_null() => Some(shown(&machine["why"])),
        _ => None,
    }
}

/// Everything about one machine.
pub(super) fn story(machine: &Value) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        if !value.is_empty() && value != "unknown" {
            let _ = writeln!(text, "{label:<12} {value}");
        }
    };
    line("machine", shown(&machine["mac"]));
    for member in ["name", "state", "why", "order", "profile"] {
        line(member, shown(&machine[member]));
    }
    if !machine["once"].is_null() {
        let channel = &machine["once"]["channel"];
        let way = shown(&machine["once"]["way"]);
        line(
            "next boot",
            match channel {
                Value::Null => way,
                channel => format!("{way}, {}", shown(channel)),
            },
        );
    }
    line("made by", printable(&made_by(machine)));
    for member in ["firmware", "arch", "class", "uuid", "interface", "relay"] {
        line(member, shown(&machine[member]));
    }
    let addresses = machine["addresses"].as_array().into_iter().flatten();
    line(
        "addresses",
        addresses.map(shown).collect::<Vec<_>>().join(", "),
    );
    line("answered", shown(&machine["strategy"]));
    line("told", shown(&machine["file"]));
    line("boots", shown(&machine["folder"]));
    line("installed", shown(&machine["installed"]));
    line("first seen", shown(&machine["first"]));
    line("last heard", shown(&machine["last"]));
    line("bytes", shown(&machine["bytes"]));
    line("boots seen", shown(&machine["boots"]));
    line("last boot", shown(&machine["boot"]["started"]));
    line("stages", printable(&stages(machine)));
    line("error", shown(&machine["boot"]["error"]));
    text
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CELL_MAX {
        return text.to_owned();
    }
    let short: String = text.chars().take(CELL_MAX - 1).collect();
    format!("{short}~")
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        1..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_of_machines() {
        let answer = json!({ "machines": [
            {
                "mac": "52:54:00:12:34:56", "name": "db1", "firmware": "UEFI PXE", "strategy": "binl",
                "state": "serving", "addresses": ["10.0.0.7"], "bytes": 81_000_000, "quiet_seconds": 12,
                "boot": {"stages": [{"stage": "discover", "after_ms": 0}, {"stage": "serving", "after_ms": 31_400}]},
            },
            {
                "mac": "52:54:00:12:34:57", "maker": "QEMU", "state": "waiting", "bytes": 0, "quiet_seconds": 7_300,
                "once": {"way": "network"},
            },
        ]});
        let expected = "\
MACHINE            NAME  FIRMWARE  ANSWERED  STATE          ADDRESS   BYTES  TIME  HEARD
52:54:00:12:34:57  QEMU  -         -         waiting, once  -         -      -     2 h ago
    allow it with: plasmd clients allow 52:54:00:12:34:57
52:54:00:12:34:56  db1   UEFI PXE  binl      serving        10.0.0.7  81 MB  31 s  12 s ago
";
        assert_eq!(list(&answer), expected);
        let mut sharing = answer.clone();
        for (peers, more) in [
            (json!({ "fetching": 0, "complete": 0 }), ""),
            (
                json!({ "fetching": 1, "complete": 2 }),
                "1 share what they still fetch, 2 share all of it\n",
            ),
        ] {
            sharing["peers"] = peers;
            assert_eq!(list(&sharing), format!("{expected}{more}"));
        }
        assert!(list(&Value::Null).starts_with("no machine"));
    }

    #[test]
    fn what_machines_say_cannot_steer_the_terminal() {
        let evil = "a\u{1b}[2J\nb";
        let machine = json!({
            "mac": "52:54:00:12:34:56", "name": evil, "product": evil, "state": "failed", "firmware": evil,
            "boot": {"error": evil, "stages": [{"stage": evil, "after_ms": 1}]},
        });
        let answer = json!({ "machines": [machine.clone()] });
        for text in [list(&answer), story(&machine)] {
            assert!(!text.contains('\u{1b}'), "{text}");
        }
        assert_eq!(list(&answer).lines().count(), 3);
        assert!(
            story(&machine).contains("stages       a?[2J?b 0.0 s; a?[2J?b"),
            "{}",
            story(&machine)
        );
        assert_eq!(cut(&"x".repeat(30)).len(), CELL_MAX);
    }
}
