//! A reader of results that has seen enough, as in `plasmd ... | head -1`.

use std::process::{Command, Stdio};

use crate::desk::{Desk, Ended, fresh_image};
use crate::provider::PLASMD;

/// Runs `plasmd` with a standard output that nobody reads any more.
fn unread(desk: &Desk, arguments: &[&str]) -> Ended {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(PLASMD)
        .args(arguments)
        .current_dir(desk.path(""))
        .env_remove("RUST_LOG")
        .stdout(Stdio::from(writer))
        .output();
    Ended::of(&output.expect("it starts"))
}

#[test]
fn a_reader_that_is_gone_ends_no_command() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    std::fs::write(desk.path("manifest.json"), &image.manifest).unwrap();
    for arguments in [
        &["version"][..],
        &["key", "show", "key.pub"],
        &["manifest", "show", "manifest.json"],
        &["manifest", "verify", "manifest.json", "-k", "key.pub"],
        &["verify", "manifest.json", "-k", "key.pub"],
    ] {
        let ended = unread(&desk, arguments);
        assert_eq!(
            (ended.code, ended.err.as_str()),
            (Some(0), ""),
            "{arguments:?}: {ended:?}"
        );
    }
    // A manifest that went nowhere is no success.
    let ended = unread(&desk, &["key", "generate", "--out", "second.key"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let sign = [
        "manifest",
        "sign",
        "--key",
        "second.key",
        "--out",
        "-",
        "manifest.json",
    ];
    let ended = unread(&desk, &sign);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(
        ended.err.contains("cannot be written to stdout"),
        "{ended:?}"
    );
}
