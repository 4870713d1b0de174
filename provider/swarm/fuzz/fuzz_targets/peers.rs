//! Any bytes as a list of peers, and any text as the question for one: no panic, nobody at an address that cannot be asked,
//! and what was read is written and read again the same.

#![no_main]

use boot_manifest::Digest;
use libfuzzer_sys::fuzz_target;
use swarm::peers::{Answer, Question};
use swarm::{PEERS_MAX, Table, are_near};

fuzz_target!(|text: &[u8]| {
    let manifest = Digest::from_bytes([0; 32]);
    if let Ok(question) = std::str::from_utf8(text).map(Question::parse)
        && let Ok(question) = question
    {
        assert_eq!(Question::parse(&question.to_string()), Ok(question));
    }
    let Ok(answer) = Answer::parse(text, &manifest) else {
        return;
    };
    assert!(answer.peers.len() <= PEERS_MAX);
    let mut table = Table::new(1);
    for peer in &answer.peers {
        let ip = peer.address.ip();
        assert!(peer.address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast());
        let _full = table.register(&manifest, peer.address, peer.complete, answer.refresh);
    }
    if let Some(asker) = answer.peers.first() {
        let (asker, now) = (asker.address.ip(), answer.refresh);
        let sample = table.sample(&manifest, asker, None, now);
        let near = |peer: &&swarm::peers::Peer| are_near(peer.address.ip(), asker);
        assert!(sample.peers.iter().filter(near).count() >= 1);
        assert_eq!(
            Answer::parse(sample.to_json().as_bytes(), &manifest),
            Ok(sample)
        );
    }
    assert_eq!(
        Answer::parse(answer.to_json().as_bytes(), &manifest),
        Ok(answer)
    );
});
