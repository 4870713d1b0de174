//! Any bytes as a map: no panic, no piece that there is not, and what was read is written and read again the same.

#![no_main]

use boot_manifest::Digest;
use libfuzzer_sys::fuzz_target;
use swarm::{Pieces, have};

fuzz_target!(|text: &[u8]| {
    // Digests that an honest hash never has, so that a fuzzer can write them.
    let manifest = Digest::from_bytes([0; 32]);
    let file = |byte, size| (Digest::from_bytes([byte; 32]), size);
    let pieces = Pieces::new([file(0, 11 << 20), file(0x11, 1), file(0x22, 70 << 20)]);
    let Ok(map) = have::parse(text, &manifest, &pieces) else {
        return;
    };
    for set in [&map.have, &map.coming] {
        assert_eq!(set.length(), pieces.count());
        assert!(set.iter().all(|piece| pieces.size(piece) > 0));
    }
    let written = have::write(&manifest, &pieces, &map);
    assert_eq!(have::parse(written.as_bytes(), &manifest, &pieces), Ok(map));
});
