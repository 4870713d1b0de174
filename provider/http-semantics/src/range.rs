//! The `Range` field (RFC 9110, section 14).
//!
//! One range is served as asked, clamped to the end. Several are served as several parts, those that touch or nearly
//! touch as one. Another unit or nonsense gets the whole representation, which a server may always send, and so do so
//! many or so overlapping ranges that only an attacker asks for them. When nothing asked for exists, the client is told.

use std::ops::Range;

use http::HeaderMap;
use http::header::RANGE;

use crate::limits::{GAP_MAX, OVERLAPS_MAX, RANGES_MAX};

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    Whole,
    /// The bytes from `start` up to, but not including, `end`; never empty.
    Part {
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
    },
    /// Two or more parts, none empty, none touching another, in the order they were asked for.
    Parts(Vec<Range<u64>>),
    /// Nothing of it exists.
    Unsatisfiable,
}

/// Reads the `Range` field of a request for a representation of `size` bytes.
pub fn select(headers: &HeaderMap, size: u64) -> Selection {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Selection::Whole;
    };
    value
        .to_str()
        .map_or(Selection::Whole, |text| parse(text, size))
}

/// Reads the value of a `Range` field.
pub fn parse(text: &str, size: u64) -> Selection {
    let Some((unit, set)) = text.split_once('=') else {
        return Selection::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let mut named = 0;
    let mut asked = Vec::new();
    // Empty list elements are to be skipped (RFC 9110, 5.6.1.2).
    for spec in set
        .split(',')
        .map(|spec| spec.trim_matches([' ', '\t']))
        .filter(|spec| !spec.is_empty())
    {
        named += 1;
        if named > RANGES_MAX {
            return Selection::Whole;
        }
        match one(spec, size) {
            None => return Selection::Whole,
            Some(range) if range.is_empty() => {}
            Some(range) => asked.push(range),
        }
    }
    match (named, asked.as_slice()) {
        (0, _) => Selection::Whole,
        (_, []) => Selection::Unsatisfiable,
        (1, [only]) => part(only),
        _ => several(&asked, size),
    }
}

/// One range, clamped; empty when nothing of it exists, and nothing when it is no range.
fn one(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last >= first => {
            Some(first.min(size)..last.saturating_add(1).min(size))
        }
        (Some(first), None) if last.is_empty() => Some(first.min(size)..size),
        (None, Some(suffix)) if first.is_empty() => Some(size.saturating_sub(suffix)..size),
        _ => None,
    }
}

/// Puts together what overlaps or nearly touches. Quadratic in a number that is small.
fn several(asked: &[Range<u64>], size: u64) -> Selection {
    let overlaps = |at: usize| {
        let range = &asked[at];
        asked[..at]
            .iter()
            .any(|earlier| range.start < earlier.end && earlier.start < range.end)
    };
    if (0..asked.len()).filter(|at| overlaps(*at)).count() > OVERLAPS_MAX {
        return Selection::Whole;
    }
    let mut parts: Vec<Range<u64>> = Vec::with_capacity(asked.len());
    for range in asked {
        let mut range = range.clone();
        // Where the first of those it is put together with stood.
        let mut place = parts.len();
        while let Some(at) = parts.iter().position(|part| are_near(part, &range)) {
            let part = parts.remove(at);
            range = range.start.min(part.start)..range.end.max(part.end);
            place = place.min(at);
        }
        parts.insert(place.min(parts.len()), range);
    }
    if let [only] = parts.as_slice() {
        return part(only);
    }
    // Parts with their lines that are longer than the whole help nobody.
    let sent = parts
        .iter()
        .map(|part| (part.end - part.start).saturating_add(GAP_MAX))
        .fold(0, u64::saturating_add);
    if sent >= size {
        return Selection::Whole;
    }
    Selection::Parts(parts)
}

fn are_near(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start <= other.end.saturating_add(GAP_MAX) && other.start <= one.end.saturating_add(GAP_MAX)
}

fn part(range: &Range<u64>) -> Selection {
    Selection::Part {
        start: range.start,
        end: range.end,
    }
}

/// Digits only, as large as they like.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
