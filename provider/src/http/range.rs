//! The `Range` field (RFC 9110, section 14). Pure.
//!
//! One range is served as asked, clamped to the end. Several ranges, another unit or nonsense get the whole
//! representation, which a server may always send. A range that begins behind the end is an error the client is told.

use http::HeaderMap;
use http::header::RANGE;

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Everything.
    Whole,
    /// The bytes from `start` up to, but not including, `end`; never empty.
    Part {
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
    },
    /// Nothing of it exists.
    Unsatisfiable,
}

/// Reads the `Range` field of a request for a representation of `size` bytes.
pub(crate) fn select(headers: &HeaderMap, size: u64) -> Selection {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Selection::Whole;
    };
    value
        .to_str()
        .map_or(Selection::Whole, |text| parse(text, size))
}

fn parse(text: &str, size: u64) -> Selection {
    let Some((unit, set)) = text.split_once('=') else {
        return Selection::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    // Empty list elements are to be skipped (RFC 9110, 5.6.1.2).
    let mut specs = set
        .split(',')
        .map(str::trim)
        .filter(|spec| !spec.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else {
        return Selection::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Selection::Whole;
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last >= first => part(first, last.saturating_add(1), size),
        (Some(first), None) if last.is_empty() => part(first, size, size),
        (None, Some(suffix)) if first.is_empty() => part(size.saturating_sub(suffix), size, size),
        _ => Selection::Whole,
    }
}

fn part(start: u64, end: u64, size: u64) -> Selection {
    if start >= size {
        return Selection::Unsatisfiable;
    }
    Selection::Part {
        start,
        end: end.min(size),
    }
}

/// Digits only, as large as they like.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Selection::{Part, Unsatisfiable, Whole};

    fn check(text: &str, size: u64, expected: Selection) {
        assert_eq!(parse(text, size), expected, "{text:?} of {size}");
    }

    #[test]
    fn one_range_is_served_and_clamped() {
        check("bytes=0-0", 10, Part { start: 0, end: 1 });
        check("bytes=0-9", 10, Part { start: 0, end: 10 });
        check("bytes=3-5", 10, Part { start: 3, end: 6 });
        check("bytes=3-", 10, Part { start: 3, end: 10 });
        check("bytes=9-", 10, Part { start: 9, end: 10 });
        check("bytes=3-99", 10, Part { start: 3, end: 10 });
        check(
            "bytes=3-99999999999999999999999",
            10,
            Part { start: 3, end: 10 },
        );
        check(
            "bytes=3-18446744073709551615",
            10,
            Part { start: 3, end: 10 },
        );
        check("bytes=-4", 10, Part { start: 6, end: 10 });
        check("bytes=-99", 10, Part { start: 0, end: 10 });
        check(
            "bytes=-99999999999999999999999",
            10,
            Part { start: 0, end: 10 },
        );
        check("Bytes=0-4", 10, Part { start: 0, end: 5 });
        check("bytes= 0-4 ", 10, Part { start: 0, end: 5 });
        check("bytes=,0-4,", 10, Part { start: 0, end: 5 });
    }

    #[test]
    fn what_lies_behind_the_end_is_an_error() {
        for (text, size) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=99999999999999999999999-", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
            ("bytes=0-0", 0),
            ("bytes=-5", 0),
        ] {
            check(text, size, Unsatisfiable);
        }
    }

    #[test]
    fn the_rest_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "bytes=1-2-3",
            "bytes=1- 2",
            "items=0-1",
            "bytes:0-1",
            "=0-1",
            "bytes=\u{0661}-2",
        ] {
            check(text, 10, Whole);
        }
    }

    #[test]
    fn two_fields_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(select(&headers, 10), Part { start: 0, end: 2 });
        headers.append(RANGE, "bytes=3-4".parse().unwrap());
        assert_eq!(select(&headers, 10), Whole);
        assert_eq!(select(&HeaderMap::new(), 10), Whole);
    }
}
