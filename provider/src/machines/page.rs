//! `/clients` for a person with a browser: one table that renews itself. No script, nothing from elsewhere.

use serde_json::Value;

use crate::out::printable;

/// Seconds until the page is asked for again.
const RENEWED_SECONDS: u32 = 5;

/// The columns: a heading, and the member of the JSON.
const COLUMNS: [(&str, &str); 8] = [
    ("machine", "mac"),
    ("name", "name"),
    ("firmware", "firmware"),
    ("answered", "strategy"),
    ("state", "state"),
    ("boots", "folder"),
    ("bytes", "bytes"),
    ("last heard", "last"),
];

/// The page of what `/clients` says as JSON.
pub(crate) fn page(clients: &Value) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content={RENEWED_SECONDS}>\
         <meta name=viewport content=\"width=device-width\"><title>Phase: machines</title>\
         <style>body{{font:15px system-ui;margin:1em}}table{{border-collapse:collapse}}\
         th,td{{text-align:left;padding:.3em .8em;border-bottom:1px solid #ccc;vertical-align:top}}\
         small{{color:#666}}.failed,.looping,.not-answered{{color:#b00}}.serving{{color:#070}}</style>\
         <h1>Machines</h1>"
    );
    let machines = list(&clients["machines"]);
    page.push_str("<table><tr>");
    for (heading, _) in COLUMNS {
        page.push_str(&format!("<th>{heading}"));
    }
    for machine in machines {
        let state = text(&machine["state"]);
        page.push_str(&format!("<tr class=\"{state}\">"));
        for (heading, member) in COLUMNS {
            let mut cell = text(&machine[member]);
            if heading == "machine" {
                cell.push_str(&format!(
                    "<br><small>{}</small>",
                    escaped(&made_by(machine))
                ));
            }
            if heading == "state" {
                cell.push_str(&format!("<br><small>{}</small>", escaped(&story(machine))));
            }
            page.push_str(&format!("<td>{cell}"));
        }
    }
    page.push_str("</table>");
    if machines.is_empty() {
        page.push_str("<p>No machine has asked for anything yet.");
    }
    let others: Vec<&Value> = list(&clients["clients"])
        .iter()
        .filter(|client| client["mac"].is_null())
        .collect();
    if !others.is_empty() {
        page.push_str(
            "<h2>Other addresses</h2><table><tr><th>address<th>agent<th>requests<th>bytes<th>last",
        );
        for client in others {
            page.push_str("<tr>");
            for member in ["address", "agent", "requests", "bytes", "last"] {
                page.push_str(&format!("<td>{}", text(&client[member])));
            }
        }
        page.push_str("</table>");
    }
    page.push_str("<p><small>The same as JSON: <code>curl -H 'Accept: application/json'</code></small></html>\n");
    page
}

/// Maker and model, as far as they are known.
pub(crate) fn made_by(machine: &Value) -> String {
    let said = |member: &str| machine[member].as_str();
    let maker = said("manufacturer").or(said("maker"));
    let parts = [maker, said("product"), said("serial")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How the boot went, in a line: the stages with their times, and what went wrong.
pub(crate) fn story(machine: &Value) -> String {
    let stages = list(&machine["boot"]["stages"]).iter().map(|stage| {
        let tenths = stage["after_ms"].as_u64().unwrap_or_default() / 100;
        let name = stage["stage"].as_str().unwrap_or_default();
        format!("{name} {}.{} s", tenths / 10, tenths % 10)
    });
    let stages = stages.collect::<Vec<_>>().join(", ");
    let error = machine["boot"]["error"]
        .as_str()
        .or(machine["why"].as_str());
    match (stages.is_empty(), error) {
        (true, None) => String::new(),
        (true, Some(error)) => error.to_owned(),
        (false, None) => stages,
        (false, Some(error)) => format!("{stages}; {error}"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        other => escaped(&other.to_string()),
    }
}

/// Text as it may stand in a page.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_machines_say_stays_text() {
        let evil = "<script>alert(1)</script>\u{1b}\"'&";
        let clients = json!({
            "machines": [{
                "mac": "52:54:00:12:34:56", "name": evil, "state": evil, "product": evil, "bytes": 7,
                "boot": {"stages": [{"stage": "kernel", "after_ms": 12_345}], "error": evil},
            }],
            "clients": [
                {"address": "10.0.0.1", "agent": evil, "requests": 3},
                {"address": "10.0.0.2", "agent": "known", "mac": "52:54:00:12:34:56"},
            ],
        });
        let page = page(&clients);
        assert!(
            !page.contains("<script>") && !page.contains('\u{1b}'),
            "{page}"
        );
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt;?&quot;&#39;&amp;"),
            "{page}"
        );
        assert!(page.contains("kernel 12.3 s"), "{page}");
        assert!(
            page.contains("10.0.0.1") && !page.contains("10.0.0.2"),
            "{page}"
        );
        assert!(super::page(&Value::Null).contains("No machine has asked"));
    }
}
