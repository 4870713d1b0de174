//! The map that a machine gives of what it has: the answer to `GET /have?manifest=sha256:HEX`.
//!
//! ```text
//! {"manifest":"sha256:..","artifacts":[{"digest":"sha256:..","chunks":11,"have":"ffe0","coming":"0010"}]}
//! ```
//!
//! Per artifact a row of bits in hexadecimal digits, the first chunk in the highest bit of the first byte, spare bits at
//! the end zero: which chunks it has and serves, and which are on their way to it. `coming` may be missing.
//!
//! A map is a claim and nothing else: what it leads to is checked chunk by chunk.

use boot_manifest::Digest;
use serde::{Deserialize, Serialize};

use crate::limits::{ARTIFACTS_MAX, HAVE_SIZE_MAX};
use crate::pieces::{File, Pieces};
use crate::set::PieceSet;

/// Which pieces a machine has, and which are on their way to it, in the reader's numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// It has and serves them.
    pub have: PieceSet,
    /// They are on their way to it.
    pub coming: PieceSet,
}

/// An answer that is no map or no list of peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is longer than any honest one.
    #[error("it has {found} bytes; {limit} are allowed")]
    TooLong {
        /// Its length.
        found: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// It is no JSON, or not of this form.
    #[error("it is not of this form: {0}")]
    Malformed(String),
    /// It is about another manifest.
    #[error("it is about another manifest, {0}")]
    OtherManifest(Digest),
    /// There are more entries than any honest one has.
    #[error("it has more than {0} entries")]
    TooMany(usize),
    /// A row of bits has not the length that the artifact's size gives, or bits that stand for nothing.
    #[error("the bits of {0} do not fit its size")]
    Bits(Digest),
}

#[derive(Serialize, Deserialize)]
struct Text {
    manifest: Digest,
    artifacts: Vec<ArtifactText>,
}

#[derive(Serialize, Deserialize)]
struct ArtifactText {
    digest: Digest,
    chunks: usize,
    have: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    coming: String,
}

/// The map as text.
pub fn write(manifest: &Digest, pieces: &Pieces, map: &Map) -> String {
    let artifact = |file: &File| {
        let coming = map.coming.iter().any(|piece| file.row().contains(&piece));
        ArtifactText {
            digest: file.digest,
            chunks: file.count,
            have: digits(file, &map.have),
            coming: if coming {
                digits(file, &map.coming)
            } else {
                String::new()
            },
        }
    };
    let text = Text {
        manifest: *manifest,
        artifacts: pieces.files().iter().map(artifact).collect(),
    };
    serde_json::to_string(&text).expect("digests, numbers and digits are JSON")
}

/// Reads a map of the files in `pieces`. Artifacts that are not among them are passed over, and of those that it does not
/// name nothing is there.
pub fn parse(text: &[u8], manifest: &Digest, pieces: &Pieces) -> Result<Map, FormatError> {
    let text: Text = read(text, HAVE_SIZE_MAX)?;
    if text.manifest != *manifest {
        return Err(FormatError::OtherManifest(text.manifest));
    }
    if text.artifacts.len() > ARTIFACTS_MAX {
        return Err(FormatError::TooMany(ARTIFACTS_MAX));
    }
    let mut map = Map {
        have: PieceSet::new(pieces.count()),
        coming: PieceSet::new(pieces.count()),
    };
    for artifact in &text.artifacts {
        // Two files of one content are two rows of pieces.
        let files = pieces.files().iter();
        for file in files.filter(|file| file.digest == artifact.digest) {
            let wrong = || FormatError::Bits(file.digest);
            if artifact.chunks != file.count {
                return Err(wrong());
            }
            take_bits(file, &artifact.have, &mut map.have).ok_or_else(wrong)?;
            if !artifact.coming.is_empty() {
                take_bits(file, &artifact.coming, &mut map.coming).ok_or_else(wrong)?;
            }
        }
    }
    Ok(map)
}

/// Parses JSON of bounded length. A parser's message may quote what anybody wrote, so it is cut and made fit for a log.
pub(crate) fn read<'a, T: Deserialize<'a>>(text: &'a [u8], limit: usize) -> Result<T, FormatError> {
    const REASON_CHARS_MAX: usize = 100;
    if text.len() > limit {
        let found = text.len();
        return Err(FormatError::TooLong { found, limit });
    }
    serde_json::from_slice(text).map_err(|error| {
        let plain = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        let reason = error.to_string();
        let reason = reason.chars().take(REASON_CHARS_MAX).map(plain).collect();
        FormatError::Malformed(reason)
    })
}

fn digits(file: &File, set: &PieceSet) -> String {
    let nibble = |at: usize| {
        let bit = |chunk: usize| {
            let there = chunk < file.count && set.contains(file.first + chunk);
            u32::from(there)
        };
        (0..4).fold(0, |nibble, place| nibble << 1 | bit(at * 4 + place))
    };
    let digit = |at| char::from_digit(nibble(at), 16).expect("four bits are one digit");
    (0..digit_count(file)).map(digit).collect()
}

/// Whole bytes, two digits each.
fn digit_count(file: &File) -> usize {
    file.count.div_ceil(8) * 2
}

fn take_bits(file: &File, digits: &str, set: &mut PieceSet) -> Option<()> {
    if digits.len() != digit_count(file) {
        return None;
    }
    for (at, digit) in digits.bytes().enumerate() {
        // One map has one spelling.
        if digit.is_ascii_uppercase() {
            return None;
        }
        let nibble = char::from(digit).to_digit(16)?;
        for place in (0..4).filter(|place| nibble >> (3 - place) & 1 == 1) {
            let chunk = at * 4 + place;
            if chunk >= file.count {
                return None;
            }
            set.insert(file.first + chunk);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pieces() -> Pieces {
        let file = |name: &[u8], size| (Digest::of(name), size);
        Pieces::new([file(b"a", 11 * MIB), file(b"b", 1), file(b"c", 64 * MIB)])
    }

    fn map(have: &[usize], coming: &[usize]) -> Map {
        let set = |pieces: &[usize]| PieceSet::of(76, pieces.iter().copied());
        Map {
            have: set(have),
            coming: set(coming),
        }
    }

    #[test]
    fn the_text_is_what_the_documentation_says() {
        let a = Digest::of(b"a");
        let manifest = Digest::of(b"manifest");
        let pieces = Pieces::new([(a, 11 * MIB)]);
        let map = Map {
            have: PieceSet::full(11),
            coming: PieceSet::of(11, [10]),
        };
        let expected = format!(
            r#"{{"manifest":"{manifest}","artifacts":[{{"digest":"{a}","chunks":11,"have":"ffe0","coming":"0020"}}]}}"#
        );
        assert_eq!(write(&manifest, &pieces, &map), expected);
    }

    #[test]
    fn the_largest_map_fits_the_limit() {
        let file = |index: usize| (Digest::of(&[index as u8]), 1024 * 64 * MIB);
        let pieces = Pieces::new((0..ARTIFACTS_MAX).map(file));
        let full = PieceSet::full(pieces.count());
        let map = Map {
            have: full.clone(),
            coming: full,
        };
        let manifest = Digest::of(b"");
        let text = write(&manifest, &pieces, &map);
        assert!(text.len() <= HAVE_SIZE_MAX, "{}", text.len());
        assert_eq!(parse(text.as_bytes(), &manifest, &pieces), Ok(map));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (manifest, other, a) = (Digest::of(b"m"), Digest::of(b"other"), Digest::of(b"a"));
        let artifact = |chunks, have, coming| {
            format!(r#"{{"digest":"{a}","chunks":{chunks},"have":"{have}","coming":"{coming}"}}"#)
        };
        let whole =
            |manifest, list: &str| format!(r#"{{"manifest":"{manifest}","artifacts":[{list}]}}"#);
        let bits = Err(FormatError::Bits(a));
        let check = |text: &str, expected: Result<Map, FormatError>| {
            let found = parse(text.as_bytes(), &manifest, &pieces());
            match (&found, &expected) {
                (Err(FormatError::Malformed(_)), Err(FormatError::Malformed(_))) => {}
                _ => assert_eq!(found, expected, "{text}"),
            }
        };
        let good = artifact(11, "8020", "");
        check(&whole(manifest, &good), Ok(map(&[0, 10], &[])));
        check(&whole(manifest, ""), Ok(map(&[], &[])));
        check(
            &whole(manifest, &artifact(11, "8000", "0020")),
            Ok(map(&[0], &[10])),
        );
        check(&whole(other, &good), Err(FormatError::OtherManifest(other)));
        for (chunks, have, coming) in [
            (10, "8000", ""),
            (11, "80", ""),
            (11, "800000", ""),
            (11, "8010", ""),
            (11, "F000", ""),
            (11, "g000", ""),
            (11, "8000", "00"),
            (11, "8000", "0001"),
            (11, "\u{e9}00", ""),
        ] {
            check(
                &whole(manifest, &artifact(chunks, have, coming)),
                bits.clone(),
            );
        }
        let unknown = artifact(11, "zz", "").replace(&a.to_string(), &other.to_string());
        check(&whole(manifest, &unknown), Ok(map(&[], &[])));
        let many = vec![unknown.as_str(); ARTIFACTS_MAX + 1].join(",");
        check(
            &whole(manifest, &many),
            Err(FormatError::TooMany(ARTIFACTS_MAX)),
        );
        let malformed = Err(FormatError::Malformed(String::new()));
        for text in [
            "",
            "{}",
            "[]",
            "{\"manifest\":1}",
            &good,
            &"[".repeat(5_000),
        ] {
            check(text, malformed.clone());
        }
        let long = " ".repeat(HAVE_SIZE_MAX + 1);
        let (found, limit) = (long.len(), HAVE_SIZE_MAX);
        check(&long, Err(FormatError::TooLong { found, limit }));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(have: Vec<u8>, coming: Vec<u8>) {
            let set = |list: &[u8]| PieceSet::of(76, list.iter().map(|&piece| usize::from(piece)));
            let map = Map { have: set(&have), coming: set(&coming) };
            let manifest = Digest::of(b"m");
            let text = write(&manifest, &pieces(), &map);
            prop_assert_eq!(parse(text.as_bytes(), &manifest, &pieces()), Ok(map));
        }
    }
}
