//! Preconditions (RFC 9110, section 13): whether a request is to be answered in full, with 304, or with 412. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};

/// What a representation is compared by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validators<'a> {
    /// The strong entity tag, with its quotes.
    pub(crate) etag: &'a str,
    /// When it was last modified.
    pub(crate) modified: SystemTime,
}

/// The outcome, in the order of RFC 9110, 13.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
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
pub(crate) fn evaluate(headers: &HeaderMap, has: Validators<'_>) -> Verdict {
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
    match headers
        .get(IF_RANGE)
        .map(|value| value.to_str().unwrap_or_default().trim())
    {
        None => Verdict::Proceed,
        Some(tag) if tag.ends_with('"') => {
            if tag == has.etag {
                Verdict::Proceed
            } else {
                Verdict::ProceedWhole
            }
        }
        // A date has one-second resolution and is a weak validator for what may change twice in a second: a client that
        // knows the tag should send the tag. The whole is always a right answer.
        Some(_) => Verdict::ProceedWhole,
    }
}

/// Whether weak tags count as equal to strong ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a list of entity tags names `etag`, or is `*`. Our tags hold no comma.
fn listed(headers: &HeaderMap, name: &HeaderName, etag: &str, compare: Compare) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| {
            let tag = if compare == Compare::Weak {
                tag.strip_prefix("W/").unwrap_or(tag)
            } else {
                tag
            };
            tag == "*" || tag == etag
        })
}

/// A date field; nothing when it is absent or cannot be read, because such a field is to be ignored.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
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
mod tests {
    use super::*;

    const TAG: &str = "\"abc\"";

    fn check(fields: &[(&'static str, &str)], expected: Verdict) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let modified = UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        assert_eq!(
            evaluate(
                &headers,
                Validators {
                    etag: TAG,
                    modified
                }
            ),
            expected,
            "{fields:?}"
        );
    }

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    #[test]
    fn tags() {
        check(&[], Verdict::Proceed);
        check(&[("if-none-match", TAG)], Verdict::NotModified);
        check(&[("if-none-match", "W/\"abc\"")], Verdict::NotModified);
        check(&[("if-none-match", "\"x\", \"abc\"")], Verdict::NotModified);
        check(
            &[("if-none-match", "\"x\""), ("if-none-match", TAG)],
            Verdict::NotModified,
        );
        check(&[("if-none-match", "*")], Verdict::NotModified);
        check(&[("if-none-match", "\"x\"")], Verdict::Proceed);
        check(&[("if-none-match", "abc")], Verdict::Proceed);
        check(&[("if-match", TAG)], Verdict::Proceed);
        check(&[("if-match", "*")], Verdict::Proceed);
        check(&[("if-match", "W/\"abc\"")], Verdict::Failed);
        check(&[("if-match", "\"x\"")], Verdict::Failed);
    }

    #[test]
    fn dates_count_only_without_tags() {
        check(&[("if-modified-since", THEN)], Verdict::NotModified);
        check(&[("if-modified-since", BEFORE)], Verdict::Proceed);
        check(&[("if-modified-since", "yesterday")], Verdict::Proceed);
        check(
            &[("if-modified-since", THEN), ("if-none-match", "\"x\"")],
            Verdict::Proceed,
        );
        check(&[("if-unmodified-since", THEN)], Verdict::Proceed);
        check(&[("if-unmodified-since", BEFORE)], Verdict::Failed);
        check(
            &[("if-unmodified-since", BEFORE), ("if-match", TAG)],
            Verdict::Proceed,
        );
    }

    #[test]
    fn a_range_of_another_content_becomes_the_whole() {
        check(&[("if-range", TAG)], Verdict::Proceed);
        check(&[("if-range", "W/\"abc\"")], Verdict::ProceedWhole);
        check(&[("if-range", "\"x\"")], Verdict::ProceedWhole);
        check(&[("if-range", THEN)], Verdict::ProceedWhole);
        check(&[("if-range", "")], Verdict::ProceedWhole);
    }
}
