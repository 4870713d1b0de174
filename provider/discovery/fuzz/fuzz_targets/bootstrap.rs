//! Any text as a peer to begin with: what is understood is written in one form, which means the same.

#![no_main]

use discovery::dht::Bootstrap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(peer) = text.parse::<Bootstrap>() {
        let written = peer.to_string();
        assert_eq!(written.parse::<Bootstrap>().expect("its own form"), peer);
    }
});
