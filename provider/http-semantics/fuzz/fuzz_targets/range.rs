//! Any text as the value of `Range`, for a content whose size is in the first bytes: what is chosen exists, is not more
//! than was asked for together with small gaps, and can be framed.

#![no_main]

use boot_manifest::Digest;
use http_semantics::labels::{Facts, Labels};
use http_semantics::limits::RANGES_MAX;
use http_semantics::multipart;
use http_semantics::range::{Selection, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &str)| {
    let (size, text) = input;
    match parse(text, size) {
        Selection::Whole | Selection::Unsatisfiable => {}
        Selection::Part { start, end } => assert!(start < end && end <= size),
        Selection::Parts(parts) => {
            assert!((2..=RANGES_MAX).contains(&parts.len()));
            for (at, part) in parts.iter().enumerate() {
                assert!(part.start < part.end && part.end <= size);
                for other in &parts[..at] {
                    assert!(part.end < other.start || other.end < part.start);
                }
            }
            let labels = Labels::new(Facts {
                digest: Digest::of(b""),
                size,
                modified: std::time::UNIX_EPOCH,
                media_type: "application/octet-stream",
                is_artifact: false,
            });
            let framed = multipart::frame(&parts, &labels);
            let sent: u64 = framed
                .parts
                .iter()
                .map(|(lines, range)| lines.len() as u64 + (range.end - range.start))
                .sum();
            assert_eq!(sent + framed.end.len() as u64, framed.length);
        }
    }
});
