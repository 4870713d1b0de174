//! Which digests a client wants (RFC 9530, section 4). Only SHA-256 is known here.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::labels::Labels;
use crate::limits::DIGESTS_MAX;

const WANT_REPR: HeaderName = HeaderName::from_static("want-repr-digest");
const WANT_CONTENT: HeaderName = HeaderName::from_static("want-content-digest");

/// The digest of the whole representation, also with a partial answer.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The digest of the bytes of this very answer.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Fits the digests of an answer to what the client wants: `Repr-Digest` is there unless it is not acceptable,
/// `Content-Digest` where it is asked for and the answer is whole, because only then it is known.
pub fn fit(asked: &HeaderMap, labels: &Labels, is_whole: bool, fields: &mut HeaderMap) {
    if asked.contains_key(WANT_REPR) && wish(asked, &WANT_REPR) == Some(0) {
        fields.remove(REPR_DIGEST);
    }
    if is_whole
        && asked.contains_key(WANT_CONTENT)
        && wish(asked, &WANT_CONTENT).is_some_and(|wish| wish > 0)
        && let Some(digest) = labels.fields.get(REPR_DIGEST)
    {
        // Nothing is encoded on the way, so they are the same.
        fields.insert(CONTENT_DIGEST, HeaderValue::clone(digest));
    }
}

/// How much SHA-256 is wanted, from 0 to 10; nothing when it is not named or the field is no dictionary of that kind.
pub fn wish(asked: &HeaderMap, name: &HeaderName) -> Option<u8> {
    let members = asked
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut found = None;
    for member in members.take(DIGESTS_MAX) {
        let member = std::str::from_utf8(member).ok()?.trim_matches([' ', '\t']);
        // Names are in lower case (RFC 8941, 3.2). Parameters mean nothing here.
        let (name, value) = member.split_once('=')?;
        let value = value.split(';').next()?.parse().ok()?;
        if name == "sha-256" {
            // The last of two counts.
            found = Some(value).filter(|value| *value <= 10);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        for (value, expected) in [
            ("sha-256=10", Some(10)),
            ("sha-512=3, sha-256=1", Some(1)),
            ("sha-256=0", Some(0)),
            ("sha-256=5;x=y", Some(5)),
            ("sha-256=1, sha-256=2", Some(2)),
            ("sha-256=11", None),
            ("sha-256=-1", None),
            ("sha-256", None),
            ("sha-512=3", None),
            ("SHA-256=3", None),
            ("", None),
            ("nonsense, sha-256=3", None),
        ] {
            let mut asked = HeaderMap::new();
            asked.insert(WANT_REPR, value.parse().unwrap());
            assert_eq!(wish(&asked, &WANT_REPR), expected, "{value:?}");
        }
    }
}
