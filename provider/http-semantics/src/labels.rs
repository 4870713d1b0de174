//! What is said about a content: the fields of its answers, as values and as they are on the wire.
//!
//! Firmware wants `Content-Length` and exact media types always, and some compares names of fields letter by letter:
//! names are in Title-Case.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digests::REPR_DIGEST;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boot_manifest::Digest;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    LAST_MODIFIED,
};

/// The digest of the whole artifact, also with a partial answer.
const ARTIFACT_HASH: HeaderName = HeaderName::from_static("x-artifact-hash");

/// Fields of a content's answer, with room for `Content-Range`, `Connection`, a request id and the date.
const FIELDS_MAX: usize = 14;

/// What is said about a content. Made once for each content, because writing it out costs more than sending it.
#[derive(Debug, Clone)]
pub struct Labels {
    /// The strong entity tag, with its quotes.
    pub etag: String,
    /// When the content was last modified.
    pub modified: SystemTime,
    /// How many bytes it has.
    pub size: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Whether they are an artifact.
    pub is_artifact: bool,
    /// The fields of an answer with the whole content; `Content-Length` is the first.
    pub fields: HeaderMap,
    /// The same as on the wire: the status line of a 200 and every field with its line end. `Date`, and the empty line,
    /// are for the sender to add.
    pub head: Bytes,
    /// Where in `head` the fields behind `Content-Length` begin.
    rest: usize,
}

/// What labels are made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The digest of the bytes: the entity tag.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// When they were last modified; never later than now (RFC 9110, 8.8.2.1).
    pub modified: SystemTime,
    /// Their media type.
    pub media_type: &'static str,
    /// Whether to name the digest in `X-Artifact-Hash` too.
    pub is_artifact: bool,
}

impl Labels {
    /// The labels of a content.
    pub fn new(facts: Facts) -> Self {
        let etag = format!("\"{}\"", facts.digest.hex());
        let mut fields = HeaderMap::with_capacity(FIELDS_MAX);
        fields.insert(CONTENT_LENGTH, facts.size.into());
        set(&mut fields, ETAG, &etag);
        set(&mut fields, LAST_MODIFIED, &http_date(facts.modified));
        if facts.is_artifact {
            set(&mut fields, ARTIFACT_HASH, &facts.digest.to_string());
        }
        let digest = STANDARD.encode(facts.digest.as_bytes());
        set(&mut fields, REPR_DIGEST, &format!("sha-256=:{digest}:"));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(facts.media_type));
        fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // The name may get another content at any time; the entity tag makes asking again cheap.
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        let mut rest = 0;
        for (name, value) in &fields {
            write_field(&mut head, name, value);
            if *name == CONTENT_LENGTH {
                rest = head.len();
            }
        }
        Self {
            etag,
            modified: facts.modified,
            size: facts.size,
            digest: facts.digest,
            is_artifact: facts.is_artifact,
            fields,
            head: head.into(),
            rest,
        }
    }

    /// The head of an answer with the bytes `start..end`, as `head` is that of one with all of them.
    pub fn part_head(&self, start: u64, end: u64) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.head.len() + 64);
        let length = end - start;
        let first = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n");
        head.extend_from_slice(first.as_bytes());
        head.extend_from_slice(&self.head[self.rest..]);
        let range = content_range(start, end, self.size);
        head.extend_from_slice(format!("Content-Range: {range}\r\n").as_bytes());
        head
    }
}

/// The value of `Content-Range` for `start..end` of `size` bytes. A part is never empty.
pub fn content_range(start: u64, end: u64, size: u64) -> String {
    format!("bytes {start}-{}/{size}", end.saturating_sub(1))
}

/// Writes one line of a head, the name in Title-Case.
pub fn write_field(head: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let mut is_first = true;
    for byte in name.as_str().bytes() {
        head.push(if is_first {
            byte.to_ascii_uppercase()
        } else {
            byte
        });
        is_first = byte == b'-';
    }
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
}

fn set(fields: &mut HeaderMap, name: HeaderName, value: &str) {
    // Our own values are ASCII without control characters; one that were not would be left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(name, value);
    }
}

/// HTTP dates exist from 1970 to 9999; a file's time stamp can be anything.
pub fn http_date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
        .min(HTTP_DATE_MAX);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// 9999-12-31T23:59:59Z.
const HTTP_DATE_MAX: u64 = 253_402_300_799;

/// The media type of a file. Firmware compares the first three letter by letter, and goes by the end of the path when it
/// knows nothing of the type.
pub fn media_type(file: &str) -> &'static str {
    const UNKNOWN: &str = "application/octet-stream";
    let Some((name, extension)) = file.rsplit_once('.') else {
        return UNKNOWN;
    };
    match extension.to_ascii_lowercase().as_str() {
        "efi" => "application/efi",
        "iso" => "application/vnd.efi-iso",
        // An archive for a kernel, which no firmware can start as a disk.
        "img" if name.starts_with("initr") => UNKNOWN,
        "img" => "application/vnd.efi-img",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(is_artifact: bool) -> Labels {
        Labels::new(Facts {
            digest: Digest::of(b"hello"),
            size: 5,
            modified: UNIX_EPOCH + Duration::from_millis(784_111_777_500),
            media_type: "application/efi",
            is_artifact,
        })
    }

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn the_head_is_what_firmware_and_programs_expect() {
        let expected = format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Length: 5\r\n\
             Etag: \"{HELLO}\"\r\n\
             Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             X-Artifact-Hash: sha256:{HELLO}\r\n\
             Repr-Digest: sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:\r\n\
             Content-Type: application/efi\r\n\
             Accept-Ranges: bytes\r\n\
             Cache-Control: no-cache\r\n"
        );
        assert_eq!(labels(true).head, expected);
        let without = expected.replace(&format!("X-Artifact-Hash: sha256:{HELLO}\r\n"), "");
        assert_eq!(labels(false).head, without);
    }

    #[test]
    fn the_head_of_a_part_has_its_length_and_place() {
        let labels = labels(true);
        let whole = String::from_utf8(labels.head.to_vec()).unwrap();
        let expected = whole
            .replace("200 OK", "206 Partial Content")
            .replace("Content-Length: 5", "Content-Length: 2")
            + "Content-Range: bytes 1-2/5\r\n";
        assert_eq!(String::from_utf8(labels.part_head(1, 3)).unwrap(), expected);
    }

    #[test]
    fn types_are_exact() {
        for (file, expected) in [
            ("phase.efi", "application/efi"),
            ("BOOTX64.EFI", "application/efi"),
            ("phase.iso", "application/vnd.efi-iso"),
            ("phase.img", "application/vnd.efi-img"),
            ("initramfs.img", "application/octet-stream"),
            ("initrd.img", "application/octet-stream"),
            ("manifest.json", "application/json"),
            ("vmlinuz", "application/octet-stream"),
            ("rootfs.squashfs", "application/octet-stream"),
            ("efi", "application/octet-stream"),
        ] {
            assert_eq!(media_type(file), expected, "{file}");
        }
    }

    #[test]
    fn dates_before_and_after_all_dates_are_written() {
        assert_eq!(
            http_date(UNIX_EPOCH - Duration::from_secs(1)),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
        assert_eq!(
            http_date(UNIX_EPOCH + Duration::from_secs(1 << 40)),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }
}
