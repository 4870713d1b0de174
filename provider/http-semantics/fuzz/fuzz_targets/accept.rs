//! Any values of `Accept` and of the fields about digests: no panic, and a type that is not acceptable is not preferred.

#![no_main]

use http::{HeaderMap, HeaderValue};
use http_semantics::{accept, digests};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|values: Vec<&[u8]>| {
    let mut headers = HeaderMap::new();
    for value in values {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append("accept", value.clone());
            headers.append("want-repr-digest", value);
        }
    }
    let names_json = |value: &HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.windows(11).any(|part| part == b"application")
            || value.windows(3).any(|part| part == b"*/*")
    };
    if accept::prefers_json(&headers) {
        assert!(headers.get_all("accept").iter().any(names_json));
    }
    let wish = digests::wish(&headers, &http::HeaderName::from_static("want-repr-digest"));
    assert!(wish.is_none_or(|wish| wish <= 10));
});
