//! Any text as a path: names never lead out of the folder they are looked up in, and repeated slashes mean nothing.

#![no_main]

use http_semantics::path::names;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let Ok(read) = names(path, 3) else {
        return;
    };
    assert!(read.names.len() <= 3);
    for name in &read.names {
        assert!(!name.is_empty() && name != "." && name != "..");
        assert!(!name.contains(['/', '\\']) && !name.chars().any(char::is_control));
    }
    let slashes = path.replace('/', "//");
    assert_eq!(names(&slashes, 3), Ok(read));
});
