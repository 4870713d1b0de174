//! The strict walk over JSON that precedes every typed parse.
//!
//! A JSON text that two readers may understand differently is no JSON text here: equal keys in one object at any depth,
//! numbers that are not integers from 0 to 2^53, more than one value, a byte order mark and deep nesting are refused.
//! serde_json itself refuses invalid UTF-8 and lone surrogates.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::limits::{INTEGER_MAX, JSON_DEPTH_MAX};

/// Why a text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("the member {0:?} occurs twice")]
    DuplicateField(String),
    #[error("there are bytes after the end")]
    TrailingBytes,
    #[error("{0}")]
    Malformed(String),
}

/// The longest excerpt of a parser's message that is passed on.
const REASON_CHARS_MAX: usize = 200;

impl JsonError {
    /// A parser's message may quote the input, which anybody may have written: it is cut and made fit for a terminal.
    fn malformed(error: &serde_json::Error) -> Self {
        let plain = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        Self::Malformed(
            error
                .to_string()
                .chars()
                .take(REASON_CHARS_MAX)
                .map(plain)
                .collect(),
        )
    }
}

/// Parses `bytes` into `T` after the strict walk.
pub(crate) fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::malformed(&error))
}

/// The strict walk alone.
pub(crate) fn check(bytes: &[u8]) -> Result<(), JsonError> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::Malformed(
            "a byte order mark stands before the text".into(),
        ));
    }
    let duplicate = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let walk = Walk {
        depth: 0,
        duplicate: &duplicate,
    };
    if let Err(error) = walk.deserialize(&mut reader) {
        return Err(match duplicate.into_inner() {
            Some(field) => JsonError::DuplicateField(field),
            None => JsonError::malformed(&error),
        });
    }
    reader.end().map_err(|_| JsonError::TrailingBytes)
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    depth: u32,
    duplicate: &'a RefCell<Option<String>>,
}

impl Walk<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > JSON_DEPTH_MAX {
            return Err(E::custom(format_args!(
                "nested deeper than {JSON_DEPTH_MAX} levels"
            )));
        }
        Ok(Self { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer from 0 to 2^53")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        if value > INTEGER_MAX {
            return Err(E::custom(format_args!("the integer {value} is above 2^53")));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while list.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        let mut seen = BTreeSet::new();
        while let Some(field) = object.next_key::<String>()? {
            if seen.contains(&field) {
                *self.duplicate.borrow_mut() = Some(field.chars().take(64).collect());
                return Err(A::Error::custom("duplicate"));
            }
            seen.insert(field);
            object.next_value_seed(deeper)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, reason: &str) {
        let error = check(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }

    #[test]
    fn ordinary_values_pass() {
        for text in [
            "{}",
            " [1,0,9007199254740992]\n",
            "\"\\ud83d\\ude00\"",
            "null",
            "[[[[[[[[1]]]]]]]]",
        ] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn ambiguous_texts_are_refused() {
        refused(r#"{"a":1,"a":1}"#, "\"a\" occurs twice");
        refused(r#"{"a":1,"\u0061":2}"#, "\"a\" occurs twice");
        refused(r#"[{"x":{"b":null,"b":null}}]"#, "\"b\" occurs twice");
        refused("{} {}", "after the end");
        refused("{}\0", "after the end");
        refused("1.0", "integer");
        refused("1e3", "integer");
        refused("-0", "integer");
        refused("-1", "integer");
        refused("9007199254740993", "above 2^53");
        refused("18446744073709551616", "integer");
        refused("\u{feff}{}", "byte order mark");
        refused("[[[[[[[[[1]]]]]]]]]", "deeper than 8");
        refused("\"\\ud800abcdef\"", "hex escape");
        refused("", "EOF");
        refused("{\"a\":1,}", "trailing comma");
    }
}
