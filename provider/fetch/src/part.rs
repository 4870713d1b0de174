//! Which bytes of a file an answer carries, or why they cannot be those that were asked for.
//!
//! Every chunk is checked by itself, so no validator (`If-Range`, `If-Match`) is sent: when the file on the server
//! changed meanwhile, its chunks are wrong and say so, and when only its ETag changed (another mirror behind the same
//! name, a copied file) nothing has to be fetched twice. A server that ignores `Range` costs transfer and nothing else.

use std::ops::Range;

use boot_manifest::Artifact;
use http::StatusCode;
use http::header::CONTENT_RANGE;

use crate::client::Answer;
use crate::error::FetchError;
use crate::url::printable;

/// The part of the file an answer carries.
pub(crate) struct Part {
    pub(crate) bytes: Range<u64>,
    pub(crate) first_chunk: usize,
}

impl Part {
    /// Of an answer to a request for `asked`, or for the whole file.
    pub(crate) fn of(
        answer: &Answer,
        artifact: &Artifact,
        first_chunk: usize,
        asked: Option<Range<u64>>,
    ) -> Result<Self, FetchError> {
        let size = artifact.size;
        let part = match (answer.status, asked) {
            (StatusCode::OK, _) => Self {
                bytes: 0..size,
                first_chunk: 0,
            },
            (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
                let (sent, total) = content_range(answer)?;
                if let Some(total) = total {
                    check_length(answer, size, total)?;
                }
                if sent.start != asked.start || sent.end > asked.end {
                    let reason = format!(
                        "bytes {}-{} were asked for and it sends {}-{}",
                        asked.start,
                        asked.end - 1,
                        sent.start,
                        sent.end.saturating_sub(1),
                    );
                    return Err(FetchError::not_http(&answer.url, reason));
                }
                if sent.end < artifact.chunks.range(first_chunk).end {
                    // Nothing in it can be checked: taken as a success, it would be asked for again without end.
                    let reason = "the part that it sends is shorter than a chunk";
                    return Err(FetchError::cut_short(&answer.url, length(&sent), reason));
                }
                Self {
                    bytes: sent,
                    first_chunk,
                }
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                if let Ok((_, Some(total))) = content_range(answer) {
                    check_length(answer, size, total)?;
                }
                return Err(FetchError::status(&answer.url, answer.status));
            }
            (status, _) => return Err(FetchError::status(&answer.url, status)),
        };
        if let Some(announced) = answer.content_length() {
            check_length(answer, length(&part.bytes), announced)?;
        }
        Ok(part)
    }
}

fn check_length(answer: &Answer, expected: u64, found: u64) -> Result<(), FetchError> {
    let url = answer.url.clone();
    match found.cmp(&expected) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(FetchError::TooShort {
            url,
            expected,
            found,
        }),
        std::cmp::Ordering::Greater => Err(FetchError::TooLarge {
            url,
            limit: expected,
            found: Some(found),
        }),
    }
}

/// More came than the part announced.
pub(crate) fn too_much(answer: &Answer, part: &Part) -> FetchError {
    FetchError::TooLarge {
        url: answer.url.clone(),
        limit: length(&part.bytes),
        found: None,
    }
}

pub(crate) fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// `Content-Range` of an answer: the bytes it carries (none for `*`) and the length of the whole file, if it tells.
fn content_range(answer: &Answer) -> Result<(Range<u64>, Option<u64>), FetchError> {
    let value = answer
        .headers
        .get(CONTENT_RANGE)
        .map_or(&b""[..], |value| value.as_bytes());
    let text = String::from_utf8_lossy(value);
    parse_content_range(&text).ok_or_else(|| {
        let reason = format!("Content-Range is {:?}", printable(&text));
        FetchError::not_http(&answer.url, reason)
    })
}

fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    let total = match total {
        "*" => None,
        digits => Some(number(digits)?),
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    if range == "*" {
        return Some((0..0, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1)?;
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, expected) in [
            ("bytes 0-0/1", Some((0..1, Some(1)))),
            ("Bytes 5-9/*", Some((5..10, None))),
            ("bytes */7", Some((0..0, Some(7)))),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes -5/10", None),
            ("bytes 5-/10", None),
            ("bytes +1-2/10", None),
            ("bytes 1-2", None),
            ("items 0-0/1", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text:?}");
        }
    }
}
