//! Any text as the path of a request: a route, and an artifact's path only of names that stay in their folder.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/http/target.rs"]
mod target;

use target::{Target, parse};

fuzz_target!(|path: &str| {
    match parse(path) {
        Target::Artifact(artifact) => {
            for name in [
                artifact.channel.as_str(),
                artifact.spelling.as_str(),
                artifact.name.as_str(),
            ] {
                assert!(!name.is_empty() && !name.starts_with('.') && name.is_ascii());
                assert!(!name.contains(['/', '\\', '\0']));
            }
            assert_eq!(artifact.spelling.parse(), Ok(artifact.arch));
        }
        Target::Refused(reason) => assert!(!reason.is_empty()),
        Target::Manifest(..) => assert!(path.len() >= "/a/arm64/manifest.json".len()),
        _ => {}
    }
});
