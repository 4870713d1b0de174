//! A configuration file as text: TOML into keys and values, each with its line. Pure: no file is opened here, and what the
//! keys mean is not known.
//!
//! All problems are reported at once: after a line that is no TOML the rest is still read.

use std::fmt;

use toml::de::{DeArray, DeTable, DeValue};

/// Bytes of a configuration file: every setting with a page of remarks, and a table for each of a thousand machines.
pub(crate) const CONFIG_SIZE_MAX: usize = 256 * 1024;

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

/// Several settings under one heading: `[[profile]]`, or `[machine."MAC"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// The names of the heading: one, or two for a table in a table.
    pub(crate) path: Vec<String>,
    /// The line of the heading, from 1.
    pub(crate) line: usize,
    /// What stands under it, in the order of the lines.
    pub(crate) entries: Vec<Entry>,
}

/// A file that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// What stands above all sections, in the order of the lines.
    pub(crate) entries: Vec<Entry>,
    /// The sections, in the order of the lines.
    pub(crate) sections: Vec<Section>,
    /// What is wrong with it.
    pub(crate) problems: Vec<BadLine>,
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

/// The heading of a group of machines: `[[profile]]`.
const LISTED: &str = "profile";

/// The heading of single machines: `[machine."MAC"]`.
const NAMED: &str = "machine";

/// Reads the text of a file: what is in it, in the order of the lines, and what is wrong with it.
pub(crate) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    if text.len() > CONFIG_SIZE_MAX {
        let reason = format!("has more than {CONFIG_SIZE_MAX} bytes");
        parsed.problems.push(BadLine { line: 0, reason });
        return parsed;
    }
    let mut rest = text.to_owned();
    let mut bad = bad_line(&rest);
    // A bad line is blanked, and the others are read again.
    while let Some((found, start)) = bad.take() {
        let is_blank = !blank(&mut rest, start);
        parsed.problems.push(found);
        if is_blank || parsed.problems.len() == PROBLEMS_MAX {
            return parsed;
        }
        bad = bad_line(&rest);
    }
    let Ok(table) = DeTable::parse(&rest) else {
        return parsed;
    };
    parsed.entries = parsed.read(text, table.get_ref(), true);
    parsed.sections.sort_by_key(|section| section.line);
    let problems = &mut parsed.problems;
    problems.sort_by_key(|problem| problem.line);
    problems.dedup();
    problems.truncate(PROBLEMS_MAX);
    parsed
}

impl Parsed {
    /// The settings of a table. Sections are there at the top only, and go to their list.
    fn read(&mut self, text: &str, table: &DeTable<'_>, is_top: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (key, value) in table {
            let line = line_of(text, key.span().start);
            let name = key.get_ref().to_string();
            let done = match value.get_ref() {
                DeValue::Array(items) if is_top && name == LISTED => self.list(text, items),
                DeValue::Table(tables) if is_top && name == NAMED => self.tables(text, tables),
                value => read(value).map(|value| {
                    entries.push(Entry {
                        key: name.clone(),
                        value,
                        line,
                    });
                }),
            };
            if let Err(reason) = done {
                let reason = format!("{}: {reason}", name.escape_debug());
                self.problems.push(BadLine { line, reason });
            }
        }
        entries.sort_by_key(|entry| entry.line);
        entries
    }

    fn list(&mut self, text: &str, items: &DeArray<'_>) -> Result<(), String> {
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                return Err(format!("write [[{LISTED}]] above each"));
            };
            let line = line_of(text, item.span().start);
            let entries = self.read(text, table, false);
            self.sections.push(Section {
                path: vec![LISTED.to_owned()],
                line,
                entries,
            });
        }
        Ok(())
    }

    fn tables(&mut self, text: &str, tables: &DeTable<'_>) -> Result<(), String> {
        for (key, value) in tables {
            let DeValue::Table(table) = value.get_ref() else {
                return Err(format!("write [{NAMED}.\"MAC\"] above each"));
            };
            let line = line_of(text, key.span().start);
            let entries = self.read(text, table, false);
            self.sections.push(Section {
                path: vec![NAMED.to_owned(), key.get_ref().to_string()],
                line,
                entries,
            });
        }
        Ok(())
    }
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
        DeValue::Table(_) => Err(format!(
            "there are no sections but [[{LISTED}]] and [{NAMED}.\"MAC\"]; every other key stands alone, above them"
        )),
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
        let Parsed {
            entries, problems, ..
        } = parse(text);
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
        let cases: [(&str, &[usize]); 13] = [
            ("port = 1\nport = 2\n", &[2]),
            ("port 8080\nbind = \"::\"\nartifacts = \n", &[1, 3]),
            ("a = 1979-05-27\n", &[1]),
            ("\n[serve]\nport = 1\n", &[2]),
            ("a.b = 1\n", &[1]),
            ("a = [[1]]\n", &[1]),
            ("a = 99999999999999999999\n", &[1]),
            ("a = \"\u{0}\"\n", &[1]),
            ("profile = 1\nmachine = [1]\n", &[]),
            ("\nprofile = [1]\n", &[2]),
            ("[profile]\nname = \"a\"\n", &[1]),
            ("[machine]\na = 1\n", &[1]),
            ("[[profile]]\na = 1\n[[profile]]\nb = {}\n", &[4]),
        ];
        for (text, lines) in cases {
            let problems = parse(text).problems;
            let mut found: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
            found.dedup();
            assert_eq!(found, lines, "{text:?}: {problems:?}");
        }
        let entries = parse("port 8080\nbind = \"::\"\n").entries;
        assert_eq!(entries.len(), 1, "{entries:?}");
    }

    #[test]
    fn sections_stand_below_the_settings() {
        let text =
            "port = 1\n\n[[profile]]\nname = \"a\"\n[machine.\"02-00\"]\nb = [1]\n[[profile]]\n";
        let parsed = parse(text);
        assert_eq!(parsed.problems, []);
        assert_eq!(
            parsed.entries,
            [entry("port", Value::One("1".to_owned()), 1)]
        );
        let shown: Vec<_> = parsed
            .sections
            .iter()
            .map(|section| {
                let keys: Vec<&str> = section.entries.iter().map(|one| one.key.as_str()).collect();
                (section.path.join("."), section.line, keys)
            })
            .collect();
        let expected = [
            ("profile".to_owned(), 3, vec!["name"]),
            ("machine.02-00".to_owned(), 5, vec!["b"]),
            ("profile".to_owned(), 7, vec![]),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_configuration_is_refused_in_few_words() {
        let parsed = parse(&"x\n".repeat(CONFIG_SIZE_MAX));
        assert_eq!((parsed.entries.len(), parsed.problems.len()), (0, 1));
        let problems = parse(&"]\n".repeat(1_000)).problems;
        assert!(problems.len() <= PROBLEMS_MAX);
        assert!(!problems.is_empty());
    }
}
