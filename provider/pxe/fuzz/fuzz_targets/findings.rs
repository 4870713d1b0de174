//! Any bytes as the packets of a LAN: what is said about them is said at every moment, and memory stays bounded.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pxe::findings::Watch;
use pxe::frame::{Link, packet};
use pxe::transcript::Recorder;

// The bytes are IP packets, each behind its size (two bytes) and its distance in time (40 ms).
fuzz_target!(|bytes: &[u8]| {
    let (mut watch, mut recorder) = (Watch::default(), Recorder::default());
    let (mut rest, mut now) = (bytes, Duration::ZERO);
    while let [high, low, wait, tail @ ..] = rest {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        let (frame, tail) = tail.split_at_checked(size).unwrap_or((tail, &[]));
        now += Duration::from_millis(u64::from(*wait) * 40);
        if let Some(packet) = packet(Link::Ip, frame, now) {
            watch.see(&packet);
            let _kept = recorder.keep(&packet);
        }
        rest = tail;
    }
    for story in watch.stories() {
        let _summary = story.summary();
        for over in [false, true] {
            let _findings = watch.findings(story, now, over);
        }
    }
});
