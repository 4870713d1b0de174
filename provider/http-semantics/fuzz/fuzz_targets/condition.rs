//! Any values of the five conditional fields: a verdict, and never one that contradicts another.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use http_semantics::condition::{Validators, Verdict, evaluate};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
];

fuzz_target!(|fields: Vec<(u8, &[u8])>| {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(NAMES[usize::from(name) % NAMES.len()], value);
        }
    }
    let has = Validators {
        etag: "\"0123\"",
        modified: UNIX_EPOCH + Duration::from_secs(784_111_777),
    };
    let verdict = evaluate(&headers, has);
    let is_there = |name: &str| headers.contains_key(name);
    match verdict {
        Verdict::Failed => assert!(is_there("if-match") || is_there("if-unmodified-since")),
        Verdict::NotModified => assert!(is_there("if-none-match") || is_there("if-modified-since")),
        Verdict::ProceedWhole => assert!(is_there("if-range")),
        Verdict::Proceed => {
            let range = headers.get("if-range");
            assert!(
                range.is_none_or(|tag| tag == has.etag),
                "parts of two contents would be joined"
            );
        }
    }
});
