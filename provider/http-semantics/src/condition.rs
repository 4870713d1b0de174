//! Preconditions (RFC 9110, section 13): whether a request is to be answered in full, with 304, or with 412.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};

/// What a representation is compared by.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// The strong entity tag, with its quotes.
    pub etag: &'a str,
    /// When it was last modified.
    pub modified: SystemTime,
}

/// The outcome, in the order of RFC 9110, 13.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer; the `Range` field counts.
    Proceed,
    /// Answer with the whole: the range was meant for another content.
    ProceedWhole,
    /// 304: the client has it.
    NotModified,
    /// 412: the client means another content.
    Failed,
}

/// Evaluates the preconditions of a GET or HEAD request.
pub fn evaluate(headers: &HeaderMap, has: Validators<'_>) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !listed(headers, &IF_MATCH, has.etag, Compare::Strong) {
            return Verdict::Failed;
        }
    } else if date(headers, &IF_UNMODIFIED_SINCE)
        .is_some_and(|date| whole_seconds(has.modified) > date)
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if listed(headers, &IF_NONE_MATCH, has.etag, Compare::Weak) {
            return Verdict::NotModified;
        }
    } else if date(headers, &IF_MODIFIED_SINCE)
        .is_some_and(|date| whole_seconds(has.modified) <= date)
    {
        return Verdict::NotModified;
    }
    let mut ranges = headers.get_all(IF_RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (None, _) => Verdict::Proceed,
        (Some(tag), None) if tag.as_bytes() == has.etag.as_bytes() => Verdict::Proceed,
        // Another tag, a weak one, or a date. A date names a second, in which a file may change twice, and so is no strong
        // validator (RFC 9110, 8.8.2.2 and 13.1.5). The whole is always a right answer.
        _ => Verdict::ProceedWhole,
    }
}

/// The same for a representation that has neither: no tag names it but `*`, and dates are ignored (RFC 9110, 13.1).
pub fn evaluate_unnamed(headers: &HeaderMap) -> Verdict {
    if headers.contains_key(IF_MATCH) && !listed(headers, &IF_MATCH, "", Compare::Strong) {
        Verdict::Failed
    } else if listed(headers, &IF_NONE_MATCH, "", Compare::Weak) {
        Verdict::NotModified
    } else {
        Verdict::Proceed
    }
}

/// Whether weak tags count as equal to strong ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a list of entity tags names `etag`, or is `*`.
fn listed(headers: &HeaderMap, name: &HeaderName, etag: &str, compare: Compare) -> bool {
    let mut values = headers.get_all(name).iter();
    if let (Some(only), None) = (values.next(), values.next())
        && only.as_bytes().trim_ascii() == b"*"
    {
        return true;
    }
    headers
        .get_all(name)
        .iter()
        .any(|value| names_tag(value.as_bytes(), etag.as_bytes(), compare))
}

/// Whether one line of a list names `etag`. A tag may hold commas, so it ends at its quote.
fn names_tag(mut rest: &[u8], etag: &[u8], compare: Compare) -> bool {
    loop {
        while let Some((b' ' | b'\t' | b',', after)) = rest.split_first() {
            rest = after;
        }
        let (is_weak, tag) = match rest.strip_prefix(b"W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let Some(text) = tag.strip_prefix(b"\"") else {
            return false;
        };
        let Some(length) = text.iter().position(|byte| *byte == b'"') else {
            return false;
        };
        // With both quotes.
        let (tag, after) = tag.split_at(length + 2);
        if tag == etag && !(is_weak && compare == Compare::Strong) {
            return true;
        }
        rest = after;
    }
}

/// A date field; nothing when it is absent, there twice or cannot be read, because such a field is to be ignored.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let (Some(only), None) = (values.next(), values.next()) else {
        return None;
    };
    httpdate::parse_http_date(only.to_str().ok()?).ok()
}

/// HTTP dates have no fraction.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
