//! Any text as the query of `/boot.ipxe` or `/boot/report`: bounded, without control characters, and what was read can be
//! written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[expect(
    dead_code,
    reason = "a module of the program, of which this target uses a part"
)]
#[path = "../../src/machines/limits.rs"]
mod limits;
#[path = "../../src/machines/query.rs"]
mod query;

/// Where the program has them.
mod machines {
    pub(crate) use super::limits;
}

use limits::QUERY_MAX;
use query::{Query, encoded};

const NAMES: [&str; 4] = ["mac", "stage", "text", "a"];

fuzz_target!(|text: &str| {
    let Ok(query) = Query::parse(text) else {
        return;
    };
    assert!(text.len() <= QUERY_MAX);
    for name in NAMES {
        let Some(value) = query.get(name) else {
            continue;
        };
        assert!(!value.is_empty() && !value.chars().any(char::is_control));
        let again = format!("{name}={}", encoded(value));
        if again.len() <= QUERY_MAX {
            let again = Query::parse(&again).expect("what is written can be read");
            assert_eq!(again.get(name), Some(value));
        }
    }
});
