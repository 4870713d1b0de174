//! The `Accept` field (RFC 9110, 12.5.1): whether a client would rather read JSON or text.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::limits::ACCEPT_RANGES_MAX;

/// How much a type is wanted, in thousandths, and how exactly it was named.
type Wish = (u16, u8);

/// Whether errors are better told as `application/problem+json` (RFC 9457) than in a line of text.
///
/// Programs name JSON; people's browsers and curl name other types or none. A client that leaves it open is a person.
pub fn prefers_json(headers: &HeaderMap) -> bool {
    let (json, text) = wishes(headers);
    // Equally wanted: what was named more exactly.
    json.0 > 0 && json > text
}

/// Whether a page is better told as HTML than as JSON: browsers name it.
pub fn prefers_html(headers: &HeaderMap) -> bool {
    let names_html = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .take(ACCEPT_RANGES_MAX)
        .filter_map(media_range)
        .any(|(range, quality)| quality > 0 && range.eq_ignore_ascii_case("text/html"));
    names_html && !prefers_json(headers)
}

/// How much JSON and text are wanted.
fn wishes(headers: &HeaderMap) -> (Wish, Wish) {
    let mut json = (0, 0);
    let mut text = (0, 0);
    let ranges = headers
        .get_all(ACCEPT)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    for range in ranges.take(ACCEPT_RANGES_MAX) {
        let Some((range, quality)) = std::str::from_utf8(range).ok().and_then(media_range) else {
            continue;
        };
        let is = |name: &str| range.eq_ignore_ascii_case(name);
        let any = u8::from(is("*/*"));
        let part = |name: &str| if is(name) { 2 } else { any };
        let of_json = [
            ("application/problem+json", 4),
            ("application/json", 3),
            ("application/*", 2),
        ];
        let exactness = of_json.iter().find(|(name, _)| is(name));
        take(
            &mut json,
            quality,
            exactness.map_or(any, |(_, exact)| *exact),
        );
        let exactness = if is("text/plain") || is("text/html") {
            3
        } else {
            part("text/*")
        };
        take(&mut text, quality, exactness);
    }
    (json, text)
}

/// The most exact range counts; of two equally exact ones, the higher quality.
fn take(wish: &mut Wish, quality: u16, exactness: u8) {
    if exactness > 0 && (exactness, quality) > (wish.1, wish.0) {
        *wish = (quality, exactness);
    }
}

/// A media range without its parameters, and its quality in thousandths.
fn media_range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?;
    let quality = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    match quality {
        None => Some((range, 1_000)),
        Some(quality) => Some((range, thousandths(quality)?)),
    }
}

/// `0`, `0.5`, `1.000`: at most three digits behind the point, at most one in all.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    let is_number = digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let fraction: u16 = format!("{digits:0<3}").parse().ok().filter(|_| is_number)?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefers(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        prefers_json(&headers)
    }

    #[test]
    fn programs_get_json_and_people_get_text() {
        for (value, expected) in [
            ("*/*", false),
            ("", false),
            ("application/json", true),
            ("application/problem+json", true),
            ("Application/JSON", true),
            ("application/*", true),
            ("application/json, */*", true),
            ("application/json, text/plain, */*", false),
            ("application/problem+json, text/plain", true),
            ("text/plain", false),
            ("text/plain;q=0.5, application/json", true),
            ("text/plain, application/json;q=0.9", false),
            ("application/json;q=0", false),
            ("application/json;q=0, */*", false),
            ("*/*;q=0.1, application/json;q=0.2", true),
            ("text/*;q=0.3, application/json;q=0.2", false),
            ("application/json;q=2", false),
            ("application/json;q=0.0001", false),
            ("application/json;q=nan", false),
            ("application/json; charset=utf-8; q=1.000", true),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
                false,
            ),
            ("json", false),
        ] {
            assert_eq!(prefers(&[value]), expected, "{value:?}");
        }
        assert!(prefers(&["text/plain;q=0.1", "application/json"]));
        assert!(!prefers_json(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn more_wanted_is_never_less_preferred(json in 0_u16..=1_000, text in 0_u16..=1_000) {
            let quality = |q: u16| format!("{}.{:03}", q / 1_000, q % 1_000);
            let value = format!("text/plain;q={}, application/json;q={}", quality(text), quality(json));
            let expected = json > text;
            prop_assert_eq!(prefers(&[&value]), expected, "{}", value);
        }

        #[test]
        fn any_value_is_survived(value in "[ -~]{0,80}") {
            prefers(&[&value]);
        }
    }
}
