//! Any bytes as a captured frame of every link layer. What is found in it is written as text and read back as the same.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pxe::frame::{Link, packet};
use pxe::transcript::Transcript;

fuzz_target!(|bytes: &[u8]| {
    for link in [Link::Ethernet, Link::Cooked, Link::Cooked2, Link::Ip] {
        if let Some(packet) = packet(link, bytes, Duration::from_millis(5)) {
            let written = Transcript {
                about: Vec::new(),
                packets: vec![packet],
            };
            let read = Transcript::parse(&written.to_string()).expect("what was written");
            assert_eq!(read, written);
        }
    }
});
