//! Several ranges in one answer: `multipart/byteranges` (RFC 9110, 14.6), with its length known before it is sent.

use std::ops::Range;

use bytes::Bytes;
use http::header::CONTENT_TYPE;

use crate::labels::{Labels, content_range};

/// What is sent for several ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// The media type of the whole answer.
    pub media_type: String,
    /// Bytes of the whole body.
    pub length: u64,
    /// What is sent one after the other: lines, and the range of the content behind them.
    pub parts: Vec<(Bytes, Range<u64>)>,
    /// The last line.
    pub end: Bytes,
}

/// Frames `ranges` of a content.
///
/// The boundary is made of the content's own digest: no content can hold it, except one made by somebody who can choose
/// a SHA-256.
pub fn frame(ranges: &[Range<u64>], labels: &Labels) -> Multipart {
    let boundary = &labels.digest.hex()[..BOUNDARY_SIZE];
    let media_type = labels.fields.get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    let mut length = 0_u64;
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let line_end = if parts.is_empty() { "" } else { "\r\n" };
        let lines = format!(
            "{line_end}--{boundary}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            media_type.unwrap_or("application/octet-stream"),
            content_range(range.start, range.end, labels.size)
        );
        let size = (range.end - range.start).saturating_add(lines.len() as u64);
        length = length.saturating_add(size);
        parts.push((Bytes::from(lines), range.clone()));
    }
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    length = length.saturating_add(end.len() as u64);
    Multipart {
        media_type: format!("multipart/byteranges; boundary={boundary}"),
        length,
        parts,
        end,
    }
}

/// Characters of the boundary; 70 are allowed.
const BOUNDARY_SIZE: usize = 40;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use boot_manifest::Digest;

    use super::*;
    use crate::labels::Facts;

    #[test]
    fn parts_have_their_lines_and_the_length_is_true() {
        let labels = Labels::new(Facts {
            digest: Digest::of(b"hello"),
            size: 1_000,
            modified: UNIX_EPOCH,
            media_type: "application/efi",
            is_artifact: true,
        });
        let framed = frame(&[0..2, 990..1_000], &labels);
        let boundary = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c";
        assert_eq!(
            framed.media_type,
            format!("multipart/byteranges; boundary={boundary}")
        );
        let (lines, range) = &framed.parts[1];
        assert_eq!(range, &(990..1_000));
        assert_eq!(
            lines,
            &format!(
                "\r\n--{boundary}\r\nContent-Type: application/efi\r\nContent-Range: bytes 990-999/1000\r\n\r\n"
            )
        );
        assert!(framed.parts[0].0.starts_with(b"--"));
        assert_eq!(framed.end, format!("\r\n--{boundary}--\r\n"));
        let sent =
            |(lines, range): &(Bytes, Range<u64>)| lines.len() as u64 + range.end - range.start;
        let length: u64 = framed.parts.iter().map(sent).sum();
        assert_eq!(framed.length, length + framed.end.len() as u64);
    }
}
