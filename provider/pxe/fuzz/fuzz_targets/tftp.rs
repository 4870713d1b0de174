//! Any bytes as a request, and then as a client's packets and silences. A transfer never sends more than one window at once,
//! never a block that the file does not have, and nothing after its end; a name never leads upwards.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pxe::tftp::{Request, Session, Step, Terms, clean_name};

/// Where the request ends and the client's packets begin.
const FENCE: u8 = 0xfe;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|byte| *byte == FENCE);
    let head = parts.next().unwrap_or_default();
    let request = match Request::parse(head) {
        Ok(request) => request,
        Err(bad) => {
            let answer = bad.answer();
            assert!(answer.is_none_or(|answer| answer.len() < 200));
            return;
        }
    };
    if let Some(name) = clean_name(&request.name) {
        assert!(!name.starts_with('/') && !name.contains('\\') && !name.is_empty());
        assert!(name.split('/').all(|part| !part.is_empty() && part != ".."));
        assert_eq!(clean_name(name.as_bytes()).as_deref(), Some(name.as_str()));
    }
    let seed = head
        .iter()
        .fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    let size = seed % 200_000;
    let room = if seed % 2 == 0 { 1468 } else { u16::MAX };
    let terms = Terms::agree(&request.options, size, room);
    let mut now = Duration::ZERO;
    let (mut session, mut step) = Session::start(terms, size, now);
    let mut is_over = false;
    for packet in parts {
        match &step {
            Step::Wait => {}
            Step::Oack => assert!(session.oack().starts_with(&[0, 6])),
            Step::Data(blocks) => {
                assert!(!is_over);
                assert!(blocks.first > 0 && blocks.count > 0);
                assert!(blocks.count <= session.terms().window);
                let (offset, length) = session.place(*blocks);
                assert!(offset + length as u64 <= size);
                let most = usize::from(blocks.count) * usize::from(session.terms().block_size);
                assert!(length <= most);
                if !session.is_end(*blocks) {
                    assert_eq!(length, most);
                }
            }
            Step::End(_) => is_over = true,
        }
        assert!(session.acknowledged_bytes() <= size);
        step = if packet.is_empty() {
            now = now.max(session.deadline());
            session.expired(now)
        } else {
            now += Duration::from_micros(100);
            session.received(packet, now)
        };
    }
});
