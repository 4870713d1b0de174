//! A configuration file as text: TOML into keys and values, each with its line. Pure: no file is opened here, and what the
//! keys mean is not known.
//!
//! All problems are reported at once: after a line that is no TOML the rest is still read.

use std::fmt;

use toml::de::{DeTable, DeValue};

/// Bytes of a configuration file. Every setting with a page of remarks needs a tenth of it.
pub(crate) const CONFIG_SIZE_MAX: usize = 64 * 1024;

/// Problems that are reported; a file that is no configuration at all has one per byte.
pub(crate) const PROBLEMS_MAX: usize = 50;

/// One `key = value` of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// The value.
    pub(crate) value: Value,
    /// The line it begins at, from 1.
    pub(crate) line: usize,
}

/// A value, as text of the kind a flag has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `true` or `false`
    Switch(bool),
    /// A string or a number.
    One(String),
    /// An array of strings and numbers.
    Several(Vec<String>),
}

/// What is wrong in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// The line, from 1; 0 when the file as a whole is meant.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) reason: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.reason)
    }
}

/// Reads the text of a file: what is in it, in the order of the lines, and what is wrong with it.
pub(crate) fn parse(text: &str) -> (Vec<Entry>, Vec<BadLine>) {
    if text.len() > CONFIG_SIZE_MAX {
        let reason = format!("has more than {CONFIG_SIZE_MAX} bytes");
        return (Vec::new(), vec![BadLine { line: 0, reason }]);
    }
    let mut rest = text.to_owned();
    let mut problems = Vec::new();
    let mut bad = bad_line(&rest);
    // A bad line is blanked, and the others are read again.
    while let Some((found, start)) = bad.take() {
        let is_blank = !blank(&mut rest, start);
        problems.push(found);
        if is_blank || problems.len() == PROBLEMS_MAX {
            return (Vec::new(), problems);
        }
        bad = bad_line(&rest);
    }
    let Ok(table) = DeTable::parse(&rest) else {
        return (Vec::new(), problems);
    };
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(text, key.span().start);
        let name = key.get_ref().to_string();
        match read(value.get_ref()) {
            Ok(value) => entries.push(Entry {
                key: name,
                value,
                line,
            }),
            Err(reason) => problems.push(BadLine {
                line,
                reason: format!("{}: {reason}", name.escape_debug()),
            }),
        }
    }
    entries.sort_by_key(|entry| entry.line);
    problems.sort_by_key(|problem| problem.line);
    problems.dedup();
    problems.truncate(PROBLEMS_MAX);
    (entries, problems)
}

/// The first line that is no TOML, and where in it that shows.
fn bad_line(text: &str) -> Option<(BadLine, usize)> {
    let error = DeTable::parse(text).err()?;
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let problem = BadLine {
        line: line_of(text, start),
        reason: error.message().to_owned(),
    };
    Some((problem, start))
}

/// Takes the line at `offset` out of the text, which keeps its length. False when nothing was there.
fn blank(text: &mut String, offset: usize) -> bool {
    let bytes = text.as_bytes();
    let start = bytes[..offset]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let end = bytes[start..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| start + length);
    let had_something = bytes[start..end]
        .iter()
        .any(|byte| !byte.is_ascii_whitespace());
    // Both ends are at line breaks or at the ends of the text, so they are no part of a character.
    text.replace_range(start..end, &" ".repeat(end - start));
    had_something
}

fn read(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::Boolean(switch) => Ok(Value::Switch(*switch)),
        DeValue::Array(items) => items
            .iter()
            .map(|item| one(item.get_ref()))
            .collect::<Result<_, _>>()
            .map(Value::Several),
        DeValue::Table(_) => Err("there are no sections; every key stands alone".to_owned()),
        other => one(other).map(Value::One),
    }
}

fn one(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{} is too large", number.as_str())),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        other => Err(format!(
            "a {} does not belong here; write a string or a number",
            other.type_str()
        )),
    }
}

/// The line of a byte, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: Value, line: usize) -> Entry {
        Entry {
            key: key.to_owned(),
            value,
            line,
        }
    }

    #[test]
    fn values_of_every_kind() {
        let text = "# a remark\nport = 8_080\nbind = \"::\"\n\nno_mdns = true\nhex = 0xff\n\
                    rate = 1.5\nmany = [\n  \"a\",\n  2,\n]\n\"quoted\" = 'x'\n";
        let (entries, problems) = parse(text);
        assert_eq!(problems, []);
        let one = |text: &str| Value::One(text.to_owned());
        assert_eq!(
            entries,
            [
                entry("port", one("8080"), 2),
                entry("bind", one("::"), 3),
                entry("no_mdns", Value::Switch(true), 5),
                entry("hex", one("255"), 6),
                entry("rate", one("1.5"), 7),
                entry("many", Value::Several(vec!["a".into(), "2".into()]), 8),
                entry("quoted", one("x"), 12),
            ]
        );
    }

    #[test]
    fn every_problem_is_reported_with_its_line() {
        let cases: [(&str, &[usize]); 8] = [
            ("port = 1\nport = 2\n", &[2]),
            ("port 8080\nbind = \"::\"\nartifacts = \n", &[1, 3]),
            ("a = 1979-05-27\n", &[1]),
            ("\n[serve]\nport = 1\n", &[2]),
            ("a.b = 1\n", &[1]),
            ("a = [[1]]\n", &[1]),
            ("a = 99999999999999999999\n", &[1]),
            ("a = \"\u{0}\"\n", &[1]),
        ];
        for (text, lines) in cases {
            let (_, problems) = parse(text);
            let mut found: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
            found.dedup();
            assert_eq!(found, lines, "{text:?}: {problems:?}");
        }
        let (entries, _) = parse("port 8080\nbind = \"::\"\n");
        assert_eq!(entries.len(), 1, "{entries:?}");
    }

    #[test]
    fn what_is_no_configuration_is_refused_in_few_words() {
        let (entries, problems) = parse(&"x\n".repeat(CONFIG_SIZE_MAX));
        assert_eq!((entries.len(), problems.len()), (0, 1));
        let (_, problems) = parse(&"]\n".repeat(1_000));
        assert!(problems.len() <= PROBLEMS_MAX);
        assert!(!problems.is_empty());
    }
}
