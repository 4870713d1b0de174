//! Any text as a transcript. What is read is written, and read back as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pxe::transcript::Transcript;

fuzz_target!(|text: &str| {
    if let Ok(read) = Transcript::parse(text) {
        let again = Transcript::parse(&read.to_string()).expect("what was written");
        assert_eq!(again.packets, read.packets);
    }
});
