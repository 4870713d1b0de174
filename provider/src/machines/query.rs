//! The query of `/boot.ipxe` and `/boot/report`: a few short fields, read strictly.
//!
//! iPXE and `stage` write it: `name=value` with `&` between them, and `%XX` for everything that is no letter, digit or
//! `-._~:+,@`. Whatever does not fit is refused in words, because the one who reads them is debugging a script.

use crate::machines::limits::{QUERY_FIELDS_MAX, QUERY_MAX};
use crate::out::steers;

/// The fields of a query, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query. A field may be empty and must not occur twice.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > QUERY_MAX {
            return Err(format!("the query has more than {QUERY_MAX} bytes"));
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if fields.len() >= QUERY_FIELDS_MAX {
                return Err(format!("the query has more than {QUERY_FIELDS_MAX} fields"));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(format!(
                    "the query has a field called {:?}: names are a-z and 0-9",
                    name.chars().take(20).collect::<String>()
                ));
            }
            if fields.iter().any(|(known, _)| known == name) {
                return Err(format!("the query has two fields called {name}"));
            }
            let value = decoded(value).map_err(|what| format!("{name}: {what}"))?;
            fields.push((name.to_owned(), value));
        }
        Ok(Self(fields))
    }

    /// A field that is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        (!value.is_empty()).then_some(value.as_str())
    }
}

/// A value without its escapes. Text that steers terminals becomes question marks: it is for showing only.
fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || {
                    let digit = char::from(rest.next()?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("has a % without two hexadecimal digits");
                };
                bytes.push(high << 4 | low);
            }
            // What forms do; iPXE never writes it.
            b'+' => bytes.push(b' '),
            0x21..=0x7e => bytes.push(byte),
            _ => return Err("has a byte that must be escaped"),
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text
        .chars()
        .map(|c| if steers(c) { '?' } else { c })
        .collect())
}

/// A value as it is written in a query.
pub(crate) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded() {
        let query =
            Query::parse("mac=52-54-00-12-34-56&product=Standard%20PC%0a&serial=&a&text=a+b")
                .unwrap();
        assert_eq!(query.get("mac"), Some("52-54-00-12-34-56"));
        assert_eq!(query.get("product"), Some("Standard PC?"));
        assert_eq!(query.get("text"), Some("a b"));
        assert_eq!(
            (query.get("serial"), query.get("a"), query.get("b")),
            (None, None, None)
        );
        assert_eq!(Query::parse("").unwrap(), Query::default());
        let turned = Query::parse("a=%E2%80%AEx%C2%85").unwrap();
        assert_eq!(turned.get("a"), Some("?x?"));
        let strange = "a b/ä&=%+\u{1f}";
        let again = Query::parse(&format!("x={}", encoded(strange))).unwrap();
        assert_eq!(again.get("x"), Some("a b/ä&=%+?"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, expected) in [
            ("a=%4", "a: has a % without"),
            ("a=%zz", "a: has a % without"),
            ("a=%", "a: has a % without"),
            ("a=1&a=2", "two fields called a"),
            ("A=1", "called \"A\""),
            ("=1", "called \"\""),
            ("a\u{1b}=1", "called"),
            ("a=\u{e4}", "must be escaped"),
        ] {
            let error = Query::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let many: Vec<String> = (0..=QUERY_FIELDS_MAX).map(|n| format!("a{n}=")).collect();
        assert!(
            Query::parse(&many.join("&"))
                .unwrap_err()
                .contains("fields")
        );
        let long = format!("a={}", "x".repeat(QUERY_MAX));
        assert!(Query::parse(&long).unwrap_err().contains("bytes"));
    }
}
